//! What an image says about how to run it, in Docker's words, and the platform it is for.
//!
//! Nothing here is trusted: the engine's policy checks every value before it steers anything (invariant I6).

mod change;
mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use tare_sys::{Error, Kind, Result};

pub use change::Change;
pub use document::HistoryLine;
pub(crate) use document::{Described, Step, describe, document, extend};

/// The `config` part of an OCI image configuration. Absent and `null` read as empty; unknown fields are
/// skipped (the blob in the store keeps them).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `uid`, `user`, `uid:gid`, `user:group`; empty means root.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub user: String,
    /// `80/tcp`, `53/udp`.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// What is put in front of the command.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// The command where the person gives none.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Folders that get a volume of their own.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// Where the command starts; empty means `/`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub working_dir: String,
    /// Labels by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal `stop` sends, `SIGTERM` or a number; empty means SIGTERM.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub stop_signal: String,
    /// How to tell whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What a check in the shell's words is handed to; empty means `/bin/sh -c`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub shell: Vec<String>,
}

/// How to tell whether a container is well (Docker's `HealthConfig`). Times are nanoseconds; 0 means that another says
/// it: of a container its image, of an image Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", WORD…]`, `["CMD-SHELL", SCRIPT]`; empty: another says it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub test: Vec<String>,
    /// From the end of one check to the next.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// How long one may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// After the start, while failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// The interval meanwhile.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// How many failures in a row make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl ImageConfig {
    /// One that says something in every field, so that their names show.
    fn filled() -> ImageConfig {
        let word = || "x".to_owned();
        ImageConfig {
            user: word(),
            exposed_ports: BTreeSet::from([word()]),
            env: vec![word()],
            entrypoint: vec![word()],
            cmd: vec![word()],
            volumes: BTreeSet::from([word()]),
            working_dir: word(),
            labels: BTreeMap::from([(word(), word())]),
            stop_signal: word(),
            healthcheck: Some(Healthcheck::default()),
            shell: vec![word()],
        }
    }
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A set written as Docker writes one: an object whose values are `{}`.
mod keys {
    use super::*;
    use serde::Serializer;

    pub(super) fn serialize<S: Serializer>(set: &BTreeSet<String>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(set.iter().map(|key| (key, BTreeMap::<String, String>::new())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(from)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

/// `os/architecture[/variant]` in Go's words: `linux/amd64`, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`; mostly absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine this runs on.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            same => (same, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether an image for this platform is what somebody who asks for `wanted` means, who may leave out the variant.
    pub fn serves(&self, wanted: &Platform) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none() || self.variant == wanted.variant)
    }

    /// Reads `linux/arm64`, `linux/arm/v7`, or `arm64` alone; [`Kind::Usage`] for anything else.
    pub fn parse(text: &str) -> Result<Platform> {
        let bad = |why: &str| {
            Error::new(Kind::Usage, format!("platform {text:?}: {why}"))
                .hint("a platform looks like linux/amd64 or linux/arm/v7")
        };
        let parts: Vec<&str> = text.split('/').collect();
        let odd = |part: &&str| {
            part.is_empty()
                || part.len() > 64
                || !part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        };
        if parts.iter().any(odd) {
            return Err(bad("not words with '/' between"));
        }
        let (os, architecture, variant) = match parts[..] {
            ["linux"] => return Ok(Platform::host()),
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(bad("too many parts")),
        };
        if os != "linux" {
            return Err(bad("only linux images can be stored"));
        }
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            same => same,
        };
        Ok(Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"User":"","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],
                "Volumes":null,"Labels":null,"OnBuild":null,"StopSignal":"SIGQUIT"}"#,
        )
        .unwrap();
        assert_eq!(config.exposed_ports.first().map(String::as_str), Some("80/tcp"));
        assert_eq!(
            (config.cmd.len(), config.entrypoint.len(), config.stop_signal.as_str()),
            (0, 1, "SIGQUIT")
        );
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""ExposedPorts":{"80/tcp":{}}"#), "{text}");
        assert_eq!(serde_json::from_str::<ImageConfig>(&text).unwrap(), config);
    }

    #[test]
    fn platforms() {
        assert_eq!(Platform::parse("linux/arm/v7").unwrap().to_string(), "linux/arm/v7");
        assert_eq!(Platform::parse("aarch64").unwrap().to_string(), "linux/arm64");
        for bad in ["", "/", "linux/", "windows/amd64", "a/b/c/d", "linux/a b", "linux/../x"] {
            assert_eq!(Platform::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        // What is taken in its short form is taken in its long one.
        assert!(Platform::parse(&"x".repeat(64)).is_ok_and(|p| Platform::parse(&p.to_string()).is_ok()));
        assert!(Platform::parse(&"x".repeat(65)).is_err());
    }
}
