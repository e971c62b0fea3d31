//! `linux.netDevices`: network links of the host that go into a container (runtime-spec, config-linux.md,
//! "Network Devices").
//!
//! A link keeps its permanent addresses of global scope, which the kernel takes from it when it changes its
//! namespace, and is up in the end. When the container's namespace ends, the kernel gives a physical link back
//! to the host under its old name, and removes a virtual one.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use oci_spec::runtime::LinuxNetDevice;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_sys::netlink::{Answer, Body, Netlink, flag, kind};
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result};

// Attributes of linux/if_link.h and linux/if_addr.h.
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;

/// `IFF_UP` of linux/if.h.
const UP: u32 = 1;
/// `IFA_F_PERMANENT` of linux/if_addr.h: not from DHCP or a router, whose word holds only where it was given.
const PERMANENT: u32 = 0x80;
/// `IFA_F_NODAD`: what was proved to be nobody else's before needs no second proof.
const NO_PROOF: u32 = 0x02;
/// `RT_SCOPE_UNIVERSE` of linux/rtnetlink.h.
const GLOBAL: u8 = 0;

/// Length of `struct ifinfomsg`.
const LINK: usize = 16;
/// Length of `struct ifaddrmsg`.
const ADDRESS: usize = 8;

/// Moves links of the caller's network namespace into another, under the names that the spec gives them. The
/// caller has to be single-threaded, or the calling thread be left alone: it visits the other namespace.
pub fn move_into(netns: BorrowedFd<'_>, devices: &HashMap<String, LinuxNetDevice>) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let mut moves: Vec<(&str, &str)> = Vec::new();
    for (name, device) in devices {
        let new = device.name().as_deref().filter(|new| !new.is_empty()).unwrap_or(name);
        check_name(name)?;
        check_name(new)?;
        if moves.iter().any(|(_, taken)| *taken == new) {
            return Err(Error::new(Kind::Usage, format!("network devices: two are to be called {new}")));
        }
        moves.push((name, new));
    }
    // Always the same order, so that a failure is always the same one.
    moves.sort_unstable();
    let mut host = Netlink::open()?;
    let mut container = open_in(netns)?;
    for (name, new) in moves {
        move_one(&mut host, &mut container, netns, name, new)
            .doing(|| format!("move the network device {name} into the container as {new}"))?;
    }
    Ok(())
}

fn move_one(
    host: &mut Netlink,
    container: &mut Netlink,
    netns: BorrowedFd<'_>,
    name: &str,
    new: &str,
) -> Result<()> {
    let Some(index) = find(host, name)? else {
        return Err(Error::new(Kind::NotFound, "there is no such device on the host").hint("see `ip link`"));
    };
    // The kernel would move it first and then refuse the name.
    if find(container, new)?.is_some() {
        return Err(Error::new(Kind::Conflict, format!("the container has a device {new} already"))
            .hint("give it another name in the spec's netDevices"));
    }
    let addresses = addresses(host, index)?;
    // One request for both, so that no other link can get the name in between. The kernel sets the link down
    // for it, and only once nothing else can fail (net/core/rtnetlink.c, do_setlink: first move, then rename).
    let moving = Body::new(&header(index, 0))
        .attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes())?
        .string(IFLA_IFNAME, new)?;
    host.ask(kind::NEWLINK, 0, &moving, "move it").map_err(|err| match err.errno() {
        Some(Errno::INVAL | Errno::OPNOTSUPP) => {
            err.with_kind(Kind::Unsupported).hint("links of this kind belong to one network namespace only")
        }
        _ => err,
    })?;
    // It may have got another number: another link of the container can have had its own.
    let Some(moved) = find(container, new)? else {
        return Err(Error::new(Kind::Kernel, "it has moved and cannot be found"));
    };
    for address in addresses {
        let body = address.body(moved)?;
        container.ask(kind::NEWADDR, flag::CREATE | flag::EXCL, &body, "give it its address again")?;
    }
    container.ask(kind::NEWLINK, 0, &Body::new(&header(moved, UP)), "set it up").map(drop)
}

/// Opens a socket in another network namespace, and comes back.
fn open_in(netns: BorrowedFd<'_>) -> Result<Netlink> {
    let path = "/proc/thread-self/ns/net";
    let back = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))?;
    process::enter(netns, namespace::NET).doing(|| "enter the container's network namespace")?;
    let opened = Netlink::open();
    process::enter(back.as_fd(), namespace::NET)
        .doing(|| "come back from the container's network namespace")?;
    opened
}

/// The kernel's rule for names (net/core/dev.c, dev_valid_name), and none that would be a pattern for one.
fn check_name(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let bad =
        |byte: &u8| matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace() || *byte == 0x0b;
    if bytes.is_empty() || bytes.len() > 15 || name == "." || name == ".." || bytes.iter().any(bad) {
        return Err(Error::new(Kind::Usage, format!("{name:?} cannot be the name of a network device"))
            .hint("1 to 15 bytes, without space, slash, colon and percent"));
    }
    Ok(())
}

/// `struct ifinfomsg` that sets these flags and leaves the others.
fn header(index: u32, flags: u32) -> [u8; LINK] {
    let mut header = [0; LINK];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// The number of a link.
fn find(netlink: &mut Netlink, name: &str) -> Result<Option<u32>> {
    let body = Body::new(&[0; LINK]).string(IFLA_IFNAME, name)?;
    let answers = match netlink.ask(kind::GETLINK, 0, &body, "look for it") {
        Err(err) if err.errno() == Some(Errno::NODEV) => return Ok(None),
        answers => answers?,
    };
    let header = answers.first().and_then(Answer::header::<LINK>);
    let [_, _, _, _, a, b, c, d, ..] = *header.ok_or_else(cut_off)?;
    Ok(Some(u32::from_ne_bytes([a, b, c, d])))
}

fn cut_off() -> Error {
    Error::new(Kind::Corrupt, "the kernel's answer is cut off")
}

/// An address that goes with its link.
struct Address {
    family: u8,
    prefix: u8,
    /// Other attributes than these (the broadcast address, the label) hold the link's old name, or follow.
    local: Option<Vec<u8>>,
    peer: Option<Vec<u8>>,
}

impl Address {
    fn body(&self, index: u32) -> Result<Body> {
        let mut header = [self.family, self.prefix, 0, GLOBAL, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let mut body = Body::new(&header).attribute(IFA_FLAGS, &(PERMANENT | NO_PROOF).to_ne_bytes())?;
        for (kind, value) in [(IFA_LOCAL, &self.local), (IFA_ADDRESS, &self.peer)] {
            if let Some(value) = value {
                body = body.attribute(kind, value)?;
            }
        }
        Ok(body)
    }
}

/// The permanent addresses of a link that hold everywhere, of IPv4 and IPv6.
fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<Address>> {
    let answers = netlink.ask(kind::GETADDR, flag::DUMP, &Body::new(&[0; ADDRESS]), "list its addresses")?;
    let mut found = Vec::new();
    for answer in &answers {
        let [family, prefix, flags, scope, a, b, c, d] = *answer.header::<ADDRESS>().ok_or_else(cut_off)?;
        let mut address = Address { family, prefix, local: None, peer: None };
        let mut flags = u32::from(flags);
        for (kind, value) in answer.attributes(ADDRESS) {
            match kind {
                IFA_LOCAL => address.local = Some(value.to_vec()),
                IFA_ADDRESS => address.peer = Some(value.to_vec()),
                IFA_FLAGS => flags = value.first_chunk().map_or(flags, |value| u32::from_ne_bytes(*value)),
                _ => {}
            }
        }
        if u32::from_ne_bytes([a, b, c, d]) == index && scope == GLOBAL && flags & PERMANENT != 0 {
            found.push(address);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
