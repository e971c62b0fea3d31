//! Published ports: which ones, and that nobody else has them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::SocketType;
use serde::{Deserialize, Serialize};
use tare_sys::{Context, Error, Kind, Result};

use crate::host_socket::HostSockets;

/// On top of IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Protocol> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(Error::new(Kind::Usage, format!("invalid proto: {text}"))
                .hint("use tcp, udp or sctp, for example 53:53/udp")),
        }
    }
}

/// A port that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address of the host's; `None`: all, of IPv4 and IPv6.
    pub address: Option<IpAddr>,
    /// One of these; `0..=0`: any that is free.
    pub ports: RangeInclusive<u16>,
    /// The container's port.
    pub container_port: u16,
}

/// A port that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Published {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address of the host's; `0.0.0.0` and `::` are all.
    pub address: IpAddr,
    /// The host's port.
    pub port: u16,
    /// The container's port.
    pub container_port: u16,
}

impl Published {
    /// What has to be wanted to get it.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            protocol: self.protocol,
            address: Some(self.address),
            ports: self.port..=self.port,
            container_port: self.container_port,
        }
    }
}

/// A reserved port of the host's: as long as the socket is open, no other program gets it.
#[derive(Debug)]
pub struct Reserved {
    /// Which.
    pub published: Published,
    /// A bound socket that nothing is read from; none for SCTP, and in long ranges.
    pub socket: Option<OwnedFd>,
}

/// Ports of one container that are held by a socket each. Beyond that a port is only looked at in passing: no
/// monitor has room for tens of thousands of files.
pub(crate) const SOCKETS: usize = 200;

/// Reserves what is wanted. What fails gives all back.
pub fn reserve(wanted: &[Wanted], host: &HostSockets) -> Result<Vec<Reserved>> {
    let mut all: Vec<Reserved> = Vec::new();
    for want in wanted {
        let mut found = reserve_one(want, host)?;
        for reserved in &mut found {
            if all.len() >= SOCKETS {
                host.must_hold_all(SOCKETS)?;
                reserved.socket = None;
            }
        }
        all.append(&mut found);
    }
    Ok(all)
}

/// Which of these ports a socket holds that was handed down over an exec.
pub fn recognize(socket: &OwnedFd, published: &[Published]) -> Option<Reserved> {
    let name = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    let protocol = match rustix::net::sockopt::socket_type(socket).ok()? {
        SocketType::STREAM => Protocol::Tcp,
        _ => Protocol::Udp,
    };
    let is_it = |port: &&Published| {
        port.protocol == protocol && port.port == name.port() && port.address == name.ip()
    };
    let published = *published.iter().find(is_it)?;
    Some(Reserved { published, socket: socket.try_clone().ok() })
}

/// Reserves what is wanted in place of what is held. A port that stays is held all the time, also where it leads to
/// another port of the container's. On failure what was held is held again, as it was.
pub fn change(
    held: Vec<Reserved>,
    wanted: &[Wanted],
    host: &HostSockets,
) -> std::result::Result<Vec<Reserved>, (Error, Vec<Reserved>)> {
    let (mut left, mut kept, mut missing) = (held, Vec::new(), Vec::new());
    for want in wanted {
        match take(&mut left, want) {
            found if found.is_empty() => missing.push(want.clone()),
            found => kept.extend(found.into_iter().map(|reserved| (reserved, want.container_port))),
        }
    }
    // Given up first of all: who holds a port at all addresses keeps it from being taken at one.
    let given_up: Vec<Published> = left.drain(..).map(|reserved| reserved.published).collect();
    match reserve(&missing, host) {
        Ok(mut new) => {
            let lead = |(mut reserved, container_port): (Reserved, u16)| {
                reserved.published.container_port = container_port;
                reserved
            };
            let mut all: Vec<Reserved> = kept.into_iter().map(lead).collect();
            all.append(&mut new);
            Ok(all)
        }
        Err(err) => {
            let again = |published: Published| {
                // Somebody may have been faster; the firewall leads to the container all the same.
                let socket = bind(&published, host).ok().and_then(|(socket, _)| socket);
                Reserved { published, socket }
            };
            let kept = kept.into_iter().map(|(reserved, _)| reserved);
            Err((err, kept.chain(given_up.into_iter().map(again)).collect()))
        }
    }
}

/// Takes what is wanted out of what is held: all its addresses at one port, or nothing.
fn take(held: &mut Vec<Reserved>, want: &Wanted) -> Vec<Reserved> {
    let addresses = addresses(want);
    let any = *want.ports.start() == 0;
    let fits = |published: &Published| {
        published.protocol == want.protocol
            && Some(&published.address) == addresses.first()
            && match any {
                // One that was chosen freely stays with what it was chosen for.
                true => published.container_port == want.container_port,
                false => want.ports.contains(&published.port),
            }
    };
    let ports: Vec<u16> =
        held.iter().map(|held| held.published).filter(fits).map(|published| published.port).collect();
    for port in ports {
        let is_it = |held: &Reserved, address: &IpAddr| {
            let published = held.published;
            published.protocol == want.protocol && published.port == port && published.address == *address
        };
        let places: Vec<usize> = addresses
            .iter()
            .filter_map(|address| held.iter().position(|held| is_it(held, address)))
            .collect();
        if places.len() == addresses.len() {
            let (found, left) = std::mem::take(held)
                .into_iter()
                .enumerate()
                .partition::<Vec<_>, _>(|(at, _)| places.contains(at));
            held.extend(left.into_iter().map(|(_, held)| held));
            return found.into_iter().map(|(_, held)| held).collect();
        }
    }
    Vec::new()
}

/// Where a port is wanted.
fn addresses(want: &Wanted) -> Vec<IpAddr> {
    match want.address {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    }
}

fn reserve_one(want: &Wanted, host: &HostSockets) -> Result<Vec<Reserved>> {
    let addresses = addresses(want);
    let any = *want.ports.start() == 0;
    let mut taken = None;
    for port in want.ports.clone() {
        // Of a free port of IPv4 the same of IPv6 may not be free: then another.
        for _ in 0..if any { 20 } else { 1 } {
            match reserve_at(want, &addresses, port, host) {
                Err(err) if err.errno() == Some(Errno::ADDRINUSE) => taken = Some(err),
                result => return result,
            }
        }
    }
    let port = *want.ports.start();
    let err = taken.unwrap_or_else(|| Error::new(Kind::Usage, "publish a port of an empty range"));
    Err(if want.ports.clone().count() > 1 {
        err.context(format!("publish one of the ports {port}-{}: none is free", want.ports.end()))
    } else {
        err
    })
}

fn reserve_at(want: &Wanted, addresses: &[IpAddr], port: u16, host: &HostSockets) -> Result<Vec<Reserved>> {
    let mut found: Vec<Reserved> = Vec::new();
    for address in addresses {
        // The same port for all addresses.
        let port = found.first().map_or(port, |first| first.published.port);
        let published = Published {
            protocol: want.protocol,
            address: *address,
            port,
            container_port: want.container_port,
        };
        match bind(&published, host) {
            Ok((socket, port)) => {
                found.push(Reserved { published: Published { port, ..published }, socket });
            }
            // A host without IPv6 has no port there either.
            Err(err)
                if want.address.is_none()
                    && address.is_ipv6()
                    && matches!(err.errno(), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(found)
}

/// Binds a socket to the port; answers which one it was.
fn bind(published: &Published, host: &HostSockets) -> Result<(Option<OwnedFd>, u16)> {
    let Published { protocol, address, port, .. } = *published;
    let at = SocketAddr::new(address, port);
    let what = || format!("publish port {at}/{protocol}");
    if protocol == Protocol::Sctp {
        host.must_lead_by_the_firewall().doing(what)?;
        // Few kernels have it, and none of ours needs it: the map in the firewall has one owner for each port.
        if port == 0 {
            return Err(Error::new(Kind::Usage, "publish a port of SCTP without saying which")
                .hint("name the host's port: -p 9899:9899/sctp"));
        }
        return Ok((None, port));
    }
    let socket = host.bound(protocol == Protocol::Tcp, at).doing(what);
    let socket = socket.map_err(|err| explain(err, published, host))?;
    let port = match port {
        0 => {
            let name = rustix::net::getsockname(&socket).doing(what)?;
            SocketAddr::try_from(name).doing(what)?.port()
        }
        port => port,
    };
    Ok((Some(socket), port))
}

fn explain(err: Error, published: &Published, host: &HostSockets) -> Error {
    let port = published.port;
    match err.errno() {
        Some(Errno::ADDRINUSE) => {
            let owner = owner(published, host).map_or_else(String::new, |owner| format!(" by {owner}"));
            err.with_kind(Kind::Conflict)
                .context(format!("port is already allocated: {port}/{} is in use{owner}", published.protocol))
                .hint(format!(
                    "publish it at another port (-p {}:{})",
                    port.saturating_add(1),
                    published.container_port
                ))
        }
        Some(Errno::ADDRNOTAVAIL) => err
            .with_kind(Kind::NotFound)
            .hint(format!("the host has no address {}; see `ip address`", published.address)),
        Some(Errno::ACCESS) => err.with_kind(Kind::Permission).hint(format!(
            "ports below 1024 are root's; publish it at another (-p {}:{}), or have root allow it: sysctl \
             net.ipv4.ip_unprivileged_port_start={port}",
            port.saturating_add(8000),
            published.container_port
        )),
        _ => err,
    }
}

/// The process that has a port of this host, as far as /proc tells.
fn owner(published: &Published, host: &HostSockets) -> Option<String> {
    let files: &[&str] = match published.protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    let port = format!(":{:04X}", published.port);
    let mut inodes = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(format!("/proc/{}/net/{file}", host.witness())).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let (Some(local), Some(inode)) = (words.nth(1), words.nth(7)) else { continue };
            if local.ends_with(&port) && inode != "0" {
                inodes.push(format!("socket:[{inode}]"));
            }
        }
    }
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let holds = files.flatten().any(|file| {
            std::fs::read_link(file.path())
                .is_ok_and(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
        });
        if holds {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("the process {pid} ({})", name.trim_end()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(address: Option<&str>, ports: RangeInclusive<u16>) -> Wanted {
        let address = address.map(|address| address.parse().unwrap());
        Wanted { protocol: Protocol::Tcp, address, ports, container_port: 80 }
    }

    #[test]
    fn a_port_has_one_owner_who_is_named() {
        let first = reserve(&[want(Some("127.0.0.1"), 0..=0)], &HostSockets::Ours).unwrap();
        let port = first[0].published.port;
        let err = reserve(&[want(Some("127.0.0.1"), port..=port)], &HostSockets::Ours).unwrap_err();
        assert_eq!(err.kind(), Kind::Conflict);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let err = reserve(&[want(Some("127.0.0.1"), port..=port)], &HostSockets::Ours).unwrap_err();
        assert!(err.to_string().contains(&format!("the process {}", std::process::id())), "{err}");
        let port = first[0].published.port;
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_err(), "held against others as well");
        drop(first);
        reserve(&[want(Some("127.0.0.1"), port..=port)], &HostSockets::Ours).unwrap();
    }

    #[test]
    fn ports_that_stay_are_held_all_the_time_and_a_failure_changes_nothing() {
        let any = want(Some("127.0.0.1"), 0..=0);
        let held = reserve(&[any.clone(), Wanted { container_port: 81, ..any.clone() }], &HostSockets::Ours)
            .unwrap();
        let ports: Vec<u16> = held.iter().map(|held| held.published.port).collect();
        let stays = Wanted { container_port: 82, ..want(Some("127.0.0.1"), ports[0]..=ports[0]) };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        let (err, held) =
            change(held, &[stays.clone(), want(Some("127.0.0.1"), taken..=taken)], &HostSockets::Ours)
                .unwrap_err();
        assert_eq!(err.kind(), Kind::Conflict);
        let now: Vec<_> =
            held.iter().map(|held| (held.published.port, held.published.container_port)).collect();
        assert_eq!(now, [(ports[0], 80), (ports[1], 81)]);
        assert!(std::net::TcpListener::bind(("127.0.0.1", ports[1])).is_err(), "held again");
        let socket = std::os::fd::AsRawFd::as_raw_fd(held[0].socket.as_ref().unwrap());
        let held = change(held, &[stays, any], &HostSockets::Ours).unwrap();
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(held[0].socket.as_ref().unwrap()), socket);
        assert_eq!((held[0].published.port, held[0].published.container_port), (ports[0], 82));
        assert_eq!(
            (held.len(), held[1].published.container_port),
            (2, 80),
            "a new one: 80 had only the first"
        );
    }

    #[test]
    fn an_address_that_is_not_here_is_an_error() {
        let err = reserve(&[want(Some("192.0.2.77"), 4000..=4000)], &HostSockets::Ours).unwrap_err();
        assert!(err.hint_text().unwrap().contains("ip address"), "{err}");
    }
}
