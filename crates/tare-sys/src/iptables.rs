//! The tables of the older iptables (linux/netfilter_ipv4/ip_tables.h, ip6_tables.h), which netlink knows nothing of;
//! read only.

use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Context, Error, Kind, Result};
use crate::process::check;

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// `struct ipt_getinfo`, which is the same for IPv6.
const INFO: usize = 84;
/// What precedes the entries in `struct ipt_get_entries`.
const ENTRIES: usize = 40;
/// Longest name, with its end.
const NAME: usize = 32;

impl Ip {
    /// What a packet has to be, at the head of an entry: `struct ipt_ip`, `struct ip6t_ip6`.
    fn condition(self) -> usize {
        if self == Ip::V4 { 84 } else { 136 }
    }

    /// `struct ipt_entry`, `struct ip6t_entry`.
    fn entry(self) -> usize {
        if self == Ip::V4 { 112 } else { 168 }
    }

    fn names(self) -> &'static str {
        if self == Ip::V4 {
            "/proc/thread-self/net/ip_tables_names"
        } else {
            "/proc/thread-self/net/ip6_tables_names"
        }
    }
}

/// At which of these hooks the table `filter` drops what no other rule of its accepts: by the policy of the chain, or by
/// a rule without a condition. Where there is no such table, it does not, and none is made by the question.
pub fn drops<const N: usize>(ip: Ip, hooks: [u32; N]) -> Result<[bool; N]> {
    let known = crate::path::read_short(ip.names()).unwrap_or_default();
    let mut all = [false; N];
    if !known.lines().any(|name| name == "filter") {
        return Ok(all);
    }
    let what = || format!("read the table filter of {}", if ip == Ip::V4 { "iptables" } else { "ip6tables" });
    let (info, table) = read(ip).doing(what)?;
    for (drops, hook) in all.iter_mut().zip(hooks) {
        *drops = ends_all(ip, hook, &info, &table).ok_or_else(|| Error::new(Kind::Corrupt, what()))?;
    }
    Ok(all)
}

fn read(ip: Ip) -> Result<(Vec<u8>, Vec<u8>)> {
    // IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES; those of IPv6 have the same numbers.
    const GET_INFO: libc::c_int = 64;
    const GET_ENTRIES: libc::c_int = 65;
    let (family, level) = match ip {
        Ip::V4 => (AddressFamily::INET, libc::IPPROTO_IP),
        Ip::V6 => (AddressFamily::INET6, libc::IPPROTO_IPV6),
    };
    let raw = rustix::net::ipproto::RAW;
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(raw))
        .doing(|| "socket(SOCK_RAW)")?;
    let get = |option: libc::c_int, buffer: &mut Vec<u8>| {
        let mut length = buffer.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into the buffer, which is as long as that.
        let result = unsafe {
            libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length)
        };
        check(result.into()).doing(|| format!("getsockopt({option})"))
    };
    // A rule that somebody adds in between changes the size, and is EAGAIN.
    for _ in 0..16 {
        let mut info = b"filter".to_vec();
        info.resize(INFO, 0);
        get(GET_INFO, &mut info)?;
        let size = word(&info, INFO - 4).unwrap_or(0);
        let mut table = b"filter".to_vec();
        table.resize(NAME, 0);
        table.extend(size.to_ne_bytes());
        table.resize(ENTRIES + size as usize, 0);
        match get(GET_ENTRIES, &mut table) {
            Err(err) if err.errno() == Some(rustix::io::Errno::AGAIN) => {}
            result => {
                result?;
                return Ok((info, table.split_off(ENTRIES)));
            }
        }
    }
    Err(Error::new(Kind::Conflict, "it kept changing"))
}

/// `None` where the table makes no sense.
fn ends_all(ip: Ip, hook: u32, info: &[u8], table: &[u8]) -> Option<bool> {
    /// The target of a verdict: `-NF_DROP - 1`.
    const DROP: u32 = 0_u32.wrapping_sub(1);
    let hook = hook as usize;
    let (first, policy) = (word(info, 36 + hook * 4)? as usize, word(info, 56 + hook * 4)? as usize);
    let mut at = first;
    while at <= policy {
        let entry = table.get(at..)?;
        let target = usize::from(half(entry, ip.condition() + 4)?);
        let next = usize::from(half(entry, ip.condition() + 6)?);
        let conditions = entry.get(..ip.condition())?.iter().any(|byte| *byte != 0) || target > ip.entry();
        // `struct xt_entry_target`: two bytes of length, the name, and what belongs to it after 32 bytes.
        let name = entry.get(target + 2..target + 31)?;
        let verdict = word(entry, target + 32);
        let is_end = name[0] == 0 && verdict == Some(DROP) || name.starts_with(b"REJECT\0");
        if is_end && !conditions {
            return Some(true);
        }
        at += if next == 0 { return None } else { next };
    }
    Some(false)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
