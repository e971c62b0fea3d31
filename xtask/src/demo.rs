//! `cargo xtask demo`: the README's first command. From a fresh checkout to a running container.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::workspace::{Workspace, is_root, shell_line};

/// Runs inside the container, so it may only use what any Linux machine has, with a way round the rest:
/// `ps` and `ip` are often missing, and the memory limit is in a different file on cgroup v1 and v2.
const SCRIPT: &str = r#"
echo "== my own hostname"; cat /proc/sys/kernel/hostname
echo "== my processes: I am PID $$"
if command -v ps >/dev/null; then ps -e -o pid,user,args; else
  for p in /proc/[0-9]*; do [ -r "$p/cmdline" ] && echo "${p#/proc/} $(tr "\0" " " <"$p/cmdline")"; done; fi
echo "== my own network"
if command -v ip >/dev/null; then ip -brief address; else cut -d: -f1 /proc/net/dev | tail -n +3; fi
echo "== my memory limit, in bytes"
{ cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes; } 2>/dev/null || echo "not to be seen"
echo "== root here is, on the host (inside, outside, how many)"; cat /proc/self/uid_map
"#;

/// `cargo xtask demo`.
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    ensure!(words.is_empty(), "demo takes no options");
    let workspace = Workspace::find()?;
    let linking = build::announce_linking(&workspace)?;
    let built = build::build(&workspace, &linking, "release")?;

    // As short as a person would write it, from where they stand.
    let here = std::env::current_dir()?;
    let binary = match built.binary.strip_prefix(&here) {
        Ok(below) => Path::new(".").join(below),
        Err(_) => built.binary.clone(),
    };
    let flags = "run --rm --hostname first --memory 64m host";
    let mut command = Command::new(&binary);
    command.args(flags.split(' ')).args(["sh", "-c", SCRIPT.trim()]);
    println!("\n$ {}\n", shell_line(&command));
    if !is_root() {
        println!("This needs root. The binary is built; with sudo before it, the line above runs. Shorter:");
        println!("    sudo {} {flags} uname -n", binary.display());
        return Ok(ExitCode::FAILURE);
    }
    let status = command.status().with_context(|| format!("starting {}", binary.display()))?;
    ensure!(status.success(), "the first container failed ({status}); the lines above say why");
    println!("\nThat was a container. Next, for example:");
    println!("    {} run -it --rm host bash", binary.display());
    println!("    {} --help", binary.display());
    Ok(ExitCode::SUCCESS)
}
