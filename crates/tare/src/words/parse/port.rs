//! `--publish` and `--expose`, in all of Docker's forms.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tare_engine::request::PortBinding;

use super::Parsed;

/// A port of the container, `80/tcp`, and where it is published.
pub type Binding = (String, PortBinding);
/// All of them, as a request has them.
pub type Bindings = BTreeMap<String, Option<Vec<PortBinding>>>;

/// Gathers what is published by the container's ports.
pub fn bindings(all: impl Iterator<Item = Binding>) -> Bindings {
    let mut bindings = Bindings::new();
    for (port, binding) in all {
        bindings.entry(port).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

/// `[[IP:][HOST_PORT]:]CONTAINER_PORT[/PROTOCOL]`; ports may be ranges, the address one of IPv6 in brackets.
pub fn publish(text: &str) -> Parsed<Vec<Binding>> {
    let (rest, protocol) = protocol(text)?;
    let (rest, container) = match rest.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, rest),
    };
    let (first, last) = range(container, false)?.ok_or("there is no container port")?;
    let (address, host) = match rest {
        None => ("", ""),
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    let address = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("a bracket is not closed")?,
        // An IPv6 address without brackets cannot be told from ports.
        None if address.contains(':') => return Err("an address of IPv6 needs brackets".to_owned()),
        None => address,
    };
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("{address:?} is not an IP address"));
    }
    let host = range(host, true)?;
    if let Some((low, high)) = host
        && first != last
        && high - low != last - first
    {
        return Err("the two ranges are not of one length".to_owned());
    }
    let binding = |container: u16| {
        let host_port = match host {
            None => String::new(),
            Some((low, _)) if first != last => (low + (container - first)).to_string(),
            Some((low, high)) if low == high => low.to_string(),
            Some((low, high)) => format!("{low}-{high}"),
        };
        (format!("{container}/{protocol}"), PortBinding { host_ip: address.to_owned(), host_port })
    };
    Ok((first..=last).map(binding).collect())
}

/// `PORT[-PORT][/PROTOCOL]`, one entry each.
pub fn expose(text: &str) -> Parsed<Vec<String>> {
    let (ports, protocol) = protocol(text)?;
    let (first, last) = range(ports, false)?.ok_or("there is no port")?;
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn protocol(text: &str) -> Parsed<(&str, String)> {
    let Some((rest, protocol)) = text.rsplit_once('/') else { return Ok((text, "tcp".to_owned())) };
    match protocol.to_ascii_lowercase() {
        protocol if ["tcp", "udp", "sctp"].contains(&protocol.as_str()) => Ok((rest, protocol)),
        _ => Err(format!("{protocol:?} is not a protocol: tcp, udp or sctp")),
    }
}

/// A port or a range of them; `None` for nothing, or where it may for 0.
fn range(text: &str, zero: bool) -> Parsed<Option<(u16, u16)>> {
    if text.is_empty() {
        return Ok(None);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>()
            .ok()
            .filter(|_| digits)
            .ok_or_else(|| format!("{text:?} is not a port: 1 to 65535"))
    };
    match (port(first)?, port(last)?) {
        (0, 0) if zero => Ok(None),
        (0, _) | (_, 0) => Err("0 is not a port".to_owned()),
        (first, last) if first > last => Err(format!("{first}-{last} is not a range")),
        range => Ok(Some(range)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (String, String, String) {
        let mut all = publish(text).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        let (container, binding) = all.remove(0);
        (container, binding.host_ip, binding.host_port)
    }

    #[test]
    fn dockers_forms_are_understood() {
        let is = |text: &str, container: &str, address: &str, host: &str| {
            assert_eq!(one(text), (container.into(), address.into(), host.into()), "{text}");
        };
        is("80", "80/tcp", "", "");
        is("8080:80", "80/tcp", "", "8080");
        is("53:53/UDP", "53/udp", "", "53");
        is("127.0.0.1:8080:80", "80/tcp", "127.0.0.1", "8080");
        is("127.0.0.1::80", "80/tcp", "127.0.0.1", "");
        is("127.0.0.1:0:80", "80/tcp", "127.0.0.1", "");
        is("[::1]:8080:80/sctp", "80/sctp", "::1", "8080");
        is("[fd00::5]::80", "80/tcp", "fd00::5", "");
        is("8000-9000:80", "80/tcp", "", "8000-9000");
        let all = publish("7000-7002:80-82/udp").unwrap();
        let shown: Vec<_> = all.iter().map(|(c, b)| format!("{}:{c}", b.host_port)).collect();
        assert_eq!(shown, ["7000:80/udp", "7001:81/udp", "7002:82/udp"]);
        assert_eq!(publish("80-82").unwrap().len(), 3);
        assert_eq!(expose("80-81/udp").unwrap(), ["80/udp", "81/udp"]);
    }

    #[test]
    fn nonsense_has_a_reason() {
        for wrong in [
            "",
            ":",
            "::",
            "80:",
            "0",
            "x",
            "-1",
            "80-",
            "-80",
            "90-80",
            "65536",
            "1:2:3",
            "1.2.3:80:80",
            "::1:80:80",
            "[::1:80:80",
            "80/",
            "80/icmp",
            "80-82:80-81",
            "8000-8001:80-82",
            "+80",
            " 80",
            "80 ",
            "a:80",
            "1:2:3:4",
            "[]:x:80",
        ] {
            assert!(publish(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "0", "80-", "x/tcp", "80:80"] {
            assert!(expose(wrong).is_err(), "{wrong:?}");
        }
    }
}
