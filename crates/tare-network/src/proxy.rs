//! Published ports at `::1`, and at any address of a family that the container does not have: a proxy in its monitor.
//!
//! The firewall can change a destination, but not from one family to the other, and not of what goes to `::1`, which
//! the kernel lets leave the host by no setting. Without this, `localhost`, which is `::1` first of all, would lead
//! nowhere. The container sees the bridge as the client. TCP and UDP; SCTP needs a container with IPv6.
//! Everything else goes past it, by the firewall's map. What comes in here has passed the host's rules for input.
//!
//! In an ordinary user's machine it serves all ports: they are the host's, which the machine's firewall does not see. There,
//! clients keep their addresses: see `client_address`.
//!
//! It never blocks, has no thread, and holds at most [`MOST`] connections of [`CHUNK`] bytes each way.

mod datagrams;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use tare_sys::socket::Spare;
use tare_sys::{Context, Result};

use crate::client_address;
use crate::port::{Protocol, Reserved};
use datagrams::Clients;

/// Connections at once; more are refused.
const MOST: usize = 256;
/// Bytes taken at once.
const CHUNK: usize = 16 * 1024;
/// Connections that may wait to be taken.
const BACKLOG: i32 = 128;

/// Keys of connections in the epoll begin here; those below are of listeners.
const PAIRS: u64 = 1 << 32;
/// And those of clients that send datagrams here.
const CLIENTS: u64 = 1 << 33;

/// The proxy of one container.
#[derive(Debug)]
pub struct Proxy {
    epoll: OwnedFd,
    listeners: Vec<Listener>,
    pairs: Vec<Option<Pair>>,
    clients: Clients,
    spare: Spare,
    /// For a datagram; empty as long as none has come.
    buffer: Vec<u8>,
    /// It serves all ports, not only those that the firewall cannot.
    all: bool,
    /// Clients keep their addresses, where that can be.
    keeps: bool,
}

/// A port that it serves.
#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    protocol: Protocol,
    /// Where the container is.
    target: SocketAddr,
}

/// A client's connection, and ours to the container.
#[derive(Debug)]
struct Pair {
    /// The client's, then the container's.
    ends: [End; 2],
    /// The connection to the container stands.
    connected: bool,
}

#[derive(Debug)]
struct End {
    socket: OwnedFd,
    /// What is to be sent here.
    waiting: Vec<u8>,
    /// Nothing more comes from here.
    ended: bool,
    /// Nothing more is sent here.
    shut: bool,
    /// What is waited for; `None`: not even whether it broke.
    interest: Option<EventFlags>,
}

impl Proxy {
    /// Serves those of the reserved ports that only a proxy can; `None` where there are none. The sockets stay where
    /// they are as well. `machine`: in an ordinary user's machine, the name of its table in the firewall.
    pub fn open(
        reserved: &[Reserved],
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
        machine: Option<&str>,
    ) -> Result<Option<Proxy>> {
        let listeners = listeners(reserved, ipv4, ipv6, machine.is_some())?;
        if listeners.is_empty() {
            return Ok(None);
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC).doing(|| "epoll_create1()")?;
        let mut proxy = Proxy {
            spare: Spare::of(epoll.as_fd()),
            epoll,
            listeners: Vec::new(),
            pairs: Vec::new(),
            clients: Clients::default(),
            buffer: Vec::new(),
            all: machine.is_some(),
            keeps: machine.is_some_and(|table| client_address::prepare(table).is_ok()),
        };
        proxy.watch(listeners)?;
        Ok(Some(proxy))
    }

    /// Serves these ports from now on, in place of those before. Connections that stand go on.
    pub fn change(
        &mut self,
        reserved: &[Reserved],
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
    ) -> Result<()> {
        for listener in self.listeners.drain(..) {
            // The epoll would go on with it: what is reserved is the same open file.
            let _ = epoll::delete(&self.epoll, &listener.socket);
        }
        self.watch(listeners(reserved, ipv4, ipv6, self.all)?)
    }

    fn watch(&mut self, listeners: Vec<Listener>) -> Result<()> {
        for (at, listener) in listeners.iter().enumerate() {
            epoll::add(&self.epoll, &listener.socket, EventData::new_u64(at as u64), EventFlags::IN)
                .doing(|| "epoll_ctl(listener)")?;
        }
        self.listeners = listeners;
        Ok(())
    }

    /// Somebody is connected.
    pub fn is_busy(&self) -> bool {
        self.pairs.iter().any(Option::is_some)
    }

    /// Does what there is to do, without waiting; to be called when its file is readable.
    pub fn serve(&mut self) {
        let mut events = [const { Event { flags: EventFlags::empty(), data: EventData::new_u64(0) } }; 32];
        let Ok(count) = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default())) else { return };
        for event in events.iter().take(count) {
            let data = event.data.u64();
            match data {
                CLIENTS.. => {
                    let ports = self.listeners.iter().map(|listener| &listener.socket);
                    self.clients.answer(data, ports, &mut self.buffer);
                }
                PAIRS.. => self.relay((data - PAIRS) as usize, event.flags),
                _ => self.accept(data as usize),
            }
        }
    }

    fn accept(&mut self, at: usize) {
        let Some(Listener { socket, protocol, target }) = self.listeners.get(at) else { return };
        if *protocol == Protocol::Udp {
            self.clients.ask(&self.epoll, CLIENTS, socket, *target, self.keeps, &mut self.buffer);
            return;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (client, from) = match rustix::net::acceptfrom_with(socket, flags) {
            Ok(client) => client,
            Err(err) => return self.spare.turn_away(socket.as_fd(), Some(err)),
        };
        // One whose machine has vanished would have its place for ever (tcp(7), tcp_keepalive_time).
        let _ = rustix::net::sockopt::set_socket_keepalive(&client, true);
        let from = from.and_then(|from| SocketAddr::try_from(from).ok()).filter(|_| self.keeps);
        let slot = match self.pairs.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.pairs.len() < MOST => {
                self.pairs.push(None);
                self.pairs.len() - 1
            }
            // Closed at once.
            None => return,
        };
        let Ok(server) = client_address::socket(true, from, target) else { return };
        match rustix::net::connect(&server, target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return,
        }
        let end = |socket| End { socket, waiting: Vec::new(), ended: false, shut: false, interest: None };
        let mut pair = Pair { ends: [end(client), end(server)], connected: false };
        for side in 0..2 {
            let key = EventData::new_u64(key(slot, side));
            let end = &mut pair.ends[side];
            let interest = if side == 1 { EventFlags::OUT } else { EventFlags::empty() };
            if epoll::add(&self.epoll, &end.socket, key, interest).is_err() {
                return;
            }
            end.interest = Some(interest);
        }
        self.pairs[slot] = Some(pair);
    }

    fn relay(&mut self, number: usize, flags: EventFlags) {
        let (slot, side) = (number / 2, number % 2);
        let Some(Some(pair)) = self.pairs.get_mut(slot) else { return };
        let goes_on = if side == 1 && !pair.connected {
            pair.connected = true;
            matches!(rustix::net::sockopt::socket_error(&pair.ends[1].socket), Ok(Ok(())))
        } else {
            pair.pass()
        };
        let done = pair.ends.iter().all(|end| end.shut);
        // Who has sent all and is gone takes no answer.
        let gone = flags.contains(EventFlags::ERR)
            && pair.ends[side].ended
            && pair.ends.iter().all(|end| end.waiting.is_empty());
        if !goes_on || done || gone {
            // Closing takes it out of the epoll as well.
            self.pairs[slot] = None;
            return;
        }
        for at in 0..2 {
            let key = EventData::new_u64(key(slot, at));
            let wanted = pair.interest(at);
            let end = &mut pair.ends[at];
            // That it is broken is told over and over, whatever is waited for; it shows when there is something to do.
            let broken = at == side && flags.intersects(EventFlags::ERR | EventFlags::HUP);
            let wanted =
                if wanted.is_empty() && (broken || end.interest.is_none()) { None } else { Some(wanted) };
            let _ = match (end.interest, wanted) {
                (before, now) if before == now => Ok(()),
                (None, Some(now)) => epoll::add(&self.epoll, &end.socket, key, now),
                (_, Some(now)) => epoll::modify(&self.epoll, &end.socket, key, now),
                (_, None) => epoll::delete(&self.epoll, &end.socket),
            };
            end.interest = wanted;
        }
    }
}

fn key(slot: usize, side: usize) -> u64 {
    PAIRS + (slot * 2 + side) as u64
}

/// Listens on those of the reserved ports that only a proxy can serve, or on all.
fn listeners(
    reserved: &[Reserved],
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    all: bool,
) -> Result<Vec<Listener>> {
    let (ipv4, ipv6) = (ipv4.map(IpAddr::from), ipv6.map(IpAddr::from));
    let Some(first) = ipv4.or(ipv6) else { return Ok(Vec::new()) };
    let is_ours = |port: &&Reserved| {
        let at = port.published.address;
        let asks_us = at.is_unspecified() || at.is_loopback() || ipv6.is_none();
        let ours = if at.is_ipv6() { asks_us } else { ipv4.is_none() };
        (all || ours) && port.published.protocol != Protocol::Sctp
    };
    let mut listeners = Vec::new();
    for port in reserved.iter().filter(is_ours) {
        // In the long ranges nobody holds a socket.
        let Some(socket) = &port.socket else { continue };
        let what = || format!("listen on port {}", port.published.port);
        let socket = socket.try_clone().doing(what)?;
        rustix::io::ioctl_fionbio(&socket, true).doing(what)?;
        // The client's family, where the container has it: only then can its address be kept.
        let same = if all && port.published.address.is_ipv6() { ipv6 } else { None };
        let target = SocketAddr::new(same.unwrap_or(first), port.published.container_port);
        let protocol = port.published.protocol;
        if protocol == Protocol::Udp {
            listeners.push(Listener { socket, protocol, target });
            continue;
        }
        // Its connections inherit this; where it is off, those that have just ended would keep the port. While
        // it listens, nobody else gets it in any case.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).doing(what)?;
        rustix::net::listen(&socket, BACKLOG).doing(what)?;
        listeners.push(Listener { socket, protocol, target });
    }
    Ok(listeners)
}

impl Pair {
    fn interest(&self, side: usize) -> EventFlags {
        let (end, other) = (&self.ends[side], &self.ends[1 - side]);
        let mut flags = EventFlags::empty();
        if !end.ended && other.waiting.is_empty() && self.connected {
            flags |= EventFlags::IN;
        }
        if !end.waiting.is_empty() {
            flags |= EventFlags::OUT;
        }
        flags
    }

    /// Passes on what there is, both ways; `false` when the connection is broken.
    fn pass(&mut self) -> bool {
        let mut buffer = [0; CHUNK];
        for from in 0..2 {
            let to = 1 - from;
            if !self.flush(to) {
                return false;
            }
            while self.ends[to].waiting.is_empty() && !self.ends[from].ended {
                match rustix::net::recv(&self.ends[from].socket, &mut buffer[..], RecvFlags::empty()) {
                    Ok((0, _)) => self.ends[from].ended = true,
                    Ok((length, _)) => {
                        self.ends[to].waiting.extend_from_slice(&buffer[..length]);
                        if !self.flush(to) {
                            return false;
                        }
                    }
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    Err(_) => return false,
                }
            }
            if self.ends[from].ended && self.ends[to].waiting.is_empty() && !self.ends[to].shut {
                self.ends[to].shut = true;
                let _ = rustix::net::shutdown(&self.ends[to].socket, Shutdown::Write);
            }
        }
        true
    }

    fn flush(&mut self, to: usize) -> bool {
        let end = &mut self.ends[to];
        while !end.waiting.is_empty() {
            match rustix::net::send(&end.socket, &end.waiting, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(end.waiting.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        true
    }
}

impl AsFd for Proxy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::port::{Wanted, reserve};

    #[test]
    fn datagrams_and_their_answers_find_their_way_for_more_clients_than_there_is_room_for() {
        use std::net::UdpSocket;
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let wanted = Wanted {
            protocol: Protocol::Udp,
            address: Some("::1".parse().unwrap()),
            ports: 0..=0,
            container_port: server.local_addr().unwrap().port(),
        };
        let Ok(reserved) = reserve(&[wanted], &crate::host_socket::HostSockets::Ours) else { return };
        let port = reserved[0].published.port;
        let mut proxy = Proxy::open(&reserved, Some(Ipv4Addr::LOCALHOST), None, None).unwrap().unwrap();
        let mut buffer = [0; 2000];
        let clients: Vec<UdpSocket> = (0..200).map(|_| UdpSocket::bind("[::1]:0").unwrap()).collect();
        for (number, client) in clients.iter().chain(&clients).enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            client.connect(("::1", port)).unwrap();
            client.send(format!("from {number}").as_bytes()).unwrap();
            proxy.serve();
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], *format!("from {number}").as_bytes());
            server.send_to(&[buffer[..length].to_vec(), vec![b'!'; 1400]].concat(), from).unwrap();
            proxy.serve();
            let length = client.recv(&mut buffer).unwrap();
            assert!(buffer[..length].starts_with(format!("from {number}!").as_bytes()) && length > 1400);
        }
    }

    /// A proxy at `::1` that leads to a server here, and its port; `None` on a host without IPv6.
    fn leading_to(server: &TcpListener) -> Option<(Proxy, Vec<Reserved>, u16)> {
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            address: Some("::1".parse().unwrap()),
            ports: 0..=0,
            container_port: server.local_addr().unwrap().port(),
        };
        let reserved = reserve(&[wanted], &crate::host_socket::HostSockets::Ours).ok()?;
        let port = reserved[0].published.port;
        let proxy = Proxy::open(&reserved, Some(Ipv4Addr::LOCALHOST), None, None).unwrap().unwrap();
        Some((proxy, reserved, port))
    }

    /// Waits until the proxy has something to do, and lets it do that.
    fn serve_once(proxy: &mut Proxy) {
        let mut events = [rustix::event::PollFd::new(&proxy.epoll, rustix::event::PollFlags::IN)];
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut events, Some(&patience)), Ok(1), "it has something to do");
        proxy.serve();
    }

    fn is_idle(proxy: &Proxy) -> bool {
        let mut events = [rustix::event::PollFd::new(&proxy.epoll, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut events, Some(&Timespec::default())) == Ok(0)
    }

    #[test]
    fn a_client_that_has_sent_all_and_dies_before_the_answer_is_noticed() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some((mut proxy, _reserved, port)) = leading_to(&server) else { return };
        let mut client = TcpStream::connect(("::1", port)).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        serve_once(&mut proxy);
        let mut stream = server.accept().unwrap().0;
        stream.set_nonblocking(true).unwrap();
        let mut question = Vec::new();
        while stream.read_to_end(&mut question).is_err() {
            serve_once(&mut proxy);
        }
        assert_eq!(question, b"question");
        // What it has not read when it goes makes its end a reset.
        stream.write_all(b"answer").unwrap();
        client.set_nonblocking(true).unwrap();
        while client.peek(&mut [0; 6]).ok() != Some(6) {
            serve_once(&mut proxy);
        }
        drop(client);
        serve_once(&mut proxy);
        assert!(!proxy.is_busy(), "nobody is there to take the rest");
    }

    #[test]
    fn a_connection_that_waits_for_a_slow_reader_costs_nothing() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some((mut proxy, _reserved, port)) = leading_to(&server) else { return };
        let client = TcpStream::connect(("::1", port)).unwrap();
        serve_once(&mut proxy);
        let mut stream = server.accept().unwrap().0;
        // The server says nothing more; the client sends until it takes nothing more either, and that that is its end.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut sent = 0;
        while proxy.pairs.iter().flatten().all(|pair| pair.ends[1].waiting.is_empty()) {
            (&client).write_all(&[7; 4096]).unwrap();
            sent += 4096;
            serve_once(&mut proxy);
        }
        client.shutdown(Shutdown::Write).unwrap();
        for _ in 0..1000 {
            if is_idle(&proxy) {
                break;
            }
            proxy.serve();
        }
        assert!(is_idle(&proxy), "it would be called for nothing, again and again");
        stream.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        while stream.read_to_end(&mut all).is_err() {
            proxy.serve();
        }
        assert_eq!(all.len(), sent);
        while proxy.is_busy() {
            serve_once(&mut proxy);
        }
    }

    #[test]
    fn bytes_go_both_ways_to_their_end() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let container_port = server.local_addr().unwrap().port();
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            address: Some("::1".parse().unwrap()),
            ports: 0..=0,
            container_port,
        };
        let Ok(reserved) = reserve(&[wanted], &crate::host_socket::HostSockets::Ours) else { return };
        let port = reserved[0].published.port;
        let mut proxy = Proxy::open(&reserved, Some(Ipv4Addr::LOCALHOST), None, None).unwrap().unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    proxy.serve();
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            scope.spawn(|| {
                // Echoes, with nothing before the end, so that all has to be held somewhere.
                let mut stream = server.accept().unwrap().0;
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
            });
            let mut client = TcpStream::connect(("::1", port)).unwrap();
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut back = Vec::new();
            client.read_to_end(&mut back).unwrap();
            ended.store(true, Ordering::Relaxed);
            assert!(back == sent, "{} bytes came back of {}", back.len(), sent.len());
        });
    }
}
