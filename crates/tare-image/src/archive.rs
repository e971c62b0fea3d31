//! Archives of images, as files: what `docker save`, `podman save` and `skopeo copy` write.
//!
//! ```text
//! OCI image layout in a tar            docker archive
//!   oci-layout  index.json               manifest.json        [{Config, RepoTags, Layers}]
//!   blobs/sha256/<hex>                   <config>.json  <id>/layer.tar
//! ```
//!
//! Newer versions of Docker write both in one, sharing the blobs; so do we ([`save`]). Where both are there, the
//! layout says what the images are, and `manifest.json` adds names to them. Nothing is unpacked here: an archive is a
//! [`Source`] like a registry, that finds its blobs by where they begin.

pub mod save;
mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;
use tare_sys::{Context, Error, Kind, Result};

use crate::config::{self, Platform};
use crate::digest::{Digest, Hasher};
use crate::documents::{self, Descriptor, Document};
use crate::reference::Reference;
use crate::store::{Blob, Incoming, Source};
use crate::unpack::{Compression, Limits, listing, magic};

/// Files that an archive may have. Docker's own have three for each layer.
const MOST_MEMBERS: usize = 100_000;
/// Bytes in the name of a member: all names are kept, and those of an archive of images are short.
const LONGEST_NAME: usize = 512;
/// Links from one member to another, in a row.
const MOST_LINKS: usize = 8;
/// Bytes of documents that an archive may have in all, for they are kept in memory: thousands of images have less.
const MOST_DOCUMENTS: u64 = 32 << 20;

/// An archive whose members are known.
#[derive(Debug)]
pub struct ImageArchive {
    file: File,
    members: BTreeMap<String, Member>,
    /// Blobs that are members, by digest.
    blobs: BTreeMap<Digest, Span>,
    /// What has been hashed already, by where it begins.
    hashed: BTreeMap<u64, Digest>,
}

/// An image in an archive.
#[derive(Debug)]
pub struct Found {
    /// Its documents.
    pub incoming: Incoming,
    /// The names it has there.
    pub names: Vec<Reference>,
}

#[derive(Clone, Debug)]
enum Member {
    File(Span),
    /// As the archive has it: relative to the folder that it is in.
    Link(String),
}

/// Where a member's bytes are.
#[derive(Clone, Copy, Debug)]
struct Span {
    at: u64,
    size: u64,
}

/// A line of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageArchive {
    /// Opens an archive however it comes: a file or a pipe, plain or compressed. What cannot be read from anywhere is
    /// first written to a file without a name in the folder `scratch`.
    ///
    /// Errors: as [`open`](ImageArchive::open); [`Kind::Exhausted`] where `scratch` is full.
    pub fn open_any(input: File, scratch: &Path) -> Result<ImageArchive> {
        ImageArchive::open(spool::seekable(input, scratch)?)
    }

    /// Looks through an archive: a plain tar in a file that can be read from anywhere.
    ///
    /// Errors: [`Kind::Corrupt`] for what is no tar, or has a member twice, or more than 100,000.
    pub fn open(file: File) -> Result<ImageArchive> {
        let mut members = BTreeMap::new();
        let mut reading = file.try_clone().doing(|| "dup(the archive)")?;
        reading.rewind().doing(|| "lseek(the archive, 0)")?;
        let limits = Limits { path: LONGEST_NAME, ..Limits::default() };
        listing::each(reading, &limits, |name, member| {
            let Ok(name) = String::from_utf8(name.to_owned()) else { return Ok(()) };
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let member = match member {
                listing::Member::File { at, size } => Member::File(Span { at, size }),
                listing::Member::Symlink(target) => Member::Link(text(target)),
                // It names its target from the top.
                listing::Member::HardLink(target) => Member::Link(format!("/{}", text(target))),
            };
            if members.len() >= MOST_MEMBERS {
                let what = format!("the archive has more than {MOST_MEMBERS} members");
                return Err(Error::new(Kind::Corrupt, what));
            }
            match members.insert(name.clone(), member) {
                Some(_) => Err(Error::new(Kind::Corrupt, format!("the archive has {name:?} twice"))),
                None => Ok(()),
            }
        })?;
        let blob = |(name, member): (&String, &Member)| match (name.strip_prefix("blobs/sha256/"), member) {
            (Some(hex), Member::File(span)) => Some((Digest::parse(&format!("sha256:{hex}")).ok()?, *span)),
            _ => None,
        };
        let blobs = members.iter().filter_map(blob).collect();
        Ok(ImageArchive { file, members, blobs, hashed: BTreeMap::new() })
    }

    /// The images in it, for this platform where an image has several.
    ///
    /// Errors: [`Kind::Corrupt`] for documents that are missing, damaged or contradict themselves;
    /// [`Kind::NotFound`] where an image has nothing for the platform.
    pub fn images(&mut self, platform: &Platform) -> Result<Vec<Found>> {
        let docker: Option<Vec<DockerImage>> = match self.document("manifest.json")? {
            Some(bytes) => Some(documents::read("manifest.json", &bytes)?),
            None => None,
        };
        if let Some(index) = self.document("index.json")? {
            return self.images_of_layout(&index, docker.unwrap_or_default(), platform);
        }
        let Some(docker) = docker else {
            return Err(Error::new(
                Kind::Corrupt,
                "the archive has neither index.json nor manifest.json, so it holds no images",
            )
            .hint("`tare import` makes an image from the tar of a root file system"));
        };
        let mut documents = 0;
        let mut found = Vec::new();
        for image in docker {
            let image = self.docker_image(image)?;
            count(&mut documents, &image.incoming)?;
            found.push(image);
        }
        Ok(found)
    }

    fn images_of_layout(
        &self,
        index: &[u8],
        docker: Vec<DockerImage>,
        platform: &Platform,
    ) -> Result<Vec<Found>> {
        let Document::Index(lines) = documents::parse("index.json", index)? else {
            return Err(Error::new(Kind::Corrupt, "index.json of the archive is not an index"));
        };
        let mut found: Vec<Found> = Vec::new();
        // A hostile index has one line ten thousand times: each is looked at once.
        let mut by_line = BTreeMap::new();
        let mut by_id = BTreeMap::new();
        let mut documents = 0;
        for line in &lines {
            let at = match by_line.get(&line.digest) {
                Some(at) => *at,
                None => {
                    let incoming = documents::resolve(line, platform, &|descriptor| self.bytes(descriptor))?;
                    count(&mut documents, &incoming)?;
                    let id = Digest::of(&incoming.config);
                    let at = *by_id.entry(id).or_insert(found.len());
                    if at == found.len() {
                        found.push(Found { incoming, names: Vec::new() });
                    }
                    by_line.insert(&line.digest, at);
                    at
                }
            };
            let names = line.names().filter_map(|name| Reference::parse(name).ok());
            found[at].names.extend(names);
        }
        let mut by_config = BTreeMap::new();
        for image in docker {
            let Some(span) = self.find(&image.config) else { continue };
            let id = match by_config.get(&span.at) {
                Some(id) => id,
                None => {
                    let id = Digest::of(&self.read(span, &image.config)?);
                    by_config.entry(span.at).or_insert(id)
                }
            };
            if let Some(at) = by_id.get(id) {
                found[*at].names.extend(names_of(&image)?);
            }
        }
        for image in &mut found {
            let mut seen = BTreeSet::new();
            image.names.retain(|name| seen.insert(name.full()));
        }
        Ok(found)
    }

    fn docker_image(&mut self, image: DockerImage) -> Result<Found> {
        let missing = |name: &str| {
            Error::new(Kind::Corrupt, format!("the archive has no {name:?}, which manifest.json names"))
        };
        let config = self.find(&image.config).ok_or_else(|| missing(&image.config))?;
        let config = self.read(config, &image.config)?;
        let described = config::describe(&config)?;
        if described.diff_ids.len() != image.layers.len() {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "manifest.json has {} layers, and {} has {}",
                    image.layers.len(),
                    image.config,
                    described.diff_ids.len()
                ),
            ));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(&described.diff_ids) {
            let span = self.find(name).ok_or_else(|| missing(name))?;
            let (digest, compression) = self.identify(span, diff_id)?;
            self.blobs.insert(digest.clone(), span);
            layers.push((Blob { digest, size: span.size }, compression));
        }
        let config_blob = Blob { digest: Digest::of(&config), size: config.len() as u64 };
        let manifest = documents::manifest(&config_blob, &layers)?;
        Ok(Found {
            names: names_of(&image)?,
            incoming: Incoming {
                manifest,
                manifest_type: documents::MANIFEST.to_owned(),
                config,
                layers: layers.into_iter().map(|(blob, _)| blob).collect(),
            },
        })
    }

    /// What a layer's blob is called: the diff-id where it is a plain tar, else what its bytes say.
    fn identify(&mut self, span: Span, diff_id: &Digest) -> Result<(Digest, Compression)> {
        let mut head = Vec::new();
        let mut reader = Spanned { file: &self.file, span, from: 0 };
        (&mut reader).take(512).read_to_end(&mut head).doing(|| "read the archive")?;
        let compression = magic::detect(&head)?;
        if compression == Compression::None {
            return Ok((diff_id.clone(), compression));
        }
        if let Some(digest) = self.hashed.get(&span.at) {
            return Ok((digest.clone(), compression));
        }
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        let mut reader = Spanned { file: &self.file, span, from: 0 };
        loop {
            match reader.read(&mut buffer).doing(|| "read the archive")? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        let digest = hasher.finish();
        self.hashed.insert(span.at, digest.clone());
        Ok((digest, compression))
    }

    /// The bytes of a blob, checked.
    fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let span = self.blobs.get(&descriptor.digest).ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("the archive has no blob {}", descriptor.digest))
        })?;
        let bytes = self.read(*span, descriptor.digest.as_str())?;
        descriptor.check(&bytes)?;
        Ok(bytes)
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.find(name).map(|span| self.read(span, name)).transpose()
    }

    fn read(&self, span: Span, name: &str) -> Result<Vec<u8>> {
        documents::check_length(name, span.size)?;
        let mut bytes = Vec::new();
        Spanned { file: &self.file, span, from: 0 }
            .read_to_end(&mut bytes)
            .doing(|| format!("read {name} of the archive"))?;
        Ok(bytes)
    }

    /// A member, links followed; none of them leads out of the archive.
    fn find(&self, name: &str) -> Option<Span> {
        let mut name = normal("", name)?;
        for _ in 0..MOST_LINKS {
            match self.members.get(&name)? {
                Member::File(span) => return Some(*span),
                Member::Link(target) => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
                    name = normal(&folder, target)?;
                }
            }
        }
        None
    }
}

impl Source for ImageArchive {
    fn blob(&self, digest: &Digest, size: u64, from: u64) -> Result<Box<dyn Read + '_>> {
        let span = *self
            .blobs
            .get(digest)
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("the archive has no layer {digest}")))?;
        if span.size != size {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "layer {digest} has {} bytes in the archive, and its manifest says {size}",
                    span.size
                ),
            ));
        }
        Ok(Box::new(Spanned { file: &self.file, span, from }))
    }

    fn is_at_hand(&self) -> bool {
        true
    }
}

/// A member's bytes; several can be read at once.
struct Spanned<'a> {
    file: &'a File,
    span: Span,
    from: u64,
}

impl Read for Spanned<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.span.size.saturating_sub(self.from)).unwrap_or(usize::MAX);
        let length = into.len().min(left);
        let n = self.file.read_at(&mut into[..length], self.span.at + self.from)?;
        self.from += n as u64;
        Ok(n)
    }
}

/// Adds up the documents that are kept.
fn count(so_far: &mut u64, incoming: &Incoming) -> Result<()> {
    *so_far += (incoming.manifest.len() + incoming.config.len()) as u64;
    if *so_far > MOST_DOCUMENTS {
        let most = MOST_DOCUMENTS >> 20;
        let what = format!("the documents of the archive's images are more than {most} MiB");
        return Err(Error::new(Kind::Corrupt, what).hint("save fewer images into one archive"));
    }
    Ok(())
}

fn names_of(image: &DockerImage) -> Result<Vec<Reference>> {
    image.repo_tags.iter().flatten().map(|name| Reference::parse(name)).collect()
}

/// A path within the archive, without `.` and `..`; `None` where it leads out.
fn normal(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = match path.starts_with('/') {
        true => Vec::new(),
        false => folder.split('/').filter(|part| !part.is_empty()).collect(),
    };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_archive() {
        assert_eq!(normal("", "./a//b/"), Some("a/b".to_owned()));
        assert_eq!(normal("x/y", "../z/layer.tar"), Some("x/z/layer.tar".to_owned()));
        assert_eq!(normal("x", "/a"), Some("a".to_owned()));
        for bad in ["..", "../../a", "", ".", "/"] {
            assert_eq!(normal("x", &format!("../{bad}")), None, "{bad}");
        }
    }
}
