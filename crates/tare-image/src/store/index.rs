//! The faces that other tools see: `oci-layout`, `index.json`, manifests.

use std::collections::HashMap;
use std::str::FromStr;

use oci_spec::image::{Descriptor, DescriptorBuilder, ImageIndexBuilder, MediaType, Sha256Digest};
use tare_sys::{Error, Kind, Result};

use super::{Blob, Image, ImageStore, files};
use crate::digest::Digest;

/// The file `oci-layout`.
pub(super) const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Bytes that a manifest may have, in every engine.
const MANIFEST_MAX: usize = 4 << 20;

/// The media type of the manifests that we write.
pub(super) fn manifest_type() -> String {
    MediaType::ImageManifest.to_string()
}

impl ImageStore {
    /// Writes `index.json` anew: a line for each name, and one for each image without a name.
    pub(super) fn write_index(&self) -> Result<()> {
        let mut lines = Vec::new();
        for image in self.list()? {
            let blob = Blob { digest: image.manifest.clone(), size: manifest_size(&image) };
            let line = descriptor(MediaType::from(image.manifest_type.as_str()), &blob)?;
            if image.names.is_empty() {
                lines.push(line.clone());
            }
            for name in &image.names {
                let mut line = line.clone();
                // The first is what the specification says, the second what containerd reads.
                line.set_annotations(Some(HashMap::from([
                    ("org.opencontainers.image.ref.name".to_owned(), name.clone()),
                    ("io.containerd.image.name".to_owned(), name.clone()),
                ])));
                lines.push(line);
            }
        }
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(lines)
            .build()
            .map_err(|err| broken(&err))?;
        let bytes = serde_json::to_vec(&index).map_err(|err| broken(&err))?;
        files::replace(&self.root, "index.json", &bytes, 0o644)
    }
}

fn manifest_size(image: &Image) -> u64 {
    image.blobs.iter().find(|blob| blob.digest == image.manifest).map_or(0, |blob| blob.size)
}

fn descriptor(media_type: MediaType, blob: &Blob) -> Result<Descriptor> {
    let digest = Sha256Digest::from_str(blob.digest.hex()).map_err(|err| broken(&err))?;
    DescriptorBuilder::default()
        .media_type(media_type)
        .digest(digest)
        .size(blob.size)
        .build()
        .map_err(|err| broken(&err))
}

/// Refuses what other engines would refuse to read.
pub(super) fn check_size(what: &str, bytes: &[u8]) -> Result<Blob> {
    if bytes.len() > MANIFEST_MAX {
        return Err(Error::new(
            Kind::Usage,
            format!("the {what} would have {} bytes; 4 MiB is the limit everywhere", bytes.len()),
        )
        .hint("give fewer or shorter changes"));
    }
    Ok(Blob { digest: Digest::of(bytes), size: bytes.len() as u64 })
}

/// Our own documents always can be built; if not, the reason is worth more than a panic.
fn broken(err: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Kernel, format!("write an OCI document: {err}"))
}
