//! The program in the containers: a static `true` that makes one system call, or busybox where there is no cc.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tare_tests::busybox;

use crate::workspace::program;

/// No libc, so that the program's own start does not blur what is measured.
const SOURCE: &str = r#"
void _start(void) {
#if defined(__x86_64__)
    __asm__ volatile("mov $60, %eax; xor %edi, %edi; syscall");
#elif defined(__aarch64__)
    __asm__ volatile("mov x8, #93; mov x0, #0; svc #0");
#else
#error "no system call for this machine"
#endif
}
"#;

/// Lays out the root folder `root` in `scratch`, with the program at `/true`; says what it is.
pub fn make(scratch: &Path) -> Result<String> {
    let root = scratch.join("root");
    fs::create_dir_all(&root)?;
    busybox::tree(&root)?;
    let (source, target) = (scratch.join("true.c"), root.join("true"));
    fs::write(&source, SOURCE)?;
    if let Some(cc) = program("cc") {
        let mut command = Command::new(cc);
        command.args(["-O1", "-static", "-nostdlib", "-o"]).arg(&target).arg(&source);
        if command.output().is_ok_and(|out| out.status.success()) {
            return Ok(format!("a static `true` without libc ({} bytes)", fs::metadata(&target)?.len()));
        }
    }
    std::os::unix::fs::symlink("bin/true", &target)?;
    Ok("`true` of a static busybox".to_owned())
}
