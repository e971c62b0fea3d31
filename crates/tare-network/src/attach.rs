//! Putting a container on its networks, and taking it off them.
//!
//! ```text
//! attach:  bridge (made if need be) ─▶ pair of links ─▶ addresses, routes inside
//!          ─▶ endpoint written down, elements into the firewall (both under the shared lock)
//! from the pool: the pair of links was made beforehand (make_links); how the bridge treats it, and the rest, as above
//! detach:  elements out of the firewall ─▶ endpoint forgotten, addresses given back
//! ```
//!
//! The link itself goes with the container's network namespace, off everybody's path.

use std::os::fd::BorrowedFd;

use tare_sys::netlink::Netlink;
use tare_sys::{Error, Kind, Result};

use crate::conntrack;
use crate::endpoint::Endpoint;
use crate::firewall::{Elements, Firewall};
use crate::folders::{Lock, names};
use crate::link::{self, Inner};
use crate::network::{Network, Networks};
use crate::port::{Published, SOCKETS};

/// A network, and what a container has on it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The network.
    pub network: Network,
    /// What the container has on it.
    pub endpoint: Endpoint,
}

impl Networks {
    /// Puts a container on networks; `first` counts those that it is on already. What fails gives nothing back:
    /// the caller [detaches](Networks::detach). Answers what in the host's firewall keeps others from its ports.
    ///
    /// The caller has to be single-threaded, or the calling thread be left alone: it visits the container's
    /// namespace. About 30 system calls for one network.
    pub fn attach(
        &self,
        netns: BorrowedFd<'_>,
        connections: &[Connection],
        first: u32,
    ) -> Result<Vec<String>> {
        if connections.is_empty() {
            return Ok(Vec::new());
        }
        self.make_links(netns, connections, first)?;
        self.publish(connections)
    }

    /// Writes down what a container is about to have on a network, so that others find it where it comes to nothing.
    pub fn note(&self, Connection { network, endpoint }: &Connection) -> Result<()> {
        let _lock = Lock::shared(&self.folders)?;
        self.must_be_there(network)?;
        endpoint.write(&self.folders)
    }

    /// Makes the links of a container, with addresses and routes, in the same way. They are written down nowhere yet, and
    /// the firewall lets nothing through from them.
    pub fn make_links(&self, netns: BorrowedFd<'_>, connections: &[Connection], first: u32) -> Result<()> {
        let mut host = Netlink::open()?;
        let mut inners = Vec::new();
        for connection in connections {
            inners.push(self.make_link(&mut host, netns, connection)?);
        }
        let inside = |connection: &Connection| {
            if connection.network.ipv6 {
                return;
            }
            // A kernel without IPv6 has no such file; then there is nothing to turn off.
            let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", connection.endpoint.link);
            let _ = std::fs::write(path, "1");
        };
        let mut container = link::visit(netns, || {
            connections.iter().for_each(inside);
            Netlink::open()
        })??;
        for ((metric, inner), connection) in (first..).zip(&inners).zip(connections) {
            if !connection.network.has_bridge() {
                link::raise_macvlan(&mut container, inner.name)?;
            }
            link::configure(&mut container, inner, metric)?;
        }
        Ok(())
    }

    /// Puts a container on networks whose links to it were [made](Networks::make_links) before anybody knew its ports.
    /// Else as [`attach`](Networks::attach).
    pub fn attach_made(&self, connections: &[Connection]) -> Result<Vec<String>> {
        for connection in connections.iter().filter(|connection| !connection.endpoint.ports.is_empty()) {
            link::set_port(&mut Netlink::open()?, &connection.endpoint.host_link, port(connection))?;
        }
        self.publish(connections)
    }

    fn make_link<'a>(
        &self,
        host: &mut Netlink,
        netns: BorrowedFd<'a>,
        connection: &'a Connection,
    ) -> Result<Inner<'a>> {
        let Connection { network, endpoint } = connection;
        let prefix = |ipv4: bool| network.pool(ipv4).map_or(0, |pool| pool.subnet.prefix);
        let mut addresses = Vec::new();
        addresses.extend(endpoint.ipv4.map(|address| (address.into(), prefix(true))));
        addresses.extend(endpoint.ipv6.map(|address| (address.into(), prefix(false))));
        let inner = Inner {
            netns,
            name: &endpoint.link,
            mac: link::parse_mac(&endpoint.mac)?,
            addresses,
            gateways: match network.internal {
                true => Vec::new(),
                false => network.pools.iter().map(|pool| pool.gateway).collect(),
            },
        };
        if !network.has_bridge() {
            link::make_macvlan(host, &network.link, network.macvlan_mode(), &inner)?;
            return Ok(inner);
        }
        let bridge = self.bridge(host, network)?;
        link::make_pair(host, &endpoint.host_link, bridge, port(connection), &inner)?;
        Ok(inner)
    }

    /// Writes the endpoints down, and lets the firewall know of them. Answers what in the host's firewall keeps others
    /// from their ports.
    pub fn publish(&self, connections: &[Connection]) -> Result<Vec<String>> {
        let mut elements = Elements::default();
        for connection in connections {
            elements.endpoint(&connection.network, &connection.endpoint);
        }
        {
            let _lock = self.lock_for(connections)?;
            for Connection { network, endpoint } in connections {
                self.must_be_there(network)?;
                endpoint.write(&self.folders)?;
            }
            if elements.is_empty() {
                return Ok(Vec::new());
            }
            let mut firewall = Firewall::open(self.table.clone())?;
            let publishes = connections.iter().any(|connection| !connection.endpoint.ports.is_empty());
            let added = firewall.add(&elements).and_then(|()| match publishes {
                true => firewall.look_around(),
                false => Ok(Vec::new()),
            });
            firewall.leave_open();
            conntrack::forget(connections.iter().map(|connection| &connection.endpoint));
            match added {
                // Flushed by somebody.
                Err(err) if err.kind() == Kind::NotFound => {}
                Err(err) if err.kind() == Kind::Conflict => {
                    return Err(self.name_owner(err, connections));
                }
                result => return result,
            }
        }
        self.reload()?;
        self.look_around()
    }

    /// Publishes other ports of a container that is on a network, in one transaction of the firewall.
    pub fn republish(&self, old: &Connection, new: &Connection) -> Result<()> {
        let [mut gone, mut there] = [Elements::default(), Elements::default()];
        gone.endpoint(&old.network, &old.endpoint);
        there.endpoint(&new.network, &new.endpoint);
        let publishes = !new.endpoint.ports.is_empty();
        if publishes && old.endpoint.ports.is_empty() {
            link::set_port(&mut Netlink::open()?, &new.endpoint.host_link, port(new))?;
        }
        {
            let _lock = self.lock_for(std::slice::from_ref(new))?;
            let mut firewall = Firewall::open(self.table.clone())?;
            let changed = firewall.change(&gone.without(&there), &there.without(&gone));
            match changed {
                // Flushed by somebody.
                Err(err) if err.kind() == Kind::NotFound => new.endpoint.write(&self.folders)?,
                Err(err) => return Err(err),
                Ok(()) => {
                    conntrack::forget([&old.endpoint, &new.endpoint]);
                    new.endpoint.write(&self.folders)?;
                    return if publishes { firewall.look_around().map(drop) } else { Ok(()) };
                }
            }
        }
        self.reload()
    }

    /// Sees whether the host's firewall drops what it was not told to let in, and lets the rules know. Answers what in it
    /// keeps others from published ports.
    pub fn look_around(&self) -> Result<Vec<String>> {
        let _lock = Lock::shared(&self.folders)?;
        match Firewall::open(self.table.clone())?.look_around() {
            // Flushed by somebody: nothing is published.
            Err(err) if err.kind() == Kind::NotFound => Ok(Vec::new()),
            result => result,
        }
    }

    /// The lock for publishing the ports of a container, if no other has them. Those that no socket holds (see
    /// [`SOCKETS`]) may be another's at another address, which neither the kernel nor the firewall's maps would see.
    fn lock_for(&self, connections: &[Connection]) -> Result<Lock> {
        let ports = || connections.iter().flat_map(|connection| &connection.endpoint.ports);
        let many = ports().nth(SOCKETS).is_some();
        let lock = if many { Lock::exclusive(&self.folders) } else { Lock::shared(&self.folders) }?;
        if ports().next().is_none() {
            return Ok(lock);
        }
        let least = if many { 0 } else { SOCKETS * LEAST };
        for id in names(&self.folders.run.join("networks")) {
            for other in Endpoint::of_size(&self.folders, &id, least as u64)? {
                let is_own = connections.iter().any(|own| own.endpoint.container == other.container);
                let taken = ports().find(|port| other.ports.iter().any(|held| meet(held, port)));
                if let Some(port) = taken.filter(|_| !is_own) {
                    let Published { port, protocol, .. } = port;
                    return Err(Error::new(
                        Kind::Conflict,
                        format!(
                            "port is already allocated: {port}/{protocol} is the container's {}",
                            other.name
                        ),
                    )
                    .hint("publish it at another port"));
                }
            }
        }
        Ok(lock)
    }

    /// Says whose port it is that is taken.
    fn name_owner(&self, err: Error, connections: &[Connection]) -> Error {
        for connection in connections {
            for port in &connection.endpoint.ports {
                if let Some(owner) = self.owner(port, &connection.endpoint.container) {
                    return err.context(format!(
                        "publish port {}/{}: it is the container's {owner}",
                        port.port, port.protocol
                    ));
                }
            }
        }
        err
    }

    /// The name of the container that has published a port, other than this one.
    pub fn owner(&self, port: &Published, but: &str) -> Option<String> {
        let networks = self.list().ok()?;
        let endpoints =
            networks.iter().filter_map(|network| Endpoint::on(&self.folders, &network.id).ok()).flatten();
        endpoints
            .into_iter()
            .find(|endpoint| {
                endpoint.container != but && endpoint.ports.iter().any(|other| meet(other, port))
            })
            .map(|endpoint| endpoint.name)
    }

    /// Takes a container off networks: its ports and addresses are free. Goes on after a failure; the first one
    /// is the error.
    pub fn detach(&self, connections: &[Connection]) -> Result<()> {
        if connections.is_empty() {
            return Ok(());
        }
        let lock = Lock::shared(&self.folders);
        let removed = self.take_off(connections);
        lock.and(removed)
    }

    /// The same of what a container that is not there any more has left. It may just be starting again: what it has now is
    /// its own.
    fn detach_left(&self, network: &Network, endpoint: Endpoint) -> Result<()> {
        let _lock = Lock::exclusive(&self.folders)?;
        let now = Endpoint::of(&self.folders, &network.id, &endpoint.container)?;
        match now.is_some_and(|now| now.id == endpoint.id) {
            true => self.take_off(&[Connection { network: network.clone(), endpoint }]),
            false => Ok(()),
        }
    }

    fn take_off(&self, connections: &[Connection]) -> Result<()> {
        let mut elements = Elements::default();
        for connection in connections {
            elements.endpoint(&connection.network, &connection.endpoint);
        }
        let removed = match elements.is_empty() {
            true => Ok(()),
            false => Firewall::open(self.table.clone()).and_then(|mut firewall| {
                let removed = firewall.remove(&elements);
                firewall.leave_open();
                conntrack::forget(connections.iter().map(|connection| &connection.endpoint));
                removed
            }),
        };
        connections.iter().for_each(|connection| self.forget(&connection.endpoint));
        removed
    }

    /// What a container has on networks, from what is written down: in the order of its links.
    pub fn connections(&self, container: &str) -> Result<Vec<Connection>> {
        let mut found = Vec::new();
        for network in self.list()? {
            if let Some(endpoint) = Endpoint::of(&self.folders, &network.id, container)? {
                found.push(Connection { network, endpoint });
            }
        }
        // eth10 is after eth9.
        found.sort_by(|a, b| {
            let [a, b] = [a, b].map(|connection| &connection.endpoint.link);
            (a.len(), a).cmp(&(b.len(), b))
        });
        Ok(found)
    }

    /// Takes those containers off all networks that are not there any more, and gives back what was claimed for
    /// them and never used.
    pub fn sweep(&self, is_there: &dyn Fn(&str) -> bool) {
        let known = self.list().unwrap_or_default();
        for id in names(&self.folders.run.join("networks")) {
            let network = known.iter().find(|network| network.id == id);
            let endpoints = Endpoint::on(&self.folders, &id).unwrap_or_default();
            for endpoint in endpoints {
                if is_there(&endpoint.container) {
                    continue;
                }
                match network {
                    Some(network) => {
                        let _ = self.detach_left(network, endpoint);
                    }
                    None => self.forget(&endpoint),
                }
            }
            let addresses = self.folders.addresses(&id);
            for address in names(&addresses) {
                let link = addresses.join(address);
                let owner = std::fs::read_link(&link).unwrap_or_default();
                if !owner.to_str().is_some_and(is_there) {
                    let _ = std::fs::remove_file(link);
                }
            }
            if network.is_none() {
                // Of a network that was removed while a container was about to be put on it. Where it is in use, they are
                // not empty.
                for folder in [addresses, self.folders.endpoints(&id), self.folders.of_network(&id)] {
                    let _ = std::fs::remove_dir(folder);
                }
            }
        }
    }
}

/// No published port is written down in fewer bytes.
const LEAST: usize = 50;

/// Whether two ports are one, at an address that both have.
fn meet(a: &Published, b: &Published) -> bool {
    a.port == b.port
        && a.protocol == b.protocol
        && a.address.is_ipv4() == b.address.is_ipv4()
        && (a.address == b.address || a.address.is_unspecified() || b.address.is_unspecified())
}

/// How the bridge treats the container's link.
fn port(Connection { network, endpoint }: &Connection) -> link::Port {
    link::Port { isolated: network.isolated, hairpin: !endpoint.ports.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folders;
    use crate::endpoint::Wanted;

    #[test]
    fn a_sweep_leaves_what_a_container_has_since_it_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::new(Folders::new(dir.path(), dir.path()));
        let network = Network {
            name: "n".into(),
            id: "ab".repeat(32),
            driver: "macvlan".into(),
            pools: vec![crate::network::Pool {
                subnet: "10.9.0.0/24".parse().unwrap(),
                range: None,
                gateway: "10.9.0.1".parse().unwrap(),
            }],
            ..Network::default()
        };
        let folder = networks.folders.network("n");
        std::fs::create_dir_all(&folder).unwrap();
        crate::folders::write_json(&folder, "network.json", &network).unwrap();
        let start = || {
            let endpoint = networks.claim(&network, "c", "c", &Wanted::default(), 0).unwrap();
            endpoint.write(&networks.folders).unwrap();
            endpoint
        };
        let (old, new) = (start(), std::cell::OnceCell::new());
        // Nobody was there when it was looked at; it starts in the moment after that.
        networks.sweep(&|_| match new.get() {
            Some(_) => true,
            None => new.set(start()).is_err(),
        });
        let new = new.into_inner().unwrap();
        assert_ne!(old.ipv4, new.ipv4);
        assert_eq!(Endpoint::of(&networks.folders, &network.id, "c").unwrap(), Some(new));
        networks.sweep(&|_| false);
        assert_eq!(Endpoint::of(&networks.folders, &network.id, "c").unwrap(), None);
        assert_eq!(names(&networks.folders.addresses(&network.id)), [""; 0]);
    }
}
