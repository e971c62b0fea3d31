//! A client that asks by TCP: messages with their length in front (RFC 1035, 4.2.2; RFC 7766), one after the
//! other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// The largest question that is taken: an update signed for a Windows domain is far smaller.
const LARGEST_QUESTION: usize = 16 * 1024;
/// How long a client may say nothing, or not take its answer.
const IDLE: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    sent: usize,
    /// Its question is with another server; the next one is not looked at before that is answered.
    pub waiting: bool,
    ended: bool,
    /// When it is closed if nothing happens.
    pub deadline: Instant,
}

impl Stream {
    /// Takes over a connection that does not block.
    pub fn new(socket: OwnedFd) -> Stream {
        Stream {
            socket,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            waiting: false,
            ended: false,
            deadline: Instant::now() + IDLE,
        }
    }

    /// Reads what there is, up to one question; false: the connection is broken.
    pub fn read(&mut self) -> bool {
        let mut piece = [0; 2048];
        while self.incoming.len() < LARGEST_QUESTION + 2 {
            match rustix::io::read(&self.socket, &mut piece) {
                Ok(0) => {
                    self.ended = true;
                    return true;
                }
                Ok(length) => {
                    self.incoming.extend_from_slice(piece.get(..length).unwrap_or_default());
                    self.deadline = Instant::now() + IDLE;
                    if length < piece.len() {
                        return true;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// The next question, if it is here whole and its turn has come. `Err`: it is larger than any can be.
    pub fn question(&mut self) -> Result<Option<Vec<u8>>, TooLarge> {
        if self.waiting || !self.outgoing.is_empty() {
            return Ok(None);
        }
        let Some((length, rest)) = self.incoming.split_first_chunk() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > LARGEST_QUESTION {
            return Err(TooLarge);
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = message.to_vec();
        self.incoming.drain(..2 + length);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        Ok(Some(message))
    }

    /// Has this sent.
    pub fn answer(&mut self, message: &[u8]) {
        self.waiting = false;
        self.deadline = Instant::now() + IDLE;
        if let Ok(length) = u16::try_from(message.len()) {
            self.outgoing.extend(length.to_be_bytes());
            self.outgoing.extend(message);
        }
    }

    /// Sends as much as goes; false: the connection is broken.
    pub fn write(&mut self) -> bool {
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match rustix::net::send(&self.socket, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(length) => self.sent += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        self.outgoing = Vec::new();
        self.sent = 0;
        true
    }

    /// Waits for the client to take its answer.
    pub fn is_full(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Nothing more can come of it.
    pub fn is_over(&self) -> bool {
        self.ended && !self.waiting && self.outgoing.is_empty()
    }

    /// Worth reading from.
    pub fn is_hungry(&self) -> bool {
        !self.ended && !self.waiting && self.outgoing.is_empty()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A question that is larger than any can be.
#[derive(Debug)]
pub struct TooLarge;
