//! Mounts as values: made detached, given their attributes, then attached to an fd (invariant I2).
//!
//! A [`Detached`] mount is seen by nobody; dropping it unmounts it. Because both ends of [`Detached::attach`]
//! are fds, no path can be swapped between the check and the mount (CVE-2021-30465, CVE-2025-31133).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::error::{Context, Error, Result};
use crate::path::fd_name;

/// Attributes of one mount (mount_setattr(2)).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Ignore set-user-id bits and file capabilities.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// The access-time bits as a whole; to change one of them, clear this and set the one.
    pub const ATIME: u64 = 0x70;
    /// Do not update access times.
    pub const NOATIME: u64 = 0x10;
    /// Always update access times.
    pub const STRICTATIME: u64 = 0x20;
    /// Do not update access times of directories.
    pub const NODIRATIME: u64 = 0x80;
    /// Ids are seen through a user namespace's maps.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// How mount events spread (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Propagation {
    /// Neither way.
    Private = 1 << 18,
    /// From the host into here.
    Slave = 1 << 19,
    /// Both ways.
    Shared = 1 << 20,
    /// Neither way, and never to be bound elsewhere.
    Unbindable = 1 << 17,
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What to change about a mount.
#[derive(Default)]
pub struct Change<'a> {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear first.
    pub clear: u64,
    /// New propagation.
    pub propagation: Option<Propagation>,
    /// Show ids through this user namespace; only for a mount nobody has seen yet.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Everything mounted below as well.
    pub recursive: bool,
}

fn mount_setattr(dir: BorrowedFd<'_>, path: &std::ffi::CStr, change: &Change<'_>) -> Result<()> {
    let mut attr = MountAttr {
        set: change.set,
        clear: change.clear,
        propagation: change.propagation.map_or(0, |p| p as u64),
        userns_fd: 0,
    };
    if let Some(userns) = change.idmap {
        attr.set |= attr::IDMAP;
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `path` ends in NUL and `attr` is a `struct mount_attr` of the size that is passed; both outlive
    // the call and the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    crate::process::check(result).doing(|| {
        let name = if path.is_empty() { fd_name(dir) } else { format!("{path:?}") };
        format!(
            "mount_setattr({name}, set={:#x}, clear={:#x}, propagation={:#x}{})",
            attr.set,
            attr.clear,
            attr.propagation,
            if change.recursive { ", AT_RECURSIVE" } else { "" }
        )
    })?;
    Ok(())
}

/// A file system being configured: fsopen(2).
pub struct NewFs {
    fd: OwnedFd,
    kind: String,
}

impl NewFs {
    /// Starts on a file system of this type. The caller's namespaces become the file system's.
    pub fn open(kind: &str) -> Result<NewFs> {
        let fd =
            rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| format!("fsopen({kind:?})"))?;
        Ok(NewFs { fd, kind: kind.to_owned() })
    }

    /// Starts on other options for the file system that is mounted at `path`: fspick(2).
    pub fn pick(path: &Path) -> Result<NewFs> {
        let fd = rustix::mount::fspick(rustix::fs::CWD, path, FsPickFlags::FSPICK_CLOEXEC)
            .doing(|| format!("fspick({path:?})"))?;
        Ok(NewFs { fd, kind: path.display().to_string() })
    }

    /// Sets an option without a value.
    pub fn flag(self, key: &str) -> Result<NewFs> {
        rustix::mount::fsconfig_set_flag(&self.fd, key).map_err(|errno| self.complain(errno, key))?;
        Ok(self)
    }

    /// Sets an option with a value.
    pub fn string(self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Result<NewFs> {
        let value = value.as_ref();
        rustix::mount::fsconfig_set_string(&self.fd, key, value)
            .map_err(|errno| self.complain(errno, &format!("{key}={}", value.display())))?;
        Ok(self)
    }

    /// Sets an option whose value is an open file, where this kernel knows how; says whether it did.
    pub fn try_fd(&self, key: &str, value: impl AsFd) -> bool {
        rustix::mount::fsconfig_set_fd(&self.fd, key, value.as_fd()).is_ok()
    }

    /// Gives the options to the file system that was [`pick`](NewFs::pick)ed.
    pub fn reconfigure(self) -> Result<()> {
        rustix::mount::fsconfig_reconfigure(&self.fd).map_err(|errno| self.complain(errno, "CMD_RECONFIGURE"))
    }

    /// Makes the file system and a detached mount of it with these [`attr`]ibutes.
    pub fn mount(self, attributes: u64) -> Result<Detached> {
        rustix::mount::fsconfig_create(&self.fd).map_err(|errno| self.complain(errno, "CMD_CREATE"))?;
        let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map(Detached)
            .map_err(|errno| self.complain(errno, "fsmount"))
    }

    /// The kernel leaves its reasons in the context fd: `e overlay: …` lines.
    fn complain(&self, errno: rustix::io::Errno, step: &str) -> Error {
        let mut said = Vec::new();
        let mut line = [0u8; 512];
        while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut line[..]) {
            let text = String::from_utf8_lossy(&line[..n]);
            said.push(text.trim().trim_start_matches(['e', 'w', 'i', ' ']).to_owned());
        }
        let said = if said.is_empty() { String::new() } else { format!(" [kernel: {}]", said.join("; ")) };
        Error::syscall(format!("fsconfig({}, {step}){said}", self.kind), errno)
    }
}

/// A mount that is attached nowhere; gone when dropped.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Takes an fd that another process made as a detached mount and sent over.
    pub fn from_fd(fd: OwnedFd) -> Detached {
        Detached(fd)
    }

    /// A copy of what is mounted at a host path: the start of a bind mount.
    pub fn clone_path(path: &Path, recursive: bool) -> Result<Detached> {
        Detached::clone_at(CWD, path, recursive)
    }

    /// A copy of what an fd stands for.
    pub fn clone_fd(fd: impl AsFd, recursive: bool) -> Result<Detached> {
        Detached::clone_at(fd.as_fd(), Path::new(""), recursive)
    }

    /// A copy of what is at `path`, seen from `dir`.
    pub fn clone_at(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<Detached> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        rustix::mount::open_tree(dir, path, flags).map(Detached).doing(|| {
            let object = if path.as_os_str().is_empty() { fd_name(dir) } else { format!("{path:?}") };
            format!("open_tree({object}, OPEN_TREE_CLONE{})", if recursive { "|AT_RECURSIVE" } else { "" })
        })
    }

    /// Changes attributes, propagation or the id map.
    pub fn change(&self, change: &Change<'_>) -> Result<()> {
        mount_setattr(self.0.as_fd(), c"", change)
    }

    /// Attaches the mount on what `target` stands for.
    pub fn attach(&self, target: impl AsFd) -> Result<()> {
        rustix::mount::move_mount(
            &self.0,
            "",
            target.as_fd(),
            "",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
        .doing(|| format!("move_mount({}, {})", fd_name(&self.0), fd_name(target.as_fd())))
    }

    /// Opens something in the mount; `path` is ours, not the container's.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::openat(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("openat({}, {path:?})", fd_name(&self.0)))
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Detached> for OwnedFd {
    fn from(mount: Detached) -> OwnedFd {
        mount.0
    }
}

/// Changes the attributes of an attached mount, by an fd on its root.
pub fn change_attached(mount: impl AsFd, change: &Change<'_>) -> Result<()> {
    mount_setattr(mount.as_fd(), c"", change)
}

/// Takes away what is mounted at a host path, once nobody uses it any more.
pub fn unmount(path: &str) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH).doing(|| format!("umount2({path:?}, MNT_DETACH)"))
}

/// Changes the propagation of every mount of this mount namespace.
pub fn set_propagation_of_all(propagation: Propagation) -> Result<()> {
    mount_setattr(CWD, c"/", &Change { propagation: Some(propagation), recursive: true, ..Change::default() })
}

/// Makes the current directory `/` and drops the old root with all that is mounted below it: one
/// pivot_root(2) onto itself, one umount2(2), and no folder for the old root.
pub fn pivot_to_cwd() -> Result<()> {
    rustix::process::pivot_root(".", ".").doing(|| "pivot_root(\".\", \".\")")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(|| "umount2(\".\", MNT_DETACH)")?;
    rustix::process::chdir("/").doing(|| "chdir(\"/\")")
}
