//! The container's name server: 127.0.0.11, inside its network namespace, served by its monitor.
//!
//! ```text
//! in the container            in the monitor
//! 127.0.0.11:53 ──redirect──▶ Server ── a name on one of its networks? ──▶ directory
//!   UDP and TCP                  │  └── anything else, as the bytes that came ──▶ upstream, pending
//!                                └── one epoll fd, for the monitor's poll loop
//! ```
//!
//! Names of containers, their aliases and short ids are answered from the networks' state files
//! ([`directory`]), addresses are given their names back, and a name that several have is given with all their
//! addresses, in turn. A name that is known is never asked for outside, whatever the kind of record, so that
//! nobody outside can deny it.
//!
//! The server has no thread and never blocks. Nothing runs while nobody asks: the timer is armed only while a
//! question is out. Everything that a container can make it hold is bounded.

mod directory;
mod packet;
mod pending;
mod redirect;
mod stream;
mod upstream;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use tare_sys::process::{self, namespace};
use tare_sys::socket::Spare;
use tare_sys::{Context, Result};

use crate::host_socket::HostSockets;
pub use directory::{Attachment, Directory};
use packet::{Answer, Asked, NoQuery, Query, Wanted};
use pending::{Client, News, Pending, Question};
use stream::Stream;
use upstream::Upstreams;

/// Where every container finds its name server.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Questions that are out at once; the oldest gives way.
const MOST_PENDING: usize = 256;
/// Bytes of questions that are out at once.
const MOST_BYTES: usize = 64 * 1024;
/// Connections of clients at once.
const MOST_STREAMS: usize = 16;
/// Datagrams taken at once, so that a container that asks without end does not keep the monitor from the rest
/// of its work.
const BATCH: usize = 32;
/// After this nobody waits any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// As long as this a server may take that others had to stand in for: as long as a client waits (resolv.conf(5)).
const LATE: Duration = Duration::from_secs(5);
/// Every server is asked as often as this.
const ROUNDS: usize = 2;

const UDP: u64 = 0;
const TCP: u64 = 1;
const TIMER: u64 = 2;
const PENDING: u64 = 3 << 32;
const STREAM: u64 = 4 << 32;

/// What a name server has to know.
#[derive(Debug)]
pub struct Config<'a> {
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
    /// Port 53 leads to the server already: see [`lead`].
    pub led: bool,
    /// Whom it may know.
    pub directory: Directory,
    /// `--dns`: asked instead of the host's resolvers, from inside the container.
    pub named: &'a [IpAddr],
    /// The host's resolv.conf.
    pub resolv_conf: &'a Path,
    /// Who makes the sockets to ask the host's resolvers by.
    pub host: HostSockets,
}

/// What a name server listens on.
#[derive(Debug)]
pub struct Sockets {
    /// Datagrams.
    pub udp: OwnedFd,
    /// Connections.
    pub tcp: OwnedFd,
}

impl Sockets {
    /// Keeps them open when this program is executed again.
    pub fn keep_over_exec(&self) -> Result<()> {
        [&self.udp, &self.tcp].into_iter().try_for_each(|socket| {
            rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())
                .doing(|| "fcntl(name server, F_SETFD)")
        })
    }

    /// Finds them among files that were kept so; the others are left.
    pub fn among(files: &mut Vec<OwnedFd>) -> Option<Sockets> {
        let kind = |file: &OwnedFd| {
            let bound = rustix::net::getsockname(file).ok().and_then(|at| SocketAddr::try_from(at).ok())?;
            let ours = bound.ip() == IpAddr::from(ADDRESS);
            ours.then(|| rustix::net::sockopt::socket_type(file).ok()).flatten()
        };
        let mut take = |wanted| {
            let at = files.iter().position(|file| kind(file) == Some(wanted))?;
            Some(files.swap_remove(at))
        };
        Some(Sockets { udp: take(SocketType::DGRAM)?, tcp: take(SocketType::STREAM)? })
    }
}

/// The name server of one container.
#[derive(Debug)]
pub struct Server {
    epoll: OwnedFd,
    spare: Spare,
    sockets: Sockets,
    timer: OwnedFd,
    /// When the timer goes off.
    armed: Option<Instant>,
    netns: OwnedFd,
    home: OwnedFd,
    directory: Directory,
    upstreams: Upstreams,
    host: HostSockets,
    pending: Vec<(u32, Pending)>,
    streams: Vec<(u32, Stream, EventFlags)>,
    /// Streams whose next question may be looked at.
    resumed: Vec<u32>,
    serial: u32,
    buffer: Vec<u8>,
}

impl Server {
    /// Opens it. The caller has to be single-threaded, or the calling thread be left alone: it visits the
    /// container's network namespace.
    pub fn open(config: Config<'_>) -> Result<Server> {
        let home = own_network()?;
        process::enter(config.netns, namespace::NET).doing(|| "enter the container's network namespace")?;
        let opened = sockets(config.led);
        process::enter(home.as_fd(), namespace::NET)
            .doing(|| "come back from the container's network namespace")?;
        let sockets = opened.doing(|| format!("open the name server {ADDRESS}"))?;
        Server::on(config, home, sockets)
    }

    /// Goes on with the [`sockets`](Server::sockets) of a server that this program was before it executed itself
    /// again: what was asked meanwhile waits in them.
    pub fn go_on(config: Config<'_>, sockets: Sockets) -> Result<Server> {
        Server::on(config, own_network()?, sockets)
    }

    /// What it listens on.
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    fn on(config: Config<'_>, home: OwnedFd, sockets: Sockets) -> Result<Server> {
        let netns = config.netns.try_clone_to_owned().doing(|| "dup(network namespace)")?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).doing(|| "epoll_create1()")?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .doing(|| "timerfd_create()")?;
        for (fd, token) in [(&sockets.udp, UDP), (&sockets.tcp, TCP), (&timer, TIMER)] {
            epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN).doing(|| "epoll_ctl()")?;
        }
        Ok(Server {
            spare: Spare::of(epoll.as_fd()),
            epoll,
            sockets,
            timer,
            armed: None,
            netns,
            home,
            directory: config.directory,
            upstreams: Upstreams::new(config.named, PathBuf::from(config.resolv_conf)),
            host: config.host,
            pending: Vec::new(),
            streams: Vec::new(),
            resumed: Vec::new(),
            serial: 0,
            buffer: Vec::new(),
        })
    }

    /// Does what there is to do now. To be called when the server's fd can be read.
    pub fn serve(&mut self) {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; BATCH];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(count) = epoll::wait(&self.epoll, &mut events[..], Some(&now)) else { return };
        if self.buffer.is_empty() {
            self.buffer = vec![0; usize::from(packet::DATAGRAM)];
        }
        for event in events.into_iter().take(count) {
            let (flags, token) = (event.flags, event.data.u64());
            match token {
                UDP => self.take_datagrams(),
                TCP => self.accept(),
                TIMER => self.expire(),
                token if token & STREAM == STREAM => self.converse(token as u32, flags),
                token => self.hear(token as u32),
            }
        }
        while let Some(serial) = self.resumed.pop() {
            self.pump(serial);
        }
        self.arm();
    }

    fn take_datagrams(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BATCH {
            match rustix::net::recvfrom(&self.sockets.udp, &mut buffer[..], RecvFlags::TRUNC) {
                Ok((length, whole, Some(from))) if whole == length => {
                    let Ok(from) = SocketAddr::try_from(from) else { continue };
                    self.handle(buffer.get(..length).unwrap_or_default(), Client::Datagram(from));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.buffer = buffer;
    }

    /// Answers a question, or passes it on.
    fn handle(&mut self, bytes: &[u8], client: Client) {
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(NoQuery::Answered(answer)) => return self.reply(client, &answer),
            Err(NoQuery::Ignored) => return self.hang_up(client),
        };
        let room = match client {
            Client::Datagram(_) => query.room.into(),
            Client::Stream(_) => packet::LARGEST,
        };
        let known = match &query.asked {
            Asked::Name(name, wanted) => self.directory.addresses(name).map(|mut addresses| {
                addresses.retain(|address| match wanted {
                    Wanted::V4 => address.is_ipv4(),
                    Wanted::V6 => address.is_ipv6(),
                    Wanted::All => true,
                    Wanted::None => false,
                });
                Answer::Addresses(addresses)
            }),
            Asked::Address(address) => self.directory.name_of(*address).map(Answer::Pointer),
            Asked::Other => None,
        };
        match known {
            Some(answer) => self.reply(client, &query.answer(&answer, room)),
            None if self.upstreams.inside() || self.directory.leads_out() => self.forward(bytes, client),
            None => self.reply(client, &query.answer(&Answer::Failed, room)),
        }
    }

    fn forward(&mut self, query: &[u8], client: Client) {
        let Some(id) = packet::id(query) else { return };
        let bytes = |pending: &[(u32, Pending)]| {
            pending.iter().map(|(_, pending)| pending.question.query.len()).sum::<usize>()
        };
        while self.pending.len() >= MOST_PENDING || bytes(&self.pending) + query.len() > MOST_BYTES {
            if self.pending.is_empty() {
                break;
            }
            let (_, oldest) = self.pending.remove(0);
            self.give_up(oldest.question);
        }
        if let Client::Stream(serial) = client
            && let Some((_, stream, _)) = self.streams.iter_mut().find(|(known, ..)| *known == serial)
        {
            stream.waiting = true;
        }
        self.ask(Question { client, id, query: query.to_vec(), tries: 0, since: Instant::now() });
    }

    /// Asks the next server that can be asked; if there is none any more, says so.
    fn ask(&mut self, mut question: Question) {
        let servers = self.upstreams.count();
        while question.tries < servers * ROUNDS && question.since.elapsed() < PATIENCE {
            let Some(server) = self.upstreams.nth(question.tries) else { break };
            question.tries += 1;
            let asked = if self.upstreams.inside() {
                self.inside(|| Pending::ask(question, server, &HostSockets::Ours))
            } else {
                Pending::ask(question, server, &self.host)
            };
            match asked {
                Err(back) => question = back,
                Ok(pending) => {
                    let serial = self.next_serial();
                    let writes = if pending.writes() { EventFlags::OUT } else { EventFlags::IN };
                    let token = EventData::new_u64(PENDING | u64::from(serial));
                    if epoll::add(&self.epoll, &pending, token, writes).is_err() {
                        return self.give_up(pending.question);
                    }
                    self.pending.push((serial, pending));
                    return;
                }
            }
        }
        self.give_up(question);
    }

    /// One try of a question has come to nothing.
    fn give_up(&mut self, question: Question) {
        if !self.pending.iter().any(|(_, pending)| pending.question.is(&question)) {
            self.fail(question);
        }
    }

    /// Does something from inside the container's network.
    fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        let entered = process::enter(self.netns.as_fd(), namespace::NET).is_ok();
        let done = work();
        // It is our own namespace, held open: the kernel has no reason to refuse, and in a wrong one we must
        // not go on.
        if entered && process::enter(self.home.as_fd(), namespace::NET).is_err() {
            process::exit_now(1);
        }
        done
    }

    /// One server has something to say.
    fn hear(&mut self, serial: u32) {
        let Some(index) = self.pending.iter().position(|(known, _)| *known == serial) else { return };
        let Some((_, pending)) = self.pending.get_mut(index) else { return };
        match pending.go_on(&mut self.buffer) {
            News::None => {}
            News::Sent => {
                let token = EventData::new_u64(PENDING | u64::from(serial));
                let _ = epoll::modify(&self.epoll, &*pending, token, EventFlags::IN);
            }
            News::Answer(answer) => {
                let (_, Pending { question, server, late, .. }) = self.pending.remove(index);
                // As the C library does: who says that it cannot say is no reason not to ask the next one.
                if packet::declined(&answer) && !late && question.tries < self.upstreams.count() {
                    return self.ask(question);
                }
                self.pending.retain(|(_, pending)| !pending.question.is(&question));
                if question.tries > 1 {
                    self.upstreams.prefer(server);
                }
                self.reply(question.client, &answer);
            }
            News::Lost => {
                let (_, Pending { question, late, .. }) = self.pending.remove(index);
                if late { self.give_up(question) } else { self.ask(question) }
            }
        }
    }

    /// Gives up what has taken too long.
    fn expire(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut count);
        self.armed = None;
        let now = Instant::now();
        while let Some(index) = self.pending.iter().position(|(_, pending)| pending.deadline <= now) {
            let (serial, mut pending) = self.pending.remove(index);
            let question = pending.question.clone();
            if std::mem::replace(&mut pending.late, true) {
                self.give_up(question);
                continue;
            }
            pending.deadline = question.since + LATE;
            if pending.deadline > now {
                self.pending.insert(index, (serial, pending));
            }
            self.ask(question);
        }
        self.streams.retain(|(_, stream, _)| stream.waiting || stream.deadline > now);
    }

    /// Sets the timer to the next moment at which something takes too long, unless it goes off before anyway.
    fn arm(&mut self) {
        let pending = self.pending.iter().map(|(_, pending)| pending.deadline);
        let idle = self.streams.iter().filter(|(_, stream, _)| !stream.waiting);
        let streams = idle.map(|(_, stream, _)| stream.deadline);
        let Some(next) = pending.chain(streams).min() else { return };
        if self.armed.is_some_and(|armed| armed <= next) {
            return;
        }
        // Never 0, which would disarm it.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).is_ok() {
            self.armed = Some(next);
        }
    }

    fn fail(&mut self, question: Question) {
        let mut query = question.query;
        packet::set_id(&mut query, question.id);
        if let Ok(read) = Query::read(&query) {
            self.reply(question.client, &read.answer(&Answer::Failed, packet::LARGEST));
        }
    }

    /// Sends an answer.
    fn reply(&mut self, client: Client, answer: &[u8]) {
        match client {
            // A client that does not take its answers loses them.
            Client::Datagram(to) => {
                let _ = rustix::net::sendto(&self.sockets.udp, answer, SendFlags::NOSIGNAL, &to);
            }
            Client::Stream(serial) => {
                if let Some((_, stream, _)) = self.streams.iter_mut().find(|(known, ..)| *known == serial) {
                    stream.answer(answer);
                    if !self.resumed.contains(&serial) {
                        self.resumed.push(serial);
                    }
                }
            }
        }
    }

    /// What came is not worth an answer.
    fn hang_up(&mut self, client: Client) {
        if let Client::Stream(serial) = client {
            self.streams.retain(|(known, ..)| *known != serial);
        }
    }

    fn accept(&mut self) {
        for _ in 0..BATCH {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match rustix::net::accept_with(&self.sockets.tcp, flags) {
                Ok(socket) => socket,
                Err(err) => return self.spare.turn_away(self.sockets.tcp.as_fd(), Some(err)),
            };
            if self.streams.len() >= MOST_STREAMS
                && let Some(oldest) =
                    (0..self.streams.len()).min_by_key(|index| self.streams[*index].1.deadline)
            {
                self.streams.remove(oldest);
            }
            let serial = self.next_serial();
            let token = EventData::new_u64(STREAM | u64::from(serial));
            if epoll::add(&self.epoll, &socket, token, EventFlags::IN).is_ok() {
                self.streams.push((serial, Stream::new(socket), EventFlags::IN));
            }
        }
    }

    /// A client's stream can be read or written.
    fn converse(&mut self, serial: u32, flags: EventFlags) {
        let Some((_, stream, _)) = self.streams.iter_mut().find(|(known, ..)| *known == serial) else {
            return;
        };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        if broken || (stream.is_hungry() && !stream.read()) {
            return self.streams.retain(|(known, ..)| *known != serial);
        }
        self.pump(serial);
    }

    /// Writes what a stream still has to write, and takes its questions one by one.
    fn pump(&mut self, serial: u32) {
        loop {
            let Some((_, stream, interest)) = self.streams.iter_mut().find(|(known, ..)| *known == serial)
            else {
                return;
            };
            let question = if stream.write() { stream.question() } else { Err(stream::TooLarge) };
            match question {
                Ok(Some(question)) => {
                    self.handle(&question, Client::Stream(serial));
                    continue;
                }
                Ok(None) if !stream.is_over() => {}
                _ => return self.streams.retain(|(known, ..)| *known != serial),
            }
            let mut wanted = EventFlags::empty();
            wanted.set(EventFlags::IN, stream.is_hungry());
            wanted.set(EventFlags::OUT, stream.is_full());
            if wanted != *interest {
                let token = EventData::new_u64(STREAM | u64::from(serial));
                let _ = epoll::modify(&self.epoll, &*stream, token, wanted);
                *interest = wanted;
            }
            return;
        }
    }

    fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }
}

impl AsFd for Server {
    /// Can be read when there is something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn own_network() -> Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))
}

/// Leads port 53 to where the server of the network namespace that the caller is in will be.
pub fn lead() -> Result<()> {
    redirect::lead(redirect::PORT, redirect::PORT)
}

/// Opens both sockets in the network namespace that the caller is in, and leads port 53 to them.
fn sockets(led: bool) -> Result<Sockets> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let udp = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
        .doing(|| "socket(UDP)")?;
    let tcp = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .doing(|| "socket(TCP)")?;
    let udp_port = bind(&udp)?;
    let tcp_port = bind(&tcp)?;
    rustix::net::listen(&tcp, MOST_STREAMS as i32).doing(|| "listen()")?;
    if !(led && (udp_port, tcp_port) == (redirect::PORT, redirect::PORT)) {
        redirect::lead(udp_port, tcp_port)?;
    }
    Ok(Sockets { udp, tcp })
}

fn bind(socket: &OwnedFd) -> Result<u16> {
    // The loopback interface may just be on its way up.
    rustix::net::sockopt::set_ip_freebind(socket, true).doing(|| "setsockopt(IP_FREEBIND)")?;
    let address = |port| SocketAddr::new(ADDRESS.into(), port);
    match rustix::net::bind(socket, &address(redirect::PORT)) {
        Ok(()) => return Ok(redirect::PORT),
        Err(Errno::ADDRINUSE) => rustix::net::bind(socket, &address(0)),
        refused => refused,
    }
    .doing(|| format!("bind({ADDRESS})"))?;
    let bound = rustix::net::getsockname(socket).doing(|| "getsockname()")?;
    Ok(SocketAddr::try_from(bound).map_or(redirect::PORT, |address| address.port()))
}
