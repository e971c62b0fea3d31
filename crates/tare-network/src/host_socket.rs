//! Sockets of the host's network, for who is in another one: an ordinary user's commands and monitors, which work in the
//! [machine's](tare_sys::rootless) network.
//!
//! A socket belongs for good to the network in which it was made. So the holder of the machine, which has stayed in the
//! host's, makes it on request and hands it over.
//!
//! ```text
//! port, names ─▶ open ─┬─ root ──────▶ socket(2), bind(2)
//!                      └─ in a machine ─▶ <run>/machine.sock ─▶ holder: serve ─▶ the same
//! ```

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use tare_sys::channel::Channel;
use tare_sys::{Context, Error, Kind, Result, rootless};

/// The socket's name in the run folder.
pub const NAME: &str = "machine.sock";

/// Who makes the host's sockets.
#[derive(Clone, Debug, Default)]
pub enum HostSockets {
    /// We do: we are in the host's network.
    #[default]
    Ours,
    /// The holder of the machine does, who is asked here.
    Asked(PathBuf),
}

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    /// TCP, else UDP.
    stream: bool,
    /// IPv6, else IPv4; matters where there is no address.
    v6: bool,
    /// Where it is to be bound.
    at: Option<SocketAddr>,
}

/// The answer; with a socket if the number is 0.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    errno: i32,
}

impl HostSockets {
    /// Those of an engine with this run folder.
    pub fn of(run: &Path) -> HostSockets {
        if rootless::is_on() { HostSockets::Asked(run.join(NAME)) } else { HostSockets::Ours }
    }

    /// A socket that is bound there, and that nobody else may listen at.
    pub fn bound(&self, stream: bool, at: SocketAddr) -> Result<OwnedFd> {
        let what = || format!("bind({at})");
        self.make(&Wanted { stream, v6: at.is_ipv6(), at: Some(at) }).doing(what)
    }

    /// A socket that is not bound.
    pub fn unbound(&self, stream: bool, v6: bool) -> Result<OwnedFd> {
        self.make(&Wanted { stream, v6, at: None })
    }

    /// For ports without a socket of ours: nobody else could serve them in a machine.
    pub fn must_hold_all(&self, most: usize) -> Result<()> {
        match self {
            HostSockets::Ours => Ok(()),
            HostSockets::Asked(_) => Err(Error::new(
                Kind::Unsupported,
                format!("publish more than {most} ports of one container: for an ordinary user"),
            )
            .hint("publish fewer, or share the host's network: --network host")),
        }
    }

    /// For protocols that only the firewall can lead on.
    pub fn must_lead_by_the_firewall(&self) -> Result<()> {
        match self {
            HostSockets::Ours => Ok(()),
            HostSockets::Asked(_) => {
                Err(Error::new(Kind::Unsupported, "for an ordinary user, tcp and udp only")
                    .hint("leave it out, or share the host's network: --network host"))
            }
        }
    }

    /// A process in the host's network, by its name in /proc.
    pub fn witness(&self) -> String {
        let holder = match self {
            HostSockets::Ours => None,
            HostSockets::Asked(path) => std::fs::read_to_string(path.with_file_name("machine")).ok(),
        };
        let pid = holder.as_deref().and_then(|text| text.split_whitespace().next());
        pid.unwrap_or("self").to_owned()
    }

    fn make(&self, wanted: &Wanted) -> Result<OwnedFd> {
        match self {
            HostSockets::Ours => make(wanted).doing(|| "socket()"),
            HostSockets::Asked(path) => ask(path, wanted),
        }
    }
}

fn ask(path: &Path, wanted: &Wanted) -> Result<OwnedFd> {
    let what = || format!("ask at {} for a socket of the host's", path.display());
    let channel = Channel::connect(path).doing(what)?;
    channel.send(&bytes(wanted)?, &[])?;
    let mut buffer = [0; 256];
    let (length, mut files) = channel
        .receive(&mut buffer)?
        .ok_or_else(|| Error::new(Kind::Kernel, format!("{}: no answer", what())).hint("try again"))?;
    let answer: Answer = serde_json::from_slice(&buffer[..length])
        .map_err(|err| Error::new(Kind::Corrupt, err.to_string()))?;
    match (answer.errno, files.pop()) {
        (0, Some(socket)) => Ok(socket),
        (errno, _) => Err(Errno::from_raw_os_error(errno)).doing(what),
    }
}

fn bytes(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|err| Error::new(Kind::Corrupt, err.to_string()))
}

/// The holder's part: makes one socket for one who asks. Who asks wrongly, or not at all, gets nothing.
pub fn serve(channel: &Channel) {
    let mut buffer = [0; 256];
    let Ok(Some((length, _))) = channel.receive(&mut buffer) else { return };
    let Ok(wanted) = serde_json::from_slice::<Wanted>(&buffer[..length]) else { return };
    let made = make(&wanted);
    let answer = Answer { errno: made.as_ref().err().map_or(0, |errno| errno.raw_os_error()) };
    let files: Vec<_> = made.iter().map(AsFd::as_fd).collect();
    if let Ok(text) = bytes(&answer) {
        let _ = channel.send(&text, &files);
    }
}

fn make(wanted: &Wanted) -> rustix::io::Result<OwnedFd> {
    let family = if wanted.v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = if wanted.stream { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let Some(at) = wanted.at else { return Ok(socket) };
    if wanted.v6 {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    let reuse = wanted.stream && at.port() != 0;
    if reuse {
        // Connections of before that have ended do not hold the port.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    if reuse {
        // From here on it counts as held: nobody else may listen on it (net/ipv4/inet_connection_sock.c).
        rustix::net::sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    Ok(socket)
}
