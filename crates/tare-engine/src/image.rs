//! The verbs on images, in the engine's terms.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use tare_image::store::{Damage, Image, Removal, Removed};
use tare_image::{Change, ImageStore, ImportOptions, Platform, Reference};
use tare_sys::{Context, Error, Kind, Result};

use crate::carry::{is_for, is_host, name_of_host};
use crate::container::{State, Status, make_folder};
use crate::engine::{Engine, need_root};
use crate::events::Event;
use crate::image_filter::{ImageFilters, seconds};
use crate::sweep;

/// A line of `image ls`.
#[derive(Clone, Debug)]
pub struct ImageSummary {
    /// `sha256:…`.
    pub id: String,
    /// Repository, as people write it; empty for an image without a name.
    pub repository: String,
    /// Tag; empty where there is none.
    pub tag: String,
    /// What the name points to in its registry, or the digest of the manifest here.
    pub digest: String,
    /// When it was made, seconds since 1970; 0 where nobody says.
    pub created: i64,
    /// Bytes unpacked.
    pub size: u64,
    /// Bytes of its blobs, as they are kept to be pushed and saved.
    pub content: u64,
    /// `linux/amd64`.
    pub platform: String,
}

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportRequest {
    /// The image's name; `None`: it has only its id.
    pub name: Option<String>,
    /// Dockerfile instructions for its configuration.
    pub changes: Vec<String>,
    /// A remark for its history.
    pub message: String,
    /// `OS/ARCHITECTURE[/VARIANT]`, if not the host's.
    pub platform: Option<String>,
}

/// What a prune took away.
#[derive(Clone, Debug, Default)]
pub struct PrunedImages {
    /// Names, as people write them.
    pub untagged: Vec<String>,
    /// Ids of images, and digests of layers: `sha256:…`.
    pub deleted: Vec<String>,
    /// Bytes on disk that are free now.
    pub freed: u64,
}

/// What was found out about an image.
#[derive(Clone, Debug)]
pub struct Verified {
    /// A name as people write it, or the short id.
    pub image: String,
    /// What is damaged; nothing, if all is well.
    pub damage: Vec<Damage>,
}

/// What compacting an image brought.
#[derive(Clone, Debug)]
pub struct CompactedImage {
    /// A name as people write it, or the short id.
    pub image: String,
    /// Bytes on disk that are free now.
    pub freed: u64,
    /// Blobs that stay, and why.
    pub kept: Vec<String>,
}

impl Engine {
    /// Imports a root file system archive as an image; answers its id. `progress` gets the bytes read so far.
    ///
    /// Errors: [`Kind::Usage`] for a name or a change that makes no sense; [`Kind::Corrupt`] for an archive that is
    /// damaged; those of the disk.
    pub fn import_image(
        &self,
        archive: Box<dyn Read>,
        asked: &ImportRequest,
        progress: &mut dyn FnMut(u64),
    ) -> Result<String> {
        let name = asked.name.as_deref().map(Reference::parse).transpose()?;
        if let Some(name) = name.as_ref().filter(|name| is_host(name)) {
            return Err(name_of_host(name));
        }
        need_root()?;
        make_folder(&self.roots().state, 0o700)?;
        let progress = RefCell::new(progress);
        let options = ImportOptions {
            changes: asked.changes.iter().map(|change| Change::parse(change)).collect::<Result<_>>()?,
            message: asked.message.clone(),
            platform: asked.platform.as_deref().map(Platform::parse).transpose()?,
            progress: Some(&|step| (progress.borrow_mut())(step.bytes_in)),
            ..ImportOptions::default()
        };
        let id = self.images()?.import_as(archive, name.as_ref(), &options)?.id.to_string();
        let called = name.map_or_else(|| id.clone(), |name| name.to_string());
        self.emit(&Event::image("import", &id, &called));
        Ok(id)
    }

    /// A line for each name; an image without a name has one as well. The newest first.
    ///
    /// Errors: [`Kind::NotFound`] for an image that a filter names.
    pub fn list_images(&self, filters: &ImageFilters) -> Result<Vec<ImageSummary>> {
        let store = self.images()?;
        let chosen = filters.choose(&store)?;
        let mut lines = Vec::new();
        for image in store.list()?.into_iter().filter(|image| chosen.takes(image)) {
            let line = |repository: String, tag: String, digest: String| ImageSummary {
                id: image.id.to_string(),
                repository,
                tag,
                digest,
                // Without a date it says the year 1, as Docker's does.
                created: seconds(&image).max(0),
                size: image.size,
                content: image.blobs.iter().map(|blob| blob.size).sum(),
                platform: image.platform.to_string(),
            };
            if image.names.is_empty() && chosen.takes_name(None) {
                lines.push(line(String::new(), String::new(), image.manifest.to_string()));
            }
            for name in &image.names {
                let reference = Reference::parse(name)?;
                if !chosen.takes_name(Some(&reference)) {
                    continue;
                }
                let digest =
                    reference.digest().or_else(|| image.digests.get(name)).unwrap_or(&image.manifest);
                let tag = reference.tag().unwrap_or_default().to_owned();
                lines.push(line(reference.familiar_name(), tag, digest.to_string()));
            }
        }
        Ok(lines)
    }

    /// Takes a name away, and the image with its last name, unless a container stands on it; answers with Docker's
    /// lines. With `force`, an id takes all its names away, and an image that a container stands on loses its name and
    /// stays. With `no_prune`, only names go. With a `platform`, only an image that is for that.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Conflict`] where something stands in the way.
    pub fn remove_image(
        &self,
        name: &str,
        platform: Option<&str>,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<String>> {
        sweep::sweep(self.roots())?;
        if Reference::parse(name).is_ok_and(|name| is_host(&name)) {
            return Err(Error::new(Kind::Usage, "remove the image host: it is this machine itself"));
        }
        let store = self.images()?;
        let record = store.resolve(name)?;
        let by_name = !record.name.is_empty();
        let image = store.image_of(&record.image_id)?;
        is_for(&image, platform).doing(|| format!("remove {name}"))?;
        let user = self.users_of_images()?.remove(&record.image_id);
        let mut how = Removal { all_names: force, keep: no_prune, count: false };
        if let Some((container, runs)) = user
            && (!by_name || image.names.len() <= 1)
        {
            // As Docker: with force a name may go; the layers that a container stands on never.
            if !force || image.names.is_empty() {
                let short: String = record.image_id.trim_start_matches("sha256:").chars().take(12).collect();
                let may = if image.names.is_empty() || runs && !by_name {
                    "cannot be forced"
                } else {
                    "must be forced"
                };
                let state = if runs { "running" } else { "stopped" };
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "conflict: unable to delete {name} ({may}): image {short} is being used by {state} container {container}"
                    ),
                )
                .hint(format!("remove the container first: tare rm {container}")));
            }
            how.keep = true;
        }
        let removed = store.remove_with(name, how)?;
        self.tell_of(&removed, &record.image_id);
        let untagged = removed.untagged.iter().map(|name| format!("Untagged: {}", familiar(name)));
        let deleted = removed.deleted.iter().map(|id| format!("Deleted: {id}"));
        let layers = removed.layers.iter().map(|layer| format!("Deleted: sha256:{layer}"));
        Ok(untagged.chain(deleted).chain(layers).collect())
    }

    /// Removes images that no container stands on: those without a name, or `all`; and whatever in the store no image
    /// uses.
    ///
    /// Errors: [`Kind::NotFound`] for an image that a filter names; those of the disk.
    pub fn prune_images(&self, filters: &ImageFilters, all: bool) -> Result<PrunedImages> {
        need_root()?;
        sweep::sweep(self.roots())?;
        let store = self.images()?;
        let users = self.users_of_images()?;
        let chosen = filters.choose(&store)?;
        let mut pruned = PrunedImages::default();
        let goes = |image: &Image| {
            (all || image.names.is_empty()) && !users.contains_key(image.id.as_str()) && chosen.takes(image)
        };
        for image in store.list()?.into_iter().filter(goes) {
            let removed = match store
                .remove_with(image.id.as_str(), Removal { all_names: true, keep: false, count: true })
            {
                // Another process was faster.
                Err(err) if err.kind() == Kind::NotFound => continue,
                removed => removed?,
            };
            self.tell_of(&removed, image.id.as_str());
            pruned.untagged.extend(removed.untagged.iter().map(|name| familiar(name)));
            pruned.deleted.extend(removed.deleted);
            pruned.deleted.extend(removed.layers.iter().map(|layer| format!("sha256:{layer}")));
            pruned.freed += removed.bytes;
        }
        pruned.freed += store.collect()?.bytes;
        Ok(pruned)
    }

    fn tell_of(&self, removed: &Removed, id: &str) {
        for name in &removed.untagged {
            self.emit(&Event::image("untag", id, &familiar(name)));
        }
        if removed.deleted.is_some() {
            self.emit(&Event::image("delete", id, id));
        }
    }

    /// Looks for damage in images, all of them if none is named. What is found is fetched anew by the next pull or load
    /// of the image. `done` hears of each.
    ///
    /// Errors: [`Kind::NotFound`]; those of the disk. Damage is none.
    pub fn verify_images(&self, names: &[&str], mut done: impl FnMut(&Verified) -> Result<()>) -> Result<()> {
        need_root()?;
        let store = self.images()?;
        let mut seen = BTreeSet::new();
        for image in named_or_all(&store, names)? {
            let damage = store.verify(&image, &mut seen).doing(|| format!("verify {}", called(&image)))?;
            done(&Verified { image: called(&image), damage })?;
        }
        Ok(())
    }

    /// Drops the compressed blobs of images, all of them if none is named: they are made again when they are needed.
    ///
    /// Errors: [`Kind::NotFound`]; those of the disk.
    pub fn compact_images(
        &self,
        names: &[&str],
        mut done: impl FnMut(&CompactedImage) -> Result<()>,
    ) -> Result<()> {
        need_root()?;
        let store = self.images()?;
        for image in named_or_all(&store, names)? {
            let compacted = store.compact(&image).doing(|| format!("compact {}", called(&image)))?;
            let kept = compacted.kept.into_iter().map(|(blob, why)| format!("{blob}: {why}")).collect();
            done(&CompactedImage { image: called(&image), freed: compacted.freed, kept })?;
        }
        Ok(())
    }

    /// The images that containers stand on: a container's name each, and whether it runs.
    pub(crate) fn users_of_images(&self) -> Result<BTreeMap<String, (String, bool)>> {
        let mut users: BTreeMap<String, (String, bool)> = BTreeMap::new();
        for id in self.roots().ids()? {
            let folders = self.roots().folders(&id);
            let Ok(record) = folders.record() else { continue };
            let status = folders.status().ok().flatten().unwrap_or_else(Status::created);
            let runs = matches!(status.state, State::Running | State::Paused | State::Restarting);
            // What is mounted in a container, it stands on as well.
            let mounted =
                record.mounts.into_iter().filter(|point| point.kind == "image").map(|point| point.name);
            for image in std::iter::once(record.image_id).chain(mounted) {
                let user = users.entry(image).or_insert_with(|| (record.name.clone(), runs));
                if runs && !user.1 {
                    *user = (record.name.clone(), runs);
                }
            }
        }
        users.remove("");
        Ok(users)
    }
}

fn named_or_all(store: &ImageStore, names: &[&str]) -> Result<Vec<Image>> {
    if names.is_empty() {
        return store.list();
    }
    let all = store.list()?;
    names
        .iter()
        .map(|name| {
            let id = store.resolve(name)?.image_id;
            let found = all.iter().find(|image| image.id.as_str() == id).cloned();
            found.ok_or_else(|| Error::new(Kind::NotFound, format!("no such image: {name}")))
        })
        .collect()
}

/// What an image is called in a message.
fn called(image: &Image) -> String {
    match image.names.first() {
        Some(name) => familiar(name),
        None => image.id.hex().chars().take(12).collect(),
    }
}

/// A name as people write it.
pub(crate) fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}
