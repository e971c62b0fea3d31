//! Images carried in files: `tare save`, `tare load`, `tare tag`, and what other tools make of them.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

use tare_tests::Host;

/// Another tool, which has to succeed.
#[track_caller]
fn tool(words: &[&str], folder: &Path) -> String {
    let out = Command::new(words[0]).args(&words[1..]).current_dir(folder).output().expect(words[0]);
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn what_is_saved_is_loaded_elsewhere_with_its_names_and_digest() {
    let (from, to) = (Host::new(), Host::new());
    let busybox = from.busybox();
    from.tare(["tag", busybox, "example.org/team/box:1"]).run().ok();
    let file = from.work().join("images.tar");
    from.tare(["save", "-o"]).arg(&file).args([busybox, "example.org/team/box:1"]).run().ok();
    let said = to.tare(["load", "-i"]).arg(&file).run().ok();
    assert_eq!(said, format!("Loaded image: {busybox}:latest\nLoaded image: example.org/team/box:1"));
    to.tare(["run", "--rm", "example.org/team/box:1", "echo", "here"]).run().prints("here");
    let id = |host: &Host| host.tare(["images", "--quiet", "--no-trunc"]).run().ok();
    assert_eq!(id(&from), id(&to));

    // Saved again it is the same, byte for byte.
    let again = to.work().join("again.tar");
    to.tare(["save", "-o"]).arg(&again).args([busybox, "example.org/team/box:1"]).run().ok();
    assert!(fs::read(&file).expect("an archive") == fs::read(&again).expect("an archive"));
}

#[test]
fn layers_of_other_tools_are_stacked_and_take_away() {
    let host = Host::new();
    let work = host.work();
    let busybox = host.busybox();
    let base = work.join("base.tar");
    host.tare(["save", "-o"]).arg(&base).arg(busybox).run().ok();
    tool(&["skopeo", "copy", &format!("docker-archive:{}", base.display()), "oci:layout:base"], &work);
    tool(&["umoci", "unpack", "--image", "layout:base", "bundle"], &work);
    let root = work.join("bundle/rootfs");
    fs::create_dir_all(root.join("data/old")).expect("folders");
    fs::write(root.join("data/old/file"), "old").expect("a file");
    fs::write(root.join("gone"), "below").expect("a file");
    tool(&["umoci", "repack", "--image", "layout:second", "bundle"], &work);
    fs::remove_dir_all(work.join("bundle")).expect("the bundle");
    tool(&["umoci", "unpack", "--image", "layout:second", "bundle"], &work);
    fs::remove_file(root.join("gone")).expect("a file");
    fs::remove_dir_all(root.join("data/old")).expect("a folder");
    fs::write(root.join("data/new"), "above").expect("a file");
    tool(&["umoci", "repack", "--image", "layout:third", "bundle"], &work);

    // As an OCI layout in a tar, whose index has three images without whole names.
    tool(&["tar", "-C", "layout", "-cf", "layout.tar", "."], &work);
    let said = host.tare(["load", "-i"]).arg(work.join("layout.tar")).run().ok();
    assert_eq!(said.lines().filter(|line| line.starts_with("Loaded image ID: sha256:")).count(), 3, "{said}");

    // As Docker's archive, compressed, through a pipe.
    tool(&["skopeo", "copy", "oci:layout:third", "docker-archive:third.tar:example.org/third:1"], &work);
    tool(&["zstd", "-q", "third.tar"], &work);
    let bytes = fs::read(work.join("third.tar.zst")).expect("an archive");
    let said = host.tare(["load"]).stdin(&bytes).run().ok();
    assert_eq!(said, "Loaded image: example.org/third:1");
    let history = host.tare(["history", "--format", "{{.ID}} {{.Size}}", "example.org/third:1"]).run().ok();
    let sizes: Vec<&str> = history.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    assert!(sizes.len() >= 3 && sizes[..2] == ["5B", "8B"], "{history}");
    let script = "cat /data/new; ls /data; ls -d /gone 2>/dev/null; echo; /bin/busybox true && echo runs";
    host.tare(["run", "--rm", "example.org/third:1", "sh", "-c", script]).run().prints("abovenew\n\nruns");
}

#[test]
fn what_is_saved_can_be_read_by_others() {
    let host = Host::new();
    let work = host.work();
    let busybox = host.busybox();
    let file = work.join("images.tar");
    host.tare(["save", "-o"]).arg(&file).arg(busybox).run().ok();
    let id = host.tare(["images", "--quiet", "--no-trunc"]).run().ok();
    for transport in ["docker-archive", "oci-archive"] {
        let source = format!("{transport}:{}", file.display());
        let config = tool(&["skopeo", "inspect", "--config", "--raw", &source], &work);
        let digest = Command::new("sha256sum").arg(host.file("config", config)).output().expect("sha256sum");
        let digest = String::from_utf8_lossy(&digest.stdout).into_owned();
        assert_eq!(format!("sha256:{}", &digest[..64]), id, "{transport}");
    }
}

#[test]
fn what_holds_no_images_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let before = host.tare(["images", "--quiet"]).run().ok();
    let tar = host.work().join("plain.tar");
    tool(&["tar", "-cf", "plain.tar", "--files-from", "/dev/null"], &host.work());
    host.tare(["load", "-i"])
        .arg(&tar)
        .run()
        .fails(1)
        .complains_of(&["neither index.json nor manifest.json", "tare import"]);
    host.tare(["load"]).stdin(b"no archive at all").run().fails(1);
    host.tare(["load", "-i", "/nowhere/x.tar"]).run().fails(1).complains_of(&["/nowhere/x.tar"]);
    host.tare(["save", "-o", "/nowhere/x.tar", "missing"]).run().fails(1);
    let out = host.work().join("out.tar");
    host.tare(["save", "-o"]).arg(&out).arg("missing").run().fails(1).complains_of(&["missing"]);
    assert!(!out.exists() && fs::read_dir(host.work()).expect("a folder").count() == 1, "no half an archive");
    host.tare(["tag", "missing", "other"]).run().fails(1);
    host.tare(["tag", host.busybox(), "host"]).run().fails(1).complains_of(&["built-in"]);
    assert_eq!(before, "");
}

#[test]
fn an_image_is_copied_between_the_store_layouts_and_archives() {
    let (host, other) = (Host::new(), Host::new());
    let work = host.work();
    let busybox = host.busybox();
    let id = host.tare(["images", "--quiet", "--no-trunc"]).run().ok();
    let copy = |host: &Host, from: &str, to: &str| {
        host.tare(["image", "copy", from, to]).in_folder(&work).run().prints(&id);
    };
    copy(&host, busybox, "oci:layout:first");
    copy(&host, busybox, "oci:layout");
    let names = tool(&["umoci", "ls", "--layout", "layout"], &work);
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["docker.io/library/busybox:latest", "first"]);
    copy(&other, "oci:layout:first", "docker-archive:one.tar:example.org/box:1");
    assert_eq!(
        tool(&["tar", "-xOf", "one.tar", "manifest.json"], &work).matches("example.org/box:1").count(),
        1
    );
    copy(&other, "docker-archive:one.tar", "copied");
    copy(&other, "docker-archive:one.tar", "oci-archive:two.tar:example.org/two:1");
    assert_eq!(
        tool(&["tar", "-xOf", "two.tar", "manifest.json"], &work).matches("example.org/two:1").count(),
        1
    );
    // Nothing of what was on its way stays.
    let layers = fs::read_dir(other.root().join("images/layers")).expect("layers");
    assert!(!layers.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".pending")));
    other.tare(["run", "--rm", "copied", "echo", "here"]).run().prints("here");
    tool(&["skopeo", "copy", "oci:layout:first", "oci-archive:theirs.tar:x"], &work);
    copy(&other, "oci-archive:theirs.tar", "oci:again:y");
    assert_eq!(other.tare(["images", "-q", "--no-trunc"]).run().ok(), id);
    let refused = |words: [&str; 2]| host.tare(["image", "copy"]).args(words).in_folder(&work).run();
    refused(["oci:layout", "x"]).fails(1).complains_of(&["has 2 images", "oci:FOLDER:NAME"]);
    refused(["oci:layout:none", "x"]).fails(1).complains_of(&["no image \"none\"", "first"]);
    refused(["nobody", "oci:new"]).fails(1).complains_of(&["no such image"]);
    assert!(!work.join("new").exists());
    // Bytes that are not what their name says are not passed on.
    let blobs = work.join("layout/blobs/sha256");
    let largest = fs::read_dir(blobs)
        .expect("blobs")
        .flatten()
        .max_by_key(|entry| entry.metadata().map_or(0, |m| m.len()));
    let largest = largest.expect("a blob").path();
    fs::write(&largest, vec![0; fs::metadata(&largest).expect("a blob").len() as usize]).expect("a blob");
    refused(["oci:layout:first", "oci:broken"]).fails(1).complains_of(&["other bytes"]);
    assert!(!work.join("broken/index.json").exists());
}

#[test]
fn podman_loads_what_is_saved_and_saves_what_is_loaded() {
    let host = Host::new();
    let work = host.work();
    host.busybox();
    host.tare(["run", "--name", "maker", "busybox", "sh", "-c", "echo data >/data; rm /bin/ls"]).run().ok();
    host.tare(["commit", "maker", "example.org/made:1"]).run().ok();
    let file = work.join("made.tar");
    host.tare(["save", "-o"]).arg(&file).arg("example.org/made:1").run().ok();
    let podman = |words: &[&str]| {
        let storage = [
            "--root",
            "proot",
            "--runroot",
            "prun",
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
        ];
        tool(&[&["podman"][..], &storage, words].concat(), &work)
    };
    let said = podman(&["load", "-q", "-i", "made.tar"]);
    assert!(said.contains("example.org/made:1"), "{said}");
    let id = host.tare(["inspect", "-f", "{{.Id}}", "example.org/made:1"]).run().ok();
    assert_eq!(format!("sha256:{}", podman(&["inspect", "-f", "{{.Id}}", "example.org/made:1"])), id);
    for format in ["docker-archive", "oci-archive"] {
        let other = Host::new();
        podman(&["save", "-q", "--format", format, "-o", format, "example.org/made:1"]);
        other.tare(["load", "-i"]).arg(work.join(format)).run().prints("Loaded image: example.org/made:1");
        let script = "cat /data; test -e /bin/ls || echo gone";
        other.tare(["run", "--rm", "example.org/made:1", "sh", "-c", script]).run().prints("data\ngone");
    }
    podman(&["rmi", "-f", "-a"]);
}
