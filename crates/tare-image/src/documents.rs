//! An image's documents: manifests and indexes, of OCI and of Docker's schema 2.
//!
//! They come from strangers: sizes are limited before bytes are read, digests are checked before bytes are believed,
//! and a document that can be read in two ways is refused (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tare_sys::{Error, Kind, Result};

use crate::config::Platform;
use crate::digest::Digest;
use crate::store::{Blob, Incoming};
use crate::unpack::Compression;

/// Media type of an OCI manifest (image-spec, media-types.md).
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// All that may describe an image, as one asks a registry for it.
pub const MANIFESTS: [&str; 4] = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX];
/// Of a layer, not compressed.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Bytes that a document may have, in every engine.
pub(crate) const LONGEST: u64 = 4 << 20;
/// Layers that an image may have. overlayfs takes 500.
pub(crate) const MOST_LAYERS: usize = 1000;
/// Indexes in indexes.
const DEEPEST: u32 = 4;

/// What a document points to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A manifest, or a list of them.
#[derive(Clone, Debug)]
pub enum Document {
    /// Of one image.
    Manifest {
        /// Its media type.
        media_type: String,
        /// Its configuration.
        config: Descriptor,
        /// Its layers, lowest first.
        layers: Vec<Descriptor>,
    },
    /// Of several.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

impl Descriptor {
    /// Compares bytes with what was promised.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 == self.size && Digest::of(bytes) == self.digest {
            return Ok(());
        }
        Err(Error::new(
            Kind::Corrupt,
            format!("{}: {} other bytes came than its {} bytes", self.digest, bytes.len(), self.size),
        ))
    }

    /// The names that a layout's index gives it: containerd's note is whole, OCI's may be a tag alone, which names
    /// nothing.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let note =
            |name: &str| self.annotations.as_ref().and_then(|notes| notes.get(name)).map(String::as_str);
        let whole = note("io.containerd.image.name");
        let named = note("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']));
        whole.or(named).into_iter()
    }
}

/// Refuses a document that is too long, before it is read.
pub fn check_length(name: &str, length: u64) -> Result<()> {
    if length <= LONGEST {
        return Ok(());
    }
    Err(Error::new(Kind::Corrupt, format!("{name} has {length} bytes; 4 MiB is the limit everywhere")))
}

/// Reads JSON; nested deeper than 128 it is refused, as is a field of ours given twice.
pub fn read<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T> {
    check_length(name, bytes.len() as u64)?;
    serde_json::from_slice(bytes).map_err(|err| Error::new(Kind::Corrupt, format!("read {name}: {err}")))
}

/// Reads a manifest or an index.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Document> {
    let given: Given = read(name, bytes)?;
    let refuse = |why: &str| Err(Error::new(Kind::Corrupt, format!("{name} is ambiguous: {why}")));
    if given.fs_layers.is_some() || given.schema_version == Some(1) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{name} is a manifest of Docker's schema 1, which nobody writes since 2017"),
        )
        .hint("push the image again with a tool of today"));
    }
    let media_type = given.media_type.unwrap_or_default();
    match (given.config, given.layers, given.manifests) {
        (None, None, Some(lines)) if matches!(media_type.as_str(), "" | INDEX | DOCKER_INDEX) => {
            Ok(Document::Index(lines))
        }
        (Some(config), Some(layers), None)
            if matches!(media_type.as_str(), "" | MANIFEST | DOCKER_MANIFEST) =>
        {
            if layers.len() > MOST_LAYERS {
                let what = format!("{name} has {} layers; {MOST_LAYERS} is the limit", layers.len());
                return Err(Error::new(Kind::Corrupt, what));
            }
            layers.iter().try_for_each(check_layer)?;
            let media_type = if media_type.is_empty() { MANIFEST.to_owned() } else { media_type };
            Ok(Document::Manifest { media_type, config, layers })
        }
        (_, Some(_), Some(_)) | (Some(_), _, Some(_)) => refuse("it lists both layers and manifests"),
        _ => refuse(&format!("its media type {media_type:?} does not fit what it lists")),
    }
}

/// Refuses a document that whoever sent it calls by another type than it has itself (CVE-2021-41190). Types that are none of
/// an image's say nothing.
pub fn check_media_type(name: &str, bytes: &[u8], said: &str) -> Result<()> {
    let is_index = matches!(parse(name, bytes)?, Document::Index(_));
    if !MANIFESTS.contains(&said) || is_index == matches!(said, INDEX | DOCKER_INDEX) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Corrupt,
        format!("{name} is ambiguous: it was sent as {said}, and is something else"),
    ))
}

/// Follows a descriptor to one image's documents. `fetch` gives a document's bytes, checked against its descriptor.
pub fn resolve(
    from: &Descriptor,
    platform: &Platform,
    fetch: &dyn Fn(&Descriptor) -> Result<Vec<u8>>,
) -> Result<Incoming> {
    let mut descriptor = from.clone();
    for _ in 0..DEEPEST {
        check_length(descriptor.digest.as_str(), descriptor.size)?;
        let bytes = fetch(&descriptor)?;
        match parse(descriptor.digest.as_str(), &bytes)? {
            Document::Index(lines) => descriptor = choose(lines, platform)?,
            Document::Manifest { media_type, config, layers } => {
                check_length(config.digest.as_str(), config.size)?;
                let layers = layers.into_iter().map(|line| Blob { digest: line.digest, size: line.size });
                return Ok(Incoming {
                    manifest: bytes,
                    manifest_type: media_type,
                    config: fetch(&config)?,
                    layers: layers.collect(),
                });
            }
        }
    }
    Err(Error::new(Kind::Corrupt, format!("{}: indexes of indexes, deeper than {DEEPEST}", from.digest)))
}

/// The line for a platform: the best variant that its processor can run, of equals the first.
fn choose(lines: Vec<Descriptor>, wanted: &Platform) -> Result<Descriptor> {
    let rank = |line: &Descriptor| {
        let has = line.platform.as_ref()?;
        (has.os == wanted.os && has.architecture == wanted.architecture)
            .then(|| rank(&wanted.architecture, wanted.variant.as_deref(), has.variant.as_deref()))?
    };
    let best = lines.iter().filter_map(|line| Some((rank(line)?, line))).min_by_key(|(rank, _)| *rank);
    let nothing_said = || (lines.len() == 1 && lines[0].platform.is_none()).then(|| &lines[0]);
    match best.map(|(_, line)| line).or_else(nothing_said) {
        Some(line) => Ok(line.clone()),
        None => {
            let mut there: Vec<String> =
                lines.iter().filter_map(|line| Some(line.platform.as_ref()?.to_string())).collect();
            there.retain(|name| !name.starts_with("unknown"));
            there.dedup();
            let there = if there.is_empty() { "no platform at all".to_owned() } else { there.join(", ") };
            Err(Error::new(Kind::NotFound, format!("the image has nothing for {wanted}"))
                .hint(format!("it is there for {there}")))
        }
    }
}

/// How well a variant of an image fits a processor's, 0 best; `None`: it does not run there. After containerd's
/// `platforms` (compare.go): a processor runs what was built for those before it.
fn rank<'a>(architecture: &str, wanted: Option<&'a str>, has: Option<&'a str>) -> Option<u32> {
    let usual = match architecture {
        "arm" => "v7",
        "arm64" => "v8",
        "amd64" => "v1",
        _ => "",
    };
    let known = |variant: Option<&'a str>| variant.filter(|variant| !variant.is_empty()).unwrap_or(usual);
    let (wanted, has) = (known(wanted), known(has));
    if wanted == has {
        return Some(0);
    }
    let level = |variant: &str| variant.strip_prefix('v')?.parse::<u32>().ok();
    level(wanted)?.checked_sub(level(has)?)
}

fn check_layer(layer: &Descriptor) -> Result<()> {
    const KNOWN: [&str; 5] = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ];
    if KNOWN.contains(&layer.media_type.as_str()) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!(
            "layer {} is of the type {:?}, which is none of a container image",
            layer.digest, layer.media_type
        ),
    ))
}

/// The manifest of an image that came without one.
pub fn manifest(config: &Blob, layers: &[(Blob, Compression)]) -> Result<Vec<u8>> {
    let layers: Vec<Descriptor> =
        layers.iter().map(|(blob, compression)| layer_descriptor(blob, *compression)).collect();
    manifest_of(config, &layers)
}

/// The layers that a manifest names, lowest first, by OCI's types.
pub(crate) fn layers_of(manifest: &[u8]) -> Result<Vec<Descriptor>> {
    let Document::Manifest { layers, .. } = parse("the manifest", manifest)? else {
        return Err(Error::new(Kind::Corrupt, "the image's manifest is an index"));
    };
    let by_oci = |layer: Descriptor| Descriptor {
        media_type: match layer.media_type.as_str() {
            "application/vnd.docker.image.rootfs.diff.tar" => LAYER.to_owned(),
            "application/vnd.docker.image.rootfs.diff.tar.gzip" => format!("{LAYER}+gzip"),
            _ => layer.media_type,
        },
        ..layer
    };
    Ok(layers.into_iter().map(by_oci).collect())
}

/// What a manifest says of a layer.
pub(crate) fn layer_descriptor(blob: &Blob, compression: Compression) -> Descriptor {
    let suffix = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    descriptor(&format!("{LAYER}{suffix}"), blob)
}

fn descriptor(media_type: &str, blob: &Blob) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: blob.digest.clone(),
        size: blob.size,
        platform: None,
        annotations: None,
    }
}

/// A manifest of these layers.
pub(crate) fn manifest_of(config: &Blob, layers: &[Descriptor]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        schema_version: u32,
        media_type: &'static str,
        config: Descriptor,
        layers: &'a [Descriptor],
    }
    let manifest =
        Manifest { schema_version: 2, media_type: MANIFEST, config: descriptor(CONFIG, config), layers };
    serde_json::to_vec(&manifest).map_err(|err| Error::new(Kind::Kernel, format!("write a manifest: {err}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest's first byte that is chosen out of platforms.
    fn chosen(wanted: &str, there: &[&str]) -> Option<u8> {
        let line = |(n, platform): (usize, &&str)| Descriptor {
            media_type: MANIFEST.to_owned(),
            digest: Digest::of(&[n as u8]),
            size: 2,
            platform: Some(Platform::parse(platform).unwrap()),
            annotations: None,
        };
        let lines = there.iter().enumerate().map(line).collect();
        let found = choose(lines, &Platform::parse(wanted).unwrap()).ok()?;
        (0..there.len() as u8).find(|n| Digest::of(&[*n]) == found.digest)
    }

    #[test]
    fn the_best_variant_that_runs_is_chosen() {
        let arm = ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6", "linux/arm64/v8"];
        for (wanted, index) in [("arm/v7", 1), ("arm/v6", 2), ("arm/v5", 0), ("arm", 1), ("arm64", 3)] {
            assert_eq!(chosen(&format!("linux/{wanted}"), &arm), Some(index), "{wanted}");
        }
        assert_eq!(chosen("linux/arm/v8", &arm), Some(1));
        assert_eq!(chosen("linux/arm/v6", &["linux/arm/v7"]), None);
        // A processor that says nothing of itself is the oldest.
        assert_eq!(chosen("linux/amd64", &["linux/amd64/v3", "linux/amd64"]), Some(1));
        assert_eq!(chosen("linux/amd64", &["linux/amd64/v3"]), None);
        assert_eq!(chosen("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"]), Some(1));
        // Of equals the first; what is not known fits itself alone.
        assert_eq!(chosen("linux/s390x", &["linux/s390x", "linux/s390x"]), Some(0));
        assert_eq!(chosen("linux/arm/odd", &["linux/arm/v7", "linux/arm/odd"]), Some(1));
        assert_eq!(chosen("linux/amd64", &["linux/riscv64", "linux/arm64"]), None);
    }
}
