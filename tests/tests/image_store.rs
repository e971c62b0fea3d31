//! What the image store has and takes: lists, names, disk use, damage, and what goes when nobody needs it.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tare_tests::registry::{Answer, Server};
use tare_tests::{Host, eventually};

/// A second image on top of busybox, called `child`.
fn child(host: &Host) {
    host.busybox();
    host.tare(["run", "--name", "maker", "busybox", "sh", "-c", "echo data >/data; rm /bin/ls"]).run().ok();
    host.tare(["commit", "-c", "LABEL stage=second", "maker", "child"]).run().ok();
    host.tare(["rm", "maker"]).run().ok();
}

fn id(host: &Host, name: &str) -> String {
    host.inspect(name)["Id"].as_str().expect("an id").to_owned()
}

/// The files of a folder of the store.
fn listed(host: &Host, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.root().join("images").join(folder));
    let mut names: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    names
}

fn du(path: &Path) -> u64 {
    let out = Command::new("du").args(["-s", "-B1"]).arg(path).output().expect("du");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Changes one byte of a file in place.
fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
}

#[test]
fn a_list_can_be_filtered_as_docker_does() {
    let host = Host::new();
    child(&host);
    host.tare(["tag", "busybox", "example.org/team/box:1"]).run().ok();
    let names = |flags: &[&str]| {
        let format = ["--format", "{{.Repository}}:{{.Tag}}"];
        let mut lines: Vec<String> =
            host.tare(["images"]).args(format).args(flags).run().ok().lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    let all = "busybox:latest child:latest example.org/team/box:1";
    assert_eq!(names(&[]), all);
    assert_eq!(names(&["--all"]), all);
    assert_eq!(names(&["busybox"]), "busybox:latest");
    assert_eq!(names(&["example.org/*/box:?"]), "example.org/team/box:1");
    assert_eq!(names(&["busybox:2"]), "");
    assert_eq!(names(&["--filter", "label=stage"]), "child:latest");
    assert_eq!(names(&["--filter", "label=stage=first"]), "");
    assert_eq!(names(&["--filter", "reference=c*d"]), "child:latest");
    assert_eq!(names(&["--filter", "before=child"]), "busybox:latest example.org/team/box:1");
    assert_eq!(names(&["--filter", "since=busybox"]), "child:latest");
    assert_eq!(names(&["--filter", "until=1h"]), "");
    assert_eq!(names(&["--filter", "dangling=true"]), "");
    host.tare(["images", "--filter", "colour=red"]).run().fails(1).complains_of(&["colour", "dangling"]);
    host.tare(["images", "--filter", "before=nobody"]).run().fails(1).complains_of(&["no such image"]);

    let digest = host.inspect("child")["Descriptor"]["digest"].as_str().expect("a digest").to_owned();
    let table = host.tare(["images", "--digests", "--no-trunc", "child"]).run().ok();
    let mut lines = table.lines();
    assert!(lines.next().is_some_and(|head| head.starts_with("REPOSITORY   TAG       DIGEST ")), "{table}");
    assert!(
        lines.next().is_some_and(|line| line.contains(&digest) && line.contains(&id(&host, "child"))),
        "{table}"
    );
}

#[test]
fn inspect_of_an_image_has_what_scripts_of_any_docker_look_for() {
    let host = Host::new();
    child(&host);
    let image = host.inspect("child");
    let text =
        |path: &str| image.pointer(path).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    assert!(text("/Id").starts_with("sha256:") && text("/Os") == "linux" && text("/RootFS/Type") == "layers");
    assert_eq!(image["RepoTags"], serde_json::json!(["child:latest"]));
    assert!(image["RepoDigests"][0].as_str().is_some_and(|digest| digest.starts_with("child@sha256:")));
    assert_eq!(image["Config"]["Labels"]["stage"], "second");
    assert!(image["ContainerConfig"].is_object() && image["GraphDriver"]["Data"]["LowerDir"].is_string());
    assert!(image["Size"].as_u64().is_some_and(|size| size > 100_000));
    for field in ["Parent", "Comment", "Created", "DockerVersion", "Author", "Architecture", "VirtualSize"] {
        assert!(image.get(field).is_some(), "{field}");
    }

    // A container goes before an image of the same name, unless one says which.
    host.tare(["run", "--name", "child", "busybox", "true"]).run().ok();
    host.tare(["inspect", "-f", "{{.Name}}", "child"]).run().prints("/child");
    host.tare(["inspect", "--type", "image", "-f", "{{.Os}}", "child"]).run().prints("linux");
    host.tare(["image", "inspect", "-f", "{{json .Config.Labels}}", "child"])
        .run()
        .prints(r#"{"stage":"second"}"#);
    host.tare(["inspect", "--type", "container", "busybox"])
        .run()
        .fails(1)
        .complains_of(&["no such container"]);
    host.tare(["inspect", "--type", "image", "nobody"]).run().fails(1).complains_of(&["no such image"]);
    let out = host.tare(["inspect", "nobody", "child"]).run();
    out.fails(1).complains_of(&["no such object: nobody"]);
    assert!(out.stdout().contains("\"/child\""), "what is there is shown");
    host.tare(["inspect", "--type", "planet", "x"]).run().fails(1).complains_of(&[
        "planet",
        "container",
        "image",
    ]);
}

#[test]
fn rmi_refuses_what_is_needed_in_dockers_words() {
    let host = Host::new();
    child(&host);
    host.tare(["tag", "child", "again"]).run().ok();
    let image = id(&host, "child");
    host.tare(["rmi", &image]).run().fails(1).complains_of(&["conflict: unable to delete", "must be forced"]);
    host.tare(["rmi", "again"]).run().prints("Untagged: again:latest");
    host.tare(["run", "--name", "user", "child", "true"]).run().ok();
    host.tare(["rmi", "child"]).run().fails(1).complains_of(&["conflict", "used by stopped container user"]);
    // With force the name goes, and the container keeps what it stands on.
    host.tare(["rmi", "-f", "child"]).run().prints("Untagged: child:latest");
    host.tare(["images", "-q", "--no-trunc", "--filter", "dangling=true"]).run().prints(&image);
    host.tare(["rmi", "-f", &image]).run().fails(1).complains_of(&["cannot be forced"]);
    host.tare(["image", "prune", "-f"]).run().prints("Total reclaimed space: 0B");
    host.tare(["rm", "user"]).run().ok();
    let said = host.tare(["rmi", &image]).run().ok();
    assert!(said.starts_with(&format!("Deleted: {image}")), "{said}");
    host.tare(["rmi", "busybox"]).run().ok();
    assert_eq!(listed(&host, "blobs/sha256").len() + listed(&host, "ids").len(), 0);
    host.tare(["rmi", "nobody"]).run().fails(1).complains_of(&["no such image: nobody"]);
    let forced = host.tare(["rmi", "-f", "nobody"]).run();
    assert_eq!(forced.code(), 0, "as Docker: {forced:?}");
    forced.complains_of(&["no such image: nobody"]);
}

#[test]
fn disk_use_adds_up_to_du_and_a_prune_frees_what_it_says() {
    let host = Host::new();
    child(&host);
    host.tare(["run", "--name", "writer", "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=3"])
        .run()
        .ok();
    // What a dead process left: a blob, a layer, half a download, a record of nothing.
    let images = host.root().join("images");
    for (folder, name) in [("blobs/sha256", "a"), ("layers", "b"), ("ingest", "c")] {
        let path = images.join(folder).join(name.repeat(64));
        match folder {
            "blobs/sha256" => fs::write(path, vec![1; 100_000]).expect("a file"),
            _ => {
                fs::create_dir_all(&path).expect("a folder");
                fs::write(path.join("blob"), vec![1; 100_000]).expect("a file");
            }
        }
    }
    let df = || -> Vec<(String, u64, u64)> {
        let lines =
            host.tare(["system", "df", "--format", "{{.Type}}|{{.Bytes}}|{{.ReclaimableBytes}}"]).run().ok();
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).expect("a number");
        lines
            .lines()
            .map(|line| {
                let mut parts = line.split('|');
                (parts.next().unwrap_or_default().to_owned(), number(parts.next()), number(parts.next()))
            })
            .collect()
    };
    let before = df();
    assert_eq!(before.iter().map(|(_, bytes, _)| bytes).sum::<u64>(), du(&host.root()), "{before:?}");
    assert_eq!(before[0].1, du(&images));
    assert!(before[1].2 > 3 << 20, "the stopped container can go: {before:?}");
    let table = host.tare(["system", "df"]).run().ok();
    assert!(
        table.starts_with("TYPE             TOTAL     ACTIVE    SIZE      RECLAIMABLE\nImages           2"),
        "{table}"
    );
    let verbose = host.tare(["system", "df", "-v"]).run().ok();
    for word in ["Images space usage:", "SHARED SIZE", "Containers space usage:", "writer", "child"] {
        assert!(verbose.contains(word), "{word}: {verbose}");
    }

    // As `df` said, to the block, but for the store's own lists.
    let (used, reclaimable) = (du(&images), before[0].2);
    host.tare(["image", "prune", "--all", "--force"]).run().ok();
    let freed = used - du(&images);
    assert!(freed >= reclaimable && freed < reclaimable + 64 * 1024, "{freed} freed, {reclaimable} promised");
    host.tare(["images", "--format", "{{.Repository}}"]).run().prints("busybox");
    assert_eq!(df()[0].2, 0);
    let said = host.tare(["system", "prune", "-a", "-f"]).run().ok();
    assert!(said.contains("Deleted Containers:") && said.contains("untagged: busybox:latest"), "{said}");
    assert_eq!(host.containers().len(), 0);
    assert_eq!(df()[0].0, "Images");
    assert_eq!(df().iter().map(|(_, bytes, _)| bytes).sum::<u64>(), du(&host.root()));
}

#[test]
fn a_prune_asks_first_and_filters() {
    let host = Host::new();
    child(&host);
    let asked = host.tare(["image", "prune", "-a"]).stdin(b"n\n").run();
    asked.complains_of(&["WARNING! This will remove all images without at least one container", "[y/N]"]);
    assert_eq!(host.tare(["images", "-q"]).run().ok().lines().count(), 2);
    host.tare(["image", "prune", "-a", "-f", "--filter", "label!=stage"]).run().ok();
    host.tare(["images", "--format", "{{.Repository}}"]).run().prints("child");
    host.tare(["image", "prune", "-a", "-f", "--filter", "until=1h"])
        .run()
        .prints("Total reclaimed space: 0B");
    host.tare(["image", "prune", "-a"]).stdin(b"y\n").run().ok();
    host.tare(["images", "-q"]).run().prints("");
}

#[test]
fn verify_finds_a_flipped_bit_and_a_load_repairs_it() {
    let host = Host::new();
    child(&host);
    let file = host.work().join("child.tar");
    host.tare(["save", "-o"]).arg(&file).args(["child", "busybox"]).run().ok();
    host.tare(["image", "verify"]).run().ok();
    let image = host.inspect("child");
    let layer = |at: usize| {
        let hex =
            image["RootFS"]["Layers"][at].as_str().expect("a layer").trim_start_matches("sha256:").to_owned();
        host.root().join("images/layers").join(hex)
    };
    let repaired = || {
        let out = host.tare(["image", "verify"]).run();
        out.fails(1).complains_of(&["damaged", "load them again"]);
        host.tare(["load", "-i"]).arg(&file).run().ok();
        host.tare(["image", "verify"]).run().prints("child:latest: whole\nbusybox:latest: whole");
        out.stdout()
    };
    // In an unpacked layer.
    flip(&layer(1).join("data"), 0);
    let said = repaired();
    assert!(said.contains("damaged layer") && said.contains("\"data\""), "{said}");
    host.tare(["run", "--rm", "child", "cat", "/data"]).run().prints("data");
    // A file that should not be there, and one that should.
    fs::write(layer(1).join("extra"), "").expect("a file");
    assert!(repaired().contains("extra"));
    fs::remove_file(layer(0).join("bin/busybox")).expect("a file");
    repaired();
    // In every kind of blob: layers, configuration, manifest.
    for blob in listed(&host, "blobs/sha256") {
        flip(&blob, 7);
        assert!(repaired().contains("damaged blob"), "{}", blob.display());
    }
    // And one that is gone.
    fs::remove_file(&listed(&host, "blobs/sha256")[0]).expect("a blob");
    repaired();
    assert_eq!(listed(&host, "damaged").len(), 0);
}

#[test]
fn a_compacted_image_runs_and_its_layers_come_back_the_same() {
    let host = Host::new();
    child(&host);
    let before = du(&host.root().join("images"));
    let said = host.tare(["image", "compact"]).run().ok();
    assert!(said.contains("Total reclaimed space: "), "{said}");
    let after = du(&host.root().join("images"));
    assert!(after + 500_000 < before, "{before} → {after}");
    host.tare(["run", "--rm", "child", "cat", "/data"]).run().prints("data");
    host.tare(["image", "verify"]).run().ok();
    // A commit on top needs nothing that is not there.
    host.tare(["run", "--name", "more", "child", "touch", "/more"]).run().ok();
    host.tare(["commit", "more", "third"]).run().ok();

    let (file, other) = (host.work().join("third.tar"), Host::new());
    let identity = id(&host, "third");
    host.tare(["save", "-o"]).arg(&file).arg("third").run().ok();
    other.tare(["load", "-i"]).arg(&file).run().prints("Loaded image: third:latest");
    assert_eq!(id(&other, "third"), identity);
    other.tare(["run", "--rm", "third", "cat", "/data"]).run().prints("data");
    host.tare(["image", "verify"]).run().ok();

    // A file that was damaged since is noticed, not carried on.
    host.tare(["image", "compact"]).run().ok();
    let layers = host.inspect("child")["RootFS"]["Layers"].clone();
    let hex = layers[1].as_str().expect("a layer").trim_start_matches("sha256:").to_owned();
    flip(&host.root().join("images/layers").join(hex).join("data"), 1);
    host.tare(["image", "verify", "child"]).run().fails(1);
    host.tare(["save", "-o"])
        .arg(host.work().join("no.tar"))
        .arg("child")
        .run()
        .fails(1)
        .complains_of(&["other bytes"]);
    assert!(!host.work().join("no.tar").exists());
    host.tare(["load", "-i"]).arg(&file).run().ok();
    host.tare(["image", "verify", "child"]).run().ok();
}

#[test]
fn an_import_need_not_have_a_name() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--name", "box", "busybox", "true"]).run().ok();
    let tar = host.tare(["export", "box"]).run();
    let id = host.tare(["import", "--platform", "linux/arm64", "-"]).stdin(tar.bytes()).run().ok();
    let image = host.inspect(&id);
    assert_eq!(
        (image["Architecture"].as_str(), image["RepoTags"].as_array().map(Vec::len)),
        (Some("arm64"), Some(0))
    );
    let line =
        host.tare(["images", "--filter", "dangling=true", "--format", "{{.Repository}}:{{.Tag}}"]).run();
    line.prints("<none>:<none>");
}

#[test]
fn an_archive_is_imported_from_its_address() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--name", "box", "busybox", "true"]).run().ok();
    let tar = host.tare(["export", "box"]).run().bytes().to_vec();
    let server = Server::start(move |request| match request.path.as_str() {
        "/root.tar" => Answer { body: tar.clone(), ..Answer::ok("") },
        "/short.tar" => Answer { body: tar[..tar.len() / 2].to_vec(), ..Answer::ok("") },
        "/moved.tar" => Answer::status(302).header("Location", "/root.tar"),
        _ => Answer::status(404),
    });
    let import = |path: &str, name: &str| {
        host.tare(["import", &format!("http://{}{path}", server.address), name]).run()
    };
    for (path, name) in [("/root.tar", "one"), ("/moved.tar", "two")] {
        import(path, name).ok();
        host.tare(["run", "--rm", name, "echo", "here"]).run().prints("here");
    }
    import("/nothing.tar", "no").fails(1).complains_of(&["404", "/nothing.tar"]);
    import("/short.tar", "no").fails(1).complains_of(&["missing"]);
    host.tare(["import", "https://", "no"]).run().fails(1).complains_of(&["address"]);
    assert_eq!(host.tare(["images", "--quiet", "no"]).run().ok(), "");
}

#[test]
fn what_leaves_is_for_the_platform_that_was_asked_for() {
    let host = Host::new();
    let busybox = host.busybox();
    let file = host.work().join("box.tar");
    let other = if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" };
    host.tare(["save", "--platform", "linux", "-o"]).arg(&file).arg(busybox).run().ok();
    fs::remove_file(&file).expect("an archive");
    host.tare(["save", "--platform", other, "-o"])
        .arg(&file)
        .arg(busybox)
        .run()
        .fails(1)
        .complains_of(&[other]);
    assert!(!file.exists());
    host.tare(["push", "--platform", other, busybox])
        .run()
        .fails(1)
        .complains_of(&["the image is for", other]);
}

#[test]
fn a_change_can_be_a_health_check() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--name", "box", "busybox", "true"]).run().ok();
    let change = "HEALTHCHECK --interval=100ms CMD test -e /well";
    host.tare(["commit", "--change", change, "box", "checked"]).run().ok();
    assert_eq!(host.inspect("checked")["Config"]["Healthcheck"]["Test"][1], "test -e /well");
    host.tare(["run", "-d", "--name", "well", "checked", "sh", "-c", "touch /well; sleep 1000"]).run().ok();
    let health = || host.tare(["inspect", "--format", "{{.State.Health.Status}}", "well"]).run().ok();
    eventually("the container is well", || health() == "healthy");
    host.tare(["rm", "-f", "well"]).run().ok();
}

#[test]
fn an_image_without_a_date_has_no_age() {
    let host = Host::new();
    let busybox = host.busybox();
    let archive = host.work().join("box.tar");
    host.tare(["save", "-o"]).arg(&archive).arg(busybox).run().ok();
    let folder = host.work().join("archive");
    fs::create_dir(&folder).expect("a folder");
    let script = "tar -xf $0 -C $1 && cd $1 && rm index.json oci-layout &&
        config=$(sed 's/.*\"Config\":\"\\([^\"]*\\)\".*/\\1/' manifest.json) &&
        sed -i 's/\"created\":\"[^\"]*\",//' $config && tar -cf $0 .";
    let out = Command::new("sh").args(["-c", script]).arg(&archive).arg(&folder).output().expect("sh");
    assert!(out.status.success(), "{out:?}");
    host.tare(["rmi", busybox]).run().ok();
    host.tare(["load", "-i"]).arg(&archive).run().ok();
    host.tare(["images", "--format", "{{.CreatedSince}} {{.CreatedAt}}"]).run().prints("N/A N/A");
}

#[test]
fn an_archive_can_be_compressed_by_the_name_of_its_file() {
    let (host, other) = (Host::new(), Host::new());
    host.busybox();
    for (name, magic) in
        [("a.tar.gz", &b"\x1f\x8b"[..]), ("a.tgz", b"\x1f\x8b"), ("a.tar.zst", b"\x28\xb5\x2f\xfd")]
    {
        let file = host.work().join(name);
        host.tare(["save", "busybox", "-o"]).arg(&file).run().ok();
        assert!(fs::read(&file).expect("an archive").starts_with(magic), "{name}");
        other.tare(["load", "-i"]).arg(&file).run().prints("Loaded image: busybox:latest");
    }
    host.tare(["save", "-o", "/dev/null", "busybox"]).run().ok();
}

#[test]
fn an_image_is_for_one_platform_and_says_so() {
    let host = Host::new();
    host.busybox();
    host.tare(["tag", "busybox", "example.org/other:2"]).run().ok();
    let tree = host.tare(["images", "--tree"]).run().ok();
    let lines: Vec<&str> = tree.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(lines, ["IMAGE", "busybox:latest", "example.org/other:2", "└─ linux/amd64"]);
    host.tare(["images", "--tree", "--quiet"]).run().fails(1).complains_of(&["--quiet"]);
    let steps = host.tare(["history", "--platform", "linux/amd64", "-q", "busybox"]).run().ok();
    assert_eq!(steps, host.tare(["history", "-q", "busybox"]).run().ok());
    for words in [&["history"][..], &["rmi"]] {
        let call = host.tare(words.iter().copied()).args(["--platform", "linux/s390x", "busybox"]).run();
        call.fails(1).complains_of(&["the image is for linux/amd64, not for linux/s390x"]);
    }
    host.tare(["rmi", "--platform", "linux/amd64", "example.org/other:2"])
        .run()
        .prints("Untagged: example.org/other:2");
    assert!(host.tare(["images"]).run().ok().contains("busybox"));
}
