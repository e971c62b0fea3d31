//! `tmpcopyup`: a tmpfs that begins with what it covers.
//!
//! The tree to be copied came with an image: nothing in it is followed, and everything is done relative to open
//! folders.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result};

/// Deepest tree that is copied.
const DEEPEST: u32 = 256;

/// Copies what is in the folder `from` into the folder `to`, which takes over its mode and owner.
///
/// Sockets are left out: nobody listens on a copy. Device nodes are copied where the caller may make them.
///
/// Errors: those of reading and writing; [`Kind::Corrupt`] for a tree deeper than 256.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let (from, to) = (folder(from, c".")?, folder(to, c".")?);
    copy_folder(&from, &to, DEEPEST)
}

fn folder(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).doing(|| format!("open({name:?})"))
}

fn copy_folder(from: &OwnedFd, to: &OwnedFd, left: u32) -> Result<()> {
    if left == 0 {
        return Err(Error::new(Kind::Corrupt, format!("folders more than {DEEPEST} deep")));
    }
    for entry in Dir::read_from(from).doing(|| "getdents()")? {
        let entry = entry.doing(|| "getdents()")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_one(from, to, name, left).doing(|| format!("copy {name:?}"))?;
        }
    }
    let stat = rustix::fs::fstat(from).doing(|| "fstat()")?;
    copy_attributes(from, to)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
        .doing(|| "fchown()")?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode)).doing(|| "fchmod()")?;
    rustix::fs::futimens(to, &times(&stat)).doing(|| "futimens()")
}

fn copy_one(from: &OwnedFd, to: &OwnedFd, name: &CStr, left: u32) -> Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).doing(|| "fstatat()")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).doing(|| "mkdirat()")?;
            return copy_folder(&folder(from.as_fd(), name)?, &folder(to.as_fd(), name)?, left - 1);
        }
        FileType::RegularFile => return copy_file(from, to, name),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new()).doing(|| "readlinkat()")?;
            rustix::fs::symlinkat(target, to, name).doing(|| "symlinkat()")?;
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            match rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev) {
                Err(Errno::PERM) => return Ok(()),
                result => result.doing(|| "mknodat()")?,
            }
        }
        _ => return Ok(()),
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(|| "fchownat()")?;
    if kind != FileType::Symlink {
        // A node that we have just made; nobody else sees this tree.
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())
            .doing(|| "fchmodat()")?;
    }
    rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW).doing(|| "utimensat()")
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<()> {
    // Non-blocking, in case it has become a pipe meanwhile.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty()).doing(|| "openat()")?;
    let stat = rustix::fs::fstat(&source).doing(|| "fstat()")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(Kind::Conflict, "it is being changed"));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target =
        rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).doing(|| "openat(O_CREAT)")?;
    let (mut reader, writer) = (std::fs::File::from(source), target.try_clone().doing(|| "dup()")?);
    std::io::copy(&mut reader, &mut std::fs::File::from(writer)).doing(|| "copy its content")?;
    rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
        .doing(|| "fchown()")?;
    // After the owner, whose change takes set-user-id bits and capabilities away.
    rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode)).doing(|| "fchmod()")?;
    copy_attributes(&OwnedFd::from(reader), &target)?;
    rustix::fs::futimens(&target, &times(&stat)).doing(|| "futimens()")
}

/// Copies the extended attributes that the target can keep.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut names = vec![0u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno).doing(|| "flistxattr()"),
    };
    let mut value = vec![0u8; 64 * 1024];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let size = match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            Ok(size) => size,
            Err(Errno::NODATA) => continue,
            Err(errno) => {
                return Err(errno).doing(|| format!("fgetxattr({})", String::from_utf8_lossy(name)));
            }
        };
        match rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            // A tmpfs knows few of them (before Linux 6.6 no user.*), and some are not ours to set.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => {
                return Err(errno).doing(|| format!("fsetxattr({})", String::from_utf8_lossy(name)));
            }
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let moment = |seconds: i64, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: moment(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: moment(stat.st_mtime, stat.st_mtime_nsec as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn everything_is_copied_as_it_is_and_no_link_is_followed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("a/b")).unwrap();
        fs::write(from.path().join("a/b/file"), vec![7; 100_000]).unwrap();
        fs::set_permissions(from.path().join("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/etc/passwd", from.path().join("a/link")).unwrap();
        let open = |path: &std::path::Path| fs::File::open(path).unwrap();
        copy_tree(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        let copy = to.path().join("a/b/file");
        assert_eq!(fs::read(&copy).unwrap(), vec![7; 100_000]);
        let (old, new) = (fs::metadata(from.path().join("a/b/file")).unwrap(), fs::metadata(&copy).unwrap());
        assert_eq!((new.mode(), new.mtime()), (old.mode(), old.mtime()));
        assert_eq!(fs::read_link(to.path().join("a/link")).unwrap().to_str(), Some("/etc/passwd"));
    }
}
