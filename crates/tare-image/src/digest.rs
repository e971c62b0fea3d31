//! Digests: what a blob, a layer or an image is called by its content.
//!
//! The grammar is strict because digests end up in paths and URLs: `sha256:` and 64, or `sha512:` and 128,
//! lower-case hex digits, and nothing else. The store itself only writes sha256.

use std::fmt;

use serde::{Deserialize, Serialize};
use tare_sys::{Error, Kind, Result};

/// A checked digest, `sha256:…` or `sha512:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Checks `text` against the grammar; anything else is [`Kind::Usage`].
    pub fn parse(text: &str) -> Result<Digest> {
        let bad = |why: &str| {
            Err(Error::new(Kind::Usage, format!("digest {text:?}: {why}"))
                .hint("a digest is sha256: followed by 64 lower-case hex digits"))
        };
        let Some((algorithm, hex)) = text.split_once(':') else {
            return bad("no ':' between algorithm and hex digits");
        };
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return bad("unknown algorithm"),
        };
        if hex.len() != length {
            return bad("wrong number of hex digits");
        }
        if !is_lower_hex(hex) {
            return bad("not lower-case hex");
        }
        Ok(Digest(text.to_owned()))
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The hex digits alone.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The whole digest, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(text: String) -> Result<Digest> {
        Digest::parse(&text)
    }
}

/// Whether `text` is all `0-9a-f`.
pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// SHA-256 as the bytes flow.
#[derive(Clone, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn new() -> Hasher {
        Hasher::default()
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(format!("sha256:{}", hex(&sha2::Digest::finalize(self.0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_grammar() {
        let hex64 = "a".repeat(64);
        assert!(Digest::parse(&format!("sha256:{hex64}")).is_ok());
        assert!(Digest::parse(&format!("sha512:{hex64}{hex64}")).is_ok());
        for bad in [
            "",
            ":",
            "sha256",
            "sha256:",
            "sha256:../../x",
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha256:{}", "a".repeat(63)),
            &format!("sha256:{}", "a".repeat(65)),
            &format!("sha256:{hex64}\n"),
            &format!("md5:{}", "a".repeat(32)),
            &format!("SHA256:{hex64}"),
            &format!("sha512:{hex64}"),
            &format!("sha256:{}/", "a".repeat(63)),
        ] {
            assert_eq!(Digest::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn of_known_bytes() {
        assert_eq!(
            Digest::of(b"{}").as_str(),
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }
}
