//! Packing a tree into a tar: what [`unpack`](crate::unpack) does, the other way round.
//!
//! ```text
//! tree (a folder's fd) ─▶ each folder, names in order ─▶ entry: [pax header] ustar header, data ─▶ anybody's tar reader
//! ```
//!
//! A *layer* is a container's own part of its file system, as overlayfs keeps it: what overlayfs writes down of files
//! that are gone becomes `.wh.` names (`unpack::whiteout` has the table). A *root* is a whole file system.
//!
//! The tree may be a container's that runs: what vanishes between being listed and being read is left out, and a file
//! that shrinks meanwhile is filled up with zeros. Paths are resolved inside the tree, and nothing but a regular file
//! is ever opened for reading. Sockets are left out, as every tar leaves them out; holes are written as zeros. The same
//! tree makes the same bytes.

mod header;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tare_sys::path::{Root, fd_name};
use tare_sys::{Context, Error, Kind, Result};

use crate::unpack::attributes::is_allowed;
use crate::unpack::{Content, whiteout};
use header::{BLOCK, Entry, EntryKind};

/// Bytes in a path; as many as unpacking takes.
const LONGEST_PATH: usize = 4096;
/// Bytes copied at once.
const CHUNK: usize = 128 << 10;

/// Writes a whole root file system.
///
/// Errors: those of reading the tree and of writing to `to`.
pub fn root(tree: OwnedFd, to: impl Write) -> Result<()> {
    Packer::new(tree, Content::Root, to).pack()
}

/// Writes the upper folder of an overlay as a layer.
///
/// Errors: [`Kind::Unsupported`] for what no layer can carry: folders that overlayfs renamed by reference, files whose
/// own names mean that another is gone; those of reading the tree and of writing to `to`.
pub fn layer(upper: OwnedFd, to: impl Write) -> Result<()> {
    Packer::new(upper, Content::Layer, to).pack()
}

struct Packer<W> {
    tree: Root,
    content: Content,
    to: W,
    /// Files with several names: device and inode, and the first of the names.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    fn new(tree: OwnedFd, content: Content, to: W) -> Packer<W> {
        Packer { tree: Root::new(tree), content, to, links: HashMap::new(), buffer: vec![0; CHUNK] }
    }

    fn pack(mut self) -> Result<()> {
        let top = self.open(b"")?.ok_or_else(|| Error::new(Kind::NotFound, "the tree is gone"))?;
        let stat = rustix::fs::fstat(&top).doing(|| format!("fstat({})", fd_name(&top)))?;
        self.write(b"./", &stat, EntryKind::Folder, &attributes_of_file(&top)?, 0)?;
        // Paths, not fds: a tree may be deeper than a process may have files open.
        let mut folders = vec![Vec::new()];
        while let Some(path) = folders.pop() {
            let Some(folder) = self.open(&path)? else { continue };
            let what = || format!("pack the folder {}", show(&path));
            let mut found = self.folder(&folder, &path).doing(what)?;
            found.reverse();
            folders.append(&mut found);
        }
        self.put(&[0; 2 * BLOCK])?;
        self.to.flush().doing(|| "write the archive")
    }

    /// Opens a folder of the tree; `None` where it is gone, or is none any more.
    fn open(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match self.tree.open(Path::new(OsStr::from_bytes(path)), flags, Mode::empty()) {
            Err(err) if matches!(err.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Writes what is in a folder; answers with the paths of the folders in it.
    fn folder(&mut self, folder: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.content == Content::Layer {
            if has(folder, "trusted.overlay.redirect") {
                return Err(renamed(path));
            }
            if is_opaque(folder) {
                self.marker(path, b".wh..wh..opq")?;
            }
        }
        let mut folders = Vec::new();
        for name in names(folder)? {
            let mut whole = path.to_vec();
            if !whole.is_empty() {
                whole.push(b'/');
            }
            whole.extend_from_slice(&name);
            if whole.len() > LONGEST_PATH {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("{} is longer than {LONGEST_PATH} bytes", show(&whole)),
                ));
            }
            let os_name = OsStr::from_bytes(&name);
            let stat = match rustix::fs::statat(folder, os_name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat.doing(|| format!("stat {}", show(&whole)))?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let Some(inner) = self.open(&whole)? else { continue };
                let attributes = attributes_of_file(&inner)?;
                self.write(&[&whole, &b"/"[..]].concat(), &stat, EntryKind::Folder, &attributes, 0)?;
                folders.push(whole);
                continue;
            }
            self.entry(folder, os_name, path, &whole, &stat).doing(|| format!("pack {}", show(&whole)))?;
        }
        Ok(folders)
    }

    /// Writes anything but a folder.
    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        whole: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return match self.content {
                Content::Layer => self.marker(path, &[b".wh.", name.as_bytes()].concat()),
                // Overlayfs shows none, so there is none.
                Content::Root => Ok(()),
            };
        }
        if kind == FileType::Socket {
            return Ok(());
        }
        if self.content == Content::Layer && name.as_bytes().starts_with(b".wh.") {
            return Err(Error::new(
                Kind::Unsupported,
                "in a layer, a name that begins with .wh. means that a file is gone; this one is a file",
            )
            .hint("rename or remove it in the container"));
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&inode).cloned() {
                return self.write(whole, stat, EntryKind::HardLink(&first), &[], 0);
            }
            self.links.insert(inode, whole.to_vec());
        }
        match kind {
            FileType::RegularFile => self.file(folder, name, whole, stat),
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(folder, name, Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    target => target.doing(|| format!("readlinkat({}, {name:?})", fd_name(folder)))?,
                };
                let attributes = attributes_of_name(folder, name)?;
                self.write(whole, stat, EntryKind::Symlink(target.to_bytes()), &attributes, 0)
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let kind = match kind {
                    FileType::BlockDevice => EntryKind::BlockDevice(major, minor),
                    _ => EntryKind::CharDevice(major, minor),
                };
                self.write(whole, stat, kind, &attributes_of_name(folder, name)?, 0)
            }
            FileType::Fifo => self.write(whole, stat, EntryKind::Fifo, &attributes_of_name(folder, name)?, 0),
            _ => Ok(()),
        }
    }

    fn file(&mut self, folder: &OwnedFd, name: &OsStr, whole: &[u8], listed: &Stat) -> Result<()> {
        // Not blocking, and looked at once more: a container that runs may have put a pipe in its place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            file => file.doing(|| format!("openat({}, {name:?})", fd_name(folder)))?,
        };
        let mut stat = rustix::fs::fstat(&file).doing(|| format!("fstat({})", fd_name(&file)))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        if self.content == Content::Layer && has(&file, "trusted.overlay.metacopy") {
            return Err(renamed(whole));
        }
        // The time before it was read, and the size of now.
        stat.st_mtime = listed.st_mtime;
        let size = stat.st_size.unsigned_abs();
        self.write(whole, &stat, EntryKind::File, &attributes_of_file(&file)?, size)?;
        let mut left = size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = match rustix::io::read(&file, &mut self.buffer[..want]) {
                Err(Errno::INTR) => continue,
                read => read.doing(|| format!("read({})", fd_name(&file)))?,
            };
            if read == 0 {
                // It became shorter; its size is written already.
                self.buffer[..want].fill(0);
            }
            let have = if read == 0 { want } else { read };
            self.to.write_all(&self.buffer[..have]).doing(|| "write the archive")?;
            left -= have as u64;
        }
        self.pad(size)
    }

    /// Writes an empty file that says something by its name.
    fn marker(&mut self, folder: &[u8], name: &[u8]) -> Result<()> {
        let mut path = folder.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let entry = Entry { path: &path, kind: EntryKind::File, ..Entry::default() };
        let bytes = entry.bytes();
        self.put(&bytes)
    }

    fn write(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: EntryKind<'_>,
        attributes: &[(Vec<u8>, Vec<u8>)],
        size: u64,
    ) -> Result<()> {
        let entry = Entry {
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            size,
            attributes,
        };
        let bytes = entry.bytes();
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).doing(|| "write the archive")
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.put(&[0; BLOCK][over..]) }
    }
}

fn renamed(path: &[u8]) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("{} is kept by reference to a layer below (overlayfs' redirect_dir or metacopy)", show(path)),
    )
    .hint("copy it in the container, under its new name, and remove the old one")
}

fn is_opaque(folder: &OwnedFd) -> bool {
    whiteout::OPAQUE_ATTRIBUTES.iter().any(|attribute| {
        let mut value = [0; 1];
        rustix::fs::fgetxattr(folder, *attribute, &mut value).is_ok_and(|length| value[..length] == *b"y")
    })
}

fn has(file: &OwnedFd, attribute: &str) -> bool {
    let mut none: [u8; 0] = [];
    // Zero bytes of room ask for the length.
    rustix::fs::fgetxattr(file, attribute, &mut none).is_ok()
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let list = || -> rustix::io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    };
    list().doing(|| format!("getdents64({})", fd_name(folder)))
}

/// The extended attributes of an open file or folder that go with an image.
pub(crate) fn attributes_of_file(file: &OwnedFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    attributes(
        |room| rustix::fs::flistxattr(file, room),
        |name, room| rustix::fs::fgetxattr(file, name, room),
    )
    .doing(|| format!("list the extended attributes of {}", fd_name(file)))
}

/// The same of a link or node, which is not followed.
pub(crate) fn attributes_of_name(folder: &OwnedFd, name: &OsStr) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // The link in /proc leads to the folder we hold, and the last part is not followed.
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    attributes(
        |room| rustix::fs::llistxattr(&path, room),
        |name, room| rustix::fs::lgetxattr(&path, name, room),
    )
    .doing(|| format!("list the extended attributes of {name:?} in {}", fd_name(folder)))
}

fn attributes(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    /// XATTR_LIST_MAX and XATTR_SIZE_MAX (linux/limits.h).
    const MOST: usize = 65536;
    let mut small = [0; 256];
    let names = match list(&mut small) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
        Ok(length) => small[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0; MOST];
            let length = list(&mut large)?;
            large.truncate(length);
            large
        }
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty() && is_allowed(name)) {
        // A PAX key ends at the first '='. Nobody has such a name.
        if name.contains(&b'=') {
            continue;
        }
        let mut value = vec![0; MOST];
        match get(OsStr::from_bytes(name), &mut value) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_owned(), value));
            }
            Err(Errno::NODATA | Errno::NOENT | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort();
    Ok(found)
}

/// A path for a message.
fn show(path: &[u8]) -> String {
    crate::unpack::show(path)
}

#[cfg(test)]
mod tests;
