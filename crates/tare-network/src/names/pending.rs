//! A question that another server is to answer: passed on as the bytes that it came in, under a number and
//! from a port that nobody can guess.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::host_socket::HostSockets;
use crate::names::packet;

/// How long one server is waited for. Clients wait for 5 s (resolv.conf(5)), and a second server is to have
/// its chance within that.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server is waited for that answers by TCP, which has its own repetitions.
const PATIENCE_TCP: Duration = Duration::from_secs(4);

/// Whom an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// It asked by UDP.
    Datagram(SocketAddr),
    /// It asked by TCP, on the stream with this number.
    Stream(u32),
}

/// A question that is not answered yet.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who asked.
    pub client: Client,
    /// The number that the client gave it.
    pub id: u16,
    /// Its bytes.
    pub query: Vec<u8>,
    /// How often it was passed on.
    pub tries: usize,
    /// When it came.
    pub since: Instant,
}

impl Question {
    /// Whether both are tries of one.
    pub fn is(&self, other: &Question) -> bool {
        (self.client, self.id, self.since) == (other.client, other.id, other.since)
    }
}

/// One try to have it answered.
#[derive(Debug)]
pub struct Pending {
    /// The question.
    pub question: Question,
    /// Who was asked.
    pub server: SocketAddr,
    /// When to give that up.
    pub deadline: Instant,
    /// Another one is asked by now, but it may still answer.
    pub late: bool,
    socket: OwnedFd,
    tcp: Option<Tcp>,
}

#[derive(Debug, Default)]
struct Tcp {
    sent: usize,
    received: Vec<u8>,
}

/// What became of a try.
#[derive(Debug)]
pub enum News {
    /// Nothing to speak of.
    None,
    /// All is sent; from now on there is only something to read.
    Sent,
    /// The answer, with the client's own number.
    Answer(Vec<u8>),
    /// This server will not answer.
    Lost,
}

impl Pending {
    /// Asks a server, by a socket of `sockets`. The question comes back if that cannot be done.
    pub fn ask(
        mut question: Question,
        server: SocketAddr,
        sockets: &HostSockets,
    ) -> Result<Pending, Question> {
        match Pending::send(&mut question, server, sockets) {
            Ok((socket, tcp)) => {
                let patience = if tcp.is_some() { PATIENCE_TCP } else { PATIENCE };
                Ok(Pending {
                    question,
                    server,
                    deadline: Instant::now() + patience,
                    late: false,
                    socket,
                    tcp,
                })
            }
            Err(_) => Err(question),
        }
    }

    fn send(
        question: &mut Question,
        server: SocketAddr,
        sockets: &HostSockets,
    ) -> Result<(OwnedFd, Option<Tcp>), Errno> {
        let stream = matches!(question.client, Client::Stream(_));
        let socket =
            sockets.unbound(stream, server.is_ipv6()).map_err(|err| err.errno().unwrap_or(Errno::IO))?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        packet::set_id(&mut question.query, u16::from_ne_bytes(id));
        // The kernel chooses a random port, and a connected socket takes nothing from anybody else.
        match rustix::net::connect(&socket, &server) {
            Ok(()) => {}
            Err(Errno::INPROGRESS) if stream => {}
            Err(errno) => return Err(errno),
        }
        if stream {
            return Ok((socket, Some(Tcp::default())));
        }
        rustix::net::send(&socket, &question.query, SendFlags::NOSIGNAL)?;
        Ok((socket, None))
    }

    /// Whether it has to be told when it can write.
    pub fn writes(&self) -> bool {
        self.tcp.is_some()
    }

    /// Does what can be done now. `buffer` is as large as the largest datagram that is taken.
    pub fn go_on(&mut self, buffer: &mut [u8]) -> News {
        let news = match self.tcp {
            None => self.receive(buffer),
            Some(_) => self.converse(buffer),
        };
        match news {
            News::Answer(mut answer) => {
                packet::set_id(&mut answer, self.question.id);
                News::Answer(answer)
            }
            news => news,
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> News {
        // What is not the answer is somebody's attempt to be taken for it: the true one is still waited for.
        for _ in 0..16 {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::TRUNC) {
                Ok((length, whole)) => {
                    let message = buffer.get(..length).unwrap_or_default();
                    if !packet::answers(message, &self.question.query) {
                        continue;
                    }
                    if whole > length {
                        return packet::truncated(&self.question.query).map_or(News::Lost, News::Answer);
                    }
                    return News::Answer(message.to_vec());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return News::None,
                // Nobody listens there, or there is no way.
                Err(_) => return News::Lost,
            }
        }
        News::None
    }

    fn converse(&mut self, buffer: &mut [u8]) -> News {
        let Some(tcp) = &mut self.tcp else { return News::None };
        let Ok(length) = u16::try_from(self.question.query.len()) else { return News::Lost };
        let all = 2 + usize::from(length);
        if tcp.sent < all {
            let message = [&length.to_be_bytes()[..], &self.question.query].concat();
            while let Some(rest) = message.get(tcp.sent..).filter(|rest| !rest.is_empty()) {
                match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                    Ok(length) => tcp.sent += length,
                    Err(Errno::INTR) => {}
                    // Not connected yet, or no room.
                    Err(Errno::AGAIN | Errno::NOTCONN) => return News::None,
                    Err(_) => return News::Lost,
                }
            }
            return News::Sent;
        }
        loop {
            match rustix::io::read(&self.socket, &mut *buffer) {
                Ok(0) => return News::Lost,
                Ok(length) => {
                    tcp.received.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    let Some((length, rest)) = tcp.received.split_first_chunk() else { continue };
                    let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length))) else {
                        continue;
                    };
                    return match packet::answers(message, &self.question.query) {
                        true => News::Answer(message.to_vec()),
                        false => News::Lost,
                    };
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return News::None,
                Err(_) => return News::Lost,
            }
        }
    }
}

impl AsFd for Pending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
