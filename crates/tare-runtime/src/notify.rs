//! Readiness of a service in a container, passed on to the service manager on the host (sd_notify(3)).
//!
//! The container gets a socket of its own, and of what comes in only `READY=1` goes on: the host's manager must
//! not take orders from a container (`MAINPID=`, `FDSTORE=1`, …). The process it is told of is ours to say.
//!
//! ```text
//! FOLDER/             bound to /run/notify inside
//! └── notify.sock     datagrams; NOTIFY_SOCKET=/run/notify/notify.sock inside
//! ```

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use tare_sys::{Context, Error, Kind, Result};

use crate::descriptors;

/// The name of the socket in its folder.
const NAME: &str = "notify.sock";

/// How long the host's manager gets to say that it has read what we sent: as long as systemd-notify(1) waits.
const BARRIER: Duration = Duration::from_secs(5);

/// The container's socket, our side of it.
#[derive(Debug)]
pub struct NotifySocket(OwnedFd);

impl NotifySocket {
    /// Makes it in a folder that is there, in place of one that nobody reads any more. Any user of the container may
    /// write to it.
    pub fn create(folder: &Path) -> Result<NotifySocket> {
        let what = || format!("make the notify socket in {}", folder.display());
        let socket = datagram().doing(what)?;
        let path = folder.join(NAME);
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).doing(|| format!("unlink({})", path.display())),
        }
        descriptors::bind(&socket, folder, NAME).doing(what)?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o777))
            .doing(|| format!("chmod({})", path.display()))?;
        Ok(NotifySocket(socket))
    }

    /// Waits until the container says `READY=1`, and passes that on to the manager's socket (`$NOTIFY_SOCKET` as it
    /// is: a path, or `@name` for an abstract one) with `pid` as the main process; then gives the manager a
    /// moment to read it. Comes back as well when the container has ended (`process`, its pidfd).
    pub fn forward(&self, process: BorrowedFd<'_>, pid: i32, host: &Path) -> Result<()> {
        if !self.ready(process)? {
            return Ok(());
        }
        let what = || format!("tell {} that the container is ready", host.display());
        let manager = connect(host).doing(what)?;
        // In one message, so that no manager takes the one without the other.
        let message = format!("MAINPID={pid}\nREADY=1");
        rustix::net::send(&manager, message.as_bytes(), SendFlags::NOSIGNAL)
            .doing(|| "send(READY=1)")
            .doing(what)?;
        // A manager that finds us gone before it reads this cannot tell whose word it is, and drops it. One that
        // knows no barrier, or reads late, has it all the same: no error.
        let _ = barrier(&manager);
        Ok(())
    }

    /// Waits for `READY=1`, as long as the container lives.
    fn ready(&self, pidfd: BorrowedFd<'_>) -> Result<bool> {
        // Longer than any manager takes (systemd: NOTIFY_BUFFER_MAX, a page); the rest is cut off. Files that
        // come along are closed by the kernel, which is all that a sender's BARRIER=1 waits for.
        let mut buffer = [0; 4096];
        loop {
            let mut fds =
                [PollFd::new(&self.0, PollFlags::IN), PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).doing(|| "poll(notify socket)"),
            }
            let ended = !fds[1].revents().is_empty();
            // Also when it has ended: its last words may be that it was ready.
            loop {
                match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                    Ok((length, _)) if says_ready(&buffer[..length]) => return Ok(true),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(errno) => return Err(errno).doing(|| "recv(notify socket)"),
                }
            }
            if ended {
                return Ok(false);
            }
        }
    }
}

/// A message is lines of `NAME=value` (sd_notify(3)).
fn says_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

fn datagram() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .doing(|| "socket(AF_UNIX, SOCK_DGRAM)")
}

fn connect(host: &Path) -> Result<OwnedFd> {
    let socket = datagram()?;
    match host.as_os_str().as_bytes() {
        [b'@', name @ ..] => {
            let address = SocketAddrUnix::new_abstract_name(name);
            address
                .and_then(|address| rustix::net::connect(&socket, &address))
                .doing(|| format!("connect({host:?})"))?;
        }
        [b'/', ..] => descriptors::connect(&socket, host)?,
        _ => {
            return Err(Error::new(Kind::Unsupported, format!("NOTIFY_SOCKET={}", host.display()))
                .hint("it has to be an absolute path, or @ and an abstract name"));
        }
    }
    Ok(socket)
}

/// sd_notify_barrier(3): sends the end of a pipe, and waits until the manager has closed it, by when it has
/// read all that was sent before.
fn barrier(manager: &OwnedFd) -> Result<()> {
    let (ours, theirs) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [theirs.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    rustix::net::sendmsg(manager, &[IoSlice::new(b"BARRIER=1")], &mut control, SendFlags::NOSIGNAL)
        .doing(|| "sendmsg(BARRIER=1)")?;
    drop(theirs);
    let deadline = Instant::now() + BARRIER;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        // Nothing is ever written: what is waited for is the end.
        match rustix::event::poll(&mut [PollFd::new(&ours, PollFlags::empty())], left.as_ref()) {
            Ok(1..) => return Ok(()),
            Ok(0) => {
                let seconds = BARRIER.as_secs();
                return Err(Error::new(
                    Kind::Kernel,
                    format!("BARRIER=1: the manager has not read it in {seconds} s"),
                ));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "poll(barrier)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::process::{Child, Command, Stdio};

    /// A container's process that lives until it is let go.
    struct Container(Child);

    impl Container {
        fn new() -> (Container, OwnedFd, i32) {
            let child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
            let pid = Pid::from_child(&child);
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
            (Container(child), pidfd, pid.as_raw_nonzero().get())
        }
    }

    impl Drop for Container {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            let _ = self.0.wait();
        }
    }

    fn receive(manager: &UnixDatagram) -> String {
        // Without room for files: the kernel closes them, as a manager that has read does.
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn check(manager: &UnixDatagram, host: &Path) {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let socket = NotifySocket::create(&deep).unwrap();
        let (_container, pidfd, pid) = Container::new();
        std::thread::scope(|scope| {
            let forwarded = scope.spawn(|| socket.forward(pidfd.as_fd(), pid, host));
            let inside = datagram().unwrap();
            descriptors::connect(&inside, &deep.join(NAME)).unwrap();
            for message in
                ["STATUS=READY=1 soon", "MAINPID=1\nFDSTORE=1", "", "STATUS=up\nREADY=1\nMAINPID=1"]
            {
                rustix::net::send(&inside, message.as_bytes(), SendFlags::empty()).unwrap();
            }
            assert_eq!(receive(manager), format!("MAINPID={pid}\nREADY=1"));
            assert!(!forwarded.is_finished(), "it has not waited for the barrier");
            assert_eq!(receive(manager), "BARRIER=1");
            forwarded.join().unwrap().unwrap();
        });
    }

    #[test]
    fn ready_goes_on_to_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.sock");
        check(&UnixDatagram::bind(&path).unwrap(), &path);
    }

    #[test]
    fn ready_goes_on_to_an_abstract_name() {
        let name = format!("tare-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        check(&UnixDatagram::bind_addr(&address).unwrap(), Path::new(&format!("@{name}")));
    }

    #[test]
    fn the_last_words_of_one_that_has_ended_count() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("host");
        let manager = UnixDatagram::bind(&host).unwrap();
        // In place of an old one.
        drop(NotifySocket::create(folder.path()).unwrap());
        let socket = NotifySocket::create(folder.path()).unwrap();
        let inside = datagram().unwrap();
        descriptors::connect(&inside, &folder.path().join(NAME)).unwrap();
        for message in ["STATUS=nearly", "READY=1"] {
            rustix::net::send(&inside, message.as_bytes(), SendFlags::empty()).unwrap();
        }
        let (container, pidfd, pid) = Container::new();
        drop(container);
        std::thread::scope(|scope| {
            let forwarded = scope.spawn(|| socket.forward(pidfd.as_fd(), pid, &host));
            assert!(receive(&manager).ends_with("READY=1"));
            assert_eq!(receive(&manager), "BARRIER=1");
            forwarded.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_container_that_ends_first_ends_the_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let socket = NotifySocket::create(folder.path()).unwrap();
        let (container, pidfd, pid) = Container::new();
        drop(container);
        // Where nobody is: it would be an error to tell them.
        socket.forward(pidfd.as_fd(), pid, Path::new("/nowhere")).unwrap();
    }

    #[test]
    fn a_barrier_of_the_containers_own_is_lifted() {
        let folder = tempfile::tempdir().unwrap();
        let socket = NotifySocket::create(folder.path()).unwrap();
        let (container, pidfd, pid) = Container::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| socket.forward(pidfd.as_fd(), pid, Path::new("/nowhere")));
            let inside = datagram().unwrap();
            descriptors::connect(&inside, &folder.path().join(NAME)).unwrap();
            barrier(&inside).unwrap();
            drop(container);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_manager_that_leaves_after_its_word_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("host");
        let manager = UnixDatagram::bind(&host).unwrap();
        let socket = NotifySocket::create(folder.path()).unwrap();
        let (_container, pidfd, pid) = Container::new();
        std::thread::scope(|scope| {
            let forwarded = scope.spawn(|| socket.forward(pidfd.as_fd(), pid, &host));
            let inside = datagram().unwrap();
            descriptors::connect(&inside, &folder.path().join(NAME)).unwrap();
            rustix::net::send(&inside, b"READY=1", SendFlags::empty()).unwrap();
            receive(&manager);
            drop(manager);
            forwarded.join().unwrap().unwrap();
        });
    }

    #[test]
    fn where_the_manager_is_not_the_error_says_so() {
        for (host, words) in
            [("/no/such/socket", "ENOENT"), ("vsock:2:1", "NOTIFY_SOCKET=vsock"), ("", "NOTIFY_SOCKET=")]
        {
            let err = connect(Path::new(host)).unwrap_err();
            assert!(err.to_string().contains(words), "{err}");
        }
        assert!(connect(Path::new("@no-such-tare-socket")).is_err());
    }

    #[test]
    fn only_a_whole_line_counts() {
        for (message, ready) in [
            (&b"READY=1"[..], true),
            (b"A=b\nREADY=1\n", true),
            (b"READY=10", false),
            (b"NOTREADY=1", false),
            (b"READY=0", false),
            (b"", false),
            (b"\xff\n\0", false),
        ] {
            assert_eq!(says_ready(message), ready, "{message:?}");
        }
    }
}
