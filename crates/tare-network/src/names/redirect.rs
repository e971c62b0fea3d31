//! Port 53 of 127.0.0.11 leads to the port that the server really has, so that a program of the container can
//! have port 53 for itself, on all addresses if it wants: dnsmasq, unbound and Pi-hole do.
//!
//! Two rules of nftables in the container's namespace write the other port into the packets on their way out
//! and the old one into the answers. No connection tracking is needed for that, and the container's other
//! traffic pays one comparison.

use rustix::io::Errno;
use tare_sys::netlink::{Body, Netlink, Request, flag};
use tare_sys::{Error, Result};

/// Where the server listens, if that is free: above the ports that the kernel gives to clients (ip(7),
/// `ip_local_port_range`), and nobody's in particular.
pub const PORT: u16 = 61153;

/// The port that clients ask.
const DOMAIN: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Before connection tracking (linux/netfilter_ipv4.h, `NF_IP_PRI_RAW`), if a container has any: what it
/// tracks is then what the server gets …
const BEFORE: i32 = -300;
/// … and after it (`NF_IP_PRI_MANGLE`) for the answers, which it knows again.
const AFTER: i32 = -150;

// Numbers of linux/netfilter/nf_tables.h and linux/netfilter/nfnetlink.h.
const IPV4: u8 = 2;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const NESTED: u16 = 0x8000;
const HOOK_OUTPUT: u32 = 3;
const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// The table, in the container's namespace.
const TABLE: &str = "tare-names";

/// Makes the rules in the network namespace that the caller is in; those of a server before this one go.
pub fn lead(udp: u16, tcp: u16) -> Result<()> {
    // Not in one transaction for all cases: the kernel lets nobody close the socket before what was deleted
    // is gone for good, and that takes an RCU grace period, some 10 ms.
    match rules(udp, tcp, false) {
        Err(err) if err.errno() == Some(Errno::EXIST) => rules(udp, tcp, true),
        done => done,
    }
}

fn rules(udp: u16, tcp: u16, again: bool) -> Result<()> {
    let mut requests = Vec::new();
    if again {
        requests.push(request(DELETE_TABLE, 0, table()?));
    }
    requests.push(request(NEW_TABLE, flag::CREATE | flag::EXCL, table()?));
    for (chain, priority) in [("ask", BEFORE), ("answer", AFTER)] {
        let hook = Body::default()
            .attribute(1, &HOOK_OUTPUT.to_be_bytes())?
            .attribute(2, &priority.to_be_bytes())?;
        let body = table()?.string(3, chain)?;
        let body = body.attribute(4 | NESTED, hook.as_bytes())?.string(7, "filter")?;
        requests.push(request(NEW_CHAIN, flag::CREATE, body));
    }
    for (protocol, port) in [(UDP, udp), (TCP, tcp)] {
        // Offsets of the address in the IPv4 header, and of the port behind it (RFC 791, 768, 9293).
        requests.push(rule("ask", protocol, Side { address: 16, port: 2 }, DOMAIN, port)?);
        requests.push(rule("answer", protocol, Side { address: 12, port: 0 }, port, DOMAIN)?);
    }
    Netlink::open_firewall()?.transaction(&requests).map_err(explain)
}

fn explain(err: Error) -> Error {
    err.hint("the kernel needs nf_tables (CONFIG_NF_TABLES_IPV4)")
}

/// The body of a request on the table: `struct nfgenmsg` of IPv4, version 0, no resource; then its name.
fn table() -> Result<Body> {
    Body::new(&[IPV4, 0, 0, 0]).string(1, TABLE)
}

fn request(kind: u16, flags: u16, body: Body) -> Request {
    Request { kind, flags, body, what: "lead port 53 to the name server".to_owned() }
}

/// Which end of a packet.
struct Side {
    address: u32,
    port: u32,
}

/// `ip daddr 127.0.0.11 udp dport FROM udp dport set TO`, or the same of the source.
fn rule(chain: &str, protocol: u8, side: Side, from: u16, to: u16) -> Result<Request> {
    // Where the checksum is (RFC 768, RFC 9293).
    let checksum: u32 = if protocol == UDP { 6 } else { 16 };
    let write = number(5, REGISTER)?
        .attribute(2, &TRANSPORT_HEADER.to_be_bytes())?
        .attribute(3, &side.port.to_be_bytes())?
        .attribute(4, &2u32.to_be_bytes())?
        .attribute(6, &1u32.to_be_bytes())?
        .attribute(7, &checksum.to_be_bytes())?;
    let expressions = [
        load(NETWORK_HEADER, side.address, 4)?,
        equal(&super::ADDRESS.octets())?,
        load(NETWORK_HEADER, 9, 1)?,
        equal(&[protocol])?,
        load(TRANSPORT_HEADER, side.port, 2)?,
        equal(&from.to_be_bytes())?,
        expression(
            "immediate",
            number(1, REGISTER)?.attribute(2 | NESTED, value(&to.to_be_bytes())?.as_bytes())?,
        )?,
        expression("payload", write)?,
    ];
    let mut list = Body::default();
    for expression in &expressions {
        list = list.attribute(1 | NESTED, expression.as_bytes())?;
    }
    let body = table()?.string(2, chain)?.attribute(4 | NESTED, list.as_bytes())?;
    Ok(request(NEW_RULE, flag::CREATE | flag::APPEND, body))
}

fn number(kind: u16, number: u32) -> Result<Body> {
    Body::default().attribute(kind, &number.to_be_bytes())
}

fn value(bytes: &[u8]) -> Result<Body> {
    Body::default().attribute(1, bytes)
}

fn expression(name: &str, data: Body) -> Result<Body> {
    Body::default().string(1, name)?.attribute(2 | NESTED, data.as_bytes())
}

fn load(base: u32, offset: u32, length: u32) -> Result<Body> {
    let data = number(1, REGISTER)?.attribute(2, &base.to_be_bytes())?;
    expression("payload", data.attribute(3, &offset.to_be_bytes())?.attribute(4, &length.to_be_bytes())?)
}

fn equal(bytes: &[u8]) -> Result<Body> {
    let data = number(1, REGISTER)?.attribute(2, &0u32.to_be_bytes())?;
    expression("cmp", data.attribute(3 | NESTED, value(bytes)?.as_bytes())?)
}
