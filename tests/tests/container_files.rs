//! What a container has in its file system: `tare diff`, `tare export`, `tare commit`.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use tare_tests::Host;

/// An image with something below to change, and a container that changes it.
const BASE: &str = "mkdir -p /data/full /data/old; echo below >/data/old/file; echo one >/data/full/one; \
                    echo kept >/data/kept; ln -s /data/kept /data/link; echo gone >/gone";
const CHANGES: &str = "echo above >/data/new; rm -r /data/old; rm -r /data/full; mkdir /data/full; \
                       echo two >/data/full/two; rm /gone; ln /data/new /data/hard; mkfifo /data/pipe; \
                       chown 1000:2000 /data/kept; chmod 4711 /data/kept";

/// Makes the image `base`, and the container `c` on it.
fn changed(host: &Host) {
    host.busybox();
    host.tare(["run", "--name", "maker", "busybox", "sh", "-c", BASE]).run().ok();
    host.tare(["commit", "maker", "base"]).run().ok();
    host.tare(["run", "--name", "changer", "base", "sh", "-c", CHANGES]).run().ok();
}

#[test]
fn diff_says_what_was_added_changed_and_deleted() {
    let host = Host::new();
    changed(&host);
    host.tare(["diff", "changer"]).run().prints(
        "C /data\nC /data/full\nA /data/full/two\nA /data/hard\nC /data/kept\nA /data/new\nD /data/old\n\
         A /data/pipe\nD /gone",
    );
    host.tare(["run", "--name", "idle", "base", "true"]).run().ok();
    host.tare(["container", "diff", "idle"]).run().prints("");
    host.tare(["diff", "nobody"]).run().fails(1).complains_of(&["no such container"]);
}

#[test]
fn a_commit_has_what_the_container_had_and_not_what_it_had_removed() {
    let host = Host::new();
    changed(&host);
    let id = host.tare(["commit", "-m", "a note", "-a", "Ann", "changer", "team/app:2"]).run().ok();
    let script = "cat /data/new /data/kept /data/full/two; ls /data /data/full; ls /gone /data/old 2>/dev/null; \
                  stat -c '%a %u %g' /data/kept; stat -c %h /data/hard; readlink /data/link; test -p /data/pipe && echo pipe";
    let seen = "above\nkept\ntwo\n/data:\nfull\nhard\nkept\nlink\nnew\npipe\n\n/data/full:\ntwo\n4711 1000 2000\n2\n\
                /data/kept\npipe";
    host.tare(["run", "--rm", "team/app:2", "sh", "-c", script]).run().prints(seen);
    let image = host.inspect("team/app:2");
    assert_eq!(image["Id"], id.as_str());
    assert_eq!((image["Author"].as_str(), image["Comment"].as_str()), (Some("Ann"), Some("a note")));
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(3));
    let history = host.tare(["history", "--format", "{{.Comment}}|{{.CreatedBy}}", "team/app:2"]).run().ok();
    assert!(history.starts_with("a note|sh -c echo above"), "{history}");
    let plain = host
        .tare(["history", "-H=false", "--format", "{{.Size}}|{{.CreatedSince}}", "team/app:2"])
        .run()
        .ok();
    assert!(plain.starts_with("15|20") && plain.contains("UTC"), "{plain}");

    // Other tools read the same out of it.
    let file = host.work().join("app.tar");
    host.tare(["save", "-o"]).arg(&file).arg("team/app:2").run().ok();
    let work = host.work();
    let tool = |words: &[&str]| {
        let out = Command::new(words[0]).args(&words[1..]).current_dir(&work).output().expect(words[0]);
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    tool(&["skopeo", "copy", "oci-archive:app.tar", "oci:layout:app"]);
    tool(&["umoci", "unpack", "--image", "layout:app", "bundle"]);
    let root = work.join("bundle/rootfs");
    assert_eq!(fs::read_to_string(root.join("data/new")).expect("a file"), "above\n");
    assert!(
        !root.join("gone").exists()
            && !root.join("data/old").exists()
            && !root.join("data/full/one").exists()
    );
    let kept = fs::metadata(root.join("data/kept")).expect("a file");
    assert_eq!((kept.mode() & 0o7777, kept.uid(), kept.gid()), (0o4711, 1000, 2000));
}

#[test]
fn a_commit_takes_over_how_the_container_was_run_and_what_is_asked_for() {
    let host = Host::new();
    host.busybox();
    let flags = ["-e", "A=run", "-w", "/bin", "-u", "1000", "--label", "l=run", "--entrypoint", "/bin/echo"];
    host.tare(["run", "--name", "changer"]).args(flags).args(["busybox", "hello"]).run().ok();
    let changes = ["-c", "ENV B=commit", "-c", "LABEL m=commit", "-c", "EXPOSE 80", "-c", "VOLUME /v"];
    let id = host.tare(["commit", "--pause=false"]).args(changes).arg("changer").run().ok();
    let config = &host.inspect(&id)["Config"];
    assert_eq!(config["Env"], serde_json::json!(["A=run", "B=commit"]));
    assert_eq!(config["Labels"], serde_json::json!({"l": "run", "m": "commit"}));
    assert_eq!((config["WorkingDir"].as_str(), config["User"].as_str()), (Some("/bin"), Some("1000")));
    assert_eq!(config["Entrypoint"], serde_json::json!(["/bin/echo"]));
    assert_eq!(config["Cmd"], serde_json::json!(["hello"]));
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}}));
    host.tare(["run", "--rm", &id]).run().prints("hello");
    host.tare(["commit", "-c", "FROM x", "changer"]).run().fails(1).complains_of(&["FROM"]);
    host.tare(["commit", "changer", "host"]).run().fails(1).complains_of(&["built-in"]);
    host.tare(["commit", "changer", "Wrong"]).run().fails(1).complains_of(&["lower case"]);
}

#[test]
fn a_container_that_runs_is_committed_and_exported_and_goes_on() {
    let host = Host::new();
    // Replaced as a whole: whenever it is paused, the file is one of the numbers.
    let id = host
        .detached(&[], "n=0; while :; do n=$((n+1)); echo $n >/next; mv /next /count; usleep 10000; done");
    tare_tests::eventually("it counts", || {
        host.tare(["exec", &id, "test", "-e", "/count"]).run().code() == 0
    });
    host.tare(["commit", &id, "caught"]).run().ok();
    let caught = host.tare(["run", "--rm", "caught", "cat", "/count"]).run().ok();
    assert!(caught.parse::<u64>().is_ok_and(|n| n > 0), "{caught:?}");
    let tar = host.tare(["export", &id]).run();
    assert!(tar.bytes().len() > 512 * 1024 && tar.code() == 0);
    assert_eq!(host.status(&id), "running");
    // It was paused, and is not any more.
    let file = host.root().join("containers").join(&id).join("rw/upper/count");
    let number = || fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let before = number();
    tare_tests::eventually("the count goes on", || number() != before);
    host.tare(["rm", "-f", &id]).run().ok();
}

#[test]
fn an_export_is_the_root_as_the_container_saw_it() {
    let host = Host::new();
    changed(&host);
    let file = host.work().join("root.tar");
    host.tare(["export", "-o"]).arg(&file).arg("changer").run().ok();
    let root = host.folder("root");
    let tar = Command::new("tar").arg("-C").arg(&root).arg("-xpf").arg(&file).output().expect("tar");
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    assert_eq!(fs::read_to_string(root.join("data/new")).expect("a file"), "above\n");
    assert!(!root.join("gone").exists() && !root.join("data/full/one").exists());
    assert_eq!(fs::metadata(root.join("data/kept")).expect("a file").mode() & 0o7777, 0o4711);
    assert!(root.join("bin/busybox").exists());
    // And back, in one layer.
    host.tare(["import"]).arg(&file).run().ok();
    let id = host.tare(["images", "-q", "--filter", "dangling=true"]).run().ok();
    host.tare(["run", "--rm", &id, "cat", "/data/full/two"]).run().prints("two");
    host.tare(["run", "--name", "onhost", "host", "true"]).run().ok();
    host.tare(["export", "onhost"]).run().fails(1).complains_of(&["host", "memory"]);
    host.tare(["commit", "onhost"]).run().fails(1).complains_of(&["host", "memory"]);
}

#[test]
fn a_commit_that_no_layer_can_carry_is_refused_and_leaves_nothing() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--name", "changer", "busybox", "touch", "/.wh.bin"]).run().ok();
    let before = host.tare(["images", "-q"]).run().ok();
    host.tare(["commit", "changer", "trick"]).run().fails(1).complains_of(&[".wh.bin", "rename or remove"]);
    assert_eq!(host.tare(["images", "-q"]).run().ok(), before);
    let pending = fs::read_dir(host.root().join("images/layers")).expect("layers");
    assert!(!pending.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".pending")));
}
