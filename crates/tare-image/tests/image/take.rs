//! Images of several layers, taken in from sources that are quick, break off, or lie; and archives of images.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tare_image::archive::ImageArchive;
use tare_image::archive::save::{Saved, save};
use tare_image::documents;
use tare_image::store::{Blob, Incoming, LayerState, Source, TakeOptions};
use tare_image::{Compression, Digest, Image, Platform, Reference};
use tare_sys::{Error, Kind, Result};

use crate::archive::{Entry, Place, Tar, names};

/// An image with its layers in memory.
struct Remote {
    incoming: Incoming,
    layers: Vec<Vec<u8>>,
    /// Breaks off after so many bytes of each answer.
    breaks_after: Option<u64>,
    /// Breaks for good after so many bytes in all.
    allowance: AtomicU64,
    sent: AtomicU64,
}

impl Remote {
    fn new(layers: &[Vec<u8>]) -> Remote {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = serde_json::json!({
            "architecture": Platform::host().architecture, "os": "linux", "created": "2026-01-02T03:04:05Z",
            "config": { "Cmd": ["/one"], "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let blob = |bytes: &[u8]| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
        let blobs: Vec<Blob> = layers.iter().map(|layer| blob(layer)).collect();
        let typed: Vec<_> = blobs.iter().map(|blob| (blob.clone(), Compression::Gzip)).collect();
        let manifest = documents::manifest(&blob(&config), &typed).unwrap();
        let manifest_type = documents::MANIFEST.to_owned();
        Remote {
            incoming: Incoming { manifest, manifest_type, config, layers: blobs },
            layers,
            breaks_after: None,
            allowance: AtomicU64::new(u64::MAX),
            sent: AtomicU64::new(0),
        }
    }

    fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.len() as u64).sum()
    }

    fn take(&self, place: &Place, name: &str) -> Result<Image> {
        let names = [Reference::parse(name).unwrap()];
        place.store.take(&self.incoming, self, &names, &TakeOptions::default())
    }
}

impl Source for Remote {
    fn blob(&self, digest: &Digest, _: u64, from: u64) -> Result<Box<dyn Read + '_>> {
        let index = self.incoming.layers.iter().position(|blob| blob.digest == *digest).expect("a layer");
        let rest = &self.layers[index][from as usize..];
        Ok(Box::new(Answer { rest, left: self.breaks_after.unwrap_or(u64::MAX), remote: self }))
    }
}

struct Answer<'a> {
    rest: &'a [u8],
    left: u64,
    remote: &'a Remote,
}

impl Read for Answer<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.remote.allowance.load(Ordering::Relaxed) <= self.remote.sent.load(Ordering::Relaxed) {
            return Err(io::Error::other(Error::new(Kind::Kernel, "the line is dead")));
        }
        if self.left == 0 {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX)).min(4096);
        let n = self.rest.read(&mut into[..most])?;
        self.left -= n as u64;
        self.remote.sent.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that gzip can do nothing with.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn two_layers() -> Remote {
    Remote::new(&[
        Tar::new().file("one", b"first").file("big", &noise(300_000)).end(),
        Tar::new().dir("two").file("two/file", &noise(200_000)).end(),
    ])
}

fn is_empty(place: &Place) -> bool {
    place.store.list().unwrap().is_empty()
}

#[test]
fn layers_come_from_a_source_and_are_there_once() {
    let place = Place::new();
    let remote = two_layers();
    let image = remote.take(&place, "two").unwrap();
    assert_eq!(image.id, Digest::of(&remote.incoming.config));
    assert_eq!(
        (image.layers.len(), image.layer_sizes.len(), image.created.as_str()),
        (2, 2, "2026-01-02T03:04:05Z")
    );
    let record = place.store.resolve("two").unwrap();
    assert_eq!(record.config.cmd, ["/one"]);
    let read =
        |layer: usize, file: &str| std::fs::read(place.store.layer_path(&record.layers[layer]).join(file));
    assert_eq!(read(0, "one").unwrap(), b"first");
    assert_eq!(read(1, "two/file").unwrap().len(), 200_000);
    assert_eq!(remote.sent.load(Ordering::Relaxed), remote.size());

    // Another image upon the same first layer needs only its own.
    let first = Tar::new().file("one", b"first").file("big", &noise(300_000)).end();
    let more = Remote::new(&[first, Tar::new().file("three", b"3").end()]);
    let image = more.take(&place, "three").unwrap();
    assert_eq!(more.sent.load(Ordering::Relaxed), more.layers[1].len() as u64);
    assert_eq!(image.layer_sizes[0], 300_005);
    assert_eq!(place.store.list().unwrap().len(), 2);
    // And what both have goes with the last of them.
    place.store.remove("two").unwrap();
    assert!(place.store.layer_path(&image.layers[0]).exists());
    place.store.remove("three").unwrap();
    assert!(!place.store.layer_path(&image.layers[0]).exists());
}

#[test]
fn a_source_that_breaks_off_is_asked_for_the_rest() {
    let place = Place::new();
    let remote = Remote { breaks_after: Some(70_000), ..two_layers() };
    remote.take(&place, "broken").unwrap();
    assert_eq!(remote.sent.load(Ordering::Relaxed), remote.size(), "not a byte came twice");
}

#[test]
fn what_came_before_a_failure_need_not_come_again() {
    let place = Place::new();
    let remote = Remote { allowance: AtomicU64::new(350_000), ..two_layers() };
    let err = remote.take(&place, "late").unwrap_err();
    assert!(err.to_string().contains("the line is dead"), "{err}");
    assert!(is_empty(&place));
    let before = remote.sent.load(Ordering::Relaxed);
    remote.allowance.store(u64::MAX, Ordering::Relaxed);
    remote.take(&place, "late").unwrap();
    let after = remote.sent.load(Ordering::Relaxed);
    assert!(before > 100_000 && after <= remote.size() + 300_000, "{before} and then {after}");
    assert!(after < before + remote.size(), "it went on where it stopped: {before} and then {after}");
}

#[test]
fn other_bytes_than_promised_are_refused_and_not_kept() {
    let place = Place::new();
    let mut remote = two_layers();
    let middle = remote.layers[1].len() / 2;
    remote.layers[1][middle] ^= 1;
    let err = remote.take(&place, "wrong").unwrap_err();
    assert_eq!(err.kind(), Kind::Corrupt, "{err}");
    assert!(is_empty(&place));
    // The right bytes are taken afterwards, for nothing of the wrong ones is left.
    remote.layers[1][middle] ^= 1;
    remote.take(&place, "wrong").unwrap();

    // Right bytes of a layer that is not the one that the configuration names.
    let other = Remote::new(&[Tar::new().file("other", b"x").end()]);
    let mut remote = Remote::new(&[Tar::new().file("mine", b"y").end()]);
    remote.incoming.layers = other.incoming.layers.clone();
    remote.layers = other.layers;
    let err = remote.take(&place, "other").unwrap_err();
    assert!(err.kind() == Kind::Corrupt && err.to_string().contains("uncompressed digest"), "{err}");
}

#[test]
fn two_at_once_fetch_each_layer_once() {
    let place = Place::new();
    let remote = two_layers();
    let waited = AtomicU64::new(0);
    let progress = |_: &Digest, state: LayerState| {
        if state == LayerState::Waiting {
            waited.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (remote, place, progress) = (&remote, &place, &progress);
            scope.spawn(move || {
                let names = [Reference::parse(&format!("same:{n}")).unwrap()];
                let options = TakeOptions { progress: Some(progress), ..TakeOptions::default() };
                place.store.take(&remote.incoming, remote, &names, &options).unwrap();
            });
        }
    });
    assert_eq!(remote.sent.load(Ordering::Relaxed), remote.size());
    let [image] = &place.store.list().unwrap()[..] else { panic!("one image") };
    assert_eq!(image.names.len(), 4);
}

#[test]
fn saved_and_loaded_an_image_is_the_same() {
    let (from, to) = (Place::new(), Place::new());
    let remote = two_layers();
    let image = remote.take(&from, "example.org/there:1").unwrap();
    let file = tempfile::tempfile().unwrap();
    let names = vec![Reference::parse("example.org/there:1").unwrap()];
    save(&from.store, &[Saved { image: image.clone(), names }], &file).unwrap();
    let mut archive = ImageArchive::open(file).unwrap();
    let found = archive.images(&Platform::host()).unwrap();
    let [found] = &found[..] else { panic!("one image: {found:?}") };
    assert_eq!(found.names.iter().map(Reference::full).collect::<Vec<_>>(), ["example.org/there:1"]);
    let loaded = to.store.take(&found.incoming, &archive, &found.names, &TakeOptions::default()).unwrap();
    assert_eq!((loaded.id, loaded.manifest, loaded.layers), (image.id, image.manifest, image.layers));
}

#[test]
fn an_archive_of_docker_before_25_is_loaded() {
    let layer = Tar::new().file("one", b"1").end();
    let config = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
    });
    let lines = |layer: &str| {
        let lines = serde_json::json!([{ "Config": "c.json", "RepoTags": ["old:1"], "Layers": [layer] }]);
        serde_json::to_vec(&lines).unwrap()
    };
    let load = |archive: Vec<u8>| {
        let place = Place::new();
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&archive).unwrap();
        let mut archive = ImageArchive::open(file)?;
        let found = archive.images(&Platform::host())?;
        let image =
            place.store.take(&found[0].incoming, &archive, &found[0].names, &TakeOptions::default())?;
        Ok::<_, Error>((image.names, image.layers))
    };
    let plain = |name: &str| {
        Tar::new().file("c.json", config.to_string().as_bytes()).file("manifest.json", &lines(name))
    };
    let (names, layers) = load(plain("x/layer.tar").dir("x").file("x/layer.tar", &layer).end()).unwrap();
    assert_eq!(
        (names, layers),
        (vec!["docker.io/library/old:1".to_owned()], vec![Digest::of(&layer).hex().to_owned()])
    );
    load(plain("x/layer.tar").file("x/layer.tar", &gzip(&layer)).end()).unwrap();
    // Docker links a layer that two images have.
    load(plain("y/layer.tar").file("x/layer.tar", &layer).symlink("y/layer.tar", "../x/layer.tar").end())
        .unwrap();

    for bad in [
        plain("x/layer.tar").end(),
        plain("/etc/passwd").end(),
        plain("../../x").end(),
        plain("y/layer.tar").symlink("y/layer.tar", "../../../etc/passwd").end(),
        plain("y/layer.tar").symlink("y/layer.tar", "layer.tar").end(),
        plain("x/layer.tar").file("x/layer.tar", b"other").end(),
        plain("x").file("x", &layer).file("x", &layer).end(),
        Tar::new().file("nothing", b"").end(),
    ] {
        assert_eq!(load(bad).unwrap_err().kind(), Kind::Corrupt);
    }
}

/// Mounts the layers of an image over each other and lists what is to be seen, with contents.
fn seen(place: &Place, layers: &[Vec<u8>]) -> String {
    Remote::new(layers).take(place, "layered").unwrap();
    // overlayfs wants two at least.
    let empty = place.folder.path().join("canary/dir").display().to_string();
    let layers = place.store.resolve("layered").unwrap().layers;
    let mut upper_first: Vec<String> =
        layers.iter().rev().map(|layer| place.store.layer_path(layer).display().to_string()).collect();
    upper_first.push(empty);
    let at = place.folder.path().join("canary/dir");
    let script = "mount -t overlay overlay -o lowerdir=$0 $1 && cd $1 && \
                  find . -mindepth 1 -type d -printf '%P/\\n' -o -type f -printf '%P=' -exec cat {} \\; -printf '\\n' | sort";
    let out = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(upper_first.join(":"))
        .arg(&at)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn what_a_layer_takes_away_is_gone_in_whatever_order_it_says_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: overlayfs needs root here");
        return;
    }
    let place = Place::new();
    let below =
        Tar::new().file("a", b"1").dir("d").file("d/x", b"1").file("d/y", b"1").file("keep", b"1").end();
    let with = |layer: Tar| seen(&place, &[below.clone(), layer.end()]);
    assert_eq!(with(Tar::new().file(".wh.a", b"")), "d/\nd/x=1\nd/y=1\nkeep=1\n");
    assert_eq!(with(Tar::new().dir("d").file("d/.wh.x", b"")), "a=1\nd/\nd/y=1\nkeep=1\n");
    assert_eq!(with(Tar::new().file("d/.wh.x", b"")), "a=1\nd/\nd/y=1\nkeep=1\n");
    assert_eq!(with(Tar::new().file(".wh.d", b"")), "a=1\nkeep=1\n");
    // A file of the same name stays, before or after.
    for layer in
        [Tar::new().file(".wh.a", b"").file("a", b"2"), Tar::new().file("a", b"2").file(".wh.a", b"")]
    {
        assert_eq!(with(layer), "a=2\nd/\nd/x=1\nd/y=1\nkeep=1\n");
    }
    // A folder of the same name is a new one.
    for layer in [
        Tar::new().file(".wh.d", b"").dir("d").file("d/z", b"2"),
        Tar::new().file(".wh.d", b"").file("d/z", b"2"),
        Tar::new().dir("d").file("d/z", b"2").file(".wh.d", b""),
        Tar::new().dir("d").file("d/.wh..wh..opq", b"").file("d/z", b"2"),
        Tar::new().dir("d").file("d/z", b"2").file("d/.wh..wh..opq", b""),
        Tar::new().file("d/.wh..wh..opq", b"").dir("d").file("d/z", b"2"),
    ] {
        assert_eq!(with(layer), "a=1\nd/\nd/z=2\nkeep=1\n");
    }
    // All of it.
    assert_eq!(with(Tar::new().file(".wh..wh..opq", b"").file("new", b"2")), "new=2\n");
    // AUFS' own is no file.
    let aufs = Tar::new().dir(".wh..wh.plnk").file(".wh..wh.plnk/1", b"").file(".wh..wh.aufs", b"");
    assert_eq!(with(aufs), "a=1\nd/\nd/x=1\nd/y=1\nkeep=1\n");
    place.assert_canary("whiteouts");
}

#[test]
fn a_whiteout_that_means_nothing_or_leads_away_is_refused() {
    let place = Place::new();
    for layer in [
        Tar::new().file(".wh.", b""),
        Tar::new().file("a/.wh...", b""),
        Tar::new().dir(".wh.a").file(".wh.a/b", b""),
        Tar::new().file("x", b"").file(".wh.a", b"").hard_link("b", "a"),
        Tar::new().symlink("out", "../../../canary").file("out/../.wh.passwd", b""),
    ] {
        let err = Remote::new(&[layer.end()]).take(&place, "bad").unwrap_err();
        assert_eq!(err.kind(), Kind::Corrupt, "{err}");
    }
    // A link that would lead out leads to the same place inside.
    let layer = Tar::new().symlink("out", "/canary").dir("canary").file("out/.wh.passwd", b"").end();
    Remote::new(&[layer]).take(&place, "inside").unwrap();
    place.assert_canary("whiteouts through links");
}

/// Takes in an image of one layer from a file, as Docker saves it.
fn load_one(place: &Place, layer: &[u8]) -> Image {
    let config = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer)] },
    });
    let lines = serde_json::json!([{ "Config": "c.json", "RepoTags": ["plain:1"], "Layers": ["layer.tar"] }]);
    let archive = Tar::new()
        .file("c.json", config.to_string().as_bytes())
        .file("manifest.json", lines.to_string().as_bytes())
        .file("layer.tar", layer)
        .end();
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(&archive).unwrap();
    let mut archive = ImageArchive::open(file).unwrap();
    let [found] = &archive.images(&Platform::host()).unwrap()[..] else { panic!("one image") };
    place.store.take(&found.incoming, &archive, &found.names, &TakeOptions::default()).unwrap()
}

/// The layer of an image, as it is saved.
fn saved_layer(place: &Place, image: &Image) -> Vec<u8> {
    let mut layer = Vec::new();
    let mut from = place.store.blob(&image.layer_blobs[0], 0, 0).unwrap();
    from.read_to_end(&mut layer).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    save(&place.store, &[Saved { image: image.clone(), names: Vec::new() }], &file).unwrap();
    let mut archive = Vec::new();
    io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut archive).unwrap();
    assert!(archive.windows(layer.len()).any(|part| part == layer), "what is saved has another layer");
    layer
}

#[test]
fn a_plain_layer_from_a_file_is_kept_once_and_read_as_it_was() {
    let long = "a-name-of-many-letters/".repeat(10);
    let mut layer = Tar::new()
        .dir("d")
        .file("d/data", &noise(300_000))
        .file("d/empty", b"")
        .file("d/short", b"short")
        .hard_link("d/again", "d/data")
        .symlink("to", "d")
        .file("to/through-a-link", b"there")
        .file(".wh.gone", b"")
        .add(Entry {
            name: b"x",
            data: b"long",
            pax: &[("path", format!("{long}x").as_bytes())],
            ..Entry::default()
        })
        .end();
    // What comes after the end belongs to the layer all the same.
    layer.resize(layer.len().next_multiple_of(10_240), 0);
    layer.extend_from_slice(b"behind");
    let place = Place::new();
    let image = load_one(&place, &layer);
    assert_eq!(names(&place.root().join("recipes")), image.layers);
    assert_eq!(names(&place.root().join("blobs/sha256")).len(), 2, "a configuration and a manifest");
    assert!(saved_layer(&place, &image) == layer);
    for from in [1, 1000, layer.len() as u64] {
        let mut rest = Vec::new();
        place.store.blob(&image.layer_blobs[0], 0, from).unwrap().read_to_end(&mut rest).unwrap();
        assert!(rest == layer[from as usize..], "from {from}");
    }
    assert_eq!(place.store.verify(&image, &mut Default::default()).unwrap(), []);
    assert_eq!(place.store.whole_image_of("plain:1").unwrap(), image);

    // With other owners, or other bytes, it is not what it was.
    let data = place.store.layer_path(&image.layers[0]).join("d/short");
    std::os::unix::fs::chown(&data, Some(7), None).unwrap();
    let damage = place.store.verify(&image, &mut Default::default()).unwrap();
    assert!(damage[0].unpacked && damage[0].what.contains("short"), "{damage:?}");
    std::fs::write(&data, "SHORT").unwrap();
    let mut bytes = Vec::new();
    let read = place.store.blob(&image.layer_blobs[0], 0, 0).unwrap().read_to_end(&mut bytes);
    assert!(read.unwrap_err().to_string().contains("other bytes"));
    save(&place.store, &[Saved { image: image.clone(), names: Vec::new() }], io::sink()).unwrap_err();
    let image = load_one(&place, &layer);
    assert_eq!(place.store.verify(&image, &mut Default::default()).unwrap(), []);
    assert!(saved_layer(&place, &image) == layer);

    // It goes with all it has.
    place.store.remove("plain:1").unwrap();
    assert_eq!(names(&place.root().join("recipes")).len() + names(&place.root().join("layers")).len(), 0);
}

#[test]
fn a_plain_layer_that_has_something_twice_keeps_its_blob() {
    let place = Place::new();
    for layer in [
        Tar::new().file("a", b"first").file("a", b"second").end(),
        Tar::new().file("a", b"first").hard_link("b", "a").file("b", b"second").end(),
        Tar::new().file("d/a", b"first").file("d", b"second").end(),
        Tar::new().file(".wh.a", b"").file("a", b"it is here").end(),
    ] {
        let image = load_one(&place, &layer);
        assert!(saved_layer(&place, &image) == layer);
        assert_eq!(names(&place.root().join("recipes")).len(), 0);
        place.store.remove("plain:1").unwrap();
    }
}

#[test]
fn a_compressed_blob_comes_even_if_its_layer_is_there_from_a_plain_one() {
    let place = Place::new();
    let layer = Tar::new().file("one", &noise(10_000)).end();
    load_one(&place, &layer);
    let remote = Remote::new(std::slice::from_ref(&layer));
    let image = remote.take(&place, "example.org/packed:1").unwrap();
    assert_eq!(remote.sent.load(Ordering::Relaxed), remote.size());
    assert!(place.root().join("blobs/sha256").join(image.layer_blobs[0].hex()).exists());
    // Each of the two has what it needs.
    place.store.remove("example.org/packed:1").unwrap();
    place.store.collect().unwrap();
    let plain = place.store.image_of("plain:1").unwrap();
    assert!(saved_layer(&place, &plain) == layer);
}
