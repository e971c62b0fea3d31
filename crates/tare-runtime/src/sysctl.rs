//! Kernel settings of the container's own namespaces.

use std::collections::HashMap;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tare_sys::mount::Detached;
use tare_sys::process::namespace;
use tare_sys::{Context, Error, Kind, Result};

use crate::namespaces::Namespaces;

/// The settings of the IPC namespace (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Writes them through a procfs that is ours alone and attached nowhere (CVE-2025-52881). A setting that is
/// not the container's own would be the host's, and is refused.
pub fn write(proc: &Detached, settings: &HashMap<String, String>, namespaces: &Namespaces) -> Result<()> {
    for (name, value) in settings {
        let what = || format!("set the sysctl {name}={value}");
        let path = path_of(name);
        let own = if path.starts_with("net/") {
            namespaces.private(namespace::NET)
        } else if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            namespaces.private(namespace::IPC)
        } else if path.starts_with("user/") {
            namespaces.private(namespace::USER)
        } else if path == "kernel/domainname" || path == "kernel/hostname" {
            namespaces.private(namespace::UTS)
        } else {
            false
        };
        if !own {
            return Err(Error::new(Kind::Usage, format!("{}: it is not the container's own, but the host's", what()))
                .hint("allowed are net.*, kernel.msg*, kernel.sem, kernel.shm*, fs.mqueue.* and user.*, in private namespaces"));
        }
        let file = rustix::fs::openat2(
            proc.as_fd(),
            format!("sys/{path}"),
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
        )
        .doing(what)
        .map_err(|err| {
            if err.errno() == Some(rustix::io::Errno::NOENT) {
                err.hint("this kernel has no such setting")
            } else {
                err
            }
        })?;
        rustix::io::write(&file, value.as_bytes()).doing(what)?;
    }
    Ok(())
}

/// `net.ipv4.ip_forward` to `net/ipv4/ip_forward`; a name with slashes is a path already, so that interface
/// names with dots can be written (sysctl(8)).
fn path_of(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { name.replace('.', "/") }
}
