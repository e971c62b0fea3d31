//! The variables that a link brings. Source: Docker's documentation, "Legacy container links".

use std::net::IpAddr;

/// A container that this one is linked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// What it is called here.
    pub alias: String,
    /// `/web/alias`.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// `80/tcp`: what it exposes.
    pub ports: Vec<String>,
    /// Its own variables.
    pub env: Vec<String>,
}

/// `ALIAS_PORT_80_TCP_ADDR=…` and all the others.
pub fn env(linked: &Linked) -> Vec<String> {
    let alias = linked.alias.to_uppercase().replace('-', "_");
    let address = linked.address;
    let mut ports: Vec<(u16, &str)> = linked
        .ports
        .iter()
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol))
        })
        .collect();
    // TCP before the others, which is the order of the alphabet but for SCTP.
    ports.sort_by_key(|(number, protocol)| (*number, *protocol != "tcp", *protocol));
    ports.dedup();
    let mut env = Vec::new();
    if let Some((number, protocol)) = ports.first() {
        env.push(format!("{alias}_PORT={protocol}://{address}:{number}"));
    }
    for (number, protocol) in ports {
        let prefix = format!("{alias}_PORT_{number}_{}", protocol.to_uppercase());
        env.push(format!("{prefix}={protocol}://{address}:{number}"));
        env.push(format!("{prefix}_ADDR={address}"));
        env.push(format!("{prefix}_PORT={number}"));
        env.push(format!("{prefix}_PROTO={protocol}"));
    }
    env.push(format!("{alias}_NAME={}", linked.name));
    for pair in &linked.env {
        if !["HOME", "PATH"].contains(&pair.split('=').next().unwrap_or_default()) {
            env.push(format!("{alias}_ENV_{pair}"));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_dockers() {
        let linked = Linked {
            alias: "my-db".into(),
            name: "/web/my-db".into(),
            address: "172.17.0.5".parse().unwrap(),
            ports: ["5433/tcp", "5432/udp", "5432/tcp", "odd"].map(str::to_owned).to_vec(),
            env: ["PATH=/bin", "PASSWORD=x=y"].map(str::to_owned).to_vec(),
        };
        let env = env(&linked);
        assert_eq!(
            env[..3],
            [
                "MY_DB_PORT=tcp://172.17.0.5:5432",
                "MY_DB_PORT_5432_TCP=tcp://172.17.0.5:5432",
                "MY_DB_PORT_5432_TCP_ADDR=172.17.0.5"
            ]
        );
        assert_eq!(env[3..5], ["MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_PROTO=tcp"]);
        assert_eq!(env[5], "MY_DB_PORT_5432_UDP=udp://172.17.0.5:5432");
        assert_eq!(env[env.len() - 2..], ["MY_DB_NAME=/web/my-db", "MY_DB_ENV_PASSWORD=x=y"]);
        assert_eq!(env.len(), 1 + 3 * 4 + 2);
    }
}
