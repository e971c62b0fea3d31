//! The runtimes that take part.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::bench::contender::first_line;
use crate::workspace::{output, program};

/// One of them, with state of its own.
pub struct Runtime {
    /// As it is called.
    pub name: String,
    /// The first line of what it says about itself.
    pub version: String,
    binary: PathBuf,
    state: PathBuf,
    next: Cell<u32>,
}

impl Runtime {
    /// `RUNTIME --root STATE WORDS`.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.state).args(words);
        command
    }

    /// A name that no container had yet.
    pub fn id(&self) -> String {
        let number = self.next.replace(self.next.get() + 1);
        format!("tare-bench-{}-{}-{number}", std::process::id(), self.name)
    }
}

/// Ours first, if it is there, then crun and runc; and the names of those that are not.
pub fn all(scratch: &Path, binary: &Path) -> Result<(Vec<Runtime>, Vec<String>)> {
    let ours = binary.is_file().then(|| binary.to_owned());
    let ours_name = binary.file_name().map_or("tare-oci".into(), |name| name.to_string_lossy().into_owned());
    let mut found = vec![(ours_name, ours)];
    for peer in ["crun", "runc"] {
        if found[0].0 != peer {
            found.push((peer.to_owned(), program(peer)));
        }
    }
    let (mut runtimes, mut absent) = (Vec::new(), Vec::new());
    for (name, binary) in found {
        let Some(binary) = binary else {
            absent.push(name);
            continue;
        };
        let version = first_line(&output(Command::new(&binary).arg("--version"))?);
        let state = scratch.join(format!("{name}-state"));
        runtimes.push(Runtime { name, version, binary, state, next: Cell::new(0) });
    }
    Ok((runtimes, absent))
}
