//! Image names as Docker reads them: `NAME[:TAG][@DIGEST]`.
//!
//! ```text
//! name    = [domain "/"] path          at most 255 bytes
//! domain  = host [":" port]            holds a '.' or ':', or is localhost, or has a capital; else it is path
//! path    = part *("/" part)           part: a-z 0-9, with '.', '_', '__' or dashes between
//! tag     = [A-Za-z0-9_] *127[A-Za-z0-9_.-]
//! ```
//!
//! A name is kept whole (`docker.io/library/busybox:latest`) and printed as people write it (`busybox:latest`).

mod domain;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use tare_sys::{Context, Error, Kind, Result};

use crate::digest::{Digest, is_lower_hex};

/// What a name without a domain belongs to.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Docker's other, older word for [`DEFAULT_DOMAIN`].
const OLD_DEFAULT_DOMAIN: &str = "index.docker.io";
/// Where the default domain keeps names of one part.
const OFFICIAL: &str = "library/";
/// Bytes in a name, without tag and digest.
const NAME_MAX: usize = 255;
/// Bytes in a tag.
const TAG_MAX: usize = 128;

/// A checked image name. `Display` gives the familiar form, [`full`](Reference::full) the one that is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a name as a person types it. A name with neither tag nor digest gets the tag `latest`.
    ///
    /// Errors are [`Kind::Usage`], say what is wrong, and carry a hint.
    pub fn parse(text: &str) -> Result<Reference> {
        let bad = |why: &str| Error::new(Kind::Usage, format!("image name {}: {why}", quote(text)));
        if text.is_empty() {
            return Err(
                bad("it is empty").hint("a name looks like busybox, busybox:1.36 or host:5000/team/app:v2")
            );
        }
        // The longest that can be right; keeps the messages short too.
        if text.len() > NAME_MAX + 1 + TAG_MAX + 1 + "sha512:".len() + 128 {
            return Err(bad("it is too long").hint("a name has at most 255 characters, a tag at most 128"));
        }
        if text.len() == 64 && is_lower_hex(text) {
            return Err(bad("64 hex digits are an image id, not a name").hint("choose another name"));
        }

        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(Digest::parse(digest).doing(|| format!("image name {}", quote(text)))?))
            }
            None => (text, None),
        };
        // A ':' after the last '/' starts the tag; before it, it is a port.
        let (name, tag) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains('/') => (&rest[..colon], Some(&rest[colon + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(|why| {
                bad(&why).hint("a tag has at most 128 letters, digits, '_', '.' and '-', and starts with none of the last two")
            })?;
        }
        let (domain, path) = split_domain(name);
        domain::check(&domain)
            .map_err(|why| bad(&why).hint("a domain looks like registry.example.com:5000"))?;
        check_path(&path).map_err(|why| {
            let err = bad(&why);
            if path.bytes().any(|b| b.is_ascii_uppercase()) {
                err.hint(format!("write it in lower case: {}", text.to_lowercase()))
            } else {
                err.hint("a name is lower-case letters and digits, with single '.', '_', or '-' between, and '/' between its parts")
            }
        })?;
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(bad("it is longer than 255 characters").hint("shorten it"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference { domain, path, tag, digest })
    }

    /// The registry: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The name within the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Domain and path: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag; `None` only where a digest was given without one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest digest, where one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same without a tag, if there is a digest: that says it all.
    pub fn by_digest(&self) -> Reference {
        let tag = if self.digest.is_some() { None } else { self.tag.clone() };
        Reference { tag, ..self.clone() }
    }

    /// The form that is stored: nothing left out.
    pub fn full(&self) -> String {
        self.name() + &self.suffix()
    }

    /// The name as people write it, without tag and digest: `busybox`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        let short = match self.path.strip_prefix(OFFICIAL) {
            Some(official) if !official.contains('/') => official,
            _ => &self.path,
        };
        // `docker.io/localhost/app` cannot be shortened: `localhost/app` means something else. The same
        // holds where the first part would read as a domain.
        if split_domain(short) == (self.domain.clone(), self.path.clone()) {
            short.to_owned()
        } else {
            self.name()
        }
    }

    /// `:tag@digest`, whichever of them there are.
    fn suffix(&self) -> String {
        let mut out = String::new();
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(digest.as_str());
        }
        out
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.familiar_name(), self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Error;
    fn from_str(text: &str) -> Result<Reference> {
        Reference::parse(text)
    }
}

/// Whether the first part is a domain is decided by its looks, as Docker does.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == OLD_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("{OFFICIAL}{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

fn looks_like_domain(first: &str) -> bool {
    first == "localhost" || first.bytes().any(|b| matches!(b, b'.' | b':') || b.is_ascii_uppercase())
}

fn check_tag(tag: &str) -> Result<(), String> {
    if tag.is_empty() {
        return Err("the tag after ':' is empty".to_owned());
    }
    if tag.len() > TAG_MAX {
        return Err("the tag is longer than 128 characters".to_owned());
    }
    if let Some(odd) = tag.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))) {
        return Err(format!("{odd:?} cannot be in a tag"));
    }
    if tag.starts_with(['.', '-']) {
        return Err(format!("the tag {tag} starts with '.' or '-'"));
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    let shown = path.strip_prefix(OFFICIAL).unwrap_or(path);
    if shown.is_empty() {
        return Err("there is no name in it".to_owned());
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("capitals are not allowed".to_owned());
    }
    path.split('/').try_for_each(check_path_part)
}

/// `alnum+ (separator alnum+)*`, where a separator is `.`, `_`, `__` or any number of dashes.
fn check_path_part(part: &str) -> Result<(), String> {
    if part.is_empty() {
        return Err("there is nothing between two '/', or at the start or end".to_owned());
    }
    let mut separator = String::new();
    // Starting "after a separator" refuses one at the start.
    let mut letters = false;
    for c in part.chars() {
        match c {
            'a'..='z' | '0'..='9' => {
                if letters && !separator.is_empty() && !is_separator(&separator) {
                    return Err(format!("{separator:?} cannot stand between two characters"));
                }
                letters = true;
                separator.clear();
            }
            '.' | '_' | '-' if letters => separator.push(c),
            '.' | '_' | '-' => return Err(format!("{part:?} starts with {c:?}")),
            odd => return Err(format!("{odd:?} cannot be in a name")),
        }
    }
    if separator.is_empty() { Ok(()) } else { Err(format!("{part:?} ends with {separator:?}")) }
}

fn is_separator(text: &str) -> bool {
    matches!(text, "." | "_" | "__") || text.bytes().all(|b| b == b'-')
}

/// What a person typed, for a message: quoted, and cut where it is absurdly long.
fn quote(text: &str) -> String {
    let cut: String = text.chars().take(300).collect();
    format!("{cut:?}")
}
