//! Records: small JSON files that say what the store holds, and the file names they have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tare_sys::{Context, Error, Kind, Result};

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::reference::Reference;

/// What a start needs to know of an image, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// `sha256:…`.
    pub image_id: String,
    /// The full name it was found by (`docker.io/library/busybox:latest`); empty where it was found by id.
    pub name: String,
    /// Diff-ids of the layers, hex, lowest first; [`layer_path`](super::ImageStore::layer_path) finds them.
    pub layers: Vec<String>,
    /// How the image wants to be run.
    pub config: ImageConfig,
    /// What the name points to in the registry that it came from: a manifest, or an index of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl RunRecord {
    /// The name as people write it, or the short id where it has none.
    pub fn familiar_name(&self) -> String {
        match Reference::parse(&self.name) {
            Ok(reference) => reference.to_string(),
            Err(_) => self.image_id.trim_start_matches("sha256:").chars().take(12).collect(),
        }
    }
}

/// The longest file name used for a name as it stands; NAME_MAX is 255, and `.<random>.new` is put around it.
const LONGEST_PLAIN: usize = 200;

/// The file of a full name. `/` becomes `+`, which no name holds, so that people can read the folder; a name
/// too long for a file becomes `~` and its digest, and can be read inside.
pub(super) fn file_name(full_name: &str) -> String {
    if full_name.len() > LONGEST_PLAIN {
        return format!("~{}", Digest::of(full_name.as_bytes()).hex());
    }
    full_name.replace('/', "+")
}

/// A record's bytes.
pub(super) fn to_json(record: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|err| Error::new(Kind::Kernel, format!("write a record: {err}")))
}

/// Reads a record; `None` where there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    // Nearly all fit into this, so that nobody has to ask for the size first.
    let mut bytes = Vec::with_capacity(4096);
    match File::open(path).and_then(|file| file.take(u64::MAX).read_to_end(&mut bytes)) {
        Ok(_) => {}
        // ENOTDIR and EISDIR would be somebody else's doing; they are errors.
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err).doing(|| format!("read {}", path.display())),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|err| {
        Error::new(Kind::Corrupt, format!("{} is not a record of an image: {err}", path.display()))
            .hint("remove that file and import the image again")
    })
}
