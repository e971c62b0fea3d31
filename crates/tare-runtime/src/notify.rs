//! sd_notify(3) through the container's wall: it gets a socket of its own, and what it says about its readiness is
//! passed on to the service manager that started us.
//!
//! Only readiness is passed on, and in our words: the container's own `MAINPID` would be a number of its pid
//! namespace, and nothing else that it says is the host's business.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tare_sys::{Context, Result};

/// The name of the socket in its folder.
const NAME: &str = "notify.sock";

/// The container's end.
#[derive(Debug)]
pub struct NotifySocket(OwnedFd);

impl NotifySocket {
    /// Makes the socket in `folder`. Anyone in the container may write to it, as to the host's.
    pub fn create(folder: &Path) -> Result<NotifySocket> {
        let what = || format!("make the notify socket in {}", folder.display());
        let socket = datagram()?;
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o777)).doing(what)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(folder, flags, Mode::empty()).doing(what)?;
        let before = rustix::process::umask(Mode::empty());
        let bound = SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", place.as_raw_fd()).as_str())
            .and_then(|address| rustix::net::bind(&socket, &address));
        rustix::process::umask(before);
        bound.doing(what)?;
        Ok(NotifySocket(socket))
    }

    /// Waits until the container says that it is ready, and tells `host`, the socket that `NOTIFY_SOCKET` names.
    /// Ends as well when the process ends.
    pub fn forward(&self, process: BorrowedFd<'_>, pid: i32, host: &Path) -> Result<()> {
        loop {
            let mut ready =
                [PollFd::new(&self.0, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).doing(|| "poll(notify socket)"),
            }
            let (said, ended) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
            if said && self.is_ready()? {
                return tell(host, &format!("MAINPID={pid}\nREADY=1\n"));
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Reads one message. Files that come with it (`BARRIER=1`) are closed, which is what their sender waits for.
    fn is_ready(&self) -> Result<bool> {
        let mut text = [0u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut pieces = [std::io::IoSliceMut::new(&mut text)];
        let length = match rustix::net::recvmsg(&self.0, &mut pieces, &mut control, flags) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => return Err(errno).doing(|| "recvmsg(notify socket)"),
        };
        drop(control);
        Ok(text[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1"))
    }
}

fn datagram() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .doing(|| "socket(AF_UNIX, SOCK_DGRAM)")
}

/// Says something to the service manager; a name that begins with `@` is an abstract one.
fn tell(host: &Path, message: &str) -> Result<()> {
    let what = || format!("tell {} that the container is ready", host.display());
    let address = match host.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name),
        None => SocketAddrUnix::new(host),
    }
    .doing(what)?;
    let socket = datagram()?;
    rustix::net::sendto(&socket, message.as_bytes(), SendFlags::NOSIGNAL, &address).doing(what).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn readiness_is_passed_on_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let host = UnixDatagram::bind(folder.path().join("host")).unwrap();
        let inside = NotifySocket::create(folder.path()).unwrap();
        let container = UnixDatagram::unbound().unwrap();
        container.connect(folder.path().join(NAME)).unwrap();
        container.send(b"STATUS=half way\nMAINPID=1").unwrap();
        container.send(b"MAINPID=1\nREADY=1").unwrap();
        let alive = tare_sys::channel::Channel::pair().unwrap();
        inside.forward(alive.0.as_fd(), 42, &folder.path().join("host")).unwrap();
        let mut text = [0; 100];
        let length = host.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"MAINPID=42\nREADY=1\n");
    }

    #[test]
    fn an_end_ends_the_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let inside = NotifySocket::create(folder.path()).unwrap();
        let (ours, theirs) = tare_sys::channel::Channel::pair().unwrap();
        drop(theirs);
        inside.forward(ours.as_fd(), 42, Path::new("/nope")).unwrap();
    }
}
