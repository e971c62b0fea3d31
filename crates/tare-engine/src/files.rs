//! The three files that every container gets from the engine: `/etc/hosts`, `/etc/hostname`,
//! `/etc/resolv.conf`.

use std::fmt::Write;
use std::net::IpAddr;

use crate::request::HostConfig;

/// In place of an address in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

/// Where a container is on its networks.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Its addresses.
    pub own: Vec<IpAddr>,
    /// The host, as the container reaches it: what `host-gateway` stands for.
    pub gateways: Vec<IpAddr>,
    /// A name server of ours answers there.
    pub served: bool,
}

/// `/etc/hosts`: loopback, the container's own name, and `--add-host`.
pub fn hosts(hostname: &str, domainname: &str, extra: &[String], place: &Place) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for entry in extra {
        // `name:ip` and `name=ip`; an IPv6 address has colons of its own, so only the first one parts.
        let Some((name, address)) = entry.split_once(['=', ':']) else { continue };
        if address == HOST_GATEWAY {
            for gateway in &place.gateways {
                let _ = writeln!(text, "{gateway}\t{name}");
            }
        } else {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    let names = match domainname {
        "" => hostname.to_owned(),
        domain => format!("{hostname}.{domain} {hostname}"),
    };
    // Without an address of its own, one of loopback that is not localhost's, as Debian does.
    let alone = [IpAddr::from([127, 0, 1, 1])];
    let own = if place.own.is_empty() { &alone[..] } else { &place.own };
    for address in own {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

/// Whether `--add-host` asks for the host's address, which only a network has.
pub fn wants_gateway(request: &HostConfig) -> bool {
    request
        .extra_hosts
        .iter()
        .any(|entry| entry.split_once(['=', ':']).is_some_and(|(_, address)| address == HOST_GATEWAY))
}

/// `/etc/resolv.conf`: the host's, unless the request says otherwise. Where a name server of ours answers, it
/// is the only one: it asks the host's, or those of `--dns`, itself.
pub fn resolv_conf(host: &str, request: &HostConfig, served: bool) -> String {
    if !served && request.dns.is_empty() && request.dns_search.is_empty() && request.dns_options.is_empty() {
        return host.to_owned();
    }
    let kept = |word: &str| host.lines().filter(|line| line.starts_with(word)).collect::<Vec<_>>().join("\n");
    let mut text = String::new();
    let mut section = |asked: Vec<String>, fallback: String| {
        let lines = if asked.is_empty() { fallback } else { asked.join("\n") };
        if !lines.is_empty() {
            text.push_str(&lines);
            text.push('\n');
        }
    };
    if served {
        section(vec![format!("nameserver {}", tare_network::names::ADDRESS)], String::new());
    } else {
        section(
            request.dns.iter().map(|server| format!("nameserver {server}")).collect(),
            kept("nameserver"),
        );
    }
    let line = |word: &str, list: &[String]| match list {
        [] => Vec::new(),
        // "." alone means: no search domains at all (as Docker's --dns-search .).
        [only] if only == "." => vec![String::new()],
        list => vec![format!("{word} {}", list.join(" "))],
    };
    section(line("search", &request.dns_search), kept("search"));
    section(line("options", &request.dns_options), kept("options"));
    // A name without a dot is a container's first of all, and only then one of a search domain.
    if served && !text.contains("ndots:") {
        text.push_str("options ndots:0\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_the_own_name_and_extra_ones() {
        let extra =
            ["db:10.0.0.2".into(), "v6=[2001:db8::1]".into(), "host.docker.internal:host-gateway".into()];
        let text = hosts("web", "", &extra, &Place::default());
        assert!(text.contains("\n10.0.0.2\tdb\n") && text.contains("\n2001:db8::1\tv6\n"), "{text}");
        assert!(text.ends_with("127.0.1.1\tweb\n") && !text.contains("docker"), "{text}");
        let place = Place {
            own: vec!["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            gateways: vec!["10.88.0.1".parse().unwrap()],
            served: true,
        };
        let text = hosts("web", "lan", &extra, &place);
        assert!(
            text.ends_with("10.88.0.1\thost.docker.internal\n10.88.0.2\tweb.lan web\nfd00::2\tweb.lan web\n"),
            "{text}"
        );
        assert!(wants_gateway(&HostConfig { extra_hosts: extra.to_vec(), ..HostConfig::default() }));
        assert!(!wants_gateway(&HostConfig { extra_hosts: extra[..2].to_vec(), ..HostConfig::default() }));
    }

    #[test]
    fn resolv_conf_keeps_what_is_not_asked_for() {
        let host = "# c\nnameserver 1.1.1.1\nsearch example.org\n";
        assert_eq!(resolv_conf(host, &HostConfig::default(), false), host);
        let request = HostConfig { dns: vec!["9.9.9.9".into()], ..HostConfig::default() };
        assert_eq!(resolv_conf(host, &request, false), "nameserver 9.9.9.9\nsearch example.org\n");
    }

    #[test]
    fn a_served_container_asks_our_name_server_alone() {
        let host = "nameserver 1.1.1.1\nsearch example.org\noptions edns0\n";
        let of = |request: &HostConfig| resolv_conf(host, request, true);
        assert_eq!(
            of(&HostConfig { dns: vec!["9.9.9.9".into()], ..HostConfig::default() }),
            "nameserver 127.0.0.11\nsearch example.org\noptions edns0\noptions ndots:0\n"
        );
        let request = HostConfig {
            dns_search: vec![".".into()],
            dns_options: vec!["ndots:2".into(), "use-vc".into()],
            ..HostConfig::default()
        };
        assert_eq!(of(&request), "nameserver 127.0.0.11\n\noptions ndots:2 use-vc\n".replace("\n\n", "\n"));
    }
}
