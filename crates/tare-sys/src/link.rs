//! The network calls that need no netlink: what is asked of a link by its name. Unlike netlink's, these questions do not
//! wait for the lock on all links of the machine.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Context, Result};
use crate::process::check;

/// Brings up the loopback interface of this network namespace (netdevice(7)).
pub fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .doing(|| "socket(AF_INET, SOCK_DGRAM)")?;
    let mut request = named("lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ask(socket.as_fd(), libc::SIOCSIFFLAGS, &mut request).doing(|| "ioctl(SIOCSIFFLAGS, \"lo\", IFF_UP)")
}

/// The number of a link and its largest packet in bytes, in the network namespace where the socket, of any kind, was
/// opened; `None`: there is no such link.
pub fn find(socket: BorrowedFd<'_>, name: &str) -> Result<Option<(u32, u32)>> {
    let mut request = named(name);
    if name.len() >= request.ifr_name.len() {
        return Ok(None);
    }
    match ask(socket, libc::SIOCGIFINDEX, &mut request) {
        Err(Errno::NODEV) => return Ok(None),
        result => result.doing(|| format!("ioctl(SIOCGIFINDEX, {name:?})"))?,
    }
    // SAFETY: SIOCGIFINDEX has written this member.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    match ask(socket, libc::SIOCGIFMTU, &mut request) {
        Err(Errno::NODEV) => return Ok(None),
        result => result.doing(|| format!("ioctl(SIOCGIFMTU, {name:?})"))?,
    }
    // SAFETY: SIOCGIFMTU has written this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(Some((index as u32, mtu as u32)))
}

/// The hardware address of a link; `None`: there is no such link.
pub fn mac(socket: BorrowedFd<'_>, name: &str) -> Result<Option<[u8; 6]>> {
    let mut request = named(name);
    match ask(socket, libc::SIOCGIFHWADDR, &mut request) {
        Err(Errno::NODEV) => return Ok(None),
        result => result.doing(|| format!("ioctl(SIOCGIFHWADDR, {name:?})"))?,
    }
    // SAFETY: SIOCGIFHWADDR has written this member.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    let mut mac = [0; 6];
    mac.iter_mut().zip(address).for_each(|(to, from)| *to = from as u8);
    Ok(Some(mac))
}

/// A request on the link of this name; what is too long for a name is cut off.
fn named(name: &str) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is a valid one: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let length = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..length].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ask(socket: BorrowedFd<'_>, what: libc::Ioctl, request: &mut libc::ifreq) -> Result<(), Errno> {
    // SAFETY: these requests read and write an ifreq, which `request` is and which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) };
    check(result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_by_any_socket_and_only_those_that_are_there() {
        let netlink = crate::netlink::Netlink::open().unwrap();
        let (index, mtu) = find(netlink.as_fd(), "lo").unwrap().unwrap();
        assert!(index > 0 && mtu > 0);
        assert_eq!(mac(netlink.as_fd(), "lo").unwrap(), Some([0; 6]));
        assert_eq!(mac(netlink.as_fd(), "no-such").unwrap(), None);
        for name in ["no-such", "", "a-name-that-is-too-long", "lo-but-longer-than-that"] {
            assert_eq!(find(netlink.as_fd(), name).unwrap(), None, "{name}");
        }
    }
}
