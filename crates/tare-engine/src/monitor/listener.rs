//! The control socket of a monitor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use tare_sys::channel::Channel;
use tare_sys::socket::Spare;

/// Where clients come in.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    spare: Spare,
}

impl Listener {
    /// Makes the socket, in place of one that is there.
    pub(super) fn open(path: &Path) -> Option<Listener> {
        let _ = std::fs::remove_file(path);
        Channel::listen(path).ok().map(Listener::of)
    }

    /// One that was handed down.
    pub(super) fn of(socket: OwnedFd) -> Listener {
        Listener { spare: Spare::of(socket.as_fd()), socket }
    }

    /// Lets the next client in; `None` where it was turned away.
    pub(super) fn accept(&mut self) -> Option<Channel> {
        let accepted = Channel::accept(self.socket.as_fd());
        accepted.inspect_err(|err| self.spare.turn_away(self.socket.as_fd(), err.errno())).ok()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
