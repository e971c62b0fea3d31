//! Handing an open file to another program over its unix socket: the terminal (`--console-socket`), a pidfd
//! (`--pidfd-socket`), the seccomp listener (`linux.seccomp.listenerPath`).

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use serde::Serialize;
use tare_sys::{Context, Error, Kind, Result};

use crate::hooks::HookState;

/// A listener that does not answer must not hold a container's start for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to the socket at `socket` and sends one file, with `payload` as the bytes of the message. An empty
/// payload becomes one NUL byte, without which a stream cannot carry a file (unix(7)).
pub fn send_fd(socket: &Path, fd: BorrowedFd<'_>, payload: &[u8]) -> Result<()> {
    let what = || format!("send a file to {}", socket.display());
    let stream =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .doing(|| "socket(AF_UNIX, SOCK_STREAM)")
            .doing(what)?;
    // connect(2) waits while the listener's queue is full, and then obeys this as well (unix(7)).
    rustix::net::sockopt::set_socket_timeout(&stream, Timeout::Send, Some(PATIENCE))
        .doing(|| "setsockopt(SO_SNDTIMEO)")
        .doing(what)?;
    connect(&stream, socket).doing(what)?;
    send_on(&stream, fd, if payload.is_empty() { b"\0" } else { payload }).doing(what)
}

/// Connects a socket to a path of any length: an address has room for 107 bytes only, so a longer path is
/// opened, and named by its fd.
pub(crate) fn connect(socket: &OwnedFd, path: &Path) -> Result<()> {
    let call = || format!("connect({})", path.display());
    // Alive as long as its name is used.
    let opened;
    let address = match SocketAddrUnix::new(path) {
        Err(Errno::NAMETOOLONG) => {
            opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(call)?;
            SocketAddrUnix::new(format!("/proc/self/fd/{}", opened.as_raw_fd()))
        }
        address => address,
    }
    .doing(call)?;
    rustix::net::connect(socket, &address).doing(call).map_err(|err| match err.errno() {
        Some(Errno::NOENT) => err.hint("its listener has to be there before the container is made"),
        Some(Errno::CONNREFUSED) => err.hint("nobody listens there any more"),
        Some(Errno::PROTOTYPE) => {
            err.with_kind(Kind::Usage).hint("the socket is of another type than this needs")
        }
        Some(Errno::AGAIN | Errno::INPROGRESS) => err.hint("its listener does not accept connections"),
        _ => err,
    })
}

/// Sends the bytes, and the file with the first of them.
fn send_on(stream: &OwnedFd, fd: BorrowedFd<'_>, payload: &[u8]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let files = [fd];
    let mut sent = 0;
    while sent < payload.len() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(Error::new(Kind::Kernel, "sendmsg(SCM_RIGHTS): no room for a file"));
        }
        match rustix::net::sendmsg(
            stream,
            &[IoSlice::new(&payload[sent..])],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(length) => sent += length,
            Err(Errno::INTR) => {}
            Err(errno) => {
                let err =
                    Error::syscall(format!("sendmsg(SCM_RIGHTS, {})", tare_sys::path::fd_name(fd)), errno);
                return Err(match errno {
                    Errno::AGAIN => err.hint("its listener does not read"),
                    _ => err,
                });
            }
        }
    }
    Ok(())
}

/// The container process state of runtime-spec, config-linux.md: what a seccomp agent is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    /// What the files sent with this are, by their place.
    fds: [&'a str; 1],
    pid: i32,
    /// `listenerMetadata` of the spec.
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a HookState<'a>,
}

/// The message to a seccomp agent: the payload for [`send_fd`] with the filter's listener. `pid`: the process
/// that the filter was loaded by, as the agent's namespace numbers it (not the container's, of an exec). Empty
/// metadata are none.
pub fn seccomp_agent_message(state: &HookState<'_>, pid: i32, metadata: &str) -> Result<Vec<u8>> {
    let message = ProcessState { oci_version: state.oci_version, fds: ["seccompFd"], pid, metadata, state };
    serde_json::to_vec(&message)
        .map_err(|err| Error::new(Kind::Usage, format!("write the container process state as JSON: {err}")))
}

/// A datagram or stream socket's own path, for one that listens: the folder may be of any length, the name not.
pub(crate) fn bind(socket: &OwnedFd, folder: &Path, name: &str) -> Result<()> {
    let call = || format!("bind({})", folder.join(name).display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).doing(call)?;
    let short = format!("/proc/self/fd/{}/{name}", opened.as_fd().as_raw_fd());
    let address = SocketAddrUnix::new(short).doing(call)?;
    rustix::net::bind(socket, &address).doing(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use serde_json::{Value, json};
    use std::fs::File;
    use std::io::{IoSliceMut, Read};
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::path::PathBuf;

    /// What one connection brings: its first file and all its bytes.
    fn receive(listener: &UnixListener) -> (Option<OwnedFd>, Vec<u8>) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; 1024];
        let got = rustix::net::recvmsg(
            &stream,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        bytes.truncate(got.unwrap().bytes);
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                files.extend(fds);
            }
        }
        stream.read_to_end(&mut bytes).unwrap();
        (files.pop(), bytes)
    }

    fn check(path: &Path, listener: &UnixListener, payload: &[u8], want: &[u8]) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (file, bytes) = std::thread::scope(|scope| {
            let received = scope.spawn(|| receive(listener));
            send_fd(path, write.as_fd(), payload).unwrap();
            received.join().unwrap()
        });
        assert_eq!(bytes, want);
        drop(write);
        // By effect: what is written into the file that came out is read from our pipe.
        rustix::io::write(file.unwrap(), b"through").unwrap();
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_file_arrives_with_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        check(&path, &listener, b"/dev/pts/0", b"/dev/pts/0");
        check(&path, &listener, b"", b"\0");
        let long = vec![b'x'; 1 << 20];
        check(&path, &listener, &long, &long);
    }

    #[test]
    fn a_path_of_any_length_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let deep: PathBuf = folder.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        bind(&socket, &deep, "socket").unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        check(&deep.join("socket"), &UnixListener::from(socket), b"far", b"far");
    }

    #[test]
    fn failures_name_the_socket_and_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::open("/dev/null").unwrap();
        let send = |path: &Path| send_fd(path, file.as_fd(), b"x").unwrap_err();
        let path = folder.path().join("none");
        let err = send(&path);
        assert_eq!(err.kind(), Kind::NotFound);
        assert!(
            err.to_string().contains(&path.display().to_string()) && err.hint_text().is_some(),
            "{err:?}"
        );
        let path = folder.path().join("gone");
        drop(UnixListener::bind(&path).unwrap());
        assert!(send(&path).hint_text().unwrap().contains("nobody listens"));
        let path = folder.path().join("datagram");
        let _datagram = UnixDatagram::bind(&path).unwrap();
        assert_eq!(send(&path).kind(), Kind::Usage);
        std::fs::write(folder.path().join("file"), "").unwrap();
        send(&folder.path().join("file"));
        send(Path::new(&"/x".repeat(3000)));
    }

    #[test]
    fn the_agents_message_is_the_specifications() {
        let state = HookState {
            oci_version: "1.3.0",
            id: "c1",
            status: "creating",
            pid: 7,
            bundle: Path::new("/b"),
            annotations: None,
        };
        let message: Value =
            serde_json::from_slice(&seccomp_agent_message(&state, 8, "meta").unwrap()).unwrap();
        let want = json!({
            "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": 8, "metadata": "meta",
            "state": {"ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 7, "bundle": "/b"}
        });
        assert_eq!(message, want);
        let back: oci_spec::runtime::ContainerProcessState = serde_json::from_value(want).unwrap();
        assert_eq!(back.fds(), &[oci_spec::runtime::SECCOMP_FD_NAME]);
        let none: Value = serde_json::from_slice(&seccomp_agent_message(&state, 8, "").unwrap()).unwrap();
        assert_eq!(none.get("metadata"), None);
    }
}
