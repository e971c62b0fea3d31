//! Published ports of containers: what a request wants, and what the monitor of one that runs holds.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use tare_network::attach::Connection;
use tare_network::host_socket::HostSockets;
use tare_network::port::{self, Protocol, Published, Reserved, Wanted as WantedPort};
use tare_network::proxy::Proxy;
use tare_network::{Endpoint, Networks};
use tare_sys::{Error, Kind, Result, rootless};

use super::networks;
use crate::container::{Record, Roots};
use crate::request::{CreateRequest, PortBinding};
use crate::sweep;

/// `80`, `80/udp`, `8000-8010/tcp` as numbers.
pub(super) fn container_ports(text: &str) -> Result<(u16, u16, Protocol)> {
    let wrong = || {
        Error::new(Kind::Usage, format!("invalid containerPort: {text}"))
            .hint("for example 80, 53/udp, 8000-8010")
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0).ok_or_else(wrong);
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first, last, protocol.parse()?))
}

/// The ports that a request publishes, and what `-P` adds to them. Pure.
pub fn wanted_ports(request: &CreateRequest, exposed: &[String]) -> Result<Vec<WantedPort>> {
    let mut all = Vec::new();
    for (container, bindings) in &request.host_config.port_bindings {
        let (first, last, protocol) = container_ports(container)?;
        let binding = [PortBinding::default()];
        let bindings = match bindings.as_deref() {
            None | Some([]) => &binding[..],
            Some(bindings) => bindings,
        };
        for binding in bindings {
            let address = match binding.host_ip.as_str() {
                "" => None,
                text => Some(text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| {
                    Error::new(Kind::Usage, format!("invalid IP address {text:?} of a published port"))
                        .hint("for example 127.0.0.1:8080:80 or [::1]:8080:80")
                })?),
            };
            let (low, high) = host_ports(&binding.host_port)?;
            for (at, container_port) in (first..=last).enumerate() {
                let ports = match (low, high - low == last - first && first != last) {
                    (0, _) => 0..=0,
                    // Ranges of one length go in step.
                    (low, true) => low + at as u16..=low + at as u16,
                    (low, false) => low..=high,
                };
                all.push(WantedPort { protocol, address, ports, container_port });
            }
        }
    }
    if request.host_config.publish_all_ports {
        for text in request.config.exposed_ports.keys().chain(exposed) {
            let (first, last, protocol) = container_ports(text)?;
            for container_port in first..=last {
                let said =
                    |want: &WantedPort| want.protocol == protocol && want.container_port == container_port;
                if !all.iter().any(said) {
                    all.push(WantedPort { protocol, address: None, ports: 0..=0, container_port });
                }
            }
        }
    }
    Ok(all)
}

fn host_ports(text: &str) -> Result<(u16, u16)> {
    let wrong = || {
        Error::new(Kind::Usage, format!("invalid hostPort: {text}"))
            .hint("a port from 1 to 65535, or a range of them")
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| wrong()) };
    let (first, last) = (number(first)?, number(last)?);
    if first > last || (first == 0 && last != 0) { Err(wrong()) } else { Ok((first, last)) }
}

/// Reserves ports, and leads them to the first network that the outside can reach.
pub(super) fn publish(
    roots: &Roots,
    networks: &Networks,
    connections: &mut [Connection],
    container: &str,
    mut ports: Vec<WantedPort>,
) -> Result<Vec<Reserved>> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let Some(connection) = connections.iter_mut().find(|connection| is_open(connection)) else {
        // As Docker does: an internal network is reached by nobody outside.
        return Ok(Vec::new());
    };
    at_home(connection, &mut ports)?;
    let host = HostSockets::of(&roots.run);
    let reserved = match port::reserve(&ports, &host) {
        Err(err) if err.kind() == Kind::Conflict => {
            sweep::sweep(roots)?;
            port::reserve(&ports, &host).map_err(|err| match_owner(err, networks, &ports, container))
        }
        reserved => reserved,
    }?;
    connection.endpoint.ports = reserved.iter().map(|reserved| reserved.published).collect();
    Ok(reserved)
}

/// Ports can be published on it.
pub(super) fn is_open(Connection { network, .. }: &Connection) -> bool {
    network.has_bridge() && !network.internal
}

/// Ports without an address get the one that the network has for them.
fn at_home(Connection { network, endpoint }: &Connection, ports: &mut [WantedPort]) -> Result<()> {
    let at = network.publish_at();
    for port in ports {
        port.address = port.address.or(at);
        if port.protocol != Protocol::Sctp || endpoint.ipv6.is_some() {
            continue;
        }
        // From one family to the other there is only a proxy, and none for SCTP.
        match port.address {
            None => port.address = Some(Ipv4Addr::UNSPECIFIED.into()),
            Some(IpAddr::V6(address)) => {
                let what = format!("publish port [{address}]:{}/sctp", port.ports.start());
                return Err(Error::new(Kind::Unsupported, format!("{what}: the container has no IPv6"))
                    .hint("put it on a network with --ipv6, or publish at an address of IPv4"));
            }
            Some(IpAddr::V4(_)) => {}
        }
    }
    Ok(())
}

/// A port of another container's is named by that.
fn match_owner(err: Error, networks: &Networks, ports: &[WantedPort], container: &str) -> Error {
    for want in ports {
        let published = Published {
            protocol: want.protocol,
            address: want.address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
            port: *want.ports.start(),
            container_port: want.container_port,
        };
        if let Some(owner) = networks.owner(&published, container) {
            return err.context(format!(
                "publish port {}/{}: it is the container's {owner}",
                published.port, published.protocol
            ));
        }
    }
    err
}

/// What a container has on the network that it publishes ports on.
pub fn published(roots: &Roots, id: &str) -> Option<Endpoint> {
    let connections = networks(roots).connections(id).ok()?;
    connections.into_iter().map(|c| c.endpoint).find(|endpoint| !endpoint.ports.is_empty())
}

/// The proxy of a container that runs, for a monitor that takes over with these sockets.
pub fn reopen_proxy(roots: &Roots, id: &str, sockets: &[OwnedFd]) -> Option<Proxy> {
    if sockets.is_empty() {
        return None;
    }
    let endpoint = published(roots, id)?;
    let reserved: Vec<Reserved> =
        sockets.iter().filter_map(|socket| port::recognize(socket, &endpoint.ports)).collect();
    open_proxy(roots, &reserved, &endpoint).ok().flatten()
}

/// The proxy for those of these ports that the firewall cannot lead to the container; `None` where there are none.
pub fn open_proxy(roots: &Roots, reserved: &[Reserved], endpoint: &Endpoint) -> Result<Option<Proxy>> {
    let table = networks(roots).table;
    Proxy::open(reserved, endpoint.ipv4, endpoint.ipv6, rootless::is_on().then_some(table.as_str()))
}

/// Publishes the ports that the record of a running container has now, in place of those that it has published.
/// `held`: what its monitor holds of these, and what it holds afterwards, whether that works or not.
pub fn republish(roots: &Roots, record: &Record, held: &mut Vec<Reserved>) -> Result<Option<Connection>> {
    let networks = networks(roots);
    let connections = networks.connections(&record.id)?;
    let exposed: Vec<String> = record.image.exposed_ports.iter().cloned().collect();
    let mut wanted = wanted_ports(&record.request, &exposed)?;
    let publishes = |connection: &&Connection| !connection.endpoint.ports.is_empty();
    let Some(old) = connections.iter().find(publishes).or(connections.iter().find(|c| is_open(c))) else {
        // Nobody is led anywhere by them.
        held.clear();
        return match wanted.first() {
            None => Ok(None),
            Some(port) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "publish port {}: it is on no network that can be reached from outside",
                    port.container_port
                ),
            )
            .hint("`tare network connect` puts it on one")),
        };
    };
    at_home(old, &mut wanted)?;
    let ports = old.endpoint.ports.iter();
    let all = ports.map(|published| {
        let at = held.iter().position(|held| held.published == *published);
        at.map_or(Reserved { published: *published, socket: None }, |at| held.swap_remove(at))
    });
    let mut all: Vec<Reserved> = all.collect();
    // Of a network that it was on.
    all.append(held);
    let host = HostSockets::of(&roots.run);
    match port::change(all, &wanted, &host) {
        Ok(reserved) => *held = reserved,
        Err((err, reserved)) => {
            *held = reserved;
            return Err(match err.kind() {
                Kind::Conflict => match_owner(err, &networks, &wanted, &record.id),
                _ => err,
            });
        }
    }
    let mut new = old.clone();
    new.endpoint.ports = held.iter().map(|reserved| reserved.published).collect();
    if let Err(err) = networks.republish(old, &new) {
        let before: Vec<WantedPort> = old.endpoint.ports.iter().map(Published::wanted).collect();
        let (Ok(reserved) | Err((_, reserved))) = port::change(std::mem::take(held), &before, &host);
        *held = reserved;
        return Err(err);
    }
    Ok(Some(new))
}

/// The sockets that were handed down over an exec, as what they hold.
pub fn recognize(roots: &Roots, id: &str, sockets: Vec<OwnedFd>) -> Vec<Reserved> {
    let connections = networks(roots).connections(id).unwrap_or_default();
    let ports: Vec<Published> = connections.into_iter().flat_map(|c| c.endpoint.ports).collect();
    sockets.iter().filter_map(|socket| port::recognize(socket, &ports)).collect()
}

/// Lets the rules know whether the host's firewall drops what it was not told to let in. `false`: it changed all the
/// time, and has to be looked at again.
pub fn look_around(roots: &Roots) -> bool {
    !matches!(networks(roots).look_around(), Err(err) if err.kind() == Kind::Conflict)
}
