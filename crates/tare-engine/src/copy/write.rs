//! Items, written as a tree through fds.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tare_sys::path::{Root, fd_name, set_mode};
use tare_sys::{Context, Error, Kind, Result};

use super::Copied;
use super::inside::Inside;
use super::item::{Item, Sort};

/// Writes a tree.
pub struct Writer<'a> {
    /// The folder that it goes into.
    folder: OwnedFd,
    /// Name of the top in that folder; `None`: what is in the top goes there.
    name: Option<Vec<u8>>,
    /// In a container: its root, and the folder's path in it, because links in it lead somewhere inside.
    root: Option<(&'a Root, Vec<u8>)>,
    /// Host id of the destination's root.
    base: u32,
    /// Owners are those of the items.
    owners: bool,
    /// The host's: no file gets to be set-user-id or a named pipe of a stranger's making without being asked for.
    host: bool,
    /// Folders that get their attributes in the end, when nothing is made in them any more.
    folders: Vec<Item>,
    /// The folder that was used last, and its path.
    last: Option<(Vec<u8>, OwnedFd)>,
    copied: Copied,
}

impl<'a> Writer<'a> {
    /// Into a folder of the host.
    pub fn on_host(folder: OwnedFd, name: Option<&[u8]>, owners: bool) -> Writer<'static> {
        Writer {
            folder,
            name: name.map(<[u8]>::to_vec),
            root: None,
            base: 0,
            owners,
            host: true,
            folders: Vec::new(),
            last: None,
            copied: Copied::default(),
        }
    }

    /// Into a folder of the container, whose path is `at`.
    pub fn in_container(
        inside: &'a Inside,
        folder: OwnedFd,
        at: &[u8],
        name: Option<&[u8]>,
        owners: bool,
    ) -> Writer<'a> {
        Writer {
            folder,
            name: name.map(<[u8]>::to_vec),
            root: Some((&inside.root, at.to_vec())),
            base: inside.base,
            owners,
            host: false,
            folders: Vec::new(),
            last: None,
            copied: Copied::default(),
        }
    }

    /// Writes one item.
    pub fn put(&mut self, item: &Item, data: &mut dyn Read) -> Result<()> {
        let Some((parent, name)) = self.place(&item.path) else { return Ok(()) };
        let shown = String::from_utf8_lossy(&item.path).into_owned();
        let what = || format!("write {shown}");
        let folder = self.open(&parent).doing(what)?;
        let name = CString::new(name)
            .map_err(|_| Error::new(Kind::Corrupt, "write a file with a NUL in its name"))?;
        match &item.sort {
            Sort::Folder => {
                match rustix::fs::mkdirat(&folder, &name, Mode::RWXU) {
                    Err(Errno::EXIST) if kind_of(&folder, &name)? == FileType::Directory => {}
                    Err(Errno::EXIST) => {
                        let what = format!("cannot overwrite non-directory {name:?} with directory {name:?}");
                        return Err(Error::new(Kind::Conflict, what));
                    }
                    made => made.doing(what)?,
                }
                self.folders.push(item.clone());
                Ok(())
            }
            Sort::File(size) => {
                self.copied.bytes += size;
                self.file(&folder, &name, item, data).doing(what)
            }
            Sort::Link(target) => {
                make_way(&folder, &name).doing(what)?;
                rustix::fs::symlinkat(OsStr::from_bytes(target), &folder, &name).doing(what)?;
                self.attributes_by_name(&folder, &name, item).doing(what)
            }
            Sort::Again(first) => {
                let Some((parent, first)) = self.place(first) else { return Ok(()) };
                let there = self.open(&parent).doing(what)?;
                if let Err(err) = make_way(&folder, &name) {
                    return Err(err).doing(what);
                }
                rustix::fs::linkat(&there, OsStr::from_bytes(&first), &folder, &name, AtFlags::empty())
                    .doing(what)
            }
            Sort::Pipe => {
                make_way(&folder, &name).doing(what)?;
                rustix::fs::mknodat(&folder, &name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .doing(what)?;
                // The container may have put a link in its place.
                set_mode(folder.as_fd(), &name, self.mode(item)).doing(what)?;
                self.attributes_by_name(&folder, &name, item).doing(what)
            }
            Sort::Other => {
                self.copied.left_out += 1;
                Ok(())
            }
        }
    }

    /// Gives the folders their attributes; says what was done.
    pub fn finish(mut self) -> Result<Copied> {
        while let Some(item) = self.folders.pop() {
            let Some((parent, name)) = self.place(&item.path) else { continue };
            let folder = self.open(&parent)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&folder, OsStr::from_bytes(&name), flags, Mode::empty()) {
                Ok(made) => self.attributes(&made, &item)?,
                // Somebody in the container replaced it: then it is not ours any more.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno).doing(|| format!("open {}", String::from_utf8_lossy(&name))),
            }
        }
        Ok(self.copied)
    }

    /// The path of an item in our folder: where it lies and its name. `None` for the folder itself.
    fn place(&self, path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let whole = match (&self.name, path) {
            (None, b"") => return None,
            (None, path) => path.to_vec(),
            (Some(name), b"") => name.clone(),
            (Some(name), path) => [name, b"/".as_slice(), path].concat(),
        };
        Some(match whole.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (whole[..at].to_vec(), whole[at + 1..].to_vec()),
            None => (Vec::new(), whole),
        })
    }

    /// Opens a folder below ours, made where it is missing.
    fn open(&mut self, path: &[u8]) -> Result<OwnedFd> {
        if let Some((last, fd)) = &self.last
            && *last == path
        {
            return fd.try_clone().doing(|| "dup(folder)");
        }
        let mut fd = self.folder.try_clone().doing(|| "dup(folder)")?;
        let mut so_far = Vec::new();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            so_far.push(b'/');
            so_far.extend_from_slice(part);
            fd = self.step(&fd, part, &so_far)?;
        }
        self.last = Some((path.to_vec(), fd.try_clone().doing(|| "dup(folder)")?));
        Ok(fd)
    }

    fn step(&self, fd: &OwnedFd, part: &[u8], so_far: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(part);
        let what = || format!("open {name:?} in {}", fd_name(fd));
        if part == b".." {
            return Err(Error::new(Kind::Corrupt, format!("{}: '..' in a path", what())));
        }
        match rustix::fs::openat(fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(fd, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno).doing(|| format!("mkdir {name:?}")),
                }
                rustix::fs::openat(fd, name, flags, Mode::empty()).doing(what)
            }
            // A link in the container leads where the container sees it leading.
            Err(Errno::NOTDIR | Errno::LOOP) if self.root.is_some() => {
                let Some((root, at)) = &self.root else { return Err(Errno::NOTDIR).doing(what) };
                let path = [at.as_slice(), so_far].concat();
                root.open(
                    Path::new(OsStr::from_bytes(&path)),
                    OFlags::PATH | OFlags::DIRECTORY,
                    Mode::empty(),
                )
            }
            found => found.doing(what),
        }
    }

    /// Writes a file beside the one that is there, then puts it in its place, so that nobody sees half of it.
    fn file(&self, folder: &OwnedFd, name: &CString, item: &Item, data: &mut dyn Read) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
            .doing(|| "getrandom()")?;
        let beside = format!(".tare-cp-{:016x}", u64::from_ne_bytes(random));
        let made = rustix::fs::openat(folder, &*beside, flags, Mode::RUSR | Mode::WUSR)
            .doing(|| format!("create a file in {}", fd_name(folder)))?;
        let mut file = File::from(made);
        let written =
            copy(data, &mut file).and_then(|()| self.attributes(file.as_fd(), item)).and_then(|()| {
                match rustix::fs::renameat(folder, &*beside, folder, name) {
                    // Something is mounted there, as on /etc/hosts: it is written to as it is.
                    Err(Errno::BUSY) => {
                        let flags = OFlags::WRONLY
                            | OFlags::TRUNC
                            | OFlags::NOFOLLOW
                            | OFlags::NONBLOCK
                            | OFlags::CLOEXEC;
                        let there = rustix::fs::openat(folder, name, flags, Mode::empty())
                            .doing(|| "open what is mounted there")?;
                        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        let back = rustix::fs::openat(folder, &*beside, flags, Mode::empty())
                            .doing(|| "open the copy")?;
                        copy(&mut File::from(back), &mut File::from(there))?;
                        rustix::fs::unlinkat(folder, &*beside, AtFlags::empty()).doing(|| "unlink the copy")
                    }
                    Err(Errno::ISDIR) => Err(Error::new(
                        Kind::Conflict,
                        format!("cannot overwrite directory {name:?} with non-directory {name:?}"),
                    )),
                    renamed => renamed.doing(|| format!("rename to {name:?}")),
                }
            });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(folder, &*beside, AtFlags::empty());
        }
        written.map_err(crate::container::explain_full)
    }

    fn mode(&self, item: &Item) -> Mode {
        // A set-user-id file of the container's root must not become one of the host's.
        let kept = if self.host && !self.owners { 0o1777 } else { 0o7777 };
        Mode::from_raw_mode(item.mode & kept)
    }

    fn owner(&self, item: &Item) -> Option<(Uid, Gid)> {
        let id = |id: u32| self.base.saturating_add(id);
        match (self.owners, self.host) {
            (true, _) => Some((Uid::from_raw(id(item.uid)), Gid::from_raw(id(item.gid)))),
            (false, true) => None,
            (false, false) => Some((Uid::from_raw(self.base), Gid::from_raw(self.base))),
        }
    }

    fn attributes(&self, file: impl AsFd, item: &Item) -> Result<()> {
        if let Some((uid, gid)) = self.owner(item) {
            rustix::fs::fchown(&file, Some(uid), Some(gid)).doing(|| "fchown()").map_err(explain_owner)?;
        }
        rustix::fs::fchmod(&file, self.mode(item)).doing(|| "fchmod()")?;
        for (name, value) in &item.attributes {
            // Capabilities of a container's files mean nothing on the host, and are worth nothing but harm there.
            if self.host && !name.starts_with(b"user.") {
                continue;
            }
            match rustix::fs::fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => {
                    return Err(errno).doing(|| format!("fsetxattr({})", String::from_utf8_lossy(name)));
                }
            }
        }
        rustix::fs::futimens(&file, &times(item)).doing(|| "utimensat()")
    }

    /// As [`attributes`](Writer::attributes), for what cannot be opened.
    fn attributes_by_name(&self, folder: &OwnedFd, name: &CString, item: &Item) -> Result<()> {
        if let Some((uid, gid)) = self.owner(item) {
            rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .doing(|| "fchownat()")
                .map_err(explain_owner)?;
        }
        rustix::fs::utimensat(folder, name, &times(item), AtFlags::SYMLINK_NOFOLLOW).doing(|| "utimensat()")
    }
}

fn kind_of(folder: &OwnedFd, name: &CString) -> Result<FileType> {
    let stat =
        rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).doing(|| format!("stat {name:?}"))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Takes away what is there under that name, unless it is a folder.
fn make_way(folder: &OwnedFd, name: &CString) -> Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Error::new(
            Kind::Conflict,
            format!("cannot overwrite directory {name:?} with non-directory {name:?}"),
        )),
        Err(errno) => Err(errno).doing(|| format!("unlink {name:?}")),
    }
}

fn times(item: &Item) -> Timestamps {
    let time = Timespec { tv_sec: item.mtime.0 as _, tv_nsec: item.mtime.1 as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// Copies all bytes.
fn copy(from: &mut dyn Read, to: &mut File) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length]).doing(|| "write()")?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err).doing(|| "read()"),
        }
    }
}

fn explain_owner(err: Error) -> Error {
    match err.errno() {
        Some(Errno::INVAL) => err.hint(
            "the container's user namespace has no such id (they end at 65535): copy without --archive",
        ),
        _ => err,
    }
}
