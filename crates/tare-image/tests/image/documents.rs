//! Manifests, indexes, configurations and archives of images that are made to be misread, or to take all there is of
//! memory and time. Each row of the threat model that is about documents has a test here.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tare_image::archive::ImageArchive;
use tare_image::documents::{self, Descriptor, Document};
use tare_image::store::{Blob, Incoming, TakeOptions};
use tare_image::{Compression, Digest, Platform, Reference};
use tare_sys::{Kind, Result};

use crate::archive::{Entry, Place, Tar, header, names, pax};
use crate::compressed::gzip;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: None,
    }
}

fn line(media_type: &str) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": Digest::of(b""), "size": 0 })
}

#[track_caller]
fn refused(document: &serde_json::Value, why: &str) {
    let err = documents::parse("it", document.to_string().as_bytes()).unwrap_err();
    assert!(matches!(err.kind(), Kind::Corrupt | Kind::Unsupported), "{err}");
    assert!(err.to_string().contains(why), "{why}: {err}");
}

/// I07, CVE-2020-1702, CVE-2021-21285, CVE-2023-25153.
#[test]
fn documents_beyond_all_measure_are_refused_before_they_cost_anything() {
    let start = Instant::now();
    let long = vec![b' '; (4 << 20) + 1];
    let err = documents::parse("it", &long).unwrap_err();
    assert!(err.to_string().contains("4 MiB"), "{err}");
    let layers: Vec<_> = (0..10_000).map(|_| line(LAYER)).collect();
    refused(
        &serde_json::json!({ "schemaVersion": 2, "config": line(CONFIG), "layers": layers }),
        "10000 layers",
    );
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000), format!("{{\"x\":{}", "[".repeat(100_000))] {
        let err = documents::parse("it", deep.as_bytes()).unwrap_err();
        assert_eq!(err.kind(), Kind::Corrupt);
        assert!(err.to_string().len() < 500, "{err}");
    }
    for odd in [
        r#"{"schemaVersion":2,"schemaVersion":2,"manifests":[]}"#,
        r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
        r#"{"schemaVersion":1e400,"manifests":[]}"#,
        r#"{"schemaVersion":-2,"manifests":[]}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:x","size":1}]}"#,
        r#"{"schemaVersion":2,"manifests":{}}"#,
        "\u{feff}{}",
        "{}",
        "null",
        "[]",
        "",
    ] {
        assert!(documents::parse("it", odd.as_bytes()).is_err(), "{odd}");
    }
    let negative =
        format!(r#"{{"manifests":[{{"mediaType":"x","digest":"{}","size":-1}}]}}"#, Digest::of(b""));
    assert!(documents::parse("it", negative.as_bytes()).is_err());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// I08, CVE-2021-41190.
#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let both =
        serde_json::json!({ "schemaVersion": 2, "config": line(CONFIG), "layers": [], "manifests": [] });
    refused(&both, "ambiguous");
    let mut wrong = serde_json::json!({ "mediaType": INDEX, "config": line(CONFIG), "layers": [] });
    refused(&wrong, "ambiguous");
    wrong = serde_json::json!({ "mediaType": MANIFEST, "manifests": [] });
    refused(&wrong, "ambiguous");
    refused(&serde_json::json!({ "schemaVersion": 1, "fsLayers": [], "history": [] }), "schema 1");
    let manifest =
        serde_json::json!({ "schemaVersion": 2, "config": line(CONFIG), "layers": [] }).to_string();
    let err = documents::check_media_type("it", manifest.as_bytes(), INDEX).unwrap_err();
    assert!(err.to_string().contains("ambiguous"), "{err}");
    // Neither a layer that only other systems have, nor a file system that the kernel would mount (I15).
    for kind in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.erofs",
        "application/vnd.oci.image.layer.v1.squashfs",
        "application/vnd.in-toto+json",
        "application/x-tar\n",
        "",
    ] {
        refused(
            &serde_json::json!({ "config": line(CONFIG), "layers": [line(kind)] }),
            "none of a container image",
        );
    }
}

/// I08: indexes in indexes, in themselves, and a thousand times the same.
#[test]
fn indexes_in_indexes_come_to_an_end() {
    let platform = Platform::host();
    let asked = Cell::new(0);
    let endless = |_: &Descriptor| -> Result<Vec<u8>> {
        asked.set(asked.get() + 1);
        let inner = serde_json::json!({ "mediaType": INDEX, "digest": Digest::of(b"itself"), "size": 1 });
        Ok(serde_json::json!({ "manifests": [inner] }).to_string().into_bytes())
    };
    let err = documents::resolve(&descriptor(INDEX, b"itself"), &platform, &endless).unwrap_err();
    assert!(err.to_string().contains("indexes of indexes"), "{err}");
    assert!(asked.get() <= 4, "asked {} times", asked.get());

    // In an archive, one line 20,000 times: its documents are read once, not 160 GB of them.
    let start = Instant::now();
    let config = format!("{{{}}}", " ".repeat(4_000_000));
    let manifest = serde_json::json!({
        "mediaType": MANIFEST, "config": descriptor(CONFIG, config.as_bytes()), "layers": [],
    })
    .to_string();
    let lines = vec![serde_json::to_value(descriptor(MANIFEST, manifest.as_bytes())).unwrap(); 20_000];
    let index = serde_json::json!({ "manifests": lines }).to_string();
    let blob = |bytes: &str| format!("blobs/sha256/{}", Digest::of(bytes.as_bytes()).hex());
    let tar = Tar::new()
        .file("index.json", index.as_bytes())
        .file(&blob(&manifest), manifest.as_bytes())
        .file(&blob(&config), config.as_bytes());
    let found = open(&tar.end()).unwrap().images(&platform).unwrap();
    assert_eq!(found.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// I09, CVE-2024-3727.
#[test]
fn digests_are_nothing_but_digests() {
    let hex = "a".repeat(64);
    for bad in [
        format!("md5:{}", "a".repeat(32)),
        format!("sha256:{}", "A".repeat(64)),
        format!("sha256:{}", "a".repeat(63)),
        "sha256:../../../../etc/passwd".to_owned(),
        format!("sha256:{}/../x", "a".repeat(59)),
        format!("sha256:{hex}\0"),
        format!("sha256:sha256:{hex}"),
        format!("sha256+b64:{hex}"),
        format!(" sha256:{hex}"),
        String::new(),
    ] {
        assert!(Digest::parse(&bad).is_err(), "{bad:?}");
        let line = serde_json::json!({ "mediaType": LAYER, "digest": bad, "size": 1 });
        let manifest = serde_json::json!({ "config": line.clone(), "layers": [line] });
        assert!(documents::parse("it", manifest.to_string().as_bytes()).is_err(), "{bad:?}");
    }
    for bad in ["../x", "x/../y", "x//y", "/x", "x/", "x@sha256:abc", "x:../y", "x y", "x\n", "-x", "x:", ""]
    {
        assert!(Reference::parse(bad).is_err(), "{bad:?}");
    }
}

/// An archive in a file.
fn open(bytes: &[u8]) -> Result<ImageArchive> {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    ImageArchive::open(file)
}

/// I06, I12, CVE-2019-10152: what an archive of images may be made of.
#[test]
fn an_archive_of_images_cannot_take_more_memory_than_it_is_worth() {
    let start = Instant::now();
    for (case, kind, why) in [("PAX", b'x', "beyond the limit"), ("long name", b'L', "beyond the limit")] {
        let mut tar = Tar::new();
        tar.raw(&header(&Entry { kind, size: Some(1 << 30), ..Entry::default() }, 0), b"");
        let err = open(&tar.end()).unwrap_err();
        assert!(err.to_string().contains(why), "{case}: {err}");
    }
    let many = (0..100_001).fold(Tar::new(), |tar, n| tar.file(&format!("blobs/{n}"), b""));
    let err = open(&many.end()).unwrap_err();
    assert!(err.to_string().contains("members"), "{err}");
    let long = Tar::new().add(Entry { name: &b"a/".repeat(300), ..Entry::default() });
    assert!(open(&long.end()).unwrap_err().to_string().contains("longer than"));
    let sparse = Tar::new()
        .add(Entry { pax: &[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"")], ..Entry::default() });
    assert_eq!(open(&sparse.end()).unwrap_err().kind(), Kind::Unsupported);
    let mut cut = Tar::new();
    cut.raw(&header(&Entry { name: b"index.json", size: Some(1 << 60), ..Entry::default() }, 0), b"{}");
    assert_eq!(open(&cut.0).unwrap_err().kind(), Kind::Corrupt);

    // Twelve images whose documents are 96 MB: all of them would be kept.
    let mut tar = Tar::new();
    let mut lines = Vec::new();
    for n in 0..12 {
        let config = format!("{{\"n\":{n}{}}}", " ".repeat(4_000_000));
        let manifest = serde_json::json!({
            "mediaType": MANIFEST, "config": descriptor(CONFIG, config.as_bytes()), "layers": [],
        });
        let manifest = manifest.to_string() + &" ".repeat(4_000_000);
        for bytes in [&config, &manifest] {
            tar = tar.file(&format!("blobs/sha256/{}", Digest::of(bytes.as_bytes()).hex()), bytes.as_bytes());
        }
        lines.push(serde_json::to_value(descriptor(MANIFEST, manifest.as_bytes())).unwrap());
    }
    let tar = tar.file("index.json", serde_json::json!({ "manifests": lines }).to_string().as_bytes());
    let err = open(&tar.end()).unwrap().images(&Platform::host()).unwrap_err();
    assert!(err.to_string().contains("32 MiB"), "{err}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// I12: links and absolute names in an archive of Docker's lead nowhere outside of it; and one layer a thousand times is
/// looked at once.
#[test]
fn a_docker_archive_is_all_there_is_of_it() {
    let layer = Tar::new().file("f", b"1").end();
    let config = |layers: usize| {
        serde_json::json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": vec![Digest::of(&layer); layers] },
        })
        .to_string()
    };
    let manifest = |layers: &[&str]| {
        serde_json::json!([{ "Config": "c.json", "RepoTags": ["x:1"], "Layers": layers }]).to_string()
    };
    for name in
        ["/etc/passwd", "../../etc/passwd", "c.json/../../x", "/proc/self/fd/0", "link", "loop", "folder", ""]
    {
        let tar = Tar::new()
            .file("c.json", config(1).as_bytes())
            .file("manifest.json", manifest(&[name]).as_bytes())
            .symlink("link", "/etc/passwd")
            .symlink("loop", "loop")
            .dir("folder");
        let found = open(&tar.end()).unwrap().images(&Platform::host());
        assert_eq!(found.unwrap_err().kind(), Kind::Corrupt, "{name:?}");
    }
    let many = |n: usize| {
        let tar = Tar::new()
            .file("c.json", config(n).as_bytes())
            .file("manifest.json", manifest(&vec!["l"; n]).as_bytes())
            .file("l", &gzip(&layer));
        open(&tar.end()).unwrap().images(&Platform::host())
    };
    assert_eq!(many(1000).unwrap()[0].incoming.layers.len(), 1000);
    assert!(many(1001).unwrap_err().to_string().contains("1001 layers"));
}

/// An image of one layer, whose documents are as a test wants them.
fn incoming(config: &str, layer: &[u8]) -> Incoming {
    let blob = |bytes: &[u8]| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
    let manifest =
        documents::manifest(&blob(config.as_bytes()), &[(blob(layer), Compression::None)]).unwrap();
    Incoming {
        manifest,
        manifest_type: MANIFEST.to_owned(),
        config: config.as_bytes().to_vec(),
        layers: vec![blob(layer)],
    }
}

/// A layer that is sent as it is, whatever was promised.
struct Sends<'a>(&'a [u8]);

impl tare_image::store::Source for Sends<'_> {
    fn blob(&self, _: &Digest, _: u64, from: u64) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.0.get(from as usize..).unwrap_or_default()))
    }
}

fn take(place: &Place, config: &str, layer: &[u8]) -> Result<tare_image::Image> {
    let names = [Reference::parse("odd").unwrap()];
    place.store.take(&incoming(config, layer), &Sends(layer), &names, &TakeOptions::default())
}

/// I13: what an image says of itself may be anything; it is taken as it is, or refused, and nobody falls over it.
#[test]
fn odd_configurations_are_taken_or_refused() {
    let place = Place::new();
    let layer = Tar::new().file("f", b"1").end();
    let with = |config: &str| {
        format!(
            r#"{{"architecture":"{}","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Platform::host().architecture,
            Digest::of(&layer)
        )
    };
    let long = "x".repeat(1 << 20);
    let arguments = vec!["a"; 100_000];
    for config in [
        "null",
        "{}",
        r#"{"Env":["NOEQUALS","=x","A=b=c",""]}"#,
        r#"{"Entrypoint":null,"Cmd":[]}"#,
        r#"{"StopSignal":"SIGNOPE","ExposedPorts":{"99999/xyz":{}}}"#,
        r#"{"Healthcheck":{"Interval":1}}"#,
        r#"{"Volumes":{"../../x":{},"":{}}}"#,
        r#"{"WorkingDir":"../../..","User":"root:root:root"}"#,
        &serde_json::json!({ "Env": [format!("A={long}")] }).to_string(),
        &serde_json::json!({ "Cmd": arguments }).to_string(),
    ] {
        take(&place, &with(config), &layer).unwrap_or_else(|err| panic!("{:.80}: {err}", config));
    }
    for (config, kind) in [
        (with(r#"{"Env":"A=b"}"#), Kind::Corrupt),
        (with(r#"{"Cmd":[1]}"#), Kind::Corrupt),
        (with(r#"{"Entrypoint":""}"#), Kind::Corrupt),
        (with("{}").replace("\"layers\"", "\"squashfs\""), Kind::Unsupported),
        (with("{}").replace("\"linux\"", "\"windows\""), Kind::Unsupported),
        (with("{}").replace("sha256:", "sha256:../"), Kind::Corrupt),
        ("{}".to_owned(), Kind::Corrupt),
        (String::new(), Kind::Corrupt),
        (format!("{}{}", with("{}"), with("{}")), Kind::Corrupt),
    ] {
        let err = take(&place, &config, &layer).unwrap_err();
        assert_eq!(err.kind(), kind, "{config:.80}: {err}");
    }
    // An image without a layer is an image.
    let config = with("{}").replace(&format!("\"{}\"", Digest::of(&layer)), "");
    let blob = |bytes: &[u8]| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
    let manifest = documents::manifest(&blob(config.as_bytes()), &[]).unwrap();
    let empty = Incoming {
        manifest,
        manifest_type: MANIFEST.to_owned(),
        config: config.into_bytes(),
        layers: Vec::new(),
    };
    place.store.take(&empty, &Sends(b""), &[], &TakeOptions::default()).unwrap();
    place.assert_canary("configurations");
}

/// I14: the same choice every time, and words where there is none.
#[test]
fn the_image_for_a_platform_is_chosen_by_rules() {
    let document = br#"{"config":{"mediaType":"c","digest":"DIGEST","size":2},"layers":[]}"#;
    let document = String::from_utf8_lossy(document).replace("DIGEST", Digest::of(b"{}").as_str());
    let choose = |lines: &[(&str, Option<&str>)], wanted: &str| {
        let lines: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(n, (platform, variant))| {
                let (os, architecture) = platform.split_once('/').unwrap_or((platform, ""));
                let mut platform = serde_json::json!({ "os": os, "architecture": architecture });
                if let Some(variant) = variant {
                    platform["variant"] = serde_json::json!(variant);
                }
                let digest = Digest::of(n.to_string().as_bytes());
                serde_json::json!({ "mediaType": MANIFEST, "digest": digest, "size": 1, "platform": platform })
            })
            .collect();
        let index = serde_json::json!({ "mediaType": INDEX, "manifests": lines }).to_string();
        let fetched = std::cell::RefCell::new(Vec::new());
        let fetch = |descriptor: &Descriptor| {
            fetched.borrow_mut().push(descriptor.digest.clone());
            Ok(match descriptor.media_type.as_str() {
                INDEX => index.clone().into_bytes(),
                MANIFEST => document.clone().into_bytes(),
                _ => b"{}".to_vec(),
            })
        };
        let platform = Platform::parse(wanted).unwrap();
        documents::resolve(&descriptor(INDEX, b"top"), &platform, &fetch)?;
        let chosen = fetched.borrow()[1].clone();
        Ok::<_, tare_sys::Error>(
            (0..lines.len()).find(|n| Digest::of(n.to_string().as_bytes()) == chosen).unwrap(),
        )
    };
    let two = [("linux/arm64", Some("v8")), ("linux/amd64", None), ("linux/amd64", None)];
    assert_eq!(choose(&two, "linux/amd64").unwrap(), 1);
    assert_eq!(choose(&two, "linux/arm64").unwrap(), 0);
    let arm = [("linux/arm", Some("v6")), ("linux/arm", Some("v7"))];
    assert_eq!(choose(&arm, "linux/arm/v7").unwrap(), 1);
    assert_eq!(choose(&arm, "linux/arm/v6").unwrap(), 0);
    for lines in [&two[..], &[], &[("windows/amd64", None)], &[("unknown/unknown", None)], &[("", None)]] {
        let err = choose(lines, "linux/riscv64").unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound, "{err}");
        assert!(err.to_string().contains("linux/riscv64"), "{err}");
    }
}

/// I10: size, digest and diff-id; whatever of them is wrong, nothing is left of the layer.
#[test]
fn a_layer_of_other_bytes_than_promised_is_refused() {
    let place = Place::new();
    let layer = Tar::new().file("f", b"1").end();
    let packed = gzip(&layer);
    let config = |diff_id: &Digest| {
        serde_json::json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        })
        .to_string()
    };
    let try_with = |change: &dyn Fn(&mut Incoming), sent: &[u8], diff_id: &Digest| {
        let mut incoming = incoming(&config(diff_id), &packed);
        change(&mut incoming);
        let names = [Reference::parse("bad").unwrap()];
        let result = place.store.take(&incoming, &Sends(sent), &names, &TakeOptions::default());
        if let Err(err) = &result {
            assert_eq!(err.kind(), Kind::Corrupt, "{err}");
            let ingest = place.root().join("ingest");
            for folder in names_in(&ingest) {
                assert_eq!(names_in(&ingest.join(folder)), Vec::<String>::new());
            }
            assert_eq!(place.left_over(), Vec::<String>::new());
        }
        result
    };
    let right = Digest::of(&layer);
    let nothing = |_: &mut Incoming| {};
    try_with(&nothing, &packed, &Digest::of(b"other")).unwrap_err();
    try_with(&nothing, &packed[..packed.len() - 1], &right).unwrap_err();
    try_with(&nothing, &[&packed[..], b"x"].concat(), &right).unwrap_err();
    try_with(&nothing, b"", &right).unwrap_err();
    try_with(&|incoming| incoming.layers[0].size += 1, &packed, &right).unwrap_err();
    try_with(&|incoming| incoming.layers[0].size -= 1, &packed, &right).unwrap_err();
    try_with(&|incoming| incoming.layers[0].size = u64::MAX, &packed, &right).unwrap_err();
    try_with(&|incoming| incoming.layers[0].digest = Digest::of(b"x"), &packed, &right).unwrap_err();
    // An endless layer ends where its size says.
    struct Endless;
    impl tare_image::store::Source for Endless {
        fn blob(&self, _: &Digest, _: u64, _: u64) -> Result<Box<dyn Read + '_>> {
            Ok(Box::new(std::io::repeat(0)))
        }
    }
    let start = Instant::now();
    let endless = incoming(&config(&right), &packed);
    place.store.take(&endless, &Endless, &[], &TakeOptions::default()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5));
    try_with(&nothing, &packed, &right).unwrap();
}

fn names_in(folder: &std::path::Path) -> Vec<String> {
    names(folder)
}

/// Docker takes layers without the mark at their end, and without a byte; their digests say that they are whole.
#[test]
fn a_layer_need_not_have_an_end_mark() {
    let place = Place::new();
    let whole = Tar::new().file("f", b"1").end();
    for layer in [&whole[..whole.len() - 1024], &whole[..513], &whole[..600], b"", &[0; 512], &[0; 10_240]] {
        let config = serde_json::json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer)] },
        });
        take(&place, &config.to_string(), layer).unwrap_or_else(|err| panic!("{} bytes: {err}", layer.len()));
    }
    // Cut within an entry it is not whole, whatever the digest says.
    let cut = &whole[..512];
    let config = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(cut)] },
    });
    assert_eq!(take(&place, &config.to_string(), cut).unwrap_err().kind(), Kind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// I10: every bit of a layer counts.
    #[test]
    fn every_flipped_bit_of_a_layer_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8, packed: bool) {
        let place = Place::new();
        let layer = Tar::new().dir("d").file("d/f", &[7; 700]).symlink("l", "d/f").end();
        let diff_id = Digest::of(&layer);
        let good = if packed { gzip(&layer) } else { layer };
        let mut bad = good.clone();
        let at = at.index(bad.len());
        bad[at] ^= 1 << bit;
        let config = serde_json::json!({
            "architecture": Platform::host().architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let incoming = incoming(&config.to_string(), &good);
        let result = place.store.take(&incoming, &Sends(&bad), &[], &TakeOptions::default());
        prop_assert_eq!(result.unwrap_err().kind(), Kind::Corrupt);
        prop_assert_eq!(place.left_over(), Vec::<String>::new());
        place.store.take(&incoming, &Sends(&good), &[], &TakeOptions::default()).unwrap();
    }

    #[test]
    fn any_document_is_read_or_refused(text in r#"[\{\}\[\]":,0-9a-z ]{0,80}"#) {
        if let Ok(Document::Manifest { layers, .. }) = documents::parse("it", text.as_bytes()) {
            prop_assert!(layers.len() <= 1000);
        }
    }

    #[test]
    fn any_archive_of_images_is_read_or_refused(
        name in "[a-z./]{0,12}", kind in prop::sample::select(b"0125xLSg".to_vec()), size in 0u64..2000,
        data in proptest::collection::vec(any::<u8>(), 0..1200),
    ) {
        let mut tar = Tar::new().add(Entry { pax: &[("path", name.as_bytes())], ..Entry::default() });
        tar.raw(&header(&Entry { kind, name: name.as_bytes(), size: Some(size), ..Entry::default() }, 0), &data);
        tar.raw(&pax(&[("size", b"5")]), b"");
        if let Ok(mut archive) = open(&tar.end()) {
            let _ = archive.images(&Platform::host());
        }
    }
}
