//! Port 53 of 127.0.0.11 leads to the port that the server really has, so that a program of the container can
//! have port 53 for itself, on all addresses if it wants: dnsmasq, unbound and Pi-hole do.
//!
//! Two rules of nftables in the container's namespace write the other port into the packets on their way out
//! and the old one into the answers. No connection tracking is needed for that, and the container's other
//! traffic pays one comparison.

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use tare_sys::netlink::Body;
use tare_sys::{Context, Error, Result};

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
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const NESTED: u16 = 0x8000;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
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
    let mut batch = Batch::default();
    let table = Body::default().string(1, TABLE)?;
    batch.add(BATCH_BEGIN, 0, 0, SUBSYSTEM, &Body::default());
    if again {
        batch.add(DELETE_TABLE, 0, IPV4, 0, &table);
    }
    batch.add(NEW_TABLE, CREATE | EXCL, IPV4, 0, &table);
    for (chain, priority) in [("ask", BEFORE), ("answer", AFTER)] {
        let hook = Body::default()
            .attribute(1, &HOOK_OUTPUT.to_be_bytes())?
            .attribute(2, &priority.to_be_bytes())?;
        let body = Body::default().string(1, TABLE)?.string(3, chain)?;
        let body = body.attribute(4 | NESTED, hook.as_bytes())?.string(7, "filter")?;
        batch.add(NEW_CHAIN, CREATE, IPV4, 0, &body);
    }
    for (protocol, port) in [(UDP, udp), (TCP, tcp)] {
        // Offsets of the address in the IPv4 header, and of the port behind it (RFC 791, 768, 9293).
        batch.rule("ask", protocol, Side { address: 16, port: 2 }, DOMAIN, port)?;
        batch.rule("answer", protocol, Side { address: 12, port: 0 }, port, DOMAIN)?;
    }
    batch.add(BATCH_END, ACK, 0, SUBSYSTEM, &Body::default());
    batch.send("lead port 53 to the name server")
}

/// Which end of a packet.
struct Side {
    address: u32,
    port: u32,
}

/// Messages that take effect together or not at all.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    fn add(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &Body) {
        self.count += 1;
        let body = body.as_bytes();
        self.bytes.extend((16 + 4 + body.len() as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        // struct nfgenmsg.
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body);
    }

    /// `ip daddr 127.0.0.11 udp dport FROM udp dport set TO`, or the same of the source.
    fn rule(&mut self, chain: &str, protocol: u8, side: Side, from: u16, to: u16) -> Result<()> {
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
        let body =
            Body::default().string(1, TABLE)?.string(2, chain)?.attribute(4 | NESTED, list.as_bytes())?;
        self.add(NEW_RULE, CREATE | APPEND, IPV4, 0, &body);
        Ok(())
    }

    fn send(&self, what: &str) -> Result<()> {
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(netlink::NETFILTER);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .doing(|| format!("{what}: socket(NETLINK_NETFILTER)"))?;
        rustix::net::send(&socket, &self.bytes, SendFlags::empty())
            .doing(|| format!("{what}: send(netlink)"))?;
        // The kernel has answered before send() returns: one message for each failure, and one for the end.
        let mut buffer = [0; 4096];
        loop {
            let (length, _) = match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => continue,
                // Nothing was said against it.
                Err(Errno::AGAIN) => return Ok(()),
                result => result.doing(|| format!("{what}: recv(netlink)"))?,
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((code, next)) = verdict(rest) {
                if code != 0 {
                    let errno = Errno::from_raw_os_error(code.wrapping_neg());
                    return Err(Error::syscall(what, errno)
                        .hint("the kernel needs nf_tables (CONFIG_NF_TABLES_IPV4)"));
                }
                rest = next;
            }
        }
    }
}

/// The errno of an NLMSG_ERROR, and what comes after it.
fn verdict(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let code = i32::from_ne_bytes(*bytes.get(16..)?.first_chunk()?);
    Some((code, bytes.get(length.max(16).next_multiple_of(4)..).unwrap_or_default()))
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
