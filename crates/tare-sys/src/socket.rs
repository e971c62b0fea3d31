//! Socket options that the library of our choice does not have, and clients that there is no room for.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::error::{Context, Result};
use crate::process::check;

/// Lets a socket be bound to an address that is not the host's own (`IP_TRANSPARENT`, ip(7); `IPV6_TRANSPARENT`).
pub fn set_transparent(socket: BorrowedFd<'_>, v6: bool) -> Result<()> {
    let (level, option) = match v6 {
        false => (libc::SOL_IP, libc::IP_TRANSPARENT),
        true => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which `on` is and which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result.into()).doing(|| "setsockopt(IP_TRANSPARENT)").map(drop)
}

/// A file that is held open to be given up. At the limit of open files nobody can be let in, nor turned away: who waits at a
/// listener keeps it ready, and whoever looks after it busy for ever.
#[derive(Debug)]
pub struct Spare(Option<OwnedFd>);

impl Spare {
    /// Holds a place by opening this file once more.
    pub fn of(file: BorrowedFd<'_>) -> Spare {
        Spare(rustix::io::fcntl_dupfd_cloexec(file, 0).ok())
    }

    /// Turns the next client away where it could not be let in for want of files; `listener` has one.
    pub fn turn_away(&mut self, listener: BorrowedFd<'_>, refusal: Option<Errno>) {
        if !matches!(refusal, Some(Errno::MFILE | Errno::NFILE)) {
            return;
        }
        self.0 = None;
        drop(rustix::net::accept_with(listener, SocketFlags::CLOEXEC));
        *self = Spare::of(listener);
    }
}
