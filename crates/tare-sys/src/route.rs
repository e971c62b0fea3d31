//! The little of rtnetlink(7) that moving a network device needs: its number, its addresses, its namespace.
//!
//! Messages are made and read as bytes; lengths that a reply gives are checked against what was received.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Context, Error, Kind, Result};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
/// The length of an interface's name with its NUL (`IFNAMSIZ`).
const NAME: usize = 16;
/// Longest reply that is read at once; the kernel's own dumps are shorter.
const LONGEST: usize = 64 * 1024;

/// An address of a device, as the kernel told it and as it wants to be told again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `struct ifaddrmsg` but for the device's number.
    head: [u8; 4],
    /// Its attributes.
    attributes: Vec<u8>,
}

/// A connection to the network of the namespace that the caller is in.
#[derive(Debug)]
pub struct Route(OwnedFd);

impl Route {
    /// Opens one.
    pub fn open() -> Result<Route> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0.
            None,
        )
        .doing(|| "socket(AF_NETLINK, NETLINK_ROUTE)")?;
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0)).doing(|| "connect(rtnetlink)")?;
        Ok(Route(socket))
    }

    /// The number of the device with this name.
    pub fn number(&self, name: &str) -> Result<u32> {
        let mut body = link_head(0, 0, 0);
        put(&mut body, IFLA_IFNAME, &name_bytes(name)?);
        let what = || format!("find the network device {name}");
        let mut found = None;
        self.ask(RTM_GETLINK, 0, &body, &mut |kind, body| {
            if kind == RTM_NEWLINK {
                found = body.get(4..8).map(word);
            }
        })
        .doing(what)?;
        found.ok_or_else(|| Error::new(Kind::NotFound, what()))
    }

    /// The addresses of a device that are valid everywhere (`RT_SCOPE_UNIVERSE`).
    pub fn global_addresses(&self, number: u32) -> Result<Vec<Address>> {
        let mut found = Vec::new();
        self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; 8], &mut |kind, body| {
            if kind == RTM_NEWADDR
                && let (Some(head), Some(index)) = (body.first_chunk::<4>(), body.get(4..8))
                && word(index) == number
                && head[3] == 0
            {
                found.push(Address { head: *head, attributes: body[8..].to_vec() });
            }
        })
        .doing(|| format!("list the addresses of network device {number}"))?;
        Ok(found)
    }

    /// Moves a device into another network namespace, under another name.
    pub fn give_away(&self, number: u32, name: &str, netns: BorrowedFd<'_>) -> Result<()> {
        let mut body = link_head(number, 0, 0);
        put(&mut body, IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
        put(&mut body, IFLA_IFNAME, &name_bytes(name)?);
        self.ask(RTM_NEWLINK, NLM_F_ACK, &body, &mut |_, _| {})
    }

    /// Gives a device an address; one that it has already is no error.
    pub fn add_address(&self, number: u32, address: &Address) -> Result<()> {
        let mut body = address.head.to_vec();
        body.extend(number.to_ne_bytes());
        body.extend(&address.attributes);
        match self.ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, &body, &mut |_, _| {}) {
            Err(err) if err.errno() == Some(Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// Brings a device up.
    pub fn set_up(&self, number: u32) -> Result<()> {
        self.ask(RTM_NEWLINK, NLM_F_ACK, &link_head(number, IFF_UP, IFF_UP), &mut |_, _| {})
    }

    /// Sends a request and hands each message of the reply to `take`.
    fn ask(&self, kind: u16, flags: u16, body: &[u8], take: &mut dyn FnMut(u16, &[u8])) -> Result<()> {
        let what = || format!("rtnetlink(type={kind})");
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend(((16 + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend(1u32.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        rustix::net::send(&self.0, &message, SendFlags::empty()).doing(what)?;
        let many = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut buffer = vec![0u8; LONGEST];
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()).doing(what)?;
            let mut left = &buffer[..length];
            while let Some((kind, body, rest)) = next_message(left) {
                left = rest;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => match body.get(..4).map(|code| word(code) as i32) {
                        Some(0) => return Ok(()),
                        Some(code) => {
                            return Err(Errno::from_raw_os_error(code.saturating_neg())).doing(what);
                        }
                        None => return Err(Error::new(Kind::Corrupt, what())),
                    },
                    kind => take(kind, body),
                }
            }
            if !many && flags & NLM_F_ACK == 0 {
                return Ok(());
            }
        }
    }
}

/// `struct ifinfomsg`.
fn link_head(number: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![0; 4];
    head.extend(number.to_ne_bytes());
    head.extend(flags.to_ne_bytes());
    head.extend(change.to_ne_bytes());
    head
}

/// Appends an attribute (`struct rtattr`).
fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn name_bytes(name: &str) -> Result<Vec<u8>> {
    if name.is_empty()
        || name.len() >= NAME
        || name.contains(['/', '\0'])
        || name.contains(char::is_whitespace)
    {
        return Err(Error::new(Kind::Usage, format!("{name:?} is not the name of a network device"))
            .hint("a name has 1 to 15 characters and no slash or space in it"));
    }
    Ok(name.bytes().chain([0]).collect())
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// The next whole message: its kind, its body, and what comes after it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = word(bytes.get(..4)?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..6)?.first_chunk()?);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_messages_are_not_read_past_their_end() {
        assert!(next_message(&[]).is_none());
        assert!(next_message(&[255; 15]).is_none());
        let mut short = vec![0u8; 16];
        short[0] = 12;
        assert!(next_message(&short).is_none());
        short[0] = 16;
        assert_eq!(next_message(&short).unwrap().1, b"");
    }

    #[test]
    fn loopback_is_found_and_has_no_address_of_its_own_elsewhere() {
        let route = Route::open().unwrap();
        assert_eq!(route.number("lo").unwrap(), 1);
        assert_eq!(route.number("nope0").unwrap_err().kind(), Kind::Kernel);
        route.global_addresses(1).unwrap();
        for bad in ["", "a/b", "a b", "sixteen-letters-"] {
            assert_eq!(route.number(bad).unwrap_err().kind(), Kind::Usage);
        }
    }
}
