//! A container's file system as it sees it, held by an fd: that of its process where it runs, else put together from its
//! layers and volumes for as long as it takes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use tare_runtime::mounts::{self, Options};
use tare_runtime::rootfs::Rootfs;
use tare_sys::mount::{self, Propagation};
use tare_sys::path::Root;
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders, Lock, Record, Status};
use crate::engine::Engine;
use crate::policy;

/// It.
pub struct Inside {
    /// Its `/`.
    pub root: Root,
    /// Host id that is 0 in it.
    pub base: u32,
    /// What has to stay open meanwhile: the mount namespace, and being in charge of it.
    #[expect(dead_code, reason = "held, not read")]
    held: Option<(OwnedFd, Lock)>,
}

impl Inside {
    /// Opens it. A container that does not run cannot be started meanwhile.
    pub fn open(engine: &Engine, container: &str) -> Result<Inside> {
        let folders = engine.find(container)?;
        let runs = || folders.status().is_ok_and(|status| status.is_some_and(|s| s.process().is_some()));
        loop {
            if let Some(inside) = running(&folders)? {
                return Ok(inside);
            }
            match folders.lock_or_make() {
                // Another copies, or starts it, just now. Copying takes as long as it takes.
                Err(err) if err.kind() == Kind::Conflict => match engine.wait_until_settled(&folders, runs) {
                    Err(err) if err.kind() == Kind::Conflict => {}
                    settled => settled?,
                },
                lock => {
                    let what = || format!("look into the container {container}");
                    return lock.and_then(|lock| stopped(engine, &folders, lock)).doing(what);
                }
            }
        }
    }

    /// Does something as the container's root would, as far as owners of new files go.
    pub fn as_its_root<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.base {
            0 => work(),
            base => process::with_fs_ids(base, base, work),
        }
    }
}

fn running(folders: &Folders) -> Result<Option<Inside>> {
    let status = folders.status()?.unwrap_or_else(Status::created);
    if let Some(pidfd) = status.process() {
        let path = format!("/proc/{}/root", status.pid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).doing(|| format!("open({path:?})"));
        // Looked at while the process is certainly the one we mean.
        if process::signal(pidfd.as_fd(), 0).is_ok()
            && let Ok(root) = root
        {
            return Ok(Some(Inside { root: Root::new(root), base: status.base.unwrap_or(0), held: None }));
        }
    }
    Ok(None)
}

fn stopped(engine: &Engine, folders: &Folders, lock: Lock) -> Result<Inside> {
    let record = &folders.record()?;
    let rootfs = match engine.rootfs(record, folders)? {
        Rootfs::Layers { lower, upper, .. } => Rootfs::Layers { lower, upper, volatile: false },
        Rootfs::Host { .. } => {
            return Err(Error::new(
                Kind::Unsupported,
                "the image \"host\" keeps what a container writes in memory, and this one does not run",
            )
            .hint("start it first"));
        }
        rootfs => rootfs,
    };
    let tree = rootfs.build(None)?;
    crate::volume::mount_all(&engine.roots, record)?;
    let result = assemble(record, tree);
    crate::volume::unmount_unused(&engine.roots, &record.id, &record.mounts);
    let (root, namespace) = result?;
    Ok(Inside { root, base: 0, held: Some((namespace, lock)) })
}

/// Mounts the volumes in the tree, in a mount namespace of their own that lives as long as its fd.
fn assemble(record: &Record, tree: mount::Detached) -> Result<(Root, OwnedFd)> {
    let path = "/proc/self/ns/mnt";
    let open = |path: &str, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).doing(|| format!("open({path:?})"))
    };
    let (back, folder) = (open(path, OFlags::RDONLY)?, open(".", OFlags::PATH)?);
    process::unshare(namespace::MOUNT)?;
    let work = || {
        mount::set_propagation_of_all(Propagation::Private)?;
        tree.attach(open("/", OFlags::PATH | OFlags::DIRECTORY)?)?;
        let root = Root::new(tree.into());
        let mut points = policy::mount_points(&record.request, &record.mounts);
        points.sort_by_key(|point| point.destination.components().count());
        for point in &points {
            let mount = policy::volumes::mount(point, false)?;
            let options = Options::of(&mount)?;
            let built = options.build_bind(&mount, None)?;
            mounts::attach(&root, &mount, &options, &built)?;
        }
        Ok((root, open(path, OFlags::RDONLY)?))
    };
    let result = work();
    process::enter(back.as_fd(), namespace::MOUNT)?;
    rustix::process::fchdir(&folder).doing(|| "fchdir(back)")?;
    result
}
