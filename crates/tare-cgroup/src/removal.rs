//! Taking cgroups away, and finding those that were left.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use tare_sys::{Error, Result};

use crate::cgroup::Cgroup;
use crate::hierarchy::Hierarchies;
use crate::members::{Patience, folders, numbers, subtree};

impl Cgroup {
    /// Removes the cgroup, and those that the container made below it, from every tree. What does not exist
    /// is no error; parents stay.
    ///
    /// A process is counted for a moment after it has died, so a busy cgroup is tried again for 2 s.
    ///
    /// Errors: [`Kind::Conflict`](tare_sys::Kind::Conflict) with the numbers of the processes that live in it.
    pub fn remove(&self) -> Result<()> {
        let relative = self.relative()?;
        // All trees, not only those this handle knows: another command may have frozen or updated it.
        let mut left = self.on.dirs(relative);
        let mut patience = Patience::new();
        loop {
            let mut failed = None;
            let mut busy = Vec::new();
            for dir in left {
                match remove_tree(&self.on, &dir) {
                    Ok(()) => {}
                    Err(err) if err.errno() == Some(Errno::BUSY) => {
                        failed = Some(err);
                        busy.push(dir);
                    }
                    Err(err) => return Err(err.context(format!("remove cgroup /{relative}"))),
                }
            }
            let Some(err) = failed else {
                return Ok(());
            };
            left = busy;
            if !patience.wait() {
                let what = match self.processes()?.as_slice() {
                    [] => format!("remove cgroup /{relative}"),
                    pids => format!("remove cgroup /{relative}: {} live in it", numbers(pids)),
                };
                return Err(err.context(what).hint("kill the container first, then try again"));
            }
        }
    }
}

/// Removes `dir` and what is below it. One syscall where nothing is below it, or where there is no `dir`.
fn remove_tree(on: &Hierarchies, dir: &str) -> Result<()> {
    match remove_one(on, dir) {
        Err(Errno::BUSY) => {}
        result => return result.map_err(|errno| refused(on, dir, errno)),
    }
    // Children first. Those that are busy keep the parents busy, and the caller tries again.
    for below in subtree(on, dir)?.iter().rev() {
        remove_one(on, below).map_err(|errno| refused(on, below, errno))?;
    }
    Ok(())
}

fn remove_one(on: &Hierarchies, dir: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(on.root(), dir, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(Errno::NOTEMPTY) => Err(Errno::BUSY),
        Err(errno) => Err(errno),
    }
}

fn refused(on: &Hierarchies, dir: &str, errno: Errno) -> Error {
    Error::syscall(format!("rmdir({:?})", on.shown(dir)), errno)
}

/// The names of the cgroups directly below `parent`, of all trees together, in order: what a recovery sweep
/// compares with its list of containers. No `parent`, no names.
///
/// Errors: those of reading a directory.
pub fn children(on: &Hierarchies, parent: &Path) -> Result<Vec<String>> {
    let parent = Cgroup::open(on, parent);
    let mut names = BTreeSet::new();
    for dir in on.dirs(parent.relative()?) {
        names.extend(folders(on, &dir)?);
    }
    Ok(names.into_iter().collect())
}
