//! Walks a cgroup and all that a container has made below it.
//!
//! A container may nest its own cgroups as deep as it likes, so the way is gone step by step from directory to
//! directory: a path of all the names together would grow too long for the kernel, and keeping each level open
//! would use up our files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::{Context, Result};

use crate::hierarchy::Hierarchies;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A cgroup that the walk is about to leave.
pub(crate) struct Place<'a> {
    /// The cgroup's directory.
    pub dir: BorrowedFd<'a>,
    /// The directory around it and its name there; `None` at the top.
    pub parent: Option<(BorrowedFd<'a>, &'a str)>,
}

struct Level {
    name: String,
    below: Vec<String>,
}

/// Calls `visit` for `top` and every cgroup below it, children before their parents. What vanishes meanwhile is
/// no error, nor is a `top` that is not there.
pub(crate) fn walk(
    on: &Hierarchies,
    top: &str,
    mut visit: impl FnMut(Place<'_>) -> Result<()>,
) -> Result<()> {
    let mut dir = match rustix::fs::openat(on.root(), top, FOLDER, Mode::empty()) {
        Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => return Ok(()),
        opened => opened.doing(|| format!("open({:?}, O_DIRECTORY)", on.shown(top)))?,
    };
    let mut levels = vec![Level { name: top.to_owned(), below: names(&dir).doing(|| list(on, top))? }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.below.pop() {
            let opened = match rustix::fs::openat(&dir, name.as_str(), FOLDER, Mode::empty()) {
                Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => continue,
                opened => opened.doing(|| format!("open a cgroup {name:?} below {}", on.shown(top)))?,
            };
            dir = opened;
            levels.push(Level { below: names(&dir).doing(|| list(on, top))?, name });
            continue;
        }
        let Some(left) = levels.pop() else { break };
        if levels.is_empty() {
            return visit(Place { dir: dir.as_fd(), parent: None });
        }
        let parent = rustix::fs::openat(&dir, "..", FOLDER, Mode::empty())
            .doing(|| format!("open the parent of a cgroup {:?} below {}", left.name, on.shown(top)))?;
        visit(Place { dir: dir.as_fd(), parent: Some((parent.as_fd(), &left.name)) })?;
        dir = parent;
    }
    Ok(())
}

fn list(on: &Hierarchies, top: &str) -> String {
    format!("getdents below {}", on.shown(top))
}

/// The names of the directories in an open directory.
fn names(dir: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = match entry {
            Err(Errno::NOENT | Errno::NODEV) => break,
            entry => entry?,
        };
        if entry.file_type() == FileType::Directory
            && let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The names of the cgroups directly below `dir`; none if it is gone.
pub(crate) fn folders(on: &Hierarchies, dir: &str) -> Result<Vec<String>> {
    match rustix::fs::openat(on.root(), dir, FOLDER, Mode::empty()) {
        Err(Errno::NOENT | Errno::NODEV | Errno::NOTDIR) => Ok(Vec::new()),
        Err(errno) => Err(errno).doing(|| format!("open({:?}, O_DIRECTORY)", on.shown(dir))),
        Ok(opened) => names(&opened).doing(|| list(on, dir)),
    }
}
