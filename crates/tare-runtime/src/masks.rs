//! What the container may not see, or not change, of `/proc` and `/sys`.
//!
//! The thing that covers a file is the null device of the `/dev` that we made ourselves, or the host's, held by
//! fd; never whatever lies at the container's `/dev/null` (CVE-2025-31133). Each target is opened once and
//! covered through that fd. What belongs to `/proc` or `/sys` is looked up in what we mounted there: whoever shares
//! the root file system may have moved that by now, and would keep it uncovered.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;
use tare_sys::mount::{Change, Detached, NewFs, attr};
use tare_sys::path::Root;
use tare_sys::{Context, Result};

use crate::devices;

/// The mounts on `/proc` and `/sys`, wherever they are by now.
#[derive(Default)]
pub struct Kernels(Vec<(&'static str, Root)>);

impl Kernels {
    /// Notes a mount if it is one of them.
    pub fn note(&mut self, destination: &Path, mount: &Detached) -> Result<()> {
        if let Some(name) = ["/proc", "/sys"].into_iter().find(|name| destination == Path::new(name)) {
            let mount = mount.as_fd().try_clone_to_owned().doing(|| format!("dup({name})"))?;
            self.0.insert(0, (name, Root::new(mount)));
        }
        Ok(())
    }

    /// Finds a path of the container, if it is there.
    fn find(&self, root: &Root, path: &Path) -> Result<Option<OwnedFd>> {
        for (name, mount) in &self.0 {
            match path.strip_prefix(name) {
                Ok(rest) if !rest.as_os_str().is_empty() => return mount.find(rest),
                _ => {}
            }
        }
        root.find(path)
    }
}

/// Covers files with the null device and folders with one empty, read-only folder.
pub fn hide(root: &Root, kernels: &Kernels, paths: &[String], dev_null: Option<&OwnedFd>) -> Result<()> {
    let mut empty: Option<OwnedFd> = None;
    let mut hosts: Option<OwnedFd> = None;
    for path in paths {
        let what = || format!("mask {path}");
        // Not on this kernel: nothing to do.
        let Some(target) = kernels.find(root, Path::new(path)).doing(what)? else { continue };
        let stat = rustix::fs::fstat(&target).doing(what)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let cover = match &empty {
                Some(attached) => Detached::clone_fd(attached, false)?,
                None => NewFs::open("tmpfs")?
                    .string("size", "0")?
                    .string("nr_inodes", "1")?
                    .mount(attr::RDONLY)?,
            };
            cover.attach(target.as_fd()).doing(what)?;
            // Once attached it is of our mount namespace, and can be cloned for the next.
            empty.get_or_insert(OwnedFd::from(cover));
        } else {
            let null = match (dev_null, &hosts) {
                (Some(null), _) | (None, Some(null)) => null,
                (None, None) => hosts.insert(devices::hosts_null()?),
            };
            Detached::clone_fd(null, false).doing(what)?.attach(target.as_fd()).doing(what)?;
        }
    }
    Ok(())
}

/// Lays a read-only copy over each path.
pub fn make_read_only(root: &Root, kernels: &Kernels, paths: &[String]) -> Result<()> {
    for path in paths {
        let what = || format!("make {path} read-only");
        // Not on this kernel: nothing to do.
        let Some(target) = kernels.find(root, Path::new(path)).doing(what)? else { continue };
        let copy = Detached::clone_fd(&target, true).doing(what)?;
        copy.change(&Change { set: attr::RDONLY, recursive: true, ..Change::default() }).doing(what)?;
        copy.attach(target.as_fd()).doing(what)?;
    }
    Ok(())
}
