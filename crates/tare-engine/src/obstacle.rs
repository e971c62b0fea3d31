//! What somebody waits for in vain: the end of a container that was killed, or that whoever is in charge of it is done.
//!
//! A container's PID 1 ends last, after all others in its pid namespace were waited for (pid_namespaces(7)): by whoever is their
//! parent, and that may be outside, where nothing of ours can help.

use std::fs;
use std::path::PathBuf;

use tare_sys::{Error, Kind};

use crate::container::Folders;
use crate::monitor::sender;

/// A process that is still there.
struct Process {
    pid: i32,
    name: String,
    /// `Z`, `D` …: proc_pid_stat(5).
    state: char,
    parent: i32,
}

impl Process {
    fn of(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything, brackets too.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        Some(Process { pid, name: printable(name), state, parent })
    }
}

/// Anybody chooses the name of his process: it is not to write on a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn pids() -> impl Iterator<Item = i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What keeps the container `name`, whose PID 1 is `first`, from ending.
pub fn to_death(name: &str, first: i32) -> Error {
    let own = namespace(first).filter(|own| namespace(std::process::id() as i32).as_ref() != Some(own));
    let left: Vec<Process> = pids()
        .filter(|pid| *pid == first || own.is_some() && namespace(*pid) == own)
        .filter_map(Process::of)
        .collect();
    let what = format!("the container {name} was killed and has not ended");
    let orphan = left.iter().find(|process| process.state == 'Z' && process.pid != first);
    let parent = orphan.and_then(|orphan| Some((orphan, Process::of(orphan.parent)?)));
    if let Some((Process { pid, name, .. }, parent)) = parent {
        let why =
            format!("its process {pid} ({name}) has ended, but the parent of that does not wait for it");
        let err =
            Error::new(Kind::Kernel, format!("{what}: {why}: process {} ({})", parent.pid, parent.name));
        return err.hint(match parent.pid {
            1 => "process 1 of this machine has to reap orphans (a development container does with `docker run --init`)".to_owned(),
            other => format!("the container ends once process {other} waits, or has ended itself"),
        });
    }
    match left.iter().find(|process| process.state == 'D') {
        Some(Process { pid, name, .. }) => {
            Error::new(Kind::Kernel, format!("{what}: its process {pid} ({name}) waits in the kernel"))
                .hint("a dead disk or network file system holds it up; it ends when that answers")
        }
        None => Error::new(Kind::Kernel, format!("{what}: its processes take long to die")).hint(format!(
            "much memory or a slow disk takes its time; look again with `tare ps`, `tare top {name}`"
        )),
    }
}

/// Who is in charge of a container and does not finish: its monitor, or a command that works on it ([`Kind::Conflict`]).
pub fn in_charge(folders: &Folders) -> Error {
    // Whoever holds the lock has the folder open.
    let has_it = |pid: &i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| path == folders.run)
    };
    let own = std::process::id() as i32;
    let holders: Vec<Process> =
        pids().filter(|pid| *pid != own && has_it(pid)).filter_map(Process::of).collect();
    let name = folders.record().map_or_else(|_| folders.id.clone(), |record| record.name);
    match holders.first() {
        Some(Process { pid, .. }) if holders.iter().all(|holder| holder.name != "tare-monitor") => {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = sender::command(&words);
            Error::new(
                Kind::Conflict,
                format!("wait for {name}: `{command}` (process {pid}) is still at work on it"),
            )
            .hint(format!("try again when that has ended, or end it: kill {pid}"))
        }
        _ => Error::new(Kind::Kernel, format!("wait for the monitor of {name}: it does not finish"))
            .hint("a process in an uninterruptible wait (a dead disk or network file system) holds it up"),
    }
}
