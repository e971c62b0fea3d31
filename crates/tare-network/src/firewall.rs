//! The firewall: one table of our own, `tare`, in the family of IP and in the family of bridges.
//!
//! ```text
//! bridge prerouting   what comes from a container must have its hardware and IP address      from4 from6
//! ip prerouting       nothing from a container goes to 127.0.0.0/8, whatever routes there
//! nat prerouting      (where the host's firewall drops:) who was not admitted by its own rules    gated admitted4 admitted6
//! nat prerouting ┐    the host's own address and a published port ─▶ container               at4 ports4 at6 ports6
//! nat output     ┘
//! input, at the end   (there:) who was admitted by all others is remembered
//! forward             known connections; within one network; to a published port; out        bridges loops inside
//! nat postrouting     the host's address for what goes out, and for what comes back inside   natted loops selves4 selves6
//! ```
//!
//! The rules are always the same; only the elements of sets and maps come and go, in one transaction of some
//! microseconds. No rule of ours lets anything past the host's own: "accept" ends our table, not theirs, and
//! theirs are never touched. All of it can be made anew from files at any time ([`rebuild`](Firewall::rebuild)).

mod message;

use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use tare_sys::iptables::{self, Ip};
use tare_sys::netlink::{Netlink, Request};
use tare_sys::{Error, Kind, Result};

use crate::endpoint::Endpoint;
use crate::link::parse_mac;
use crate::network::Network;
use crate::port::{Protocol, Published};
use crate::subnet::octets;
use message::{Base, Element, Family, Hook, Meta, Rule, Set, Type, Verdict};

/// All sets and maps. A set's number in a transaction is its place here, counted from 1.
const SETS: [Set; 15] = [
    set("bridges", &[Type::Link], &[]),
    set("inside", &[Type::Link], &[]),
    set("natted", &[Type::Link], &[]),
    set("loops", &[Type::Link, Type::Link], &[]),
    set("gated", &[Type::Family], &[]),
    Set { timeout: ADMITTED, ..set("admitted4", &[Type::Ipv4, Type::Protocol, Type::Port], &[]) },
    Set { timeout: ADMITTED, ..set("admitted6", &[Type::Ipv6, Type::Protocol, Type::Port], &[]) },
    set("selves4", &[Type::Ipv4, Type::Ipv4], &[]),
    set("selves6", &[Type::Ipv6, Type::Ipv6], &[]),
    set("at4", &[Type::Ipv4, Type::Protocol, Type::Port], &[Type::Ipv4, Type::Port]),
    set("at6", &[Type::Ipv6, Type::Protocol, Type::Port], &[Type::Ipv6, Type::Port]),
    set("ports4", &[Type::Protocol, Type::Port], &[Type::Ipv4, Type::Port]),
    set("ports6", &[Type::Protocol, Type::Port], &[Type::Ipv6, Type::Port]),
    Set {
        family: Family::Bridge,
        name: "from4",
        key: &[Type::Link, Type::Ether, Type::Ipv4],
        data: &[],
        timeout: 0,
    },
    Set {
        family: Family::Bridge,
        name: "from6",
        key: &[Type::Link, Type::Ether, Type::Ipv6],
        data: &[],
        timeout: 0,
    },
];

const fn set(name: &'static str, key: &'static [Type], data: &'static [Type]) -> Set {
    Set { family: Family::Inet, name, key, data, timeout: 0 }
}

/// The set of links whose frames are looked at; apart from the others, because a rule begins with it.
const LINKS: Set = Set { family: Family::Bridge, name: "links", key: &[Type::Link], data: &[], timeout: 0 };

/// Numbers of hooks (linux/netfilter.h).
const INPUT: u32 = 1;
const FORWARD: u32 = 2;

/// How long the host's rules for input are not asked again about a client and a port, in milliseconds.
const ADMITTED: u64 = 3_600_000;

/// `::1`.
const LOCALHOST6: [u8; 16] = std::net::Ipv6Addr::LOCALHOST.octets();

const IPV4: [u8; 1] = [2];
const IPV6: [u8; 1] = [10];
/// Types of Ethernet (linux/if_ether.h), in network order.
const ETHER_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_IPV6: [u8; 2] = [0x86, 0xdd];

/// Makes a table of its own with one rule: what is for a socket of ours that is bound to a foreign address is marked.
pub fn mark_answers(table: &str, mark: u32) -> Result<()> {
    // Before routing, as nft(8) names it: mangle.
    let hook = Hook { kind: "filter", number: 0, priority: -150 };
    let requests = [
        message::make_table(Family::Inet, table)?,
        message::remove_table(Family::Inet, table)?,
        message::make_table(Family::Inet, table)?,
        message::make_chain(Family::Inet, table, "answers", Some(&hook))?,
        Rule::new().for_transparent_socket()?.mark(mark)?.append(Family::Inet, table, "answers")?,
    ];
    let mut netlink = Netlink::open_firewall().map_err(explain)?;
    let made = netlink.transaction(&requests).map_err(explain);
    // See `Firewall::leave_open`.
    std::mem::forget(netlink);
    made
}

/// The firewall's tables of one engine.
#[derive(Debug)]
pub struct Firewall {
    netlink: Netlink,
    table: String,
}

/// What other people's firewalls drop where no rule of theirs accepts it.
struct Surroundings {
    /// The families whose input they drop.
    gated: Vec<u8>,
    /// The chains that keep packets from passing between containers and the outside.
    obstacles: Vec<String>,
}

/// The name of an engine's table: `tare` for the system's, and one of its own for each other state folder, so
/// that several live side by side.
pub fn table_name(state: &Path) -> String {
    if state == Path::new("/var/lib/tare") {
        return "tare".to_owned();
    }
    // FNV-1a: short, always the same, and nothing depends on its strength.
    let hash = state.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("tare-{:08x}", hash as u32 ^ (hash >> 32) as u32)
}

impl Firewall {
    /// Opens it in the calling thread's network namespace. Touches nothing yet.
    pub fn open(table: String) -> Result<Firewall> {
        Ok(Firewall { netlink: Netlink::open_firewall().map_err(explain)?, table })
    }

    /// Adds elements; [`Kind::NotFound`] where the tables are not there (any more), [`Kind::Conflict`] where a
    /// port leads to another container.
    pub fn add(&mut self, elements: &Elements) -> Result<()> {
        let requests = message::add_elements(&self.table, &elements.0)?;
        self.netlink.transaction(&requests).map_err(|err| match err.errno() {
            Some(Errno::BUSY | Errno::EXIST) => {
                err.with_kind(Kind::Conflict).context("port is already allocated")
            }
            _ => explain(err),
        })
    }

    /// Removes elements, as far as they are there.
    pub fn remove(&mut self, elements: &Elements) -> Result<()> {
        let all = message::remove_elements(&self.table, &elements.0)?;
        match self.netlink.transaction(&all) {
            Err(err) if err.errno() == Some(Errno::NOENT) => {}
            result => return result,
        }
        // Somebody flushed the firewall, or this is done twice: one by one, what there is.
        for element in &elements.0 {
            let one = message::remove_elements(&self.table, std::slice::from_ref(element))?;
            match self.netlink.transaction(&one) {
                Err(err) if err.errno() == Some(Errno::NOENT) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Removes elements and adds others in one transaction: no packet sees anything in between.
    pub fn change(&mut self, remove: &Elements, add: &Elements) -> Result<()> {
        let mut requests = message::remove_elements(&self.table, &remove.0)?;
        requests.append(&mut message::add_elements(&self.table, &add.0)?);
        self.netlink.transaction(&requests).map_err(explain)
    }

    /// Makes the tables anew, with what these networks and endpoints need, in one transaction: no packet sees
    /// anything in between.
    pub fn rebuild(&mut self, networks: &[Network], endpoints: &[Endpoint]) -> Result<()> {
        let mut elements = Elements::default();
        networks.iter().for_each(|network| elements.network(network));
        for endpoint in endpoints {
            if let Some(network) = networks.iter().find(|network| network.id == endpoint.network_id) {
                elements.endpoint(network, endpoint);
            }
        }
        elements.gate(&self.surroundings()?.gated);
        let mut requests = self.rules()?;
        requests.extend(message::add_elements(&self.table, &elements.0)?);
        self.netlink.transaction(&requests).map_err(explain)
    }

    /// Looks at what others drop.
    fn surroundings(&mut self) -> Result<Surroundings> {
        let mut found = Surroundings { gated: Vec::new(), obstacles: Vec::new() };
        for chain in self.foreign()? {
            match (chain.hook, chain.family) {
                (INPUT, 1) => found.gated.extend([IPV4[0], IPV6[0]]),
                (INPUT, family) => found.gated.push(family),
                _ => found.obstacles.push(format!("{} of table {}", chain.name, chain.table)),
            }
        }
        for (ip, family, program) in [(Ip::V4, IPV4, "iptables-legacy"), (Ip::V6, IPV6, "ip6tables-legacy")] {
            let [input, forward] = iptables::drops(ip, [INPUT, FORWARD])?;
            found.gated.extend(input.then_some(family[0]));
            found.obstacles.extend(forward.then(|| format!("FORWARD of {program}")));
        }
        found.gated.sort_unstable();
        found.gated.dedup();
        Ok(found)
    }

    /// Other people's chains for what comes in or passes through that drop what they do not accept: by their policy, or
    /// by a last rule. firewalld's for what comes in do so somewhere below.
    fn foreign(&mut self) -> Result<Vec<message::Foreign>> {
        let mut all = message::chains(&mut self.netlink)?;
        all.retain(|chain| matches!(chain.hook, INPUT | FORWARD) && chain.table != self.table);
        for chain in &mut all {
            chain.drops |= chain.hook == INPUT && chain.table == "firewalld";
            if !chain.drops {
                chain.drops = message::ends_all(&mut self.netlink, chain)?;
            }
        }
        all.retain(|chain| chain.drops);
        Ok(all)
    }

    /// Looks again whether the host's firewall drops, and lets the rules know. Answers which chains of the host's keep
    /// packets from passing between containers and the outside.
    pub fn look_around(&mut self) -> Result<Vec<String>> {
        let Surroundings { gated, obstacles } = self.surroundings()?;
        let known = message::bytes_in(&mut self.netlink, &self.table, "gated")?;
        let (mut new, mut gone) = (Elements::default(), Elements::default());
        new.gate(&gated.iter().copied().filter(|family| !known.contains(family)).collect::<Vec<_>>());
        gone.gate(&known.into_iter().filter(|family| !gated.contains(family)).collect::<Vec<_>>());
        // Nothing that is sure to fail is tried: a transaction that fails makes the kernel wait for an RCU grace
        // period (net/netfilter/nf_tables_api.c, __nf_tables_abort).
        if !new.is_empty() {
            self.add(&new)?;
        }
        if !gone.is_empty() {
            self.remove(&gone)?;
        }
        Ok(obstacles)
    }

    /// Leaves the socket to the end of the process. Closing it waits for an RCU grace period as long as anybody's
    /// removed elements are about to be freed (nft_rcv_nl_event), and nobody who waits for a container may do that.
    pub fn leave_open(self) {
        std::mem::forget(self.netlink);
    }

    /// Removes the tables.
    pub fn clear(&mut self) -> Result<()> {
        let table = &self.table;
        let mut requests = Vec::new();
        for family in [Family::Inet, Family::Bridge] {
            // Made first, so that removing it cannot fail.
            requests.push(message::make_table(family, table)?);
            requests.push(message::remove_table(family, table)?);
        }
        self.netlink.transaction(&requests).map_err(explain)
    }

    /// The tables with their chains, sets and rules, and no elements.
    fn rules(&self) -> Result<Vec<Request>> {
        use Family::{Bridge, Inet};
        let table = self.table.as_str();
        let mut all = Vec::new();
        for family in [Inet, Bridge] {
            all.push(message::make_table(family, table)?);
            all.push(message::remove_table(family, table)?);
            all.push(message::make_table(family, table)?);
        }
        for (at, set) in SETS.iter().chain([&LINKS]).enumerate() {
            all.push(message::make_set(table, set, at as u32 + 1)?);
        }
        // Priorities of linux/netfilter_ipv4.h and linux/netfilter_bridge.h, as nft(8) names them: raw -300,
        // dstnat -100, filter 0, srcnat 100; for bridges dstnat is -300.
        for (family, chain, kind, number, priority) in [
            (Bridge, "sources", "filter", 0, -300),
            (Inet, "loopback", "filter", 0, -300),
            (Inet, "prerouting", "nat", 0, -100),
            (Inet, "output", "nat", 3, -100),
            (Inet, "forward", "filter", 2, 0),
            (Inet, "postrouting", "nat", 4, 100),
            (Inet, "input", "filter", 1, LAST),
        ] {
            all.push(message::make_chain(family, table, chain, Some(&Hook { kind, number, priority }))?);
        }
        all.push(message::make_chain(Inet, table, "publish", None)?);
        let mut add = |family, chain: &str, rule: Rule| -> Result<()> {
            all.push(rule.append(family, table, chain)?);
            Ok(())
        };
        sources(&mut |rule| add(Bridge, "sources", rule))?;
        loopback(&mut |rule| add(Inet, "loopback", rule))?;
        gate(&mut |rule| add(Inet, "prerouting", rule))?;
        for chain in ["prerouting", "output"] {
            add(Inet, chain, Rule::new().for_the_host()?.verdict(Verdict::Jump("publish"))?)?;
        }
        admit(&mut |rule| add(Inet, "input", rule))?;
        publish(&mut |rule| add(Inet, "publish", rule))?;
        forward(&mut |rule| add(Inet, "forward", rule))?;
        postrouting(&mut |rule| add(Inet, "postrouting", rule))?;
        Ok(all)
    }
}

/// Registers of four bytes that a link's name takes.
const NAME: u32 = 4;

/// What comes from a container must have the addresses that it was given (on its own network a container could
/// else answer for any other, and take over what is meant for it).
fn sources(add: &mut dyn FnMut(Rule) -> Result<()>) -> Result<()> {
    // First what most frames are: each costs one search, where "is it ours" before it would make that two.
    let from = || Rule::new().meta(0, Meta::From);
    let ether = |kind: &[u8]| from()?.meta(NAME, Meta::Protocol)?.compare(NAME, true, kind);
    // Ethernet's source is at 6; IPv4's source at 12, IPv6's at 8; ARP's sender at 8 and 14.
    add(ether(&ETHER_IPV4)?
        .payload(NAME, Base::Link, 6, 6)?
        .payload(NAME + 2, Base::Network, 12, 4)?
        .among(0, "from4", true)?
        .verdict(Verdict::Accept)?)?;
    add(ether(&ETHER_IPV6)?
        .payload(NAME, Base::Link, 6, 6)?
        .payload(NAME + 2, Base::Network, 8, 16)?
        .among(0, "from6", true)?
        .verdict(Verdict::Accept)?)?;
    add(ether(&ETHER_ARP)?
        .payload(NAME, Base::Network, 8, 6)?
        .payload(NAME + 2, Base::Network, 14, 4)?
        .among(0, "from4", true)?
        .verdict(Verdict::Accept)?)?;
    add(from()?.among(0, LINKS.name, true)?.verdict(Verdict::Drop)?)
}

/// `route_localnet`, which lets the host reach published ports by 127.0.0.1, would also let containers reach
/// what listens there (CVE-2020-8558).
fn loopback(add: &mut dyn FnMut(Rule) -> Result<()>) -> Result<()> {
    add(Rule::new().meta(0, Meta::From)?.among(0, "bridges", false)?.verdict(Verdict::Accept)?)?;
    for offset in [16, 12] {
        add(Rule::new()
            .meta(0, Meta::Family)?
            .compare(0, true, &IPV4)?
            .payload(0, Base::Network, offset, 1)?
            .compare(0, true, &[127])?
            .verdict(Verdict::Drop)?)?;
    }
    Ok(())
}

/// After everybody else's chain for input.
const LAST: i32 = 32_000;

/// Where the host's firewall drops what it was not told to let in, a published port is no way around it: a client
/// goes to its rules for input first, as if a program of the host's listened there. What passes them comes to our
/// chain after them, which remembers client and port, and the client's next try is led on to the container.
fn gate(add: &mut dyn FnMut(Rule) -> Result<()>) -> Result<()> {
    let ours = Rule::new().meta(0, Meta::From)?.among(0, "bridges", true)?;
    add(ours.for_the_host()?.verdict(Verdict::Jump("publish"))?)?;
    for (family, set, source, words) in [(IPV4, "admitted4", 12, 1), (IPV6, "admitted6", 8, 4)] {
        add(client(&family, source, words)?
            .among(0, set, true)?
            .for_the_host()?
            .verdict(Verdict::Jump("publish"))?)?;
    }
    add(Rule::new().meta(0, Meta::Family)?.among(0, "gated", true)?.verdict(Verdict::Accept)?)
}

/// Loads the client's address, the protocol and the port.
fn client(family: &[u8], source: u32, words: u32) -> Result<Rule> {
    Rule::new()
        .meta(0, Meta::Family)?
        .compare(0, true, family)?
        .payload(0, Base::Network, source, words * 4)?
        .meta(words, Meta::Transport)?
        .payload(words + 1, Base::Transport, 2, 2)
}

fn admit(add: &mut dyn FnMut(Rule) -> Result<()>) -> Result<()> {
    add(Rule::new().known()?.verdict(Verdict::Accept)?)?;
    // What our own proxy serves, and what is no port of ours, goes on.
    for (family, set, ports, at, source, words) in
        [(IPV4, "admitted4", "ports4", "at4", 12, 1), (IPV6, "admitted6", "ports6", "at6", 8, 4)]
    {
        let gated = || Rule::new().meta(0, Meta::Family)?.among(0, "gated", true);
        let published_on_all = gated()?.meta(0, Meta::Transport)?.payload(1, Base::Transport, 2, 2)?;
        let destination = source + words * 4;
        let published_on_one = gated()?
            .meta(0, Meta::Family)?
            .compare(0, true, &family)?
            .payload(0, Base::Network, destination, words * 4)?
            .meta(words, Meta::Transport)?
            .payload(words + 1, Base::Transport, 2, 2)?;
        for published in [
            published_on_all.mapped(0, ports, 8)?.meta(0, Meta::Family)?.compare(0, true, &family)?,
            published_on_one.mapped(0, at, 8)?,
        ] {
            add(published
                .payload(0, Base::Network, source, words * 4)?
                .meta(words, Meta::Transport)?
                .payload(words + 1, Base::Transport, 2, 2)?
                .remember(0, set)?
                .verdict(Verdict::Drop)?)?;
        }
    }
    Ok(())
}

/// Published ports: first those on one address, then those on all.
fn publish(add: &mut dyn FnMut(Rule) -> Result<()>) -> Result<()> {
    for (family, ipv4, words, offset) in [(IPV4, true, 1, 16), (IPV6, false, 4, 24)] {
        let (at, ports) = if ipv4 { ("at4", "ports4") } else { ("at6", "ports6") };
        let packet = || {
            let packet = Rule::new().meta(0, Meta::Family)?.compare(0, true, &family)?;
            // What goes to ::1 never leaves the host, whatever its destination becomes: that is the proxy's.
            if ipv4 {
                Ok(packet)
            } else {
                packet.payload(0, Base::Network, 24, 16)?.compare(0, false, &LOCALHOST6)
            }
        };
        add(packet()?
            .payload(0, Base::Network, offset, words * 4)?
            .meta(words, Meta::Transport)?
            .payload(words + 1, Base::Transport, 2, 2)?
            .mapped(0, at, 0)?
            .redirect(ipv4, 0, words)?)?;
        add(packet()?
            .meta(0, Meta::Transport)?
            .payload(1, Base::Transport, 2, 2)?
            .mapped(0, ports, 0)?
            .redirect(ipv4, 0, words)?)?;
    }
    Ok(())
}

/// What may pass between networks, the host's and ours.
fn forward(add: &mut dyn FnMut(Rule) -> Result<()>) -> Result<()> {
    add(Rule::new().known()?.verdict(Verdict::Accept)?)?;
    add(Rule::new()
        .meta(0, Meta::From)?
        .meta(NAME, Meta::To)?
        .among(0, "loops", true)?
        .verdict(Verdict::Accept)?)?;
    for side in [Meta::From, Meta::To] {
        add(Rule::new().meta(0, side)?.among(0, "inside", true)?.verdict(Verdict::Drop)?)?;
    }
    let inward = || Rule::new().meta(0, Meta::To)?.among(0, "bridges", true);
    add(inward()?.redirected()?.verdict(Verdict::Accept)?)?;
    add(inward()?.verdict(Verdict::Drop)?)
}

/// Whose source becomes the host's.
fn postrouting(add: &mut dyn FnMut(Rule) -> Result<()>) -> Result<()> {
    let inward = || Rule::new().meta(0, Meta::To)?.among(0, "bridges", true);
    // The host's own, by 127.0.0.1, which means something else inside.
    add(inward()?
        .meta(0, Meta::Family)?
        .compare(0, true, &IPV4)?
        .payload(0, Base::Network, 12, 1)?
        .compare(0, true, &[127])?
        .masquerade()?)?;
    // A container that reaches itself by a published port: from its own address it would not believe it.
    for (family, set, offset, length) in [(IPV4, "selves4", 12, 4), (IPV6, "selves6", 8, 16)] {
        add(Rule::new()
            .redirected()?
            .meta(0, Meta::Family)?
            .compare(0, true, &family)?
            .payload(0, Base::Network, offset, length)?
            .payload(length / 4, Base::Network, offset + length, length)?
            .among(0, set, true)?
            .masquerade()?)?;
    }
    // One that reaches its neighbour by a published port: else the answer would go past us. (With br_netfilter
    // the kernel passes it on without routing it, and sees the answer.)
    add(Rule::new()
        .meta(0, Meta::From)?
        .meta(NAME, Meta::To)?
        .among(0, "loops", true)?
        .redirected()?
        .masquerade()?)?;
    add(Rule::new()
        .meta(0, Meta::From)?
        .among(0, "natted", true)?
        .meta(0, Meta::To)?
        .among(0, "bridges", false)?
        .masquerade()?)
}

/// Elements of the firewall's sets, for one transaction.
#[derive(Clone, Debug, Default)]
pub struct Elements(Vec<Element>);

impl Elements {
    /// Those of them that are not among the others.
    pub fn without(&self, others: &Elements) -> Elements {
        Elements(self.0.iter().filter(|element| !others.0.contains(element)).cloned().collect())
    }

    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, set: &'static str, family: Family, key: Vec<u8>, data: Vec<u8>) {
        self.0.push(Element { set, family, key, data });
    }

    fn gate(&mut self, families: &[u8]) {
        for family in families {
            self.push("gated", Family::Inet, vec![*family], Vec::new());
        }
    }

    /// What a network needs.
    pub fn network(&mut self, network: &Network) {
        if !network.has_bridge() {
            return;
        }
        let name = link_key(&network.link);
        self.push("bridges", Family::Inet, name.clone(), Vec::new());
        if network.internal {
            self.push("inside", Family::Inet, name.clone(), Vec::new());
        } else if network.masquerades() {
            self.push("natted", Family::Inet, name.clone(), Vec::new());
        }
        self.push("loops", Family::Inet, [name.clone(), name].concat(), Vec::new());
    }

    /// What a container on it needs.
    pub fn endpoint(&mut self, network: &Network, endpoint: &Endpoint) {
        if !network.has_bridge() {
            return;
        }
        // Each set's elements together: they go in one message.
        let Ok(mac) = parse_mac(&endpoint.mac) else { return };
        let link = link_key(&endpoint.host_link);
        let from = |address: &[u8]| [&link, &mac[..], &[0, 0], address].concat();
        self.push(LINKS.name, Family::Bridge, link.clone(), Vec::new());
        if let Some(address) = endpoint.ipv4 {
            self.push("from4", Family::Bridge, from(&address.octets()), Vec::new());
        }
        if let Some(address) = endpoint.ipv6 {
            // Beside its own: the address of the link that the kernel makes from the hardware's (RFC 4291,
            // appendix A), and none, with which it asks whether that is free.
            let [a, b, c, d, e, f] = mac;
            let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
            for address in [address.octets(), local, [0; 16]] {
                self.push("from6", Family::Bridge, from(&address), Vec::new());
            }
        }
        if !endpoint.ports.is_empty() {
            if let Some(address) = endpoint.ipv4 {
                self.push("selves4", Family::Inet, [address.octets(); 2].concat(), Vec::new());
            }
            if let Some(address) = endpoint.ipv6 {
                self.push("selves6", Family::Inet, [address.octets(); 2].concat(), Vec::new());
            }
        }
        let mut ports = Elements::default();
        for port in &endpoint.ports {
            ports.port(endpoint, port);
        }
        ports.0.sort_by_key(|element| element.set);
        self.0.append(&mut ports.0);
    }

    /// A published port of a container, as far as it is the firewall that publishes it.
    pub fn port(&mut self, endpoint: &Endpoint, port: &Published) {
        let target: IpAddr = match (port.address, endpoint.ipv4, endpoint.ipv6) {
            (IpAddr::V4(_), Some(address), _) => address.into(),
            (IpAddr::V6(_), _, Some(address)) => address.into(),
            _ => return,
        };
        let padded = |number: u16| [number.to_be_bytes().as_slice(), &[0, 0]].concat();
        let protocol = [protocol_number(port.protocol), 0, 0, 0];
        let data = [octets(target), padded(port.container_port)].concat();
        let (address, port) = (port.address, padded(port.port));
        let all = address.is_unspecified();
        let set = match (address.is_ipv4(), all) {
            (true, true) => "ports4",
            (true, false) => "at4",
            (false, true) => "ports6",
            (false, false) => "at6",
        };
        let address = if all { Vec::new() } else { octets(address) };
        self.push(set, Family::Inet, [&address, &protocol[..], &port].concat(), data);
    }
}

fn link_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn explain(err: Error) -> Error {
    match err.errno() {
        Some(Errno::NOENT) => err.with_kind(Kind::NotFound),
        Some(Errno::PERM) => err.with_kind(Kind::Permission).hint(
            "changing the firewall needs CAP_NET_ADMIN; without it use --network none or --network host",
        ),
        Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT) => err
            .with_kind(Kind::Unsupported)
            .hint("this kernel has no nf_tables for IP and bridges; use --network none or --network host"),
        _ => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_folder_has_a_table_of_its_own() {
        assert_eq!(table_name(Path::new("/var/lib/tare")), "tare");
        let other = table_name(Path::new("/var/tmp/x"));
        assert!(other.starts_with("tare-") && other.len() == 13, "{other}");
        assert_ne!(other, table_name(Path::new("/var/tmp/y")));
    }
}
