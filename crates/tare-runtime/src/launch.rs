//! The one launch sequence: from a spec to a running process, for engine, OCI runtime and builds alike.
//!
//! ```text
//! parent (host's view)                        child (the container's)
//! open namespaces to join, unshare time
//! clone3 ────────────────────────────────────▶ join cgroups (v1), new cgroup namespace
//! write id maps, rlimits, oom score
//! "mapped" ──────────────────────────────────▶ become root inside; host name, loopback
//! build root, /dev, binds (idmapped)           build proc, sysfs, tmpfs, devpts … (at the same time)
//! their fds ─────────────────────────────────▶ attach all, terminal, masks, pivot
//!           ◀───────────────────────────────── the terminal's fd
//!                                              user, folder, limits, capabilities, seccomp
//!           ◀───────────────────────────────── "ready"
//! end of file ◀─────────────────────────────── exec closes the channel
//! ```
//!
//! The child dies with its parent until "ready": half-made containers do not outlive a kill.

mod child;
mod message;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::{Mode, OFlags};
use tare_cgroup::Entrance;
use tare_sys::channel::Channel;
use tare_sys::mount::Detached;
use tare_sys::process::{self, Child, Side, namespace};
use tare_sys::{Context, Error, Kind, Result};

use crate::mounts::{self, Options};
use crate::namespaces::Namespaces;
use crate::rootfs::{IdMap, Rootfs};
use crate::seccomp::Compiled;
use crate::user::UserRequest;
use message::{FromChild, ToChild};

/// Everything a launch needs beside the spec.
pub struct Launch<'a> {
    /// What the container is.
    pub spec: &'a Spec,
    /// Where `/` comes from; the spec's `root.path` is not looked at.
    pub rootfs: &'a Rootfs,
    /// Who runs; the spec's `process.user` is not looked at.
    pub user: &'a UserRequest,
    /// Run our own init as PID 1, and the process as its child.
    pub init: bool,
    /// The container's cgroup, made and limited.
    pub entrance: &'a Entrance,
    /// The cgroup hierarchies to show inside; `(name of the mount, options of the file system)`.
    pub cgroup_mounts: &'a [(String, Vec<String>)],
    /// The system call filter.
    pub filter: Option<&'a Compiled>,
    /// stdin, stdout and stderr; not used with a terminal.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Columns and rows of a terminal.
    pub terminal_size: Option<(u16, u16)>,
}

/// A container's process that has been executed.
#[derive(Debug)]
pub struct Running {
    /// PID 1 of the container.
    pub child: Child,
    /// Our side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What was asked for and could not quite be given.
    pub warnings: Vec<String>,
    /// Namespaces that cost the reaper time to take down (mount, network, ipc): while these are open, the exit
    /// code arrives before the teardown. Drop them once it has been passed on.
    pub held: Vec<OwnedFd>,
}

/// Launches. On failure nothing of the container is left but its cgroup, which the caller made.
pub fn launch(launch: &Launch<'_>) -> Result<Running> {
    let namespaces = Namespaces::of(launch.spec)?;
    if namespaces.make_time {
        make_time_namespace(launch.spec)?;
    }
    let (ours, theirs) = Channel::pair()?;
    let cgroup = match launch.entrance {
        Entrance::V2(dir) => Some(dir.as_fd()),
        Entrance::V1(_) => None,
    };
    // Who joins a user namespace must enter it before it may make the others there: the child clones again.
    let first = if namespaces.joined_user().is_some() { 0 } else { namespaces.make };
    match process::clone(first, cgroup).map_err(explain_clone)? {
        Side::Child => {
            drop(ours);
            child::run(launch, &namespaces, theirs)
        }
        Side::Parent(child) => {
            drop(theirs);
            match attend(launch, &namespaces, &ours, child) {
                Ok(running) => Ok(running),
                Err((err, child)) => {
                    // It dies of the closed channel as well; this way at once.
                    let _ = process::signal(child.pidfd.as_fd(), 9);
                    let _ = process::wait(child.pidfd.as_fd());
                    Err(err)
                }
            }
        }
    }
}

/// The parent's part, while the child is being set up.
fn attend(
    launch: &Launch<'_>,
    namespaces: &Namespaces,
    channel: &Channel,
    mut child: Child,
) -> std::result::Result<Running, (Error, Child)> {
    if namespaces.joined_user().is_some() {
        child = take_grandchild(channel, child)?;
    }
    let mut warnings = Vec::new();
    let mut terminal = None;
    let mut ready = false;
    let steps = (|| {
        warnings = prepare(launch, namespaces, &child).map_err(|err| prefer_childs(channel, err))?;
        message::send(channel, &ToChild::Mapped, &[]).map_err(|err| prefer_childs(channel, err))?;
        let built = build(launch, namespaces, &child)?;
        let files: Vec<BorrowedFd<'_>> = built.iter().map(AsFd::as_fd).collect();
        message::send(channel, &ToChild::Mounts, &files).map_err(|err| prefer_childs(channel, err))?;
        drop(built);
        loop {
            match message::receive(channel)? {
                Some((FromChild::Terminal, mut files)) => terminal = files.pop(),
                Some((FromChild::Ready, _)) => ready = true,
                Some((FromChild::Failed(err), _)) => return Err(err),
                Some((FromChild::Cloned(_), _)) => {}
                None if ready => return Ok(()),
                None => return Err(died_early(&child)),
            }
        }
    })();
    match steps {
        Ok(()) => {
            let held = hold_namespaces(&child, namespaces);
            Ok(Running { child, terminal, warnings, held })
        }
        Err(err) => Err((err, child)),
    }
}

/// When the child died first, its own words say more than our broken pipe.
fn prefer_childs(channel: &Channel, ours: Error) -> Error {
    loop {
        match message::receive::<FromChild>(channel) {
            Ok(Some((FromChild::Failed(err), _))) => return err,
            Ok(Some(_)) => continue,
            _ => return ours,
        }
    }
}

fn died_early(child: &Child) -> Error {
    let how = match process::wait(child.pidfd.as_fd()) {
        Ok(process::Ended::Killed(signal)) => format!("killed by {}", tare_sys::signal::name(signal)),
        Ok(process::Ended::Exited(status)) => format!("exit status {status}"),
        Err(_) => "reaped by another".to_owned(),
    };
    Error::new(Kind::Kernel, format!("set up the container: its first process died on the way ({how})"))
        .hint("a memory limit below what the set-up itself needs does this; try a larger --memory")
}

/// A child that had to enter a user namespace first has made the real one, as our child (CLONE_PARENT).
fn take_grandchild(channel: &Channel, helper: Child) -> std::result::Result<Child, (Error, Child)> {
    match message::receive(channel) {
        Ok(Some((FromChild::Cloned(pid), mut files))) => {
            match (rustix::process::Pid::from_raw(pid), files.pop()) {
                (Some(pid), Some(pidfd)) => {
                    let _ = process::wait(helper.pidfd.as_fd());
                    Ok(Child { pid, pidfd })
                }
                _ => Err((Error::new(Kind::Kernel, "launch: the helper sent no process"), helper)),
            }
        }
        Ok(Some((FromChild::Failed(err), _))) => Err((err, helper)),
        Ok(_) => Err((died_early(&helper), helper)),
        Err(err) => Err((err, helper)),
    }
}

fn make_time_namespace(spec: &Spec) -> Result<()> {
    process::unshare(namespace::TIME)?;
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
            Some(rustix::io::Errno::RANGE) => {
                err.with_kind(Kind::Usage).hint("no clock may be set before its zero; use a smaller offset")
            }
            _ => err,
        })
}

/// What the child cannot do for itself: its id maps, limits above its own, and its out-of-memory score.
fn prepare(launch: &Launch<'_>, namespaces: &Namespaces, child: &Child) -> Result<Vec<String>> {
    let pid = child.pid.as_raw_nonzero();
    if namespaces.makes(namespace::USER) {
        let (uids, gids) = id_maps(launch.spec)?;
        write_map(&format!("/proc/{pid}/uid_map"), uids)?;
        write_map(&format!("/proc/{pid}/gid_map"), gids)?;
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

fn write_map(path: &str, map: &[LinuxIdMapping]) -> Result<()> {
    let lines: String =
        map.iter().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect();
    std::fs::write(path, &lines).doing(|| format!("write {:?} to {path}", lines.trim()))
}

/// Builds, in the host's view, what the child only has to attach: the root, then the spec's `/dev` and binds.
fn build(launch: &Launch<'_>, namespaces: &Namespaces, child: &Child) -> Result<Vec<Detached>> {
    let userns = match namespaces.joined_user() {
        Some(fd) => Some(fd.try_clone().doing(|| "dup(user namespace)")?),
        None if namespaces.makes(namespace::USER) => Some(namespace_of(child, "user")?),
        None => None,
    };
    let idmap = match &userns {
        Some(userns) => {
            let (uids, gids) = id_maps(launch.spec)?;
            Some(IdMap { userns: userns.as_fd(), uid: host_root(uids), gid: host_root(gids) })
        }
        None => None,
    };
    let mut built = vec![launch.rootfs.build(idmap)?];
    for mount in launch.spec.mounts().iter().flatten() {
        let options = Options::of(mount)?;
        if options.bind {
            built.push(options.build_bind(mount, idmap.map(|map| map.userns))?);
        } else if crate::devices::is_dev(mount) {
            built.push(crate::devices::build(mount, &options, launch.spec, idmap)?);
        }
    }
    if built.len() > tare_sys::channel::MAX_FILES {
        return Err(Error::new(Kind::Usage, format!("{} mounts: at most 252 binds fit", built.len())));
    }
    Ok(built)
}

fn host_root(map: &[LinuxIdMapping]) -> u32 {
    map.iter().find(|m| m.container_id() == 0).map_or(0, LinuxIdMapping::host_id)
}

fn namespace_of(child: &Child, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{kind}", child.pid.as_raw_nonzero());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))
}

fn hold_namespaces(child: &Child, namespaces: &Namespaces) -> Vec<OwnedFd> {
    [(namespace::MOUNT, "mnt"), (namespace::NET, "net"), (namespace::IPC, "ipc")]
        .into_iter()
        .filter(|(flag, _)| namespaces.makes(*flag))
        .filter_map(|(_, kind)| namespace_of(child, kind).ok())
        .collect()
}

fn explain_clone(err: Error) -> Error {
    use rustix::io::Errno;
    match err.errno() {
        Some(Errno::NOSPC | Errno::USERS) => err
            .with_kind(Kind::Exhausted)
            .hint("the host allows no more namespaces of a kind: see /proc/sys/user/max_*_namespaces"),
        Some(Errno::PERM) => {
            err.hint("making namespaces needs root (or user namespaces allowed by the host)")
        }
        Some(Errno::INVAL) => err.hint("this kernel lacks a kind of namespace that was asked for"),
        _ => err,
    }
}

pub(crate) use mounts::attach;
