//! A tree, read item by item through fds.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tare_sys::path::fd_name;
use tare_sys::{Context, Error, Kind, Result};

use super::item::{Item, Sort, travels};

/// Deepest tree: each level holds an open folder, and a process has 1024 files by default.
const DEEPEST: usize = 400;
/// Longest attribute or list of names (xattr(7)).
const ATTRIBUTE: usize = 64 * 1024;
/// Ids of a container.
const IDS: u32 = crate::range::SIZE;
/// Who owns what no id of the container owns (`overflowuid`).
const NOBODY: u32 = 65_534;

/// Takes an item, and the bytes of a file.
pub type Put<'a> = dyn FnMut(&Item, &mut dyn Read) -> Result<()> + 'a;

/// Reads trees.
pub struct Reader {
    /// Host id that the source sees as 0.
    base: u32,
    /// Files with several names, and the path of the first.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Reader {
    pub fn new(base: u32) -> Reader {
        Reader { base, links: HashMap::new() }
    }

    /// Reads what `top` (`O_PATH`) stands for, and all below it; folders before what is in them.
    pub fn read(&mut self, top: OwnedFd, put: &mut Put<'_>) -> Result<()> {
        self.entry(top, Vec::new(), 0, put)
    }

    fn entry(&mut self, held: OwnedFd, path: Vec<u8>, depth: usize, put: &mut Put<'_>) -> Result<()> {
        let what = || format!("read {}", fd_name(&held));
        if depth > DEEPEST {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{}: folders in folders more than {DEEPEST} deep", what()),
            ));
        }
        let stat = rustix::fs::fstat(&held).doing(what)?;
        let nothing = &mut io::empty();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let folder = again(held.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY).doing(what)?;
                drop(held);
                let names = names(folder.as_fd())?;
                put(&self.item(path.clone(), Sort::Folder, &stat, attributes(folder.as_fd())), nothing)?;
                for name in names {
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let held = match rustix::fs::openat(&folder, &name, flags, Mode::empty()) {
                        // It has just been removed.
                        Err(Errno::NOENT) => continue,
                        held => held.doing(|| format!("open {name:?} in {}", fd_name(&folder)))?,
                    };
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(name.to_bytes());
                    self.entry(held, below, depth + 1, put)?;
                }
                Ok(())
            }
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    let key = (stat.st_dev, stat.st_ino);
                    if let Some(first) = self.links.get(&key) {
                        return put(&self.item(path, Sort::Again(first.clone()), &stat, Vec::new()), nothing);
                    }
                    self.links.insert(key, path.clone());
                }
                // The very file that was looked at, whatever its name leads to by now.
                let file =
                    again(held.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).doing(what)?;
                let size = rustix::fs::fstat(&file).doing(what)?.st_size as u64;
                let item = self.item(path, Sort::File(size), &stat, attributes(file.as_fd()));
                // One that shrinks meanwhile is filled up, so that it has the size that was said.
                put(&item, &mut File::from(file).chain(io::repeat(0)).take(size))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&held, c"", Vec::new()).doing(what)?;
                put(&self.item(path, Sort::Link(target.into_bytes()), &stat, Vec::new()), nothing)
            }
            FileType::Fifo => put(&self.item(path, Sort::Pipe, &stat, Vec::new()), nothing),
            _ => put(&self.item(path, Sort::Other, &stat, Vec::new()), nothing),
        }
    }

    fn item(&self, path: Vec<u8>, sort: Sort, stat: &Stat, attributes: Vec<(Vec<u8>, Vec<u8>)>) -> Item {
        let own = |id: u32| match (self.base, id.checked_sub(self.base)) {
            (0, _) => id,
            (_, Some(own)) if own < IDS => own,
            _ => NOBODY,
        };
        Item {
            path,
            sort,
            mode: stat.st_mode & 0o7777,
            uid: own(stat.st_uid),
            gid: own(stat.st_gid),
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            attributes,
        }
    }
}

/// Opens the very file that an fd stands for, by our own /proc.
fn again(held: BorrowedFd<'_>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// What is in a folder, in order.
fn names(folder: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).doing(|| format!("list {}", fd_name(folder)))? {
        let entry = entry.doing(|| format!("list {}", fd_name(folder)))?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Those attributes that travel; what cannot be read does not.
fn attributes(file: BorrowedFd<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0u8; ATTRIBUTE];
    let Ok(length) = rustix::fs::flistxattr(file, &mut list[..]) else { return Vec::new() };
    let mut found = Vec::new();
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !travels(name.to_bytes()) {
            continue;
        }
        let mut value = vec![0u8; ATTRIBUTE];
        if let Ok(length) = rustix::fs::fgetxattr(file, name, &mut value[..]) {
            value.truncate(length);
            found.push((name.to_bytes().to_vec(), value));
        }
    }
    found
}
