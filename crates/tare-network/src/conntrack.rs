//! What the kernel remembers of datagrams to published ports (conntrack).
//!
//! There is no connection, so it goes by who sent to whom: where the first one went, the next ones go as well, for as long
//! as none is late. A client that never falls silent would be led to a container that is gone, or, if nobody had the port
//! when it began, to nobody; a container that got the address of one that is gone would hear what was meant for that.

use std::net::IpAddr;

use tare_sys::Result;
use tare_sys::netlink::{Answer, Body, Netlink, attributes, flag};

use crate::endpoint::Endpoint;
use crate::port::{Protocol, Published};

// Of linux/netfilter/nfnetlink_conntrack.h; the upper byte of a kind is the subsystem, NFNL_SUBSYS_CTNETLINK.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const TUPLE_ORIG: u16 = 1;
const ID: u16 = 12;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_DST: u16 = 2;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
/// An attribute that holds others.
const NESTED: u16 = 0x8000;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;
const UDP: u8 = 17;

/// Forgets where datagrams to the published ports of these containers went until now.
///
/// It walks the kernel's whole table, so it does nothing where no port is of UDP. Best effort: a kernel that cannot tell
/// forgets by itself, once a client was silent for half a minute.
pub fn forget<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) {
    let ports = endpoints.into_iter().flat_map(|endpoint| &endpoint.ports);
    let ports: Vec<&Published> = ports.filter(|port| port.protocol == Protocol::Udp).collect();
    if !ports.is_empty() {
        let _ = forget_all(&ports);
    }
}

fn forget_all(ports: &[&Published]) -> Result<()> {
    let mut netlink = Netlink::open_firewall()?;
    for (family, ipv4) in [(2, true), (10, false)] {
        if !ports.iter().any(|port| port.address.is_ipv4() == ipv4) {
            continue;
        }
        // Older kernels (before 5.8) do not know the filter, and tell of all.
        const BY_PROTOCOL: u32 = 1 << 3;
        let filter = Body::new(&[])
            .attribute(FILTER_ORIG_FLAGS, &BY_PROTOCOL.to_ne_bytes())?
            .attribute(FILTER_ORIG_FLAGS + 1, &0u32.to_ne_bytes())?;
        let protocol = Body::new(&[]).attribute(PROTO_NUM, &[UDP])?;
        let tuple = Body::new(&[]).attribute(TUPLE_PROTO | NESTED, protocol.as_bytes())?;
        let body = Body::new(&[family, 0, 0, 0])
            .attribute(TUPLE_ORIG | NESTED, tuple.as_bytes())?
            .attribute(FILTER | NESTED, filter.as_bytes())?;
        for entry in netlink.ask(GET, flag::DUMP, &body, "list what the firewall remembers")? {
            let Some((tuple, id)) = concerned(&entry, ports) else { continue };
            let body =
                Body::new(&[family, 0, 0, 0]).attribute(TUPLE_ORIG | NESTED, tuple)?.attribute(ID, id)?;
            // It may just have gone by itself.
            let _ = netlink.ask(DELETE, 0, &body, "have the firewall forget a client");
        }
    }
    Ok(())
}

/// How the kernel calls an entry that is about one of these ports.
fn concerned<'a>(entry: &'a Answer, ports: &[&Published]) -> Option<(&'a [u8], &'a [u8])> {
    let find = |kind| entry.attributes(HEADER).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let tuple = find(TUPLE_ORIG)?;
    let (mut address, mut protocol, mut port) = (None, None, None);
    for (kind, nested) in attributes(tuple) {
        for (inner, value) in attributes(nested) {
            match (kind, inner) {
                (TUPLE_IP, IP_V4_DST) => address = value.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
                (TUPLE_IP, IP_V6_DST) => {
                    address = value.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes))
                }
                (TUPLE_PROTO, PROTO_NUM) => protocol = value.first().copied(),
                (TUPLE_PROTO, PROTO_DST_PORT) => {
                    port = value.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
                }
                _ => {}
            }
        }
    }
    let (address, port) = (address?, port?);
    let is_it = |published: &&Published| {
        published.port == port
            && published.address.is_ipv4() == address.is_ipv4()
            && (published.address.is_unspecified() || published.address == address)
    };
    (protocol == Some(UDP) && ports.iter().any(is_it)).then_some((tuple, find(ID)?))
}
