//! The one launch sequence: from a spec to a running process, for engine, OCI runtime and builds alike.
//!
//! ```text
//! parent (host's view)                        child (the container's)
//! enter namespaces to join, unshare time
//! clone3 ────────────────────────────────────▶ join cgroups (v1)
//! move it into its unit, write id maps,
//! rlimits, oom score, network devices
//! "mapped" ──────────────────────────────────▶ become root inside; cgroup namespace, host name, loopback
//! build root, /dev, binds (idmapped)           build proc, sysfs, tmpfs, devpts … (at the same time)
//! their fds ─────────────────────────────────▶ attach all
//! the caller's network                        (at the same time)
//!           ◀───────────────────────────────── "attached" (where there are hooks or a network)
//! prestart, createRuntime hooks
//! "go" ──────────────────────────────────────▶ createContainer hooks, terminal, masks, pivot
//!           ◀───────────────────────────────── the terminal's fd
//!                                              user, folder, capabilities
//!           ◀───────────────────────────────── "created"
//!                                              a held one waits here for `start`, which goes on as its parent
//!                                              startContainer hooks
//!           ◀───────────────────────────────── "ready"
//!                                              seccomp, exec
//! end of file ◀─────────────────────────────── exec closes the channel
//! ```
//!
//! Until "created" the child dies with its parent: half-made containers do not outlive a kill. A parent without
//! the right to mount leaves the building to the child, which is root of its own user namespace.

mod child;
mod command;
mod finish;
mod identity;
mod join;
mod message;
mod outside;
mod view;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use tare_cgroup::{Cgroup, Entrance};
use tare_sys::channel::Channel;
use tare_sys::process::{self, Child, Side, namespace};
use tare_sys::{Error, Kind, Result};

use crate::hooks::{self, HookState};
use crate::namespaces::Namespaces;
use crate::rootfs::Rootfs;
use crate::seccomp::Compiled;
use crate::user::UserRequest;
use message::{FromChild, ToChild};

pub use join::{Join, Joined, join};
pub use outside::{explain_clone, map_ids};

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
    /// stdin, stdout and stderr; not used with a terminal. `None`: the caller's own.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Columns and rows of a terminal.
    pub terminal_size: Option<(u16, u16)>,
    /// Gives the container's new network namespace its links, in the host's view, while the child builds what
    /// it stands on.
    pub network: Option<&'a Network<'a>>,
    /// What its hooks are told; not used where the spec has none.
    pub hooked: Option<Hooked<'a>>,
    /// What only an OCI bundle has.
    pub bundle: Option<&'a Bundle<'a>>,
}

/// What gives a network namespace its links.
pub type Network<'a> = dyn Fn(BorrowedFd<'_>) -> Result<()> + 'a;

/// What hooks are told of their container.
#[derive(Clone, Copy, Debug)]
pub struct Hooked<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The bundle's folder, with the spec as `config.json`: where the hooks are run.
    pub folder: &'a Path,
    /// Where the spec says that the root is: it is attached there while hooks run. `None`: it has no such place.
    pub root: Option<&'a Path>,
}

/// What a launch needs to know of an OCI bundle.
pub struct Bundle<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The bundle's folder.
    pub path: &'a Path,
    /// Where to wait for `start`: a listening `SOCK_SEQPACKET` socket. `None`: do not wait.
    pub hold: Option<BorrowedFd<'a>>,
    /// Pass so many of our files on, from 3 upwards.
    pub preserve_fds: u32,
    /// Do without pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// The container's cgroup, whose folders one without a cgroup namespace is shown on v1.
    pub cgroup: &'a Cgroup,
}

/// A container's process that has been executed, or is held before that.
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
    let builder = outside::builder(launch, &namespaces)?;
    let time_is_made = namespaces.make_time && outside::make_time_namespace(launch.spec, builder)?;
    let (ours, theirs) = Channel::pair()?;
    let cgroup = match launch.entrance {
        Entrance::V2(dir) => Some(dir.as_fd()),
        _ => None,
    };
    // Who joins a user namespace must enter it before it may make the others there: the child clones again.
    let first = if namespaces.joins_user() { 0 } else { namespaces.make };
    let entered = namespaces.enter_for_child()?;
    let cloned = process::clone(first, cgroup).map_err(outside::explain_clone);
    if let Ok(Side::Child) = cloned {
        drop(ours);
        let start =
            child::Start { launch, namespaces: &namespaces, entered: &entered, builder, time_is_made };
        child::run(&start, theirs)
    }
    let back = entered.leave();
    drop(theirs);
    let child = match cloned? {
        Side::Parent(child) => child,
        Side::Child => return Err(Error::new(Kind::Kernel, "launch: the child came back")),
    };
    match back.map_err(|err| (err, None)).and_then(|()| {
        attend(launch, &namespaces, builder, &ours, child).map_err(|(err, child)| (err, Some(child)))
    }) {
        Ok(running) => Ok(running),
        Err((err, child)) => {
            // It dies of the closed channel as well; this way at once.
            if let Some(child) = child {
                let _ = process::signal(child.pidfd.as_fd(), 9);
                let _ = process::wait(child.pidfd.as_fd());
            }
            Err(err)
        }
    }
}

/// The parent's part, while the child is being set up.
fn attend(
    launch: &Launch<'_>,
    namespaces: &Namespaces,
    builder: outside::Builder,
    channel: &Channel,
    mut child: Child,
) -> std::result::Result<Running, (Error, Child)> {
    if namespaces.joins_user() {
        child = take_grandchild(channel, child, &|_| Ok(()))?;
    }
    let mut warnings = Vec::new();
    let mut terminal = None;
    let steps = (|| {
        let first = |err| prefer_childs(channel, err);
        warnings = outside::prepare(launch, namespaces, &child).map_err(first)?;
        message::send(channel, &ToChild::Mapped, &[]).map_err(first)?;
        if builder == outside::Builder::Parent {
            let built = outside::build(launch, namespaces, &child)?;
            let files: Vec<BorrowedFd<'_>> = built.mounts.iter().map(AsFd::as_fd).collect();
            let message = ToChild::Mounts { without_nodes: built.without_nodes };
            message::send(channel, &message, &files).map_err(first)?;
        }
        if let Some(network) = launch.network {
            let netns = outside::namespace_of(&child, "net")?;
            network(netns.as_fd()).map_err(first)?;
        }
        loop {
            match message::receive(channel)? {
                Some((FromChild::Terminal, mut files)) => terminal = files.pop(),
                Some((FromChild::Attached, _)) => {
                    run_hooks_outside(launch, &child)?;
                    message::send(channel, &ToChild::Go, &[]).map_err(first)?;
                }
                Some((FromChild::Created(more), _)) => {
                    warnings.extend(more);
                    break;
                }
                Some((FromChild::Failed(err), _)) => return Err(err),
                Some((message, _)) => return Err(unexpected(&message)),
                None => return Err(died_early(child.pidfd.as_fd())),
            }
        }
        if launch.bundle.is_some_and(|bundle| bundle.hold.is_some()) {
            return Ok(());
        }
        follow(channel, child.pidfd.as_fd(), &|| agent_state(launch, &child), &go_on)
    })();
    match steps {
        Ok(()) => {
            let held = outside::hold_namespaces(&child, namespaces);
            Ok(Running { child, terminal, warnings, held })
        }
        Err(err) => Err((err, child)),
    }
}

fn agent_state<'a>(launch: &'a Launch<'_>, child: &Child) -> Option<Agent<'a>> {
    let bundle = launch.bundle?;
    Some(Agent {
        spec: launch.spec,
        id: bundle.id,
        bundle: bundle.path,
        status: "creating",
        first: child.pid.as_raw_nonzero().get(),
        pid: child.pid.as_raw_nonzero().get(),
    })
}

/// Whom a listener of the filter is announced for.
pub struct Agent<'a> {
    /// What the container is.
    pub spec: &'a Spec,
    /// Its id.
    pub id: &'a str,
    /// Its bundle's folder.
    pub bundle: &'a Path,
    /// What the container is doing (runtime-spec, runtime.md, "State").
    pub status: &'static str,
    /// Its first process.
    pub first: i32,
    /// The process under the filter.
    pub pid: i32,
}

/// Follows a child from "created" to the moment when its program runs.
fn follow<'a>(
    channel: &Channel,
    pidfd: BorrowedFd<'_>,
    agent: &dyn Fn() -> Option<Agent<'a>>,
    stuck: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let mut ready = false;
    loop {
        match message::receive_unless(channel, stuck)? {
            Some((FromChild::Ready, _)) => ready = true,
            Some((FromChild::Listener(number), _)) => {
                let agent = agent().ok_or_else(|| {
                    Error::new(Kind::Usage, "the filter asks a listener, and nobody listens")
                        .hint("SCMP_ACT_NOTIFY needs seccomp.listenerPath")
                })?;
                outside::hand_over_listener(pidfd, number, &agent)?;
                message::send(channel, &ToChild::Go, &[])?;
            }
            Some((FromChild::Failed(err), _)) => return Err(err),
            Some((message, _)) => return Err(unexpected(&message)),
            None if ready => return Ok(()),
            None => return Err(died_early(pidfd)),
        }
    }
}

/// A launch has nobody beside it who could freeze it.
fn go_on() -> Result<()> {
    Ok(())
}

/// Lets a held container go on to its program; `channel` is connected to the socket that it waits on. When
/// this comes back, the program runs.
pub fn start(channel: &Channel, pidfd: BorrowedFd<'_>, agent: Agent<'_>) -> Result<()> {
    message::send(channel, &ToChild::Start, &[])?;
    follow(channel, pidfd, &|| Some(Agent { ..agent }), &go_on)
}

fn run_hooks_outside(launch: &Launch<'_>, child: &Child) -> Result<()> {
    let (Some(hooked), Some(all)) = (launch.hooked, launch.spec.hooks()) else { return Ok(()) };
    let pid = child.pid.as_raw_nonzero().get();
    let state = hook_state(launch.spec, hooked.id, hooked.folder, "creating", pid);
    let prestart = all.prestart();
    for (kind, list) in [("prestart", prestart), ("createRuntime", all.create_runtime())] {
        hooks::run(kind, list.as_deref().unwrap_or_default(), &state, hooked.folder)?;
    }
    Ok(())
}

/// What a hook is told.
pub fn hook_state<'a>(
    spec: &'a Spec,
    id: &'a str,
    bundle: &'a Path,
    status: &'a str,
    pid: i32,
) -> HookState<'a> {
    HookState {
        oci_version: spec.version(),
        id,
        status,
        pid,
        bundle,
        annotations: spec.annotations().as_ref(),
    }
}

fn unexpected(message: &FromChild) -> Error {
    Error::new(Kind::Corrupt, format!("launch: unexpected message {message:?}"))
}

/// When the child died first, its own words say more than our broken pipe. One that lives and waits for us has
/// said nothing, and is not waited for.
fn prefer_childs(channel: &Channel, ours: Error) -> Error {
    while channel.has_word() {
        match message::receive::<FromChild>(channel) {
            Ok(Some((FromChild::Failed(err), _))) => return err,
            Ok(Some(_)) => continue,
            _ => return ours,
        }
    }
    ours
}

fn died_early(pidfd: BorrowedFd<'_>) -> Error {
    let how = match process::wait(pidfd) {
        Ok(process::Ended::Killed(signal)) => format!("killed by {}", tare_sys::signal::name(signal)),
        Ok(process::Ended::Exited(status)) => format!("exit status {status}"),
        Err(_) => "reaped by another".to_owned(),
    };
    Error::new(Kind::Kernel, format!("set up the container: its first process died on the way ({how})"))
        .hint("a memory limit below what the set-up itself needs does this; try a larger --memory")
}

/// A child that had to enter a user namespace first has made the real one, as our child (CLONE_PARENT).
fn take_grandchild(
    channel: &Channel,
    helper: Child,
    stuck: &dyn Fn(rustix::process::Pid) -> Result<()>,
) -> std::result::Result<Child, (Error, Child)> {
    match message::receive_unless(channel, &|| stuck(helper.pid)) {
        Ok(Some((FromChild::Cloned(_), mut files))) => match files.pop().map(|pidfd| {
            // Its number as the child saw it may be of another pid namespace; the pidfd knows ours.
            (outside::pid_of(&pidfd), pidfd)
        }) {
            Some((Ok(pid), pidfd)) => {
                let _ = process::wait(helper.pidfd.as_fd());
                Ok(Child { pid, pidfd })
            }
            Some((Err(err), _)) => Err((err, helper)),
            None => Err((Error::new(Kind::Kernel, "launch: the helper sent no process"), helper)),
        },
        Ok(Some((FromChild::Failed(err), _))) => Err((err, helper)),
        Ok(_) => Err((died_early(helper.pidfd.as_fd()), helper)),
        Err(err) => Err((err, helper)),
    }
}

/// The flags whose namespaces hold up the reaper.
const SLOW: [(u64, &str); 3] = [(namespace::MOUNT, "mnt"), (namespace::NET, "net"), (namespace::IPC, "ipc")];
