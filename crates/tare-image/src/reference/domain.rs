//! The registry's part of a name: `host[:port]`, host being a DNS name, an IPv4 or a bracketed IPv6 address.

use std::net::Ipv6Addr;

/// Checks a domain; the error says what is wrong with it.
pub(super) fn check(domain: &str) -> Result<(), String> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, after) =
                rest.split_once(']').ok_or_else(|| format!("the domain {domain} has no closing ']'"))?;
            address.parse::<Ipv6Addr>().map_err(|_| format!("[{address}] is not an IPv6 address"))?;
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err(format!("the domain {domain} goes on after ']'")),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    if let Some(host) = host {
        host.split('.').try_for_each(check_label)?;
    }
    match port {
        Some(port) if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("{port:?} is not a port"))
        }
        _ => Ok(()),
    }
}

fn check_label(label: &str) -> Result<(), String> {
    if label.is_empty() {
        return Err("the domain has an empty part".to_owned());
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(format!("the part {label:?} of the domain starts or ends with '-'"));
    }
    match label.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-')) {
        Some(odd) => Err(format!("{odd:?} cannot be in a domain")),
        None => Ok(()),
    }
}
