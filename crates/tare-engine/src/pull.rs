//! Images fetched from registries and brought there: `pull` and `push`.

use std::io::Read;
use std::path::PathBuf;

use tare_image::registry::credentials::CredentialFiles;
use tare_image::registry::download::download;
use tare_image::registry::push::PushState;
use tare_image::registry::settings::Settings;
use tare_image::registry::{Found, Repository};
use tare_image::store::{TakeOptions, Watch};
use tare_image::{Digest, Platform, Reference};
use tare_sys::{Context, Result};

use crate::carry::{is_for, is_host, name_of_host};
use crate::engine::{Engine, need_root};
use crate::events::Event;

/// Where the settings are, unless the environment says otherwise.
const SETTINGS: &str = "/etc/tare/registries.toml";

/// Repositories that a registry is asked to take a layer from; each costs a request.
const MOST_NEIGHBOURS: usize = 4;

/// What to pull, and how.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// `OS/ARCHITECTURE[/VARIANT]`, if not the host's.
    pub platform: Option<String>,
}

/// An image that was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its id, `sha256:…`.
    pub id: String,
    /// Its name, nothing left out.
    pub name: String,
    /// The digest of what the name points to in the registry.
    pub digest: String,
    /// Nothing of it had to be fetched, and it had the name already.
    pub up_to_date: bool,
}

impl Engine {
    /// Fetches an image. `watch` hears of each layer.
    ///
    /// Errors: [`tare_sys::Kind::NotFound`], [`tare_sys::Kind::Permission`] and [`tare_sys::Kind::Network`] as the registry
    /// answers; [`tare_sys::Kind::Corrupt`] for what is not what it should be. What has come is kept for the next try.
    pub fn pull_image(&self, name: &str, options: &PullOptions, watch: &Watch<'_>) -> Result<Pulled> {
        need_root()?;
        let name = Reference::parse(name)?.by_digest();
        if is_host(&name) {
            return Err(name_of_host(&name));
        }
        let platform = options.platform.as_deref().map_or_else(|| Ok(Platform::host()), Platform::parse)?;
        let (settings, logins) = access()?;
        let repository = Repository::open(&name, &settings, &logins)?;
        let Found { digest, incoming } =
            repository.find(&name, &platform).map_err(|err| err.context(format!("pull {name}")))?;
        let store = self.images()?;
        let before = store.resolve(&name.full()).ok().map(|record| record.image_id);
        let take = TakeOptions {
            progress: Some(watch),
            known_as: name.digest(),
            origin: Some(&digest),
            ..TakeOptions::default()
        };
        let image = store
            .take(&incoming, &repository, std::slice::from_ref(&name), &take)
            .map_err(|err| err.context(format!("pull {name}")))?;
        self.emit(&Event::image("pull", &image.id.to_string(), &name.to_string()));
        Ok(Pulled {
            up_to_date: before.as_deref() == Some(image.id.as_str()),
            id: image.id.to_string(),
            name: name.full(),
            digest: digest.to_string(),
        })
    }

    /// Brings an image to the registry of its name. `watch` hears of each blob, from several threads. Answers with the
    /// manifest's digest and size.
    ///
    /// Errors: [`tare_sys::Kind::NotFound`] for an image that is not here; as the registry answers.
    pub fn push_image(
        &self,
        name: &str,
        platform: Option<&str>,
        watch: &(dyn Fn(&Digest, u64, PushState) + Sync),
    ) -> Result<(String, u64)> {
        let name = Reference::parse(name)?;
        if is_host(&name) {
            return Err(name_of_host(&name));
        }
        let store = self.images()?;
        let image = store.whole_image_of(&name.full())?;
        is_for(&image, platform).doing(|| format!("push {name}"))?;
        // Where else of that registry its layers may be.
        let mut neighbours: Vec<String> = store
            .list()?
            .iter()
            .filter(|other| other.layers.iter().any(|layer| image.layers.contains(layer)))
            .flat_map(|other| other.names.iter().filter_map(|name| Reference::parse(name).ok()))
            .filter(|other| other.domain() == name.domain() && other.path() != name.path())
            .map(|other| other.path().to_owned())
            .collect();
        neighbours.sort();
        neighbours.dedup();
        neighbours.truncate(MOST_NEIGHBOURS);
        let (settings, logins) = access()?;
        let repository = Repository::open_to_push(&name, neighbours, &settings, &logins)?;
        let (digest, size) = repository
            .push(&store, &image, &name, &|blob, state| watch(&blob.digest, blob.size, state))
            .map_err(|err| err.context(format!("push {name}")))?;
        self.emit(&Event::image("push", &image.id.to_string(), &name.to_string()));
        Ok((digest.to_string(), size))
    }

    /// The bytes of what is at an address, `http://…` or `https://…`.
    ///
    /// Errors: as the server answers.
    pub fn download(&self, address: &str) -> Result<Box<dyn Read>> {
        download(address, &access()?.0)
    }

    /// Whether there is an image of that name, or with that id.
    pub fn has_image(&self, name: &str) -> bool {
        Reference::parse(name).is_ok_and(|name| is_host(&name))
            || self.images().is_ok_and(|store| store.resolve(name).is_ok())
    }
}

/// What this machine's owner and this user say of registries.
pub(crate) fn access() -> Result<(Settings, CredentialFiles)> {
    let variable = |name: &str| std::env::var_os(name);
    let settings = variable("TARE_REGISTRIES").map_or_else(|| PathBuf::from(SETTINGS), PathBuf::from);
    Ok((Settings::read(&settings)?, CredentialFiles::of_environment(&variable)))
}
