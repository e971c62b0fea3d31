//! What a container has on a network: addresses, a link, names.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use tare_sys::{Context, Error, Kind, Result};

use crate::folders::Folders;

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
}

impl Endpoint {
    /// All endpoints of a network, in no order.
    pub fn on(folders: &Folders, network_id: &str) -> Result<Vec<Endpoint>> {
        let folder = folders.endpoints(network_id);
        let entries = match std::fs::read_dir(&folder) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.doing(|| format!("list {}", folder.display()))?,
        };
        // One that is just being removed is not there any more.
        Ok(entries.flatten().filter_map(|entry| read(&entry.path()).ok()).collect())
    }
}

fn read(path: &std::path::Path) -> Result<Endpoint> {
    let text = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text)
        .map_err(|err| Error::new(Kind::Corrupt, format!("read {}: {err}", path.display())))
}
