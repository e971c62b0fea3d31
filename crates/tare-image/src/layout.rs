//! An OCI image layout in a folder (image-spec, image-layout.md): read as a [`Source`], and written.
//!
//! ```text
//! <folder>/oci-layout  index.json  blobs/sha256/<hex>
//! ```
//!
//! A blob gets its name when its bytes have the digest; `index.json` is replaced last, so that whoever reads finds only
//! what is whole. Images that are there already stay.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tare_sys::{Context, Error, Kind, Result};

use crate::config::Platform;
use crate::digest::{Digest, Hasher};
use crate::documents::{self, Descriptor, Document};
use crate::store::{Blob, Incoming, Source};

/// The note in which an index gives a name (image-spec, annotations.md).
const NAME: &str = "org.opencontainers.image.ref.name";
/// How often a blob is asked for again, in a row, without one more byte coming.
const TRIES: u32 = 5;

/// A layout.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
}

/// `index.json`, as far as it has to be kept when a line is added.
#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
    #[serde(default)]
    manifests: Vec<Value>,
}

impl Layout {
    /// The layout in a folder, which need not be there yet.
    pub fn at(folder: &Path) -> Layout {
        Layout { folder: folder.to_owned() }
    }

    /// The documents of the image of that name; without one, of the only image there is.
    ///
    /// Errors: [`Kind::NotFound`] for a folder that is no layout, and for a name that it has not; [`Kind::Usage`] where it
    /// has several images and no name is given; [`Kind::Corrupt`] for documents that are damaged.
    pub fn find(&self, name: Option<&str>, platform: &Platform) -> Result<Incoming> {
        let shown = self.folder.display();
        let path = self.folder.join("index.json");
        let Document::Index(lines) = documents::parse("index.json", &self.document(&path)?)? else {
            return Err(Error::new(Kind::Corrupt, format!("{}: not an index", path.display())));
        };
        let called = |line: &Descriptor| line.annotations.as_ref().and_then(|notes| notes.get(NAME)).cloned();
        let line = match name {
            Some(name) => lines
                .iter()
                .find(|line| called(line).as_deref() == Some(name) || line.names().any(|of| of == name))
                .ok_or_else(|| {
                    let there: Vec<String> = lines.iter().filter_map(called).collect();
                    Error::new(Kind::NotFound, format!("{shown} has no image {name:?}"))
                        .hint(format!("there are: {}", there.join(", ")))
                })?,
            None => match &lines[..] {
                [line] => line,
                lines => {
                    let what = format!("{shown} has {} images, and no name is given", lines.len());
                    return Err(Error::new(Kind::Usage, what).hint("write oci:FOLDER:NAME"));
                }
            },
        };
        documents::resolve(line, platform, &|descriptor| {
            let bytes = self.document(&self.blob_path(&descriptor.digest))?;
            descriptor.check(&bytes)?;
            Ok(bytes)
        })
    }

    /// Writes an image, and gives it a name.
    ///
    /// Errors: [`Kind::Corrupt`] for blobs with other bytes than promised; those of the source and of the disk.
    pub fn write(&self, incoming: &Incoming, source: &dyn Source, name: Option<&str>) -> Result<()> {
        let what = || format!("write an image to {}", self.folder.display());
        std::fs::create_dir_all(self.folder.join("blobs/sha256")).doing(what)?;
        let config = Digest::of(&incoming.config);
        let manifest = Digest::of(&incoming.manifest);
        for blob in &incoming.layers {
            self.copy(blob, source).doing(|| format!("write blob {}", blob.digest))?;
        }
        for (digest, bytes) in [(&config, &incoming.config), (&manifest, &incoming.manifest)] {
            self.place(&self.blob_path(digest), bytes).doing(what)?;
        }
        self.place(&self.folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).doing(what)?;
        let path = self.folder.join("index.json");
        let mut index = match path.exists() {
            true => documents::read("index.json", &self.document(&path)?)?,
            false => Index {
                rest: BTreeMap::from([
                    ("schemaVersion".to_owned(), 2.into()),
                    ("mediaType".to_owned(), "application/vnd.oci.image.index.v1+json".into()),
                ]),
                manifests: Vec::new(),
            },
        };
        let is_it = |line: &Value| match name {
            Some(name) => line["annotations"][NAME] == name,
            None => line["digest"] == manifest.as_str() && line["annotations"][NAME].is_null(),
        };
        index.manifests.retain(|line| !is_it(line));
        let notes = name.map(|name| BTreeMap::from([(NAME.to_owned(), name.to_owned())]));
        let line = Descriptor {
            media_type: incoming.manifest_type.clone(),
            digest: manifest,
            size: incoming.manifest.len() as u64,
            platform: None,
            annotations: notes,
        };
        let json = |err: serde_json::Error| Error::new(Kind::Kernel, format!("write JSON: {err}"));
        index.manifests.push(serde_json::to_value(line).map_err(json)?);
        self.place(&path, &serde_json::to_vec(&index).map_err(json)?).doing(what)
    }

    /// Copies a blob that is not there, by a file that gets its name at the end.
    fn copy(&self, blob: &Blob, source: &dyn Source) -> Result<()> {
        let to = self.blob_path(&blob.digest);
        if to.exists() {
            return Ok(());
        }
        let unfinished = self.unfinished(&to);
        let copied = File::create(&unfinished)
            .doing(|| format!("make {}", unfinished.display()))
            .and_then(|file| fetch(blob, source, file))
            .and_then(|()| std::fs::rename(&unfinished, &to).doing(|| format!("rename {}", to.display())));
        if copied.is_err() {
            // The failure is the one to report.
            let _ = std::fs::remove_file(&unfinished);
        }
        copied
    }

    fn place(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let unfinished = self.unfinished(path);
        let what = || format!("write {}", path.display());
        let mut file = File::create(&unfinished).doing(what)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).doing(what)?;
        std::fs::rename(&unfinished, path).doing(what)
    }

    fn unfinished(&self, path: &Path) -> PathBuf {
        path.with_extension(format!("unfinished-{}", std::process::id()))
    }

    fn document(&self, path: &Path) -> Result<Vec<u8>> {
        let what = || format!("read {}", path.display());
        let mut bytes = Vec::new();
        File::open(path).doing(what)?.take(documents::LONGEST + 1).read_to_end(&mut bytes).doing(what)?;
        documents::check_length(&path.display().to_string(), bytes.len() as u64)?;
        Ok(bytes)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }
}

impl Source for Layout {
    fn blob(&self, digest: &Digest, _size: u64, from: u64) -> Result<Box<dyn Read + '_>> {
        read_from(&self.blob_path(digest), from)
    }

    fn is_at_hand(&self) -> bool {
        true
    }
}

/// A file from a byte on.
pub(crate) fn read_from(path: &Path, from: u64) -> Result<Box<dyn Read>> {
    let what = || format!("read {}", path.display());
    let mut file = File::open(path).doing(what)?;
    file.seek(SeekFrom::Start(from)).doing(what)?;
    Ok(Box::new(file))
}

fn fetch(blob: &Blob, source: &dyn Source, mut to: File) -> Result<()> {
    let mut hasher = Hasher::new();
    let (mut at, mut failures) = (0, 0);
    let mut buffer = vec![0; 128 << 10];
    while at < blob.size {
        let mut from = source.blob(&blob.digest, blob.size, at)?;
        loop {
            match from.read(&mut buffer) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => break,
                Err(err) if failures >= TRIES => return Err(err).doing(|| "read it"),
                Err(_) => break,
                Ok(length) => {
                    hasher.update(&buffer[..length]);
                    to.write_all(&buffer[..length]).doing(|| "write it")?;
                    at += length as u64;
                    failures = 0;
                    if at > blob.size {
                        break;
                    }
                }
            }
        }
        failures += 1;
        if failures > TRIES {
            break;
        }
    }
    to.sync_all().doing(|| "fsync")?;
    match at == blob.size && hasher.finish() == blob.digest {
        true => Ok(()),
        false => Err(Error::new(Kind::Corrupt, "its source has other bytes than its manifest promises")),
    }
}
