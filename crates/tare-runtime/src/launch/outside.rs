//! The parent's work on its child, in the host's view: id maps, limits, devices; the root and the binds.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use tare_sys::mount::Detached;
use tare_sys::process::{self, Child, namespace};
use tare_sys::{Context, Error, Kind, Result};

use super::{Agent, Launch, SLOW};
use crate::mounts::Options;
use crate::namespaces::Namespaces;
use crate::rootfs::IdMap;
use crate::{descriptors, netdevices};

/// Who builds the root, `/dev` and the binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builder {
    /// We do, at the same time as the child builds what is its own.
    Parent,
    /// The child does all: it is root of its own user namespace, and we may not mount.
    Child,
}

/// Decides it, by whether we may mount.
pub fn builder(launch: &Launch<'_>, namespaces: &Namespaces) -> Result<Builder> {
    use rustix::thread::CapabilitySet;
    let have = rustix::thread::capabilities(None).doing(|| "capget()")?.effective;
    if have.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(Builder::Parent);
    }
    if !namespaces.private(namespace::USER) {
        let what = match launch.bundle {
            Some(bundle) => {
                format!("launch {} without CAP_SYS_ADMIN and without a user namespace", bundle.id)
            }
            None => "launch without CAP_SYS_ADMIN and without a user namespace".to_owned(),
        };
        return Err(Error::new(Kind::Permission, what).hint(
            "run as root, or give the spec a user namespace with id mappings (`tare-oci spec --rootless`)",
        ));
    }
    Ok(Builder::Child)
}

/// Makes the time namespace that the next child is born in; `false` where only the child may, in its own user
/// namespace.
pub fn make_time_namespace(spec: &Spec, builder: Builder) -> Result<bool> {
    if builder == Builder::Child {
        return Ok(false);
    }
    process::unshare(namespace::TIME)?;
    write_time_offsets(spec)?;
    Ok(true)
}

/// Sets the clocks of the time namespace that this process made for its children.
pub fn write_time_offsets(spec: &Spec) -> Result<()> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut lines = String::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        lines.push_str(&format!(
            "{clock} {} {}\n",
            offset.secs().unwrap_or(0),
            offset.nanosecs().unwrap_or(0)
        ));
    }
    if lines.is_empty() {
        return Ok(());
    }
    std::fs::write("/proc/self/timens_offsets", &lines)
        .doing(|| format!("write {:?} to /proc/self/timens_offsets", lines.trim()))
        .map_err(|err| match err.errno() {
            Some(Errno::RANGE) => {
                err.with_kind(Kind::Usage).hint("no clock may be set before its zero; use a smaller offset")
            }
            _ => err,
        })
}

/// What the child cannot do for itself: its unit, its id maps, limits above its own, its out-of-memory score,
/// the host's network devices.
pub fn prepare(launch: &Launch<'_>, namespaces: &Namespaces, child: &Child) -> Result<Vec<String>> {
    let pid = child.pid.as_raw_nonzero();
    launch.entrance.admit(child.pid)?;
    if namespaces.makes(namespace::USER) {
        let (uids, gids) = id_maps(launch.spec)?;
        map_ids(child.pid, uids, gids)?;
    }
    let Some(process) = launch.spec.process() else {
        return Err(
            Error::new(Kind::Usage, "launch a container without a process").hint("give the spec a process")
        );
    };
    let mut warnings = crate::rlimit::apply(child.pid, process.rlimits().as_deref().unwrap_or_default())?;
    if let Some(score) = process.oom_score_adj() {
        match std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
            Err(err) if err.kind() == std::io::ErrorKind::PermissionDenied => warnings.push(format!(
                "the out-of-memory score could not be set to {score} (this host may not lower it: CAP_SYS_RESOURCE is missing)"
            )),
            result => result.doing(|| format!("write {score} to /proc/{pid}/oom_score_adj"))?,
        }
    }
    if let Some(devices) = launch.spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref())
        && !devices.is_empty()
    {
        if !namespaces.private(namespace::NET) {
            return Err(Error::new(
                Kind::Usage,
                "move network devices: the container shares the host's network",
            )
            .hint("netDevices needs a network namespace in the spec"));
        }
        let netns = match namespaces.joined(namespace::NET) {
            Some(fd) => fd.try_clone().doing(|| "dup(network namespace)")?,
            None => namespace_of(child, "net")?,
        };
        netdevices::move_into(netns.as_fd(), devices)?;
    }
    Ok(warnings)
}

fn id_maps(spec: &Spec) -> Result<(&[LinuxIdMapping], &[LinuxIdMapping])> {
    let linux = spec.linux().as_ref();
    match (linux.and_then(|l| l.uid_mappings().as_deref()), linux.and_then(|l| l.gid_mappings().as_deref())) {
        (Some(uids @ [_, ..]), Some(gids @ [_, ..])) => Ok((uids, gids)),
        _ => Err(Error::new(Kind::Usage, "make a user namespace without id mappings")
            .hint("give the spec uidMappings and gidMappings")),
    }
}

/// Most lines of an id map (user_namespaces(7)); a longer one is refused before it is written (CVE-2021-43784).
const MOST_LINES: usize = 340;

/// Writes the id maps of a process in a new user namespace: ourselves where we may, else, for an ordinary user,
/// by the host's newuidmap(1) and newgidmap(1), and for a single id of one's own without them.
pub fn map_ids(pid: Pid, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<()> {
    for (what, map) in [("uidMappings", uids), ("gidMappings", gids)] {
        if map.len() > MOST_LINES {
            return Err(Error::new(
                Kind::Usage,
                format!("{what} has {} lines: the kernel takes {MOST_LINES} at most", map.len()),
            ));
        }
    }
    let number = pid.as_raw_nonzero();
    write_map(pid, "uid_map", uids).or_else(|err| with_helper(err, "newuidmap", pid, uids))?;
    match write_map(pid, "gid_map", gids) {
        Err(err) if err.errno() == Some(Errno::PERM) && gids.len() == 1 && gids[0].size() == 1 => {
            // Who may map no group but their own has to give up setgroups(2) first (user_namespaces(7)).
            let path = format!("/proc/{number}/setgroups");
            std::fs::write(&path, "deny").doing(|| format!("write \"deny\" to {path}"))?;
            write_map(pid, "gid_map", gids).or_else(|err| with_helper(err, "newgidmap", pid, gids))
        }
        Err(err) => with_helper(err, "newgidmap", pid, gids),
        Ok(()) => Ok(()),
    }
}

fn write_map(pid: Pid, file: &str, map: &[LinuxIdMapping]) -> Result<()> {
    let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
    let lines: String =
        map.iter().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect();
    std::fs::write(&path, &lines).doing(|| format!("write {:?} to {path}", lines.trim()))
}

/// Lets the set-user-id program of shadow-utils write a map that we may not.
fn with_helper(refused: Error, program: &str, pid: Pid, map: &[LinuxIdMapping]) -> Result<()> {
    if refused.errno() != Some(Errno::PERM) {
        return Err(refused);
    }
    let numbers = map.iter().flat_map(|m| [m.container_id(), m.host_id(), m.size()]);
    let output = Command::new(program)
        .arg(pid.as_raw_nonzero().to_string())
        .args(numbers.map(|number| number.to_string()))
        .output();
    let which = if program == "newuidmap" { "/etc/subuid" } else { "/etc/subgid" };
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::new(
            Kind::Permission,
            format!("{refused}; {program}: {}", String::from_utf8_lossy(&output.stderr).trim()),
        )
        .hint(format!(
            "give the user a range in {which} that covers the mapping (usermod --add-subuids), or map only your own id"
        ))),
        Err(err) => Err(refused.context(format!("map ids ({program}: {err})")).hint(format!(
            "install {program} (Debian: apt install uidmap) and give the user a range in {which}, or map only your own id"
        ))),
    }
}

/// What was built for the child to attach.
pub struct Built {
    /// The root, then `/dev` and the binds in the spec's order.
    pub mounts: Vec<Detached>,
    /// `/dev` has no nodes: making them is not allowed here.
    pub without_nodes: bool,
}

/// Builds, in the host's view, what the child only has to attach: the root, then the spec's `/dev` and binds.
pub fn build(launch: &Launch<'_>, namespaces: &Namespaces, child: &Child) -> Result<Built> {
    let userns = match namespaces.joined(namespace::USER) {
        Some(fd) => Some(fd.try_clone().doing(|| "dup(user namespace)")?),
        None if namespaces.makes(namespace::USER) => Some(namespace_of(child, "user")?),
        None => None,
    };
    let idmap = match &userns {
        // Where ids mean the same on both sides there is nothing to show differently.
        Some(_) if id_maps(launch.spec).is_ok_and(|(uids, gids)| is_identity(uids) && is_identity(gids)) => {
            None
        }
        Some(userns) => {
            let (uids, gids) = id_maps(launch.spec)?;
            Some(IdMap { userns: userns.as_fd(), uid: host_root(uids), gid: host_root(gids) })
        }
        None => None,
    };
    if !namespaces.makes(namespace::MOUNT) {
        return Ok(Built { mounts: Vec::new(), without_nodes: false });
    }
    // An OCI bundle's root belongs to the container's ids already; the engine's layers are shown through them.
    let built = build_with(launch, idmap, if launch.bundle.is_some() { None } else { idmap })?;
    if built.mounts.len() > tare_sys::channel::MAX_FILES {
        return Err(Error::new(Kind::Usage, format!("{} mounts: at most 252 binds fit", built.mounts.len())));
    }
    Ok(built)
}

/// The same, for whoever builds. `idmap`: the container's user namespace, where the builder is outside of it;
/// `root`: the one to show the root through.
pub fn build_with(launch: &Launch<'_>, idmap: Option<IdMap<'_>>, root: Option<IdMap<'_>>) -> Result<Built> {
    let mut built = Built { mounts: vec![launch.rootfs.build(root)?], without_nodes: false };
    for mount in launch.spec.mounts().iter().flatten() {
        let options = Options::of(mount)?;
        if options.bind {
            built.mounts.push(options.build_bind(mount, idmap.map(|map| map.userns))?);
        } else if crate::devices::is_dev(mount) {
            let (dev, nodes) = crate::devices::build(mount, &options, launch.spec, idmap)?;
            built.without_nodes |= !nodes;
            built.mounts.push(dev);
        }
    }
    Ok(built)
}

fn is_identity(map: &[LinuxIdMapping]) -> bool {
    map.iter().all(|m| m.container_id() == m.host_id())
}

fn host_root(map: &[LinuxIdMapping]) -> u32 {
    map.iter().find(|m| m.container_id() == 0).map_or(0, LinuxIdMapping::host_id)
}

pub fn namespace_of(child: &Child, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{kind}", child.pid.as_raw_nonzero());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))
}

/// Opens those whose end the reaper would wait for.
pub fn hold_namespaces(child: &Child, namespaces: &Namespaces) -> Vec<OwnedFd> {
    SLOW.into_iter()
        .filter(|(flag, _)| namespaces.makes(*flag))
        .filter_map(|(_, kind)| namespace_of(child, kind).ok())
        .collect()
}

/// The number of a pidfd's process as we see it: `Pid:` in its fdinfo (pidfd_open(2)).
pub fn pid_of(pidfd: &OwnedFd) -> Result<Pid> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = tare_sys::path::read_short(&path)?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|number| number.trim().parse().ok())
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::new(Kind::Kernel, format!("{path} names no process")))
}

/// Takes the listener out of the child, once the filter is loaded, and sends it to the seccomp agent.
///
/// The child says its number beforehand, because afterwards any of its calls may be one that waits for the agent.
pub fn hand_over_listener(pidfd: BorrowedFd<'_>, number: i32, agent: &Agent<'_>) -> Result<()> {
    let seccomp = agent.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let path = seccomp.and_then(|seccomp| seccomp.listener_path().as_ref()).ok_or_else(|| {
        Error::new(Kind::Usage, "the filter asks a listener, and the spec names none")
            .hint("SCMP_ACT_NOTIFY needs seccomp.listenerPath")
    })?;
    let metadata = seccomp.and_then(|seccomp| seccomp.listener_metadata().as_deref()).unwrap_or_default();
    let listener = loop {
        match rustix::process::pidfd_getfd(pidfd, number, rustix::process::PidfdGetfdFlags::empty()) {
            Ok(fd) => break fd,
            // Not there yet.
            Err(Errno::BADF) => std::thread::sleep(std::time::Duration::from_micros(50)),
            Err(errno) => return Err(errno).doing(|| format!("pidfd_getfd(child, {number})")),
        }
    };
    let state = super::hook_state(agent.spec, agent.id, agent.bundle, agent.status, agent.first);
    let message = descriptors::seccomp_agent_message(&state, agent.pid, metadata)?;
    descriptors::send_fd(Path::new(path), listener.as_fd(), &message)
        .map_err(|err| err.context("hand the seccomp listener to its agent"))
}

/// Says what to do where namespaces could not be made.
pub fn explain_clone(err: Error) -> Error {
    match err.errno() {
        Some(Errno::NOSPC | Errno::USERS) => err
            .with_kind(Kind::Exhausted)
            .hint("the host allows no more namespaces of a kind: see /proc/sys/user/max_*_namespaces"),
        Some(Errno::PERM) => err.hint(
            "making namespaces needs root, or a user namespace where the host allows them: see \
             /proc/sys/kernel/unprivileged_userns_clone and /proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        ),
        Some(Errno::INVAL) => err.hint("this kernel lacks a kind of namespace that was asked for"),
        Some(Errno::BUSY) => {
            err.hint("the container's cgroup hands controllers down, so it can hold no processes itself")
        }
        _ => err,
    }
}
