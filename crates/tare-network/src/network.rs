//! A network, as it was asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::subnet::Subnet;

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
