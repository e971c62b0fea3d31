//! What this machine's owner says of registries: `registries.toml`.
//!
//! ```toml
//! ["docker.io"]                    # a registry, as it stands in image names; with its port, if it has one
//! mirrors = ["mirror.lan:5000"]    # asked first, in this order, for pulls; each may have its own table
//!
//! ["mirror.lan:5000"]
//! http = true                      # no TLS. Where nothing is said, that is so for registries on loopback only
//! insecure = false                 # true: any certificate is good
//! ca = "/etc/tare/mirror.pem"      # the certificates that are trusted, in place of the machine's
//! ```
//!
//! A key that is not known is an error: a misspelt `ca` would be worse than none.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tare_sys::{Context, Error, Kind, Result};

/// All registries that have settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Settings {
    registries: BTreeMap<String, HostSettings>,
}

/// How to speak to one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostSettings {
    /// Registries that are asked first for pulls.
    pub mirrors: Vec<String>,
    /// Without TLS; `None`: if it is on loopback.
    pub http: Option<bool>,
    /// With TLS, and any certificate will do.
    pub insecure: bool,
    /// A file of PEM certificates, trusted in place of the machine's.
    pub ca: Option<PathBuf>,
}

impl Settings {
    /// Reads the file; one that is not there says nothing.
    ///
    /// Errors: [`Kind::Usage`] for one that makes no sense.
    pub fn read(path: &Path) -> Result<Settings> {
        let text = match fs::read_to_string(path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Settings::default()),
            text => text.doing(|| format!("read {}", path.display()))?,
        };
        Settings::parse(&text).map_err(|err| err.context(format!("read {}", path.display())))
    }

    fn parse(text: &str) -> Result<Settings> {
        let settings: Settings =
            toml::from_str(text).map_err(|err| Error::new(Kind::Usage, err.to_string().trim().to_owned()))?;
        for (name, host) in &settings.registries {
            if host.http == Some(true) && (host.insecure || host.ca.is_some()) {
                let what = format!("registry {name}: there are no certificates without TLS");
                return Err(Error::new(Kind::Usage, what).hint("leave out http, or insecure and ca"));
            }
        }
        Ok(settings)
    }

    /// Those of one registry, as it stands in image names.
    pub fn of(&self, domain: &str) -> HostSettings {
        self.registries.get(domain).cloned().unwrap_or_default()
    }
}

impl HostSettings {
    /// Whether a registry is spoken to without TLS.
    pub(super) fn is_http(&self, domain: &str) -> bool {
        self.http.unwrap_or_else(|| is_loopback(domain) && !self.insecure && self.ca.is_none())
    }
}

/// Whether a registry is on this machine, so that nobody on the way can listen.
pub(super) fn is_loopback(domain: &str) -> bool {
    let host = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => domain.split_once(':').map_or(domain, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_without_a_table_has_tls_and_no_mirrors() {
        let text = "[\"docker.io\"]\nmirrors = [\"m:5000\"]\n[\"m:5000\"]\nhttp = true\n";
        let settings = Settings::parse(text).unwrap();
        assert_eq!(settings.of("docker.io").mirrors, ["m:5000"]);
        assert_eq!(settings.of("m:5000").http, Some(true));
        assert_eq!(settings.of("quay.io"), HostSettings::default());
    }

    #[test]
    fn only_loopback_goes_without_tls_unless_somebody_says_so() {
        let none = HostSettings::default();
        for name in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(none.is_http(name), "{name}");
        }
        for name in
            ["docker.io", "localhost.example.com", "10.0.0.1:5000", "127.0.0.1.example.com", "[fe80::1]"]
        {
            assert!(!none.is_http(name), "{name}");
        }
        assert!(!HostSettings { insecure: true, ..none.clone() }.is_http("localhost:5000"));
        assert!(!HostSettings { http: Some(false), ..none.clone() }.is_http("localhost:5000"));
        assert!(HostSettings { http: Some(true), ..none }.is_http("10.0.0.1:5000"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in
            ["[\"a.b\"]\ncertificate = \"x\"", "[\"a.b\"]\nhttp = true\ninsecure = true", "http = 1", "["]
        {
            assert_eq!(Settings::parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
