//! Which namespaces a spec makes, and which it joins.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result, rootless};

/// The namespaces of a container about to be launched.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Flags of those to make, but for the cgroup and time ones, which have moments of their own.
    pub make: u64,
    /// Make a cgroup namespace; only after the process is in its cgroup, or its root would be the caller's.
    pub make_cgroup: bool,
    /// Make a time namespace.
    pub make_time: bool,
    /// Those to join.
    join: Vec<Joined>,
}

/// A namespace to join.
#[derive(Debug)]
struct Joined {
    /// Which kind.
    flag: u64,
    /// `/proc/PID/ns/*` or a bind mount of it.
    fd: OwnedFd,
}

/// The flag of a namespace of the spec.
pub fn flag(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => namespace::MOUNT,
        LinuxNamespaceType::Cgroup => namespace::CGROUP,
        LinuxNamespaceType::Uts => namespace::UTS,
        LinuxNamespaceType::Ipc => namespace::IPC,
        LinuxNamespaceType::User => namespace::USER,
        LinuxNamespaceType::Pid => namespace::PID,
        LinuxNamespaceType::Network => namespace::NET,
        LinuxNamespaceType::Time => namespace::TIME,
    }
}

/// Flags of all the namespaces that the spec lists, made or joined.
pub fn listed(spec: &Spec) -> u64 {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    list.iter().fold(0, |all, namespace| all | flag(namespace.typ()))
}

impl Namespaces {
    /// Reads the spec and opens what is to be joined, on the host's side.
    pub fn of(spec: &Spec) -> Result<Namespaces> {
        let mut namespaces = Namespaces::default();
        let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let mut seen = 0;
        for namespace in list {
            let flag = flag(namespace.typ());
            if seen & flag != 0 {
                return Err(Error::new(
                    Kind::Usage,
                    format!("the spec lists its {} namespace twice", namespace.typ()),
                ));
            }
            seen |= flag;
            match namespace.path() {
                Some(path) if path != Path::new("") => {
                    let fd = open_namespace(path)?;
                    // Ours by path is ours all the same: shared, and none of the container's own.
                    if !is_ours(&fd, namespace.typ())? {
                        namespaces.join.push(Joined { flag, fd });
                    }
                }
                _ if flag == namespace::CGROUP => namespaces.make_cgroup = true,
                _ if flag == namespace::TIME => namespaces.make_time = true,
                _ => namespaces.make |= flag,
            }
        }
        Ok(namespaces)
    }

    /// Whether this kind is made new, rather than joined or shared with the host.
    pub fn makes(&self, flag: u64) -> bool {
        self.make & flag != 0
    }

    /// Whether this kind is another than the host's.
    pub fn private(&self, flag: u64) -> bool {
        self.makes(flag) || self.joined(flag).is_some()
    }

    /// The namespace of this kind to join, if any.
    pub fn joined(&self, flag: u64) -> Option<&OwnedFd> {
        self.join.iter().find(|joined| joined.flag == flag).map(|joined| &joined.fd)
    }

    /// Enters, in the parent, those that a child is to be born in, as far as the parent may.
    ///
    /// A child with a user namespace of its own would have no right to enter what belongs to the host's, and
    /// nobody can enter a pid namespace but by being born there. The user namespace itself and the mount
    /// namespace, which would take the parent's view away, are left for the child, and so is whatever only root
    /// of the joined user namespace may enter.
    pub fn enter_for_child(&self) -> Result<Entered> {
        let mut entered = Entered { back: Vec::new(), left: Vec::new() };
        for (at, joined) in self.join.iter().enumerate() {
            let name = match joined.flag {
                namespace::USER | namespace::MOUNT => continue,
                namespace::CGROUP => "cgroup",
                namespace::UTS => "uts",
                namespace::IPC => "ipc",
                namespace::PID => "pid",
                namespace::NET => "net",
                _ => "time",
            };
            // The ways back lead to the host's, where root of an ordinary user's machine may not go.
            if rootless::is_on() && self.joins_user() {
                entered.left.push(at);
                continue;
            }
            let back = open_namespace(Path::new(&format!("/proc/self/ns/{name}")))?;
            match process::enter(joined.fd.as_fd(), joined.flag) {
                Ok(()) => entered.back.push((joined.flag, back)),
                Err(err) if err.errno() == Some(rustix::io::Errno::PERM) && self.joins_user() => {
                    entered.left.push(at);
                }
                Err(err) => {
                    // The first failure is the one to report.
                    let _ = entered.leave();
                    return Err(err.context(format!("join the {name} namespace")));
                }
            }
        }
        Ok(entered)
    }

    /// Whether there is a user namespace to join.
    pub fn joins_user(&self) -> bool {
        self.joined(namespace::USER).is_some()
    }

    /// Enters, in the child, the user namespace and then what the parent had to leave for its root.
    pub fn enter_user(&self, entered: &Entered) -> Result<()> {
        if let Some(user) = self.joined(namespace::USER) {
            process::enter(user.as_fd(), namespace::USER)?;
        }
        entered
            .left
            .iter()
            .map(|at| &self.join[*at])
            .try_for_each(|joined| process::enter(joined.fd.as_fd(), joined.flag))
    }
}

/// What the parent has entered for its child's sake, and the ways back.
#[derive(Debug)]
pub struct Entered {
    back: Vec<(u64, OwnedFd)>,
    /// Places in the list of those left for the child.
    left: Vec<usize>,
}

impl Entered {
    /// Goes back, in the parent.
    pub fn leave(&self) -> Result<()> {
        self.back.iter().rev().try_for_each(|(flag, fd)| process::enter(fd.as_fd(), *flag))
    }
}

/// Whether this is the namespace that we live in.
fn is_ours(fd: &OwnedFd, kind: LinuxNamespaceType) -> Result<bool> {
    let name = match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    };
    let path = format!("/proc/self/ns/{name}");
    let stat = rustix::fs::fstat(fd).doing(|| "fstat(namespace)")?;
    // A kernel without this kind has none to be ours.
    let ours = match rustix::fs::stat(&path) {
        Err(Errno::NOENT) => return Ok(false),
        result => result.doing(|| format!("stat({path})"))?,
    };
    Ok((stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino))
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open the namespace {}", path.display()))
}
