//! The child's part of a launch. It runs in the container's namespaces with the spec already in memory, and
//! never returns: it ends in exec, or in a message that says why not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use tare_cgroup::Entrance;
use tare_sys::channel::Channel;
use tare_sys::process::{self, Side, namespace};
use tare_sys::{Context, Error, Kind, Result, signal, tty};

use super::command::Command;
use super::finish::{self, Finish, Init, Label};
use super::identity::{self, Identity};
use super::message::{self, FromChild, ToChild};
use super::{Launch, hook_state, outside, view};
use crate::namespaces::{Entered, Namespaces};
use crate::user::User;
use crate::{devices, scheduling};

/// What a child is born with.
pub struct Start<'a> {
    pub launch: &'a Launch<'a>,
    pub namespaces: &'a Namespaces,
    pub entered: &'a Entered,
    pub builder: outside::Builder,
    pub time_is_made: bool,
}

/// Runs to exec. The exit status is seen by nobody but a parent that has been told why already.
pub fn run(start: &Start<'_>, mut channel: Channel) -> ! {
    let failed = match set_up(start, &channel).and_then(|held| {
        if let Some(bundle) = start.launch.bundle
            && let Some(socket) = bundle.hold
        {
            // It may wait for days: nothing of the host's stays open meanwhile, least of all the creator's lock.
            finish::close_the_rest(bundle.preserve_fds, &[socket], held.label.as_ref())?;
            std::mem::forget(std::mem::replace(&mut channel, finish::wait_for_start(socket)?));
        }
        Ok(held)
    }) {
        Ok(work) => finish::finish(&channel, work),
        Err(err) => err,
    };
    let _ = message::send(&channel, &FromChild::Failed(failed), &[]);
    process::exit_now(1)
}

fn set_up<'a>(start: &'a Start<'a>, channel: &Channel) -> Result<Finish<'a>> {
    let Start { launch, namespaces, .. } = *start;
    let spec = launch.spec;
    // Asked while /proc is still the host's.
    let ignored = signal::ignored();
    // Others may be in a joined pid namespace, and would look into us.
    if namespaces.joined(namespace::PID).is_some() {
        identity::hide()?;
    }
    if let Entrance::V1(_) = launch.entrance {
        launch.entrance.join().doing(|| "join the container's cgroup")?;
    }
    if namespaces.joins_user() {
        enter_then_clone(start, channel)?;
    }
    expect(channel, &|message| matches!(message, ToChild::Mapped))?;
    if namespaces.make_time && !start.time_is_made {
        make_time_namespace(spec)?;
    }
    if namespaces.private(namespace::USER) {
        identity::become_root(launch.user.keeps_groups())?;
    } else {
        identity::hide()?;
    }
    if namespaces.make_cgroup {
        process::unshare(namespace::CGROUP)?;
    }
    rustix::process::setsid().doing(|| "setsid()")?;
    if !launch.bundle.is_some_and(|bundle| bundle.no_new_keyring) {
        process::new_session_keyring(c"tare")?;
    }
    set_names(spec, namespaces)?;
    if namespaces.makes(namespace::NET) {
        tare_sys::link::loopback_up()?;
    }
    let process =
        spec.process().as_ref().ok_or_else(|| Error::new(Kind::Usage, "the spec has no process"))?;
    let label = Label::of(process)?;
    let view = view::set_up(start, channel)?;

    let user = launch.user.resolve(&view.root)?;
    let folder = view.working_folder(process.cwd())?;
    view.enter()?;
    rustix::process::fchdir(&folder).doing(|| format!("chdir to {}", process.cwd().display()))?;
    attach_stdio(launch.stdio, view.terminal.as_ref(), &user)?;
    // Left to exec as well.
    std::mem::forget((view, folder));
    let command = Command::of(process, &user)?;
    let linux = spec.linux().as_ref();
    scheduling::apply(process, linux, true)?;
    let (identity, warnings) = Identity::take(process, &user, launch.filter)?;
    let socket = launch.bundle.and_then(|bundle| bundle.hold);
    let needed: Vec<_> = [Some(channel.as_fd()), socket].into_iter().flatten().collect();
    finish::close_the_rest(launch.bundle.map_or(0, |bundle| bundle.preserve_fds), &needed, label.as_ref())?;
    signal::reset(ignored);
    signal::unblock_all()?;
    // Looked up as the user who will run it, so that a refusal is the right one; and now, because the caller of
    // `create` wants to hear it.
    let held = launch.bundle.is_some_and(|bundle| bundle.hold.is_some());
    let program = command.find(held)?;
    command.is_not_us(&program)?;
    message::send(channel, &FromChild::Created(warnings), &[])?;
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref());
    let hooks = launch.hooked.zip(hooks).map(|(hooked, list)| {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        (list, hook_state(spec, hooked.id, hooked.folder, "created", pid))
    });
    Ok(Finish {
        command,
        program,
        identity,
        filter: launch.filter,
        label,
        init: if launch.init { Init::First } else { Init::None },
        hooks,
    })
}

/// Waits for the parent's next message; a parent that is gone means that this container is not to be.
pub fn expect(channel: &Channel, wanted: &dyn Fn(&ToChild) -> bool) -> Result<(ToChild, Vec<OwnedFd>)> {
    match message::receive::<ToChild>(channel)? {
        Some((message, files)) if wanted(&message) => Ok((message, files)),
        Some((message, _)) => {
            Err(Error::new(Kind::Corrupt, format!("launch: unexpected message {message:?}")))
        }
        None => process::exit_now(1),
    }
}

/// Enters the joined user namespace and clones the real child there, as the parent's own child.
fn enter_then_clone(start: &Start<'_>, channel: &Channel) -> Result<()> {
    start.namespaces.enter_user(start.entered)?;
    // The new namespaces belong to the joined user namespace, so we have to be its root to make them.
    identity::become_root(start.launch.user.keeps_groups())?;
    match process::clone_sibling(start.namespaces.make)? {
        Side::Child => Ok(()),
        Side::Parent(child) => {
            message::send(
                channel,
                &FromChild::Cloned(child.pid.as_raw_nonzero().get()),
                &[child.pidfd.as_fd()],
            )?;
            process::exit_now(0)
        }
    }
}

/// Makes a time namespace and moves into it, which setns(2) lets a process of one thread do.
fn make_time_namespace(spec: &Spec) -> Result<()> {
    process::unshare(namespace::TIME)?;
    outside::write_time_offsets(spec)?;
    let path = "/proc/self/ns/time_for_children";
    let own = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))?;
    process::enter(own.as_fd(), namespace::TIME)
}

fn set_names(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let names = [("hostname", spec.hostname()), ("domainname", spec.domainname())];
    for (what, name) in names {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
        if !namespaces.private(namespace::UTS) {
            return Err(Error::new(
                Kind::Usage,
                format!("unable to set {what} {name:?} without a private UTS namespace"),
            )
            .hint("add a namespace of type \"uts\" to the spec, or leave the name out"));
        }
        match what {
            "hostname" => rustix::system::sethostname(name.as_bytes()),
            _ => rustix::system::setdomainname(name.as_bytes()),
        }
        .doing(|| format!("set{what}({name:?})"))?;
    }
    Ok(())
}

/// Gives the process its three files: the terminal, those it was given, or our own as they are.
pub fn attach_stdio(
    stdio: Option<[BorrowedFd<'_>; 3]>,
    terminal: Option<&OwnedFd>,
    user: &User,
) -> Result<()> {
    match (terminal, stdio) {
        (Some(terminal), _) => {
            tty::control(terminal)?;
            for target in 0..3 {
                process::dup_onto(terminal.as_fd(), target)?;
            }
            rustix::fs::fchown(terminal, Some(Uid::from_raw(user.uid)), None).doing(|| "fchown(terminal)")?;
        }
        (None, Some(files)) => {
            for (file, target) in files.into_iter().zip(0..) {
                own_pipe(file, user);
                process::dup_onto(file, target)?;
            }
        }
        (None, None) => {
            let mut null = None;
            for target in 0..3 {
                let file = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()][target];
                if devices::is_null(file) {
                    // Callers open it once, for reading, and give it for all three.
                    if null.is_none() {
                        null = devices::open_null()?;
                    }
                    if let Some(null) = &null {
                        process::dup_onto(null.as_fd(), target as i32)?;
                    }
                } else {
                    own_pipe(file, user);
                }
            }
        }
    }
    Ok(())
}

/// Lets the user open `/dev/stdout` again, which is their pipe. Files and terminals of the caller stay as
/// they are: a host's `/dev/null` is never chowned.
fn own_pipe(file: BorrowedFd<'_>, user: &User) {
    let pipe =
        rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if pipe {
        // Where it is not ours to give (an inherited pipe), only the re-opening by name is lost.
        let _ = rustix::fs::fchown(file, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    }
}
