//! Compact: the blobs of an image's layers go, and come back when they are needed.
//!
//! A layer is in the store twice: as the blob it came in, and unpacked. For running containers the tree is enough. In
//! place of the blob, `recipes/<diff id>` says how to make the layer's tar again from the tree; it takes about a
//! hundredth. A blob goes only after its recipe was followed once, and gave the very bytes that the layer's diff-id is
//! the digest of.
//!
//! *What a compacted image cannot*: its blobs come back as the same tar, but not by the same compressor. So the image
//! has the same id, and another manifest, when it is pushed or saved after that; and as an OCI layout, the store has it
//! without layers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;

use flate2::write::GzEncoder;
use tare_sys::disk::Counter;
use tare_sys::{Context, Error, Kind, Result};

use super::pending::Pending;
use super::verify::folder;
use super::{Blob, Image, ImageStore, Incoming, files};
use crate::config;
use crate::digest::{Digest, Hasher};
use crate::documents;
use crate::recipe;
use crate::unpack::{Compression, Limits};

/// What compacting an image brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes on disk that are free now.
    pub freed: u64,
    /// Layers whose blobs stay, and why.
    pub kept: Vec<(Digest, String)>,
}

impl ImageStore {
    /// Drops the blobs of an image's layers, which other images may have too.
    ///
    /// Errors: [`Kind::NotFound`]; those of the disk. Blobs whose recipe does not give their bytes stay.
    pub fn compact(&self, image: &Image) -> Result<Compacted> {
        let mut compacted = Compacted::default();
        for (diff_id, digest) in image.layers.iter().zip(&image.layer_blobs) {
            let blob = self.blob_path(digest);
            if !blob.exists() {
                continue;
            }
            match self.write_recipe(diff_id, digest) {
                Ok(bytes) => compacted.freed += Counter::default().add(&blob)?.saturating_sub(bytes),
                Err(err) if err.kind() == Kind::Corrupt => {
                    compacted.kept.push((digest.clone(), err.to_string()));
                    continue;
                }
                Err(err) => return Err(err),
            }
            let _lock = self.lock()?;
            files::remove(&blob)?;
        }
        Ok(compacted)
    }

    /// Writes the recipe of a layer that has a blob, tries it, and puts it in place. Answers with its bytes on disk.
    fn write_recipe(&self, diff_id: &str, digest: &Digest) -> Result<u64> {
        let pending = {
            let lock = self.lock()?;
            Pending::create(self, &lock)?
        };
        let path = pending.path.join("recipe");
        let limits = Limits { ratio: u64::MAX, ..Limits::default() };
        let blob = File::open(self.blob_path(digest)).doing(|| format!("open blob {digest}"))?;
        let recipe = files::create(&path, b"", 0o600)?;
        recipe::write(recipe::tar_of(blob, &limits)?, folder(&self.layer_path(diff_id))?, &recipe)?;
        let mut hashing = Hashing::new(io::sink());
        let reading = File::open(&path).doing(|| format!("open({path:?})"))?;
        recipe::follow(reading, folder(&self.layer_path(diff_id))?, &mut hashing)?;
        if hashing.end().1.hex() != diff_id {
            let what = "the unpacked layer does not have the bytes of its blob";
            return Err(Error::new(Kind::Corrupt, what).hint("`tare image verify` says more"));
        }
        recipe.sync_all().doing(|| format!("fsync({path:?})"))?;
        let bytes = Counter::default().add(&path)?;
        let _lock = self.lock()?;
        files::make_folder(&self.root.join("recipes"), 0o700)?;
        let to = self.recipe_path(diff_id);
        std::fs::rename(&path, &to).doing(|| format!("rename({path:?}, {to:?})"))?;
        files::sync_folder(&self.root.join("recipes"))?;
        files::sync_folder(&self.root)?;
        Ok(bytes)
    }

    /// Writes a layer's tar by its recipe.
    pub(super) fn follow_recipe(&self, diff_id: &str, to: &mut dyn Write) -> Result<()> {
        let path = self.recipe_path(diff_id);
        let recipe = File::open(&path).doing(|| format!("open({path:?})"))?;
        recipe::follow(recipe, folder(&self.layer_path(diff_id))?, to)
            .doing(|| format!("make layer sha256:{diff_id} again"))
    }

    /// The image that a name or an id means, with all its blobs: those that were dropped are made again. It may have
    /// another manifest after that.
    ///
    /// Errors: as [`image_of`](ImageStore::image_of); [`Kind::Corrupt`] for a layer whose files are damaged.
    pub fn whole_image_of(&self, name: &str) -> Result<Image> {
        let image = self.image_of(name)?;
        let whole = |digest: &Digest| self.blob_path(digest).exists();
        if image.layer_blobs.iter().all(whole) || image.layer_blobs.len() != image.layers.len() {
            return Ok(image);
        }
        let pending = {
            let lock = self.lock()?;
            Pending::create(self, &lock)?
        };
        let path = self.blob_path(&image.manifest);
        let manifest = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let mut layers = documents::layers_of(&manifest)?;
        let mut made = Vec::new();
        for (at, (diff_id, layer)) in image.layers.iter().zip(&mut layers).enumerate() {
            if whole(&layer.digest) {
                continue;
            }
            let plain = layer.media_type.ends_with(".tar");
            let path = pending.path.join(format!("blob-{at}"));
            let (file, digest, size) = self.make_blob(diff_id, plain, &path)?;
            let compression = if plain { Compression::None } else { Compression::Gzip };
            *layer = documents::layer_descriptor(&Blob { digest: digest.clone(), size }, compression);
            file.set_permissions(std::fs::Permissions::from_mode(0o444))
                .doing(|| format!("chmod({path:?})"))?;
            made.push((path, digest, Some(diff_id)));
        }
        let path = self.blob_path(&image.id);
        let config = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let config_blob = Blob { digest: image.id.clone(), size: config.len() as u64 };
        let manifest = documents::manifest_of(&config_blob, &layers)?;
        let incoming = Incoming {
            manifest_type: documents::MANIFEST.to_owned(),
            layers: layers.into_iter().map(|line| Blob { digest: line.digest, size: line.size }).collect(),
            manifest,
            config,
        };
        let manifest = pending.path.join("manifest");
        files::create(&manifest, &incoming.manifest, 0o444)?;
        let described = config::describe(&incoming.config)?;
        let image = self.image(&incoming, &described, &std::collections::BTreeMap::new())?;
        rustix::fs::syncfs(&pending.folder).doing(|| format!("syncfs({:?})", pending.path))?;
        let lock = self.lock()?;
        made.push((manifest, image.manifest.clone(), None));
        for (from, digest, _) in &made {
            let to = self.blob_path(digest);
            if !to.exists() {
                std::fs::rename(from, &to).doing(|| format!("rename({from:?}, {to:?})"))?;
            }
        }
        files::sync_folder(&self.root.join("blobs/sha256"))?;
        let image = self.publish(image, &[], None, &lock)?;
        let images = self.images()?;
        let needed = self.needed_recipes(&images);
        for diff_id in made.into_iter().filter_map(|(_, _, diff_id)| diff_id) {
            if !needed.contains(diff_id.as_str()) {
                files::remove(&self.recipe_path(diff_id))?;
            }
        }
        Ok(image)
    }

    /// The layers of these images that have no blob: two images may have one layer by two blobs.
    pub(super) fn needed_recipes<'a>(&self, images: &'a [Image]) -> BTreeSet<&'a str> {
        let layers = images.iter().flat_map(|image| image.layers.iter().zip(&image.layer_blobs));
        let without = layers.filter(|(_, blob)| !self.blob_path(blob).exists());
        without.map(|(layer, _)| layer.as_str()).collect()
    }

    /// A layer's blob, made by its recipe; with its digest and size.
    fn make_blob(&self, diff_id: &str, plain: bool, path: &std::path::Path) -> Result<(File, Digest, u64)> {
        let mut blob = Hashing::new(files::create(path, b"", 0o600)?);
        let digest = if plain {
            let mut tar = Hashing::new(&mut blob);
            self.follow_recipe(diff_id, &mut tar)?;
            tar.end().1
        } else {
            let mut tar = Hashing::new(GzEncoder::new(&mut blob, flate2::Compression::fast()));
            self.follow_recipe(diff_id, &mut tar)?;
            let (gzip, digest, _) = tar.end();
            gzip.finish().doing(|| format!("write({path:?})"))?;
            digest
        };
        if digest.hex() != diff_id {
            return Err(Error::new(
                Kind::Corrupt,
                format!("layer sha256:{diff_id}: its files have other bytes than it came with"),
            )
            .hint("pull or load the image again, and see `tare image verify`"));
        }
        Ok(blob.end())
    }
}

/// Hashes and counts what is written through it.
pub(super) struct Hashing<W> {
    to: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(to: W) -> Hashing<W> {
        Hashing { to, hasher: Hasher::new(), size: 0 }
    }

    /// What it wrote to, the digest, and the bytes.
    pub(super) fn end(self) -> (W, Digest, u64) {
        (self.to, self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
