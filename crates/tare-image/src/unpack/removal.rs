//! Removing a tree that a stranger made: however deep, with two fds open and no recursion.
//!
//! A folder that is not empty is moved up into the top one and dealt with there, so depth costs nothing; a
//! recursive removal would run out of fds or stack on a tree that was made to be deep.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tare_sys::path::fd_name;
use tare_sys::{Context, Result};

/// Removes `name` in `folder`, whatever it is; links are not followed. Not being there is no error.
pub(crate) fn remove(folder: impl AsFd, name: &OsStr) -> Result<()> {
    let folder = folder.as_fd();
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        failed => return failed.doing(|| format!("unlinkat({}, {name:?})", fd_name(folder))),
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // EEXIST is how POSIX lets some file systems say the same.
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        failed => return failed.doing(|| format!("unlinkat({}, {name:?}, AT_REMOVEDIR)", fd_name(folder))),
    }
    let top = open(folder, name)?;
    let mut moved = 0;
    // What is moved up shows up in the next listing.
    each_name(&top, |name, is_full_folder| {
        if is_full_folder {
            let inner = open(&top, name)?;
            each_name(&inner, |deeper, is_full_folder| match is_full_folder {
                true => move_up(&inner, deeper, &top, &mut moved),
                false => Ok(()),
            })?;
            rmdir(&top, name)?;
        }
        Ok(())
    })?;
    rmdir(folder, name)
}

/// Removes names from `folder` until it is empty, and calls `then` on each; folders that are not empty are
/// left to `then`, which must make them go away.
fn each_name(folder: &OwnedFd, mut then: impl FnMut(&OsStr, bool) -> Result<()>) -> Result<()> {
    loop {
        // Listed first, because removing while listing may skip some (POSIX leaves it open); in portions,
        // because a folder may hold millions.
        let names = list(folder, 4096)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            let name = OsStr::from_bytes(name);
            let is_full_folder = match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => false,
                Err(Errno::ISDIR) => match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => false,
                    Err(Errno::NOTEMPTY | Errno::EXIST) => true,
                    Err(errno) => {
                        return Err(errno).doing(|| format!("rmdir {name:?} in {}", fd_name(folder)));
                    }
                },
                Err(errno) => return Err(errno).doing(|| format!("unlinkat({}, {name:?})", fd_name(folder))),
            };
            then(name, is_full_folder)?;
        }
    }
}

fn rmdir(folder: impl AsFd, name: &OsStr) -> Result<()> {
    match rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).doing(|| format!("unlinkat({}, {name:?}, AT_REMOVEDIR)", fd_name(folder))),
    }
}

/// Moves a folder up under a name that is free.
fn move_up(folder: &OwnedFd, name: &OsStr, top: &OwnedFd, moved: &mut u64) -> Result<()> {
    make_ours(folder, name)?;
    loop {
        let new_name = format!(".tare-removed-{moved}");
        *moved += 1;
        match rustix::fs::renameat_with(folder, name, top, &new_name, RenameFlags::NOREPLACE) {
            // The archive may hold that very name.
            Err(Errno::EXIST) => {}
            done => {
                let call =
                    || format!("renameat2({}, {name:?}, {}, {new_name:?})", fd_name(folder), fd_name(top));
                return done.doing(call);
            }
        }
    }
}

fn open(folder: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    make_ours(&folder, name)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&folder, name, flags, Mode::empty())
        .doing(|| format!("openat({}, {name:?}, O_DIRECTORY|O_NOFOLLOW)", fd_name(folder)))
}

/// Without privilege, a folder that its image made read-only must be opened up before it can be emptied.
fn make_ours(folder: impl AsFd, name: &OsStr) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    rustix::fs::chmodat(&folder, name, Mode::RWXU, AtFlags::empty())
        .doing(|| format!("fchmodat({}, {name:?})", fd_name(folder)))
}

/// Up to `limit` names in a folder, without `.` and `..`.
fn list(folder: &OwnedFd, limit: usize) -> Result<Vec<Vec<u8>>> {
    let list = || -> rustix::io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_owned());
            }
            if names.len() == limit {
                break;
            }
        }
        Ok(names)
    };
    list().doing(|| format!("getdents64({})", fd_name(folder)))
}
