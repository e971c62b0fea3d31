//! `tmpcopyup`: an empty tmpfs gets a copy of the folder that it is about to cover.
//!
//! Everything is opened by name below an fd, never through a link, and only what is a folder is entered: the
//! tree comes from an image, and may change while it is read if a volume is shared (CVE-2024-45310).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use tare_sys::path::{fd_name, set_mode};
use tare_sys::{Context, Error, Kind, Result};

/// Deepest tree that is copied: each level holds three open files, and a process has 1024 by default.
const DEEPEST: u32 = 256;

/// Longest attribute or list of names that Linux has (`XATTR_SIZE_MAX`, xattr(7)).
const ATTRIBUTE: usize = 64 * 1024;

/// Copies what is in the folder `from` into the folder `to`, which takes over its owner, mode, times and extended
/// attributes: folders, files, links, pipes, sockets and devices. For both, `O_PATH` is enough.
///
/// What is mounted below `from` is not entered. Device nodes are left out where we may not make them.
///
/// Errors: those of reading and writing; [`Kind::Corrupt`] for a tree deeper than 256.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(from).doing(|| format!("fstat({})", fd_name(from)))?;
    let (from, to) = (readable(from)?, readable(to)?);
    copy_folder(from.as_fd(), to.as_fd(), 0)?;
    finish(from.as_fd(), to.as_fd(), &stat)
}

fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<()> {
    if depth >= DEEPEST {
        return Err(Error::new(
            Kind::Corrupt,
            format!("{}: folders in folders more than {DEEPEST} deep", fd_name(from)),
        )
        .hint("tmpcopyup copies no deeper; take the option away, or make the tree flatter"));
    }
    for entry in Dir::read_from(from).doing(|| format!("list {}", fd_name(from)))? {
        let entry = entry.doing(|| format!("getdents64({})", fd_name(from)))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<()> {
    let what = || format!("{}/{}", fd_name(from), name.to_string_lossy());
    let held = match beneath(from, name, OFlags::PATH | OFlags::NOFOLLOW) {
        // It has just been removed.
        Err(Errno::NOENT) => return Ok(()),
        // Something is mounted there; the folder or file below it is not to be seen, and needs no copy.
        Err(Errno::XDEV) => return Ok(()),
        result => result.doing(what)?,
    };
    let stat = rustix::fs::fstat(&held).doing(what)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU).doing(what).map_err(explain)?;
            let copy =
                beneath(to, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW).doing(what)?;
            let source = readable(held.as_fd())?;
            drop(held);
            copy_folder(source.as_fd(), copy.as_fd(), depth + 1)?;
            finish(source.as_fd(), copy.as_fd(), &stat).doing(what)
        }
        FileType::RegularFile => {
            // By its name once more, as nothing but /proc leads from an fd to its file; so that it may be another.
            let source =
                beneath(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK).doing(what)?;
            let again = rustix::fs::fstat(&source).doing(what)?;
            if (again.st_dev, again.st_ino) != (stat.st_dev, stat.st_ino) {
                return Err(Error::new(Kind::Conflict, format!("{}: replaced while it was copied", what())));
            }
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy =
                rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).doing(what).map_err(explain)?;
            copy_content(&source, &copy, stat.st_size as u64).doing(what).map_err(explain)?;
            finish(source.as_fd(), copy.as_fd(), &stat).doing(what)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&held, c"", Vec::new()).doing(what)?;
            rustix::fs::symlinkat(target, to, name).doing(what).map_err(explain)?;
            finish_at(to, name, &stat, None).doing(what)
        }
        kind => match rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev) {
            Ok(()) => finish_at(to, name, &stat, Some(mode)).doing(what),
            Err(Errno::PERM) if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) => Ok(()),
            Err(errno) => Err(errno).doing(what).map_err(explain),
        },
    }
}

/// Opens a name of a folder, itself and not what is mounted on it.
fn beneath(folder: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(folder, name, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            result => return result,
        }
    }
}

/// Opens the very folder that an fd stands for, to be listed.
fn readable(folder: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::fs::openat(folder, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({})", fd_name(folder)))
}

/// Copies the parts that hold data, and leaves the holes: a file of many empty gigabytes is no more here.
fn copy_content(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<()> {
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            start => start.doing(|| "lseek(SEEK_DATA)")?,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).doing(|| "lseek(SEEK_HOLE)")?.min(size);
        rustix::fs::seek(to, SeekFrom::Start(start)).doing(|| "lseek(copy)")?;
        let mut offset = start;
        while offset < end {
            let count = usize::try_from(end - offset).unwrap_or(usize::MAX);
            match rustix::fs::sendfile(to, from, Some(&mut offset), count) {
                // It has been cut off meanwhile.
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).doing(|| "sendfile(copy)"),
            }
        }
        at = end.max(start + 1);
    }
    rustix::fs::ftruncate(to, size).doing(|| "ftruncate(copy)")
}

/// Owner first, which takes set-user-id bits and file capabilities away; times last.
fn finish(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))
        .doing(|| format!("fchown({}:{})", stat.st_uid, stat.st_gid))
        .map_err(explain_owner)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).doing(|| "fchmod(copy)")?;
    copy_xattrs(from, to)?;
    rustix::fs::futimens(to, &times(stat)).doing(|| "utimensat(copy)")
}

/// As [`finish`], for what cannot be opened: a link, a pipe, a socket, a device. We made it just now; in a volume another
/// container may have put something else in its place.
fn finish_at(folder: BorrowedFd<'_>, name: &CStr, stat: &Stat, mode: Option<Mode>) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .doing(|| format!("fchownat({}:{})", stat.st_uid, stat.st_gid))
        .map_err(explain_owner)?;
    if let Some(mode) = mode {
        set_mode(folder, name, mode).doing(|| "fchmodat2(copy)")?;
    }
    rustix::fs::utimensat(folder, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).doing(|| "utimensat(copy)")
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds as _, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut list = vec![0u8; ATTRIBUTE];
    let length = match rustix::fs::flistxattr(from, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length.doing(|| "flistxattr()")?,
    };
    let mut value = vec![0u8; if length == 0 { 0 } else { ATTRIBUTE }];
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Overlayfs's own notes mean nothing outside of it.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let Ok(name) = CString::new(name) else { continue };
        let length = match rustix::fs::fgetxattr(from, &name, &mut value[..]) {
            Err(Errno::NODATA) => continue,
            length => length.doing(|| format!("fgetxattr({name:?})"))?,
        };
        match rustix::fs::fsetxattr(to, &name, &value[..length], XattrFlags::empty()) {
            // A tmpfs has no user attributes before Linux 6.6, and labels only where the host has them.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            // `trusted` ones are the host's root's only.
            Err(Errno::PERM) if name.to_bytes().starts_with(b"trusted.") => {}
            Err(errno) => return Err(errno).doing(|| format!("fsetxattr({name:?})")),
        }
    }
    Ok(())
}

fn explain(err: Error) -> Error {
    match err.errno() {
        Some(Errno::NOSPC) => {
            err.hint("the tmpfs is too small for what it covers: give its mount a larger size=")
        }
        _ => err,
    }
}

fn explain_owner(err: Error) -> Error {
    match err.errno() {
        Some(Errno::INVAL) => err.hint("the container's user namespace has no such id"),
        _ => err,
    }
}

#[cfg(test)]
mod tests;
