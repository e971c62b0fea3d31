//! The image store: where images live, and what a start reads.
//!
//! ```text
//! <root>/                        0700; an OCI image layout that other tools can read
//!   oci-layout  index.json       index.json is derived from ids/ and names/, rewritten after each change
//!   blobs/sha256/<hex>           0444; configs, manifests, and layers with the bytes they came in
//!   layers/<diff id hex>/        a layer's tree, unpacked, with the owners that it names
//!   layers/mount-points/         what is below every image's layers
//!   layers/<random>.pending/     a layer on its way in (or out): tree/, blob, config, manifest
//!   ingest/<blob hex>/           a layer on its way in whose digest is known before (`store/ingest.rs`)
//!   recipes/<diff id hex>        how to make a layer's tar again from its tree, where it has no blob (`recipe.rs`)
//!   damaged/<hex>                a blob or layer of that digest was found to be damaged (`store/verify.rs`)
//!   ids/<image id hex>           JSON: an image that the store holds ([`Image`], without its names)
//!   names/<name, '/' as '+'>     JSON: what a start needs to know of the image of that name ([`RunRecord`])
//!   lock                         flock
//! ```
//!
//! *An image is held* when its file in `ids/` is there; then its blobs and layers are whole. A name may be
//! moved to another image, which leaves one without names (Docker's `<none>`).
//!
//! *Coming in*: everything is written into a pending folder, one `syncfs` brings it to the disk, then it is
//! renamed into place, then the records are written (each: temporary file, fsync, rename, fsync of the folder).
//! Whatever a rename has made visible has thus been on disk before: a power cut leaves an image whole or absent.
//!
//! *Locks*: `lock` is held exclusively while names under the root change (some renames and small files, no
//! unpacking), for at most a minute (`lock::PATIENCE`). Readers take no lock: files are replaced whole. A pending folder
//! is flocked by the process that fills it; one that nobody holds was left by a process that died, and the
//! next import removes it.
//!
//! *Not known here*: which containers use an image. The engine asks itself before it calls [`ImageStore::remove`].

mod collect;
mod commit;
mod compact;
mod compare;
mod files;
mod import;
mod index;
mod ingest;
mod lock;
mod mount_points;
mod pending;
mod record;
mod remove;
mod take;
mod usage;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tare_sys::{Context, Error, Kind, Result};

use crate::config::{ImageConfig, Platform};
use crate::digest::{Digest, is_lower_hex};
use crate::reference::Reference;
use crate::unpack;

pub use collect::Collected;
pub use commit::CommitOptions;
pub use compact::Compacted;
pub use import::{ImportOptions, Progress};
pub use pending::Staging;
pub use record::RunRecord;
pub use remove::{Removal, Removed};
pub use take::{Incoming, LayerState, Source, TakeOptions, Watch};
pub use usage::{ImageUsage, Usage};
pub use verify::Damage;

/// Hex digits of an id that are enough to ask for an image by it, where no other begins alike.
pub const SHORTEST_ID: usize = 3;

/// A store, by its root folder. Nothing is open between calls.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
}

/// An image that the store holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the configuration: `sha256:…`.
    pub id: Digest,
    /// Full names, sorted; may be empty. [`Reference::parse`] and `Display` make them familiar.
    #[serde(skip)]
    pub names: Vec<String>,
    /// What some of these names point to in the registries that they came from.
    #[serde(skip)]
    pub digests: BTreeMap<String, Digest>,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Its media type.
    #[serde(default = "index::manifest_type")]
    pub manifest_type: String,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// What it runs on.
    pub platform: Platform,
    /// What was said when it was imported.
    pub comment: String,
    /// Bytes in the files of its layers.
    pub size: u64,
    /// Its configuration, manifest and layers as they are kept in `blobs/`.
    pub blobs: Vec<Blob>,
    /// Diff-ids of its layers, hex, lowest first.
    pub layers: Vec<String>,
    /// The digests of its layers' blobs, lowest first.
    #[serde(default)]
    pub layer_blobs: Vec<Digest>,
    /// Bytes in the files of each layer.
    #[serde(default)]
    pub layer_sizes: Vec<u64>,
    /// How it wants to be run.
    pub config: ImageConfig,
}

/// A file in `blobs/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// What it is called.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

impl ImageStore {
    /// The store at `root`, which the first import makes (0700). Makes no syscall: it is on the start path.
    ///
    /// Errors: [`Kind::Usage`] where `root` is not absolute.
    pub fn open(root: &Path) -> Result<ImageStore> {
        if !root.is_absolute() {
            return Err(Error::new(
                Kind::Usage,
                format!("image store {}: not an absolute path", root.display()),
            ));
        }
        Ok(ImageStore { root: root.to_owned() })
    }

    /// Where the tree of a layer is. `diff_id` is as in [`RunRecord::layers`].
    pub fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.root.join("layers").join(diff_id)
    }

    /// What a start needs to know of the image that `name` means: a name, an id, or the first (at least
    /// [`SHORTEST_ID`]) digits of an id. A name wins over an id that looks alike. By name, it reads one file.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Usage`] for what cannot be a name; [`Kind::Conflict`] where several
    /// ids begin so; [`Kind::Corrupt`] for a record that cannot be read.
    pub fn resolve(&self, name: &str) -> Result<RunRecord> {
        let reference = Reference::parse(name);
        if let Ok(reference) = &reference
            && let Some(record) = self.find_name(reference)?
        {
            return Ok(record);
        }
        if let Some(image) = self.find_id(name)? {
            return Ok(RunRecord {
                image_id: image.id.to_string(),
                name: String::new(),
                layers: self.visible(&image.layers),
                config: image.config,
                digest: None,
            });
        }
        // Whoever typed 64 digits meant an id, whatever the grammar of names says.
        match reference {
            Err(err) if !looks_like_id(name) => Err(err),
            _ => Err(not_in_store(name)),
        }
    }

    /// All images, the newest first.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut names: BTreeMap<String, Vec<RunRecord>> = BTreeMap::new();
        for record in self.names()? {
            names.entry(record.image_id.clone()).or_default().push(record);
        }
        let mut images = self.images()?;
        for image in &mut images {
            for record in names.remove(image.id.as_str()).unwrap_or_default() {
                image.digests.extend(record.digest.map(|digest| (record.name.clone(), digest)));
                image.names.push(record.name);
            }
            image.names.sort();
        }
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    fn find_name(&self, reference: &Reference) -> Result<Option<RunRecord>> {
        let Some(digest) = reference.digest() else {
            return record::read(&self.name_path(&reference.full()));
        };
        // A digest says it all; Docker, too, does not look at the tag then. It may be that of an index.
        if let Some(record) = record::read(&self.name_path(&reference.by_digest().full()))? {
            return Ok(Some(record));
        }
        let of_image = self.images()?.into_iter().find(|image| image.manifest == *digest);
        let name = format!("{}@{digest}", reference.name());
        let of_that_name = |record: &RunRecord| {
            (record.digest.as_ref() == Some(digest)
                || of_image.as_ref().is_some_and(|image| record.image_id == image.id.as_str()))
                && Reference::parse(&record.name).is_ok_and(|known| known.name() == reference.name())
        };
        Ok(self.names()?.into_iter().find(of_that_name).map(|record| RunRecord { name, ..record }))
    }

    fn find_id(&self, text: &str) -> Result<Option<Image>> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if !looks_like_id(text) {
            return Ok(None);
        }
        if hex.len() == 64 {
            return record::read(&self.root.join("ids").join(hex));
        }
        let all = files::names_in(&self.root.join("ids"))?;
        let mut found = all.iter().filter(|id| id.starts_with(hex));
        match (found.next(), found.next()) {
            (Some(id), None) => record::read(&self.root.join("ids").join(id)),
            (Some(_), Some(_)) => {
                Err(Error::new(Kind::Conflict, format!("several images have ids that begin with {hex}"))
                    .hint("give more digits; `tare image ls --no-trunc` shows them all"))
            }
            _ => Ok(None),
        }
    }

    fn images(&self) -> Result<Vec<Image>> {
        self.records("ids", |name| name.len() == 64 && is_lower_hex(name))
    }

    fn names(&self) -> Result<Vec<RunRecord>> {
        self.records("names", |_| true)
    }

    /// All records in a folder; what vanishes while we look is not there.
    fn records<T: for<'de> Deserialize<'de>>(
        &self,
        folder: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<T>> {
        let folder = self.root.join(folder);
        let mut records = Vec::new();
        for name in files::names_in(&folder)? {
            if wanted(&name) && !name.starts_with('.') {
                records.extend(record::read(&folder.join(name))?);
            }
        }
        Ok(records)
    }

    /// The layers that are to be seen: those from the last whose root hides all below. overlayfs knows no such root.
    fn visible(&self, layers: &[String]) -> Vec<String> {
        let hides = |layer: &String| unpack::whiteout::is_opaque(&self.layer_path(layer));
        let first = layers.iter().rposition(hides).unwrap_or(0);
        layers[first..].to_vec()
    }

    /// Where it is said how a layer's tar can be made again.
    fn recipe_path(&self, diff_id: &str) -> PathBuf {
        self.root.join("recipes").join(diff_id)
    }

    /// Where a blob is.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn name_path(&self, full_name: &str) -> PathBuf {
        self.root.join("names").join(record::file_name(full_name))
    }

    /// Makes the folders of the store, where they are missing.
    fn make_folders(&self) -> Result<()> {
        files::make_folder(&self.root, 0o700)?;
        for folder in ["blobs", "blobs/sha256", "layers", "ids", "names"] {
            files::make_folder(&self.root.join(folder), 0o700)?;
        }
        if !self.root.join("oci-layout").exists() {
            files::replace(&self.root, "oci-layout", index::LAYOUT.as_bytes(), 0o644)
                .doing(|| "make the image store")?;
        }
        self.make_mount_points()
    }
}

fn looks_like_id(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (SHORTEST_ID..=64).contains(&hex.len()) && is_lower_hex(hex)
}

fn not_in_store(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("no such image: {name}"))
        .hint(format!("`tare image ls` lists the images there are; `tare image import FILE {name}` adds one"))
}
