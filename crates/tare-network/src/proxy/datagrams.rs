//! Datagrams through the proxy: each client of a port has a socket of its own to the container, so that an answer finds
//! its way back. Nobody says when they have done, so that the one that was silent longest makes room for a new one.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::client_address;

/// Clients at once.
const MOST: usize = 128;
/// Datagrams that are passed on in a row, before others have their turn.
const TURN: usize = 64;
/// No datagram is longer.
const LONGEST: usize = 64 * 1024;

/// A client of a port.
#[derive(Debug)]
struct Client {
    address: SocketAddr,
    /// The port that it asked, at which address: the answer has to come from there.
    asked: SocketAddr,
    /// Connected to the container.
    socket: OwnedFd,
    /// Its number in the epoll.
    key: u64,
    /// When it was heard of last, counted in datagrams.
    heard: u64,
}

/// All clients of a container.
#[derive(Debug, Default)]
pub struct Clients {
    all: Vec<Client>,
    /// Datagrams so far.
    count: u64,
    /// Clients so far.
    admitted: u64,
}

impl Clients {
    /// Passes on to the container what has come for a port. `first`: what numbers of clients in the epoll begin with;
    /// `keeps`: clients keep their addresses.
    pub fn ask(
        &mut self,
        epoll: &OwnedFd,
        first: u64,
        listener: &OwnedFd,
        target: SocketAddr,
        keeps: bool,
        buffer: &mut Vec<u8>,
    ) {
        buffer.resize(LONGEST, 0);
        let Some(asked) = name_of(listener) else { return };
        for _ in 0..TURN {
            let (length, address) =
                match rustix::net::recvfrom(listener, &mut buffer[..], RecvFlags::DONTWAIT) {
                    Ok((_, length, Some(address))) => (length, address),
                    Ok(_) | Err(Errno::INTR | Errno::CONNREFUSED) => continue,
                    Err(_) => return,
                };
            let Ok(address) = SocketAddr::try_from(address) else { continue };
            let Some(at) =
                self.find(address, asked).or_else(|| self.admit(epoll, first, address, asked, target, keeps))
            else {
                continue;
            };
            self.count += 1;
            if let (Some(client), Some(datagram)) = (self.all.get_mut(at), buffer.get(..length)) {
                client.heard = self.count;
                // What the container does not take is lost, as datagrams may be.
                let _ = rustix::net::send(&client.socket, datagram, SendFlags::DONTWAIT);
            }
        }
    }

    /// Passes on to a client what the container has answered.
    pub fn answer<'a>(
        &mut self,
        key: u64,
        mut listeners: impl Iterator<Item = &'a OwnedFd>,
        buffer: &mut Vec<u8>,
    ) {
        buffer.resize(LONGEST, 0);
        let Some(client) = self.all.iter().find(|client| client.key == key) else { return };
        let Some(listener) = listeners.find(|listener| name_of(listener) == Some(client.asked)) else {
            // Its port is not published any more.
            self.all.retain(|client| client.key != key);
            return;
        };
        for _ in 0..TURN {
            match rustix::net::recv(&client.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    let _ = rustix::net::sendto(listener, datagram, SendFlags::DONTWAIT, &client.address);
                }
                // Nobody listens inside, at the moment.
                Err(Errno::INTR | Errno::CONNREFUSED) => {}
                Err(_) => return,
            }
        }
    }

    fn find(&self, address: SocketAddr, asked: SocketAddr) -> Option<usize> {
        self.all.iter().position(|client| client.address == address && client.asked == asked)
    }

    fn admit(
        &mut self,
        epoll: &OwnedFd,
        first: u64,
        address: SocketAddr,
        asked: SocketAddr,
        target: SocketAddr,
        keeps: bool,
    ) -> Option<usize> {
        if self.all.len() >= MOST {
            let silent = (0..self.all.len()).min_by_key(|at| self.all[*at].heard)?;
            self.all.swap_remove(silent);
        }
        let socket = client_address::socket(false, keeps.then_some(address), &target).ok()?;
        rustix::net::connect(&socket, &target).ok()?;
        let key = first + self.admitted;
        self.admitted += 1;
        epoll::add(epoll, &socket, EventData::new_u64(key), EventFlags::IN).ok()?;
        self.all.push(Client { address, asked, socket, key, heard: 0 });
        Some(self.all.len() - 1)
    }
}

fn name_of(socket: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()
}
