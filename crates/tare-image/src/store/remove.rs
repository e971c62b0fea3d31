//! Removal: a name goes; with the last name the image goes, and what no other image uses.

use std::collections::BTreeSet;

use tare_sys::{Error, Kind, Result};

use super::lock::Lock;
use super::pending::Pending;
use super::{Image, ImageStore, files, not_in_store};
use crate::reference::Reference;

/// How far a removal goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// An id takes all names of its image away, however many there are.
    pub all_names: bool,
    /// Only names go; an image that has none any more stays.
    pub keep: bool,
    /// Say how many bytes went: costs a look at every file.
    pub count: bool,
}

/// What a removal took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Full names.
    pub untagged: Vec<String>,
    /// The image's id, where it went too.
    pub deleted: Option<String>,
    /// Diff-ids, hex, of the layers that went.
    pub layers: Vec<String>,
    /// Bytes on disk, if they were to be counted.
    pub bytes: u64,
}

impl ImageStore {
    /// Takes away a name, and the image with its last name; or, by id (or its first digits), an image that has
    /// at most one name. Layers and blobs that no other image uses go with it.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Conflict`] for an id with several names.
    pub fn remove(&self, name_or_id: &str) -> Result<Removed> {
        self.remove_with(name_or_id, Removal::default())
    }

    /// The same, further or less far.
    ///
    /// Errors: as [`remove`](ImageStore::remove).
    pub fn remove_with(&self, name_or_id: &str, how: Removal) -> Result<Removed> {
        if !self.root.join("lock").exists() {
            // Nothing was ever imported; do not make a store to say so.
            return Err(not_in_store(name_or_id));
        }
        let mut removed = Removed::default();
        let mut trash = Vec::new();
        let mut counter = tare_sys::disk::Counter::default();
        {
            let lock = self.lock()?;
            let image = match self.remove_name(name_or_id)? {
                Some((name, image_id)) => {
                    removed.untagged.push(name);
                    self.find_id(&image_id)?
                }
                None => Some(self.remove_names_of_id(name_or_id, how, &mut removed)?),
            };
            if let Some(image) = image.filter(|_| !how.keep)
                && self.names_of(&image)?.is_empty()
            {
                removed.deleted = Some(image.id.to_string());
                let (layers, bytes) =
                    self.take_out(&image, &mut trash, how.count.then_some(&mut counter), &lock)?;
                (removed.layers, removed.bytes) = (layers, bytes);
            }
            match self.write_index() {
                // The disk is full, and what frees it is in our hands.
                Err(err) if err.kind() == Kind::Exhausted && !trash.is_empty() => {
                    removed.bytes += sizes(&trash, how, &mut counter)?;
                    trash.clear();
                    self.write_index()?;
                }
                written => written?,
            }
        }
        // The long part, with the lock free again.
        removed.bytes += sizes(&trash, how, &mut counter)?;
        drop(trash);
        Ok(removed)
    }

    /// The names that an image has.
    pub(super) fn names_of(&self, image: &Image) -> Result<Vec<String>> {
        let of_image = self.names()?.into_iter().filter(|record| record.image_id == image.id.as_str());
        let mut names: Vec<String> = of_image.map(|record| record.name).collect();
        names.sort();
        Ok(names)
    }

    /// As far as an import that failed had come: the image's files that nothing else uses, and its records.
    pub(super) fn forget(&self, image: &Image, lock: &Lock) -> Result<()> {
        for name in self.names_of(image)? {
            files::remove(&self.name_path(&name))?;
        }
        files::remove(&self.root.join("ids").join(image.id.hex()))?;
        let (blobs, layers) = self.unused(image)?;
        for blob in blobs {
            files::remove(&self.root.join("blobs/sha256").join(blob))?;
        }
        for layer in layers {
            drop(Pending::layer_to_go(self, &layer, lock)?);
        }
        Ok(())
    }

    fn remove_name(&self, text: &str) -> Result<Option<(String, String)>> {
        let Ok(reference) = Reference::parse(text) else { return Ok(None) };
        let Some(record) = self.find_name(&reference)? else { return Ok(None) };
        if reference.digest().is_some() {
            // Several names may have that digest; the way of ids says so.
            return Ok(None);
        }
        files::remove(&self.name_path(&record.name))?;
        files::sync_folder(&self.root.join("names"))?;
        Ok(Some((record.name, record.image_id)))
    }

    fn remove_names_of_id(&self, text: &str, how: Removal, removed: &mut Removed) -> Result<Image> {
        let by_digest = match Reference::parse(text) {
            Ok(reference) if reference.digest().is_some() => self.find_name(&reference)?,
            _ => None,
        };
        let found = match by_digest {
            Some(record) => self.find_id(&record.image_id)?,
            None => self.find_id(text)?,
        };
        let image = found.ok_or_else(|| not_in_store(text))?;
        let names = self.names_of(&image)?;
        if names.len() > 1 && !how.all_names {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "conflict: unable to delete {text} (must be forced): image is referenced by several names: {}",
                    names.join(", ")
                ),
            )
            .hint("remove the names one by one, or all with --force"));
        }
        for name in names {
            files::remove(&self.name_path(&name))?;
            removed.untagged.push(name);
        }
        files::sync_folder(&self.root.join("names"))?;
        Ok(image)
    }

    /// Takes the image's record away, then the files that only it used: its layers into `trash`. In this order
    /// on the disk, so that a power cut never leaves an image whose files are gone.
    fn take_out(
        &self,
        image: &Image,
        trash: &mut Vec<Pending>,
        mut counter: Option<&mut tare_sys::disk::Counter>,
        lock: &Lock,
    ) -> Result<(Vec<String>, u64)> {
        let ids = self.root.join("ids");
        let mut bytes = 0;
        let mut remove = |path: std::path::PathBuf| {
            if let Some(counter) = &mut counter {
                bytes += counter.add(&path)?;
            }
            files::remove(&path)
        };
        remove(ids.join(image.id.hex()))?;
        files::sync_folder(&ids)?;
        let (blobs, layers) = self.unused(image)?;
        for blob in blobs {
            remove(self.root.join("blobs/sha256").join(blob))?;
        }
        for layer in &layers {
            remove(self.recipe_path(layer))?;
            trash.extend(Pending::layer_to_go(self, layer, lock)?);
        }
        Ok((layers, bytes))
    }

    /// Blobs and layers of an image that no image held uses, as hex.
    pub(super) fn unused(&self, image: &Image) -> Result<(Vec<String>, Vec<String>)> {
        let held = self.images()?;
        let blobs: BTreeSet<&str> =
            held.iter().flat_map(|i| &i.blobs).map(|blob| blob.digest.hex()).collect();
        let layers: BTreeSet<&str> = held.iter().flat_map(|i| &i.layers).map(String::as_str).collect();
        let free_blobs = image.blobs.iter().map(|blob| blob.digest.hex()).filter(|hex| !blobs.contains(hex));
        let free_layers = image.layers.iter().filter(|hex| !layers.contains(hex.as_str()));
        Ok((free_blobs.map(str::to_owned).collect(), free_layers.cloned().collect()))
    }
}

fn sizes(trash: &[Pending], how: Removal, counter: &mut tare_sys::disk::Counter) -> Result<u64> {
    let mut bytes = 0;
    for pending in trash.iter().filter(|_| how.count) {
        bytes += pending.size(counter)?;
    }
    Ok(bytes)
}
