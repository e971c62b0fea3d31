//! What needs a network of the container's own to hold on.

use tare_sys::{Error, Kind, Result};

use crate::files;
use crate::request::HostConfig;

/// Refuses limits, and the address of the host as the network has it, where there is no network.
pub fn check_network(host: &HostConfig) -> Result<()> {
    let mode = host.network_mode.as_str();
    let why = match mode {
        "host" => "its network is the host's own",
        "none" | "private" => "there is no network",
        _ if mode.starts_with("container:") => {
            "its network is another container's: do that with the other one"
        }
        _ => return Ok(()),
    };
    let limits = &host.network_limits;
    let flag = match limits {
        _ if limits.incoming != 0 || limits.outgoing != 0 => "--net-rate",
        _ if limits.delay != 0 => "--net-delay",
        _ if limits.loss != 0 => "--net-loss",
        _ if files::wants_gateway(host) => "--add-host with host-gateway",
        _ => return Ok(()),
    };
    let shown = if mode.is_empty() { "default" } else { mode };
    Err(Error::new(Kind::Usage, format!("{flag} and --network {shown}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NetworkLimits;

    #[test]
    fn limits_and_the_hosts_address_need_a_network() {
        let limited = NetworkLimits { loss: 1, ..NetworkLimits::default() };
        for mode in ["none", "host", "container:web"] {
            let of = |limits, extra: &[&str]| HostConfig {
                network_mode: mode.into(),
                network_limits: limits,
                extra_hosts: extra.iter().map(|entry| (*entry).to_owned()).collect(),
                ..HostConfig::default()
            };
            check_network(&of(NetworkLimits::default(), &["a:10.0.0.1"])).unwrap();
            let err = check_network(&of(limited, &[])).unwrap_err().to_string();
            assert!(err.contains("--net-loss") && err.contains(mode), "{err}");
            let err = check_network(&of(NetworkLimits::default(), &["a:host-gateway"])).unwrap_err();
            assert!(err.to_string().contains("host-gateway"), "{err}");
        }
        let lan = HostConfig { network_mode: "lan".into(), network_limits: limited, ..HostConfig::default() };
        check_network(&lan).unwrap();
    }
}
