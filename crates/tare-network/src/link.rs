//! Links, addresses and routes, by rtnetlink(7).
//!
//! A container's end of a link is made straight in its network namespace, so that the death of the namespace
//! takes the link with it, whenever that comes.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_sys::netlink::{Answer, Body, Netlink, Request, flag, kind};
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result};

use crate::subnet::{Subnet, octets};

// Attributes of linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h and linux/veth.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const BRPORT_MODE: u16 = 4;
const BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const MACVLAN_MODE: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;

/// `IFF_UP` of linux/if.h.
const UP: u32 = 1;
/// `IFA_F_NODAD`: an address that only we hand out needs no proof that nobody has it.
const NO_PROOF: u32 = 0x02;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Length of `struct ifinfomsg`.
const LINK: usize = 16;
/// Length of `struct rtmsg`.
const ROUTE: usize = 12;
/// What a link has where nobody says otherwise.
pub const USUAL_MTU: u32 = 1500;

/// A hardware address.
pub type Mac = [u8; 6];

/// A link that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// How macvlan links of one parent reach each other (linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Not at all.
    Private = 1,
    /// By a switch outside.
    Vepa = 2,
    /// As if on a bridge.
    Bridge = 4,
    /// One link has the parent to itself.
    Passthru = 8,
}

/// The container's end of a link, as it is to be.
#[derive(Clone, Debug)]
pub struct Inner<'a> {
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
    /// `eth0`.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses, and how many bits its subnet has.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Where it sends what is for elsewhere.
    pub gateways: Vec<IpAddr>,
}

/// Opens a socket in another network namespace, and comes back. The caller has to be single-threaded, or the
/// calling thread be left alone.
pub fn open_in(netns: BorrowedFd<'_>) -> Result<Netlink> {
    visit(netns, Netlink::open)?
}

/// Does something in another network namespace, and comes back.
pub fn visit<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T> {
    let path = "/proc/thread-self/ns/net";
    let back = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))?;
    process::enter(netns, namespace::NET).doing(|| "enter the container's network namespace")?;
    let done = work();
    process::enter(back.as_fd(), namespace::NET)
        .doing(|| "come back from the container's network namespace")?;
    Ok(done)
}

/// Looks for a link by its name.
pub fn find(netlink: &Netlink, name: &str) -> Result<Option<Link>> {
    let found = tare_sys::link::find(netlink.as_fd(), name).doing(|| format!("look for the link {name}"))?;
    Ok(found.map(|(index, mtu)| Link { index, mtu }))
}

/// The hardware address of a link; `None` where there is no such link.
pub fn mac(netlink: &Netlink, name: &str) -> Result<Option<Mac>> {
    tare_sys::link::mac(netlink.as_fd(), name).doing(|| format!("look for the link {name}"))
}

/// `struct ifinfomsg` that sets these flags and leaves the others.
fn header(index: u32, flags: u32) -> Body {
    let mut header = [0; LINK];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    Body::new(&header)
}

/// Makes a bridge, with its addresses, up.
pub fn make_bridge(
    netlink: &mut Netlink,
    name: &str,
    mac: Mac,
    mtu: u32,
    addresses: &[(IpAddr, u8)],
    prepare: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let info = Body::new(&[]).string(INFO_KIND, "bridge")?;
    let body = header(0, 0)
        .string(IFLA_IFNAME, name)?
        .attribute(IFLA_ADDRESS, &mac)?
        .attribute(IFLA_MTU, &mtu.to_ne_bytes())?
        .attribute(IFLA_LINKINFO, info.as_bytes())?;
    let what = format!("make the bridge {name}");
    netlink
        .ask(kind::NEWLINK, flag::CREATE | flag::EXCL, &body, &what)
        .map_err(|err| explain(err, "bridges"))?;
    let rest = (|| {
        // Before it is up: the kernel gives it addresses of IPv6 in the moment when it goes up.
        prepare()?;
        let link = find(netlink, name)?
            .ok_or_else(|| Error::new(Kind::Kernel, format!("{what}: it vanished again")))?;
        let mut requests = vec![Request {
            kind: kind::NEWLINK,
            flags: 0,
            body: header(link.index, UP),
            what: format!("set {name} up"),
        }];
        for (address, prefix) in addresses {
            requests.push(add_address(link.index, *address, *prefix, name)?);
        }
        netlink.ask_all(&requests)
    })();
    if rest.is_err() {
        let _ = remove(netlink, name);
    }
    rest
}

/// Says what to do where the kernel lacks a kind of link, or the right to make one is missing.
fn explain(err: Error, what: &str) -> Error {
    match err.errno() {
        Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => err
            .with_kind(Kind::Unsupported)
            .hint(format!("this kernel has no {what}; use --network none or --network host")),
        Some(Errno::PERM) => err
            .with_kind(Kind::Permission)
            .hint("making networks needs CAP_NET_ADMIN; without it use --network none or --network host"),
        _ => err,
    }
}

fn add_address(index: u32, address: IpAddr, prefix: u8, name: &str) -> Result<Request> {
    let (family, flags) = if address.is_ipv4() { (AF_INET, 0) } else { (AF_INET6, NO_PROOF) };
    let mut header = [family, prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address);
    let mut body = Body::new(&header)
        .attribute(IFA_FLAGS, &u32::to_ne_bytes(flags))?
        .attribute(IFA_LOCAL, &bytes)?
        .attribute(IFA_ADDRESS, &bytes)?;
    if let IpAddr::V4(address) = address
        && prefix < 31
        && let Some(subnet) = Subnet::of(address.into(), prefix)
    {
        const IFA_BROADCAST: u16 = 4;
        body = body.attribute(IFA_BROADCAST, &octets(subnet.last()))?;
    }
    let what = format!("give {name} the address {address}/{prefix}");
    Ok(Request { kind: kind::NEWADDR, flags: flag::CREATE | flag::EXCL, body, what })
}

/// A default route. The kernel prefers the one with the smallest metric.
fn add_route(index: u32, gateway: IpAddr, metric: u32) -> Result<Request> {
    let family = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
    // Table main, made by hand, of global scope, for one destination (linux/rtnetlink.h).
    let mut body = Body::new(&[family, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0])
        .attribute(RTA_OIF, &index.to_ne_bytes())?
        .attribute(RTA_GATEWAY, &octets(gateway))?;
    if metric != 0 {
        body = body.attribute(RTA_PRIORITY, &metric.to_ne_bytes())?;
    }
    let what = format!("route everything else by {gateway}");
    Ok(Request { kind: kind::NEWROUTE, flags: flag::CREATE | flag::EXCL, body, what })
}

/// How a bridge treats a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Nothing is passed on from it to others that are isolated.
    pub isolated: bool,
    /// What came from it may go back to it, which a container needs that reaches itself by a published port.
    pub hairpin: bool,
}

/// Makes a pair of links: one end on the bridge, the other in the container's namespace.
pub fn make_pair(host: &mut Netlink, name: &str, bridge: Link, port: Port, inner: &Inner<'_>) -> Result<()> {
    let mut peer = header(0, 0)
        .string(IFLA_IFNAME, inner.name)?
        .attribute(IFLA_NET_NS_FD, &inner.netns.as_raw_fd().to_ne_bytes())?
        .attribute(IFLA_ADDRESS, &inner.mac)?;
    let mut body =
        header(0, UP).string(IFLA_IFNAME, name)?.attribute(IFLA_MASTER, &bridge.index.to_ne_bytes())?;
    if bridge.mtu != USUAL_MTU {
        peer = peer.attribute(IFLA_MTU, &bridge.mtu.to_ne_bytes())?;
        body = body.attribute(IFLA_MTU, &bridge.mtu.to_ne_bytes())?;
    }
    let data = Body::new(&[]).attribute(VETH_INFO_PEER, peer.as_bytes())?;
    let info = Body::new(&[]).string(INFO_KIND, "veth")?.attribute(INFO_DATA, data.as_bytes())?;
    let body = body.attribute(IFLA_LINKINFO, info.as_bytes())?;
    let what = format!("make the pair of links {name} and {}", inner.name);
    let mut requests = vec![Request { kind: kind::NEWLINK, flags: flag::CREATE | flag::EXCL, body, what }];
    if port != Port::default() {
        requests.push(port_request(name, port)?);
    }
    host.ask_all(&requests).map_err(|err| match err.errno() {
        Some(Errno::XFULL) => err.with_kind(Kind::Exhausted).hint(
            "a bridge takes 1,023 links; make another network (`tare network create`) for more containers",
        ),
        _ => explain(err, "veth links"),
    })
}

/// Sets how the bridge treats the host's end of a pair.
pub fn set_port(host: &mut Netlink, name: &str, port: Port) -> Result<()> {
    host.ask_all(&[port_request(name, port)?])
}

fn port_request(name: &str, port: Port) -> Result<Request> {
    let data = Body::new(&[])
        .attribute(BRPORT_MODE, &[port.hairpin.into()])?
        .attribute(BRPORT_ISOLATED, &[port.isolated.into()])?;
    let info =
        Body::new(&[]).string(INFO_SLAVE_KIND, "bridge")?.attribute(INFO_SLAVE_DATA, data.as_bytes())?;
    let body = header(0, 0).string(IFLA_IFNAME, name)?.attribute(IFLA_LINKINFO, info.as_bytes())?;
    Ok(Request { kind: kind::NEWLINK, flags: 0, body, what: format!("set how the bridge treats {name}") })
}

/// Makes a macvlan link on a link of the host, straight in the container's namespace.
pub fn make_macvlan(host: &mut Netlink, parent: &str, mode: MacvlanMode, inner: &Inner<'_>) -> Result<()> {
    let parent_link = find(host, parent)?.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("make a macvlan link: the host has no link {parent}"))
            .hint("see `ip link`, and give the network --opt parent=LINK")
    })?;
    let data = Body::new(&[]).attribute(MACVLAN_MODE, &(mode as u32).to_ne_bytes())?;
    let info = Body::new(&[]).string(INFO_KIND, "macvlan")?.attribute(INFO_DATA, data.as_bytes())?;
    let body = header(0, 0)
        .string(IFLA_IFNAME, inner.name)?
        .attribute(IFLA_LINK, &parent_link.index.to_ne_bytes())?
        .attribute(IFLA_NET_NS_FD, &inner.netns.as_raw_fd().to_ne_bytes())?
        .attribute(IFLA_ADDRESS, &inner.mac)?
        .attribute(IFLA_LINKINFO, info.as_bytes())?;
    let what = format!("make the macvlan link {} on {parent}", inner.name);
    host.ask(kind::NEWLINK, flag::CREATE | flag::EXCL, &body, &what)
        .map(drop)
        .map_err(|err| explain(err, "macvlan links"))
}

/// Sets a macvlan link up. One with the same hardware address may still be on its way out, with the namespace of the
/// container that had the address before: until then the kernel says that it is in use.
pub fn raise_macvlan(container: &mut Netlink, name: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + PATIENCE;
    let body = header(0, UP).string(IFLA_IFNAME, name)?;
    // The one on newer kernels, the other on older ones (drivers/net/macvlan.c, macvlan_open).
    let in_use = |err: &Error| matches!(err.errno(), Some(Errno::ADDRINUSE | Errno::BUSY));
    loop {
        match container.ask(kind::NEWLINK, 0, &body, &format!("set {name} up")) {
            Err(err) if in_use(&err) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(err) if in_use(&err) => {
                return Err(err.with_kind(Kind::Conflict).hint(
                    "another link on the same parent has this hardware address; give it another (--mac-address)",
                ));
            }
            result => return result.map(drop),
        }
    }
}

/// Gives the container's end its addresses and routes, and sets it up. `container` is a socket in its namespace;
/// `metric` of the default routes: the smallest is taken.
pub fn configure(container: &mut Netlink, inner: &Inner<'_>, metric: u32) -> Result<()> {
    let name = inner.name;
    let link = find(container, name)?
        .ok_or_else(|| Error::new(Kind::Kernel, format!("configure {name}: it vanished again")))?;
    let mut requests = Vec::new();
    for (address, prefix) in &inner.addresses {
        requests.push(add_address(link.index, *address, *prefix, name)?);
    }
    requests.push(Request {
        kind: kind::NEWLINK,
        flags: 0,
        body: header(link.index, UP),
        what: format!("set {name} up"),
    });
    for gateway in &inner.gateways {
        requests.push(add_route(link.index, *gateway, metric)?);
    }
    container.ask_all(&requests)
}

/// Removes a link; one that is not there is no error. This takes long (an RCU grace period or two): nobody who
/// waits for a container may do it.
pub fn remove(netlink: &mut Netlink, name: &str) -> Result<()> {
    let body = header(0, 0).string(IFLA_IFNAME, name)?;
    match netlink.ask(kind::DELLINK, 0, &body, &format!("remove the link {name}")) {
        Err(err) if err.errno() == Some(Errno::NODEV) => Ok(()),
        result => result.map(drop),
    }
}

/// The names of all links that begin so.
pub fn names(netlink: &mut Netlink, prefix: &str) -> Result<Vec<String>> {
    let answers = netlink.ask(kind::GETLINK, flag::DUMP, &Body::new(&[0; LINK]), "list the links")?;
    let name = |answer: &Answer| {
        let (_, name) = answer.attributes(LINK).find(|(kind, _)| *kind == IFLA_IFNAME)?;
        Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
    };
    Ok(answers.iter().filter_map(name).filter(|name| name.starts_with(prefix)).collect())
}

/// What the host routes elsewhere, and over which link its default routes go.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Every destination but "everything".
    pub taken: Vec<Subnet>,
    /// Numbers of the links of the default routes.
    pub defaults: Vec<u32>,
}

/// Reads the host's routes.
pub fn routes(netlink: &mut Netlink) -> Result<Routes> {
    let mut found = Routes::default();
    let answers = netlink.ask(kind::GETROUTE, flag::DUMP, &Body::new(&[0; ROUTE]), "list the routes")?;
    for answer in &answers {
        let Some([family, prefix, _, _, table, _, _, kind, ..]) = answer.header::<ROUTE>().copied() else {
            continue;
        };
        let (mut destination, mut link, mut table) = (None, None, u32::from(table));
        for (kind, value) in answer.attributes(ROUTE) {
            match kind {
                RTA_DST => destination = address(family, value),
                RTA_OIF => link = value.first_chunk().map(|index| u32::from_ne_bytes(*index)),
                RTA_TABLE => table = value.first_chunk().map_or(table, |table| u32::from_ne_bytes(*table)),
                _ => {}
            }
        }
        // Only what leads to others (unicast); the table of local addresses (255) says the same again.
        if kind != 1 || table == 255 {
            continue;
        }
        match (destination, prefix) {
            (None, 0) => found.defaults.extend(link),
            (Some(destination), prefix) => found.taken.extend(Subnet::of(destination, prefix)),
            _ => {}
        }
    }
    Ok(found)
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        AF_INET6 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}

/// The largest packet of the default route's link; the usual one where there is none.
pub fn route_mtu(netlink: &mut Netlink, routes: &Routes) -> u32 {
    let mut smallest = None;
    for index in &routes.defaults {
        let answers = netlink.ask(kind::GETLINK, 0, &header(*index, 0), "look for the default route's link");
        let answers = answers.unwrap_or_default();
        let mtu = answers.first().and_then(|link| link.attributes(LINK).find(|(kind, _)| *kind == IFLA_MTU));
        if let Some(mtu) = mtu.and_then(|(_, mtu)| mtu.first_chunk()).map(|mtu| u32::from_ne_bytes(*mtu)) {
            smallest = Some(smallest.map_or(mtu, |least: u32| least.min(mtu)));
        }
    }
    // Below 1,280 IPv6 does not work; above what a link of Ethernet takes nothing else does.
    smallest.unwrap_or(USUAL_MTU).clamp(576, 65_535)
}

/// The hardware address as people write it.
pub fn show_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads a hardware address.
pub fn parse_mac(text: &str) -> Result<Mac> {
    let wrong = || {
        Error::new(Kind::Usage, format!("invalid hardware address {text:?}"))
            .hint("for example: 02:42:ac:11:00:02")
    };
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    // The lowest bit is of addresses of groups, which no link can have.
    if parts.next().is_some() || mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(wrong());
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_shown() {
        assert_eq!(show_mac(parse_mac("02:42:AC:11:00:02").unwrap()), "02:42:ac:11:00:02");
        for wrong in ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "03:42:ac:11:00:02", "0:0:0:0:0:0", "x"] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
