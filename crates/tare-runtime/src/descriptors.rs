//! Files handed to another process over a unix socket: a terminal to the caller's console socket, a pidfd, a
//! seccomp listener to its agent.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use serde::Serialize;
use tare_sys::{Context, Error, Kind, Result};

use crate::hooks::HookState;

/// Connects to the stream socket at `path` and sends one file with a payload that is not empty.
pub fn send_fd(path: &Path, file: BorrowedFd<'_>, payload: &[u8]) -> Result<()> {
    let what = || format!("connect to the socket {}", path.display());
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .doing(|| "socket(AF_UNIX)")?;
    // An address holds 108 bytes (unix(7)); by way of an fd every path fits.
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", place.as_raw_fd()).as_str()).doing(what)?;
    rustix::net::connect(&socket, &address).doing(what)?;
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(Error::new(Kind::Kernel, "one file does not fit into a message"));
    }
    let sent = rustix::net::sendmsg(&socket, &[IoSlice::new(payload)], &mut control, SendFlags::NOSIGNAL)
        .doing(|| format!("sendmsg({})", path.display()))?;
    // The file went with the first byte; the rest of a long payload follows.
    let mut left = &payload[sent..];
    while !left.is_empty() {
        let sent = rustix::net::send(&socket, left, SendFlags::NOSIGNAL)
            .doing(|| format!("send({})", path.display()))?;
        left = &left[sent..];
    }
    Ok(())
}

/// What a seccomp agent is told along with the listener (runtime-spec, config-linux.md "The Container Process
/// State"). `pid` is the process under the filter.
pub fn seccomp_agent_message(state: &HookState<'_>, pid: i32, metadata: &str) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ContainerProcessState<'a> {
        oci_version: &'a str,
        fds: [&'a str; 1],
        pid: i32,
        #[serde(skip_serializing_if = "str::is_empty")]
        metadata: &'a str,
        state: &'a HookState<'a>,
    }
    let oci_version = state.oci_version;
    serde_json::to_vec(&ContainerProcessState { oci_version, fds: ["seccompFd"], pid, metadata, state })
        .map_err(|err| Error::new(Kind::Corrupt, format!("the message to the seccomp agent: {err}")))
}
