//! Extended attributes, and the attributes of folders that wait until the folders are full.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use tare_sys::path::fd_name;
use tare_sys::{Context, Error, Kind, Result};

use super::Unpacked;
use super::entry::{Attributes, EntryPath};

/// Whether an image may set this attribute.
pub(crate) fn is_allowed(name: &[u8]) -> bool {
    // Overlayfs would take these as its own: a layer could hide or redirect files of the layers below.
    let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    // Labels and measurements belong to the host's policy; file capabilities are the image's.
    let host = name.starts_with(b"security.") && name != b"security.capability";
    !overlay && !host
}

/// Sets attributes on an open file or folder.
pub(super) fn set_on_fd(fd: &OwnedFd, xattrs: &[(Vec<u8>, Vec<u8>)], unpacked: &mut Unpacked) -> Result<()> {
    set(xattrs, unpacked, |name, value| {
        rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
            .doing(|| format!("fsetxattr({}, {name:?})", fd_name(fd)))
    })
}

/// Sets attributes on a link or node, without following it.
pub(super) fn set_on_name(
    folder: &OwnedFd,
    name: &OsStr,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    unpacked: &mut Unpacked,
) -> Result<()> {
    set(xattrs, unpacked, |xattr, value| {
        // There is no lsetxattrat before Linux 6.13. The link in /proc leads to the folder we hold, and the
        // last part is not followed.
        let path = std::path::Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        rustix::fs::lsetxattr(&path, xattr, value, XattrFlags::empty())
            .doing(|| format!("lsetxattr({}/{name:?}, {xattr:?})", fd_name(folder)))
    })
}

fn set(
    xattrs: &[(Vec<u8>, Vec<u8>)],
    unpacked: &mut Unpacked,
    set: impl Fn(&CString, &[u8]) -> Result<()>,
) -> Result<()> {
    for (name, value) in xattrs {
        let Some(c_name) = CString::new(name.as_slice()).ok().filter(|_| is_allowed(name)) else {
            unpacked.xattrs_dropped += 1;
            continue;
        };
        match set(&c_name, value) {
            // The file system, or the kind of file, has no room for such; a program without its capability
            // would fail in ways hard to explain, so that one is not dropped.
            Err(err)
                if matches!(err.errno(), Some(Errno::OPNOTSUPP | Errno::PERM))
                    && name != b"security.capability" =>
            {
                unpacked.xattrs_dropped += 1;
            }
            Err(err) if matches!(err.errno(), Some(Errno::INVAL | Errno::RANGE | Errno::TOOBIG)) => {
                return Err(err.with_kind(Kind::Corrupt));
            }
            done => done?,
        }
    }
    Ok(())
}

/// Bytes of folder attributes kept in memory.
const IN_MEMORY: usize = 4 << 20;

/// Attributes of folders, in the order of their entries; beyond [`IN_MEMORY`] in a file without a name.
#[derive(Default)]
pub(super) struct Folders {
    buffer: Vec<u8>,
    /// Taken along so that the file is on the same disk as the tree; `None` once it is spent.
    scratch: Option<OwnedFd>,
    spilled: Option<File>,
}

impl Folders {
    pub(super) fn new(scratch: BorrowedFd<'_>) -> Result<Folders> {
        let scratch = scratch.try_clone_to_owned().doing(|| format!("dup({})", fd_name(scratch)))?;
        Ok(Folders { buffer: Vec::new(), scratch: Some(scratch), spilled: None })
    }

    /// Notes the attributes of a folder.
    pub(super) fn push(&mut self, path: &EntryPath, attributes: &Attributes) -> Result<()> {
        let out = &mut self.buffer;
        put_bytes(out, path.bytes());
        for number in [attributes.mode, attributes.uid, attributes.gid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let (seconds, nanoseconds) = attributes.mtime.unwrap_or_default();
        out.push(u8::from(attributes.mtime.is_some()));
        out.extend_from_slice(&seconds.to_le_bytes());
        out.extend_from_slice(&nanoseconds.to_le_bytes());
        put_length(out, attributes.xattrs.len());
        for (name, value) in &attributes.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
        if self.buffer.len() > IN_MEMORY { self.spill() } else { Ok(()) }
    }

    /// Hands out what was noted, first to last; the last for a path wins.
    pub(super) fn each(mut self, mut each: impl FnMut(&EntryPath, &Attributes) -> Result<()>) -> Result<()> {
        let Some(mut file) = self.spilled.take() else {
            return read(&self.buffer[..], &mut each);
        };
        file.write_all(&self.buffer)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .doing(|| "write folder attributes")?;
        drop(self.buffer);
        read(BufReader::with_capacity(1 << 16, file), &mut each)
    }

    fn spill(&mut self) -> Result<()> {
        if let Some(scratch) = self.scratch.take() {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&scratch, "folders", flags, Mode::RUSR | Mode::WUSR)
                .doing(|| format!("openat({}, \"folders\")", fd_name(&scratch)))?;
            rustix::fs::unlinkat(&scratch, "folders", rustix::fs::AtFlags::empty())
                .doing(|| format!("unlinkat({}, \"folders\")", fd_name(&scratch)))?;
            self.spilled = Some(File::from(fd));
        }
        if let Some(file) = &mut self.spilled {
            file.write_all(&self.buffer).doing(|| "write folder attributes")?;
            self.buffer.clear();
        }
        Ok(())
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // An extension header is at most 1 MiB, a path 4 KiB: 32 bits always do.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn read(mut from: impl Read, each: &mut impl FnMut(&EntryPath, &Attributes) -> Result<()>) -> Result<()> {
    let mut length = [0; 4];
    loop {
        match from.read_exact(&mut length) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(err) => return Err(err).doing(|| "read folder attributes"),
        }
        let (path, attributes) = record(&mut from, u32::from_le_bytes(length))
            .map_err(|err| Error::new(Kind::Kernel, format!("read folder attributes: {err}")))?;
        each(&EntryPath::from_checked(path), &attributes)?;
    }
}

fn record(from: &mut impl Read, path: u32) -> std::io::Result<(Vec<u8>, Attributes)> {
    fn take<const N: usize>(from: &mut impl Read) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        from.read_exact(&mut bytes).map(|()| bytes)
    }
    fn number(from: &mut impl Read) -> std::io::Result<u32> {
        take(from).map(u32::from_le_bytes)
    }
    fn bytes(from: &mut impl Read, length: u32) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        from.take(length.into()).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
    let path = bytes(from, path)?;
    let (mode, uid, gid) = (number(from)?, number(from)?, number(from)?);
    let has_time = take::<1>(from)? == [1];
    let time = (i64::from_le_bytes(take(from)?), number(from)?);
    let mut xattrs = Vec::new();
    for _ in 0..number(from)? {
        let length = number(from)?;
        let name = bytes(from, length)?;
        let length = number(from)?;
        xattrs.push((name, bytes(from, length)?));
    }
    Ok((path, Attributes { mode, uid, gid, mtime: has_time.then_some(time), xattrs }))
}
