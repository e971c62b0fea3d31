//! What a registry has (distribution-spec, "Content discovery" and "Content management"): repositories, tags, what refers
//! to an image; and taking something away. Mirrors are not asked: it is about the registry itself.
//!
//! A list comes in pages. The next one's address is believed only on the same server, and there is an end to them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tare_sys::{Context, Error, Kind, Result};
use ureq::Body;
use ureq::http::header::{CONTENT_TYPE, LINK};
use ureq::http::{Response, StatusCode};

use super::Repository;
use super::credentials::CredentialFiles;
use super::endpoint::{Ask, Endpoint, with};
use super::settings::Settings;
use crate::digest::Digest;
use crate::documents;
use crate::reference::Reference;

/// Names in one list.
const MOST: usize = 1_000_000;
/// Of one answer.
const PAGE: &str = "n=1000";

/// Something that refers to an image: a signature, a list of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// What it is: `application/vnd.example.sbom+json`.
    pub artifact_type: String,
    /// Its manifest.
    pub digest: Digest,
    /// The manifest's bytes.
    pub size: u64,
    /// Notes on it.
    pub annotations: BTreeMap<String, String>,
}

/// One line of what a registry finds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// The repository, as one pulls it.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// How many people like it.
    pub star_count: u64,
    /// Whether it is one of Docker's own.
    pub is_official: bool,
}

/// The repositories of a registry, sorted.
///
/// Errors: [`Kind::Unsupported`] for a registry that does not tell.
pub fn repositories(domain: &str, settings: &Settings, logins: &CredentialFiles) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        repositories: Option<Vec<String>>,
    }
    let scope = "registry:catalog:*".to_owned();
    let endpoint = Endpoint::new(domain, &settings.of(domain), vec![scope], logins.find(domain, "")?)?;
    let what = format!("list the repositories of {domain}");
    let found = pages(&endpoint, "/v2/_catalog", &what, |page: Page| page.repositories);
    found.map_err(|err| match err.kind() {
        Kind::NotFound | Kind::Permission => err
            .with_kind(Kind::Unsupported)
            .hint("many registries tell nobody what they have: name the repository"),
        _ => err,
    })
}

/// What a registry finds for a word, by the old interface of Docker Hub; on a registry without one, the repositories whose
/// names have the word.
///
/// Errors: as [`repositories`].
pub fn search(
    domain: &str,
    word: &str,
    limit: usize,
    settings: &Settings,
    logins: &CredentialFiles,
) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    struct Answer {
        results: Vec<Found>,
    }
    let host = if domain == "docker.io" { "index.docker.io" } else { domain };
    let endpoint = Endpoint::new(host, &settings.of(domain), Vec::new(), None)?;
    let path = format!("/v1/search?q={}&n={limit}", escaped(word));
    let what = format!("search {domain} for {word:?}");
    let mut answer = endpoint.get(Ask { path: &path, ..Ask::default() })?;
    match answer.status() {
        StatusCode::OK => {
            let mut found = read::<Answer>(&mut answer, &what)?.results;
            found.truncate(limit);
            if domain != "docker.io" {
                found.iter_mut().for_each(|line| line.name = format!("{domain}/{}", line.name));
            }
            Ok(found)
        }
        // Registries of today have no search.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNAUTHORIZED
            if domain != "docker.io" =>
        {
            let names = repositories(domain, settings, logins).map_err(|err| err.context(what))?;
            let fitting = names.into_iter().filter(|name| name.contains(word)).take(limit);
            Ok(fitting.map(|name| Found { name: format!("{domain}/{name}"), ..Found::default() }).collect())
        }
        _ => Err(endpoint.refused(&mut answer, what)),
    }
}

impl Repository {
    /// The tags, sorted.
    ///
    /// Errors: [`Kind::NotFound`] for a repository that is not there; those of the registry.
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let endpoint = self.itself()?;
        let what = format!("list the tags of {}/{}", endpoint.domain, self.path);
        pages(endpoint, &format!("/v2/{}/tags/list", self.path), &what, |page: Page| page.tags)
    }

    /// What refers to an image there.
    ///
    /// Errors: [`Kind::NotFound`] for an image that is not there; those of the registry.
    pub fn referrers(&self, name: &Reference) -> Result<Vec<Referrer>> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Line>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Line {
            digest: Digest,
            size: u64,
            #[serde(default)]
            artifact_type: String,
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        let (endpoint, digest) = (self.itself()?, self.digest_of(name)?);
        let what = format!("list what refers to {name}");
        let path = format!("/v2/{}/referrers/{digest}", self.path);
        let mut answer = endpoint.get(Ask { path: &path, ..Ask::default() })?;
        if answer.status() == StatusCode::NOT_FOUND {
            // A registry that does not know the question keeps the answer under a tag (distribution-spec, "Referrers tag
            // schema").
            let tag = digest.as_str().replace(':', "-");
            let path = format!("/v2/{}/manifests/{tag}", self.path);
            answer = endpoint.get(Ask { path: &path, accept: &documents::MANIFESTS, ..Ask::default() })?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Ok(Vec::new());
            }
        }
        if answer.status() != StatusCode::OK {
            return Err(endpoint.refused(&mut answer, what));
        }
        let lines = read::<Index>(&mut answer, &what)?.manifests.into_iter();
        Ok(lines
            .map(|line| Referrer {
                artifact_type: line.artifact_type,
                digest: line.digest,
                size: line.size,
                annotations: line.annotations,
            })
            .collect())
    }

    /// Takes a tag away, or with a digest an image and all its tags.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Unsupported`] for a registry that does not do that.
    pub fn delete(&self, name: &Reference) -> Result<()> {
        let endpoint = self.itself()?;
        let wanted = name.digest().map(Digest::as_str).or(name.tag()).unwrap_or("latest");
        let path = format!("/v2/{}/manifests/{wanted}", self.path);
        let mut answer =
            endpoint.send("DELETE", &path, &|agent, url, shown| with(agent.delete(url), shown).call())?;
        let what = format!("delete {name} in its registry");
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST if name.digest().is_none() => {
                let digest = self.digest_of(name)?;
                Err(endpoint.refused(&mut answer, what).with_kind(Kind::Unsupported).hint(format!(
                    "this registry deletes whole images only, with all their tags: {}/{}@{digest}",
                    endpoint.domain, self.path
                )))
            }
            StatusCode::METHOD_NOT_ALLOWED => Err(endpoint
                .refused(&mut answer, what)
                .with_kind(Kind::Unsupported)
                .hint("the registry's owner has to allow it")),
            _ => Err(endpoint.refused(&mut answer, what)),
        }
    }

    /// The digest of what a name stands for in the registry itself.
    fn digest_of(&self, name: &Reference) -> Result<Digest> {
        if let Some(digest) = name.digest() {
            return Ok(digest.clone());
        }
        let endpoint = self.itself()?;
        let path = format!("/v2/{}/manifests/{}", self.path, name.tag().unwrap_or("latest"));
        let what = || format!("look for {name}");
        let mut answer =
            endpoint.get(Ask { path: &path, accept: &documents::MANIFESTS, ..Ask::default() })?;
        match answer.status() {
            StatusCode::OK => Ok(Digest::of(&super::read_body(&mut answer, &what())?)),
            _ => Err(endpoint.refused(&mut answer, what())),
        }
    }

    /// The registry, not its mirrors.
    pub(super) fn itself(&self) -> Result<&Endpoint> {
        self.endpoints.last().ok_or_else(|| Error::new(Kind::Usage, "a repository without a registry"))
    }
}

/// All names of a list, sorted.
fn pages<P: DeserializeOwned>(
    endpoint: &Endpoint,
    path: &str,
    what: &str,
    names: impl Fn(P) -> Option<Vec<String>>,
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut next = Some(format!("{path}?{PAGE}"));
    while let Some(path) = next {
        let mut answer = endpoint.get(Ask { path: &path, ..Ask::default() })?;
        if answer.status() != StatusCode::OK {
            return Err(endpoint.refused(&mut answer, what.to_owned()));
        }
        next = link(&answer).map(|address| endpoint.own(&address).map(str::to_owned)).transpose()?;
        let page = names(read(&mut answer, what)?).unwrap_or_default();
        if page.is_empty() || next.as_deref() == Some(&path) {
            next = None;
        }
        // From a stranger, for a terminal.
        all.extend(page.into_iter().filter(|name| !name.contains(char::is_control)));
        if all.len() > MOST {
            return Err(Error::new(Kind::Corrupt, format!("{what}: there is no end to the list")));
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// The next page's address (RFC 8288): `</v2/_catalog?last=x&n=10>; rel="next"`.
fn link(answer: &Response<Body>) -> Option<String> {
    let value = answer.headers().get(LINK)?.to_str().ok()?;
    let (address, rest) = value.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

fn read<T: DeserializeOwned>(answer: &mut Response<Body>, what: &str) -> Result<T> {
    let bytes = super::read_body(answer, what)?;
    let is_page =
        answer.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    let read = serde_json::from_slice(&bytes)
        .map_err(|err| Error::new(Kind::Corrupt, format!("the answer is not understood: {err}")));
    let read = if is_page { read.map_err(|err| err.hint("is that a registry?")) } else { read };
    read.doing(|| what)
}

/// For an address.
fn escaped(word: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    word.bytes().map(byte).collect()
}
