//! Messages between two processes of ours: a pair of `SOCK_SEQPACKET` sockets, so that a message arrives
//! whole or not at all, and can carry open files.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Context, Error, Result};

/// Most files in one message; the kernel's own limit (`SCM_MAX_FD`).
pub const MAX_FILES: usize = 253;

/// One end of a channel. When the other end is closed, [`receive`](Channel::receive) answers `None`.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends, both close-on-exec.
    pub fn pair() -> Result<(Channel, Channel)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .doing(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
        Ok((Channel(a), Channel(b)))
    }

    /// Connects to the socket at `path`.
    ///
    /// Errors: [`Kind::Conflict`](crate::Kind::Conflict) where nobody listens on it any more.
    pub fn connect(path: &Path) -> Result<Channel> {
        let (folder, name) = folder_of(path)?;
        let socket = socket()?;
        let address = address(&folder, &name)?;
        rustix::net::connect(&socket, &address).doing(|| format!("connect({path:?})")).map_err(|err| {
            match err.errno() {
                Some(Errno::CONNREFUSED) => err.with_kind(crate::Kind::Conflict),
                _ => err,
            }
        })?;
        Ok(Channel(socket))
    }

    /// Makes a socket at `path` that [`accept`](Channel::accept) takes connections from. Only its owner may
    /// connect.
    pub fn listen(path: &Path) -> Result<OwnedFd> {
        let (folder, name) = folder_of(path)?;
        let socket = socket()?;
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600)).doing(|| "fchmod(socket)")?;
        rustix::net::bind(&socket, &address(&folder, &name)?).doing(|| format!("bind({path:?})"))?;
        rustix::net::listen(&socket, 4).doing(|| format!("listen({path:?})"))?;
        Ok(socket)
    }

    /// Waits for the next connection.
    pub fn accept(socket: BorrowedFd<'_>) -> Result<Channel> {
        loop {
            match rustix::net::accept_with(socket, SocketFlags::CLOEXEC) {
                Err(Errno::INTR) => continue,
                result => return result.map(Channel).doing(|| "accept4(socket)"),
            }
        }
    }

    /// Sends one message; waits while the other end has not read enough.
    pub fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
        loop {
            match self.try_send(bytes, files, SendFlags::empty()) {
                Err(Errno::INTR) => continue,
                result => return result.doing(|| "sendmsg(channel)"),
            }
        }
    }

    /// Sends one message, or says `EAGAIN` where the other end has not read enough.
    pub fn offer(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
        self.try_send(bytes, files, SendFlags::DONTWAIT)
    }

    fn try_send(&self, bytes: &[u8], files: &[BorrowedFd<'_>], flags: SendFlags) -> rustix::io::Result<()> {
        let mut space = Vec::<MaybeUninit<u8>>::new();
        if !files.is_empty() {
            space.resize(rustix::cmsg_space!(ScmRights(MAX_FILES)), MaybeUninit::uninit());
        }
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(Errno::TOOBIG);
        }
        let flags = flags | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags).map(drop)
    }

    /// Process and user of the other end, as they were when it connected or made the pair, in our own namespaces
    /// (`SO_PEERCRED`, unix(7)); `None`: the kernel cannot say.
    pub fn peer(&self) -> Option<(i32, u32)> {
        let peer = rustix::net::sockopt::socket_peercred(&self.0).ok()?;
        Some((peer.pid.as_raw_nonzero().get(), peer.uid.as_raw()))
    }

    /// Whether [`receive`](Channel::receive) would answer at once.
    pub fn has_word(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&now)).is_ok_and(|count| count > 0)
    }

    /// From now on [`receive`](Channel::receive) waits so long at most, and then fails with `EAGAIN`.
    pub fn set_patience(&self, time: Duration) -> Result<()> {
        rustix::net::sockopt::set_socket_timeout(&self.0, rustix::net::sockopt::Timeout::Recv, Some(time))
            .doing(|| "setsockopt(SO_RCVTIMEO)")
    }

    /// The next message: its bytes in `buffer`, how many, and its files. `None`: the other end is closed.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                // The other end closed without reading all of ours. That is said once, and before what it sent
                // itself, which may be the reason: ask again.
                Err(Errno::INTR | Errno::CONNRESET) => continue,
                Err(errno) => return Err(Error::syscall("recvmsg(channel)", errno)),
                Ok(received) => break received,
            }
        };
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        // A message of ours is never empty, so nothing read is end of file.
        Ok((received.bytes > 0).then_some((received.bytes, files)))
    }
}

fn socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .doing(|| "socket(AF_UNIX, SOCK_SEQPACKET)")
}

fn folder_of(path: &Path) -> Result<(OwnedFd, OsString)> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = path.file_name().unwrap_or_default().to_owned();
    Ok((rustix::fs::open(folder, flags, Mode::empty()).doing(|| format!("open({folder:?})"))?, name))
}

/// An address holds 108 bytes (unix(7)); by way of its folder's fd every path fits.
fn address(folder: &OwnedFd, name: &OsString) -> Result<SocketAddrUnix> {
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    SocketAddrUnix::new(&path).doing(|| format!("address of the socket {path:?}"))
}

impl From<OwnedFd> for Channel {
    /// One end that was handed down over an exec.
    fn from(end: OwnedFd) -> Channel {
        Channel(end)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_known() {
        let (ours, _theirs) = Channel::pair().unwrap();
        let own = (std::process::id() as i32, rustix::process::getuid().as_raw());
        assert_eq!(ours.peer(), Some(own));
    }

    #[test]
    fn the_last_words_of_one_who_did_not_listen_are_heard() {
        let (ours, theirs) = Channel::pair().unwrap();
        ours.send(b"unread", &[]).unwrap();
        theirs.send(b"last words", &[]).unwrap();
        drop(theirs);
        let mut buffer = [0; 64];
        let (length, files) = ours.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..length], files.len()), (&b"last words"[..], 0));
        assert!(ours.receive(&mut buffer).unwrap().is_none());
    }
}
