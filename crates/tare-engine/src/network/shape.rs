//! Networks, and what a container has on them, in Docker's shape and words.

use std::net::IpAddr;

use serde_json::{Value, json};
use tare_network::Endpoint;
use tare_network::network::Network;
use tare_sys::Result;

use super::ports::container_ports;
use super::{MODES, id_of_mode, listed, networks, stands_for};
use crate::container::{Record, Roots};

/// A network in Docker's shape.
pub fn in_dockers_shape(network: &Network, endpoints: &[Endpoint]) -> Value {
    let config: Vec<Value> = network
        .pools
        .iter()
        .map(|pool| {
            let mut config = json!({ "Subnet": pool.subnet, "Gateway": pool.gateway });
            if let Some(range) = pool.range {
                config["IPRange"] = json!(range);
            }
            config
        })
        .collect();
    let containers: serde_json::Map<String, Value> = endpoints
        .iter()
        .map(|endpoint| {
            let value = json!({
                "Name": endpoint.name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": with_prefix(endpoint.ipv4.map(IpAddr::from), network),
                "IPv6Address": with_prefix(endpoint.ipv6.map(IpAddr::from), network),
            });
            (endpoint.container.clone(), value)
        })
        .collect();
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.pool(true).is_some(),
        "EnableIPv6": network.ipv6,
        "IPAM": { "Driver": "default", "Options": {}, "Config": config },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
        "Tare": { "Link": network.link },
    })
}

fn with_prefix(address: Option<IpAddr>, network: &Network) -> String {
    let prefix = |address: IpAddr| network.pool(address.is_ipv4()).map_or(0, |pool| pool.subnet.prefix);
    address.map_or_else(String::new, |address| format!("{address}/{}", prefix(address)))
}

/// `NetworkSettings` of `inspect`.
pub fn settings(roots: &Roots, record: &Record, running: bool, pid: i32) -> Result<Value> {
    let networks = networks(roots);
    let connections = if running { networks.connections(&record.id)? } else { Vec::new() };
    let mut all = serde_json::Map::new();
    for (name, settings) in listed(&record.request) {
        let found = connections.iter().find(|c| stands_for(&networks, &name, &c.network));
        let (mut value, name) = (json!(settings), found.map_or(name, |c| c.network.name.clone()));
        let is_mode = MODES.iter().any(|(mode, _)| *mode == name);
        let mode = if is_mode { id_of_mode(&name) } else { String::new() };
        value["NetworkID"] = json!(found.map_or(mode.as_str(), |c| c.network.id.as_str()));
        value["EndpointID"] = json!(found.map_or("", |c| c.endpoint.id.as_str()));
        for (ipv4, gateway, address, prefix) in [
            (true, "Gateway", "IPAddress", "IPPrefixLen"),
            (false, "IPv6Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen"),
        ] {
            let own = found.and_then(|c| match ipv4 {
                true => c.endpoint.ipv4.map(IpAddr::from),
                false => c.endpoint.ipv6.map(IpAddr::from),
            });
            let pool = found.and_then(|c| c.network.pool(ipv4)).filter(|_| own.is_some());
            let open = found.is_some_and(|c| !c.network.internal);
            let shown = pool.filter(|_| open).map_or_else(String::new, |pool| pool.gateway.to_string());
            value[gateway] = json!(shown);
            value[address] = json!(own.map_or_else(String::new, |own| own.to_string()));
            value[prefix] = json!(pool.map_or(0, |pool| pool.subnet.prefix));
        }
        if let Some(connection) = found {
            value["MacAddress"] = json!(connection.endpoint.mac);
            let short: String = record.id.chars().take(12).collect();
            let mut names = vec![record.name.clone()];
            names.extend(connection.endpoint.aliases.iter().cloned());
            names.push(short);
            value["DNSNames"] = json!(names);
        }
        for empty in ["DriverOpts", "Links"] {
            if value.get(empty).is_none() {
                value[empty] = Value::Null;
            }
        }
        all.insert(name, value);
    }
    let mut ports = serde_json::Map::new();
    for text in record.request.config.exposed_ports.keys().chain(&record.image.exposed_ports) {
        if let Ok((first, last, protocol)) = container_ports(text) {
            (first..=last).for_each(|port| {
                ports.insert(format!("{port}/{protocol}"), Value::Null);
            });
        }
    }
    for port in connections.iter().flat_map(|connection| &connection.endpoint.ports) {
        let entry = ports.entry(format!("{}/{}", port.container_port, port.protocol)).or_insert(Value::Null);
        let binding = json!({ "HostIp": port.address, "HostPort": port.port.to_string() });
        match entry {
            Value::Array(list) => list.push(binding),
            entry => *entry = json!([binding]),
        }
    }
    let first = all.get("bridge").cloned().unwrap_or(Value::Null);
    let of_first = |field: &str| first.get(field).cloned().unwrap_or_else(|| json!(""));
    Ok(json!({
        "Bridge": "",
        "SandboxKey": if running { format!("/proc/{pid}/ns/net") } else { String::new() },
        "Ports": ports,
        // Of the default network, as Docker had it before there were others.
        "Gateway": of_first("Gateway"),
        "IPAddress": of_first("IPAddress"),
        "IPPrefixLen": first.get("IPPrefixLen").cloned().unwrap_or_else(|| json!(0)),
        "MacAddress": of_first("MacAddress"),
        "Networks": all,
    }))
}
