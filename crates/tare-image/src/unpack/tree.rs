//! The tree being unpacked: where an entry turns into files, folders, links and nodes.

use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tare_sys::path::{Root, fd_name};
use tare_sys::{Context, Error, Kind, Result, rootless};

use super::archive::Archive;
use super::attributes::{self, Folders};
use super::entry::{Attributes, Entry, EntryKind, EntryPath, as_path, show};
use super::{Content, Unpacked, removal, whiteout};
use crate::recipe::Recording;

/// Folders kept open. Archives go through a tree in order, so few are enough.
const OPEN_FOLDERS: usize = 16;

/// A folder that is filled from an archive.
pub(super) struct Tree {
    root: Root,
    /// Paths as entries name them, and where they lead; the most recent last.
    open: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    folders: Folders,
    /// Bits that the kernel takes off each mode it is given.
    umask: u32,
    /// Whether what a mode forbids can be done all the same.
    root_user: bool,
    /// Whether files can be given to those who are to own them.
    gives_owners: bool,
    /// What it is, which is what `.wh.` names mean in it.
    content: Content,
    /// Hard links that came before what they link to: name and target.
    late: Vec<(EntryPath, EntryPath)>,
    /// Bytes of memory they take.
    late_bytes: usize,
    /// Who writes down how to make the archive again.
    recording: Option<Recording>,
}

/// Bytes of paths of hard links that may wait for what they link to.
const LATE: usize = 4 << 20;

impl Tree {
    pub(super) fn new(
        into: OwnedFd,
        scratch: BorrowedFd<'_>,
        content: Content,
        recording: Option<Recording>,
    ) -> Result<Tree> {
        let mut folders = Folders::new(scratch)?;
        // An archive need not have an entry for the root of its tree.
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        folders.push(&EntryPath::default(), &attributes)?;
        Ok(Tree {
            root: Root::new(into),
            open: Vec::new(),
            folders,
            umask: umask(),
            root_user: rustix::process::geteuid().is_root(),
            gives_owners: rustix::process::geteuid().is_root() && !rootless::has_one_id(),
            content,
            late: Vec::new(),
            late_bytes: 0,
            recording,
        })
    }

    /// Makes what the entry describes; of two with one path, the later wins, as with tar.
    pub(super) fn place<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<'_, R>,
        unpacked: &mut Unpacked,
    ) -> Result<()> {
        if entry.path.is_root() {
            return self.folders.push(&entry.path, &entry.attributes);
        }
        if self.content == Content::Layer
            && let Some(marker) = whiteout::Marker::of(&entry.path)?
        {
            return self.mark(marker);
        }
        let (folder, name) = entry.path.split();
        let folder = self.folder(folder, true)?;
        match &entry.kind {
            EntryKind::Directory => {
                // Open to us alone until its attributes are set, at the end.
                let make = || rustix::fs::mkdirat(&*folder, name, Mode::RWXU);
                match make() {
                    Err(Errno::EXIST) if is_folder(&folder, name)? => {}
                    Err(Errno::EXIST) => {
                        let covers = self.content == Content::Layer && whiteout::is_one(&folder, name);
                        self.clear(&folder, name)?;
                        make().doing(|| format!("mkdirat({}, {name:?})", fd_name(&*folder)))?;
                        if covers {
                            whiteout::make_opaque(&folder, name)?;
                        }
                    }
                    made => made.doing(|| format!("mkdirat({}, {name:?})", fd_name(&*folder)))?,
                }
                self.must_be_readable(entry.attributes.mode, 0o500);
                self.folders.push(&entry.path, &entry.attributes)
            }
            EntryKind::File => {
                unpacked.bytes += entry.size;
                self.file(&folder, name, entry, archive, unpacked)
            }
            EntryKind::HardLink(target) => match self.hard_link(&folder, name, target, true) {
                Err(err) if is_missing(&err) && self.late_bytes < LATE => {
                    self.late_bytes += entry.path.bytes().len() + target.bytes().len() + 64;
                    self.late.push((entry.path.clone(), target.clone()));
                    Ok(())
                }
                linked => linked.map_err(|err| no_target(err, target)),
            },
            EntryKind::Symlink(target) => {
                self.make(&folder, name, "symlinkat", |folder| {
                    rustix::fs::symlinkat(as_path(target), folder, name)
                })?;
                self.attributes_of_node(&folder, name, &entry.attributes, false, unpacked)
            }
            EntryKind::Fifo => self.node(&folder, name, FileType::Fifo, 0, entry, unpacked),
            EntryKind::CharDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(&folder, name, FileType::CharacterDevice, device, entry, unpacked)
            }
            EntryKind::BlockDevice(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(&folder, name, FileType::BlockDevice, device, entry, unpacked)
            }
        }
    }

    /// Marks what the layers below have as gone. What this layer itself brings under that name stays, whichever of
    /// the two comes first (image-spec, layer.md, "Whiteouts").
    fn mark(&mut self, marker: whiteout::Marker<'_>) -> Result<()> {
        match marker {
            whiteout::Marker::Ignored => Ok(()),
            whiteout::Marker::Opaque(path) => {
                let folder = self.folder(path, true)?;
                whiteout::make_opaque(&folder, OsStr::new("."))
            }
            whiteout::Marker::Gone(path, name) => {
                let folder = self.folder(path, true)?;
                match whiteout::make(&folder, name) {
                    Err(err) if err.errno() == Some(Errno::EXIST) => match is_folder(&folder, name)? {
                        // All that the layers below had in it is gone.
                        true => whiteout::make_opaque(&folder, name),
                        false => Ok(()),
                    },
                    made => made,
                }
            }
        }
    }

    /// Sets what had to wait: attributes of folders, which would change, or stand in the way, while filling them.
    pub(super) fn finish(mut self, unpacked: &mut Unpacked) -> Result<()> {
        self.link_late()?;
        // Take the list out, so that the closure can resolve paths in the rest.
        let folders = std::mem::take(&mut self.folders);
        folders.each(|path, attributes| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = if path.is_root() {
                self.root.open(as_path(b""), flags, Mode::empty())
            } else {
                let (folder, name) = path.split();
                match self.folder(folder, false) {
                    Ok(folder) => rustix::fs::openat(&*folder, name, flags, Mode::empty())
                        .doing(|| format!("openat({}, {name:?})", fd_name(&*folder))),
                    Err(err) => Err(err),
                }
            };
            let fd = match opened {
                Ok(fd) => fd,
                // A later entry replaced it.
                Err(err) if matches!(err.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                    return Ok(());
                }
                Err(err) => return Err(err),
            };
            self.attributes_of(&fd, attributes, unpacked)
                .doing(|| format!("unpack folder {}", show(path.bytes())))
        })
    }

    /// Makes the hard links whose targets came after them, or are such links themselves. What has come since under a
    /// link's name is newer, and stays.
    fn link_late(&mut self) -> Result<()> {
        let mut late = std::mem::take(&mut self.late);
        while !late.is_empty() {
            let waiting = late.len();
            let mut still = Vec::new();
            for (path, target) in late {
                let (folder, name) = path.split();
                let folder = self.folder(folder, true)?;
                match self.hard_link(&folder, name, &target, false) {
                    Err(err) if is_missing(&err) => still.push((path, target)),
                    linked => linked
                        .map_err(|err| no_target(err, &target))
                        .doing(|| format!("unpack {}", show(path.bytes())))?,
                }
            }
            if let (Some((path, target)), true) = (still.first(), still.len() == waiting) {
                let err = no_target(Error::syscall("linkat", Errno::NOENT), target);
                return Err(err.context(format!("unpack {}", show(path.bytes()))));
            }
            late = still;
        }
        Ok(())
    }

    /// Opens a folder by its path in the tree, following links inside the tree; makes what is missing of it
    /// where `make` says so.
    fn folder(&mut self, path: &[u8], make: bool) -> Result<Rc<OwnedFd>> {
        if let Some(at) = self.open.iter().rposition(|(known, _)| known == path) {
            let found = self.open.remove(at);
            let fd = found.1.clone();
            self.open.push(found);
            return Ok(fd);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = match self.root.open(as_path(path), flags, Mode::empty()) {
            Err(err) if matches!(err.errno(), Some(Errno::NOENT | Errno::NOTDIR)) && make => {
                self.make_folders(path)?
            }
            Err(err) if make => return Err(not_a_folder(err, path)),
            opened => opened?,
        };
        if self.open.len() >= OPEN_FOLDERS {
            self.open.remove(0);
        }
        let fd = Rc::new(fd);
        self.open.push((path.to_owned(), fd.clone()));
        Ok(fd)
    }

    /// Makes the folders of a path that have no entry (yet): 0755, root's, as Docker does.
    fn make_folders(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut here = self.root.open(as_path(b""), flags, Mode::empty())?;
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let so_far = EntryPath::from_checked(path[..end].to_owned());
            here = match self.root.open(as_path(so_far.bytes()), flags, Mode::empty()) {
                Err(err)
                    if err.errno() == Some(Errno::NOENT)
                        || self.content == Content::Layer && whiteout::is_one(&here, so_far.split().1) =>
                {
                    let (_, name) = so_far.split();
                    let covers = err.errno() != Some(Errno::NOENT);
                    if covers {
                        self.clear(&here, name)?;
                    }
                    match rustix::fs::mkdirat(&here, name, Mode::RWXU) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            return Err(Error::new(
                                Kind::Corrupt,
                                format!("the folder {} is a link that leads nowhere", show(so_far.bytes())),
                            ));
                        }
                        made => made.doing(|| format!("mkdirat({}, {name:?})", fd_name(&here)))?,
                    }
                    if covers {
                        whiteout::make_opaque(&here, name)?;
                    }
                    self.folders.push(&so_far, &Attributes { mode: 0o755, ..Attributes::default() })?;
                    self.root.open(as_path(so_far.bytes()), flags, Mode::empty())?
                }
                Err(err) => return Err(not_a_folder(err, so_far.bytes())),
                Ok(fd) => fd,
            };
        }
        Ok(here)
    }

    /// Removes what stands where an entry goes, a whole folder if need be.
    fn clear(&mut self, folder: &OwnedFd, name: &OsStr) -> Result<()> {
        // An open folder may lie within, or be reached through it.
        self.open.clear();
        self.spoil_recipe();
        removal::remove(folder, name)
    }

    fn spoil_recipe(&self) {
        if let Some(recording) = &self.recording {
            recording.spoil();
        }
    }

    /// What its owner may not read, nobody but root can make an archive of.
    fn must_be_readable(&self, mode: u32, bits: u32) {
        if !self.root_user && mode & bits != bits {
            self.spoil_recipe();
        }
    }

    /// Runs `make`; where the name is taken, once more after removing what has it.
    fn make<T>(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        call: &str,
        mut make: impl FnMut(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let made = match make(folder) {
            Err(Errno::EXIST) => {
                self.clear(folder, name)?;
                make(folder)
            }
            made => made,
        };
        made.doing(|| format!("{call}({}, {name:?})", fd_name(folder)))
    }

    fn file<R: BufRead>(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        archive: &mut Archive<'_, R>,
        unpacked: &mut Unpacked,
    ) -> Result<()> {
        // Created with its final mode where the kernel lets us, which saves a call for nearly every file.
        // No set-id bit while it is being written: write(2) would take it off again.
        let wanted = entry.attributes.mode;
        let created = wanted & 0o777 | 0o600;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.make(folder, name, "openat", |folder| {
            rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(created))
        })?;
        match &entry.sparse {
            None => {
                let mut copy = || archive.copy_data(|chunk| write_all(&fd, chunk));
                match &self.recording {
                    Some(recording) if entry.size > 0 => {
                        recording.file(entry.path.bytes(), entry.size, copy)?;
                    }
                    _ => copy()?,
                }
            }
            Some(map) => {
                let mut spread = map.spread();
                archive.copy_data(|chunk| spread.write(chunk, |at, bytes| write_all_at(&fd, at, bytes)))?;
                // The hole at its end, if there is one.
                rustix::fs::ftruncate(&fd, map.size)
                    .doing(|| format!("ftruncate({}, {})", fd_name(&fd), map.size))?;
            }
        }
        self.must_be_readable(wanted, 0o400);
        self.own(&fd, &entry.attributes)?;
        if created & !self.umask != wanted {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(wanted))
                .doing(|| format!("fchmod({})", fd_name(&fd)))?;
        }
        attributes::set_on_fd(&fd, &entry.attributes.xattrs, unpacked)?;
        set_times(&fd, &entry.attributes)
    }

    /// Links to a file that is there already. Its attributes are the target's, so nothing else is set: there is
    /// no call that could be led astray to what the link leads to (CVE-2021-32760).
    /// `replace` says whether what has the name goes.
    fn hard_link(&mut self, folder: &OwnedFd, name: &OsStr, target: &EntryPath, replace: bool) -> Result<()> {
        let (target_folder, target_name) = target.split();
        let target_folder = self.folder(target_folder, false)?;
        if self.content == Content::Layer && whiteout::is_one(&target_folder, target_name) {
            return Err(Error::syscall("linkat", Errno::NOENT));
        }
        let link = || rustix::fs::linkat(&*target_folder, target_name, folder, name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => {
                // Listed twice: the link is there, and removing it might remove the target.
                let gives_way = replace || self.content == Content::Layer && whiteout::is_one(folder, name);
                if same_file(&target_folder, target_name, folder, name) || !gives_way {
                    return Ok(());
                }
                self.clear(folder, name)?;
                link()
            }
            linked => linked,
        };
        linked.doing(|| {
            let (from, to) = (fd_name(&*target_folder), fd_name(folder));
            format!("linkat({from}, {target_name:?}, {to}, {name:?})")
        })
    }

    fn node(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        kind: FileType,
        device: u64,
        entry: &Entry,
        unpacked: &mut Unpacked,
    ) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.attributes.mode & 0o777);
        let made = self
            .make(folder, name, "mknodat", |folder| rustix::fs::mknodat(folder, name, kind, mode, device));
        match made {
            // Not root, or root of a user namespace. The container has its own /dev.
            Err(err) if err.errno() == Some(Errno::PERM) && kind != FileType::Fifo => {
                unpacked.devices_left_out += 1;
                Ok(())
            }
            Err(err) => Err(err),
            Ok(()) => self.attributes_of_node(folder, name, &entry.attributes, true, unpacked),
        }
    }

    /// Attributes of what has no fd of its own: links and nodes, just made here, never followed.
    fn attributes_of_node(
        &self,
        folder: &OwnedFd,
        name: &OsStr,
        attributes: &Attributes,
        has_mode: bool,
        unpacked: &mut Unpacked,
    ) -> Result<()> {
        if let Some((uid, gid)) = self.owner(attributes) {
            rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .doing(|| format!("fchownat({}, {name:?}, {uid}, {gid})", fd_name(folder)))
                .map_err(explain_owner)?;
        }
        if has_mode {
            // fchmodat(2) follows, but mknod has just made this name and nobody else can reach the tree.
            rustix::fs::chmodat(folder, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())
                .doing(|| format!("fchmodat({}, {name:?})", fd_name(folder)))?;
        }
        attributes::set_on_name(folder, name, &attributes.xattrs, unpacked)?;
        match times(attributes) {
            Some(times) => rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .doing(|| format!("utimensat({}, {name:?})", fd_name(folder))),
            None => Ok(()),
        }
    }

    /// All attributes of an open folder. The owner comes first: a change of owner takes set-id bits off.
    fn attributes_of(&self, fd: &OwnedFd, attributes: &Attributes, unpacked: &mut Unpacked) -> Result<()> {
        self.own(fd, attributes)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))
            .doing(|| format!("fchmod({})", fd_name(fd)))?;
        attributes::set_on_fd(fd, &attributes.xattrs, unpacked)?;
        set_times(fd, attributes)
    }

    fn own(&self, fd: &OwnedFd, attributes: &Attributes) -> Result<()> {
        match self.owner(attributes) {
            Some((uid, gid)) => rustix::fs::fchown(fd, Some(uid), Some(gid))
                .doing(|| format!("fchown({}, {uid}, {gid})", fd_name(fd)))
                .map_err(explain_owner),
            None => Ok(()),
        }
    }

    /// The owner to set. None for root's files, which are root's already: folders get their set-gid bits, which
    /// would give files another group, only when all files are there.
    fn owner(&self, attributes: &Attributes) -> Option<(Uid, Gid)> {
        let root = attributes.uid == 0 && attributes.gid == 0;
        (self.gives_owners && !root).then(|| (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid)))
    }
}

/// An id that the user's machine does not have.
fn explain_owner(err: Error) -> Error {
    match err.errno() {
        Some(Errno::INVAL) if rootless::is_on() => err.with_kind(Kind::Exhausted).hint(
            "the image has files of an owner beyond your subordinate ids: have root give you more of them \
             (/etc/subuid, /etc/subgid)",
        ),
        _ => err,
    }
}

/// An entry's folder turned out not to be one, or its path to be a loop: the archive's fault, not ours.
fn not_a_folder(err: Error, path: &[u8]) -> Error {
    match err.errno() {
        Some(Errno::NOTDIR) => {
            Error::new(Kind::Corrupt, format!("{} is to be a folder and a file at once", show(path)))
        }
        Some(Errno::LOOP) => {
            Error::new(Kind::Corrupt, format!("the folder {} is a loop of links", show(path)))
        }
        Some(Errno::NAMETOOLONG) => {
            Error::new(Kind::Corrupt, format!("the path {} is too long when links are followed", show(path)))
        }
        _ => err,
    }
}

/// Whether what a hard link links to is not there (yet).
fn is_missing(err: &Error) -> bool {
    matches!(err.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// What is wrong with a hard link, in words of the archive.
fn no_target(err: Error, target: &EntryPath) -> Error {
    let target = show(target.bytes());
    match err.errno() {
        _ if is_missing(&err) => {
            Error::new(Kind::Corrupt, format!("hard link to {target}, which is not in the archive"))
        }
        // link(2) on a folder.
        Some(Errno::PERM) => Error::new(Kind::Corrupt, format!("hard link to {target}, which is a folder")),
        Some(Errno::XDEV) => err.with_kind(Kind::Kernel),
        _ => err,
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(Error::syscall(format!("write({})", fd_name(fd)), Errno::IO)),
            Ok(n) => bytes = &bytes[n..],
            Err(errno) => return Err(errno).doing(|| format!("write({})", fd_name(fd))),
        }
    }
    Ok(())
}

fn write_all_at(fd: &OwnedFd, mut at: u64, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, at) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(Error::syscall(format!("pwrite64({}, {at})", fd_name(fd)), Errno::IO)),
            Ok(n) => (at, bytes) = (at + n as u64, &bytes[n..]),
            Err(errno) => return Err(errno).doing(|| format!("pwrite64({}, {at})", fd_name(fd))),
        }
    }
    Ok(())
}

fn is_folder(folder: &OwnedFd, name: &OsStr) -> Result<bool> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .doing(|| format!("fstatat({}, {name:?})", fd_name(folder)))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn same_file(a: &OwnedFd, a_name: &OsStr, b: &OwnedFd, b_name: &OsStr) -> bool {
    let stat = |fd: &OwnedFd, name: &OsStr| rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
    match (stat(a, a_name), stat(b, b_name)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// The time of last access is not the image's to tell; it is set alike, so that a tree is always the same.
fn times(attributes: &Attributes) -> Option<Timestamps> {
    let (seconds, nanoseconds) = attributes.mtime?;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Some(Timestamps { last_access: time, last_modification: time })
}

fn set_times(fd: &OwnedFd, attributes: &Attributes) -> Result<()> {
    match times(attributes) {
        Some(times) => rustix::fs::futimens(fd, &times).doing(|| format!("futimens({})", fd_name(fd))),
        None => Ok(()),
    }
}

/// The process's umask, read without changing it (umask(2) can only swap it, and there are other threads).
/// Where it cannot be read, every file gets a chmod of its own.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}
