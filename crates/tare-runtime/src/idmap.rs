//! User namespaces that nobody lives in: they only carry the id maps of a mount.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags};
use tare_sys::channel::Channel;
use tare_sys::process::{self, Side, namespace};
use tare_sys::{Context, Error, Kind, Result};

use crate::launch::map_ids;

/// A user namespace with these maps, kept alive by its file alone.
pub fn namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    match process::clone(namespace::USER, None).doing(|| "make a user namespace for an id-mapped mount")? {
        Side::Child => {
            drop(ours);
            // Until the parent is done, or gone.
            let _ = theirs.receive(&mut [0]);
            process::exit_now(0)
        }
        Side::Parent(child) => {
            drop(theirs);
            let opened = map_ids(child.pid, uids, gids).and_then(|()| {
                let path = format!("/proc/{}/ns/user", child.pid.as_raw_nonzero());
                rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .doing(|| format!("open({path:?})"))
            });
            drop(ours);
            match process::wait(child.pidfd.as_fd())? {
                process::Ended::Exited(0) => opened,
                _ => Err(Error::new(Kind::Kernel, "the process of a mount's user namespace died")),
            }
        }
    }
}
