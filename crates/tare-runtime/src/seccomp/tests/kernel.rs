//! By effect: the default profile on the real kernel, asked by tiny programs made here, of 64 and of 32 bits.
//!
//! The test starts itself again (`TARE_SECCOMP_INSIDE`), because a filter stays until its process ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::*;

const INSIDE: &str = "TARE_SECCOMP_INSIDE";

#[test]
fn default_profile_on_this_kernel() {
    let own_name = concat!(module_path!(), "::inside");
    let own_name = own_name.split_once("::").unwrap().1;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", own_name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed") && text.contains("checked inside"), "{text}");
}

/// Runs under the filter; nothing when it is run as a test of its own.
#[test]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let questions: &[(Abi, &str, [u64; 4], i32)] = &[
        (Abi::X86_64, "getpid", [0; 4], 0),
        (Abi::X86_64, "unshare", [0x1000_0000, 0, 0, 0], 1),
        (Abi::X86_64, "clone", [0x1000_0011, 0, 0, 0], 1),
        (Abi::X86_64, "clone3", [0; 4], 38),
        (Abi::X86_64, "io_uring_setup", [1, 0, 0, 0], 38),
        (Abi::X86_64, "keyctl", [0; 4], 38),
        (Abi::X86_64, "mount", [0; 4], 1),
        (Abi::X86_64, "bpf", [0; 4], 1),
        (Abi::X86_64, "socket", [1, 1, 0, 0], 0),
        (Abi::X86_64, "socket", [2, 1, 0, 0], 0),
        (Abi::X86_64, "socket", [38, 5, 0, 0], 97),
        (Abi::X86_64, "socket", [40, 1, 0, 0], 97),
        (Abi::X86_64, "socket", [1 << 32 | 38, 5, 0, 0], 97),
        (Abi::X86_64, "socket", [17, 3, 0, 0], 1),
        (Abi::X86_64, "setsockopt", [0, 6, 31, 0], 2),
        (Abi::X86_64, "personality", [0xffff_ffff, 0, 0, 0], 0),
        (Abi::X32, "getpid", [0; 4], 38),
        (Abi::I386, "getpid", [0; 4], 0),
        (Abi::I386, "unshare", [0x1000_0000, 0, 0, 0], 1),
        (Abi::I386, "io_uring_setup", [1, 0, 0, 0], 38),
        (Abi::I386, "socket", [38, 5, 0, 0], 97),
        (Abi::I386, "socket", [1, 1, 0, 0], 0),
    ];
    let programs: Vec<_> = questions
        .iter()
        .enumerate()
        .map(|(index, (abi, name, args, _))| {
            let path = folder.path().join(index.to_string());
            write_program(&path, *abi, number(*abi, name).unwrap(), *args);
            path
        })
        .collect();
    let runs_i386 = Command::new(&programs[17]).status().is_ok_and(|status| status.success());

    let compiled = compile(&default_profile(&capabilities(), &Options::default())).unwrap();
    rustix::thread::set_no_new_privs(true).unwrap();
    tare_sys::seccomp::load(&compiled.program, compiled.flags).unwrap();

    assert!(std::process::id() > 0);
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    assert!(Command::new("/bin/true").status().unwrap().success());
    for ((abi, name, args, errno), program) in questions.iter().zip(&programs) {
        if *abi == Abi::I386 && !runs_i386 {
            continue;
        }
        let status = Command::new(program).status().unwrap();
        assert_eq!(status.code(), Some(*errno), "{abi:?} {name} {args:x?}: {status}");
    }
    println!("checked inside, i386: {runs_i386}");
}

/// Writes a static program that makes one syscall and exits with its errno, or 0.
fn write_program(path: &Path, abi: Abi, number: u32, args: [u64; 4]) {
    let image = if abi == Abi::I386 { elf32(number, args) } else { elf64(number, args) };
    fs::write(path, image).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn elf64(number: u32, args: [u64; 4]) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    // mov rdi, rsi, rdx, r10
    for (prefix, arg) in [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba]].iter().zip(args) {
        code.extend(prefix);
        code.extend(arg.to_le_bytes());
    }
    code.extend([0x0f, 0x05]); // syscall
    // A child that clone made leaves at once as well; test rax, rax; jns +4; neg eax; jmp +2; xor eax, eax
    code.extend([0x48, 0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0xeb, 0x02, 0x31, 0xc0]);
    code.extend([0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // mov edi, eax; mov eax, 60; syscall

    const BASE: u64 = 0x40_0000;
    const HEAD: u64 = 64 + 56;
    let size = HEAD + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [BASE + HEAD, 64, 0].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [0, BASE, BASE, size, size, 0x1000].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend(code);
    elf
}

fn elf32(number: u32, args: [u64; 4]) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    // mov ebx, ecx, edx, esi
    for (opcode, arg) in [0xbb, 0xb9, 0xba, 0xbe].iter().zip(args) {
        code.push(*opcode);
        code.extend((arg as u32).to_le_bytes());
    }
    code.extend([0xcd, 0x80]); // int 0x80
    // test eax, eax; jns +4; neg eax; jmp +2; xor eax, eax
    code.extend([0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0xeb, 0x02, 0x31, 0xc0]);
    code.extend([0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]); // mov ebx, eax; mov eax, 1; int 0x80

    const BASE: u32 = 0x0804_8000;
    const HEAD: u32 = 52 + 32;
    let size = HEAD + code.len() as u32;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    [BASE + HEAD, 52, 0, 0].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    [1, 0, BASE, BASE, size, size, 5, 0x1000].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend(code);
    elf
}
