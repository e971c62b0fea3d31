//! One more process in a container that runs: `exec`.
//!
//! ```text
//! parent                                       child
//! enter the pid namespace for its child
//! clone3 (into the cgroup on v2) ─────────────▶ unreadable at once; join cgroups (v1)
//!                                              enter all namespaces with one setns(2)
//! rlimits                                      (cloned again, where only root of its user namespace may enter)
//! "mapped" ──────────────────────────────────▶ terminal, user, folder, capabilities
//!           ◀───────────────────────────────── "created"
//!           ◀───────────────────────────────── "ready", then seccomp and exec as in a launch
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use tare_cgroup::Entrance;
use tare_sys::channel::Channel;
use tare_sys::path::Root;
use tare_sys::process::{self, Child, Side, namespace};
use tare_sys::{Context, Error, Result, rootless, signal, tty};

use super::child::{attach_stdio, expect};
use super::command::Command;
use super::finish::{self, Finish, Init, Label};
use super::identity::{self, Identity};
use super::message::{self, FromChild, ToChild};
use super::{Agent, Running, died_early, follow, outside, prefer_childs, take_grandchild, unexpected, view};
use crate::scheduling;
use crate::seccomp::Compiled;
use crate::user::UserRequest;

/// Everything that joining needs.
pub struct Join<'a> {
    /// What the container is.
    pub spec: &'a Spec,
    /// Its id.
    pub id: &'a str,
    /// Its bundle's folder.
    pub bundle: &'a Path,
    /// Its first process.
    pub target: BorrowedFd<'a>,
    /// Its number.
    pub first: i32,
    /// What to run.
    pub process: &'a Process,
    /// As whom.
    pub user: &'a UserRequest,
    /// The container's cgroup.
    pub entrance: &'a Entrance,
    /// The system call filter.
    pub filter: Option<&'a Compiled>,
    /// Pass so many of our files on, from 3 upwards.
    pub preserve_fds: u32,
    /// stdin, stdout and stderr; not used with a terminal. `None`: the caller's own.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Asked each time that the process has not come further for [`PATIENCE`], with its number: an error gives it up. What
    /// can hold it up is a freezer.
    pub stuck: &'a dyn Fn(Pid) -> Result<()>,
    /// Leave a reaper beside it, for what it leaves behind itself: a PID 1 need not care for children that it did
    /// not have.
    pub reaps: bool,
}

/// After this time it is looked whether something holds the process up.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// A process that was started in a container.
#[derive(Debug)]
pub struct Joined {
    /// It, or its reaper.
    pub running: Running,
    /// Where a reaper tells how the program ended: see [`init::watch_over`](crate::init::watch_over). The end of this file
    /// without a word, where there is none or it was killed.
    pub told: OwnedFd,
}

/// Starts the process.
pub fn join(join: &Join<'_>) -> Result<Joined> {
    let (told, tell) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")?;
    let all = crate::namespaces::listed(join.spec);
    let (ours, theirs) = Channel::pair()?;
    ours.set_patience(PATIENCE)?;
    let cgroup = match join.entrance {
        Entrance::V2(dir) => Some(dir.as_fd()),
        _ => None,
    };
    let back = enter_pid_for_child(join, all)?;
    let cloned = process::clone(0, cgroup).map_err(outside::explain_clone);
    if let Ok(Side::Child) = cloned {
        drop(ours);
        drop(told);
        run(join, tell, if back.is_some() { all & !namespace::PID } else { all }, theirs)
    }
    let left = match &back {
        Some(back) => process::enter(back.as_fd(), namespace::PID),
        None => Ok(()),
    };
    drop((theirs, tell));
    let Side::Parent(child) = cloned? else { process::exit_now(1) };
    let clones_again = back.is_none() && all & namespace::PID != 0;
    match left
        .map_err(|err| (err, None))
        .and_then(|()| attend(join, clones_again, &ours, child).map_err(|(err, child)| (err, Some(child))))
    {
        Ok(running) => Ok(Joined { running, told }),
        Err((err, child)) => {
            if let Some(child) = child {
                let _ = process::signal(child.pidfd.as_fd(), 9);
                let _ = process::wait(child.pidfd.as_fd());
            }
            Err(err)
        }
    }
}

/// Lets the next child be born in the container's pid namespace. Answers with the way back; `None` where only
/// root of the container's user namespace may, and where there is nothing to enter.
fn enter_pid_for_child(join: &Join<'_>, all: u64) -> Result<Option<OwnedFd>> {
    // From a container, no way leads root of an ordinary user's machine back to the host's.
    if all & namespace::PID == 0 || rootless::is_on() {
        return Ok(None);
    }
    let back = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open(\"/proc/self/ns/pid\")")?;
    match process::enter(join.target, namespace::PID) {
        Ok(()) => Ok(Some(back)),
        Err(err) if err.errno() == Some(Errno::PERM) && all & namespace::USER != 0 => Ok(None),
        Err(err) => Err(err.context("enter the container's pid namespace")),
    }
}

fn attend(
    join: &Join<'_>,
    clones_again: bool,
    channel: &Channel,
    mut child: Child,
) -> std::result::Result<Running, (Error, Child)> {
    if clones_again {
        child = take_grandchild(channel, child, join.stuck)?;
    }
    let mut warnings = Vec::new();
    let mut terminal = None;
    let stuck = || (join.stuck)(child.pid);
    let steps = (|| {
        let first = |err| prefer_childs(channel, err);
        join.entrance.admit(child.pid).map_err(first)?;
        warnings = crate::rlimit::apply(child.pid, join.process.rlimits().as_deref().unwrap_or_default())
            .map_err(first)?;
        message::send(channel, &ToChild::Mapped, &[]).map_err(first)?;
        loop {
            match message::receive_unless(channel, &stuck)? {
                Some((FromChild::Terminal, mut files)) => terminal = files.pop(),
                Some((FromChild::Created(more), _)) => {
                    warnings.extend(more);
                    break;
                }
                Some((FromChild::Failed(err), _)) => return Err(err),
                Some((message, _)) => return Err(unexpected(&message)),
                None => return Err(died_early(child.pidfd.as_fd())),
            }
        }
        let pid = child.pid.as_raw_nonzero().get();
        let agent = || {
            let (spec, id, bundle) = (join.spec, join.id, join.bundle);
            Some(Agent { spec, id, bundle, status: "running", first: join.first, pid })
        };
        follow(channel, child.pidfd.as_fd(), &agent, &stuck)
    })();
    match steps {
        Ok(()) => Ok(Running { child, terminal, warnings, held: Vec::new() }),
        Err(err) => Err((err, child)),
    }
}

fn run(join: &Join<'_>, tell: OwnedFd, enter: u64, channel: Channel) -> ! {
    let failed = match set_up(join, tell, enter, &channel) {
        Ok(work) => finish::finish(&channel, work),
        Err(err) => err,
    };
    let _ = message::send(&channel, &FromChild::Failed(failed), &[]);
    process::exit_now(1)
}

fn set_up<'a>(join: &'a Join<'a>, tell: OwnedFd, enter: u64, channel: &Channel) -> Result<Finish<'a>> {
    // Whoever is in the container must not get at the host's files that we still hold (CVE-2016-9962).
    identity::hide()?;
    let ignored = signal::ignored();
    let process = join.process;
    let label = Label::of(process)?;
    scheduling::set_initial_affinity(process)?;
    if let Entrance::V1(_) = join.entrance {
        join.entrance.join().doing(|| "join the container's cgroup")?;
    }
    if enter != 0 {
        process::enter(join.target, enter).doing(|| "enter the container's namespaces")?;
    }
    if enter & namespace::USER != 0 {
        identity::become_root(join.user.keeps_groups())?;
    }
    if enter & namespace::PID != 0 {
        clone_inside(channel)?;
    }
    expect(channel, &|message| matches!(message, ToChild::Mapped))?;
    rustix::process::setsid().doing(|| "setsid()")?;
    process::new_session_keyring(c"tare")?;

    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open("/", flags, Mode::empty()).doing(|| "open(\"/\")")?);
    let terminal = match process.terminal() {
        Some(true) => Some(open_terminal(&root, process, channel)?),
        _ => None,
    };
    let user = join.user.resolve(&root)?;
    let folder = view::open_working_folder(&root, process.cwd())?;
    rustix::process::fchdir(&folder).doing(|| format!("chdir to {}", process.cwd().display()))?;
    attach_stdio(join.stdio, terminal.as_ref(), &user)?;
    // Exec closes everything at once.
    std::mem::forget((root, folder, terminal));
    let command = Command::of(process, &user)?;
    scheduling::apply(process, join.spec.linux().as_ref(), false)?;
    scheduling::set_final_affinity(process)?;
    let (identity, warnings) = Identity::take(process, &user, join.filter)?;
    finish::close_the_rest(join.preserve_fds, &[channel.as_fd(), tell.as_fd()], label.as_ref())?;
    signal::reset(ignored);
    signal::unblock_all()?;
    let program = command.find(false)?;
    command.is_not_us(&program)?;
    message::send(channel, &FromChild::Created(warnings), &[])?;
    Ok(Finish {
        command,
        program,
        identity,
        filter: join.filter,
        label,
        init: if join.reaps { Init::Reaper(tell) } else { Init::None },
        hooks: None,
    })
}

/// Clones the real child into the pid namespace just entered, as the parent's own child.
fn clone_inside(channel: &Channel) -> Result<()> {
    match process::clone_sibling(0)? {
        Side::Child => Ok(()),
        Side::Parent(child) => {
            let number = child.pid.as_raw_nonzero().get();
            message::send(channel, &FromChild::Cloned(number), &[child.pidfd.as_fd()])?;
            process::exit_now(0)
        }
    }
}

fn open_terminal(root: &Root, process: &Process, channel: &Channel) -> Result<OwnedFd> {
    let (ours, theirs) = view::open_pair_in(root)?;
    if let Some(size) = process.console_size() {
        tty::set_size(&ours, size.width() as u16, size.height() as u16)?;
    }
    message::send(channel, &FromChild::Terminal, &[ours.as_fd()])?;
    Ok(theirs)
}
