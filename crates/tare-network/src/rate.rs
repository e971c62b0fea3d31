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
use tare_sys::netlink::{Body, Netlink, flag, kind};
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

// Numbers of linux/rtnetlink.h, linux/pkt_sched.h and linux/if_link.h.
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
const IFLA_IFNAME: u16 = 3;
const IFLA_STATS64: u16 = 23;
/// Length of `struct tcmsg`.
const QUEUE: usize = 20;
/// Length of `struct ifinfomsg`.
const LINK: usize = 16;

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
    let index = found.ok_or_else(|| gone(end.name))?.index;
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
        let body = body.attribute(TCA_OPTIONS | NESTED, token_bucket(wanted.rate)?.as_bytes())?;
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
fn token_bucket(bits: u64) -> Result<Body> {
    const PARAMETERS: u16 = 1;
    const RATE_64: u16 = 4;
    const BURST: u16 = 6;
    const ETHERNET: u8 = 1;
    let rate = bits.div_ceil(8);
    // What may go at once: enough for the timer's grain, and for the large pieces in which the kernel moves
    // data over a veth, but never so much that a second more of it would be felt.
    let burst = u32::try_from(rate / 500).unwrap_or(u32::MAX).clamp(32 * 1024, 8 * 1024 * 1024);
    // What may wait: 50 ms of it, and for slow links some packets. More would be delay for nothing.
    let waiting = u32::try_from(rate / 20).unwrap_or(u32::MAX).clamp(32 * 1024, 64 * 1024 * 1024);
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

/// What has gone over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Counters {
    /// Bytes that the container got.
    pub rx_bytes: u64,
    /// Packets that it got.
    pub rx_packets: u64,
    /// Packets that came damaged.
    pub rx_errors: u64,
    /// Packets for it that were dropped.
    pub rx_dropped: u64,
    /// Bytes that it sent.
    pub tx_bytes: u64,
    /// Packets that it sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets of it that were dropped, by a limit for instance.
    pub tx_dropped: u64,
}

/// Reads the counters of a link, as the end that is asked sees them. For the host's end of a container's link,
/// see [`Counters::turned`].
pub fn counters(end: End<'_>) -> Result<Counters> {
    let body = Body::new(&[0; LINK]).string(IFLA_IFNAME, end.name)?;
    let answers = end.netlink.ask(kind::GETLINK, 0, &body, &format!("read the counters of {}", end.name))?;
    let stats = answers.first().and_then(|answer| {
        answer.attributes(LINK).find(|(kind, _)| *kind == IFLA_STATS64).map(|(_, stats)| stats.to_vec())
    });
    let stats = stats.ok_or_else(cut_off)?;
    // struct rtnl_link_stats64 begins with eight numbers: packets, bytes, errors, dropped, of both directions.
    let at = |index: usize| {
        let bytes = stats.get(index * 8..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    };
    let number = |index| at(index).ok_or_else(cut_off);
    Ok(Counters {
        rx_packets: number(0)?,
        tx_packets: number(1)?,
        rx_bytes: number(2)?,
        tx_bytes: number(3)?,
        rx_errors: number(4)?,
        tx_errors: number(5)?,
        rx_dropped: number(6)?,
        tx_dropped: number(7)?,
    })
}

impl Counters {
    /// The same, seen from the other end.
    pub fn turned(self) -> Counters {
        Counters {
            rx_bytes: self.tx_bytes,
            rx_packets: self.tx_packets,
            rx_errors: self.tx_errors,
            rx_dropped: self.tx_dropped,
            tx_bytes: self.rx_bytes,
            tx_packets: self.rx_packets,
            tx_errors: self.rx_errors,
            tx_dropped: self.rx_dropped,
        }
    }
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn gone(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("limit the link {name}: it is not there"))
        .hint("somebody has removed or renamed it")
}

fn cut_off() -> Error {
    Error::new(Kind::Corrupt, "the kernel's answer is cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_enough_for_its_rate_and_no_more() {
        let rate_of = |bits| {
            let options = token_bucket(bits).unwrap();
            let bytes = options.as_bytes();
            // The parameters, behind the header of their attribute.
            (long(bytes, 4 + 8).unwrap(), long(bytes, 4 + 24).unwrap(), long(bytes, 40 + 4).unwrap())
        };
        assert_eq!(rate_of(10_000_000), (1_250_000, 32 * 1024 + 62_500, 32 * 1024));
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
