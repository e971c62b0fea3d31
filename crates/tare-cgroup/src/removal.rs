//! Taking cgroups away, and finding those that were left.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use tare_sys::{Error, Kind, Result};

use crate::cgroup::{Cgroup, Keeper};
use crate::control;
use crate::hierarchy::{Hierarchies, Version};
use crate::members::{PATIENCE, Patience, numbers};
use crate::systemd::Systemd;
use crate::tree::{folders, walk};

impl Cgroup {
    /// Removes the cgroup, and those that the container made below it, from every tree. What does not exist
    /// is no error; parents stay. A systemd unit is stopped and forgotten first.
    ///
    /// A process is counted for a moment after it has died, so a busy cgroup is tried again for 2 s. Nothing is
    /// killed, but what was left frozen is thawed, for a frozen process that was killed dies only then.
    ///
    /// Errors: [`Kind::Conflict`] with the numbers of the processes that live in it.
    pub fn remove(&self) -> Result<()> {
        let unit = match &self.keeper {
            Keeper::Disabled => return Ok(()),
            Keeper::Files => Ok(()),
            Keeper::Unit { name, user } => {
                self.wait_until_empty()?;
                Systemd::connect(*user).and_then(|mut systemd| systemd.stop(name))
            }
        };
        let relative = self.relative()?;
        // All trees, not only those this handle knows: another command may have frozen or updated it.
        let mut left = self.on.dirs(relative);
        let mut patience = Patience::new(PATIENCE);
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
                // The files first: a systemd that does not answer must not keep them.
                return unit;
            };
            left = busy;
            thaw_all(&self.on, relative);
            if !patience.wait() {
                let what = match self.processes()?.as_slice() {
                    [] => format!("remove cgroup /{relative}"),
                    pids => format!("remove cgroup /{relative}: {} live in it", numbers(pids)),
                };
                return Err(err.context(what).hint("kill the container first, then try again"));
            }
        }
    }

    /// Kills what still lives in the cgroup and removes it. For a command that must come to its end: what could not
    /// be removed is not an error but the text of a warning, with the reason and the way out.
    pub fn end(&self) -> Option<String> {
        let err = self.kill_and_remove().err()?;
        Some(match err.hint_text() {
            Some(hint) => format!("a cgroup is left: {err}; hint: {hint}"),
            None => format!("a cgroup is left: {err}"),
        })
    }

    /// Removes what is there of a cgroup that was perhaps never made whole, in each tree where it is empty. Nothing is
    /// killed and nothing below is touched, for it may be somebody else's: then it has processes, or children.
    pub fn remove_if_empty(&self) {
        let Ok(relative) = self.relative() else { return };
        for dir in self.on.dirs(relative) {
            let _ = remove_one(self.on.root(), &dir);
        }
    }

    fn kill_and_remove(&self) -> Result<()> {
        // Most are empty, and the kernel knows that faster than we can look.
        if self.keeper == Keeper::Files {
            let dirs = self.on.dirs(self.relative()?);
            let failed = dirs.iter().filter(|dir| remove_tree(&self.on, dir).is_err()).count();
            if failed == 0 {
                return Ok(());
            }
        }
        if self.keeper != Keeper::Disabled && !self.processes()?.is_empty() {
            self.kill()?;
        }
        self.remove()
    }

    /// Stopping a unit kills what is in it, and removing is not for that.
    fn wait_until_empty(&self) -> Result<()> {
        let mut patience = Patience::new(PATIENCE);
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            thaw_all(&self.on, self.relative()?);
            if !patience.wait() {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("remove cgroup /{}: {} live in it", self.relative()?, numbers(&left)),
                )
                .hint("kill the container first, then try again"));
            }
        }
    }
}

/// Thaws a cgroup and those below it. Best effort: what fails shows in what is still there.
fn thaw_all(on: &Hierarchies, relative: &str) {
    let (top, file, word) = match on.version() {
        Version::V1 => (on.dir("freezer", relative), "freezer.state", "THAWED"),
        Version::V2 => (on.dir("", relative), "cgroup.freeze", "0"),
    };
    let _ = walk(on, &top, |place| {
        let _ = control::write(place.dir, file, word);
        Ok(())
    });
}

/// Removes `dir` and what is below it. One syscall where nothing is below it, or where there is no `dir`.
fn remove_tree(on: &Hierarchies, dir: &str) -> Result<()> {
    match remove_one(on.root(), dir) {
        Err(Errno::BUSY) => {}
        result => return result.map_err(|errno| refused(on, dir, errno)),
    }
    // Children first. Those that are busy keep the parents busy, and the caller tries again.
    let mut failed = None;
    walk(on, dir, |place| {
        if let Some((parent, name)) = place.parent
            && let Err(errno) = remove_one(parent, name)
        {
            failed.get_or_insert((errno, name.to_owned()));
        }
        Ok(())
    })?;
    match failed {
        Some((errno, name)) if errno != Errno::BUSY => {
            Err(Error::syscall(format!("rmdir of a cgroup {name:?} below {}", on.shown(dir)), errno))
        }
        _ => remove_one(on.root(), dir).map_err(|errno| refused(on, dir, errno)),
    }
}

fn remove_one(parent: BorrowedFd<'_>, dir: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, dir, AtFlags::REMOVEDIR) {
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
