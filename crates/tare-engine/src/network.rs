//! Networks, and containers on them.
//!
//! ```text
//! request ─▶ wanted (pure) ─▶ claim: addresses, ports ─▶ Joined ─▶ monitor: attach … leave
//! ```
//!
//! A container holds its addresses and ports from its start to its end; a sweep takes back what a killed one
//! has left.

pub mod ports;
pub mod shape;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use serde::Serialize;
use serde_json::Value;
use tare_image::Digest;
use tare_network::attach::Connection;
use tare_network::endpoint::Wanted as WantedEndpoint;
use tare_network::names::{Server, Sockets};
use tare_network::network::{DEFAULT, Network, WantedNetwork};
use tare_network::port::{Published, Reserved};
use tare_network::proxy::Proxy;
use tare_network::{Endpoint, Folders, Networks, link, rate};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders as ContainerFolders, Lock, Record, Roots, State, Status};
use crate::engine::{Engine, need_root};
use crate::events::{self, Event};
use crate::files::Place;
use crate::monitor::message::Order;
use crate::name_server;
use crate::policy::{self, MountPoint, Share};
use crate::removal;
use crate::request::{CreateRequest, EndpointSettings};
use crate::sweep;

/// What a container holds on networks from its start to its end.
#[derive(Debug, Default)]
pub struct Joined {
    /// Its networks, in the order of its links.
    pub connections: Vec<Connection>,
    /// Its ports; held by being open.
    pub reserved: Vec<Reserved>,
    /// Where there is a [pool](crate::warm) to be looked after: whether its links are from there.
    pub warm: Option<bool>,
}

/// The networks of an engine.
pub fn networks(roots: &Roots) -> Networks {
    Networks::new(Folders::new(&roots.state, &roots.run))
}

/// The networks that a request names, and what it wants there; none where it shares a network or has none.
pub fn wanted(request: &CreateRequest) -> Result<Vec<(String, EndpointSettings)>> {
    let mode = request.host_config.network_mode.as_str();
    let settings = &request.networking_config.endpoints_config;
    let first = match mode {
        "" | "default" | DEFAULT => DEFAULT,
        "none" | "private" | "host" => return none(mode, request),
        mode if mode.starts_with("container:") => return none(mode, request),
        name => name,
    };
    // Docker's clients call the first one by its mode or, where none was said, "default".
    let of_first = settings.get(mode).or_else(|| settings.get(first)).or_else(|| settings.get("default"));
    let mut all = vec![(first.to_owned(), of_first.cloned().unwrap_or_default())];
    for (name, settings) in settings {
        if name != first && name != mode && name != "default" {
            all.push((name.clone(), settings.clone()));
        }
    }
    Ok(all)
}

fn none(mode: &str, request: &CreateRequest) -> Result<Vec<(String, EndpointSettings)>> {
    let others = request.networking_config.endpoints_config.iter();
    for (name, settings) in others {
        if name != mode && name != "default" {
            return Err(Error::new(
                Kind::Usage,
                format!("container cannot be connected to the network {name} with --network {mode}"),
            )
            .hint("leave out one of the two"));
        }
        if *settings != EndpointSettings::default() {
            return Err(Error::new(
                Kind::Usage,
                format!("--ip, --ip6, --mac-address and --network-alias need a network, and it has --network {mode}"),
            )
            .hint("name a network (`tare network ls`)"));
        }
    }
    Ok(Vec::new())
}

fn endpoint(settings: &EndpointSettings) -> Result<WantedEndpoint> {
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let address = |what: &str, text: &str| -> Result<Option<IpAddr>> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            Error::new(Kind::Usage, format!("{what} {text}: this is no IP address"))
                .hint("for example 10.20.0.5")
        })
    };
    Ok(WantedEndpoint {
        aliases: settings.aliases.clone().unwrap_or_default(),
        ipv4: match address("--ip", &ipam.ipv4_address)? {
            Some(IpAddr::V6(address)) => {
                return Err(Error::new(Kind::Usage, format!("--ip {address}: this is an address of IPv6"))
                    .hint("use --ip6"));
            }
            Some(IpAddr::V4(address)) => Some(address),
            None => None,
        },
        ipv6: match address("--ip6", &ipam.ipv6_address)? {
            Some(IpAddr::V4(address)) => {
                return Err(Error::new(Kind::Usage, format!("--ip6 {address}: this is an address of IPv4"))
                    .hint("use --ip"));
            }
            Some(IpAddr::V6(address)) => Some(address),
            None => None,
        },
        mac: match settings.mac_address.as_str() {
            "" => None,
            text => Some(link::parse_mac(text)?),
        },
    })
}

/// Claims what a container wants on networks. `made`: what it has on its only one already. On failure all is given back.
pub fn claim(roots: &Roots, record: &Record, made: Option<Connection>) -> Result<Joined> {
    let request = &record.request;
    let wanted = wanted(request)?;
    let exposed: Vec<String> = record.image.exposed_ports.iter().cloned().collect();
    let ports = ports::wanted_ports(request, &exposed)?;
    if wanted.is_empty() {
        return Ok(Joined::default());
    }
    let networks = networks(roots);
    let mut joined = Joined { connections: made.into_iter().collect(), ..Joined::default() };
    let claimed = (|| {
        for (at, (name, settings)) in wanted.iter().enumerate().skip(joined.connections.len()) {
            let network = networks.find_or_make(name)?;
            let endpoint = claim_one(roots, &networks, &network, record, &endpoint(settings)?, at)?;
            joined.connections.push(Connection { network, endpoint });
        }
        joined.reserved = ports::publish(roots, &networks, &mut joined.connections, &record.id, ports)?;
        Ok(())
    })();
    match claimed {
        Ok(()) => Ok(joined),
        Err(err) => {
            let _ = joined.leave(roots);
            Err(err)
        }
    }
}

/// Claims an address; one that a killed container still has is taken from it.
fn claim_one(
    roots: &Roots,
    networks: &Networks,
    network: &Network,
    record: &Record,
    wanted: &WantedEndpoint,
    at: usize,
) -> Result<Endpoint> {
    let claim = || networks.claim(network, &record.id, &record.name, wanted, at);
    match claim() {
        Err(err) if matches!(err.kind(), Kind::Conflict | Kind::Exhausted) => {
            sweep::sweep(roots)?;
            claim()
        }
        claimed => claimed,
    }
}

impl Joined {
    /// Puts the container with this network namespace on its networks, within its limits. Answers what keeps it from the
    /// world outside, or in the host's own firewall others from its published ports.
    pub fn attach(&self, roots: &Roots, record: &Record, netns: BorrowedFd<'_>) -> Result<Vec<String>> {
        let networks = networks(roots);
        name_server::forget(roots, &record.id);
        let chains = match self.warm {
            Some(true) => networks.attach_made(&self.connections)?,
            _ => networks.attach(netns, &self.connections, 0)?,
        };
        limit(record, &self.connections, netns)?;
        let open = self.connections.iter().any(|connection| !connection.network.internal);
        if let Some(obstacle) = open.then(|| crate::machine::obstacle(&roots.run)).flatten() {
            return Ok(vec![obstacle]);
        }
        let say = |chain: String| {
            format!(
                "the host's firewall drops what is forwarded unless a rule lets it pass (chain {chain}): published \
                 ports are not reached until one does; see docs/firewall.md"
            )
        };
        Ok(chains.into_iter().take(1).map(say).collect())
    }

    /// Keeps its ports when this program is executed again.
    pub fn keep_over_exec(&self) -> Result<()> {
        self.reserved.iter().filter_map(|port| port.socket.as_ref()).try_for_each(|port| {
            rustix::io::fcntl_setfd(port, rustix::io::FdFlags::empty()).doing(|| "fcntl(port, F_SETFD)")
        })
    }

    /// The proxy for those ports that the firewall cannot lead to the container; `None` where there are none.
    pub fn proxy(&self, roots: &Roots) -> Result<Option<Proxy>> {
        let published = self.connections.iter().find(|connection| !connection.endpoint.ports.is_empty());
        match published {
            Some(Connection { endpoint, .. }) => ports::open_proxy(roots, &self.reserved, endpoint),
            None => Ok(None),
        }
    }

    /// Gives all back, and answers what. Failures are for the next sweep.
    pub fn leave(&mut self, roots: &Roots) -> Vec<Connection> {
        self.reserved.clear();
        let connections = std::mem::take(&mut self.connections);
        let _ = networks(roots).detach(&connections);
        connections
    }
}

/// Where a container is, for its files: on its networks, or on those of the container whose network it shares.
pub fn place(roots: &Roots, record: &Record, joined: &Joined) -> Result<Place> {
    let mode = &record.request.host_config.network_mode;
    let others;
    let connections = match mode.strip_prefix("container:") {
        None => &joined.connections,
        Some(other) => {
            others = networks(roots).connections(&roots.find(other)?)?;
            &others
        }
    };
    let own = |c: &Connection| [c.endpoint.ipv4.map(IpAddr::from), c.endpoint.ipv6.map(IpAddr::from)];
    let first = connections.iter().find(|c| c.network.has_bridge() && !c.network.internal);
    let gateways = first.map(|c| c.network.pools.iter().map(|pool| pool.gateway).collect());
    Ok(Place {
        own: connections.iter().flat_map(own).flatten().collect(),
        gateways: gateways.unwrap_or_default(),
        served: !connections.is_empty(),
    })
}

/// Puts a container's limits on links of it.
fn limit(record: &Record, connections: &[Connection], netns: BorrowedFd<'_>) -> Result<()> {
    let limits = &record.request.host_config.network_limits;
    if limits.is_empty() { Ok(()) } else { rate::hold(limits, connections, netns) }
}

/// Packets that a running container's limits have dropped; `None` where it has just ended.
pub fn dropped(roots: &Roots, id: &str, pid: i32) -> Option<(u64, u64)> {
    let netns = netns_of(pid).ok()?;
    rate::dropped(&networks(roots).connections(id).ok()?, netns.as_fd()).ok()
}

/// The name server of a container that runs, for a monitor that takes over, with the sockets that it was left if it
/// is the same one.
pub fn reopen_names(roots: &Roots, record: &Record, pid: i32, sockets: Option<Sockets>) -> Option<Server> {
    if !roots.run.join("networks").exists() {
        return None;
    }
    let netns = std::fs::File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let connections = networks(roots).connections(&record.id).ok()?;
    if connections.is_empty() && !has_kept(record, &roots.folders(&record.id)) {
        return None;
    }
    name_server::open(roots, record, &connections, netns.as_fd(), false, sockets).ok()
}

/// Whether a container that runs and is on no network was taken off its last one: then it has kept a stack and a name
/// server of its own, and can be put on another. One that began without a network has no name server.
fn has_kept(record: &Record, folders: &ContainerFolders) -> bool {
    record.request.host_config.network_mode == "none" && name_server::answers(folders)
}

/// Takes a container off its networks, as its record there tells them.
pub fn leave(roots: &Roots, id: &str) -> Vec<Connection> {
    if !roots.run.join("networks").exists() {
        return Vec::new();
    }
    // Failures are for the next sweep.
    let connections = connections(roots, id);
    let _ = networks(roots).detach(&connections);
    connections
}

/// What a container has on networks now, as its record there tells.
pub fn connections(roots: &Roots, id: &str) -> Vec<Connection> {
    networks(roots).connections(id).unwrap_or_default()
}

/// Tells that a container is on its networks, has its volumes, and started.
pub fn tell_start(roots: &Roots, connections: &[Connection], record: &Record) {
    let connect = connections.iter().map(|c| Event::network("connect", &c.network, Some(&record.id)));
    let mount = volumes(record).map(|point| {
        Event::volume("mount", &point.name, &record.id)
            .with("destination", point.destination.display())
            .with("propagation", &point.propagation)
            .with("read/write", point.rw)
    });
    let told = connect.chain(mount).chain([Event::container(record, "start")]);
    events::emit_all(roots, &told.collect::<Vec<_>>());
}

/// Tells that one that has ended is on these networks no longer, and has no volumes.
pub fn tell_end(roots: &Roots, left: &[Connection], record: &Record) {
    let disconnect = left.iter().map(|c| Event::network("disconnect", &c.network, Some(&record.id)));
    let unmount = volumes(record).map(|point| Event::volume("unmount", &point.name, &record.id));
    let told: Vec<_> = disconnect.chain(unmount).collect();
    if !told.is_empty() {
        events::emit_all(roots, &told);
    }
}

fn volumes(record: &Record) -> impl Iterator<Item = &MountPoint> {
    record.mounts.iter().filter(|point| point.kind == "volume")
}

/// Gives back what those hold who do not run.
pub fn sweep_networks(roots: &Roots) {
    if !roots.run.join("networks").exists() {
        return;
    }
    networks(roots).sweep(&|id| sweep::is_there(roots, id) || crate::warm::holds(roots, id));
}

/// A line of `network ls`.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkSummary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `bridge`, `macvlan`, `host` or `null`.
    pub driver: String,
    /// When it was made (RFC 3339).
    pub created: String,
    /// Nothing outside of it can be reached.
    pub internal: bool,
    /// It has IPv6.
    pub ipv6: bool,
    /// Labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// The modes that are listed among the networks, as Docker does: name and driver.
const MODES: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// The id of a mode, which is no network that could have a random one: the same on every machine.
fn id_of_mode(name: &str) -> String {
    Digest::of(format!("tare network mode {name}").as_bytes()).hex().to_owned()
}

/// What a container without networks is listed with, as under Docker: its mode.
pub(crate) fn listed(request: &CreateRequest) -> Vec<(String, EndpointSettings)> {
    let mode = request.host_config.network_mode.as_str();
    if MODES.iter().any(|(name, _)| *name == mode) {
        return vec![(mode.to_owned(), EndpointSettings::default())];
    }
    wanted(request).unwrap_or_default()
}

impl Engine {
    /// Makes a network.
    pub fn create_network(&self, wanted: &WantedNetwork) -> Result<Network> {
        need_root()?;
        let network = networks(&self.roots).create(wanted)?;
        self.tell("create", &network, None);
        Ok(network)
    }

    fn tell(&self, action: &str, network: &Network, container: Option<&str>) {
        events::emit(&self.roots, &Event::network(action, network, container));
    }

    /// All networks, by name, with the modes that are no networks.
    pub fn list_networks(&self) -> Result<Vec<NetworkSummary>> {
        let all = networks(&self.roots);
        let mut list = Vec::new();
        for network in all.list()? {
            list.push(NetworkSummary {
                id: network.id,
                name: network.name,
                driver: network.driver,
                created: network.created,
                internal: network.internal,
                ipv6: network.ipv6,
                labels: network.labels,
            });
        }
        // The default network is made at its first use, and there all the same.
        if !list.iter().any(|network| network.name == DEFAULT) {
            list.push(mode(DEFAULT, "bridge"));
        }
        list.extend(MODES.map(|(name, driver)| mode(name, driver)));
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// Everything about a network, in Docker's shape.
    pub fn inspect_network(&self, word: &str) -> Result<Value> {
        let is_meant = |name: &str| name == word || word.len() >= 12 && id_of_mode(name).starts_with(word);
        if let Some((name, driver)) = MODES.iter().find(|(name, _)| is_meant(name)) {
            let (name, driver, id) = ((*name).into(), (*driver).into(), id_of_mode(name));
            let network = Network { name, driver, id, ..Network::default() };
            return Ok(shape::in_dockers_shape(&network, &[]));
        }
        sweep::sweep(&self.roots)?;
        let all = networks(&self.roots);
        let network =
            if word == DEFAULT && need_root().is_ok() { all.find_or_make(word) } else { all.find(word) }?;
        let endpoints = Endpoint::on(&all.folders, &network.id)?;
        Ok(shape::in_dockers_shape(&network, &endpoints))
    }

    /// Removes a network that nobody is on.
    pub fn remove_network(&self, word: &str) -> Result<()> {
        need_root()?;
        if word == DEFAULT || MODES.iter().any(|(name, _)| *name == word) {
            return Err(Error::new(
                Kind::Conflict,
                format!("{word} is a pre-defined network and cannot be removed"),
            )
            .hint("`tare network ls` lists the others"));
        }
        sweep::sweep(&self.roots)?;
        let network = networks(&self.roots).remove(word)?;
        self.tell("destroy", &network, None);
        Ok(())
    }

    /// Removes all networks that nobody is on and no container was made for; answers their names. `wanted` picks
    /// among them.
    pub fn prune_networks(&self, wanted: &dyn Fn(&NetworkSummary) -> bool) -> Result<Vec<String>> {
        need_root()?;
        sweep::sweep(&self.roots)?;
        let mut removed = Vec::new();
        for network in self.unused_networks()? {
            if !wanted(&network) {
                continue;
            }
            match self.remove_network(&network.name) {
                Ok(()) => removed.push(network.name),
                // Somebody has just begun to use it, or removed it.
                Err(err) if matches!(err.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(removed)
    }

    /// The networks that somebody made and that no container asks for, running or not.
    pub fn unused_networks(&self) -> Result<Vec<NetworkSummary>> {
        let all = networks(&self.roots);
        let mut named = Vec::new();
        for id in self.roots.ids()? {
            if let Ok(record) = self.roots.folders(&id).record() {
                let wanted = self::wanted(&record.request)?.into_iter();
                // Of a network that is gone there is nothing to keep.
                named.extend(wanted.filter_map(|(name, _)| all.find(&name).ok()).map(|network| network.id));
            }
        }
        let mut networks = self.list_networks()?;
        networks.retain(|network| {
            let mode = network.name == DEFAULT || MODES.iter().any(|(name, _)| *name == network.name);
            !mode && !named.contains(&network.id)
        });
        Ok(networks)
    }

    /// Puts a container on a network, at once if it runs.
    pub fn connect_network(&self, word: &str, container: &str, settings: &EndpointSettings) -> Result<()> {
        need_root()?;
        let folders = self.find(container)?;
        let all = networks(&self.roots);
        let network = all.find_or_make(word)?;
        let _at_rest = self.at_rest(&folders)?;
        // One after the other: the next one's link has another name, and its record has this network as well.
        let _alone = folders.change()?;
        let mut record = folders.record()?;
        let what = || format!("connect {container} to the network {}", network.name);
        let here = wanted(&record.request)?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        let mode = record.request.host_config.network_mode.as_str();
        let can_be = (mode == "none" && status.process().is_none()) || has_kept(&record, &folders);
        if here.is_empty() && !can_be {
            return Err(Error::new(Kind::Conflict, format!("{}: it has --network {mode}", what()))
                .hint("only a container that is on a network can be put on another"));
        }
        if here.iter().any(|(name, _)| stands_for(&all, name, &network)) {
            return Err(Error::new(
                Kind::Conflict,
                format!("{}: endpoint with name {} already exists in the network", what(), record.name),
            ));
        }
        let wanted = endpoint(settings)?;
        if status.process().is_some() {
            let connections = all.connections(&record.id)?;
            let is_left = |connection: &&Connection| {
                !here.iter().any(|(name, _)| stands_for(&all, name, &connection.network))
            };
            // Of a command that was killed half way.
            for connection in connections.iter().filter(is_left) {
                take_off(&all, connection, &status)?;
            }
            let links = connections.iter().filter_map(|c| c.endpoint.link.strip_prefix("eth")?.parse().ok());
            let at = links.max().map_or(0, |last: usize| last + 1);
            let endpoint = claim_one(&self.roots, &all, &network, &record, &wanted, at).doing(what)?;
            let connection = [Connection { network: network.clone(), endpoint }];
            let attached = (|| {
                // Whoever is killed from here on leaves word of the link.
                all.note(&connection[0])?;
                let netns = netns_of(status.pid)?;
                // Not the first default route: what is open goes on as it was.
                all.attach(netns.as_fd(), &connection, 100 + at as u32)?;
                limit(&record, &connection, netns.as_fd())
            })();
            if let Err(err) = attached {
                let _ = take_off(&all, &connection[0], &status);
                return Err(err.context(what()));
            }
        }
        if here.is_empty() {
            record.request.host_config.network_mode = network.name.clone();
        }
        record.request.networking_config.endpoints_config.insert(network.name.clone(), settings.clone());
        folders.write_record(&record)?;
        self.tell_name_server(&record.id)?;
        self.tell("connect", &network, Some(&record.id));
        self.lead_ports(&folders, &all)
            .doing(|| format!("{}: it is, but its ports are not published", what()))
    }

    /// Has the ports of a container that runs published by a network that it is on, where none publishes them.
    fn lead_ports(&self, folders: &ContainerFolders, all: &Networks) -> Result<()> {
        let connections = all.connections(&folders.id)?;
        let published = connections.iter().any(|connection| !connection.endpoint.ports.is_empty());
        let runs = folders.status()?.is_some_and(|status| status.process().is_some());
        let record = folders.record()?;
        let exposed: Vec<String> = record.image.exposed_ports.iter().cloned().collect();
        if published || !runs || ports::wanted_ports(&record.request, &exposed)?.is_empty() {
            return Ok(());
        }
        match self.order(folders, &Order::Republish) {
            // It is on none that could, and its monitor has let them go.
            Err(_) if !connections.iter().any(ports::is_open) => Ok(()),
            led => led,
        }
    }

    /// Takes a container off a network, at once if it runs.
    pub fn disconnect_network(&self, word: &str, container: &str, force: bool) -> Result<()> {
        need_root()?;
        let all = networks(&self.roots);
        let network = all.find(word)?;
        let folders = match self.find(container) {
            Err(err) if force && err.kind() == Kind::NotFound => {
                sweep::sweep(&self.roots)?;
                return Ok(());
            }
            found => found?,
        };
        let _at_rest = self.at_rest(&folders)?;
        let _alone = folders.change()?;
        let mut record = folders.record()?;
        let here = wanted(&record.request)?;
        let found = all.connections(&record.id)?.into_iter().find(|found| found.network.id == network.id);
        let status = folders.status()?.unwrap_or_else(Status::created);
        if let Some(connection) = &found {
            take_off(&all, connection, &status)?;
        }
        let Some((name, _)) = here.iter().find(|(name, _)| stands_for(&all, name, &network)) else {
            return match found {
                // What a `connect` that was killed half way had left.
                Some(_) => self.tell_name_server(&record.id),
                None => Err(Error::new(
                    Kind::Conflict,
                    format!("container {} is not connected to network {}", record.name, network.name),
                )),
            };
        };
        let request = &mut record.request;
        request.networking_config.endpoints_config.remove(name);
        if here[0].0 == *name {
            // Another one becomes the first; where there is none, it has none from its next start on.
            request.host_config.network_mode =
                here.get(1).map_or_else(|| "none".to_owned(), |(next, _)| next.clone());
        }
        folders.write_record(&record)?;
        self.tell_name_server(&record.id)?;
        self.tell("disconnect", &network, Some(&record.id));
        self.lead_ports(&folders, &all)
            .doing(|| format!("publish the ports of {} by another network", record.name))
    }

    /// Keeps a container that does not run from being started meanwhile: whoever starts it reads first on which networks it
    /// is to be. Waits for one who is just at it; `None` for a container that runs, or that its monitor will start again.
    fn at_rest<'a>(&self, folders: &'a ContainerFolders) -> Result<Option<AtRest<'a>>> {
        let lives = |status: Status| status.process().is_some() || status.state == State::Restarting;
        let lives = || folders.status().is_ok_and(|status| status.is_some_and(lives));
        loop {
            self.wait_until_settled(folders, lives)?;
            if lives() {
                return Ok(None);
            }
            match folders.lock_or_make() {
                // Another was quicker.
                Err(err) if err.kind() == Kind::Conflict => {}
                lock => return Ok(Some(AtRest(folders, lock?))),
            }
        }
    }

    /// Lets a container's name server know on which networks it is now.
    fn tell_name_server(&self, id: &str) -> Result<()> {
        // One that starts later, or again, is told then.
        if self.roots.folders(id).status()?.is_none_or(|status| status.process().is_none()) {
            return Ok(());
        }
        name_server::tell(&self.roots, id, &networks(&self.roots).connections(id)?)
    }

    /// Makes the firewall's rules anew, after somebody has flushed them.
    pub fn reload_networks(&self) -> Result<()> {
        need_root()?;
        sweep::sweep(&self.roots)?;
        let all = networks(&self.roots);
        // Nothing was ever made: nothing is to be made anew.
        if all.list()?.is_empty() { Ok(()) } else { all.reload() }
    }

    /// The published ports of a container: none of one that does not run.
    pub fn ports(&self, container: &str) -> Result<Vec<Published>> {
        let folders = self.find(container)?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_none() {
            return Ok(Vec::new());
        }
        ports_of(&self.roots, &folders.id)
    }
}

/// A container that does not run and that nobody else starts.
struct AtRest<'a>(&'a ContainerFolders, #[expect(dead_code, reason = "held, not read")] Lock);

impl Drop for AtRest<'_> {
    fn drop(&mut self) {
        // One that does not run needs none.
        removal::delete_run_folder(self.0);
    }
}

/// Whether a container's word for a network means this one: its name, or the beginning of its id. The beginning of an id
/// may be another one's name.
fn stands_for(networks: &Networks, word: &str, network: &Network) -> bool {
    word == network.name
        || network.id.starts_with(word) && networks.find(word).is_ok_and(|found| found.id == network.id)
}

/// Takes a container off a network, at once if it runs.
fn take_off(networks: &Networks, connection: &Connection, status: &Status) -> Result<()> {
    let Connection { network, endpoint } = connection;
    if network.has_bridge() {
        link::remove(&mut tare_sys::netlink::Netlink::open()?, &endpoint.host_link)?;
    } else if status.process().is_some() {
        let netns = netns_of(status.pid)?;
        link::remove(&mut link::open_in(netns.as_fd())?, &endpoint.link)?;
    }
    networks.detach(std::slice::from_ref(connection))
}

/// The published ports of a container.
pub fn ports_of(roots: &Roots, id: &str) -> Result<Vec<Published>> {
    let mut ports: Vec<Published> = networks(roots)
        .connections(id)?
        .into_iter()
        .flat_map(|connection| connection.endpoint.ports)
        .collect();
    ports.sort_by_key(|port| (port.container_port, port.protocol, port.address.is_ipv6(), port.port));
    Ok(ports)
}

/// The network namespace of a process.
pub fn netns_of(pid: i32) -> Result<std::os::fd::OwnedFd> {
    let path = format!("/proc/{pid}/ns/net");
    rustix::fs::open(
        &path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .doing(|| format!("open({path:?})"))
}

fn mode(name: &str, driver: &str) -> NetworkSummary {
    NetworkSummary {
        id: if name == DEFAULT { String::new() } else { id_of_mode(name) },
        name: name.to_owned(),
        driver: driver.to_owned(),
        created: tare_sys::time::NEVER.to_owned(),
        internal: false,
        ipv6: false,
        labels: std::collections::BTreeMap::new(),
    }
}

/// Checks what a request wants on networks, as far as that can be told beforehand.
pub fn check(request: &CreateRequest, exposed: &[String]) -> Result<()> {
    for (_, settings) in wanted(request)? {
        endpoint(&settings)?;
    }
    let ports = ports::wanted_ports(request, exposed)?;
    let sharing = policy::sharing(&request.host_config)?;
    if let (Share::Container(_), Some(port)) = (&sharing.network, ports.first()) {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "publish port {}: conflicting options: port publishing and the container type network mode",
                port.container_port
            ),
        )
        .hint("publish it by the container whose network it is"));
    }
    Ok(())
}
