//! Clients keep their addresses on the way through a monitor: of an ordinary user's machine, whose published ports are
//! served by monitors.
//!
//! ```text
//! client ──▶ host's socket ─ monitor ─ socket of the machine, bound to the client's address ──▶ container
//!                                ▲                                                                 │
//!                                └──── marked, so "local" ◀── the answer, to the client's address ─┘
//! ```
//!
//! A socket may be bound to a foreign address (`IP_TRANSPARENT`), and the answers to it are for us if a rule of routing says
//! so (kernel: Documentation/networking/tproxy.rst). Where the kernel lacks a part of this, a container sees the bridge
//! as the client.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tare_sys::Result;
use tare_sys::netlink::{Body, Netlink, Request, flag};

use crate::firewall;

/// The mark of answers that are ours, and the number of the routing table that says so.
const MARK: u32 = 0x7a5e;
const TABLE: u8 = 211;
const NEWROUTE: u16 = 24;
const NEWRULE: u16 = 32;
const FAMILIES: [u8; 2] = [2, 10];

/// Makes rules and routes; done again, it changes nothing.
pub fn prepare(table: &str) -> Result<()> {
    firewall::mark_answers(&format!("{table}-clients"), MARK)?;
    let mut netlink = Netlink::open()?;
    for family in FAMILIES {
        match netlink.ask_all(&[rule(family)?]).and_then(|()| netlink.ask_all(&[route(family)?])) {
            Err(err) if matches!(err.errno(), Some(Errno::EXIST | Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {
            }
            result => result?,
        }
    }
    Ok(())
}

/// Who carries the mark is routed by our table (`struct fib_rule_hdr`, linux/fib_rules.h).
fn rule(family: u8) -> Result<Request> {
    const TO_TABLE: u8 = 1;
    const PRIORITY: u16 = 6;
    const FWMARK: u16 = 10;
    let body = Body::new(&[family, 0, 0, 0, TABLE, 0, 0, TO_TABLE, 0, 0, 0, 0])
        .attribute(PRIORITY, &100u32.to_ne_bytes())?
        .attribute(FWMARK, &MARK.to_ne_bytes())?;
    let flags = flag::CREATE | flag::EXCL;
    Ok(Request { kind: NEWRULE, flags, body, what: "make a rule of routing".to_owned() })
}

/// There, every address is our own (`struct rtmsg`, linux/rtnetlink.h).
fn route(family: u8) -> Result<Request> {
    const STATIC: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const LOCAL: u8 = 2;
    const OIF: u16 = 4;
    /// Loopback is the first link of every network.
    const LOOPBACK: u32 = 1;
    let body = Body::new(&[family, 0, 0, 0, TABLE, STATIC, SCOPE_HOST, LOCAL, 0, 0, 0, 0])
        .attribute(OIF, &LOOPBACK.to_ne_bytes())?;
    let flags = flag::CREATE | flag::EXCL;
    Ok(Request { kind: NEWROUTE, flags, body, what: "make a local route".to_owned() })
}

/// A socket for a connection to `target`, with the client's address as its own where that can be: not across families, and
/// not that of a client on the host's loopback. It does not wait.
pub fn socket(stream: bool, client: Option<SocketAddr>, target: &SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if stream { SocketType::STREAM } else { SocketType::DGRAM };
    let new = || rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
    let socket = new()?;
    let Some(client) = client.filter(|client| can_be_kept(client.ip(), target)) else { return Ok(socket) };
    let kept = tare_sys::socket::set_transparent(socket.as_fd(), target.is_ipv6()).is_ok()
        && (rustix::net::bind(&socket, &client).is_ok()
            // Its port is in use for another connection.
            || rustix::net::bind(&socket, &SocketAddr::new(client.ip(), 0)).is_ok());
    if kept { Ok(socket) } else { new() }
}

fn can_be_kept(client: IpAddr, target: &SocketAddr) -> bool {
    let link_local = matches!(client, IpAddr::V6(address) if address.is_unicast_link_local());
    client.is_ipv4() == target.is_ipv4() && !client.is_loopback() && !client.is_unspecified() && !link_local
}
