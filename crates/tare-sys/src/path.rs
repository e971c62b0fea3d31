//! Paths inside a root that we do not trust, resolved by the kernel and kept as fds (invariant I1).
//!
//! A container path is never joined to a host path: `openat2(2)` with `RESOLVE_IN_ROOT` walks it as if the
//! root's fd were `/`, so neither `..` nor a symbolic link leads out, however the tree changes meanwhile.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::process::check;

/// Reads a file of /proc or /sys that is known to be short, up to 4 KiB, with one read(2): such files say that
/// their size is 0, and the standard library feels its way to their end.
pub fn read_short(path: &str) -> Result<String> {
    let what = || format!("read {path}");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
    let mut bytes = vec![0; 4096];
    let length = rustix::io::read(&file, &mut bytes[..]).doing(what)?;
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Names an fd for a message, as strace does: `5</var/lib/tare>`.
pub fn fd_name(fd: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    let raw = fd.as_fd().as_raw_fd();
    match std::fs::read_link(format!("/proc/self/fd/{raw}")) {
        Ok(path) => format!("{raw}<{}>", path.display()),
        Err(_) => raw.to_string(),
    }
}

/// Gives a name in a folder these permissions: what has the name itself, and never what it leads to, as fchmodat(2) would.
/// For pipes, sockets and devices, which cannot be opened, in a folder that others can change meanwhile.
pub fn set_mode(folder: BorrowedFd<'_>, name: &CStr, mode: Mode) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    // As every architecture has it (asm-generic/unistd.h, Linux 6.6).
    const FCHMODAT2: libc::c_long = 452;
    // SAFETY: the call reads a string that ends with NUL, which `name` is and which outlives it.
    let done = unsafe {
        libc::syscall(
            FCHMODAT2,
            folder.as_raw_fd(),
            name.as_ptr(),
            mode.as_raw_mode(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    match check(done) {
        // An older kernel, or a filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {}
        done => return done.map(drop),
    }
    let held =
        rustix::fs::openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), mode)
}

/// Most dangling links followed when folders are made.
const LINKS: u32 = 8;

/// How container paths are resolved: as if the root were `/`, and never through a link of /proc.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A directory that plays `/` for the paths resolved in it.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Takes an open directory (`O_PATH` is enough) as the root.
    pub fn new(fd: OwnedFd) -> Root {
        Root(fd)
    }

    /// Opens `path` inside the root, following links inside it. `O_CLOEXEC` is always added.
    ///
    /// Retries the `EAGAIN` that the kernel answers when the tree is renamed under a `..` (openat2(2)).
    pub fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        self.resolve(path, flags, mode, IN_ROOT)
    }

    /// Opens `path` (`O_PATH`) if it is there.
    pub fn find(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.try_resolve(path, OFlags::PATH, Mode::empty(), IN_ROOT) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            result => result.map(Some).doing(|| self.call(path)),
        }
    }

    /// As [`find`](Root::find), but a link on the way is an error.
    pub fn find_plain(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.try_resolve(path, OFlags::PATH, Mode::empty(), IN_ROOT.union(ResolveFlags::NO_SYMLINKS)) {
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(Error::new(
                Kind::Corrupt,
                format!("{} is a symbolic link, or lies behind one", path.display()),
            )),
            result => result.map(Some).doing(|| self.call(path)),
        }
    }

    /// Makes `path` a link with this target, unless it is one already. Answers with the link itself.
    pub fn make_link(&self, path: &Path, target: &std::ffi::CStr) -> Result<OwnedFd> {
        let parent = self.make_dirs(path.parent().unwrap_or(Path::new("/")), Mode::from_raw_mode(0o755))?;
        let name = path
            .file_name()
            .ok_or_else(|| Error::new(Kind::Usage, format!("{}: not the name of a file", path.display())))?;
        match rustix::fs::symlinkat(target, &parent, name) {
            Err(Errno::EXIST)
                if rustix::fs::readlinkat(&parent, name, Vec::new())
                    .is_ok_and(|there| there.as_c_str() == target) => {}
            result => result.doing(|| format!("symlinkat({target:?}, {}, {name:?})", fd_name(&parent)))?,
        }
        rustix::fs::openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("openat({}, {name:?})", fd_name(&parent)))
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode, how: ResolveFlags) -> Result<OwnedFd> {
        self.try_resolve(path, flags, mode, how).doing(|| self.call(path)).map_err(|err| match err.errno() {
            Some(Errno::AGAIN) => {
                err.with_kind(Kind::Conflict).hint("its folders are being renamed under us")
            }
            _ => err,
        })
    }

    fn try_resolve(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
        how: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        // IN_ROOT takes an absolute path as relative to the root; an empty one means the root itself.
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        for _ in 0..128 {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, how) {
                Err(Errno::AGAIN | Errno::INTR) => continue,
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    fn call(&self, path: &Path) -> String {
        format!("openat2({}, {path:?})", fd_name(&self.0))
    }

    /// Opens the directory `path`, making what is missing of it with `mode`. Every step is resolved in the
    /// root, so a link half way leads to where the container sees it leading.
    pub fn make_dirs(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        self.make_dirs_within(path, mode, LINKS)
    }

    fn make_dirs_within(&self, path: &Path, mode: Mode, links: u32) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.try_resolve(path, flags, Mode::empty(), IN_ROOT) {
            Err(Errno::NOENT) => {}
            found => return found.doing(|| self.call(path)),
        }
        let (parent, name) = match (path.parent(), path.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) => {
                (self.make_dirs_within(parent, mode, links)?, name)
            }
            _ => return Err(Error::new(Kind::Usage, format!("{}: cannot be made", path.display()))),
        };
        match rustix::fs::mkdirat(&parent, name, mode) {
            // A link that leads nowhere yet: what it names is made, where it leads inside the root.
            Err(Errno::EXIST) if links > 0 => match rustix::fs::readlinkat(&parent, name, Vec::new()) {
                Ok(target) => {
                    use std::os::unix::ffi::OsStrExt;
                    let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes()));
                    let whole = path.parent().unwrap_or(Path::new("/")).join(target);
                    self.make_dirs_within(&whole, mode, links - 1)
                }
                Err(_) => self.resolve(path, flags, Mode::empty(), IN_ROOT),
            },
            Ok(()) | Err(Errno::EXIST) => self.resolve(path, flags, Mode::empty(), IN_ROOT),
            Err(errno) => Err(errno).doing(|| format!("mkdirat({}, {name:?})", fd_name(&parent))),
        }
    }

    /// Opens the file `path` (`O_PATH`), making it, empty, and its folders if missing.
    pub fn make_file(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        let parent = self.make_dirs(path.parent().unwrap_or(Path::new("/")), Mode::from_raw_mode(0o755))?;
        let name = path
            .file_name()
            .ok_or_else(|| Error::new(Kind::Usage, format!("{}: not the name of a file", path.display())))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, mode) {
            Err(Errno::EXIST) => self.open(path, OFlags::PATH, Mode::empty()),
            Err(errno) => {
                Err(errno).doing(|| format!("openat({}, {name:?}, O_CREAT|O_EXCL)", fd_name(&parent)))
            }
            // Not kept open for writing: the mount could not be made read-only.
            Ok(made) => {
                drop(made);
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::empty())
                    .doing(|| format!("openat({}, {name:?}, O_PATH)", fd_name(&parent)))
            }
        }
    }

    /// Reads a small regular file inside the root, or `None` where there is none. Whatever is not a regular
    /// file, or is longer than `limit` bytes, is refused (CVE-2026-47262, CVE-2024-9676).
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        // Non-blocking: a pipe must not make us wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match self.try_resolve(path, flags, Mode::empty(), IN_ROOT) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            result => result.doing(|| self.call(path))?,
        };
        let stat = rustix::fs::fstat(&fd).doing(|| format!("fstat({})", fd_name(&fd)))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{} in the image is not a regular file", path.display()),
            ));
        }
        // Room for all of it and a little more, so that one read(2) gets it and one finds the end.
        let mut bytes = Vec::with_capacity(stat.st_size.unsigned_abs().min(limit) as usize + 64);
        File::from(fd)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .doing(|| format!("read {} in the image", path.display()))?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{} in the image is longer than {limit} bytes", path.display()),
            ));
        }
        Ok(Some(bytes))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
