//! What is done with each input, and what must hold afterwards. Also compiled into the tests of tare-image, which run it on
//! a few thousand inputs with a stable compiler.

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use tare_image::archive::ImageArchive;
use tare_image::documents::{self, Descriptor};
use tare_image::store::{Blob, Incoming, Source, TakeOptions};
use tare_image::{Compression, Digest, ImageStore, ImportOptions, Platform, Reference};
use tare_sys::{Error, Kind, Result};

/// A name, what is done with an input, and inputs to begin from.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("archive", archive, seeds::archives),
    ("layer", layer, seeds::archives),
    ("images", images, seeds::images),
    ("manifest", manifest, seeds::manifests),
    ("config", config, seeds::configs),
    ("reference", reference, seeds::references),
];

/// The tar of a root file system, as `tare import` takes it.
pub fn archive(data: &[u8]) {
    let place = Place::new();
    let name = Reference::parse("fuzz").expect("a name");
    for bytes in [data.to_vec(), with_right_checksums(data)] {
        let result = place.store.import(&bytes[..], &name, &ImportOptions::default());
        place.look(result.is_ok());
        if result.is_ok() {
            place.store.remove("fuzz").expect("removing it");
        } else {
            place.is_empty();
        }
    }
}

/// A layer whose digests are right, whatever is in it. Where it is taken, the store has it byte for byte.
pub fn layer(data: &[u8]) {
    let place = Place::new();
    let data = with_right_checksums(data);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&data)] },
    })
    .to_string();
    let result = take(&place.store, config.as_bytes(), &[&data]);
    place.look(result.is_ok());
    if let Ok(id) = result {
        let mut kept = Vec::new();
        let mut bytes = place.store.blob(&Digest::of(&data), 0, 0).expect("its blob");
        bytes.read_to_end(&mut kept).expect("reading its blob");
        assert!(kept == data, "a layer is not read as it came");
        place.store.remove(id.as_str()).expect("removing it");
    } else {
        place.is_empty();
    }
}

/// An archive of images, as `tare load` takes it.
pub fn images(data: &[u8]) {
    let place = Place::new();
    let data = with_right_checksums(data);
    let mut file = tempfile::tempfile_in(memory()).expect("a file");
    file.write_all(&data).and_then(|()| file.rewind()).expect("writing it");
    let Ok(mut archive) = ImageArchive::open(file) else { return };
    let Ok(found) = archive.images(&Platform::host()) else { return };
    for image in found {
        let _ = place.store.take(&image.incoming, &archive, &image.names, &TakeOptions::default());
        place.look(true);
    }
    for image in place.store.list().expect("a store that can be read") {
        for name in &image.names {
            place.store.remove(name).expect("removing a name");
        }
        if image.names.is_empty() {
            place.store.remove(image.id.as_str()).expect("removing an image");
        }
    }
    place.is_empty();
}

/// A manifest or an index.
pub fn manifest(data: &[u8]) {
    let _ = documents::check_media_type("it", data, documents::MANIFEST);
    if documents::parse("it", data).is_err() {
        return;
    }
    let root = Descriptor {
        media_type: documents::MANIFEST.to_owned(),
        digest: Digest::of(data),
        size: data.len() as u64,
        platform: None,
        annotations: None,
    };
    // Whatever it points to is itself.
    let asked = std::cell::Cell::new(0);
    let fetch = |_: &Descriptor| {
        asked.set(asked.get() + 1);
        Ok(data.to_vec())
    };
    let _ = documents::resolve(&root, &Platform::host(), &fetch);
    assert!(asked.get() <= 8, "asked {} times", asked.get());
}

/// An image's configuration.
pub fn config(data: &[u8]) {
    let place = Place::new();
    if let Ok(id) = take(&place.store, data, &[]) {
        let record = place.store.resolve(id.as_str()).expect("an image that is there");
        let _ = record.familiar_name();
        let _ = place.store.history(id.as_str());
        place.store.remove(id.as_str()).expect("removing it");
    }
    place.look(false);
}

/// Names, digests and platforms.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = Reference::parse(text) {
        let full = name.full();
        let again = Reference::parse(&full).expect("a whole name is a name");
        assert_eq!(again.full(), full, "{text:?}");
        let short = Reference::parse(&name.to_string()).expect("a familiar name is a name");
        assert_eq!(short.full(), full, "{text:?}");
        let mut parts = full.split('/');
        assert!(parts.all(|part| !matches!(part, "" | "." | "..")), "{text:?}: {full}");
    }
    if let Ok(digest) = Digest::parse(text) {
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()), "{text:?}");
    }
    if let Ok(platform) = Platform::parse(text) {
        assert_eq!(Platform::parse(&platform.to_string()).expect("a platform"), platform);
    }
}

/// A store in a folder of its own, with something beside it that nobody may touch.
struct Place {
    store: ImageStore,
    root: PathBuf,
    canary: PathBuf,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::Builder::new().prefix("tare-fuzz-").tempdir_in(memory()).expect("a folder");
        let (root, canary) = (folder.path().join("store"), folder.path().join("canary"));
        fs::create_dir(&canary).expect("a folder");
        fs::write(canary.join("file"), "untouched").expect("a file");
        let store = ImageStore::open(&root).expect("an absolute path");
        Place { store, root, canary, _folder: folder }
    }

    /// Nothing outside the store was touched, and nothing in it is half made.
    fn look(&self, done: bool) {
        assert_eq!(fs::read_to_string(self.canary.join("file")).expect("the canary"), "untouched");
        assert_eq!(names(&self.canary), ["file"]);
        let beside = names(self.canary.parent().expect("a folder"));
        assert!(beside.iter().all(|name| name == "store" || name == "canary"), "{beside:?}");
        if !done {
            assert!(self.store.list().is_ok_and(|images| images.is_empty()));
        }
    }

    fn is_empty(&self) {
        assert_eq!(names(&self.root.join("blobs/sha256")), Vec::<String>::new());
        let mut layers = names(&self.root.join("layers"));
        layers.retain(|name| name != "mount-points");
        assert_eq!(layers, Vec::<String>::new());
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Layers in memory.
struct Layers<'a>(&'a [&'a [u8]]);

impl Source for Layers<'_> {
    fn blob(&self, digest: &Digest, _: u64, from: u64) -> Result<Box<dyn Read + '_>> {
        let layer = self.0.iter().find(|layer| Digest::of(layer) == *digest);
        let layer = layer.ok_or_else(|| Error::new(Kind::NotFound, "no such layer"))?;
        Ok(Box::new(layer.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default()))
    }

    /// So that the store keeps a recipe where it can.
    fn is_at_hand(&self) -> bool {
        true
    }
}

fn take(store: &ImageStore, config: &[u8], layers: &[&[u8]]) -> Result<Digest> {
    let blob = |bytes: &[u8]| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
    let blobs: Vec<Blob> = layers.iter().map(|layer| blob(layer)).collect();
    let typed: Vec<_> = blobs.iter().map(|blob| (blob.clone(), Compression::None)).collect();
    let manifest = documents::manifest(&blob(config), &typed)?;
    let manifest_type = documents::MANIFEST.to_owned();
    let incoming = Incoming { manifest, manifest_type, config: config.to_vec(), layers: blobs };
    store.take(&incoming, &Layers(layers), &[], &TakeOptions::default()).map(|image| image.id)
}

/// The same bytes with the right checksum wherever a header must be: otherwise hardly any input would get past the first.
fn with_right_checksums(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let mut at = 0;
    while let Some(block) = data.get_mut(at..at + 512) {
        at += 512;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = block[124..136].iter().take_while(|byte| byte.is_ascii_digit());
        let size = digits
            .fold(0usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
        // Links and the like have no data, whatever is said.
        if !matches!(block[156], b'1'..=b'6') {
            at = at.saturating_add(size.saturating_add(511) / 512 * 512);
        }
    }
    data
}

/// Inputs that are in order, to begin from.
mod seeds {
    use super::{Digest, with_right_checksums};

    fn entry(kind: u8, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        block[136..148].copy_from_slice(b"14000000000\0");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(kind, b'3' | b'4') {
            block[329..337].copy_from_slice(b"0000001\0");
            block[337..345].copy_from_slice(b"0000003\0");
        }
        block.extend_from_slice(data);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }

    fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut tar = entries.concat();
        tar.resize(tar.len() + 1024, 0);
        with_right_checksums(&tar)
    }

    pub(super) fn archives() -> Vec<Vec<u8>> {
        let pax = b"19 path=some/where\n20 mtime=-1.25000000\n24 SCHILY.xattr.user.a=b\n";
        let sparse = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=holes\n\
                       29 GNU.sparse.realsize=70000\n";
        let mut map = b"2\n0\n4\n66000\n4\n".to_vec();
        map.resize(512, 0);
        map.extend_from_slice(b"headtail");
        vec![
            tar(&[
                entry(b'5', "etc", "", b""),
                entry(b'0', "etc/passwd", "", b"root:x:0:0\n"),
                entry(b'2', "lib", "usr/lib", b""),
                entry(b'1', "hard", "etc/passwd", b""),
                entry(b'1', "early", "late", b""),
                entry(b'0', "late", "", b"x"),
            ]),
            tar(&[
                entry(b'0', ".wh.gone", "", b""),
                entry(b'5', "dir", "", b""),
                entry(b'0', "dir/.wh..wh..opq", "", b""),
                entry(b'0', "dir/.wh.file", "", b""),
                entry(b'3', "null", "", b""),
                entry(b'6', "fifo", "", b""),
            ]),
            tar(&[
                entry(b'x', "pax", "", pax),
                entry(b'0', "cut", "", b"data"),
                entry(b'L', "././@LongLink", "", &[b'n'; 150]),
                entry(b'0', "n", "", b""),
                entry(b'K', "././@LongLink", "", &[b'l'; 150]),
                entry(b'2', "s", "l", b""),
            ]),
            tar(&[entry(b'x', "pax", "", sparse), entry(b'0', "GNUSparseFile.0/holes", "", &map)]),
            tar(&[entry(b'2', "out", "../../../canary", b""), entry(b'0', "out/file", "", b"evil")]),
        ]
    }

    pub(super) fn images() -> Vec<Vec<u8>> {
        let layer = &archives()[0];
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(layer)
        );
        let docker = br#"[{"Config":"c.json","RepoTags":["fuzz:1"],"Layers":["x/layer.tar"]}]"#;
        let line = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            serde_json::json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() })
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": line("config.v1+json", config.as_bytes()),
            "layers": [line("layer.v1.tar", layer)],
        })
        .to_string();
        let index =
            serde_json::json!({ "manifests": [line("manifest.v1+json", manifest.as_bytes())] }).to_string();
        let blob =
            |bytes: &[u8]| entry(b'0', &format!("blobs/sha256/{}", Digest::of(bytes).hex()), "", bytes);
        vec![
            tar(&[
                entry(b'0', "manifest.json", "", docker),
                entry(b'0', "c.json", "", config.as_bytes()),
                entry(b'2', "x/layer.tar", "../layer", b""),
                entry(b'0', "layer", "", layer),
            ]),
            tar(&[
                entry(b'0', "index.json", "", index.as_bytes()),
                blob(manifest.as_bytes()),
                blob(config.as_bytes()),
                blob(layer),
            ]),
        ]
    }

    pub(super) fn manifests() -> Vec<Vec<u8>> {
        let line = |kind: &str| {
            serde_json::json!({ "mediaType": kind, "digest": Digest::of(b"{}"), "size": 2,
                "platform": { "os": "linux", "architecture": "amd64" } })
        };
        let config = line("application/vnd.oci.image.config.v1+json");
        let layers = [line("application/vnd.oci.image.layer.v1.tar+gzip")];
        let index = [line("application/vnd.oci.image.manifest.v1+json")];
        [
            serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers }),
            serde_json::json!({ "schemaVersion": 2, "manifests": index }),
            serde_json::json!({ "schemaVersion": 1, "fsLayers": [] }),
        ]
        .map(|document| document.to_string().into_bytes())
        .into()
    }

    pub(super) fn configs() -> Vec<Vec<u8>> {
        [
            r#"{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","config":{"User":"1:2",
                "Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],"Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":{}},
                "Labels":{"a":"b"},"StopSignal":"SIGTERM","WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":[]},
                "history":[{"created_by":"x","empty_layer":true}]}"#,
            r#"{"architecture":"arm","variant":"v7","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    }

    pub(super) fn references() -> Vec<Vec<u8>> {
        let digest = Digest::of(b"x");
        [
            "busybox",
            "docker.io/library/busybox:latest",
            "localhost:5000/a/b-c__d.e:1.0",
            "[::1]:80/x",
            "linux/arm/v7",
            &format!("example.org/a@{digest}"),
            digest.as_str(),
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    }
}
