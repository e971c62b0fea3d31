//! The three files that every container gets from the engine: `/etc/hosts`, `/etc/hostname`,
//! `/etc/resolv.conf`.

use std::fmt::Write;

use crate::request::HostConfig;

/// `/etc/hosts`: loopback, the container's own name, and `--add-host`.
pub fn hosts(hostname: &str, domainname: &str, extra: &[String]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for entry in extra {
        // `name:ip` and `name=ip`; an IPv6 address has colons of its own, so only the first one parts.
        if let Some((name, address)) = entry.split_once(['=', ':']) {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    // No network yet gives the container an address of its own.
    match domainname {
        "" => writeln!(text, "127.0.1.1\t{hostname}"),
        domain => writeln!(text, "127.0.1.1\t{hostname}.{domain} {hostname}"),
    }
    .unwrap_or_default();
    text
}

/// `/etc/resolv.conf`: the host's, unless the request says otherwise.
pub fn resolv_conf(host: &str, request: &HostConfig) -> String {
    if request.dns.is_empty() && request.dns_search.is_empty() && request.dns_options.is_empty() {
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
    section(request.dns.iter().map(|server| format!("nameserver {server}")).collect(), kept("nameserver"));
    let line = |word: &str, list: &[String]| match list {
        [] => Vec::new(),
        // "." alone means: no search domains at all (as Docker's --dns-search .).
        [only] if only == "." => vec![String::new()],
        list => vec![format!("{word} {}", list.join(" "))],
    };
    section(line("search", &request.dns_search), kept("search"));
    section(line("options", &request.dns_options), kept("options"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_the_own_name_and_extra_ones() {
        let text = hosts("web", "", &["db:10.0.0.2".into(), "v6=[2001:db8::1]".into()]);
        assert!(text.contains("\n10.0.0.2\tdb\n") && text.contains("\n2001:db8::1\tv6\n"), "{text}");
        assert!(text.ends_with("127.0.1.1\tweb\n"));
    }

    #[test]
    fn resolv_conf_keeps_what_is_not_asked_for() {
        let host = "# c\nnameserver 1.1.1.1\nsearch example.org\n";
        assert_eq!(resolv_conf(host, &HostConfig::default()), host);
        let request = HostConfig { dns: vec!["9.9.9.9".into()], ..HostConfig::default() };
        assert_eq!(resolv_conf(host, &request), "nameserver 9.9.9.9\nsearch example.org\n");
    }
}
