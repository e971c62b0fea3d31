//! Which namespaces a spec makes, and which it joins.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result};

/// The namespaces of a container about to be launched.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Flags of those to make, but for the cgroup and time ones, which have moments of their own.
    pub make: u64,
    /// Make a cgroup namespace; only after the process is in its cgroup, or its root would be the caller's.
    pub make_cgroup: bool,
    /// Make a time namespace; before clone3, because only children enter it.
    pub make_time: bool,
    /// Those to join. The user namespace, if any, comes first: it gives the right to enter the others.
    pub join: Vec<Joined>,
}

/// A namespace to join.
#[derive(Debug)]
pub struct Joined {
    /// Which kind.
    pub flag: u64,
    /// `/proc/PID/ns/*` or a bind mount of it.
    pub fd: OwnedFd,
}

impl Namespaces {
    /// Reads the spec and opens what is to be joined, on the host's side.
    pub fn of(spec: &Spec) -> Result<Namespaces> {
        let mut namespaces = Namespaces::default();
        let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        for namespace in list {
            let flag = match namespace.typ() {
                LinuxNamespaceType::Mount => namespace::MOUNT,
                LinuxNamespaceType::Cgroup => namespace::CGROUP,
                LinuxNamespaceType::Uts => namespace::UTS,
                LinuxNamespaceType::Ipc => namespace::IPC,
                LinuxNamespaceType::User => namespace::USER,
                LinuxNamespaceType::Pid => namespace::PID,
                LinuxNamespaceType::Network => namespace::NET,
                LinuxNamespaceType::Time => namespace::TIME,
            };
            match namespace.path() {
                Some(path) => {
                    let joined = Joined { flag, fd: open_namespace(path)? };
                    let at = if flag == namespace::USER { 0 } else { namespaces.join.len() };
                    namespaces.join.insert(at, joined);
                }
                None if flag == namespace::CGROUP => namespaces.make_cgroup = true,
                None if flag == namespace::TIME => namespaces.make_time = true,
                None => namespaces.make |= flag,
            }
        }
        if namespaces.make & namespace::MOUNT == 0 {
            return Err(Error::new(
                Kind::Unsupported,
                "launch a container without a mount namespace of its own",
            )
            .hint("add a namespace of type \"mount\" to the spec"));
        }
        Ok(namespaces)
    }

    /// Whether this kind is made new, rather than joined or shared with the host.
    pub fn makes(&self, flag: u64) -> bool {
        self.make & flag != 0
    }

    /// The user namespace to join, if any.
    pub fn joined_user(&self) -> Option<&OwnedFd> {
        self.join.first().filter(|joined| joined.flag == namespace::USER).map(|joined| &joined.fd)
    }

    /// Enters all that are to be joined.
    pub fn enter_joined(&self) -> Result<()> {
        self.join.iter().try_for_each(|joined| process::enter(joined.fd.as_fd(), joined.flag))
    }
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open the namespace {}", path.display()))
}
