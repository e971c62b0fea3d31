//! Compact: the blobs of an image's layers go, and come back when they are needed.
//!
//! A layer is in the store twice: as the blob it came in, and unpacked. For running containers the tree is enough. In
//! place of the blob, `recipes/<diff id>` says how to make the layer's tar again from the tree; it takes about a
//! hundredth. A blob goes only after its recipe was followed once, and gave the very bytes that the layer's diff-id is
//! the digest of.
//!
//! A layer that is not compressed has no blob from the beginning, if its source was a file ([`super::ingest`]): by its
//! recipe, its bytes are read as they were ([`ImageStore::read_blob`]).
//!
//! *What a compacted image cannot*: blobs that were compressed come back as the same tar, but not by the same compressor.
//! So the image has the same id, and another manifest, when it is pushed or saved after that; and as an OCI layout, the
//! store has it without layers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
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
use crate::layout;
use crate::recipe::{self, Following};
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
        let pending = self.pending()?;
        for (diff_id, digest) in image.layers.iter().zip(&image.layer_blobs) {
            let blob = self.blob_path(digest);
            if !blob.exists() {
                continue;
            }
            match self.write_recipe(diff_id, digest, &pending) {
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
    fn write_recipe(&self, diff_id: &str, digest: &Digest, pending: &Pending) -> Result<u64> {
        let path = pending.path.join(diff_id);
        let limits = Limits { ratio: u64::MAX, ..Limits::default() };
        let blob = File::open(self.blob_path(digest)).doing(|| format!("open blob {digest}"))?;
        let recipe = files::create(&path, b"", 0o600)?;
        recipe::write(recipe::tar_of(blob, &limits)?, folder(&self.layer_path(diff_id))?, &recipe)?;
        let mut hashing = Hashing::new(io::sink());
        let reading = File::open(&path).doing(|| format!("open({path:?})"))?;
        let mut tar = Following::new(reading, folder(&self.layer_path(diff_id))?)?;
        copy(&mut tar, &mut hashing)?;
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

    /// A layer's tar, by its recipe.
    pub(super) fn by_recipe(&self, diff_id: &str) -> Result<Following> {
        let path = self.recipe_path(diff_id);
        let recipe = File::open(&path).doing(|| format!("open({path:?})"))?;
        Following::new(recipe, folder(&self.layer_path(diff_id))?)
    }

    /// The bytes of a blob, from the byte `from` on: those of its file, or, of a plain layer that has none, those that its
    /// recipe makes.
    ///
    /// Errors: [`Kind::NotFound`]; those of the disk.
    pub(crate) fn read_blob(&self, digest: &Digest, from: u64) -> Result<Box<dyn Read>> {
        match layout::read_from(&self.blob_path(digest), from) {
            Err(err) if err.kind() == Kind::NotFound && self.recipe_path(digest.hex()).exists() => {
                let tar = self.by_recipe(digest.hex())?;
                let mut tar = Checked { tar, hasher: Hasher::new(), digest: digest.clone() };
                copy(&mut (&mut tar).take(from), &mut io::sink())?;
                Ok(Box::new(tar))
            }
            file => file,
        }
    }

    /// Whether [`read_blob`](ImageStore::read_blob) has the bytes of a layer's blob.
    pub(super) fn has_blob(&self, diff_id: &str, digest: &Digest) -> bool {
        self.blob_path(digest).exists() || digest.hex() == diff_id && self.recipe_path(diff_id).exists()
    }

    /// The image that a name or an id means, with all its blobs: those that were dropped are made again. It may have
    /// another manifest after that.
    ///
    /// Errors: as [`image_of`](ImageStore::image_of); [`Kind::Corrupt`] for a layer whose files are damaged.
    pub fn whole_image_of(&self, name: &str) -> Result<Image> {
        let image = self.image_of(name)?;
        let mut blobs = image.layers.iter().zip(&image.layer_blobs);
        if blobs.all(|(layer, blob)| self.has_blob(layer, blob))
            || image.layer_blobs.len() != image.layers.len()
        {
            return Ok(image);
        }
        let pending = self.pending()?;
        let path = self.blob_path(&image.manifest);
        let manifest = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let mut layers = documents::layers_of(&manifest)?;
        let mut made = Vec::new();
        for (at, (diff_id, layer)) in image.layers.iter().zip(&mut layers).enumerate() {
            if self.has_blob(diff_id, &layer.digest) {
                continue;
            }
            let path = pending.path.join(format!("blob-{at}"));
            let (file, digest, size) = self.make_blob(diff_id, &path)?;
            *layer = documents::layer_descriptor(&Blob { digest: digest.clone(), size }, Compression::Gzip);
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
    fn make_blob(&self, diff_id: &str, path: &std::path::Path) -> Result<(File, Digest, u64)> {
        let mut blob = Hashing::new(files::create(path, b"", 0o600)?);
        let mut tar = Hashing::new(GzEncoder::new(&mut blob, flate2::Compression::fast()));
        copy(&mut self.by_recipe(diff_id)?, &mut tar)
            .doing(|| format!("make layer sha256:{diff_id} again"))?;
        let (gzip, digest, _) = tar.end();
        gzip.finish().doing(|| format!("write({path:?})"))?;
        if digest.hex() != diff_id {
            return Err(other_bytes(diff_id));
        }
        Ok(blob.end())
    }
}

/// Copies all there is; what went wrong with a recipe comes back as it was said.
pub(super) fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<()> {
    let mut from = io::BufReader::with_capacity(128 << 10, from);
    match io::copy(&mut from, to).map_err(io::Error::downcast::<Error>) {
        Ok(_) => Ok(()),
        Err(Ok(err)) => Err(err),
        Err(Err(err)) => Err(err).doing(|| "make a layer's tar"),
    }
}

fn other_bytes(diff_id: &str) -> Error {
    let what = format!("layer sha256:{diff_id}: its files have other bytes than it came with");
    Error::new(Kind::Corrupt, what).hint("pull or load the image again, and see `tare image verify`")
}

/// A layer's tar as its recipe makes it. At its end it says whether these were the right bytes.
struct Checked {
    tar: Following,
    hasher: Hasher,
    digest: Digest,
}

impl Read for Checked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.tar.read(into)?;
        self.hasher.update(&into[..n]);
        if n == 0 && !into.is_empty() && self.hasher.clone().finish() != self.digest {
            return Err(io::Error::other(other_bytes(self.digest.hex())));
        }
        Ok(n)
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
