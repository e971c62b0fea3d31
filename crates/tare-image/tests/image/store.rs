//! Names, records, removal, and two importers at once.

use tare_image::{Change, Digest, ImageStore, ImportOptions, Reference};
use tare_sys::Kind;

use crate::archive::{Place, Tar, names};

fn archive(content: &str) -> Vec<u8> {
    Tar::new().file("content", content.as_bytes()).end()
}

#[test]
fn resolve_by_name_and_id() {
    let place = Place::new();
    let options = ImportOptions {
        changes: vec![Change::parse("CMD [\"/content\"]").unwrap(), Change::parse("ENV A=b").unwrap()],
        message: "a message".to_owned(),
        ..ImportOptions::default()
    };
    let name = Reference::parse("busybox").unwrap();
    let image = place.store.import(&archive("one")[..], &name, &options).unwrap();
    assert_eq!(image.names, ["docker.io/library/busybox:latest"]);
    let record = place.store.resolve("busybox").unwrap();
    assert_eq!(record.image_id, image.id.as_str());
    assert_eq!(
        (record.layers.clone(), record.config.cmd.clone()),
        (image.layers.clone(), vec!["/content".to_owned()])
    );
    assert_eq!(record.familiar_name(), "busybox:latest");
    for typed in
        ["busybox:latest", "docker.io/busybox", "library/busybox", "index.docker.io/library/busybox:latest"]
    {
        assert_eq!(place.store.resolve(typed).unwrap(), record, "{typed}");
    }
    let hex = image.id.hex();
    for typed in [hex, &hex[..12], &hex[..3], image.id.as_str(), &format!("sha256:{}", &hex[..12])] {
        let by_id = place.store.resolve(typed).unwrap();
        assert_eq!((by_id.image_id.as_str(), by_id.name.as_str()), (image.id.as_str(), ""), "{typed}");
    }
    let by_digest = format!("busybox@{}", image.manifest);
    assert_eq!(place.store.resolve(&by_digest).unwrap().image_id, image.id.as_str());

    let listed = place.store.list().unwrap();
    assert_eq!(listed, [image]);
    assert_eq!(listed[0].comment, "a message");
}

#[test]
fn what_is_not_there_is_said_so() {
    let place = Place::new();
    let missing =
        ["foo", "foo:bar", "abc", &"0".repeat(64), "sha256:0123", &format!("foo@sha256:{}", "0".repeat(64))];
    for round in 0..2 {
        for name in missing {
            for err in [place.store.resolve(name).unwrap_err(), place.store.remove(name).unwrap_err()] {
                assert_eq!(err.kind(), Kind::NotFound, "{name}");
                assert!(err.to_string().contains("no such image"), "{err}");
                assert!(err.hint_text().unwrap().contains("tare image import"), "{name}");
            }
        }
        assert_eq!(place.store.resolve("Not A Name").unwrap_err().kind(), Kind::Usage);
        assert_eq!(place.root().exists(), round > 0, "asking makes no store");
        place.import(&archive("x"), "other").unwrap();
    }
    assert_eq!(ImageStore::open("relative".as_ref()).unwrap_err().kind(), Kind::Usage);
    let digest = Reference::parse(&format!("a@sha256:{}", "0".repeat(64))).unwrap();
    let err = place.store.import(&archive("x")[..], &digest, &ImportOptions::default()).unwrap_err();
    assert_eq!(err.kind(), Kind::Usage);
}

#[test]
fn names_move_and_images_without_names_stay() {
    let place = Place::new();
    let first = place.import(&archive("one"), "app").unwrap();
    let second = place.import(&archive("two"), "app").unwrap();
    assert_eq!(place.store.resolve("app").unwrap().image_id, second.id.as_str());
    let listed = place.store.list().unwrap();
    assert_eq!((listed[0].id.clone(), listed[0].names.len()), (second.id, 1));
    assert_eq!((listed[1].id.clone(), listed[1].names.len()), (first.id.clone(), 0));
    assert!(place.store.layer_path(&first.layers[0]).join("content").is_file());
    let removed = place.store.remove(&first.id.hex()[..12]).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (0, Some(first.id.to_string())));
    assert!(!place.store.layer_path(&first.layers[0]).exists());
}

#[test]
fn remove_keeps_what_others_use() {
    let place = Place::new();
    let one = place.import(&archive("same"), "one").unwrap();
    let two = place.import(&archive("same"), "two:v1").unwrap();
    assert_ne!(one.id, two.id);
    assert_eq!((&one.layers, &one.blobs[2]), (&two.layers, &two.blobs[2]));

    let removed = place.store.remove("one").unwrap();
    assert_eq!(removed.untagged, ["docker.io/library/one:latest"]);
    assert_eq!((removed.deleted, removed.layers.len()), (Some(one.id.to_string()), 0));
    assert_eq!(std::fs::read(place.store.layer_path(&two.layers[0]).join("content")).unwrap(), b"same");
    assert!(place.root().join("blobs/sha256").join(two.blobs[2].digest.hex()).exists());
    assert_eq!(place.store.resolve("one").unwrap_err().kind(), Kind::NotFound);

    let removed = place.store.remove("two:v1").unwrap();
    assert_eq!(removed.layers, two.layers);
    for folder in ["layers", "blobs/sha256", "ids", "names"] {
        assert!(names(&place.root().join(folder)).is_empty(), "{folder}");
    }
    assert!(place.store.list().unwrap().is_empty());
    let index = std::fs::read_to_string(place.root().join("index.json")).unwrap();
    assert!(index.contains("\"manifests\":[]"), "{index}");
}

/// What other tools see: a whole OCI image layout, each blob named by its content.
#[test]
fn the_store_is_an_oci_layout() {
    let place = Place::new();
    place.import(&archive("one"), "app:v1").unwrap();
    place.import(&archive("two"), "host:5000/team/app").unwrap();
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(place.root().join(path)).unwrap()).unwrap()
    };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json("index.json");
    let lines = index["manifests"].as_array().unwrap();
    let mut refs: Vec<_> = lines
        .iter()
        .map(|line| line["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap())
        .collect();
    refs.sort_unstable();
    assert_eq!(refs, ["docker.io/library/app:v1", "host:5000/team/app:latest"]);
    let check = |descriptor: &serde_json::Value| -> Vec<u8> {
        let digest = Digest::parse(descriptor["digest"].as_str().unwrap()).unwrap();
        let bytes = std::fs::read(place.root().join("blobs/sha256").join(digest.hex())).unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (digest, descriptor["size"].as_u64().unwrap()));
        bytes
    };
    for line in lines {
        let manifest: serde_json::Value = serde_json::from_slice(&check(line)).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&check(&manifest["config"])).unwrap();
        assert_eq!(config["rootfs"]["type"], "layers");
        assert_eq!(
            (config["os"].as_str(), config["history"].as_array().map(Vec::len)),
            (Some("linux"), Some(1))
        );
        check(&manifest["layers"][0]);
    }
}

#[test]
fn long_names_have_files_too() {
    let place = Place::new();
    let long = format!("{}:{}", vec!["part"; 45].join("/"), "t".repeat(128));
    let image = place.import(&archive("long"), &long).unwrap();
    assert_eq!(place.store.resolve(&long).unwrap().image_id, image.id.as_str());
    assert_eq!(place.store.list().unwrap()[0].names, [Reference::parse(&long).unwrap().full()]);
    place.store.remove(&long).unwrap();
    assert!(names(&place.root().join("names")).is_empty());
}

#[test]
fn importers_at_once() {
    let place = Place::new();
    let archives = [archive("shared"), archive("own")];
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (place, archives) = (&place, &archives);
            scope.spawn(move || {
                for round in 0..3 {
                    let image = place.import(&archives[n % 2], &format!("image{n}:r{round}")).unwrap();
                    let layer = place.store.layer_path(&image.layers[0]);
                    assert!(layer.join("content").is_file());
                    if round > 0 {
                        place.store.remove(&format!("image{n}:r{}", round - 1)).unwrap();
                    }
                    assert!(layer.join("content").is_file(), "a removal beside took our layer");
                }
            });
        }
    });
    let images = place.store.list().unwrap();
    assert_eq!(images.len(), 8);
    assert_eq!(names(&place.root().join("layers")).len(), 2);
    assert_eq!(place.left_over(), Vec::<String>::new());
    let index = std::fs::read_to_string(place.root().join("index.json")).unwrap();
    assert_eq!(index.matches("ref.name").count(), 8);
}

#[test]
fn a_damaged_record_is_named() {
    let place = Place::new();
    place.import(&archive("x"), "app").unwrap();
    let file = place.root().join("names/docker.io+library+app:latest");
    for damage in ["", "{", "[]", "{\"image_id\":7}", &"[".repeat(100_000)] {
        std::fs::write(&file, damage).unwrap();
        let err = place.store.resolve("app").unwrap_err();
        assert_eq!(err.kind(), Kind::Corrupt);
        assert!(
            err.to_string().contains("docker.io+library+app:latest") && err.hint_text().is_some(),
            "{err}"
        );
    }
    place.import(&archive("x"), "app").unwrap_err();
    std::fs::remove_file(&file).unwrap();
    place.import(&archive("x"), "app").unwrap();
}
