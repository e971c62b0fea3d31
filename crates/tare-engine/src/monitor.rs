//! The monitor: one small process a container, forked from the command that starts it, in a session of its
//! own. It makes the cgroup, launches the container, owns its output and its exit code, and cleans up.
//!
//! ```text
//! command ──fork──▶ monitor ──clone3──▶ container
//!    ▲                 │ ◀── stdout, stderr or terminal
//!    │   started, output, exit                 │ ──▶ log.json, status.json
//!    └─────────────────┘
//! ```
//!
//! The command says one thing to the monitor: that nobody reads an output any more, so that the monitor closes
//! it and the container sees what it would have seen without us in between.
//!
//! stdin does not pass through here: the command writes into the container's pipe or terminal itself, so that
//! a container that does not read cannot hold up anything else. Killing the command never kills the container.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tare_cgroup::Cgroup;
use tare_network::names::Server;
use tare_runtime::{Launch, Running};
use tare_sys::channel::Channel;
use tare_sys::process::{self, Ended, Side};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders, Lock, Record, Roots, State, Status};
use crate::events::Event;
use crate::log::{Stream, Writer};
use crate::range::Range;
use crate::start::Prepared;
use crate::{name_server, removal};
use tare_sys::time::Moment;

/// Bytes of output taken at once. Four of these are all the buffers that a monitor has.
const CHUNK: usize = 16 * 1024;

/// Everything a monitor is born with.
pub struct Job {
    /// Where everything is kept.
    pub roots: Roots,
    /// The container's folders.
    pub folders: Folders,
    /// What was asked for.
    pub record: Record,
    /// What it needs to be launched.
    pub prepared: Prepared,
    /// Being in charge of it, by holding this open.
    #[expect(dead_code, reason = "held, not read")]
    pub lock: Lock,
    /// The container's stdin, where it has no terminal.
    pub stdin: Option<OwnedFd>,
    /// The other end of that, where nobody writes to it yet: closing it would be the container's end of file.
    #[expect(dead_code, reason = "held, not read")]
    pub kept_stdin: Option<OwnedFd>,
    /// Columns and rows of the caller's terminal.
    pub terminal_size: Option<(u16, u16)>,
    /// Nobody has been told of it: a start that fails takes it away again.
    pub fresh: bool,
    /// Send the output to the command as well.
    pub attached: bool,
}

/// What the monitor tells the command that started it. The first byte of a message is its kind; output is
/// raw, the rest JSON.
#[derive(Debug)]
pub enum Message {
    /// It runs. Its files: the pidfd and, with a terminal, our side of that.
    Started(Vec<String>),
    /// It could not be started; nothing of it is left.
    Failed(Error),
    /// Output.
    Output(Stream, Vec<u8>),
    /// It ended.
    Ended(Exit),
}

/// How a container ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code: the status, or 128 + the signal.
    pub code: u8,
    /// The kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// Its memory limit in bytes; 0: none.
    pub memory_limit: u64,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        fn json<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
            let mut bytes = vec![kind];
            // Strings, numbers and our own error: this cannot fail, and an empty body reads as damaged.
            let _ = serde_json::to_writer(&mut bytes, value);
            bytes
        }
        match self {
            Message::Started(warnings) => json(b's', warnings),
            Message::Failed(err) => json(b'f', err),
            Message::Ended(exit) => json(b'x', exit),
            Message::Output(stream, bytes) => {
                let kind = if *stream == Stream::Stdout { b'o' } else { b'e' };
                std::iter::once(kind).chain(bytes.iter().copied()).collect()
            }
        }
    }

    /// Receives one; `None` when the monitor is gone.
    pub fn receive(channel: &Channel, buffer: &mut [u8]) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        let Some((length, files)) = channel.receive(buffer)? else { return Ok(None) };
        let (kind, body) = (buffer[0], &buffer[1..length]);
        let bad =
            |err: serde_json::Error| Error::new(Kind::Corrupt, format!("message of the monitor: {err}"));
        let message = match kind {
            b's' => Message::Started(serde_json::from_slice(body).map_err(bad)?),
            b'f' => Message::Failed(serde_json::from_slice(body).map_err(bad)?),
            b'x' => Message::Ended(serde_json::from_slice(body).map_err(bad)?),
            b'o' => Message::Output(Stream::Stdout, body.to_vec()),
            b'e' => Message::Output(Stream::Stderr, body.to_vec()),
            kind => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("message of the monitor: unknown kind {kind}"),
                ));
            }
        };
        Ok(Some((message, files)))
    }

    /// A buffer that every message fits in.
    pub fn buffer() -> Vec<u8> {
        vec![0; CHUNK + 1]
    }
}

/// Forks the monitor. What it was born with lives on in it alone; `writer`, the end of the container's stdin
/// that the command keeps, lives on in the command alone, or the container would never see the end of it.
pub fn spawn(job: Job, writer: Option<OwnedFd>) -> Result<(Channel, Option<OwnedFd>)> {
    let (ours, theirs) = Channel::pair()?;
    match process::clone(0, None).doing(|| "fork the monitor")? {
        Side::Parent(_) => Ok((ours, writer)),
        Side::Child => {
            drop((ours, writer));
            run(job, theirs);
            process::exit_now(0)
        }
    }
}

fn run(mut job: Job, channel: Channel) {
    let mut client = Some(channel);
    let started = settle().and_then(|()| start(&mut job));
    let (running, cgroup, output, mut names) = match started {
        Ok(started) => started,
        Err(err) => {
            let _ = job.prepared.joined.leave(&job.roots);
            if job.fresh {
                removal::discard(&job.roots, &job.record);
            } else {
                crate::start::failed(&job.folders, &err);
                crate::volume::unmount_unused(&job.roots, &job.record.id, &job.record.mounts);
                removal::delete_run_folder(&job.folders);
            }
            if let Some(base) = job.prepared.base {
                Range::based(&job.roots.run, base).release(&job.record.id);
            }
            tell(&mut client, &Message::Failed(err), &[]);
            return;
        }
    };
    let mut files = vec![running.child.pidfd.as_fd()];
    files.extend(running.terminal.as_ref().map(AsFd::as_fd));
    tell(&mut client, &Message::Started(running.warnings.clone()), &files);
    if !job.attached {
        client = None;
    }
    crate::sweep::sometimes(&job.roots);
    let mut log = Writer::new(job.folders.log());
    crate::events::emit(&job.roots, &Event::container(&job.record, "start"));
    relay(&running, output, &mut log, &mut client, &mut names);
    // Its sockets hold the network namespace.
    drop(names);
    let ended = process::wait(running.child.pidfd.as_fd()).unwrap_or(Ended::Killed(9));
    // Before anybody hears of the end: the next one may want the same port or address.
    let _ = job.prepared.joined.leave(&job.roots);
    let exit = report(&job, &cgroup, ended);
    crate::volume::unmount_unused(&job.roots, &job.record.id, &job.record.mounts);
    if job.record.request.host_config.auto_remove {
        // Who hears of the end finds its volumes gone.
        removal::release_volumes(&job.roots, &job.record);
    }
    tell(&mut client, &Message::Ended(exit), &[]);
    drop(client);
    // From here on nobody waits.
    drop(running);
    if cgroup.remove().is_err() {
        // Processes that do not die with PID 1: it shared the pid namespace of another.
        let _ = cgroup.kill();
        let _ = cgroup.remove();
    }
    if let Some(base) = job.prepared.base {
        Range::based(&job.roots.run, base).release(&job.record.id);
    }
    if job.record.request.host_config.auto_remove {
        removal::delete_trash(&job.roots, &job.record.id);
    } else {
        removal::delete_run_folder(&job.folders);
    }
}

/// Leaves the caller's session, folder and files.
fn settle() -> Result<()> {
    rustix::process::setsid().doing(|| "setsid()")?;
    // The terminal's Ctrl-C is not for us, and nothing but SIGKILL ends a monitor before its container.
    tare_sys::signal::block_all()?;
    let _ = rustix::thread::set_name(c"tare-monitor");
    rustix::process::chdir("/").doing(|| "chdir(\"/\")")?;
    let null = open_null()?;
    (0..3).try_for_each(|target| process::dup_onto(null.as_fd(), target))
}

fn open_null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .doing(|| "open(\"/dev/null\")")
}

/// Our ends of the container's output.
type Output = [Option<OwnedFd>; 2];

fn start(job: &mut Job) -> Result<(Running, Cgroup, Output, Option<Server>)> {
    let linux = job.prepared.plan.spec.linux().as_ref();
    let resources = linux
        .and_then(|linux| linux.resources().as_ref())
        .ok_or_else(|| Error::new(Kind::Corrupt, "the plan has no resources"))?;
    crate::volume::mount_all(&job.roots, &job.record)?;
    let cgroup = Cgroup::create(&job.prepared.hierarchies, &job.record.cgroup, resources)?;
    match launch_in(job, &cgroup) {
        Ok((running, output, names)) => Ok((running, cgroup, output, names)),
        Err(err) => {
            let err = explain_death(err, &cgroup);
            let _ = cgroup.remove();
            Err(err)
        }
    }
}

fn launch_in(job: &mut Job, cgroup: &Cgroup) -> Result<(Running, Output, Option<Server>)> {
    let terminal =
        job.prepared.plan.spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true));
    let entrance = cgroup.entrance()?;
    let cgroup_mounts = cgroup.mounts();
    let (mut output, mut theirs) = ([None, None], Vec::new());
    if !terminal {
        theirs.push(match job.stdin.take() {
            Some(stdin) => stdin,
            None => open_null()?,
        });
        for ours in &mut output {
            let (reader, writer) =
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")?;
            rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).doing(|| "fcntl(O_NONBLOCK)")?;
            *ours = Some(reader);
            theirs.push(writer);
        }
        give_pipes(&theirs, job.prepared.base)?;
    }
    let stdio = match theirs.as_slice() {
        [stdin, stdout, stderr] => Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
        _ => None,
    };
    let names = Cell::new(None);
    let network = |netns: BorrowedFd<'_>| {
        job.prepared.joined.attach(&job.roots, &job.record, netns)?;
        names.set(name_server::open(&job.roots, &job.record, &job.prepared.joined.connections, netns)?);
        Ok(())
    };
    let attached = !job.prepared.joined.connections.is_empty();
    let running = tare_runtime::launch(&Launch {
        spec: &job.prepared.plan.spec,
        rootfs: &job.prepared.rootfs,
        user: &job.prepared.plan.user,
        init: job.record.request.host_config.init,
        entrance: &entrance,
        cgroup_mounts: &cgroup_mounts,
        filter: job.prepared.filter.as_ref(),
        stdio,
        terminal_size: job.terminal_size,
        network: attached.then_some(&network),
        bundle: None,
    })?;
    if let Some(terminal) = &running.terminal {
        rustix::fs::fcntl_setfl(terminal, OFlags::NONBLOCK).doing(|| "fcntl(O_NONBLOCK)")?;
        output[0] = Some(terminal.try_clone().doing(|| "dup(terminal)")?);
    }
    let status = Status {
        state: State::Running,
        pid: running.child.pid.as_raw_nonzero().get(),
        pid_began: process::began(running.child.pid.as_raw_nonzero().get()).unwrap_or(0),
        base: job.prepared.base,
        boot: process::boot_id(),
        started: Moment::now().to_string(),
        ..Status::created()
    };
    if let Err(err) = job.folders.write_status(&status) {
        // A container that nobody could find again must not run.
        let _ = process::signal(running.child.pidfd.as_fd(), 9);
        let _ = process::wait(running.child.pidfd.as_fd());
        return Err(crate::container::explain_full(err));
    }
    Ok((running, output, names.take()))
}

/// The container's root gets our pipes, so that it can hand them to its user: `echo > /dev/stdout` opens
/// them again by name.
fn give_pipes(pipes: &[OwnedFd], base: Option<u32>) -> Result<()> {
    let Some(base) = base else { return Ok(()) };
    for pipe in pipes {
        let stat = rustix::fs::fstat(pipe).doing(|| "fstat(pipe)")?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
            let (uid, gid) = (rustix::fs::Uid::from_raw(base), rustix::fs::Gid::from_raw(base));
            rustix::fs::fchown(pipe, Some(uid), Some(gid)).doing(|| "fchown(pipe)")?;
        }
    }
    Ok(())
}

/// A set-up that dies for want of memory looks like any other death; the cgroup knows better.
fn explain_death(err: Error, cgroup: &Cgroup) -> Error {
    match cgroup.memory_events() {
        Ok(events) if events.oom_kills > 0 => {
            Error::new(Kind::Exhausted, format!("{err} (the memory limit was reached)"))
                .hint("give it a larger --memory")
        }
        _ => err,
    }
}

fn tell(client: &mut Option<Channel>, message: &Message, files: &[BorrowedFd<'_>]) {
    // A command that was killed is no reason to stop.
    if client.as_ref().is_some_and(|channel| channel.send(&message.encode(), files).is_err()) {
        *client = None;
    }
}

/// Passes output on until the container has ended and all that it wrote is read.
fn relay(
    running: &Running,
    mut output: Output,
    log: &mut Writer,
    client: &mut Option<Channel>,
    names: &mut Option<Server>,
) {
    let mut buffer = vec![0; CHUNK];
    let mut ended = false;
    while !ended {
        let Some(ready) = wait_for(running, &output, client.as_ref(), names.as_ref()) else { break };
        ended = ready.ended;
        if ready.names
            && let Some(names) = names
        {
            names.serve();
        }
        if ready.client
            && let Some(channel) = client
        {
            match channel.receive(&mut buffer) {
                Ok(Some(_)) if buffer[0] == Stream::Stdout as u8 + 1 => output[0] = None,
                Ok(Some(_)) => output[1] = None,
                Ok(None) | Err(_) => *client = None,
            }
        }
        for (slot, stream) in output.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            let Some(fd) = slot else { continue };
            // Once it has ended, all that is left is read, ready or not.
            let wanted = ended || ready.output[stream as usize];
            if wanted && take_output(fd, stream, ended, &mut buffer, log, client) {
                *slot = None;
            }
        }
    }
    log.finish();
}

/// Passes on what there is, `all` of it or one piece; says whether that was its end.
fn take_output(
    file: &OwnedFd,
    stream: Stream,
    all: bool,
    buffer: &mut [u8],
    log: &mut Writer,
    client: &mut Option<Channel>,
) -> bool {
    loop {
        match rustix::io::read(file, &mut *buffer) {
            Ok(0) => return true,
            Ok(length) => {
                log.write(stream, &buffer[..length]);
                if client.is_some() {
                    tell(client, &Message::Output(stream, buffer[..length].to_vec()), &[]);
                }
                if !all {
                    return false;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => return false,
            // A terminal whose other side is closed answers EIO: its end of file.
            Err(_) => return true,
        }
    }
}

/// What is to be done.
struct Ready {
    /// The container's PID 1 has ended.
    ended: bool,
    /// The command says something, or is gone.
    client: bool,
    /// Somebody asks the name server.
    names: bool,
    /// There is output, or its end.
    output: [bool; 2],
}

/// Adds a file, if there is one, and answers its place in the list.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, file: Option<&'a impl AsFd>) -> Option<usize> {
    fds.push(PollFd::new(file?, PollFlags::IN));
    Some(fds.len() - 1)
}

/// Waits until there is something to do; `None` where that cannot be waited for.
fn wait_for(
    running: &Running,
    output: &Output,
    client: Option<&Channel>,
    names: Option<&Server>,
) -> Option<Ready> {
    let mut fds = vec![PollFd::new(&running.child.pidfd, PollFlags::IN)];
    let client = add(&mut fds, client);
    let names = add(&mut fds, names);
    let output = [add(&mut fds, output[0].as_ref()), add(&mut fds, output[1].as_ref())];
    loop {
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => break,
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        }
    }
    let is = |slot: Option<usize>| slot.is_some_and(|at| !fds[at].revents().is_empty());
    Some(Ready { ended: is(Some(0)), client: is(client), names: is(names), output: output.map(is) })
}

/// Writes down how it ended, and frees its name if it is to be removed.
fn report(job: &Job, cgroup: &Cgroup, ended: Ended) -> Exit {
    let code = ended.code();
    // Asked only after a failure: a container that ended well was not killed.
    let events = if code == 0 { None } else { cgroup.memory_events().ok() };
    let exit = Exit {
        code,
        oom_killed: events.as_ref().is_some_and(|events| events.oom_kills > 0),
        memory_limit: job.record.request.host_config.memory.max(0) as u64,
    };
    tell_of_death(job, &exit);
    if job.record.request.host_config.auto_remove {
        removal::to_trash(&job.roots, &job.record);
    } else if let Ok(Some(status)) = job.folders.status() {
        let status = Status {
            state: State::Exited,
            pid: 0,
            finished: Moment::now().to_string(),
            exit_code: Some(code),
            oom_killed: exit.oom_killed,
            ..status
        };
        // A full disk loses the exit code; the sweep then says that it is not known.
        let _ = job.folders.write_status(&status);
    }
    exit
}

fn tell_of_death(job: &Job, exit: &Exit) {
    if exit.oom_killed {
        crate::events::emit(&job.roots, &Event::container(&job.record, "oom"));
    }
    let started = job.folders.status().ok().flatten().and_then(|status| Moment::parse(&status.started));
    let lived = started.map_or(0, |started| Moment::now().seconds() - started.seconds());
    let event = Event::container(&job.record, "die");
    crate::events::emit(&job.roots, &event.with("exitCode", exit.code).with("execDuration", lived));
}
