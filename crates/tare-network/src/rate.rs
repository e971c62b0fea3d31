//! Bandwidth, delay and loss of a container's links: queues of the kernel, as tc(8) makes them.
//!
//! ```text
//! in:  bridge ──▶ [tbf] host's end of the link ──▶ container
//! out: container's end of the link [tbf [netem]] ──▶ host's end ──▶ bridge
//! ```
//!
//! A queue holds up what leaves a link, so that what the container gets is held up at the host's end and what
//! it sends at its own. Both take one kind of queue that nearly every kernel has; holding up what *arrives*
//! would take three more modules and another link. A container with CAP_NET_ADMIN can lift what holds at its
//! own end; by default none has it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tare_sys::netlink::{Body, Netlink, attributes, flag};
use tare_sys::{Error, Kind, Result};

use crate::attach::Connection;
use crate::link;

/// What a container may do on its networks, each of them for itself. Empty: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Limits {
    /// Bits a second that it can get; 0: as many as come.
    #[serde(rename = "In")]
    pub incoming: u64,
    /// Bits a second that it can send; 0: as many as it likes.
    #[serde(rename = "Out")]
    pub outgoing: u64,
    /// How long everything that it sends is held back, in microseconds.
    pub delay: u64,
    /// How much of what it sends is lost, in millionths.
    pub loss: u32,
}

impl Limits {
    /// Nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// As the queues of the host's end.
    fn host_end(&self) -> Shape {
        Shape { rate: self.incoming, delay: 0, loss: 0 }
    }

    /// As the queues of the container's end.
    fn container_end(&self) -> Shape {
        Shape { rate: self.outgoing, delay: self.delay, loss: self.loss }
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct End<'a> {
    /// A socket in the network namespace that it is in.
    pub netlink: &'a mut Netlink,
    /// Its name there.
    pub name: &'a str,
}

/// What one queue, or one in another, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rate: u64,
    delay: u64,
    loss: u32,
}

// Numbers of linux/rtnetlink.h and linux/pkt_sched.h.
const NEW_QUEUE: u16 = 36;
const DELETE_QUEUE: u16 = 37;
const GET_QUEUE: u16 = 38;
const REPLACE: u16 = 0x100;
const NESTED: u16 = 0x8000;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const ROOT: u32 = 0xffff_ffff;
/// Ours: 1: and, within it, 2:.
const TBF: u32 = 0x1_0000;
const TBF_CLASS: u32 = 0x1_0001;
const NETEM: u32 = 0x2_0000;
/// Length of `struct tcmsg`.
const QUEUE: usize = 20;

/// Puts limits on all links of a container, or others in their place, or lifts them. The caller has to be
/// single-threaded, or the calling thread be left alone: it visits the container's network namespace.
pub fn hold(limits: &Limits, connections: &[Connection], netns: BorrowedFd<'_>) -> Result<()> {
    let mut host = Netlink::open()?;
    let mut container = link::open_in(netns)?;
    for Connection { network, endpoint } in connections {
        let end = network.has_bridge().then_some(End { netlink: &mut host, name: &endpoint.host_link });
        apply(limits, end, End { netlink: &mut container, name: &endpoint.link })?;
    }
    Ok(())
}

/// Puts limits on a link, or others in their place, or lifts them. `host` is its end on a bridge; a link
/// without one (macvlan) cannot be limited in what it gets.
fn apply(limits: &Limits, host: Option<End<'_>>, container: End<'_>) -> Result<()> {
    match host {
        Some(end) => shape(end, limits.host_end())?,
        None if limits.incoming != 0 => {
            return Err(Error::new(
                Kind::Unsupported,
                "limit what the container gets: its network has no bridge",
            )
            .hint("use a network of the driver bridge, or --net-rate out=… alone"));
        }
        None => {}
    }
    shape(container, limits.container_end())
}

fn shape(end: End<'_>, wanted: Shape) -> Result<()> {
    let found = link::find(end.netlink, end.name)?;
    let link::Link { index, mtu, .. } = found.ok_or_else(|| gone(end.name))?;
    let what = |doing: &str| format!("{doing} of {}", end.name);
    let now = current(end.netlink, index)?;
    let (tbf, netem) = (wanted.rate != 0, wanted.delay != 0 || wanted.loss != 0);
    // What is there in the same form is changed in place, and no packet in it is lost.
    let same = now == (Queues { tbf, netem });
    if !same && now != Queues::default() {
        let body = Body::new(&header(index, 0, ROOT));
        end.netlink.ask(DELETE_QUEUE, 0, &body, &what("lift the limits"))?;
    }
    let flags = flag::CREATE | REPLACE;
    if tbf {
        let body = Body::new(&header(index, TBF, ROOT)).string(TCA_KIND, "tbf")?;
        let body = body.attribute(TCA_OPTIONS | NESTED, token_bucket(wanted.rate, mtu)?.as_bytes())?;
        end.netlink
            .ask(NEW_QUEUE, flags, &body, &what("limit the rate"))
            .map_err(|err| explain(err, "tbf", "sch_tbf"))?;
    }
    if netem {
        let parent = if tbf { TBF_CLASS } else { ROOT };
        let body = Body::new(&header(index, NETEM, parent)).string(TCA_KIND, "netem")?;
        let body = body.attribute(TCA_OPTIONS, &emulation(wanted)?)?;
        end.netlink
            .ask(NEW_QUEUE, flags, &body, &what("set the delay and loss"))
            .map_err(|err| explain(err, "netem", "sch_netem"))?;
    }
    Ok(())
}

/// A kind of queue that the kernel does not know is ENOENT.
fn explain(err: Error, kind: &str, module: &str) -> Error {
    match err.errno() {
        Some(rustix::io::Errno::NOENT) => err.with_kind(Kind::Unsupported).hint(format!(
            "this kernel has no {kind}; load its module with `modprobe {module}`, if it has one"
        )),
        _ => err,
    }
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32) -> [u8; QUEUE] {
    let mut header = [0; QUEUE];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// The options of tbf for bits a second (linux/pkt_sched.h, `struct tc_tbf_qopt`).
fn token_bucket(bits: u64, mtu: u32) -> Result<Body> {
    const PARAMETERS: u16 = 1;
    const RATE_64: u16 = 4;
    const BURST: u16 = 6;
    const ETHERNET: u8 = 1;
    let rate = bits.div_ceil(8);
    let bytes = |of: u64| u32::try_from(of).unwrap_or(u32::MAX);
    // A packet with its header of Ethernet: one that does not fit into the bucket never goes.
    let packet = mtu.saturating_add(18);
    // What may go at once: enough for the timer's grain, and for the large pieces in which the kernel moves
    // data over a veth, but never so much that a second more of it would be felt: of slow links 40 ms.
    let least = bytes(rate / 25).min(32 * 1024).max(packet.saturating_mul(2));
    let burst = bytes(rate / 500).min(8 * 1024 * 1024).max(least);
    // What may wait: 50 ms of it, of slow links 125 ms, as long as that is less than one of the large pieces, and some
    // packets. More would be delay for nothing, and less would throw away most of a large piece.
    let packets = packet.saturating_mul(10);
    let piece = bytes(rate / 8).min(packets.saturating_add(64 * 1024)).max(packets);
    let waiting = bytes(rate / 20).min(64 * 1024 * 1024).max(piece);
    let mut parameters = [0; 36];
    parameters[1] = ETHERNET;
    parameters[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    parameters[24..28].copy_from_slice(&(burst + waiting).to_ne_bytes());
    Body::default()
        .attribute(PARAMETERS, &parameters)?
        .attribute(BURST, &burst.to_ne_bytes())?
        .attribute(RATE_64, &rate.to_ne_bytes())
}

/// The options of netem: `struct tc_netem_qopt`, then attributes.
fn emulation(wanted: Shape) -> Result<Vec<u8>> {
    const LATENCY_64: u16 = 10;
    /// Packets that can be under way at once; its default of 1000 is 15 Mbyte/s at 100 ms.
    const PACKETS: u32 = 100_000;
    let nanoseconds = Duration::from_micros(wanted.delay).as_nanos();
    let nanoseconds = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
    // Its unit is 64 ns (linux/pkt_sched.h, PSCHED_TICKS); the 64-bit attribute, where known, says it exactly.
    let ticks = u32::try_from(nanoseconds >> 6).unwrap_or(u32::MAX);
    let loss = u64::from(wanted.loss) * u64::from(u32::MAX) / 1_000_000;
    let mut options = Vec::with_capacity(36);
    for number in [ticks, PACKETS, loss as u32, 0, 0, 0] {
        options.extend(number.to_ne_bytes());
    }
    options.extend(Body::default().attribute(LATENCY_64, &nanoseconds.to_ne_bytes())?.as_bytes());
    Ok(options)
}

/// Which queues of ours are on a link.
#[derive(Debug, Default, PartialEq, Eq)]
struct Queues {
    tbf: bool,
    netem: bool,
}

fn current(netlink: &mut Netlink, index: u32) -> Result<Queues> {
    let body = Body::new(&header(index, 0, 0));
    let mut found = Queues::default();
    for answer in netlink.ask(GET_QUEUE, flag::DUMP, &body, "list the queues")? {
        // A kernel before 6.? lists those of all links, whichever is asked for.
        let Some(header) = answer.header::<QUEUE>() else { continue };
        if long(header, 4) != Some(index) {
            continue;
        }
        match long(header, 8) {
            Some(TBF) => found.tbf = true,
            Some(NETEM) => found.netem = true,
            _ => {}
        }
    }
    Ok(found)
}

/// Packets that the limits of a container have dropped, on all its links together: those for it, and its own.
///
/// Of a link's counters they are not part. The caller has to be single-threaded, or the calling thread be left
/// alone: it visits the container's network namespace.
pub fn dropped(connections: &[Connection], netns: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let mut host = Netlink::open()?;
    let mut container = link::open_in(netns)?;
    let (mut incoming, mut outgoing) = (0, 0);
    for Connection { network, endpoint } in connections {
        if network.has_bridge() {
            incoming += drops(End { netlink: &mut host, name: &endpoint.host_link })?;
        }
        outgoing += drops(End { netlink: &mut container, name: &endpoint.link })?;
    }
    Ok((incoming, outgoing))
}

/// What the outermost queue of a link has dropped; what one inside it drops, it counts as well.
fn drops(end: End<'_>) -> Result<u64> {
    // Attributes of linux/rtnetlink.h and linux/gen_stats.h; `struct gnet_stats_queue` has the drops third.
    const STATISTICS: u16 = 7;
    const OF_QUEUE: u16 = 3;
    let index = link::find(end.netlink, end.name)?.ok_or_else(|| gone(end.name))?.index;
    let body = Body::new(&header(index, 0, 0));
    let mut all = 0;
    for answer in end.netlink.ask(GET_QUEUE, flag::DUMP, &body, "list the queues")? {
        let outermost = answer
            .header::<QUEUE>()
            .is_some_and(|header| long(header, 4) == Some(index) && long(header, 12) == Some(ROOT));
        let statistics = answer.attributes(QUEUE).find(|(kind, _)| *kind == STATISTICS);
        let of_queue =
            statistics.and_then(|(_, inner)| attributes(inner).find(|(kind, _)| *kind == OF_QUEUE));
        if outermost && let Some(drops) = of_queue.and_then(|(_, numbers)| long(numbers, 8)) {
            all += u64::from(drops);
        }
    }
    Ok(all)
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn gone(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("limit the link {name}: it is not there"))
        .hint("somebody has removed or renamed it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_enough_for_its_rate_and_no_more() {
        let rate_of = |bits| {
            let options = token_bucket(bits, 1500).unwrap();
            let bytes = options.as_bytes();
            // The parameters, behind the header of their attribute.
            (long(bytes, 4 + 8).unwrap(), long(bytes, 4 + 24).unwrap(), long(bytes, 40 + 4).unwrap())
        };
        assert_eq!(rate_of(10_000_000), (1_250_000, 32 * 1024 + 80_716, 32 * 1024));
        assert_eq!(rate_of(1_000_000), (125_000, 5_000 + 15_625, 5_000));
        assert_eq!(rate_of(64_000), (8_000, 3_036 + 15_180, 3_036), "two packets");
        let (rate, limit, burst) = rate_of(100_000_000_000);
        assert_eq!((rate, burst), (u32::MAX, 8 * 1024 * 1024), "the 64-bit rate says the rest");
        assert_eq!(limit, burst + 64 * 1024 * 1024);
    }

    #[test]
    fn a_loss_of_everything_is_all_of_it() {
        let options = emulation(Shape { rate: 0, delay: 50_000, loss: 1_000_000 }).unwrap();
        assert_eq!(long(&options, 0), Some(50_000_000 / 64));
        assert_eq!(long(&options, 8), Some(u32::MAX));
    }
}
