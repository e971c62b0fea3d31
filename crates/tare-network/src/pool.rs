//! Which subnets a network gets: those it asks for, or free ones out of the pool.
//!
//! The pool is 10.120.0.0/13, which neither Docker (172.17.0.0/12, 192.168.0.0/16), Podman (10.88.0.0/15) nor
//! most home routers and VPNs begin in: 2,048 subnets of 256 addresses, of which the default network takes 16 at
//! once. What the host routes elsewhere is passed over.

use std::net::{IpAddr, Ipv4Addr};

use tare_sys::{Error, Kind, Result};

use crate::network::{Network, Pool, WantedNetwork, WantedPool};
use crate::subnet::{Subnet, from_number};

const FIRST: u32 = u32::from_be_bytes([10, 120, 0, 0]);
/// Addresses of the pool: a /13.
const SIZE: u32 = 1 << 19;
/// Length of a subnet that nobody asked for.
pub const PREFIX: u8 = 24;
/// The same for the default network, which holds more containers.
pub const DEFAULT_PREFIX: u8 = 20;

/// The subnets of a network that is to be made. `routed`: what the host routes elsewhere; `id`: 32 random bytes.
pub fn choose(
    wanted: &WantedNetwork,
    prefix: u8,
    routed: &[Subnet],
    others: &[Network],
    id: &[u8; 32],
) -> Result<Vec<Pool>> {
    let ours = || others.iter().flat_map(|other| other.pools.iter().map(move |pool| (other, pool)));
    let mut pools = Vec::new();
    for pool in &wanted.pools {
        pools.push(complete(pool)?);
    }
    for (at, pool) in pools.iter().enumerate() {
        if let Some((other, theirs)) = ours().find(|(_, theirs)| theirs.subnet.overlaps(&pool.subnet)) {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "the subnet {} overlaps with {} of the network {}: Pool overlaps with other one on this \
                     address space",
                    pool.subnet, theirs.subnet, other.name
                ),
            )
            .hint("choose another subnet, or none for one that is free"));
        }
        if pools[..at].iter().any(|before| before.subnet.is_ipv4() == pool.subnet.is_ipv4()) {
            return Err(Error::new(
                Kind::Usage,
                format!("{}: a network has one subnet a family", pool.subnet),
            )
            .hint("give one --subnet for IPv4, and one for IPv6"));
        }
        // A macvlan network lies in a subnet of the host's; a bridge would take its packets away.
        if wanted.driver != "macvlan"
            && let Some(route) = routed.iter().find(|route| route.overlaps(&pool.subnet) && route.prefix > 0)
        {
            return Err(Error::new(
                Kind::Conflict,
                format!("the subnet {} overlaps with {route}, which the host has a route to", pool.subnet),
            )
            .hint("choose another subnet, or none for one that is free; see `ip route`"));
        }
    }
    let has = |pools: &[Pool], ipv4: bool| pools.iter().any(|pool| pool.subnet.is_ipv4() == ipv4);
    if !has(&pools, true) && (pools.is_empty() || !wanted.ipv6) {
        let step = 1_u32 << (32 - prefix);
        let free = (0..SIZE / step)
            .filter_map(|n| Subnet::of(Ipv4Addr::from(FIRST + n * step).into(), prefix))
            .find(|subnet| {
                !routed.iter().any(|route| route.overlaps(subnet))
                    && !ours().any(|(_, pool)| pool.subnet.overlaps(subnet))
            })
            .ok_or_else(|| {
                Error::new(Kind::Exhausted, "all subnets of 10.120.0.0/13 are taken")
                    .hint("remove networks (`tare network prune`), or give it a --subnet")
            })?;
        pools.insert(0, complete(&WantedPool { subnet: Some(free), ..WantedPool::default() })?);
    }
    if wanted.ipv6 && !has(&pools, false) {
        // A random one of RFC 4193, section 3.2.
        let mut bytes = [0; 16];
        bytes[0] = 0xfd;
        bytes[1..8].copy_from_slice(&id[8..15]);
        let subnet = Subnet::of(IpAddr::from(bytes), 64);
        pools.push(complete(&WantedPool { subnet, ..WantedPool::default() })?);
    }
    pools.sort_by_key(|pool| !pool.subnet.is_ipv4());
    Ok(pools)
}

/// Fills in what a subnet needs, and checks it.
fn complete(wanted: &WantedPool) -> Result<Pool> {
    let wrong = |what: String| Error::new(Kind::Usage, what);
    let Some(subnet) = wanted.subnet else {
        return Err(wrong("a gateway or an IP range without a subnet".to_owned()).hint("add --subnet"));
    };
    if subnet.prefix > if subnet.is_ipv4() { 30 } else { 126 } {
        return Err(wrong(format!("the subnet {subnet} has no room for a bridge and a container")));
    }
    if subnet.first.is_loopback() || subnet.first.is_multicast() || subnet.first.is_unspecified() {
        return Err(
            wrong(format!("the subnet {subnet} is no one's to give away")).hint("for example 10.20.0.0/24")
        );
    }
    if let Some(range) = wanted.range
        && (!subnet.contains(range.first) || range.prefix < subnet.prefix)
    {
        return Err(wrong(format!("the range {range} does not lie in the subnet {subnet}")));
    }
    let gateway = match wanted.gateway {
        Some(gateway) if !subnet.contains(gateway) => {
            return Err(wrong(format!("the gateway {gateway} does not lie in the subnet {subnet}")));
        }
        // The whole subnet's, and everybody's in it.
        Some(gateway) if gateway.is_ipv4() && (gateway == subnet.first || gateway == subnet.last()) => {
            return Err(wrong(format!("the gateway {gateway} is no address for one in the subnet {subnet}"))
                .hint("leave --gateway out, or give one in between"));
        }
        Some(gateway) => gateway,
        None => from_number(crate::subnet::number(subnet.first) + 1, subnet.is_ipv4()),
    };
    Ok(Pool { subnet, range: wanted.range, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> WantedNetwork {
        WantedNetwork::default()
    }

    fn subnets(pools: &[Pool]) -> Vec<String> {
        pools.iter().map(|pool| pool.subnet.to_string()).collect()
    }

    #[test]
    fn what_the_host_routes_and_other_networks_have_is_passed_over() {
        let routed = ["10.120.0.0/24".parse().unwrap()];
        let first = choose(&plain(), 24, &routed, &[], &[0; 32]).unwrap();
        assert_eq!(subnets(&first), ["10.120.1.0/24"]);
        assert_eq!(first[0].gateway.to_string(), "10.120.1.1");
        let other = Network { pools: first, ..Network::default() };
        let second = choose(&plain(), 24, &routed, &[other], &[0; 32]).unwrap();
        assert_eq!(subnets(&second), ["10.120.2.0/24"]);
        let all = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(choose(&plain(), 24, &all, &[], &[0; 32]).unwrap_err().kind(), Kind::Exhausted);
    }

    #[test]
    fn ipv6_gets_a_subnet_of_its_own() {
        let wanted = WantedNetwork { ipv6: true, ..plain() };
        let pools = choose(&wanted, 24, &[], &[], &[7; 32]).unwrap();
        assert_eq!(subnets(&pools), ["10.120.0.0/24", "fd07:707:707:707::/64"]);
    }

    #[test]
    fn what_was_asked_for_is_checked() {
        let ask = |subnet: &str, range: Option<&str>, gateway: Option<&str>| {
            let pool = WantedPool {
                subnet: Some(subnet.parse().unwrap()),
                range: range.map(|text| text.parse().unwrap()),
                gateway: gateway.map(|text| text.parse().unwrap()),
            };
            choose(&WantedNetwork { pools: vec![pool], ..plain() }, 24, &[], &[], &[0; 32])
        };
        ask("10.9.0.0/16", Some("10.9.5.0/24"), Some("10.9.0.9")).unwrap();
        assert!(ask("10.9.0.0/31", None, None).is_err());
        assert!(ask("10.9.0.0/16", Some("10.8.0.0/24"), None).is_err());
        assert!(ask("10.9.0.0/16", Some("10.0.0.0/8"), None).is_err());
        assert!(ask("10.9.0.0/16", None, Some("10.8.0.1")).is_err());
        assert!(ask("10.9.0.0/16", None, Some("10.9.0.0")).is_err());
        assert!(ask("10.9.0.0/16", None, Some("10.9.255.255")).is_err());
        ask("fd00::/64", None, Some("fd00::")).unwrap();
        assert!(ask("127.0.0.0/8", None, None).is_err());
        assert!(ask("224.0.0.0/8", None, None).is_err());
    }
}
