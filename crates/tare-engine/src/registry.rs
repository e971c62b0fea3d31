//! Registries beside pulls and pushes: logins, and what they have.

use tare_image::Reference;
use tare_image::registry::credentials::{Credentials, Keeper};
use tare_image::registry::listing::{self, Referrer};
use tare_image::registry::{Repository, login};
use tare_sys::{Error, Kind, Result};

use crate::engine::Engine;
use crate::pull::access;

/// The name and password of a person for a registry.
pub struct Login<'a> {
    /// The registry, as a person types it; empty for Docker Hub.
    pub server: &'a str,
    /// The name.
    pub name: &'a str,
    /// The password, or a token of the registry that counts as one.
    pub password: &'a str,
}

impl Engine {
    /// Checks a login with its registry, and keeps it.
    ///
    /// Errors: [`Kind::Permission`] where the registry does not take it; those of reaching the registry and of keeping it.
    pub fn login(&self, login: &Login<'_>) -> Result<Keeper> {
        let domain = login::domain_of(login.server);
        // RFC 7617: the colon ends the name.
        if login.name.is_empty() || login.name.contains([':', '\n']) || login.password.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                format!("log in to {domain}: a name and a password are needed"),
            )
            .hint("a name has no colon"));
        }
        let (settings, logins) = access()?;
        let (name, password) = (login.name.to_owned(), login.password.to_owned());
        let kept = login::check(domain, &settings, Credentials::Password { name, password })?;
        logins.keep(domain, login.name, &kept)
    }

    /// Whether the registry takes the login that is kept for it; `None`: there is none.
    ///
    /// Errors: as [`login`](Engine::login).
    pub fn check_login(&self, server: &str) -> Result<Option<()>> {
        let domain = login::domain_of(server);
        let (settings, logins) = access()?;
        let Some(credentials) = logins.find(domain, "")? else { return Ok(None) };
        login::check(domain, &settings, credentials).map(|_| Some(()))
    }

    /// Forgets a login; answers whether there was one, and whether another file (podman's) still has one.
    ///
    /// Errors: those of Docker's file and its helpers.
    pub fn logout(&self, server: &str) -> Result<(bool, bool)> {
        let domain = login::domain_of(server);
        let (_, logins) = access()?;
        let was = logins.forget(domain)?;
        Ok((was, logins.find(domain, "")?.is_some()))
    }

    /// The repositories of a registry.
    ///
    /// Errors: [`Kind::Unsupported`] for one that does not tell.
    pub fn repositories(&self, server: &str) -> Result<Vec<String>> {
        let (settings, logins) = access()?;
        listing::repositories(login::domain_of(server), &settings, &logins)
    }

    /// The tags that a repository has in its registry.
    ///
    /// Errors: [`Kind::NotFound`]; those of the registry.
    pub fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let name = Reference::parse(repository)?;
        listed(&name, false)?.tags()
    }

    /// The names of images here that are of one repository, for a push of them all.
    ///
    /// Errors: [`Kind::NotFound`] where there are none.
    pub fn names_in_repository(&self, repository: &str) -> Result<Vec<String>> {
        let wanted = Reference::parse(repository)?.name();
        let images = self.images()?.list()?;
        let names =
            images.iter().flat_map(|image| &image.names).filter_map(|name| Reference::parse(name).ok());
        let mut names: Vec<String> = names
            .filter(|name| name.name() == wanted && name.digest().is_none())
            .map(|name| name.to_string())
            .collect();
        names.sort();
        if names.is_empty() {
            let what = format!("no image here is called {repository}");
            return Err(Error::new(Kind::NotFound, what).hint("`tare image ls` lists those there are"));
        }
        Ok(names)
    }

    /// What refers to an image in its registry: signatures, lists of parts.
    ///
    /// Errors: [`Kind::NotFound`]; those of the registry.
    pub fn referrers(&self, image: &str) -> Result<Vec<Referrer>> {
        let name = Reference::parse(image)?;
        listed(&name, false)?.referrers(&name)
    }

    /// Deletes a tag in its registry, or by digest an image with all its tags.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Unsupported`] for a registry that does not do that.
    pub fn delete_in_registry(&self, image: &str) -> Result<()> {
        let name = Reference::parse(image)?;
        listed(&name, true)?.delete(&name)
    }

    /// What a registry finds for `term`: Docker Hub, or the registry that `term` begins with (`HOST/WORD`).
    ///
    /// Errors: [`Kind::Unsupported`] for a registry that has neither search nor list; those of the registry.
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<listing::Found>> {
        let is_host = |host: &str| host == "localhost" || host.contains(['.', ':']);
        let (domain, word) = match term.split_once('/').filter(|(host, _)| is_host(host)) {
            Some((host, word)) => (login::domain_of(host), word),
            None => ("docker.io", term),
        };
        let (settings, logins) = access()?;
        listing::search(domain, word, limit, &settings, &logins)
    }
}

fn listed(name: &Reference, delete: bool) -> Result<Repository> {
    let (settings, logins) = access()?;
    Repository::open_to_list(name, delete, &settings, &logins)
}
