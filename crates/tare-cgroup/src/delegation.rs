//! Handing a cgroup over to a container's root.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result};

use crate::cgroup::Cgroup;
use crate::hierarchy::Version;

/// What may be handed over where the kernel does not list it (before Linux 4.15).
const ALWAYS: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

impl Cgroup {
    /// Makes `uid`:`gid` (host ids) the owner of the cgroup's directory and of the files by which it is divided up:
    /// those in `/sys/kernel/cgroup/delegate`, and so never of the limits. For a container that has a user and a
    /// cgroup namespace of its own; its root may then make cgroups below.
    ///
    /// Errors: [`Kind::Unsupported`] on v1, where owning a directory means owning the limits; those of fchownat(2).
    /// Source: cgroup-v2.rst, "Delegation".
    pub fn delegate(&self, uid: u32, gid: u32) -> Result<()> {
        let relative = self.relative()?;
        if self.on.version() == Version::V1 {
            return Err(Error::new(
                Kind::Unsupported,
                format!("delegate cgroup /{relative}: it is cgroup v1"),
            )
            .hint("only cgroup v2 can be handed over without its limits"));
        }
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(self.on.root(), relative, flags, Mode::empty())
            .doing(|| format!("open({:?}, O_DIRECTORY)", self.on.shown(relative)))?;
        let list =
            std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| ALWAYS.to_owned());
        for file in list.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
            match rustix::fs::chownat(dir.as_fd(), file, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
                // Not every file is in every cgroup: it takes the controller.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    let path = format!("{relative}/{file}");
                    return Err(Error::syscall(format!("fchownat({:?})", self.on.shown(&path)), errno));
                }
            }
        }
        // Last: from here on it is theirs.
        rustix::fs::fchown(&dir, Some(uid), Some(gid))
            .doing(|| format!("fchown({:?})", self.on.shown(relative)))
    }
}
