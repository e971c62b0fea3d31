//! libseccomp as Debian has it, asked through its Python bindings (`python3-seccomp`) in a process of its own: to
//! link it would want unsafe code, and a C compiler's headers on each machine.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tare_sys::seccomp::Filter;

use super::runc::Call;

/// Debian's own interpreter, whatever else is in the path: no other one has the package.
const PYTHON: &str = "/usr/bin/python3";

/// The library's word for an ABI.
pub fn word(abi: super::Abi) -> &'static str {
    match abi {
        super::Abi::X86_64 => "X86_64",
        super::Abi::I386 => "X86",
        super::Abi::X32 => "X32",
        super::Abi::Aarch64 => "AARCH64",
        super::Abi::Arm => "ARM",
    }
}

/// A filter to be compiled.
#[derive(Debug)]
pub struct Request<'a> {
    pub default: u32,
    pub arches: &'a [super::Abi],
    /// `SCMP_FLTATR_CTL_OPTIMIZE`: 1 is a list, 2 a binary tree.
    pub optimize: u32,
    pub calls: &'a [Call],
}

/// The process.
pub struct Library {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Library {
    pub fn start() -> Library {
        let mut child = Command::new(PYTHON)
            .args(["-c", include_str!("libseccomp.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 of Debian; `cargo xtask test` installs it with python3-seccomp");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it was asked for"));
        Library { child, input, output }
    }

    /// Nothing where the process has ended over it.
    fn ask(&mut self, request: &Value) -> Option<Value> {
        let input = self.input.as_mut().expect("it is open until the end");
        writeln!(input, "{request}").expect("python3-seccomp should be installed, and is not or has failed");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).ok()
    }

    /// All numbers under an ABI with the library's names for them.
    pub fn numbers(&mut self, abi: super::Abi) -> HashMap<u32, String> {
        let answer = self.ask(&json!({ "numbers": word(abi) })).expect("python3-seccomp should be installed");
        let numbers = answer.as_object().expect("a table").iter();
        numbers.map(|(number, name)| (number.parse().unwrap(), name.as_str().unwrap().to_owned())).collect()
    }

    /// The numbers that the library finds for names: negative where there is none under this ABI.
    pub fn resolve(&mut self, abi: super::Abi, names: &[&str]) -> HashMap<String, i64> {
        let answer = self.ask(&json!({ "arch": word(abi), "resolve": names })).expect("an answer");
        let numbers = answer.as_object().expect("a table").iter();
        numbers.map(|(name, number)| (name.clone(), number.as_i64().unwrap())).collect()
    }

    /// Compiles; says as well which calls the library has refused. Nothing where the library hangs.
    pub fn compile(&mut self, request: &Request<'_>) -> Option<(Vec<Filter>, Vec<usize>)> {
        let calls = request.calls.iter().map(|call| json!([call.name, call.action, call.conditions]));
        let answer = self.ask(&json!({
            "default": request.default,
            "arches": request.arches.iter().map(|abi| word(*abi)).collect::<Vec<_>>(),
            "optimize": request.optimize,
            "rules": calls.collect::<Vec<_>>(),
        }));
        let Some(answer) = answer else {
            *self = Library::start();
            return None;
        };
        let refused = answer["refused"].as_array().expect("a list").iter().map(|refused| {
            let index = refused[0].as_u64().and_then(|index| usize::try_from(index).ok());
            assert!(refused[1].to_string().contains("-17"), "EEXIST is all that may come: {refused}");
            index.unwrap()
        });
        Some((program(answer["program"].as_str().expect("a program")), refused.collect()))
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // The end of its input is the end of its work.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// `struct sock_filter`, one after the other, in hexadecimal.
fn program(hex: &str) -> Vec<Filter> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let (instructions, []) = bytes.as_chunks::<8>() else { panic!("not a program: {hex}") };
    let read = |[c0, c1, jt, jf, k @ ..]: &[u8; 8]| Filter {
        code: u16::from_le_bytes([*c0, *c1]),
        jt: *jt,
        jf: *jf,
        k: u32::from_le_bytes(*k),
    };
    instructions.iter().map(read).collect()
}
