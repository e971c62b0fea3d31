//! `cp`: files into and out of a container, whether it runs or not.
//!
//! ```text
//! copy_from   container's tree ─▶ items ─▶ tree of the host         archive   container's tree ─▶ items ─▶ tar
//! copy_to     tree of the host ─▶ items ─▶ container's tree         extract   tar ─▶ items ─▶ container's tree
//! ```
//!
//! The container may be hostile, and change its tree while we read or write it. What holds all the same (CVE-2018-15664,
//! CVE-2026-41568, CVE-2026-42306): a path in the container is resolved by the kernel inside the container's root, and
//! from there on every step is one name below an open folder, never followed if it is a link. Nothing of the container
//! is executed or loaded, and compressed archives are inflated in this process (CVE-2019-14271, CVE-2026-41567).

mod inside;
mod item;
mod read;
mod rule;
mod tar;
mod write;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::path::Root;
use tare_sys::{Context, Error, Kind, Result};

use crate::engine::{Engine, need_root};
use crate::events::Event;
use inside::Inside;
use read::Reader;
use rule::{Destination, Wish};
use write::Writer;

/// How to copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyOptions {
    /// A source that is a link stands for what it leads to.
    pub follow_link: bool,
    /// Owners stay as they are at the source; otherwise all belongs to whom the destination belongs to: the container's
    /// root, or the caller.
    pub archive: bool,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of all files.
    pub bytes: u64,
    /// Devices and sockets, which are not copied.
    pub left_out: u64,
}

impl Engine {
    /// Copies a file or folder of the container to the host.
    pub fn copy_from(&self, container: &str, from: &str, to: &Path, options: CopyOptions) -> Result<Copied> {
        need_root()?;
        let what = || format!("copy {container}:{from} to {}", to.display());
        let inside = Inside::open(self, container)?;
        let copy = || {
            let (source, wish) = inside.source(container, from, options.follow_link)?;
            let there = rustix::fs::stat(to).ok().map(|stat| FileType::from_raw_mode(stat.st_mode));
            let target = to.as_os_str().as_encoded_bytes();
            let destination =
                rule::destination(&wish, target, there.map(|kind| kind == FileType::Directory))?;
            let (folder, name) = match &destination {
                Destination::Contents => (to, None),
                Destination::Below(name) => (to, Some(name.as_slice())),
                Destination::Named => {
                    let name = to
                        .file_name()
                        .ok_or_else(|| Error::new(Kind::Usage, "the destination has no name"))?;
                    let parent =
                        to.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
                    (parent, Some(name.as_encoded_bytes()))
                }
            };
            let folder =
                rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .doing(|| format!("open {}", folder.display()))
                    .map_err(|err| match err.errno() {
                        Some(Errno::NOENT) => {
                            err.hint("the folder it is to be copied into has to exist: mkdir it first")
                        }
                        _ => err,
                    })?;
            let mut writer = Writer::on_host(folder, name, options.archive);
            Reader::new(inside.base).read(source, &mut |item, data| writer.put(item, data))?;
            writer.finish()
        };
        let copied = copy().doing(what)?;
        self.tell_copy(container, "archive-path");
        Ok(copied)
    }

    /// Copies a file or folder of the host into the container.
    pub fn copy_to(&self, container: &str, from: &Path, to: &str, options: CopyOptions) -> Result<Copied> {
        need_root()?;
        let what = || format!("copy {} to {container}:{to}", from.display());
        let inside = Inside::open(self, container)?;
        let copy = || {
            let wish = Wish::of(from.as_os_str().as_encoded_bytes());
            let mut flags = OFlags::PATH | OFlags::CLOEXEC;
            if !options.follow_link && !wish.must_be_folder {
                flags |= OFlags::NOFOLLOW;
            }
            let source =
                rustix::fs::open(from, flags, Mode::empty()).doing(|| format!("open {}", from.display()))?;
            let wish = wish.found(is_folder(&source)?)?;
            let mut writer = inside.writer(to, &wish, options.archive)?;
            inside.as_its_root(|| {
                Reader::new(0).read(source, &mut |item, data| writer.put(item, data))?;
                writer.finish()
            })
        };
        let copied = copy().doing(what)?;
        self.tell_copy(container, "extract-to-dir");
        Ok(copied)
    }

    /// Writes a file or folder of the container as a tar archive, ids as the container sees them.
    pub fn archive(
        &self,
        container: &str,
        from: &str,
        options: CopyOptions,
        to: &mut dyn Write,
    ) -> Result<Copied> {
        need_root()?;
        let inside = Inside::open(self, container)?;
        let mut copy = || {
            let (source, wish) = inside.source(container, from, options.follow_link)?;
            let name = if wish.contents { b".".to_vec() } else { wish.name };
            let mut writer = tar::TarWriter::new(to, name);
            Reader::new(inside.base).read(source, &mut |item, data| writer.put(item, data))?;
            writer.finish()
        };
        let copied = copy().doing(|| format!("copy from {container}:{from}"))?;
        self.tell_copy(container, "archive-path");
        Ok(copied)
    }

    /// Unpacks a tar archive, plain or compressed by gzip or zstd, into a folder of the container. Owners are those that
    /// the archive names.
    pub fn extract(&self, container: &str, to: &str, from: &mut dyn Read) -> Result<Copied> {
        need_root()?;
        let inside = Inside::open(self, container)?;
        let mut copy = || {
            let folder = inside
                .root
                .open(Path::new(to), OFlags::PATH, Mode::empty())
                .map_err(|err| no_file(err, to, container))?;
            if !is_folder(&folder)? {
                return Err(Error::new(
                    Kind::Usage,
                    format!("destination \"{container}:{to}\" must be a directory"),
                )
                .hint("an archive is unpacked into a folder"));
            }
            let mut writer = Writer::in_container(&inside, folder, to.as_bytes(), None, true);
            inside.as_its_root(|| {
                tar::read(from, &mut |item, data| writer.put(item, data))?;
                writer.finish()
            })
        };
        let copied = copy().doing(|| format!("copy to {container}:{to}"))?;
        self.tell_copy(container, "extract-to-dir");
        Ok(copied)
    }

    fn tell_copy(&self, container: &str, action: &str) {
        // A courtesy: one that is gone meanwhile is not told of.
        if let Ok(record) = self.find(container).and_then(|folders| folders.record()) {
            self.emit(&Event::container(&record, action));
        }
    }
}

impl Inside {
    /// Finds what is to be copied out.
    fn source(&self, container: &str, from: &str, follow: bool) -> Result<(OwnedFd, Wish)> {
        let wish = Wish::of(from.as_bytes());
        let mut flags = OFlags::PATH;
        if !follow && !wish.must_be_folder {
            flags |= OFlags::NOFOLLOW;
        }
        let source = self
            .root
            .open(Path::new(from), flags, Mode::empty())
            .map_err(|err| no_file(err, from, container))?;
        let wish = wish.found(is_folder(&source)?)?;
        Ok((source, wish))
    }

    /// Finds where in the container it is to go.
    fn writer(&self, to: &str, wish: &Wish, archive: bool) -> Result<Writer<'_>> {
        let path = Path::new(to);
        let there = self.root.find(path)?;
        let is_there = there.as_ref().map(is_folder).transpose()?;
        let target = to.as_bytes();
        let (folder, at, name) = match rule::destination(wish, target, is_there)? {
            Destination::Contents => (there, target.to_vec(), None),
            Destination::Below(name) => (there, target.to_vec(), Some(name)),
            Destination::Named => {
                // Where the destination is a link, what it leads to is written; else the name itself.
                let real = real_name(&self.root, path)?;
                let (parent, name) = rule::split(&real);
                let folder =
                    self.root.find(Path::new(std::ffi::OsStr::new(&*String::from_utf8_lossy(&parent))))?;
                (folder, parent, Some(name))
            }
        };
        let folder = folder.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("no such directory: {}", String::from_utf8_lossy(&at)))
                .hint("the folder it is to be copied into has to exist in the container")
        })?;
        if !is_folder(&folder)? {
            return Err(Error::new(
                Kind::Usage,
                format!("{}: not a directory", String::from_utf8_lossy(&at)),
            ));
        }
        Ok(Writer::in_container(self, folder, &at, name.as_deref(), archive))
    }
}

/// The path that a path leads to when its last part is a link, or a link to a link; inside the root.
fn real_name(root: &Root, path: &Path) -> Result<Vec<u8>> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let Some(name) = path.file_name() else { break };
        let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
        // Whoever opens it says that it is not there.
        let Some(folder) = root.find(&parent)? else { return Ok(path.into_os_string().into_encoded_bytes()) };
        match rustix::fs::readlinkat(&folder, name, Vec::new()) {
            Ok(target) => {
                use std::os::unix::ffi::OsStrExt;
                path = parent.join(std::ffi::OsStr::from_bytes(target.to_bytes()));
            }
            Err(_) => return Ok(path.into_os_string().into_encoded_bytes()),
        }
    }
    Err(Error::new(Kind::Usage, format!("{}: links in a circle", path.display())))
}

fn is_folder(file: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(file.as_fd()).doing(|| "fstat(file)")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn no_file(err: Error, path: &str, container: &str) -> Error {
    match err.errno() {
        Some(Errno::NOENT) => {
            Error::new(Kind::NotFound, format!("Could not find the file {path} in container {container}"))
        }
        Some(Errno::NOTDIR) => Error::new(Kind::Usage, format!("{path}: not a directory")),
        _ => err,
    }
}
