//! Why a program that is there cannot be executed: what its first bytes say.
//!
//! Asked in the container's own root and as the container's own user, after the kernel has refused. What it reads
//! comes from the image and is believed nothing: it is only told.

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

/// Bytes looked at; the kernel looks at 256 for an interpreter (BINPRM_BUF_SIZE).
const HEAD: usize = 4096;

/// What is wrong with the program, and what to do about it; `None` where its first bytes do not say.
pub fn explain(path: &CStr) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut head = vec![0; HEAD];
    let mut length = 0;
    while length < HEAD {
        match rustix::io::read(&file, &mut head[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(_) => return None,
        }
    }
    head.truncate(length);
    let name = printable(path.to_bytes());
    describe(&head, &name, &|path| Path::new(path).exists())
}

/// `exists`: whether there is such a file in the container.
fn describe(head: &[u8], name: &str, exists: &dyn Fn(&str) -> bool) -> Option<String> {
    if head.is_empty() {
        return Some(format!("{name} is empty"));
    }
    if let Some(elf) = head.strip_prefix(b"\x7fELF") {
        return of_elf(elf, head, name, exists);
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        return of_script(line, name, exists);
    }
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return Some(format!(
            "{name} begins with a byte order mark, so its #! line is not seen: save it without one"
        ));
    }
    if head.starts_with(b"MZ") {
        return Some(format!("{name} is a program for Windows"));
    }
    if [&b"\xcf\xfa\xed\xfe"[..], b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xcf"]
        .iter()
        .any(|magic| head.starts_with(magic))
    {
        return Some(format!("{name} is a program for macOS, or a Java class"));
    }
    if head.iter().take(512).all(|byte| *byte >= 0x20 || b"\n\r\t".contains(byte)) {
        let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return Some(match first.ends_with(b"\r") {
            true => format!(
                "{name} is a text with Windows line ends and without a first line like #!/bin/sh: `sed -i 's/\\r$//'` mends the ends"
            ),
            false => format!(
                "{name} is a text without a first line like #!/bin/sh: write one, or run it by a shell"
            ),
        });
    }
    None
}

fn of_script(line: &[u8], name: &str, exists: &dyn Fn(&str) -> bool) -> Option<String> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let ends_in_cr = line.ends_with(b"\r");
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let interpreter = words.next().unwrap_or_default();
    let shown = printable(interpreter.as_bytes());
    if ends_in_cr {
        return Some(format!(
            "the first line of {name} ends in a carriage return (CRLF, Windows line ends), so its interpreter is \
             looked for as \"{shown}\\r\": save it with Unix line ends, as `sed -i 's/\\r$//' {name}` does"
        ));
    }
    match interpreter {
        "" => Some(format!("the first line of {name} is #! without an interpreter")),
        path if !path.starts_with('/') => {
            Some(format!("the first line of {name} names {shown}, which is no absolute path"))
        }
        path if !exists(path) => Some(format!(
            "{name} is a script for {shown}, which is not in the image: install it there, or change the first line"
        )),
        _ => Some(format!("{name} is a script for {shown}, which is there, but cannot be executed itself")),
    }
}

fn of_elf(elf: &[u8], head: &[u8], name: &str, exists: &dyn Fn(&str) -> bool) -> Option<String> {
    let little = *elf.get(1)? == 1;
    let wide = *elf.first()? == 2;
    let number = |at: usize, length: usize| {
        let bytes = head.get(at..at.checked_add(length)?)?;
        let digit = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if little { bytes.iter().rev().fold(0, digit) } else { bytes.iter().fold(0, digit) })
    };
    // e_machine (elf(5)).
    let machine = machine(number(18, 2)?, little);
    let own = own_machine();
    if !own.contains(&machine) && machine != "unknown" {
        let (first, image) = (own[0], if machine == "386" { "i386" } else { machine });
        return Some(format!(
            "{name} is a program for {image}, and this machine is {first}: use an image for linux/{first} (--platform), or install qemu-user-static with binfmt"
        ));
    }
    // Program headers: e_phoff, e_phentsize, e_phnum; PT_INTERP is 3.
    let (table, size, count) = match wide {
        true => (number(32, 8)?, number(54, 2)?, number(56, 2)?),
        false => (number(28, 4)?, number(42, 2)?, number(44, 2)?),
    };
    for index in 0..count.min(64) {
        let at = usize::try_from(table.checked_add(index * size)?).ok()?;
        if number(at, 4)? != 3 {
            continue;
        }
        let (offset, length) = match wide {
            true => (number(at.checked_add(8)?, 8)?, number(at.checked_add(32)?, 8)?),
            false => (number(at.checked_add(4)?, 4)?, number(at.checked_add(16)?, 4)?),
        };
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        let loader = head.get(offset..offset.checked_add(length)?)?;
        let loader = String::from_utf8_lossy(loader.strip_suffix(b"\0").unwrap_or(loader)).into_owned();
        if exists(&loader) {
            return None;
        }
        let shown = printable(loader.as_bytes());
        let why = match loader.as_str() {
            loader if loader.contains("musl") => "it was built for musl (Alpine), and the image is not",
            loader if loader.contains("ld-linux") => {
                "it was built for glibc, and the image has none (Alpine has musl): build it statically, or take another image"
            }
            _ => "install it in the image",
        };
        return Some(format!("{name} needs the loader {shown}, which is not in the image: {why}"));
    }
    None
}

/// In the words of image platforms.
fn machine(number: u64, little: bool) -> &'static str {
    match number {
        3 => "386",
        8 if little => "mipsle",
        8 => "mips",
        20 => "ppc",
        21 if little => "ppc64le",
        21 => "ppc64",
        22 => "s390x",
        40 => "arm",
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        258 => "loong64",
        _ => "unknown",
    }
}

/// What this machine executes, the best first.
fn own_machine() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["amd64", "386"],
        "aarch64" => &["arm64", "arm"],
        "riscv64" => &["riscv64"],
        "s390x" => &["s390x"],
        "powerpc64" => &["ppc64le", "ppc64"],
        "x86" => &["386"],
        "arm" => &["arm"],
        _ => &["unknown"],
    }
}

/// Comes from the image, and goes to a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(head: &[u8]) -> String {
        describe(head, "/x", &|path| path == "/bin/sh").unwrap_or_default()
    }

    #[test]
    fn scripts() {
        for (head, part) in [
            (&b"#!/bin/bash\necho"[..], "script for /bin/bash, which is not in the image"),
            (b"#!/bin/sh\r\necho\r\n", "carriage return"),
            (b"#! /usr/bin/env python3\n", "/usr/bin/env, which is not"),
            (b"#!python3\n", "no absolute path"),
            (b"#!\n", "without an interpreter"),
            (b"#!/bin/sh\n", "cannot be executed itself"),
            (b"echo hello\n", "text without a first line"),
            (b"echo hello\r\n", "Windows line ends"),
            (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
            (b"MZ\x90\0", "Windows"),
            (b"", "is empty"),
            (b"#!/bin/\x1b[2J\n", "/bin/?[2J"),
        ] {
            assert!(said(head).contains(part), "{part}: {}", said(head));
        }
        assert_eq!(said(b"\0\x01\x02"), "");
    }

    fn elf(machine: u16, loader: &str) -> Vec<u8> {
        let mut head = vec![0; 120];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32..40].copy_from_slice(&64_u64.to_le_bytes());
        head[54..56].copy_from_slice(&56_u16.to_le_bytes());
        head[56..58].copy_from_slice(&1_u16.to_le_bytes());
        head[64..68].copy_from_slice(&3_u32.to_le_bytes());
        head[72..80].copy_from_slice(&120_u64.to_le_bytes());
        head[96..104].copy_from_slice(&(loader.len() as u64).to_le_bytes());
        head.extend_from_slice(loader.as_bytes());
        head
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn programs() {
        assert!(said(&elf(183, "")).contains("for arm64, and this machine is amd64"));
        assert!(said(&elf(62, "/lib/ld-musl-x86_64.so.1\0")).contains("built for musl"));
        assert!(said(&elf(62, "/lib64/ld-linux-x86-64.so.2\0")).contains("built for glibc"));
        assert_eq!(said(&elf(62, "/bin/sh\0")), "");
    }

    #[test]
    fn a_damaged_program_is_no_panic() {
        let whole = elf(62, "/lib/x\0");
        (0..whole.len()).for_each(|length| drop(said(&whole[..length])));
        for at in 4..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut head = whole.clone();
                head[at] = value;
                said(&head);
            }
        }
        let mut head = whole;
        head[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        said(&head);
    }
}
