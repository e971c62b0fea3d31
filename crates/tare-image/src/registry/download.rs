//! A file from a web server, by its address: what `tare import URL` reads.

use std::io::Read;

use tare_sys::{Error, Kind, Result};
use ureq::http::{StatusCode, Uri};

use super::endpoint::{Ask, Endpoint};
use super::patient::Patient;
use super::settings::{HostSettings, Settings};

/// Whether this is the address of something that [`download`] fetches.
pub fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The bytes of what is at an address. Certificates and proxies are those of a registry on that server; whoever asks for
/// `http://` gets no TLS.
///
/// Errors: [`Kind::Usage`] for what is no address; [`Kind::NotFound`], [`Kind::Permission`] and [`Kind::Network`] as the
/// server answers.
pub fn download(address: &str, settings: &Settings) -> Result<Box<dyn Read>> {
    let wrong = |why: &str| Error::new(Kind::Usage, format!("address {address:?}: {why}"));
    let parsed: Uri = address.parse().map_err(|_| wrong("it is not one"))?;
    let domain = parsed.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if domain.is_empty() || domain.contains('@') {
        return Err(wrong("it needs a server, and has no place for a password")
            .hint("fetch it with a program that can: curl … | tare import - NAME"));
    }
    let http = parsed.scheme_str() == Some("http");
    let of_host = HostSettings { http: Some(http), ..settings.of(domain) };
    let server = Endpoint::new(domain, &of_host, Vec::new(), None)?;
    let mut answer = server.get(Ask { path: address, ..Ask::default() })?;
    match answer.status() {
        StatusCode::OK => Ok(Box::new(Patient::new(answer.into_body().into_reader()))),
        _ => Err(server.refused(&mut answer, format!("download {address}"))),
    }
}
