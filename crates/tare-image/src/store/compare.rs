//! Whether two trees are the same: names, kinds, owners, modes, times, attributes, and every byte.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use tare_sys::path::{Root, fd_name};
use tare_sys::{Context, Result};

use crate::pack::{attributes_of_file, attributes_of_name, names};
use crate::unpack::show;

const CHUNK: usize = 128 << 10;

/// The first difference between a tree and what it should be, in words; `None` where there is none.
pub(super) fn difference(tree: OwnedFd, wanted: OwnedFd) -> Result<Option<String>> {
    let (tree, wanted) = (Root::new(tree), Root::new(wanted));
    let mut folders = vec![Vec::new()];
    while let Some(path) = folders.pop() {
        let (here, there) = (open(&tree, &path)?, open(&wanted, &path)?);
        let stat =
            |folder: &OwnedFd| rustix::fs::fstat(folder).doing(|| format!("fstat({})", fd_name(folder)));
        if let Some(what) = different(&stat(&here)?, &stat(&there)?) {
            return Ok(Some(format!("{}: {what}", show(&path))));
        }
        if attributes_of_file(&here)? != attributes_of_file(&there)? {
            return Ok(Some(format!("{}: its extended attributes", show(&path))));
        }
        let (have, want) = (names(&here)?, names(&there)?);
        if have != want {
            let odd = have.iter().find(|name| !want.contains(name));
            let odd = odd.or_else(|| want.iter().find(|name| !have.contains(name)));
            let odd = show(odd.map_or(b"", Vec::as_slice));
            return Ok(Some(format!("{}: {odd} is there in one and not in the other", show(&path))));
        }
        for name in have {
            let mut whole = path.clone();
            if !whole.is_empty() {
                whole.push(b'/');
            }
            whole.extend_from_slice(&name);
            let name = OsStr::from_bytes(&name);
            let stat = |folder: &OwnedFd| {
                rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .doing(|| format!("stat {name:?} in {}", fd_name(folder)))
            };
            let (one, other) = (stat(&here)?, stat(&there)?);
            let what = match FileType::from_raw_mode(one.st_mode) {
                // Its own attributes come when it is opened.
                FileType::Directory if FileType::from_raw_mode(other.st_mode) == FileType::Directory => {
                    folders.push(whole);
                    continue;
                }
                kind => match different(&one, &other) {
                    Some(what) => Some(what),
                    None => contents(&here, &there, name, kind)?,
                },
            };
            if let Some(what) = what {
                return Ok(Some(format!("{}: {what}", show(&whole))));
            }
        }
    }
    Ok(None)
}

fn different(one: &Stat, other: &Stat) -> Option<&'static str> {
    let kind = FileType::from_raw_mode(one.st_mode);
    let is_folder = kind == FileType::Directory;
    // Folders that the tar does not name, and whiteouts, have the time at which they were unpacked.
    let is_whiteout = kind == FileType::CharacterDevice && one.st_rdev == 0;
    let has_time = !is_folder && !is_whiteout;
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    match () {
        () if one.st_mode != other.st_mode => Some("its kind or mode"),
        () if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid) => Some("its owner"),
        () if one.st_rdev != other.st_rdev => Some("its device number"),
        () if has_time && time(one) != time(other) => Some("its time"),
        // A folder's size and links are the file system's business.
        () if !is_folder && one.st_size != other.st_size => Some("its size"),
        () if !is_folder && one.st_nlink != other.st_nlink => Some("its number of names"),
        () => None,
    }
}

fn contents(here: &OwnedFd, there: &OwnedFd, name: &OsStr, kind: FileType) -> Result<Option<&'static str>> {
    match kind {
        FileType::Symlink => {
            let target = |folder: &OwnedFd| {
                rustix::fs::readlinkat(folder, name, Vec::new())
                    .doing(|| format!("readlinkat({}, {name:?})", fd_name(folder)))
            };
            if target(here)? != target(there)? {
                return Ok(Some("where it leads"));
            }
        }
        FileType::RegularFile => {
            let open = |folder: &OwnedFd| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::openat(folder, name, flags, Mode::empty())
                    .map(File::from)
                    .doing(|| format!("openat({}, {name:?})", fd_name(folder)))
            };
            let (one, other) = (open(here)?, open(there)?);
            if !same_bytes(&one, &other)? {
                return Ok(Some("its bytes"));
            }
        }
        _ => {}
    }
    let same = attributes_of_name(here, name)? == attributes_of_name(there, name)?;
    Ok((!same).then_some("its extended attributes"))
}

fn same_bytes(one: &File, other: &File) -> Result<bool> {
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let length = one.read_at(&mut a, at).doing(|| format!("read({})", fd_name(one)))?;
        if length == 0 {
            return Ok(true);
        }
        if other.read_exact_at(&mut b[..length], at).is_err() || a[..length] != b[..length] {
            return Ok(false);
        }
        at += length as u64;
    }
}

fn open(tree: &Root, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    tree.open(Path::new(OsStr::from_bytes(path)), flags, Mode::empty())
}
