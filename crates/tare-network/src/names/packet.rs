//! One DNS message at a time (RFC 1035, RFC 6891): what is asked, and answers of our own making.
//!
//! Whatever comes from a container or from a name server is hostile. The `domain` crate reads it in place: a
//! compression pointer can only lead backwards, a name has at most 255 bytes, and nothing is allocated for
//! what a packet merely claims to hold.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, MessageBuilder, StaticCompressor};
use domain::base::name::{Label, Name, ToLabelIter};
use domain::base::{Message, Ttl};
use domain::rdata::{A, Aaaa, Ptr};

/// What a message over TCP can hold.
pub const LARGEST: usize = u16::MAX as usize;
/// What every client takes over UDP (RFC 1035, 4.2.1).
const SMALLEST: u16 = 512;
/// What we say that we take over UDP.
pub const DATAGRAM: u16 = 4096;
/// How long a client may remember a name of ours. Asking again costs it next to nothing, and an address that
/// it should have forgotten costs it a connection.
const TTL: Ttl = Ttl::from_secs(10);

/// What a client wants to know.
#[derive(Debug)]
pub struct Query<'a> {
    message: Message<&'a [u8]>,
    /// The question.
    pub asked: Asked,
    /// The largest answer that it takes over UDP.
    pub room: u16,
    /// It speaks EDNS, so an answer may.
    edns: bool,
}

/// A question that may be about one of our names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What a name stands for, in lower case and without the last dot.
    Name(String, Wanted),
    /// The name of an address.
    Address(IpAddr),
    /// Neither: not ours to answer.
    Other,
}

/// Which records of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
    /// All that there is.
    All,
    /// Records of a kind that our names do not have.
    None,
}

/// What we say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name is there; these are its addresses of the wanted kind, perhaps none.
    Addresses(Vec<IpAddr>),
    /// The address is this one's.
    Pointer(String),
    /// Nobody can be asked.
    Failed,
}

/// Why a message is no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoQuery {
    /// Not even worth an answer: too short, or an answer itself, which would be answered for ever.
    Ignored,
    /// This is to be sent back.
    Answered(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Reads a query.
    pub fn read(bytes: &'a [u8]) -> Result<Query<'a>, NoQuery> {
        let message = Message::from_octets(bytes).map_err(|_| NoQuery::Ignored)?;
        let header = message.header();
        if header.qr() {
            return Err(NoQuery::Ignored);
        }
        let refuse = |rcode| NoQuery::Answered(bare(&message, rcode));
        if header.opcode() != Opcode::QUERY {
            return Err(refuse(Rcode::NOTIMP));
        }
        let question = message.sole_question().map_err(|_| refuse(Rcode::FORMERR))?;
        let kind = question.qtype();
        if matches!(kind, Rtype::AXFR | Rtype::IXFR) {
            return Err(refuse(Rcode::REFUSED));
        }
        let opt = message.opt();
        let room = opt.as_ref().map_or(SMALLEST, |opt| opt.udp_payload_size().clamp(SMALLEST, DATAGRAM));
        let asked = match (question.qclass(), text(question.qname().iter_labels())) {
            (Class::IN, Some(name)) if kind == Rtype::PTR => {
                address(&name).map_or(Asked::Name(name, Wanted::None), Asked::Address)
            }
            (Class::IN, Some(name)) => Asked::Name(
                name,
                match kind {
                    Rtype::A => Wanted::V4,
                    Rtype::AAAA => Wanted::V6,
                    Rtype::ANY => Wanted::All,
                    _ => Wanted::None,
                },
            ),
            _ => Asked::Other,
        };
        Ok(Query { message, asked, room, edns: opt.is_some() })
    }

    /// The answer in bytes. What does not fit into `room` is left out, and the client told to ask by TCP.
    pub fn answer(&self, answer: &Answer, room: usize) -> Vec<u8> {
        let rcode = match answer {
            Answer::Failed => Rcode::SERVFAIL,
            _ => Rcode::NOERROR,
        };
        self.build(answer, rcode, room).unwrap_or_else(|| bare(&self.message, Rcode::SERVFAIL))
    }

    fn build(&self, answer: &Answer, rcode: Rcode, room: usize) -> Option<Vec<u8>> {
        let mut builder = MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(128))).ok()?;
        // An OPT record of ours has 11 bytes.
        builder.set_push_limit(room.min(LARGEST).saturating_sub(if self.edns { 11 } else { 0 }));
        let mut builder = builder.start_answer(&self.message, rcode).ok()?;
        builder.header_mut().set_ra(true);
        let own = matches!(answer, Answer::Addresses(_) | Answer::Pointer(_));
        builder.header_mut().set_aa(own);
        let question = self.message.sole_question().ok()?;
        let name = question.qname();
        let pushed = match answer {
            Answer::Addresses(addresses) => addresses.iter().try_for_each(|address| match address {
                IpAddr::V4(v4) => builder.push((name, TTL, A::new(*v4))),
                IpAddr::V6(v6) => builder.push((name, TTL, Aaaa::new(*v6))),
            }),
            Answer::Pointer(host) => match host.parse::<Name<Vec<u8>>>() {
                Ok(host) => builder.push((name, TTL, Ptr::new(host))),
                // A container may be called what no message can hold: by more than 63 letters, or with two dots in a row.
                Err(_) => Ok(()),
            },
            Answer::Failed => Ok(()),
        };
        if pushed.is_err() {
            builder.header_mut().set_tc(true);
        }
        let mut builder: AdditionalBuilder<_> = builder.additional();
        builder.clear_push_limit();
        if self.edns {
            builder
                .opt(|opt| {
                    opt.set_udp_payload_size(DATAGRAM);
                    Ok(())
                })
                .ok()?;
        }
        Some(builder.finish().into_target())
    }
}

/// A header and, where it can be read, the question: an answer that says no more than its code.
fn bare(query: &Message<&[u8]>, rcode: Rcode) -> Vec<u8> {
    let Ok(builder) = MessageBuilder::from_target(Vec::with_capacity(64));
    let mut builder = builder.start_error(query, rcode);
    builder.header_mut().set_ra(true);
    builder.finish()
}

/// The name in lower case; `None` where it holds what none of ours can, such as a dot within a label.
fn text<'l>(labels: impl Iterator<Item = &'l Label>) -> Option<String> {
    let mut text = String::new();
    for label in labels.filter(|label| !label.is_root()) {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label.iter() {
            if !matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_') {
                return None;
            }
            text.push(byte.to_ascii_lowercase().into());
        }
    }
    Some(text)
}

/// The address in `4.3.2.1.in-addr.arpa` or `….ip6.arpa` (RFC 1035, 3.5; RFC 3596, 2.5).
fn address(name: &str) -> Option<IpAddr> {
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let mut bytes = [0u8; 4];
        let mut parts = reversed.split('.');
        for byte in bytes.iter_mut().rev() {
            *byte = parts.next().filter(|part| part.len() <= 3)?.parse().ok()?;
        }
        return parts.next().is_none().then(|| IpAddr::from(bytes));
    }
    let reversed = name.strip_suffix(".ip6.arpa")?;
    let mut bytes = [0u8; 16];
    let mut parts = reversed.split('.');
    let mut nibble = || {
        let part = parts.next().filter(|part| part.len() == 1)?;
        u8::from_str_radix(part, 16).ok()
    };
    for byte in bytes.iter_mut().rev() {
        *byte = nibble()? | (nibble()? << 4);
    }
    parts.next().is_none().then(|| IpAddr::from(bytes))
}

/// The number that ties an answer to its query.
pub fn id(message: &[u8]) -> Option<u16> {
    message.first_chunk().map(|id| u16::from_be_bytes(*id))
}

/// Writes that number.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(bytes) = message.first_chunk_mut() {
        *bytes = id.to_be_bytes();
    }
}

/// Whether a message is the answer to this query: its number, and its question letter by letter but for case.
pub fn answers(message: &[u8], query: &[u8]) -> bool {
    match (Message::from_octets(message), Message::from_octets(query)) {
        (Ok(message), Ok(query)) => message.is_answer(&query),
        _ => false,
    }
}

/// Whether the server could not or would not say: reason enough to ask another.
pub fn declined(message: &[u8]) -> bool {
    Message::from_octets(message).is_ok_and(|message| {
        matches!(message.header().rcode(), Rcode::SERVFAIL | Rcode::REFUSED | Rcode::NOTIMP)
    })
}

/// Says that the rest of an answer is to be had by TCP, and cuts it down to its question.
pub fn truncated(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_octets(query).ok()?;
    let mut answer = bare(&message, Rcode::NOERROR);
    // The flag TC (RFC 1035, 4.1.1).
    *answer.get_mut(2)? |= 0x02;
    Some(answer)
}

#[cfg(test)]
mod tests;
