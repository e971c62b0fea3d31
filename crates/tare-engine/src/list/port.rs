//! Ports as `ps` shows them, and as its filters ask for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tare_network::port::Published;

use crate::container::Record;

/// `0.0.0.0:8080->80/tcp`, `[::]:8080->80/tcp`, `53/udp`: published ports, neighbours as one range, then those that
/// are exposed alone.
pub fn words(record: &Record, published: &[Published]) -> Vec<String> {
    let own = record.request.config.exposed_ports.keys();
    let exposed = own.chain(&record.image.exposed_ports).map(|port| match port.contains('/') {
        true => port.clone(),
        false => format!("{port}/tcp"),
    });
    shown(published, exposed.collect())
}

fn shown(published: &[Published], mut exposed: BTreeSet<String>) -> Vec<String> {
    let mut ports: Vec<(String, IpAddr, u16, u16)> = published
        .iter()
        .map(|port| (port.protocol.to_string(), port.address, port.container_port, port.port))
        .collect();
    ports.sort_by(|a, b| (a.1.is_ipv6(), a.1, &a.0, a.2, a.3).cmp(&(b.1.is_ipv6(), b.1, &b.0, b.2, b.3)));
    let mut words = Vec::new();
    let mut at = 0;
    while let Some((protocol, address, inside, host)) = ports.get(at) {
        exposed.remove(&format!("{inside}/{protocol}"));
        let mut length = 1_u16;
        while let Some(next) = ports.get(at + usize::from(length))
            && (&next.0, next.1) == (protocol, *address)
            && Some(next.2) == inside.checked_add(length)
            && Some(next.3) == host.checked_add(length)
        {
            exposed.remove(&format!("{}/{protocol}", next.2));
            length += 1;
        }
        let range = |first: u16| match length {
            1 => first.to_string(),
            _ => format!("{first}-{}", first + (length - 1)),
        };
        let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        words.push(format!("{address}:{}->{}/{protocol}", range(*host), range(*inside)));
        at += usize::from(length);
    }
    words.extend(exposed);
    words
}

/// `80`, `80/tcp`, `8000-8080/udp`: first, last and protocol; without one both count.
pub fn range(text: &str) -> Option<(u16, u16, Option<&str>)> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, Some(protocol)),
        None => (text, None),
    };
    if protocol.is_some_and(|protocol| !["tcp", "udp", "sctp"].contains(&protocol)) {
        return None;
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last, protocol))
}

/// Whether `shown` (`0.0.0.0:8080->80/tcp`) is published at a host's port that is asked for.
pub fn is_published(shown: &str, asked: &str) -> bool {
    let Some((host, inside)) = shown.split_once("->") else { return false };
    let protocol = inside.split_once('/').map_or("tcp", |(_, protocol)| protocol);
    let ports = host.rsplit(':').next().unwrap_or_default();
    overlap(&format!("{ports}/{protocol}"), asked)
}

/// Whether `shown` (`0.0.0.0:8080->80/tcp`, `53/udp`) is a container's port that is asked for.
pub fn is_exposed(shown: &str, asked: &str) -> bool {
    overlap(shown.split_once("->").map_or(shown, |(_, inside)| inside), asked)
}

fn overlap(there: &str, asked: &str) -> bool {
    match (range(there), range(asked)) {
        (Some((first, last, protocol)), Some((from, to, asked))) => {
            first <= to && from <= last && (asked.is_none() || protocol == asked)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        let port = |address: &str, port, container_port| Published {
            protocol: tare_network::port::Protocol::Tcp,
            address: address.parse().unwrap(),
            port,
            container_port,
        };
        let published = [
            port("0.0.0.0", 8081, 81),
            port("::", 8080, 80),
            port("0.0.0.0", 8080, 80),
            port("0.0.0.0", 9000, 82),
        ];
        let exposed = BTreeSet::from(["53/udp".to_owned(), "80/tcp".to_owned()]);
        let words = ["0.0.0.0:8080-8081->80-81/tcp", "0.0.0.0:9000->82/tcp", "[::]:8080->80/tcp", "53/udp"];
        assert_eq!(shown(&published, exposed), words);
        assert_eq!(shown(&[port("0.0.0.0", 65535, 65535)], BTreeSet::new()), ["0.0.0.0:65535->65535/tcp"]);
    }

    #[test]
    fn ports_are_compared_with_ranges() {
        assert_eq!(range("8000-8080/udp"), Some((8000, 8080, Some("udp"))));
        for text in ["", "x", "80-70", "80/icmp", "70000", "-", "80-", "/tcp"] {
            assert_eq!(range(text), None, "{text}");
        }
        assert!(is_published("0.0.0.0:8080->80/tcp", "8080"));
        assert!(is_published("[::]:8000-8010->80-90/tcp", "8005-9000/tcp"));
        assert!(!is_published("0.0.0.0:8080->80/tcp", "8080/udp"));
        assert!(!is_published("53/udp", "53"));
        assert!(is_exposed("53/udp", "53/udp") && is_exposed("0.0.0.0:8080->80/tcp", "80"));
    }
}
