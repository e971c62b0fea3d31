//! netlink(7): asking the kernel about network links and addresses, and changing them (rtnetlink(7)); and its
//! firewall, by transactions (nf_tables).
//!
//! Only the envelope: messages, attributes, answers and their errors. What they mean is the caller's to know.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Context, Error, Kind, Result};
use crate::process::check;

/// The kinds of message (linux/rtnetlink.h).
pub mod kind {
    /// Make or change a link.
    pub const NEWLINK: u16 = 16;
    /// Remove a link.
    pub const DELLINK: u16 = 17;
    /// Ask for a link.
    pub const GETLINK: u16 = 18;
    /// Add an address.
    pub const NEWADDR: u16 = 20;
    /// Ask for addresses.
    pub const GETADDR: u16 = 22;
    /// Add a route.
    pub const NEWROUTE: u16 = 24;
    /// Ask for routes.
    pub const GETROUTE: u16 = 26;
}

/// What is asked of a message (linux/netlink.h).
pub mod flag {
    /// All of them, not one.
    pub const DUMP: u16 = 0x300;
    /// Take the place of what is there.
    pub const REPLACE: u16 = 0x100;
    /// Must not be there yet.
    pub const EXCL: u16 = 0x200;
    /// Make it.
    pub const CREATE: u16 = 0x400;
    /// Add it at the end.
    pub const APPEND: u16 = 0x800;
}

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP_INTERRUPTED: u16 = 0x10;
const ACK_CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel never sends more in one datagram (net/netlink/af_netlink.c: 32 KiB).
const BUFFER: usize = 64 * 1024;

/// What fits into a socket's buffer without asking for more.
const SMALL: usize = 64 * 1024;

/// Rounds up to the four bytes that everything in netlink starts at.
fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// The body of a message: a header that its kind prescribes, then attributes.
#[derive(Clone, Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// Starts with the header of the kind: `struct ifinfomsg`, `struct ifaddrmsg`.
    pub fn new(header: &[u8]) -> Body {
        let mut body = header.to_vec();
        body.resize(align(header.len()), 0);
        Body(body)
    }

    /// Adds an attribute. Its length is a u16 on the wire: what does not fit is refused, never cut off
    /// (CVE-2021-43784).
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Result<Body> {
        let length = u16::try_from(value.len() + 4).map_err(|_| {
            Error::new(Kind::Usage, format!("netlink attribute {kind} of {} bytes", value.len()))
        })?;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(align(self.0.len()), 0);
        Ok(self)
    }

    /// The bytes, for a body that is the value of an attribute itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds an attribute that is a string.
    pub fn string(self, kind: u16, value: &str) -> Result<Body> {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat())
    }
}

/// One of several requests that go out together.
#[derive(Clone, Debug)]
pub struct Request {
    /// Kind of message.
    pub kind: u16,
    /// What is asked of it; see [`flag`].
    pub flags: u16,
    /// The rest.
    pub body: Body,
    /// Names it in errors.
    pub what: String,
}

/// One message of an answer: the header of its kind, and attributes.
#[derive(Clone, Debug)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// The first `N` bytes, where the header of the kind is.
    pub fn header<const N: usize>(&self) -> Option<&[u8; N]> {
        self.0.first_chunk()
    }

    /// The attributes after a header of this length.
    pub fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.0.get(align(header)..).unwrap_or_default())
    }
}

/// Reads attributes until the end, or until one that is cut off.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The two highest bits say how the value is built, not which attribute it is.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let (length, kind) = (word(rest, 0)?, word(rest, 2)?);
        let value = rest.get(4..usize::from(length))?;
        rest = rest.get(align(usize::from(length))..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A socket to the kernel's routing and links, in the network namespace where it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    /// What is received; its pages are only there once something large was.
    buffer: Vec<u8>,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netlink {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> Result<Netlink> {
        // Protocol 0 is NETLINK_ROUTE.
        Netlink::open_protocol(None, "NETLINK_ROUTE")
    }

    /// Opens one to the firewall, in the calling thread's network namespace.
    pub fn open_firewall() -> Result<Netlink> {
        Netlink::open_protocol(Some(rustix::net::netlink::NETFILTER), "NETLINK_NETFILTER")
    }

    /// Opens one that is told what anybody changes in the firewall: tables, chains and rules, but not elements of sets,
    /// which come and go with every container. To be read by [`drain`](Netlink::drain).
    pub fn watch_firewall() -> Result<Netlink> {
        let netlink = Netlink::open_firewall()?;
        // Numbers of linux/filter.h and linux/netfilter/nf_tables.h. A message's kind is at 4, in the order of this
        // machine, while a filter loads in network order. Several in a row are told by their first.
        let is = |kind: u16, jump: u8| libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: jump,
            jf: 0,
            k: u16::from_be_bytes((10 << 8 | kind).to_ne_bytes()).into(),
        };
        let plain = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let (new_element, removed_element, new_generation) = (12, 14, 15);
        let mut filter = [
            plain(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 4),
            is(new_element, 3),
            is(removed_element, 2),
            is(new_generation, 1),
            plain(libc::BPF_RET | libc::BPF_K, u32::MAX),
            plain(libc::BPF_RET | libc::BPF_K, 0),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the option takes a program, which is as long as it says and outlives the call, as its filter does.
        let result = unsafe {
            libc::setsockopt(
                netlink.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        check(result.into()).doing(|| "setsockopt(SO_ATTACH_FILTER)")?;
        /// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h, 7, as a bit.
        const GROUP: u32 = 1 << 6;
        // Bound, it has a number: one without is passed over as if it had done the change itself.
        rustix::net::bind(&netlink.socket, &SocketAddrNetlink::new(0, GROUP)).doing(|| "bind(netlink)")?;
        Ok(netlink)
    }

    /// Throws away what has come, without waiting.
    pub fn drain(&self) {
        let mut buffer = [0; 64];
        loop {
            match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                // More has come than was kept.
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn open_protocol(protocol: Option<rustix::net::Protocol>, name: &str) -> Result<Netlink> {
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .doing(|| format!("socket(AF_NETLINK, SOCK_RAW, {name})"))?;
        // The kernel then says in words what it did not like.
        const NETLINK_EXT_ACK: libc::c_int = 11;
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, which `on` is and which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                NETLINK_EXT_ACK,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        check(result.into()).doing(|| "setsockopt(NETLINK_EXT_ACK)")?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends one request and reads its whole answer. `what` names it in errors.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &Body, what: &str) -> Result<Vec<Answer>> {
        // A listing during which something changed is told apart, and asked for again.
        for _ in 0..16 {
            if let Some(answers) = self.try_ask(kind, flags, body, what)? {
                return Ok(answers);
            }
        }
        Err(Error::new(Kind::Conflict, format!("{what}: it kept changing while it was read")))
    }

    /// Sends several requests at once; the first refusal is the error. Those before it, and those of another kind
    /// after it, may have been granted: the kernel takes them one by one.
    pub fn ask_all(&mut self, requests: &[Request]) -> Result<()> {
        let first = self.sequence + 1;
        let mut message = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            self.append(
                &mut message,
                request.kind,
                request.flags | REQUEST | last(at, requests),
                &request.body,
            );
        }
        self.send_all(&message, requests, first, self.sequence)
    }

    /// Sends requests to nf_tables as one transaction: all are granted, or none.
    pub fn transaction(&mut self, requests: &[Request]) -> Result<()> {
        const BATCH_BEGIN: u16 = 16;
        const BATCH_END: u16 = 17;
        /// `struct nfgenmsg` with the subsystem of nf_tables, 10, in network order.
        const SUBSYSTEM: [u8; 4] = [0, 0, 0, 10];
        let mut message = Vec::new();
        self.append(&mut message, BATCH_BEGIN, REQUEST, &Body::new(&SUBSYSTEM));
        let first = self.sequence + 1;
        for (at, request) in requests.iter().enumerate() {
            self.append(
                &mut message,
                request.kind,
                request.flags | REQUEST | last(at, requests),
                &request.body,
            );
        }
        let last = self.sequence;
        self.append(&mut message, BATCH_END, REQUEST, &Body::new(&SUBSYSTEM));
        self.send_all(&message, requests, first, last)
    }

    fn append(&mut self, message: &mut Vec<u8>, kind: u16, flags: u16, body: &Body) {
        self.sequence += 1;
        message.extend(((HEADER + body.0.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(&body.0);
    }

    /// Sends what was put together, and reads answers until the one to `last`.
    fn send_all(&mut self, message: &[u8], requests: &[Request], first: u32, last: u32) -> Result<()> {
        if requests.is_empty() {
            return Ok(());
        }
        let what = |sequence: u32| {
            let at = sequence.checked_sub(first).map_or(0, |at| at as usize);
            requests.get(at).map_or("netlink", |request| request.what.as_str())
        };
        if message.len() > SMALL {
            self.enlarge(message.len());
        }
        rustix::net::send(&self.socket, message, SendFlags::empty())
            .doing(|| format!("{}: send(netlink, {} bytes)", what(first), message.len()))?;
        let mut refusal: Option<Error> = None;
        loop {
            let mut rest = match receive(&self.socket, &mut self.buffer) {
                Err(Errno::INTR) => continue,
                // More refusals than fit: the first one says enough.
                Err(Errno::NOBUFS) if refusal.is_some() => break,
                result => result.doing(|| format!("{}: recv(netlink)", what(first)))?,
            };
            let mut done = false;
            while !rest.is_empty() {
                let length = long(rest, 0).ok_or_else(|| broken(what(first)))? as usize;
                let one = rest
                    .get(..length)
                    .filter(|one| one.len() >= HEADER)
                    .ok_or_else(|| broken(what(first)))?;
                rest = rest.get(align(length)..).unwrap_or_default();
                let (kind, flags) = (word(one, 4).unwrap_or(0), word(one, 6).unwrap_or(0));
                let sequence = long(one, 8).unwrap_or(0);
                if kind != ERROR || sequence + 1 < first || sequence > last + 1 {
                    continue;
                }
                let code = long(one, HEADER).map_or(0, |code| code as i32);
                if code < 0 && refusal.is_none() {
                    refusal = Some(refused(what(sequence), code, one, kind, flags));
                }
                // What is wrong with a transaction as a whole is told of its first or its last message.
                done |= sequence >= last || sequence < first && code < 0;
            }
            if done {
                break;
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Makes room for a large request. Where that is not allowed, sending it says so.
    fn enlarge(&self, bytes: usize) {
        let bytes = libc::c_int::try_from(bytes.saturating_mul(2)).unwrap_or(libc::c_int::MAX);
        // SAFETY: the option takes an int, which `bytes` is and which outlives the call.
        unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                (&raw const bytes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }

    fn try_ask(&mut self, kind: u16, flags: u16, body: &Body, what: &str) -> Result<Option<Vec<Answer>>> {
        let ack = if flags & flag::DUMP == flag::DUMP { 0 } else { ACK };
        let mut message = Vec::with_capacity(HEADER + body.0.len());
        self.append(&mut message, kind, flags | REQUEST | ack, body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())
            .doing(|| format!("{what}: send(netlink)"))?;

        let mut answers = Vec::new();
        let mut whole = true;
        loop {
            let mut rest = match receive(&self.socket, &mut self.buffer) {
                Err(Errno::INTR) => continue,
                result => result.doing(|| format!("{what}: recv(netlink)"))?,
            };
            while !rest.is_empty() {
                let length = long(rest, 0).ok_or_else(|| broken(what))? as usize;
                let one = rest.get(..length).filter(|one| one.len() >= HEADER).ok_or_else(|| broken(what))?;
                rest = rest.get(align(length)..).unwrap_or_default();
                let (kind, flags) = (word(one, 4).unwrap_or(0), word(one, 6).unwrap_or(0));
                // An answer to a request that somebody gave up on.
                if long(one, 8) != Some(self.sequence) {
                    continue;
                }
                whole &= flags & DUMP_INTERRUPTED == 0;
                match kind {
                    ERROR | DONE => {
                        // Both begin with 0 or a negative errno.
                        let code = long(one, HEADER).map_or(0, |code| code as i32);
                        if code < 0 {
                            return Err(refused(what, code, one, kind, flags));
                        }
                        return Ok(whole.then_some(answers));
                    }
                    _ => answers.push(Answer(one[HEADER..].to_vec())),
                }
            }
        }
    }
}

/// One datagram. One that is cut off is [`Errno::MSGSIZE`].
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut Vec<u8>) -> rustix::io::Result<&'a [u8]> {
    buffer.clear();
    let (_, length) = rustix::net::recv(socket, rustix::buffer::spare_capacity(buffer), RecvFlags::TRUNC)?;
    buffer.get(..length).ok_or(Errno::MSGSIZE)
}

/// A refusal is always told; that all went well is told by the last.
fn last(at: usize, requests: &[Request]) -> u16 {
    if at + 1 == requests.len() { ACK } else { 0 }
}

fn broken(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("{what}: the kernel's answer is cut off"))
}

/// The kernel's refusal, in its own words where it has any (Documentation/userspace-api/netlink/intro.rst).
fn refused(what: &str, code: i32, message: &[u8], kind: u16, flags: u16) -> Error {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let errno = Errno::from_raw_os_error(code.wrapping_neg());
    // The request comes back first, whole or only its header.
    let request = match (kind, flags & ACK_CAPPED) {
        (DONE, _) => 0,
        (_, 0) => long(message, HEADER + 4).map_or(0, |length| align(length as usize)),
        _ => HEADER,
    };
    let words = (flags & ACK_ATTRIBUTES != 0)
        .then(|| message.get(HEADER + 4 + request..).unwrap_or_default())
        .and_then(|rest| attributes(rest).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    match words {
        Some(words) => Error::syscall(format!("{what} [kernel: {words}]"), errno),
        None => Error::syscall(what, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_loopback_interface() {
        let mut netlink = Netlink::open().unwrap();
        let by_name = Body::new(&[0; 16]).string(3, "lo").unwrap();
        let answers = netlink.ask(kind::GETLINK, 0, &by_name, "look for lo").unwrap();
        assert_eq!(answers.len(), 1);
        assert!(answers[0].attributes(16).any(|(kind, value)| kind == 3 && value == b"lo\0"));
        let all = netlink.ask(kind::GETLINK, flag::DUMP, &Body::new(&[0; 16]), "list links").unwrap();
        assert!(!all.is_empty());
    }

    #[test]
    fn says_what_the_kernel_says() {
        let mut netlink = Netlink::open().unwrap();
        let none = Body::new(&[0; 16]).string(3, "no-such").unwrap();
        let err = netlink.ask(kind::GETLINK, 0, &none, "look for no-such").unwrap_err();
        assert_eq!(err.errno(), Some(Errno::NODEV), "{err}");
    }

    #[test]
    fn attributes_that_are_cut_off_end_the_reading() {
        assert_eq!(attributes(&[]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 7]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 7, 7]).count(), 0);
        let two = [5, 0, 1, 0, 7, 0, 0, 0, 4, 0, 2, 0x80];
        assert_eq!(attributes(&two).collect::<Vec<_>>(), [(1, &[7u8][..]), (2, &[][..])]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Body::new(&[]).attribute(1, &[0; 70_000]).unwrap_err().kind(), Kind::Usage);
    }
}
