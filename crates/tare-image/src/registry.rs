//! Registries (OCI distribution-spec 1.1).
//!
//! ```text
//! Reference ─▶ Repository::open: registries.toml, logins ─▶ mirrors …, the registry itself
//!                  │ images(): manifest ─▶ index? ─▶ manifest, config      (each checked against its digest)
//!                  ▼
//!              ImageStore::take(…, &repository) ─▶ blobs, by ranges where a connection breaks off
//! ```
//!
//! A mirror that fails in any way is passed over; what the registry itself says counts.

mod challenge;
pub mod credentials;
pub mod download;
mod endpoint;
mod failure;
pub mod listing;
pub mod login;
mod patient;
mod proxy;
pub mod push;
pub mod settings;

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use tare_sys::{Context, Error, Kind, Result};
use ureq::http::StatusCode;
use ureq::http::header::CONTENT_TYPE;

use crate::config::Platform;
use crate::digest::Digest;
use crate::documents::{self, Descriptor};
use crate::reference::Reference;
use crate::store::{Incoming, Source};
use credentials::CredentialFiles;
use endpoint::{Ask, Endpoint};
use patient::Patient;
use settings::Settings;

/// A repository of a registry: all images of one name, whatever their tag.
pub struct Repository {
    /// `library/busybox`.
    path: String,
    /// Mirrors, and last the registry itself.
    endpoints: Vec<Endpoint>,
    /// Other repositories there, which may have the same blobs.
    neighbours: Vec<String>,
}

/// What a name stands for in a registry.
#[derive(Debug)]
pub struct Found {
    /// The digest of what the name points to: an index's, where there is one.
    pub digest: Digest,
    /// The image of the wanted platform.
    pub incoming: Incoming,
}

impl Repository {
    /// For pulls. Speaks to nobody yet.
    ///
    /// Errors: logins and certificates that cannot be read.
    pub fn open(name: &Reference, settings: &Settings, logins: &CredentialFiles) -> Result<Repository> {
        let mut hosts = settings.of(name.domain()).mirrors;
        hosts.push(name.domain().to_owned());
        let scopes = [format!("repository:{}:pull", name.path())];
        Repository::at(&hosts, name.path(), &scopes, settings, logins)
    }

    /// For pushes. `neighbours` are repositories of the same registry that may have some of the layers.
    ///
    /// Errors: as [`open`](Repository::open).
    pub fn open_to_push(
        name: &Reference,
        neighbours: Vec<String>,
        settings: &Settings,
        logins: &CredentialFiles,
    ) -> Result<Repository> {
        let readable = neighbours.iter().map(|path| format!("repository:{path}:pull"));
        let scopes: Vec<String> =
            std::iter::once(format!("repository:{}:pull,push", name.path())).chain(readable).collect();
        let repository = Repository::at(&[name.domain().to_owned()], name.path(), &scopes, settings, logins)?;
        Ok(Repository { neighbours, ..repository })
    }

    /// To look around in the registry itself, and with `delete` to take something away there.
    ///
    /// Errors: as [`open`](Repository::open).
    pub fn open_to_list(
        name: &Reference,
        delete: bool,
        settings: &Settings,
        logins: &CredentialFiles,
    ) -> Result<Repository> {
        let actions = if delete { "pull,delete" } else { "pull" };
        let scopes = [format!("repository:{}:{actions}", name.path())];
        Repository::at(&[name.domain().to_owned()], name.path(), &scopes, settings, logins)
    }

    fn at(
        hosts: &[String],
        path: &str,
        scopes: &[String],
        settings: &Settings,
        logins: &CredentialFiles,
    ) -> Result<Repository> {
        let endpoints = hosts.iter().map(|host| {
            let login = logins.find(host, path)?;
            Endpoint::new(host, &settings.of(host), scopes.to_vec(), login)
        });
        let endpoints = endpoints.collect::<Result<_>>()?;
        Ok(Repository { path: path.to_owned(), endpoints, neighbours: Vec::new() })
    }

    /// The documents of the image that a name of this repository stands for.
    ///
    /// Errors: [`Kind::NotFound`] where there is none, or none for the platform; [`Kind::Permission`] without the right
    /// login; [`Kind::Corrupt`] for documents that are not what they should be; [`Kind::Network`].
    pub fn find(&self, name: &Reference, platform: &Platform) -> Result<Found> {
        let wanted = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        };
        let (bytes, media_type) = self.manifest(wanted, name.digest())?;
        let root = Descriptor {
            media_type,
            digest: name.digest().cloned().unwrap_or_else(|| Digest::of(&bytes)),
            size: bytes.len() as u64,
            platform: None,
            annotations: None,
        };
        let fetch = |descriptor: &Descriptor| {
            if descriptor.digest == root.digest {
                return Ok(bytes.clone());
            }
            let bytes = match documents::MANIFESTS.contains(&descriptor.media_type.as_str()) {
                true => self.manifest(descriptor.digest.as_str(), Some(&descriptor.digest))?.0,
                false => self.small_blob(descriptor)?,
            };
            descriptor.check(&bytes)?;
            Ok(bytes)
        };
        let incoming = documents::resolve(&root, platform, &fetch)?;
        Ok(Found { digest: root.digest, incoming })
    }

    /// A manifest or an index, with its media type.
    fn manifest(&self, wanted: &str, digest: Option<&Digest>) -> Result<(Vec<u8>, String)> {
        let path = format!("/v2/{}/manifests/{wanted}", self.path);
        let what = |endpoint: &Endpoint| {
            let colon = if digest.is_some() { '@' } else { ':' };
            format!("{}/{}{colon}{wanted}", endpoint.domain, self.path)
        };
        self.each(|endpoint| {
            let mut response =
                endpoint.get(Ask { path: &path, accept: &documents::MANIFESTS, ..Ask::default() })?;
            if response.status() != StatusCode::OK {
                // Docker's words, by which programs know what is the matter.
                let what = match response.status() {
                    StatusCode::NOT_FOUND => format!("manifest for {} not found", what(endpoint)),
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
                        "pull access denied for {}/{}, repository does not exist or may require a login",
                        endpoint.domain, self.path
                    ),
                    _ => what(endpoint),
                };
                return Err(endpoint.refused(&mut response, what));
            }
            let media_type = response
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            let bytes = read_body(&mut response, &what(endpoint))?;
            if digest.is_some_and(|digest| *digest != Digest::of(&bytes)) {
                let what = format!("{}: other bytes came than its digest says", what(endpoint));
                return Err(Error::new(Kind::Corrupt, what));
            }
            documents::check_media_type(&what(endpoint), &bytes, &media_type)?;
            Ok((bytes, media_type))
        })
    }

    fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let what = || format!("fetch {}", descriptor.digest);
        let mut bytes = Vec::new();
        let body = self.blob(&descriptor.digest, descriptor.size, 0)?;
        body.take(descriptor.size + 1).read_to_end(&mut bytes).map_err(|err| broken(&what(), &err))?;
        Ok(bytes)
    }

    /// Asks one after another; the last one's error counts. A mirror that could not be reached is not asked again.
    fn each<T>(&self, ask: impl Fn(&Endpoint) -> Result<T>) -> Result<T> {
        let (itself, mirrors) = match self.endpoints.split_last() {
            Some(found) => found,
            None => return Err(Error::new(Kind::Usage, "a repository without a registry")),
        };
        for mirror in mirrors.iter().filter(|mirror| !mirror.is_dead.load(Ordering::Relaxed)) {
            match ask(mirror) {
                Err(err) => mirror.is_dead.store(err.kind() == Kind::Network, Ordering::Relaxed),
                answer => return answer,
            }
        }
        ask(itself)
    }
}

impl Source for Repository {
    fn blob(&self, digest: &Digest, _size: u64, from: u64) -> Result<Box<dyn Read + '_>> {
        let path = format!("/v2/{}/blobs/{digest}", self.path);
        self.each(|endpoint| {
            let what = || format!("{}/{}@{digest}", endpoint.domain, self.path);
            let mut response = endpoint.get(Ask { path: &path, from, ..Ask::default() })?;
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && from > 0 {
                // What is there may not be a part of it: the digest will say so.
                response = endpoint.get(Ask { path: &path, ..Ask::default() })?;
            }
            let skip = match response.status() {
                StatusCode::PARTIAL_CONTENT if from > 0 && begins_at(&response, from) => 0,
                // It does not know ranges.
                StatusCode::OK => from,
                StatusCode::PARTIAL_CONTENT => {
                    return Err(Error::new(Kind::Corrupt, format!("{}: another range came", what())));
                }
                _ => return Err(endpoint.refused(&mut response, what())),
            };
            let mut body = Patient::new(response.into_body().into_reader());
            let skipped = io::copy(&mut body.by_ref().take(skip), &mut io::sink()).doing(what)?;
            if skipped < skip {
                return Err(Error::new(Kind::Corrupt, format!("{}: it ends after {skipped} bytes", what())));
            }
            Ok(Box::new(body) as Box<dyn Read>)
        })
    }
}

/// RFC 9110, section 14.4: `bytes 100-199/200`.
fn begins_at(response: &ureq::http::Response<ureq::Body>, from: u64) -> bool {
    let range = response.headers().get("Content-Range").and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.trim().strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    first == Some(from)
}

/// Reads a document, which has its limit.
fn read_body(response: &mut ureq::http::Response<ureq::Body>, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let body = Patient::new(response.body_mut().as_reader());
    body.take(documents::LONGEST + 1).read_to_end(&mut bytes).map_err(|err| broken(what, &err))?;
    documents::check_length(what, bytes.len() as u64)?;
    Ok(bytes)
}

fn broken(what: &str, err: &io::Error) -> Error {
    Error::new(Kind::Network, format!("{what}: {err}"))
}
