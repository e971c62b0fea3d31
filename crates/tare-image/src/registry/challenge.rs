//! The `WWW-Authenticate` header: RFC 9110 section 11.6.1, and how registries use it (distribution, auth/token.md).

use std::collections::BTreeMap;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token, which `realm` gives out.
    Bearer {
        /// An address.
        realm: String,
        /// What the realm calls the registry.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads a header; `None` for a scheme that is not known here.
    pub fn parse(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut words = parameters(rest);
        Some(Challenge::Bearer { realm: words.remove("realm")?, service: words.remove("service") })
    }
}

/// `key="value", key=value`; what is in quotes may have commas and `\"`.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((key, rest)) = text.split_once('=') {
        let key = key.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
                (value.trim().to_owned(), rest)
            }
        };
        found.entry(key).or_insert(value);
        text = rest;
    }
    found
}

/// Up to the closing quote; and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_challenges_of_known_registries() {
        let hub = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"";
        let realm = "https://auth.docker.io/token".to_owned();
        let service = Some("registry.docker.io".to_owned());
        assert_eq!(Challenge::parse(hub), Some(Challenge::Bearer { realm, service }));
        assert_eq!(Challenge::parse("Basic realm=\"Registry Realm\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("basic"), Some(Challenge::Basic));
        let plain = Challenge::Bearer { realm: "http://x/y".to_owned(), service: None };
        assert_eq!(Challenge::parse("bearer Error=no, REALM=http://x/y"), Some(plain));
        for other in ["", "Negotiate", "Bearer", "Bearer service=\"x\""] {
            assert_eq!(Challenge::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "(Bearer )?[a-z=\"\\\\, é]*") {
            let _ = Challenge::parse(&header);
        }
    }
}
