//! Writing images into one tar that is an OCI image layout and a docker archive at once.
//!
//! ```text
//! oci-layout  index.json  manifest.json  blobs/sha256/<hex>…
//! ```
//!
//! Blobs go out as they came in, so an image has the same digest wherever it is loaded. The same images make the same
//! bytes: members in order, and no times.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::Serialize;
use tare_sys::{Context, Error, Kind, Result};

use crate::documents::Descriptor;
use crate::reference::Reference;
use crate::store::{Image, ImageStore};

/// An image to be saved, and the names that go with it.
#[derive(Debug)]
pub struct Saved {
    /// The image.
    pub image: Image,
    /// Its names in the archive; none for one that is saved by its id.
    pub names: Vec<Reference>,
}

/// A line of `manifest.json`, as Docker reads it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// Writes the archive.
///
/// Errors: [`Kind::NotFound`] for an image whose blobs are not in the store any more; those of reading and writing.
pub fn save(store: &ImageStore, images: &[Saved], to: impl Write) -> Result<()> {
    if let Some(Saved { image, .. }) =
        images.iter().find(|saved| saved.image.layer_blobs.len() != saved.image.layers.len())
    {
        return Err(Error::new(Kind::Unsupported, format!("image {} was made by an older tare", image.id))
            .hint("import or load it again"));
    }
    let mut tar = tar::Builder::new(to);
    let document = |tar: &mut tar::Builder<_>, name: &str, bytes: &[u8]| {
        let mut header = header(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).doing(|| format!("write {name} to the archive"))
    };
    document(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    document(&mut tar, "index.json", &json(&index(images))?)?;
    document(&mut tar, "manifest.json", &json(&images.iter().map(docker_image).collect::<Vec<_>>())?)?;
    let blobs: BTreeMap<_, _> =
        images.iter().flat_map(|saved| &saved.image.blobs).map(|blob| (&blob.digest, blob.size)).collect();
    for (digest, size) in blobs {
        let what = || format!("write blob {digest} to the archive");
        let bytes = store.read_blob(digest, 0).doing(what).map_err(|err| match err.kind() {
            Kind::NotFound => err.hint("the image was made smaller by `image compact`; pull it again"),
            _ => err,
        })?;
        let mut bytes = Counted { from: bytes, count: 0 };
        let name = format!("blobs/sha256/{}", digest.hex());
        let written = tar.append_data(&mut header(size), name, (&mut bytes).take(size)).doing(what);
        // Reading on tells whether the bytes were right.
        written.and_then(|()| bytes.read(&mut [0]).doing(what))?;
        if bytes.count != size {
            let why = format!("{}: it has other bytes than its {size}", what());
            return Err(Error::new(Kind::Corrupt, why).hint("`tare image verify` says more"));
        }
    }
    let mut to = tar.into_inner().doing(|| "write the end of the archive")?;
    to.flush().doing(|| "write the end of the archive")
}

/// Counts what is read through it.
struct Counted<R> {
    from: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(into)?;
        self.count += n as u64;
        Ok(n)
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o444);
    header.set_mtime(0);
    header
}

fn index(images: &[Saved]) -> Index {
    let mut manifests = Vec::new();
    for Saved { image, names } in images {
        let size = image.blobs.iter().find(|blob| blob.digest == image.manifest).map_or(0, |blob| blob.size);
        let line = Descriptor {
            media_type: image.manifest_type.clone(),
            digest: image.manifest.clone(),
            size,
            platform: None,
            annotations: None,
        };
        if names.is_empty() {
            manifests.push(line.clone());
        }
        for name in names {
            let notes = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            let notes = notes.map(|note| (note.to_owned(), name.full()));
            manifests.push(Descriptor { annotations: Some(BTreeMap::from(notes)), ..line.clone() });
        }
    }
    Index { schema_version: 2, media_type: "application/vnd.oci.image.index.v1+json", manifests }
}

fn docker_image(saved: &Saved) -> DockerImage {
    let place = |hex: &str| format!("blobs/sha256/{hex}");
    let tags: Vec<String> = saved.names.iter().map(Reference::to_string).collect();
    DockerImage {
        config: place(saved.image.id.hex()),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: saved.image.layer_blobs.iter().map(|digest| place(digest.hex())).collect(),
    }
}

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|err| Error::new(Kind::Kernel, format!("write JSON: {err}")))
}
