//! The monitor: one small process a container, forked from the command that starts it, in a session of its
//! own. It makes the cgroup, launches the container, owns its output and its exit code, starts it again where that is
//! asked for, and cleans up.
//!
//! ```text
//! command ──fork──▶ monitor ──clone3──▶ container         stdout, stderr: FIFOs in the run folder
//!    ▲                 │ ◀── FIFOs or terminal
//!    │   started, output, exit                 │ ──▶ log.json, status.json
//!    └─────────────────┤
//! others ──control─────┘   attach, wait, stop, kill, pause …  (see `message`)
//! ```
//!
//! It is one poll(2) loop over a table of [`Source`]s with one deadline: no threads, no wake-ups while nothing happens.
//! Nothing that a client does or does not do holds it up: sends never wait. Only the command that started the container
//! in the foreground may slow its output down, as the reader of any pipe does.
//!
//! A monitor that has run for a second executes itself again, to be rid of all that it needed for the start: see
//! [`adopt`]. By the same way a new monitor takes over from one that was killed.

pub mod adopt;
mod client;
mod end;
mod health;
mod listener;
pub mod message;
mod output;
mod ports;
mod repeat;
pub mod restart;
pub mod sender;
pub mod terminal;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tare_cgroup::{Cgroup, Hierarchies};
use tare_network::names::Server;
use tare_network::proxy::Proxy;
use tare_runtime::launch::Hooked;
use tare_runtime::{Launch, Running};
use tare_sys::channel::Channel;
use tare_sys::netlink::Netlink;
use tare_sys::process::{self, Side};
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders, Lock, Record, Roots, State, Status};
use crate::health::Word;
use crate::log::{Stream, Writer};
use crate::name_server;
use crate::network::{self, Joined};
use crate::range::Range;
use crate::start::Prepared;
use crate::stdio::{self, Stdin};
use client::Client;
use health::Probe;
use listener::Listener;
use message::Message;
use output::{Glass, Unfinished};

/// How long a container has to run until its monitor makes itself small.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a container has to run until its terminal is held by another as well, and, where its command stays, until it
/// can be talked to. The short ones are spared that; who comes early waits.
const LISTEN: Duration = Duration::from_millis(10);
/// How long a line without an end waits in memory for the rest.
const FLUSH: Duration = Duration::from_millis(200);

/// Everything a monitor is born with.
pub struct Job {
    /// Where everything is.
    pub roots: Roots,
    /// The container's folders.
    pub folders: Folders,
    /// What was asked for.
    pub record: Record,
    /// What it needs to be launched.
    pub prepared: Prepared,
    /// Being in charge of it, by holding this open.
    pub lock: Lock,
    /// What it reads from, where it has no terminal.
    pub stdin: Stdin,
    /// Columns and rows of the caller's terminal.
    pub terminal_size: Option<(u16, u16)>,
    /// Which outputs the command wants.
    pub wants: [bool; 2],
    /// The command stays.
    pub attached: bool,
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

fn run(job: Job, channel: Channel) {
    let Job { roots, folders, record, prepared, lock, stdin, terminal_size, wants, attached } = job;
    let mut monitor = Monitor::of(roots, folders, record, lock);
    let started = settle().and_then(|()| monitor.begin(prepared, stdin, terminal_size));
    let warnings = match started {
        Ok(warnings) => warnings,
        Err(err) => {
            crate::start::cannot_start(&monitor.roots, &monitor.record, &monitor.folders, &err);
            Client::new(channel).tell(&Message::Failed(err), &[]);
            monitor.look_after_pool();
            return;
        }
    };
    let mut command = Client::new(channel);
    if let Some(alive) = &monitor.alive {
        command.tell(&Message::Started(warnings), &alive.ways_in(monitor.terminal.as_ref()));
    }
    if attached {
        command.starter = true;
        command.wants = wants;
        command.waits = true;
        monitor.clients.push(command);
    } else {
        // The command ends now, and its caller may have the next one ready.
        drop(command);
        monitor.listen();
    }
    monitor.times.listen = Some(Instant::now() + LISTEN);
    crate::sweep::sometimes(&monitor.roots);
    monitor.watch();
}

/// Leaves the caller's session, folder and files.
fn settle() -> Result<()> {
    rustix::process::setsid().doing(|| "setsid()")?;
    // Of ours all is so already; what the caller had open (the lock of a cron job) goes when this one executes itself again.
    // In an ordinary user's machine there is one file that has to stay.
    if !tare_sys::rootless::is_on() {
        process::close_on_exec_from(3)?;
    }
    // The terminal's Ctrl-C is not for us, and nothing but SIGKILL ends a monitor before its container.
    tare_sys::signal::block_all()?;
    let _ = rustix::thread::set_name(c"tare-monitor");
    rustix::process::chdir("/").doing(|| "chdir(\"/\")")?;
    let null = stdio::open_null()?;
    (0..3).try_for_each(|target| process::dup_onto(null.as_fd(), target))
}

/// What the poll loop waits for. A new kind of thing to wait for is one more here, in `sources` and in `serve`.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The container's PID 1.
    Process,
    /// A new client.
    Control,
    /// A client says something, can be told more, or is gone.
    Client(usize),
    /// Output, or its end.
    Output(Stream),
    /// More output than the beginning of a line.
    More,
    /// Somebody asks the name server.
    Names,
    /// A published port that it serves itself.
    Proxy,
    /// Somebody has changed the host's firewall.
    Firewall,
    /// The check of its health that is under way.
    Probe,
    /// The keeper of its terminal is gone.
    Keeper,
}

/// What is to happen when the time comes.
#[derive(Debug, Default)]
struct Times {
    /// Make ourselves small.
    settle: Option<Instant>,
    /// Write down a line that has no end.
    flush: Option<Instant>,
    /// It was asked to stop, and has not.
    kill: Option<Instant>,
    /// It was killed: see whether it has ended.
    death: Option<Instant>,
    /// See whether it would hear the stop signal by now.
    repeat: Option<Instant>,
    /// Start it again.
    restart: Option<Instant>,
    /// Begin to take its output: who was attached to the monitor before this one gets the time to come back.
    take: Option<Instant>,
    /// Open the control socket.
    listen: Option<Instant>,
    /// See whether it is healthy.
    probe: Option<Instant>,
    /// See whether the host's firewall drops what it was not told to let in.
    firewall: Option<Instant>,
}

/// The container's process.
struct Alive {
    pidfd: OwnedFd,
    /// See [`Running::held`].
    #[expect(dead_code, reason = "held, not read")]
    held: Vec<OwnedFd>,
}

impl Alive {
    /// The files that a client reaches it by.
    fn ways_in<'a>(&'a self, terminal: Option<&'a OwnedFd>) -> Vec<BorrowedFd<'a>> {
        std::iter::once(&self.pidfd).chain(terminal).map(AsFd::as_fd).collect()
    }
}

/// What somebody has asked for and waits for.
pub enum Asked {
    /// That it ends.
    Stop,
    /// That it ends and begins again.
    Restart,
}

/// A monitor at work.
struct Monitor {
    roots: Roots,
    folders: Folders,
    record: Record,
    lock: Lock,
    status: Status,
    alive: Option<Alive>,
    output: [Option<OwnedFd>; 2],
    unfinished: [Unfinished; 2],
    glass: Glass,
    terminal: Option<OwnedFd>,
    /// The process that holds the terminal as well: see [`terminal`].
    keeper: Option<Channel>,
    /// Its cgroup, where this monitor has made it.
    group: Option<Cgroup>,
    /// What it holds on networks.
    joined: Joined,
    /// Its name server, where it is on a network.
    names: Option<Server>,
    /// Serves those of its ports that the firewall cannot lead to it.
    proxy: Option<Proxy>,
    /// Sockets that hold its ports, from before this monitor was executed again.
    ports: Vec<OwnedFd>,
    /// Tells of changes of the host's firewall, where it has ports.
    firewall: Option<Netlink>,
    log: Writer,
    listener: Option<Listener>,
    clients: Vec<Client>,
    asked: Option<Asked>,
    /// The stop signal that its PID 1 may have dropped.
    repeat: repeat::Repeat,
    times: Times,
    /// Until when it waits for [others](Monitor::alone).
    others: Option<Instant>,
    /// Whether it is well, where it has a health check.
    health: Option<Word>,
    /// The check that is under way.
    probe: Option<Probe>,
    /// Executed again since the start: small already.
    small: bool,
    /// The container has ended for good, and its end is written down.
    over: bool,
    /// What was last to be written down of it could not be.
    lost: bool,
}

impl Monitor {
    fn of(roots: Roots, folders: Folders, record: Record, lock: Lock) -> Monitor {
        let log = output::log_of(&folders, &record);
        let status = folders.status().ok().flatten().unwrap_or_else(Status::created);
        Monitor {
            roots,
            folders,
            record,
            lock,
            status,
            alive: None,
            output: [None, None],
            unfinished: Default::default(),
            glass: Glass::default(),
            terminal: None,
            keeper: None,
            group: None,
            joined: Joined::default(),
            names: None,
            proxy: None,
            ports: Vec::new(),
            firewall: None,
            log,
            listener: None,
            clients: Vec::new(),
            asked: None,
            repeat: repeat::Repeat::default(),
            times: Times::default(),
            others: None,
            health: None,
            probe: None,
            small: false,
            over: false,
            lost: false,
        }
    }

    /// Makes the cgroup and launches the container; on failure nothing of that is left.
    fn begin(
        &mut self,
        mut prepared: Prepared,
        stdin: Stdin,
        terminal_size: Option<(u16, u16)>,
    ) -> Result<Vec<String>> {
        let base = prepared.base;
        self.joined = std::mem::take(&mut prepared.joined);
        let begun = self.make_cgroup_and_launch(prepared, stdin, terminal_size);
        if begun.is_err() {
            let _ = self.joined.leave(&self.roots);
            if let Some(base) = base {
                Range::based(&self.roots.run, base).release(&self.record.id);
            }
            crate::volume::unmount_unused(&self.roots, &self.record.id, &self.record.mounts);
        }
        begun
    }

    fn make_cgroup_and_launch(
        &mut self,
        prepared: Prepared,
        stdin: Stdin,
        terminal_size: Option<(u16, u16)>,
    ) -> Result<Vec<String>> {
        let linux = prepared.plan.spec.linux().as_ref();
        let resources = linux
            .and_then(|linux| linux.resources().as_ref())
            .ok_or_else(|| Error::new(Kind::Corrupt, "the plan has no resources"))?;
        crate::volume::mount_all(&self.roots, &self.record)?;
        let cgroup = crate::cgroup::create(&prepared.hierarchies, &self.record, resources)?;
        let launched = self.launch_in(&prepared, &cgroup, stdin, terminal_size);
        match launched {
            Ok(warnings) => {
                self.group = Some(cgroup);
                Ok(warnings)
            }
            Err(err) => {
                let err = crate::cgroup::explain_death(err, &cgroup);
                let _ = cgroup.remove();
                Err(err)
            }
        }
    }

    fn launch_in(
        &mut self,
        prepared: &Prepared,
        cgroup: &Cgroup,
        stdin: Stdin,
        terminal_size: Option<(u16, u16)>,
    ) -> Result<Vec<String>> {
        let entrance = cgroup.entrance()?;
        let cgroup_mounts = cgroup.mounts();
        let (names, obstacles) = (Cell::new(None), Cell::new(Vec::new()));
        let network = |netns: BorrowedFd<'_>| {
            obstacles.set(self.joined.attach(&self.roots, &self.record, netns)?);
            let led = self.joined.warm == Some(true);
            let connections = &self.joined.connections;
            names.set(Some(name_server::open(&self.roots, &self.record, connections, netns, led, None)?));
            Ok(())
        };
        let root = self.folders.run.join("rootfs");
        let hooks = prepared.plan.spec.hooks().is_some();
        let hooked =
            hooks.then_some(Hooked { id: &self.record.id, folder: &self.folders.run, root: Some(&root) });
        if hooks {
            crate::start::write_bundle(&self.folders, &prepared.plan.spec, prepared.base)?;
        }
        let joins = !self.joined.connections.is_empty();
        let (mut theirs, mut output) = (None, [None, None]);
        if !self.record.request.config.tty {
            let (ours, container) = stdio::open(&self.folders, prepared.base, stdin)?;
            output = ours.map(Some);
            theirs = Some(container);
        }
        let Running { child, terminal, warnings, held } = tare_runtime::launch(&Launch {
            spec: &prepared.plan.spec,
            rootfs: &prepared.rootfs,
            user: &prepared.plan.user,
            init: self.record.request.host_config.init,
            entrance: &entrance,
            cgroup_mounts: &cgroup_mounts,
            filter: prepared.filter.as_ref(),
            stdio: theirs.as_ref().map(|files| files.each_ref().map(AsFd::as_fd)),
            terminal_size,
            hooked,
            bundle: None,
            network: joins.then_some(&network),
        })?;
        self.names = names.take();
        self.proxy = self.joined.proxy(&self.roots)?;
        self.output = output;
        self.unfinished = Default::default();
        let status = Status {
            state: State::Running,
            pid: child.pid.as_raw_nonzero().get(),
            pid_began: process::began(child.pid.as_raw_nonzero().get()).unwrap_or(0),
            base: prepared.base,
            boot: process::boot_id(),
            started: Moment::now().to_string(),
            oom_killed: false,
            error: String::new(),
            exit_code: Some(0),
            stopped: false,
            ..self.status.clone()
        };
        if let Err(err) = terminal
            .map_or(Ok(()), |terminal| self.take_terminal(terminal))
            .and_then(|()| self.folders.write_status(&status))
        {
            // A container that nobody could find again must not run.
            let _ = process::signal(child.pidfd.as_fd(), 9);
            let _ = process::wait(child.pidfd.as_fd());
            return Err(crate::container::explain_full(err));
        }
        self.status = status;
        self.alive = Some(Alive { pidfd: child.pidfd, held });
        let warnings = [warnings, obstacles.take()].concat();
        self.times.settle = Some(Instant::now() + SETTLE);
        self.begin_checking();
        network::tell_start(&self.roots, &self.joined.connections, &self.record);
        Ok(warnings)
    }

    fn take_terminal(&mut self, terminal: OwnedFd) -> Result<()> {
        rustix::fs::fcntl_setfl(&terminal, OFlags::NONBLOCK).doing(|| "fcntl(O_NONBLOCK)")?;
        self.output[0] = Some(terminal.try_clone().doing(|| "dup(terminal)")?);
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Once after a start: gives the pool another network in place of the one that was taken from it, or was not there.
    fn look_after_pool(&mut self) {
        if self.joined.warm.take().is_some() {
            crate::warm::look_after(&self.roots, &self.record.id);
        }
    }

    /// Opens the control socket. Without one the container runs, and cannot be talked to.
    fn listen(&mut self) {
        self.listener = Listener::open(&self.folders.control());
    }

    /// Works until the container has ended for good and all who wait were told.
    fn watch(mut self) {
        while !(self.over && self.clients.iter().all(Client::is_done)) {
            if !self.turn() {
                break;
            }
        }
    }

    fn turn(&mut self) -> bool {
        let (sources, ready) = {
            let (sources, mut fds) = self.sources();
            let timeout = self.timeout();
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return false,
            }
            (sources, fds.iter().map(PollFd::revents).collect::<Vec<_>>())
        };
        for (source, events) in sources.into_iter().zip(ready) {
            if !events.is_empty() {
                self.serve(source, events);
            }
        }
        self.clients.retain(|client| !client.gone);
        if !self.small && self.times.settle.is_none() && self.clients.is_empty() && self.alive.is_some() {
            self.times.settle = Some(Instant::now() + SETTLE);
        }
        self.on_time(Instant::now());
        true
    }

    fn sources(&self) -> (Vec<Source>, Vec<PollFd<'_>>) {
        let (mut sources, mut fds) = (Vec::new(), Vec::new());
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if let Some(alive) = &self.alive {
            add(Source::Process, alive.pidfd.as_fd(), PollFlags::IN);
        }
        if let Some(proxy) = &self.proxy {
            add(Source::Proxy, proxy.as_fd(), PollFlags::IN);
        }
        if let Some(names) = &self.names {
            add(Source::Names, names.as_fd(), PollFlags::IN);
        }
        if let Some(firewall) = &self.firewall {
            add(Source::Firewall, firewall.as_fd(), PollFlags::IN);
        }
        if let Some(listener) = &self.listener {
            add(Source::Control, listener.as_fd(), PollFlags::IN);
        }
        if let Some(probe) = &self.probe {
            add(Source::Probe, probe.as_fd(), PollFlags::IN);
        }
        if let Some(keeper) = &self.keeper {
            add(Source::Keeper, keeper.as_fd(), PollFlags::IN);
        }
        for (at, client) in self.clients.iter().enumerate() {
            let flags = if client.has_more() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            add(Source::Client(at), client.as_fd(), flags);
        }
        if self.times.take.is_none() && !self.clients.iter().any(Client::holds_up) {
            for stream in [Stream::Stdout, Stream::Stderr] {
                match &self.output[stream as usize] {
                    Some(file) if !self.unfinished[stream as usize].alone => {
                        add(Source::Output(stream), file.as_fd(), PollFlags::IN);
                    }
                    _ => {}
                }
            }
            if let Some(more) = self.glass.more(&self.unfinished) {
                add(Source::More, more, PollFlags::IN);
            }
        }
        (sources, fds)
    }

    fn timeout(&self) -> Option<Timespec> {
        let Times { settle, flush, kill, death, repeat, restart, take, listen, probe, firewall } = self.times;
        let next = [settle, flush, kill, death, repeat, restart, take, listen, probe, firewall]
            .into_iter()
            .flatten()
            .min()?;
        let left = next.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    fn on_time(&mut self, now: Instant) {
        let due = |time: &mut Option<Instant>| time.take_if(|time| *time <= now).is_some();
        due(&mut self.times.take);
        if due(&mut self.times.listen) {
            if self.listener.is_none() {
                self.listen();
            }
            self.hold_terminal();
        }
        if due(&mut self.times.flush) {
            self.flush_output();
        }
        if due(&mut self.times.kill) {
            self.signal(9, sender::TIMEOUT);
        }
        if due(&mut self.times.death) {
            self.look_at_death();
        }
        if due(&mut self.times.repeat) {
            self.look_at_stop();
        }
        if due(&mut self.times.restart) {
            self.begin_again();
        }
        if due(&mut self.times.probe) {
            self.check();
        }
        if due(&mut self.times.firewall) {
            self.look_at_firewall();
        }
        if due(&mut self.times.settle) {
            self.look_after_pool();
            self.make_small();
            self.watch_firewall();
        }
    }

    fn serve(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Process => self.end(),
            Source::Control => self.admit(),
            Source::Client(at) => self.hear(at, events),
            Source::Probe => self.checked(),
            Source::Keeper => self.keeper_is_gone(),
            Source::Output(stream) => self.take_output(stream, false),
            Source::More => self.more_output(),
            Source::Proxy => {
                if let Some(proxy) = &mut self.proxy {
                    proxy.serve();
                }
            }
            Source::Firewall => self.firewall_changed(),
            Source::Names => {
                if let Some(names) = &mut self.names {
                    names.serve();
                }
            }
        }
    }

    fn admit(&mut self) {
        if let Some(channel) = self.listener.as_mut().and_then(Listener::accept) {
            self.clients.push(Client::new(channel));
        }
    }

    /// Does something with its cgroup. One that took over looks for it when it is wanted.
    fn with_cgroup<T>(&self, work: impl FnOnce(&Cgroup) -> Result<T>) -> Result<T> {
        match &self.group {
            Some(cgroup) => work(cgroup),
            None => work(&crate::cgroup::open(&Hierarchies::discover()?, &self.record)),
        }
    }

    /// Writes the status down.
    fn note(&mut self) {
        self.lost = self.folders.note_status(&self.status).is_err();
    }

    /// Executes itself again, unless somebody is attached, whose channel would be lost.
    fn make_small(&mut self) {
        if self.small || !self.clients.is_empty() || self.alive.is_none() || self.asked.is_some() {
            return;
        }
        if self.probe.is_some() || self.proxy.as_ref().is_some_and(Proxy::is_busy) {
            return;
        }
        self.log.finish();
        // Neither a port nor a question is to be lost meanwhile.
        let names = self.names.as_ref().map_or(Ok(()), |names| names.sockets().keep_over_exec());
        if self.joined.keep_over_exec().and(names).is_err() {
            return;
        }
        let terminal = self.terminal.as_ref().map(AsFd::as_fd);
        adopt::execute_again(
            &self.roots,
            &self.record.id,
            self.lock.as_fd(),
            terminal,
            self.listener.as_ref().map(AsFd::as_fd),
        );
        // It did not work: a monitor that is too large is still one.
        self.small = true;
    }
}
