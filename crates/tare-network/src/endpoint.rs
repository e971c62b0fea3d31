//! What a container has on a network: addresses, a link, names.
//!
//! An address is claimed by a link in a folder, which only one process can make; the claim names the container,
//! so that a sweep knows whose it was.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tare_sys::{Context, Error, Kind, Result};

use crate::folders::{Folders, make_folder, read_json, write_json};
use crate::link::{Mac, show_mac};
use crate::network::{Network, Networks, Pool, mac_of};
use crate::port::Published;
use crate::subnet::{from_number, number, width};

/// `<run>/networks/<network id>/endpoints/<container id>.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Id of the container.
    pub container: String,
    /// Name of the container.
    pub name: String,
    /// Name of the network.
    pub network: String,
    /// Id of the network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// What it is called on this network beside its name and the first 12 digits of its id.
    pub aliases: Vec<String>,
    /// Its address of IPv4.
    #[serde(rename = "IPv4")]
    pub ipv4: Option<Ipv4Addr>,
    /// Its address of IPv6.
    #[serde(rename = "IPv6")]
    pub ipv6: Option<Ipv6Addr>,
    /// Its hardware address, `02:42:0a:58:00:02`.
    pub mac: String,
    /// The host's end of its link; empty for macvlan.
    pub host_link: String,
    /// The container's end, `eth0`.
    pub link: String,
    /// Ports that lead to it by this network.
    pub ports: Vec<Published>,
}

/// What a container asks for on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names beside its own.
    pub aliases: Vec<String>,
    /// This address of IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// This address of IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// This hardware address.
    pub mac: Option<Mac>,
}

impl Endpoint {
    /// All endpoints of a network, in no order.
    pub fn on(folders: &Folders, network_id: &str) -> Result<Vec<Endpoint>> {
        Endpoint::of_size(folders, network_id, 0)
    }

    /// Those of which this many bytes at least are written down.
    pub(crate) fn of_size(folders: &Folders, network_id: &str, least: u64) -> Result<Vec<Endpoint>> {
        let folder = folders.endpoints(network_id);
        let entries = match fs::read_dir(&folder) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.doing(|| format!("list {}", folder.display()))?,
        };
        // One that is just being removed is not there any more; one that is being written has another ending.
        let whole = |path: &Path| {
            path.extension().is_some_and(|ending| ending == "json")
                && (least == 0 || path.metadata().is_ok_and(|meta| meta.len() >= least))
        };
        let paths = entries.flatten().map(|entry| entry.path()).filter(|path| whole(path));
        Ok(paths.filter_map(|path| read_json(&path).ok().flatten()).collect())
    }

    /// What a container has on a network; `None` where it is not on it.
    pub fn of(folders: &Folders, network_id: &str, container: &str) -> Result<Option<Endpoint>> {
        read_json(&folders.endpoints(network_id).join(file(container)))
    }

    /// Writes it down.
    pub(crate) fn write(&self, folders: &Folders) -> Result<()> {
        let folder = folders.endpoints(&self.network_id);
        let name = file(&self.container);
        match write_json(&folder, &name, self) {
            Err(err) if err.errno() == Some(rustix::io::Errno::NOENT) => {
                make_folder(&folder)?;
                write_json(&folder, &name, self)
            }
            result => result,
        }
    }
}

fn file(container: &str) -> String {
    format!("{container}.json")
}

impl Networks {
    /// Claims what a container asks for on a network; `at` counts its networks. Nothing of it is in the kernel
    /// yet, and nobody but its address's claim knows of it.
    pub fn claim(
        &self,
        network: &Network,
        container: &str,
        name: &str,
        wanted: &Wanted,
        at: usize,
    ) -> Result<Endpoint> {
        let what = || format!("connect {name} to the network {}", network.name);
        let mut claimed = Vec::new();
        for (ipv4, asked) in [(true, wanted.ipv4.map(IpAddr::from)), (false, wanted.ipv6.map(IpAddr::from))] {
            let address = match (network.pool(ipv4), asked) {
                (Some(pool), asked) => self.claim_address(network, pool, container, asked).doing(what),
                (None, None) => continue,
                (None, Some(address)) => Err(Error::new(
                    Kind::Usage,
                    format!("{}: it has no subnet that {address} could be in", what()),
                )
                .hint(if ipv4 {
                    "make the network with --subnet"
                } else {
                    "make the network with --ipv6"
                })),
            };
            match address {
                Ok(address) => claimed.push(address),
                Err(err) => {
                    claimed.iter().for_each(|address| self.give_back(network, *address, container));
                    return Err(err);
                }
            }
        }
        let ipv4 = claimed.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let ipv6 = claimed.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        let mac = wanted.mac.unwrap_or_else(|| mac_of(ipv4, ipv6));
        let mut random = [0; 32];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
            .doing(|| "getrandom()")?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        // A name of its own at each start: the link of the last one may still be on its way out.
        let host_link = format!("tv{}{}", short(container, 7), short(&id, 5));
        Ok(Endpoint {
            container: container.to_owned(),
            name: name.to_owned(),
            network: network.name.clone(),
            network_id: network.id.clone(),
            aliases: wanted.aliases.clone(),
            ipv4,
            ipv6,
            mac: show_mac(mac),
            host_link: if network.has_bridge() { host_link } else { String::new() },
            link: format!("eth{at}"),
            ports: Vec::new(),
            id,
        })
    }

    fn claim_address(
        &self,
        network: &Network,
        pool: &Pool,
        container: &str,
        asked: Option<IpAddr>,
    ) -> Result<IpAddr> {
        let folder = self.folders.addresses(&network.id);
        if let Some(address) = asked {
            let everybodys = address.is_ipv4() && address == pool.subnet.last();
            if !pool.subnet.contains(address) || address == pool.subnet.first || everybodys {
                return Err(Error::new(
                    Kind::Usage,
                    format!("the address {address} is no address of its subnet {}", pool.subnet),
                ));
            }
            if address == pool.gateway {
                return Err(Error::new(Kind::Conflict, format!("the address {address} is its gateway's")));
            }
            if claim_link(&folder, address, container)? {
                return Ok(address);
            }
            let owner = fs::read_link(folder.join(address.to_string())).unwrap_or_default();
            let owner = owner.to_string_lossy();
            return Err(Error::new(
                Kind::Conflict,
                format!("Address already in use: {address} is the container's {}", short(&owner, 12)),
            )
            .hint("choose another address, or none for one that is free"));
        }
        let taken = crate::folders::names(&folder);
        let range = pool.range.unwrap_or(pool.subnet);
        let (first, last) = (number(range.first), number(range.last()));
        let ipv4 = pool.subnet.is_ipv4();
        let free = (first..=last).map(|n| from_number(n, ipv4)).filter(|address| {
            *address != pool.gateway
                && *address != pool.subnet.first
                && !(ipv4 && *address == pool.subnet.last())
                && !taken.contains(&address.to_string())
        });
        // A pool of IPv6 has no end that anybody would live to see.
        for address in free.take(1 << 20) {
            if claim_link(&folder, address, container)? {
                return Ok(address);
            }
        }
        let size = 1_u128.checked_shl(u32::from(width(range.first) - range.prefix)).unwrap_or(u128::MAX);
        Err(Error::new(Kind::Exhausted, format!("all of its {size} addresses ({range}) are taken"))
            .hint("stop containers on it, or make a network with a larger --subnet"))
    }

    /// Has the addresses of an endpoint claimed by its container, in place of who has had them until now.
    pub fn pass_on(&self, endpoint: &Endpoint) -> Result<()> {
        let addresses =
            [endpoint.ipv4.map(IpAddr::from), endpoint.ipv6.map(IpAddr::from)].into_iter().flatten();
        for address in addresses {
            let folder = self.folders.addresses(&endpoint.network_id);
            let link = folder.join(address.to_string());
            // Where we are killed in between, it is taken away as the container's other claims are.
            let new = folder.join(format!("{address}.{}", endpoint.container));
            let what = || format!("claim {}", link.display());
            std::os::unix::fs::symlink(&endpoint.container, &new).doing(what)?;
            fs::rename(&new, &link).doing(what)?;
        }
        Ok(())
    }

    fn give_back(&self, network: &Network, address: IpAddr, container: &str) {
        let link = self.folders.addresses(&network.id).join(address.to_string());
        if fs::read_link(&link).is_ok_and(|owner| owner.as_os_str() == container) {
            let _ = fs::remove_file(link);
        }
    }

    /// Gives back the addresses of an endpoint, and forgets it.
    pub(crate) fn forget(&self, endpoint: &Endpoint) {
        let _ = fs::remove_file(self.folders.endpoints(&endpoint.network_id).join(file(&endpoint.container)));
        let addresses =
            [endpoint.ipv4.map(IpAddr::from), endpoint.ipv6.map(IpAddr::from)].into_iter().flatten();
        for address in addresses {
            let link = self.folders.addresses(&endpoint.network_id).join(address.to_string());
            if fs::read_link(&link).is_ok_and(|owner| owner.as_os_str() == endpoint.container.as_str()) {
                let _ = fs::remove_file(link);
            }
        }
    }
}

/// Makes the link that claims an address; `false` where another has it.
fn claim_link(folder: &Path, address: IpAddr, container: &str) -> Result<bool> {
    let link = folder.join(address.to_string());
    for _ in 0..2 {
        match std::os::unix::fs::symlink(container, &link) {
            Ok(()) => return Ok(true),
            Err(err) if err.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(err) if err.kind() == ErrorKind::NotFound => make_folder(folder)?,
            Err(err) => return Err(err).doing(|| format!("symlink {}", link.display())),
        }
    }
    Err(Error::new(Kind::Conflict, format!("make {}: it vanished again", folder.display())))
}

/// The beginning of an id.
fn short(id: &str, digits: usize) -> &str {
    id.get(..digits).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(dir: &Path) -> (Networks, Network) {
        let networks = Networks::new(Folders::new(dir, dir));
        let pool = Pool {
            subnet: "10.9.0.0/29".parse().unwrap(),
            range: None,
            gateway: "10.9.0.1".parse().unwrap(),
        };
        let network = Network {
            name: "n".into(),
            id: "ab".repeat(32),
            driver: "bridge".into(),
            pools: vec![pool],
            ..Network::default()
        };
        (networks, network)
    }

    #[test]
    fn addresses_are_unique_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let (networks, network) = networks(dir.path());
        let claim = |id: &str, wanted: &Wanted| networks.claim(&network, id, id, wanted, 0);
        let mut all: Vec<_> = (0..5).map(|n| claim(&n.to_string(), &Wanted::default()).unwrap()).collect();
        let addresses: Vec<_> = all.iter().map(|e| e.ipv4.unwrap().to_string()).collect();
        assert_eq!(addresses, ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
        assert_eq!(claim("x", &Wanted::default()).unwrap_err().kind(), Kind::Exhausted);
        networks.forget(&all.remove(2));
        let mac = all[0].mac.clone();
        assert_eq!(mac, "02:42:0a:09:00:02");
        let same = Wanted { ipv4: Some("10.9.0.2".parse().unwrap()), ..Wanted::default() };
        assert_eq!(claim("y", &same).unwrap_err().kind(), Kind::Conflict);
        assert_eq!(claim("z", &Wanted::default()).unwrap().ipv4.unwrap().to_string(), "10.9.0.4");
    }

    #[test]
    fn an_address_that_cannot_be_is_refused_and_nothing_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (networks, network) = networks(dir.path());
        for address in ["10.9.0.0", "10.9.0.1", "10.9.0.7", "10.9.0.8", "192.168.0.1"] {
            let wanted = Wanted { ipv4: Some(address.parse().unwrap()), ..Wanted::default() };
            assert!(networks.claim(&network, "a", "a", &wanted, 0).is_err(), "{address}");
        }
        let wanted = Wanted { ipv6: Some("fd00::5".parse().unwrap()), ..Wanted::default() };
        assert!(networks.claim(&network, "a", "a", &wanted, 0).is_err());
        assert_eq!(crate::folders::names(&networks.folders.addresses(&network.id)), [""; 0]);
    }
}
