//! A network, as it was asked for, and all of them on disk.
//!
//! What a network is made of in the kernel (a bridge, elements in the firewall) is made when the first container
//! needs it, and can be made again at any time.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use tare_sys::netlink::Netlink;
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result};

use crate::endpoint::Endpoint;
use crate::firewall::{self, Elements, Firewall};
use crate::folders::{Folders, Lock, write_json};
use crate::link::{self, Mac, MacvlanMode};
use crate::pool;
use crate::subnet::{Subnet, number};

/// The network of containers that name none.
pub const DEFAULT: &str = "bridge";
/// Words that stand for no network of ours.
pub const RESERVED: [&str; 4] = ["host", "none", "default", "private"];

/// The smallest packet that a link of IPv6 has to pass (RFC 8200, 5).
const LEAST_IPV6: u32 = 1280;

/// Options that Docker gives bridges, and ours.
mod option {
    pub const MTU: [&str; 2] = ["mtu", "com.docker.network.driver.mtu"];
    pub const ICC: [&str; 2] = ["enable_icc", "com.docker.network.bridge.enable_icc"];
    pub const MASQUERADE: [&str; 2] =
        ["enable_ip_masquerade", "com.docker.network.bridge.enable_ip_masquerade"];
    pub const NAME: [&str; 2] = ["name", "com.docker.network.bridge.name"];
    pub const HOST_IP: [&str; 2] = ["host_binding_ipv4", "com.docker.network.bridge.host_binding_ipv4"];
    pub const PARENT: [&str; 1] = ["parent"];
    pub const MODE: [&str; 2] = ["macvlan_mode", "mode"];
}

/// `network.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// When it was made (RFC 3339).
    pub created: String,
    /// `bridge` or `macvlan`.
    pub driver: String,
    /// Its subnets, IPv4 before IPv6.
    #[serde(rename = "IPAM")]
    pub pools: Vec<Pool>,
    /// Nothing outside of it can be reached.
    pub internal: bool,
    /// It has IPv6.
    #[serde(rename = "EnableIPv6")]
    pub ipv6: bool,
    /// Options of the driver, under Docker's names.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The bridge, or for macvlan the link of the host that it hangs on.
    pub link: String,
    /// Largest packet in bytes; 0: as the host's default route.
    pub mtu: u32,
    /// Containers on it may not talk to each other.
    pub isolated: bool,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pool {
    /// The subnet.
    pub subnet: Subnet,
    /// The part of it that containers get addresses from.
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none", default)]
    pub range: Option<Subnet>,
    /// The address of the bridge: where containers send what goes elsewhere.
    pub gateway: IpAddr,
}

/// A subnet as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WantedPool {
    /// The subnet.
    pub subnet: Option<Subnet>,
    /// The part of it that containers get addresses from.
    #[serde(rename = "IPRange")]
    pub range: Option<Subnet>,
    /// The address of the bridge.
    pub gateway: Option<IpAddr>,
}

/// A network that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WantedNetwork {
    /// Its name.
    pub name: String,
    /// `bridge` (also empty) or `macvlan`.
    pub driver: String,
    /// Its subnets; none: chosen.
    pub pools: Vec<WantedPool>,
    /// Nothing outside of it can be reached.
    pub internal: bool,
    /// It has IPv6.
    pub ipv6: bool,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Network {
    /// Containers hang on a bridge of ours.
    pub fn has_bridge(&self) -> bool {
        self.driver == "bridge"
    }

    /// What goes out has the host's address.
    pub fn masquerades(&self) -> bool {
        !matches!(self.option(&option::MASQUERADE), Some("false" | "0"))
    }

    /// The address of the host's that ports are published at where none is said.
    pub fn publish_at(&self) -> Option<IpAddr> {
        let address: IpAddr = self.option(&option::HOST_IP)?.parse().ok()?;
        (!address.is_unspecified()).then_some(address)
    }

    /// How its macvlan links reach each other.
    pub fn macvlan_mode(&self) -> MacvlanMode {
        match self.option(&option::MODE) {
            Some("private") => MacvlanMode::Private,
            Some("vepa") => MacvlanMode::Vepa,
            Some("passthru") => MacvlanMode::Passthru,
            _ => MacvlanMode::Bridge,
        }
    }

    /// The subnet of a family.
    pub fn pool(&self, ipv4: bool) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.subnet.is_ipv4() == ipv4)
    }

    fn option(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.options.get(*name)).map(String::as_str)
    }
}

/// The networks of one engine.
#[derive(Clone, Debug)]
pub struct Networks {
    /// Where they lie.
    pub folders: Folders,
    /// The firewall's table.
    pub table: String,
}

impl Networks {
    /// Those of the engine with these folders. Touches nothing yet.
    pub fn new(folders: Folders) -> Networks {
        let table = firewall::table_name(&folders.state);
        Networks { folders, table }
    }

    /// All networks, by name. The default one is among them once a container has used it.
    pub fn list(&self) -> Result<Vec<Network>> {
        let folder = self.folders.networks();
        let entries = match fs::read_dir(&folder) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.doing(|| format!("list {}", folder.display()))?,
        };
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            // One that is just being made or removed is not there. One that is damaged is no reason to be without the others.
            all.extend(self.read(&name).ok().flatten());
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn read(&self, name: &str) -> Result<Option<Network>> {
        let path = self.folders.network(name).join("network.json");
        crate::folders::read_json(&path).map_err(|err| match err.kind() {
            Kind::Corrupt => err.hint("make it again, under the same name: tare network create"),
            _ => err,
        })
    }

    /// The network of this name, full id, or beginning of an id.
    pub fn find(&self, word: &str) -> Result<Network> {
        if check_name(word).is_ok()
            && let Some(network) = self.read(word)?
        {
            return Ok(network);
        }
        let hex = !word.is_empty() && word.chars().all(|c| c.is_ascii_hexdigit());
        let mut matches = if hex { self.list()? } else { Vec::new() };
        matches.retain(|network| network.id.starts_with(word));
        match matches.len() {
            1 => Ok(matches.remove(0)),
            0 => Err(Error::new(Kind::NotFound, format!("network {word} not found"))
                .hint("`tare network ls` lists the networks; `tare network create` makes one")),
            n => Err(Error::new(Kind::Usage, format!("{word} is the beginning of {n} network ids"))
                .hint("write more of it")),
        }
    }

    /// Whether a network that was found before is still there; by who has the lock.
    pub(crate) fn must_be_there(&self, network: &Network) -> Result<()> {
        match self.read(&network.name)? {
            Some(now) if now.id == network.id => Ok(()),
            _ => Err(Error::new(Kind::NotFound, format!("network {} not found", network.name))
                .hint("somebody has removed it just now")),
        }
    }

    /// The same; the default network is made at its first use.
    pub fn find_or_make(&self, word: &str) -> Result<Network> {
        match self.find(word) {
            Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Corrupt) && word == DEFAULT => {}
            found => return found,
        }
        match self.create(&WantedNetwork { name: DEFAULT.to_owned(), ..WantedNetwork::default() }) {
            Err(err) if err.kind() == Kind::Conflict => self.find(word),
            made => made,
        }
    }

    /// Writes a network down. Nothing of it is in the kernel yet.
    pub fn create(&self, wanted: &WantedNetwork) -> Result<Network> {
        let name = &wanted.name;
        check_name(name)?;
        let what = || format!("make the network {name}");
        let driver = match wanted.driver.as_str() {
            "" | "bridge" => "bridge",
            "macvlan" => "macvlan",
            other => {
                return Err(Error::new(Kind::Usage, format!("{}: there is no driver {other:?}", what()))
                    .hint("use --driver bridge or --driver macvlan"));
            }
        };
        let _lock = Lock::exclusive(&self.folders)?;
        let others = self.list()?;
        if others.iter().any(|other| other.name == *name) {
            return Err(Error::new(Kind::Conflict, format!("network with name {name} already exists"))
                .hint("choose another name, or remove that one (`tare network rm`)"));
        }
        let mut id = [0; 32];
        rustix::rand::getrandom(&mut id[..], rustix::rand::GetRandomFlags::empty())
            .doing(|| "getrandom()")?;
        let id_text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut network = Network {
            name: name.clone(),
            created: Moment::now().to_string(),
            driver: driver.to_owned(),
            internal: wanted.internal,
            ipv6: wanted.ipv6,
            options: wanted.options.clone(),
            labels: wanted.labels.clone(),
            ..Network::default()
        };
        self.read_options(&mut network, &id_text).doing(what)?;
        network.id = id_text;
        let mut netlink = Netlink::open()?;
        if network.has_bridge() {
            must_be_free(&netlink, &network, &others).doing(what)?;
        }
        let routes = link::routes(&mut netlink)?;
        let wanted_size = if name == DEFAULT { pool::DEFAULT_PREFIX } else { pool::PREFIX };
        network.pools = pool::choose(wanted, wanted_size, &routes.taken, &others, &id).doing(what)?;
        network.ipv6 |= network.pools.iter().any(|pool| !pool.subnet.is_ipv4());
        if network.ipv6 && network.mtu != 0 && network.mtu < LEAST_IPV6 {
            return Err(Error::new(Kind::Usage, format!("{}: an mtu of {} with IPv6", what(), network.mtu))
                .hint(format!("IPv6 needs {LEAST_IPV6} bytes; leave one of the two out")));
        }
        let folder = self.folders.network(name);
        crate::folders::make_folder(&folder)?;
        write_json(&folder, "network.json", &network)?;
        // The default one, which a container may just be waiting for, is made again where the power takes it.
        if name != DEFAULT {
            for path in [&folder.join("network.json"), &folder, &self.folders.networks()] {
                fs::File::open(path)
                    .and_then(|file| file.sync_all())
                    .doing(|| format!("fsync {}", path.display()))?;
            }
        }
        Ok(network)
    }

    fn read_options(&self, network: &mut Network, id: &str) -> Result<()> {
        let known = [
            &option::MTU[..],
            &option::ICC,
            &option::MASQUERADE,
            &option::NAME,
            &option::HOST_IP,
            &option::PARENT,
            &option::MODE,
        ];
        for name in network.options.keys() {
            // Docker's clients send options of their own that change nothing here.
            if !known.iter().any(|names| names.contains(&name.as_str())) && !name.starts_with("com.docker.") {
                return Err(Error::new(Kind::Usage, format!("there is no option {name:?}")).hint(
                    "known are mtu, enable_icc, enable_ip_masquerade, host_binding_ipv4 and name; of macvlan \
                     parent and macvlan_mode",
                ));
            }
        }
        if let Some(text) = network.option(&option::MTU) {
            let mtu = text.parse().ok().filter(|mtu| *mtu == 0 || (68..=65_535).contains(mtu));
            network.mtu = mtu.ok_or_else(|| {
                Error::new(Kind::Usage, format!("invalid mtu {text:?}")).hint("68 to 65535 bytes")
            })?;
        }
        // A word that is neither is no reason to leave open what was to be closed.
        for names in [&option::ICC, &option::MASQUERADE] {
            if let Some(text) = network.option(names)
                && !["true", "1", "false", "0"].contains(&text)
            {
                let what = format!("invalid value {text:?} for {}", names[0]);
                return Err(Error::new(Kind::Usage, what).hint("it is true or false"));
            }
        }
        if let Some(text) = network.option(&option::HOST_IP)
            && text.parse::<IpAddr>().is_err()
        {
            let what = format!("invalid value {text:?} for {}", option::HOST_IP[0]);
            return Err(Error::new(Kind::Usage, what).hint("it is an address of this host"));
        }
        network.isolated = matches!(network.option(&option::ICC), Some("false" | "0"));
        network.link = match (network.has_bridge(), network.option(&option::NAME)) {
            (true, Some(name)) => name.to_owned(),
            (true, None) if network.name == DEFAULT && self.table == "tare" => "tare0".to_owned(),
            (true, None) => format!("tare-{}", &id[..10]),
            (false, _) => network
                .option(&option::PARENT)
                .ok_or_else(|| {
                    Error::new(Kind::Usage, "a macvlan network needs a link of the host to hang on")
                        .hint("give it --opt parent=eth0; `ip link` lists the links")
                })?
                .to_owned(),
        };
        let name = network.link.as_str();
        let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
            return Err(Error::new(Kind::Usage, format!("{name:?} cannot be the name of a link"))
                .hint("1 to 15 bytes, without space, slash, colon and percent"));
        }
        Ok(())
    }

    /// Removes a network that no container is on.
    pub fn remove(&self, word: &str) -> Result<Network> {
        let _lock = Lock::exclusive(&self.folders)?;
        let network = self.find(word)?;
        let users = Endpoint::on(&self.folders, &network.id)?;
        if let Some(user) = users.first() {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "remove the network {}: it has active endpoints: {}",
                    network.name,
                    users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(", ")
                ),
            )
            .hint(format!(
                "stop them, or disconnect them (`tare network disconnect {} {}`)",
                network.name, user.name
            )));
        }
        // What names the rest goes last, so that a kill in between leaves a network that can be removed again.
        if network.has_bridge() {
            let mut elements = Elements::default();
            elements.network(&network);
            let gone = Firewall::open(self.table.clone())
                .and_then(|mut firewall| firewall.remove(&elements))
                .and_then(|()| remove_bridge(&network));
            gone.doing(|| format!("remove the network {}", network.name))?;
        }
        let _ = fs::remove_dir_all(self.folders.of_network(&network.id));
        let folder = self.folders.network(&network.name);
        fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
        Ok(network)
    }

    /// Makes the firewall's tables anew, from what is on disk.
    pub fn reload(&self) -> Result<()> {
        let _lock = Lock::exclusive(&self.folders)?;
        self.rebuild()
    }

    /// The same, by who has the lock.
    pub(crate) fn rebuild(&self) -> Result<()> {
        let mut networks = self.list()?;
        let netlink = Netlink::open()?;
        // A link that somebody else has made under that name is not ours to touch.
        networks.retain(|network| !network.has_bridge() || own_bridge(&netlink, network).is_ok());
        let mut endpoints = Vec::new();
        for network in &networks {
            endpoints.append(&mut Endpoint::on(&self.folders, &network.id)?);
            if network.has_bridge() {
                settings(&network.link, network)?;
            }
        }
        Firewall::open(self.table.clone())?
            .rebuild(&networks, &endpoints)
            .doing(|| "make the firewall's rules for containers")
    }

    /// The network's bridge, made if it is not there.
    pub(crate) fn bridge(&self, netlink: &mut Netlink, network: &Network) -> Result<link::Link> {
        if let Some(link) = own_bridge(netlink, network)? {
            return Ok(link);
        }
        let _lock = Lock::exclusive(&self.folders)?;
        if let Some(link) = own_bridge(netlink, network)? {
            return Ok(link);
        }
        self.must_be_there(network)?;
        let what = || format!("make the bridge of the network {}", network.name);
        let routes = link::routes(netlink)?;
        // Another engine, or somebody by hand, may have come first since the subnet was chosen.
        let meets =
            |pool: &Pool| routes.taken.iter().find(|route| pool.subnet.overlaps(route) && route.prefix > 0);
        if let Some((pool, route)) = network.pools.iter().find_map(|pool| Some((pool, meets(pool)?))) {
            let err = Error::new(
                Kind::Conflict,
                format!(
                    "{}: its subnet {} overlaps with {route}, which the host has a route to",
                    what(),
                    pool.subnet
                ),
            );
            if network.name != DEFAULT {
                return Err(
                    err.hint("see `ip route`; remove the network and make it again, so that it gets another")
                );
            }
            // Nobody can have asked for this subnet, and nobody is on it.
            let folder = self.folders.network(DEFAULT);
            fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
            return Err(err.hint("start it again: the network has got another subnet"));
        }
        let mtu = match network.mtu {
            0 if network.ipv6 => link::route_mtu(netlink, &routes).max(LEAST_IPV6),
            0 => link::route_mtu(netlink, &routes),
            mtu => mtu,
        };
        // The rules come first: whoever is killed in between leaves no bridge without them.
        let mut elements = Elements::default();
        elements.network(network);
        match Firewall::open(self.table.clone())?.add(&elements) {
            // The first one since the boot, or somebody has flushed the firewall.
            Err(err) if err.kind() == Kind::NotFound => self.rebuild(),
            added => added,
        }
        .doing(what)?;
        let addresses: Vec<_> = network.pools.iter().map(|pool| (pool.gateway, pool.subnet.prefix)).collect();
        let name = network.link.as_str();
        link::make_bridge(netlink, name, bridge_mac(network), mtu, &addresses, || settings(name, network))
            .doing(what)?;
        link::find(netlink, name)?
            .ok_or_else(|| Error::new(Kind::Kernel, format!("{}: it vanished again", what())))
    }
}

/// The bridge of a network, where it is there; [`Kind::Conflict`] where a link of its name is not ours.
fn own_bridge(netlink: &Netlink, network: &Network) -> Result<Option<link::Link>> {
    let name = &network.link;
    match link::find(netlink, name)? {
        Some(_) if link::mac(netlink, name)? != Some(bridge_mac(network)) => Err(Error::new(
            Kind::Conflict,
            format!("the host's link {name} is not the bridge of the network {}", network.name),
        )
        .hint(format!(
            "if nobody needs it, remove it (ip link delete {name}); else make the network again, with another bridge \
             (--opt name=…)"
        ))),
        found => Ok(found),
    }
}

/// A network's bridge is its own: it goes with it.
fn must_be_free(netlink: &Netlink, network: &Network, others: &[Network]) -> Result<()> {
    let link = &network.link;
    let owner = others.iter().find(|other| other.has_bridge() && other.link == *link);
    let owner = match owner {
        Some(other) => format!("of the network {}", other.name),
        None if link::find(netlink, link)?.is_some() => "of the host".to_owned(),
        None => return Ok(()),
    };
    Err(Error::new(Kind::Conflict, format!("there is a link {link} already, {owner}")).hint(
        match network.option(&option::NAME) {
            Some(_) => "give the bridge another name (--opt name=…), or none".to_owned(),
            None => format!("if nobody needs it, remove it: ip link delete {link}"),
        },
    ))
}

/// Removes the bridge of a network. Another link of that name, made by somebody since, is theirs.
fn remove_bridge(network: &Network) -> Result<()> {
    let mut netlink = Netlink::open()?;
    match link::mac(&netlink, &network.link)? {
        Some(mac) if mac == bridge_mac(network) => link::remove(&mut netlink, &network.link),
        _ => Ok(()),
    }
}

/// What the kernel needs to be told of a bridge, beside the link: the host forwards packets; nothing that a
/// container sends can change the host's own routes (CVE-2020-13401); no IPv6 where nobody asked for it
/// (CVE-2024-32473); 127.0.0.1 leads to published ports.
fn settings(bridge: &str, network: &Network) -> Result<()> {
    let set = |path: String, value: &str| match fs::read_to_string(&path) {
        Ok(text) if text.trim() == value => Ok(()),
        // A kernel without IPv6.
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        _ => fs::write(&path, value).doing(|| format!("write {value} to {path}")),
    };
    set("/proc/sys/net/ipv4/ip_forward".into(), "1")?;
    set(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    let v6 = format!("/proc/sys/net/ipv6/conf/{bridge}");
    if !network.ipv6 {
        return set(format!("{v6}/disable_ipv6"), "1");
    }
    set(format!("{v6}/accept_ra"), "0")?;
    set(format!("{v6}/disable_ipv6"), "0")?;
    forward_ipv6()
}

/// Lets the host forward IPv6. The kernel would then no longer listen to its own router where it did, so
/// there it is told to go on with that (Documentation/networking/ip-sysctl.rst, accept_ra).
fn forward_ipv6() -> Result<()> {
    let all = "/proc/sys/net/ipv6/conf/all/forwarding";
    if fs::read_to_string(all).is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            let _ = fs::write(&path, "2");
        }
    }
    match fs::write(all, "1") {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            Err(Error::new(Kind::Unsupported, "this kernel has no IPv6")
                .hint("make the network without --ipv6"))
        }
        result => result.doing(|| format!("write 1 to {all}")),
    }
}

/// A hardware address of its own, so that it does not change as containers come and go.
fn bridge_mac(network: &Network) -> Mac {
    let byte = |at: usize| network.id.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    [0x02, 0x42, byte(0).unwrap_or(0), byte(2).unwrap_or(0), byte(4).unwrap_or(0), byte(6).unwrap_or(0)]
}

/// The hardware address that goes with an address: the same each time, so that neighbours who remember it are
/// right.
pub(crate) fn mac_of(ipv4: Option<Ipv4Addr>, ipv6: Option<std::net::Ipv6Addr>) -> Mac {
    let low = match (ipv4, ipv6) {
        (Some(address), _) => u32::from(address),
        (None, Some(address)) => number(address.into()) as u32,
        (None, None) => 0,
    };
    let [a, b, c, d] = low.to_be_bytes();
    [0x02, 0x42, a, b, c, d]
}

/// Checks a name for a network.
pub fn check_name(name: &str) -> Result<()> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || name.len() > 128 || !name.chars().all(word) {
        return Err(Error::new(Kind::Usage, format!("invalid network name {name:?}"))
            .hint("use letters, digits, _, . and -, beginning with a letter or digit, 128 at most"));
    }
    if RESERVED.contains(&name) {
        return Err(Error::new(Kind::Usage, format!("{name:?} cannot be the name of a network of ours"))
            .hint("it stands for a mode of its own; choose another name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "my_net-1.x", "0", "bridge"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", "../x", "a/b", "a b", "host", "none", "ü", "a\n"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
