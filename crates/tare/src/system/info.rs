//! `tare info` and `tare version`.

use serde_json::{Value, json};
use tare_engine::Engine;
use tare_sys::Result;

use crate::print::template::Template;
use crate::print::terminal::{harmless, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

static FLAGS: [Flag; 1] =
    [Flag::one("format", "string", "json", "Print as 'json' or by a template ('{{.Version}}')").short('f')];

pub static INFO: Verb = Verb {
    about: "Show what tare has, and what this machine offers it",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &FLAGS,
    act: info,
    failed: 1,
};

pub static VERSION: Verb = Verb {
    about: "Show the version of tare",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &FLAGS,
    act: version,
    failed: 1,
};

fn info(engine: &Engine, given: &Given) -> Result<u8> {
    let value = engine.info()?;
    print(given, &value, || lines(&value, 0))
}

fn version(_: &Engine, given: &Given) -> Result<u8> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let (version, os, arch) =
        (env!("CARGO_PKG_VERSION"), std::env::consts::OS, docker_arch(std::env::consts::ARCH));
    let side = json!({ "Version": version, "Os": os, "Arch": arch, "KernelVersion": release });
    // There is no daemon: who asks for Docker's client or server means this program.
    let mut value = side.clone();
    value["Client"] = side.clone();
    value["Server"] = side;
    let text =
        format!("Version:         {version}\nOS/Arch:         {os}/{arch}\nKernel Version:  {release}\n");
    print(given, &value, || text)
}

/// The machine as Docker, and Go, call it.
fn docker_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        arch => arch,
    }
}

fn print(given: &Given, value: &Value, usual: impl FnOnce() -> String) -> Result<u8> {
    let text = match given.text("format") {
        None | Some("") => usual(),
        Some("json") => format!("{value}\n"),
        Some(text) => {
            let template = given.value("format", Template::parse)?;
            let filled = template.map_or(Ok(String::new()), |template| template.fill(value));
            format!("{}\n", filled.map_err(|why| given.wrong("format", text, &why))?)
        }
    };
    say(&text)?;
    Ok(0)
}

/// `Kernel Version: 6.1`, with what lies deeper indented; what is empty is left out.
fn lines(value: &Value, depth: usize) -> String {
    let indent = " ".repeat(depth);
    let mut text = String::new();
    let mut line = |name: &str, value: &Value| match value {
        Value::Null => {}
        Value::String(value) if value.is_empty() => {}
        Value::Array(values) if values.iter().all(|value| !value.is_array() && !value.is_object()) => {
            if !values.is_empty() {
                let values: Vec<_> = values.iter().map(scalar).collect();
                text += &format!("{indent}{name}: {}\n", values.join(" "));
            }
        }
        Value::Array(_) | Value::Object(_) => {
            text += &format!("{indent}{name}:\n{}", lines(value, depth + 1))
        }
        value => text += &format!("{indent}{name}: {}\n", scalar(value)),
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| line(&spaced(key), value)),
        Value::Array(values) => {
            values.iter().zip(1..).for_each(|(value, number)| line(&format!("{number}"), value))
        }
        value => line("Value", value),
    }
    text
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text),
        value => value.to_string(),
    }
}

/// `CgroupVersion` as `Cgroup Version`, `NCPU` as it is.
fn spaced(key: &str) -> String {
    let mut text = String::new();
    let mut before = None;
    for c in key.chars() {
        if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
            text.push(' ');
        }
        text.push(c);
        before = Some(c);
    }
    harmless(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_lines() {
        let value = json!({
            "CgroupVersion": "2", "NCPU": 2, "Warnings": null, "Empty": [], "Name": "",
            "SecurityOptions": ["seccomp", "userns"], "Store": {"FreeBytes": 5, "Drivers": [{"Name": "overlay"}]},
        });
        let expected = "Cgroup Version: 2\nNCPU: 2\nSecurity Options: seccomp userns\nStore:\n Drivers:\n  1:\n   \
                        Name: overlay\n Free Bytes: 5\n";
        assert_eq!(lines(&value, 0), expected);
    }
}
