//! Where `/` comes from: a folder, a stack of layers, or the host itself under a veil.
//!
//! Built by the parent as a detached mount, seen by nobody until the container attaches it. With a user
//! namespace, every part is shown through its id map, so files keep their true owners on disk.

mod pieces;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::mount::{self, Change, Detached, NewFs, Propagation, attr};
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::mounts::explain_idmap;

/// Where `/` comes from.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// This folder as it is.
    Directory(PathBuf),
    /// Unpacked layers, the lowest first, under a writable one.
    Layers {
        /// Folders, the lowest first.
        lower: Vec<PathBuf>,
        /// Folder with the sub-folders `upper` and `work`, on a real disk.
        upper: PathBuf,
        /// Nothing in it need survive a crash: no sync when it is unmounted.
        volatile: bool,
    },
    /// The host's own root file system, less what the veil covers, under a throw-away layer in memory.
    Host {
        /// What is covered, parents before children.
        veil: Vec<Veiled>,
    },
}

/// One covered path of the host.
#[derive(Debug, Clone)]
pub struct Veiled {
    /// Path below `/`, without the leading slash.
    pub path: PathBuf,
    /// What is seen instead.
    pub cover: Cover,
}

/// What is seen instead of a covered path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// Nothing: the name is not there.
    Gone,
    /// An empty folder with this mode.
    Empty(u32),
    /// The folder as it is; listed because something in it is covered. Its mode.
    Parent(u32),
}

/// A user namespace as a mount sees it.
#[derive(Debug, Clone, Copy)]
pub struct IdMap<'a> {
    /// The namespace.
    pub userns: BorrowedFd<'a>,
    /// Host user id of its root.
    pub uid: u32,
    /// Host group id of its root.
    pub gid: u32,
}

impl Rootfs {
    /// Builds it. `idmap`: the container's user namespace, if it has its own.
    pub fn build(&self, idmap: Option<IdMap<'_>>) -> Result<Detached> {
        match self.build_with(idmap, false) {
            // Before Linux 6.15 overlayfs takes no layer from a detached mount.
            Err(err) if err.errno() == Some(Errno::INVAL) && !matches!(self, Rootfs::Directory(_)) => {
                in_own_namespace(|| self.build_with(idmap, true)).map_err(|_| err)
            }
            built => built,
        }
    }

    /// What it is before a container has changed anything, to be looked into: read-only, ids as they are on disk.
    pub fn view(&self) -> Result<Detached> {
        match self {
            Rootfs::Layers { lower, .. } => {
                layers_alone(lower, None).doing(|| format!("stack {} layers", lower.len()))
            }
            Rootfs::Directory(_) | Rootfs::Host { .. } => self.build(None),
        }
    }

    /// `attached`: attach each copy before it becomes a layer; the caller has a mount namespace for that.
    fn build_with(&self, idmap: Option<IdMap<'_>>, attached: bool) -> Result<Detached> {
        match self {
            Rootfs::Directory(path) => {
                let what = || format!("use {} as the root file system", path.display());
                let tree = Detached::clone_path(path, true).doing(what)?;
                // A copy of a shared mount is shared with it: all that the container mounts would appear on the host.
                let slave =
                    Change { propagation: Some(Propagation::Slave), recursive: true, ..Change::default() };
                tree.change(&slave).doing(what)?;
                show_through(&tree, idmap).doing(what)?;
                Ok(tree)
            }
            Rootfs::Layers { lower, upper, volatile } => {
                let what = || format!("stack {} layers under {}", lower.len(), upper.display());
                build_layers(lower, upper, *volatile, idmap, attached).doing(what)
            }
            Rootfs::Host { veil } if rootless::is_on() => {
                pieces::build(veil).doing(|| "use the host's root file system")
            }
            Rootfs::Host { veil } => {
                build_host(veil, idmap, attached).doing(|| "use the host's root file system")
            }
        }
    }
}

/// Does something in a mount namespace of its own, and comes back from it.
fn in_own_namespace<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let path = "/proc/self/ns/mnt";
    let back = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))?;
    process::unshare(namespace::MOUNT)?;
    let result = mount::set_propagation_of_all(Propagation::Private).and_then(|()| work());
    process::enter(back.as_fd(), namespace::MOUNT)?;
    result
}

/// Puts a copy on top of `/`, where only its own fd leads to it.
fn attach_on_top(tree: &Detached) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    tree.attach(rustix::fs::open("/", flags, Mode::empty()).doing(|| "open(\"/\")")?)
}

fn show_through(tree: &Detached, idmap: Option<IdMap<'_>>) -> Result<()> {
    let Some(idmap) = idmap else { return Ok(()) };
    tree.change(&Change { idmap: Some(idmap.userns), ..Change::default() })
        .map_err(|err| explain_idmap(err, "--userns=host"))
}

/// Opens folders for overlayfs. Those beside each other share one idmapped copy of their parent, which has
/// to live until overlayfs has cloned it: a detached mount ends with its fd, whatever is open inside.
struct Folders<'a> {
    idmap: Option<IdMap<'a>>,
    attached: bool,
    parents: Vec<(PathBuf, Detached)>,
}

impl Folders<'_> {
    fn open(&mut self, path: &Path) -> Result<OwnedFd> {
        if self.idmap.is_none() {
            return open_folder(path);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(Kind::Usage, format!("{}: not a folder below another", path.display())));
        };
        let known = self.parents.iter().position(|(known, _)| known == parent);
        let at = match known {
            Some(at) => at,
            None => {
                let tree = Detached::clone_path(parent, false)?;
                show_through(&tree, self.idmap)?;
                if self.attached {
                    attach_on_top(&tree)?;
                }
                self.parents.push((parent.to_owned(), tree));
                self.parents.len() - 1
            }
        };
        let tree = &self.parents[at].1;
        rustix::fs::openat(tree, name, flags, Mode::empty()).doing(|| format!("open({path:?})"))
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open({path:?})"))
}

fn build_layers(
    lower: &[PathBuf],
    upper: &Path,
    volatile: bool,
    idmap: Option<IdMap<'_>>,
    attached: bool,
) -> Result<Detached> {
    let mut folders = Folders { idmap, attached, parents: Vec::new() };
    // Overlayfs wants the topmost first.
    let lower = lower.iter().rev().map(|path| folders.open(path)).collect::<Result<Vec<_>>>()?;
    let (upper, work) = (folders.open(&upper.join("upper"))?, folders.open(&upper.join("work"))?);
    overlay(&lower, &upper, &work, volatile, idmap)
}

/// Layers without a writable one on top, the lowest first.
pub fn layers_alone(lower: &[PathBuf], idmap: Option<IdMap<'_>>) -> Result<Detached> {
    let mut folders = Folders { idmap, attached: false, parents: Vec::new() };
    let lower = lower.iter().rev().map(|path| folders.open(path)).collect::<Result<Vec<_>>>()?;
    if let [only] = lower.as_slice() {
        // Overlayfs wants two.
        return Detached::clone_fd(only, false);
    }
    with_ids(idmap, || {
        let fs = open_overlay()?;
        if lower.iter().all(|layer| fs.try_fd("lowerdir+", layer)) {
            return fs.mount(attr::RDONLY | attr::NODEV);
        }
        let names: Vec<String> = lower.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
        in_fd_folder(|| {
            open_overlay()?.string("lowerdir", names.join(":"))?.mount(attr::RDONLY | attr::NODEV)
        })
    })
}

fn build_host(veil: &[Veiled], idmap: Option<IdMap<'_>>, attached: bool) -> Result<Detached> {
    let (uid, gid) = idmap.map_or((0, 0), |map| (map.uid, map.gid));
    let memory = NewFs::open("tmpfs")?
        .string("mode", "755")?
        .string("uid", uid.to_string())?
        .string("gid", gid.to_string())?
        .mount(0)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    with_ids(idmap, || {
        for (name, mode) in [("veil", 0o755), ("upper", 0o755), ("work", 0o700)] {
            make_folder(memory.as_fd(), Path::new(name), mode)?;
        }
        let covers = memory.open("veil", flags)?;
        veil.iter().try_for_each(|veiled| cover(covers.as_fd(), veiled))
    })?;
    let host = Detached::clone_path(Path::new("/"), false)?;
    show_through(&host, idmap)?;
    if attached {
        attach_on_top(&memory)?;
        attach_on_top(&host)?;
    }
    let lower = [memory.open("veil", flags)?, host.into()];
    overlay(&lower, &memory.open("upper", flags)?, &memory.open("work", flags)?, true, idmap)
}

fn make_folder(dir: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<()> {
    // The caller's umask must not decide what the container may enter.
    rustix::fs::mkdirat(dir, path, Mode::from_raw_mode(mode))
        .doing(|| format!("mkdir {}", path.display()))?;
    rustix::fs::chmodat(dir, path, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
        .doing(|| format!("chmod {}", path.display()))
}

fn cover(dir: BorrowedFd<'_>, veiled: &Veiled) -> Result<()> {
    let path = &veiled.path;
    match veiled.cover {
        // A character device 0:0 is overlayfs' whiteout (kernel: Documentation/filesystems/overlayfs.rst).
        Cover::Gone => rustix::fs::mknodat(dir, path, FileType::CharacterDevice, Mode::empty(), 0)
            .doing(|| format!("mknod whiteout {}", path.display())),
        Cover::Parent(mode) => make_folder(dir, path, mode),
        Cover::Empty(mode) => {
            make_folder(dir, path, mode)?;
            let fd = rustix::fs::openat(
                dir,
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .doing(|| format!("open {}", path.display()))?;
            let name = rootless::opaque_attribute();
            rustix::fs::fsetxattr(&fd, name, b"y", rustix::fs::XattrFlags::empty())
                .doing(|| format!("setxattr({}, {name})", path.display()))
        }
    }
}

/// An overlay to be configured. Of an ordinary user's, the marks are attributes that the user may set.
fn open_overlay() -> Result<NewFs> {
    let fs = NewFs::open("overlay").map_err(|err| {
        if err.errno() == Some(Errno::NODEV) {
            err.with_kind(Kind::Unsupported).hint("this kernel has no overlayfs: try `modprobe overlay`")
        } else {
            err
        }
    })?;
    if rootless::is_on() { fs.flag("userxattr") } else { Ok(fs) }
}

fn overlay(
    lower: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
    volatile: bool,
    idmap: Option<IdMap<'_>>,
) -> Result<Detached> {
    with_ids(idmap, || {
        let fs = open_overlay()?;
        // Layers by fd are Linux 6.13.
        let by_fd = lower.iter().all(|layer| fs.try_fd("lowerdir+", layer));
        if by_fd && fs.try_fd("upperdir", upper) && fs.try_fd("workdir", work) {
            return finish(fs, volatile, idmap);
        }
        // Before, by name. A list of names has to fit into 256 bytes (fsconfig(2)), so they are short: numbers,
        // seen from the folder of our own fds.
        let names: Vec<String> = lower.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
        in_fd_folder(|| {
            let fs = open_overlay()?
                .string("lowerdir", names.join(":"))?
                .string("upperdir", upper.as_raw_fd().to_string())?
                .string("workdir", work.as_raw_fd().to_string())?;
            finish(fs, volatile, idmap)
        })
    })
}

/// Does something in the folder where our fds are files with short names.
fn in_fd_folder<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before =
        rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(|| "open(\".\")")?;
    rustix::process::chdir("/proc/self/fd").doing(|| "chdir(\"/proc/self/fd\")")?;
    let result = work();
    rustix::process::fchdir(&before).doing(|| "fchdir(back)")?;
    result
}

fn finish(fs: NewFs, volatile: bool, idmap: Option<IdMap<'_>>) -> Result<Detached> {
    let fs = if volatile { fs.flag("volatile")? } else { fs };
    // What an image carries as a device node is data; the container's devices are those in its /dev.
    fs.mount(if idmap.is_some() { attr::NODEV } else { 0 })
}

/// Overlayfs remembers the credentials of its mounter and makes its own files with them.
fn with_ids<T>(idmap: Option<IdMap<'_>>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match idmap {
        Some(map) => tare_sys::process::with_fs_ids(map.uid, map.gid, work),
        None => work(),
    }
}
