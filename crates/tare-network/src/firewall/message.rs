//! nf_tables in netlink messages: tables, chains, sets, their elements, and rules made of expressions
//! (linux/netfilter/nf_tables.h). Numbers are in network order, except what is in a register.

use tare_sys::Result;
use tare_sys::netlink::{Body, Netlink, Request, attributes, flag};

/// A family of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// Frames on a bridge.
    Bridge = 7,
}

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
/// The subsystem of nf_tables, in the upper byte of a message's kind.
const SUBSYSTEM: u16 = 10 << 8;
/// `NLA_F_NESTED`: the value is attributes.
const NESTED: u16 = 0x8000;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// Elements that surely fit into an attribute's 64 KiB.
const ELEMENTS: usize = 400;

/// The type of a key's part, as nft(8) knows it (libnftables, `enum datatypes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `ipv4_addr`.
    Ipv4 = 7,
    /// `ipv6_addr`.
    Ipv6 = 8,
    /// `ether_addr`.
    Ether = 9,
    /// `inet_proto`.
    Protocol = 12,
    /// `inet_service`.
    Port = 13,
    /// `ifname`.
    Link = 41,
    /// `nf_proto`.
    Family = 2,
}

impl Type {
    fn length(self) -> u32 {
        match self {
            Type::Ipv4 | Type::Protocol | Type::Port | Type::Family => 4,
            Type::Ether => 8,
            Type::Ipv6 | Type::Link => 16,
        }
    }
}

/// A set, or with `data` a map.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Its table's family.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
    /// What its keys are made of.
    pub key: &'static [Type],
    /// What they are mapped to.
    pub data: &'static [Type],
    /// Rules add to it, and after so many milliseconds an element goes again; 0: neither.
    pub timeout: u64,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The set's place among [`SETS`](super::SETS).
    pub set: &'static str,
    /// Its family.
    pub family: Family,
    /// The key, each part filled up to four bytes.
    pub key: Vec<u8>,
    /// What it is mapped to; empty for a set.
    pub data: Vec<u8>,
}

fn header(family: Family) -> Body {
    // `struct nfgenmsg`: version 0, no resource.
    Body::new(&[family as u8, 0, 0, 0])
}

fn request(kind: u16, flags: u16, body: Body, what: String) -> Request {
    Request { kind: SUBSYSTEM | kind, flags, body, what }
}

fn number(body: Body, kind: u16, value: u32) -> Result<Body> {
    body.attribute(kind, &value.to_be_bytes())
}

/// Makes a table, or leaves the one that is there.
pub fn make_table(family: Family, table: &str) -> Result<Request> {
    let body = header(family).string(1, table)?;
    Ok(request(NEWTABLE, flag::CREATE, body, format!("make the firewall's table {table}")))
}

/// Removes a table and all that is in it.
pub fn remove_table(family: Family, table: &str) -> Result<Request> {
    let body = header(family).string(1, table)?;
    Ok(request(DELTABLE, 0, body, format!("remove the firewall's table {table}")))
}

/// A chain that hangs on a hook of the kernel's.
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Number of the hook (linux/netfilter.h): prerouting 0, input 1, forward 2, output 3, postrouting 4.
    pub number: u32,
    /// Who is asked first.
    pub priority: i32,
}

/// Makes a chain; without a hook it is only jumped to.
pub fn make_chain(family: Family, table: &str, chain: &str, hook: Option<&Hook>) -> Result<Request> {
    let mut body = header(family).string(1, table)?.string(3, chain)?;
    if let Some(hook) = hook {
        let place = number(number(Body::new(&[]), 1, hook.number)?, 2, hook.priority as u32)?;
        body = body.attribute(4 | NESTED, place.as_bytes())?.string(7, hook.kind)?;
    }
    Ok(request(NEWCHAIN, flag::CREATE, body, format!("make the firewall's chain {chain}")))
}

/// nft(8) shows a key of several parts by a number made of theirs, six bits each.
fn types(parts: &[Type]) -> (u32, u32) {
    let kind = parts.iter().fold(0, |all, part| all << 6 | *part as u32);
    (kind, parts.iter().map(|part| part.length()).sum())
}

/// Makes a set or a map.
pub fn make_set(table: &str, set: &Set, id: u32) -> Result<Request> {
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const CONCAT: u32 = 0x80;
    let (key, length) = types(set.key);
    // The key's exact length: of a single port or protocol only the bytes that there are.
    let length = match set.key {
        [Type::Ether] => 6,
        [Type::Family] => 1,
        _ => length,
    };
    let mut flags = 0;
    if !set.data.is_empty() {
        flags |= MAP;
    }
    if set.key.len() > 1 {
        flags |= CONCAT;
    }
    if set.timeout != 0 {
        flags |= TIMEOUT | EVAL;
    }
    let mut body = header(set.family).string(1, table)?.string(2, set.name)?;
    body = number(body, 3, flags)?;
    body = number(body, 4, key)?;
    body = number(body, 5, length)?;
    if !set.data.is_empty() {
        let (data, length) = types(set.data);
        body = number(number(body, 6, data)?, 7, length)?;
    }
    if set.key.len() > 1 {
        // NFTA_SET_DESC_CONCAT: the length of each part (NFTA_SET_FIELD_LEN).
        let mut parts = Body::new(&[]);
        for part in set.key {
            let field = number(Body::new(&[]), 1, part.length())?;
            parts = parts.attribute(LIST_ELEM | NESTED, field.as_bytes())?;
        }
        let description = Body::new(&[]).attribute(2 | NESTED, parts.as_bytes())?;
        body = body.attribute(9 | NESTED, description.as_bytes())?;
    }
    body = number(body, 10, id)?;
    if set.timeout != 0 {
        body = body.attribute(11, &set.timeout.to_be_bytes())?;
    }
    if let [Type::Link] = set.key {
        // For nft(8), which else takes the name for a number and shows nothing: the byte order is the host's
        // (libnftnl, NFTNL_UDATA_SET_KEYBYTEORDER).
        body = body.attribute(13, &[&[0, 4][..], &1_u32.to_ne_bytes()].concat())?;
    }
    Ok(request(NEWSET, flag::CREATE, body, format!("make the firewall's set {}", set.name)))
}

/// Adds elements, which are sorted by set; one that is there with the same data is no error.
pub fn add_elements(table: &str, elements: &[Element]) -> Result<Vec<Request>> {
    change_elements(table, elements, NEWSETELEM, flag::CREATE)
}

/// Removes elements; one that is not there is an error.
pub fn remove_elements(table: &str, elements: &[Element]) -> Result<Vec<Request>> {
    change_elements(table, elements, DELSETELEM, 0)
}

fn change_elements(table: &str, elements: &[Element], kind: u16, flags: u16) -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    for of_one_set in elements.chunk_by(|a, b| (a.family, a.set) == (b.family, b.set)) {
        for some in of_one_set.chunks(ELEMENTS) {
            let Some(first) = some.first() else { continue };
            let mut list = Body::new(&[]);
            for element in some {
                let key = Body::new(&[]).attribute(DATA_VALUE, &element.key)?;
                let mut one = Body::new(&[]).attribute(1 | NESTED, key.as_bytes())?;
                if !element.data.is_empty() {
                    let data = Body::new(&[]).attribute(DATA_VALUE, &element.data)?;
                    one = one.attribute(2 | NESTED, data.as_bytes())?;
                }
                list = list.attribute(LIST_ELEM | NESTED, one.as_bytes())?;
            }
            let body = header(first.family)
                .string(1, table)?
                .string(2, first.set)?
                .attribute(3 | NESTED, list.as_bytes())?;
            let what = format!("change the firewall's set {} of table {table}", first.set);
            requests.push(request(kind, flags, body, what));
        }
    }
    Ok(requests)
}

/// The elements of a set whose keys are one byte.
pub fn bytes_in(netlink: &mut Netlink, table: &str, set: &str) -> Result<Vec<u8>> {
    let body = header(Family::Inet).string(1, table)?.string(2, set)?;
    let what = format!("list the firewall's set {set}");
    let answers = netlink.ask(SUBSYSTEM | GETSETELEM, flag::DUMP, &body, &what)?;
    let mut found = Vec::new();
    for answer in &answers {
        let Some((_, list)) = answer.attributes(4).find(|(kind, _)| *kind == 3) else { continue };
        for (_, element) in attributes(list) {
            let key = inside(element, 1).and_then(|key| inside(key, DATA_VALUE));
            found.extend(key.and_then(|key| key.first().copied()));
        }
    }
    Ok(found)
}

/// A rule in the making: expressions that are gone through in order until one does not hold.
#[derive(Debug, Default)]
pub struct Rule(Body);

/// The first of the registers of four bytes; those after it follow.
const REGISTER: u32 = 8;

/// What a rule can look at (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// Ethernet's type of the payload.
    Protocol = 1,
    /// Name of the link that it came by.
    From = 6,
    /// Name of the link that it goes out by.
    To = 7,
    /// Family of the packet: 2 for IPv4, 10 for IPv6.
    Family = 15,
    /// Protocol on top of IP.
    Transport = 16,
}

/// Where a field of a packet is counted from (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// The frame.
    Link = 0,
    /// The header of IP.
    Network = 1,
    /// The header of TCP, UDP or SCTP.
    Transport = 2,
}

impl Rule {
    /// A rule that holds for everything.
    pub fn new() -> Rule {
        Rule::default()
    }

    fn expression(self, name: &str, data: Body) -> Result<Rule> {
        let one = Body::new(&[]).string(1, name)?.attribute(2 | NESTED, data.as_bytes())?;
        Ok(Rule(self.0.attribute(LIST_ELEM | NESTED, one.as_bytes())?))
    }

    /// Loads what is known of the packet; `at` counts registers of four bytes.
    pub fn meta(self, at: u32, meta: Meta) -> Result<Rule> {
        let data = number(number(Body::new(&[]), 1, REGISTER + at)?, 2, meta as u32)?;
        self.expression("meta", data)
    }

    /// Loads a field of the packet.
    pub fn payload(self, at: u32, base: Base, offset: u32, length: u32) -> Result<Rule> {
        let data = number(number(Body::new(&[]), 1, REGISTER + at)?, 2, base as u32)?;
        self.expression("payload", number(number(data, 3, offset)?, 4, length)?)
    }

    /// Goes on if the register is (or is not) this.
    pub fn compare(self, at: u32, equal: bool, value: &[u8]) -> Result<Rule> {
        let value = Body::new(&[]).attribute(DATA_VALUE, value)?;
        let data = number(number(Body::new(&[]), 1, REGISTER + at)?, 2, u32::from(!equal))?;
        self.expression("cmp", data.attribute(3 | NESTED, value.as_bytes())?)
    }

    /// Goes on if the bits under the mask are (or are not) all zero.
    pub fn bits(self, at: u32, mask: &[u8], zero: bool) -> Result<Rule> {
        let zeros = vec![0; mask.len()];
        self.masked(at, mask)?.compare(at, zero, &zeros)
    }

    /// Keeps only the bits under the mask.
    pub fn masked(self, at: u32, mask: &[u8]) -> Result<Rule> {
        let zeros = vec![0; mask.len()];
        let value = |bytes: &[u8]| Body::new(&[]).attribute(DATA_VALUE, bytes);
        let data = number(number(Body::new(&[]), 1, REGISTER + at)?, 2, REGISTER + at)?;
        let data = number(data, 3, mask.len() as u32)?
            .attribute(4 | NESTED, value(mask)?.as_bytes())?
            .attribute(5 | NESTED, value(&zeros)?.as_bytes())?;
        self.expression("bitwise", data)
    }

    /// Goes on if the registers from here on are (or are not) a key of the set.
    pub fn among(self, at: u32, set: &str, inside: bool) -> Result<Rule> {
        let data = number(Body::new(&[]).string(1, set)?, 2, REGISTER + at)?;
        self.expression("lookup", number(data, 5, u32::from(!inside))?)
    }

    /// Adds the registers from here on to the set, or makes them last longer there.
    pub fn remember(self, at: u32, set: &str) -> Result<Rule> {
        const UPDATE: u32 = 1;
        let data = number(Body::new(&[]).string(1, set)?, 3, UPDATE)?;
        self.expression("dynset", number(data, 4, REGISTER + at)?)
    }

    /// Goes on if they are a key of the map, with what that is mapped to in the registers from `to` on.
    pub fn mapped(self, at: u32, map: &str, to: u32) -> Result<Rule> {
        let data = number(Body::new(&[]).string(1, map)?, 2, REGISTER + at)?;
        self.expression("lookup", number(data, 3, REGISTER + to)?)
    }

    /// Goes on if the packet's destination is an address of the host's own.
    pub fn for_the_host(self) -> Result<Rule> {
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        /// `RTN_LOCAL` of linux/rtnetlink.h.
        const LOCAL: u32 = 2;
        let data = number(number(Body::new(&[]), 1, REGISTER)?, 2, ADDRESS_TYPE)?;
        self.expression("fib", number(data, 3, DESTINATION)?)?.compare(0, true, &LOCAL.to_ne_bytes())
    }

    /// Goes on if the packet belongs to a connection that is known, or is related to one.
    pub fn known(self) -> Result<Rule> {
        const STATE: u32 = 0;
        /// Established and related (`NF_CT_STATE_BIT`).
        const KNOWN: u32 = 2 | 4;
        let data = number(number(Body::new(&[]), 1, REGISTER)?, 2, STATE)?;
        self.expression("ct", data)?.bits(0, &KNOWN.to_ne_bytes(), false)
    }

    /// Goes on if the packet's connection had its destination changed.
    pub fn redirected(self) -> Result<Rule> {
        const STATUS: u32 = 2;
        /// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
        const DST_NAT: u32 = 1 << 5;
        let data = number(number(Body::new(&[]), 1, REGISTER)?, 2, STATUS)?;
        self.expression("ct", data)?.bits(0, &DST_NAT.to_ne_bytes(), false)
    }

    /// Sends it to the address in the registers from `address` on and the port in `port`.
    pub fn redirect(self, ipv4: bool, address: u32, port: u32) -> Result<Rule> {
        const DNAT: u32 = 1;
        let family = if ipv4 { 2 } else { 10 };
        let data = number(number(Body::new(&[]), 1, DNAT)?, 2, family)?;
        self.expression("nat", number(number(data, 3, REGISTER + address)?, 5, REGISTER + port)?)
    }

    /// Gives it the host's address as its source.
    pub fn masquerade(self) -> Result<Rule> {
        self.expression("masq", Body::new(&[]))
    }

    /// Goes on if the packet belongs to a socket of ours that is bound to a foreign address.
    pub fn for_transparent_socket(self) -> Result<Rule> {
        const TRANSPARENT: u32 = 0;
        let data = number(number(Body::new(&[]), 1, TRANSPARENT)?, 2, REGISTER)?;
        self.expression("socket", data)?.compare(0, true, &[1])
    }

    /// Marks the packet.
    pub fn mark(self, mark: u32) -> Result<Rule> {
        /// `NFT_META_MARK`.
        const MARK: u32 = 3;
        let value = Body::new(&[]).attribute(DATA_VALUE, &mark.to_ne_bytes())?;
        let data = number(Body::new(&[]), 1, REGISTER)?.attribute(2 | NESTED, value.as_bytes())?;
        let rule = self.expression("immediate", data)?;
        let data = number(number(Body::new(&[]), 2, MARK)?, 3, REGISTER)?;
        rule.expression("meta", data)
    }

    /// Ends with a verdict.
    pub fn verdict(self, verdict: Verdict) -> Result<Rule> {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            // NFT_JUMP
            Verdict::Jump(chain) => (-3, Some(chain)),
        };
        let mut verdict = number(Body::new(&[]), 1, i32::cast_unsigned(code))?;
        if let Some(chain) = chain {
            verdict = verdict.string(2, chain)?;
        }
        let value = Body::new(&[]).attribute(DATA_VERDICT | NESTED, verdict.as_bytes())?;
        // Register 0 is the verdict's.
        let data = number(Body::new(&[]), 1, 0)?.attribute(2 | NESTED, value.as_bytes())?;
        self.expression("immediate", data)
    }

    /// Appends it to a chain.
    pub fn append(self, family: Family, table: &str, chain: &str) -> Result<Request> {
        let body =
            header(family).string(1, table)?.string(2, chain)?.attribute(4 | NESTED, self.0.as_bytes())?;
        let what = format!("add a rule to the firewall's chain {chain}");
        Ok(request(NEWRULE, flag::CREATE | flag::APPEND, body, what))
    }
}

/// A chain of anybody's that hangs on a hook, as far as it matters whether it drops what nobody allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its table's family: 1 for both, 2 for IPv4, 10 for IPv6.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Number of the hook.
    pub hook: u32,
    /// It drops what none of its rules accepts.
    pub drops: bool,
}

/// All chains for IP that hang on a hook and filter.
pub fn chains(netlink: &mut Netlink) -> Result<Vec<Foreign>> {
    let answers =
        netlink.ask(SUBSYSTEM | GETCHAIN, flag::DUMP, &Body::new(&[0; 4]), "list the firewall's chains")?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let big = |value: &[u8]| value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let mut found = Vec::new();
    for answer in &answers {
        let Some([family @ (1 | 2 | 10), ..]) = answer.header::<4>().copied() else { continue };
        let mut chain =
            Foreign { family, table: String::new(), name: String::new(), hook: u32::MAX, drops: false };
        let mut filters = false;
        for (kind, value) in answer.attributes(4) {
            match kind {
                1 => chain.table = text(value),
                3 => chain.name = text(value),
                4 => {
                    let number = attributes(value).find(|(kind, _)| *kind == 1);
                    chain.hook = number.and_then(|(_, number)| big(number)).unwrap_or(u32::MAX);
                }
                5 => chain.drops = big(value) == Some(0),
                7 => filters = text(value) == "filter",
                _ => {}
            }
        }
        if filters && chain.hook != u32::MAX {
            found.push(chain);
        }
    }
    Ok(found)
}

/// A chain has a rule without a condition that drops or rejects: what none before it accepts is not let in.
pub fn ends_all(netlink: &mut Netlink, chain: &Foreign) -> Result<bool> {
    let body = Body::new(&[chain.family, 0, 0, 0]).string(1, &chain.table)?.string(2, &chain.name)?;
    let what = format!("list the rules of the firewall's chain {}", chain.name);
    let answers = netlink.ask(SUBSYSTEM | GETRULE, flag::DUMP, &body, &what)?;
    let expressions = |value| attributes(value).filter(|(kind, _)| *kind == LIST_ELEM).map(|(_, one)| one);
    Ok(answers.iter().any(|answer| {
        let rule = answer.attributes(4).find(|(kind, _)| *kind == 4);
        rule.is_some_and(|(_, rule)| {
            let others = |one: &&[u8]| !matches!(name_of(one), "counter" | "log");
            expressions(rule).find(others).is_some_and(drops)
        })
    }))
}

/// The value of an attribute among others.
fn inside(value: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn name_of(expression: &[u8]) -> &str {
    let text = |value| std::str::from_utf8(value).unwrap_or_default().trim_end_matches('\0');
    inside(expression, 1).map_or("", text)
}

/// The expression is an end of the packet: `drop`, `reject`, or iptables' REJECT.
fn drops(expression: &[u8]) -> bool {
    const IMMEDIATE_DATA: u16 = 2;
    const VERDICT_CODE: u16 = 1;
    let data = inside(expression, 2).unwrap_or_default();
    match name_of(expression) {
        "reject" => true,
        "target" => name_of(data) == "REJECT",
        "immediate" => {
            let verdict = inside(data, IMMEDIATE_DATA).and_then(|data| inside(data, DATA_VERDICT));
            verdict.and_then(|verdict| inside(verdict, VERDICT_CODE)) == Some(&[0; 4])
        }
        _ => false,
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// It is gone.
    Drop,
    /// This table has nothing against it; others may.
    Accept,
    /// Another chain decides; if that does not, it goes on here.
    Jump(&'static str),
}
