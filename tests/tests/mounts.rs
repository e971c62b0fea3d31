//! Folders and files of the host in the container: `--volume` and `--mount`.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

use tare_tests::{Host, busybox, eventually};

fn volume(source: &Path, rest: &str) -> String {
    format!("{}:{rest}", source.display())
}

#[test]
fn a_folder_is_shared_both_ways() {
    let host = Host::new();
    let folder = host.folder("data");
    host.file("data/from-host", "hello");
    host.sh(&["-v", &volume(&folder, "/data")], "cat /data/from-host; echo back > /data/from-inside")
        .prints("hello");
    assert_eq!(fs::read_to_string(folder.join("from-inside")).unwrap(), "back\n");
}

#[test]
fn mount_is_the_long_form_of_the_same() {
    let host = Host::new();
    let folder = host.folder("data");
    host.file("data/file", "hello");
    let source = folder.display();
    for words in [
        format!("type=bind,source={source},target=/data"),
        format!("type=bind,src={source},dst=/data"),
        format!("type=bind,source={source},destination=/data,bind-propagation=rslave"),
    ] {
        host.sh(&["--mount", &words], "cat /data/file").prints("hello");
    }
    let read_only = format!("type=bind,source={source},target=/data,readonly");
    host.sh(&["--mount", &read_only], "echo x > /data/new").fails(1).complains_of(&["read-only"]);
    host.sh(
        &["--mount", "type=tmpfs,target=/t,tmpfs-size=2m"],
        "df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2",
    )
    .prints("2048");
}

#[test]
fn a_read_only_volume_cannot_be_written() {
    let host = Host::new();
    let folder = host.folder("data");
    host.sh(&["-v", &volume(&folder, "/data:ro")], "echo x > /data/new")
        .fails(1)
        .complains_of(&["read-only"]);
    assert!(!folder.join("new").exists());
}

#[test]
fn read_only_holds_for_what_is_mounted_below() {
    let host = Host::new();
    let folder = host.folder("data");
    host.folder("data/below");
    let below = folder.join("below");
    assert!(Command::new("mount").args(["-t", "tmpfs", "below"]).arg(&below).status().unwrap().success());
    let out = host.sh(&["-v", &volume(&folder, "/data:ro")], "echo x > /data/below/new");
    // Unless it is asked for otherwise.
    let words =
        |how: &str| format!("type=bind,src={},dst=/data,readonly,bind-recursive={how}", folder.display());
    let script = "echo x > /data/below/new && ! echo x > /data/new";
    let writable = host.sh(&["--mount", &words("writable")], script);
    let read_only = host.sh(&["--mount", &words("readonly")], script);
    assert!(Command::new("umount").arg(&below).status().unwrap().success());
    out.fails(1).complains_of(&["read-only"]);
    writable.ok();
    read_only.fails(1).complains_of(&["read-only"]);
}

#[test]
fn a_single_file_can_be_bound() {
    let host = Host::new();
    let file = host.file("config", "key=value");
    host.sh(&["-v", &volume(&file, "/etc/my.conf:ro")], "cat /etc/my.conf").prints("key=value");
    host.sh(&["-v", &volume(&file, "/etc/passwd")], "cat /etc/passwd").prints("key=value");
}

#[test]
fn options_may_be_combined_and_labels_are_accepted() {
    let host = Host::new();
    let folder = host.folder("data");
    for options in ["rw", "z", "Z", "ro,z", "rw,rslave", "rprivate,ro"] {
        host.sh(&["-v", &volume(&folder, &format!("/data:{options}"))], "true").ok();
    }
    let wrong = host.sh(&["-v", &volume(&folder, "/data:sideways")], "true");
    wrong.fails(125).complains_of(&["sideways"]);
}

#[test]
fn later_mounts_on_the_host_are_seen_with_rslave_only() {
    let host = Host::new();
    let folder = host.folder("data");
    host.folder("data/below");
    // The source has to be a shared mount for anything to travel.
    assert!(Command::new("mount").args(["--bind"]).arg(&folder).arg(&folder).status().unwrap().success());
    assert!(Command::new("mount").args(["--make-shared"]).arg(&folder).status().unwrap().success());
    let wait = "touch /data/ready-$0; while [ ! -e /tmp/go ] && [ ! -e /data/go ]; do sleep 0.1; done; \
        [ -e /data/below/mark ] && echo seen || echo unseen";
    let start = |name: &str, option: &str| {
        let words = ["run", "--rm", "-v", &volume(&folder, &format!("/data{option}"))].map(str::to_owned);
        host.tare(words).args(["busybox", "sh", "-c", wait, name]).start()
    };
    host.busybox();
    let (slave, private) = (start("slave", ":rslave"), start("private", ""));
    eventually("both are ready", || {
        folder.join("ready-slave").exists() && folder.join("ready-private").exists()
    });
    let below = folder.join("below");
    assert!(Command::new("mount").args(["-t", "tmpfs", "below"]).arg(&below).status().unwrap().success());
    fs::write(below.join("mark"), "").unwrap();
    fs::write(folder.join("go"), "").unwrap();
    let (slave, private) = (slave.wait(), private.wait());
    assert!(Command::new("umount").arg("-l").arg(&below).status().unwrap().success());
    assert!(Command::new("umount").arg("-l").arg(&folder).status().unwrap().success());
    slave.prints("seen");
    private.prints("unseen");
}

#[test]
fn missing_folders_inside_are_made() {
    let host = Host::new();
    let folder = host.folder("data");
    host.file("data/file", "hello");
    host.sh(&["-v", &volume(&folder, "/a/new/place")], "cat /a/new/place/file").prints("hello");
}

#[test]
fn mounts_may_lie_in_each_other_in_any_order() {
    let host = Host::new();
    let (outer, inner) = (host.folder("outer"), host.folder("inner"));
    host.file("inner/file", "inner");
    fs::create_dir(outer.join("inner")).unwrap();
    let flags = [volume(&inner, "/data/inner"), volume(&outer, "/data")];
    host.sh(&["-v", &flags[0], "-v", &flags[1]], "cat /data/inner/file").prints("inner");
}

#[test]
fn a_missing_source_is_an_error_that_names_it() {
    let host = Host::new();
    let missing = host.work().join("missing");
    let flag = format!("type=bind,source={},target=/data", missing.display());
    host.leaves_no_trace(|| {
        host.sh(&["--mount", &flag], "true").fails(125).complains_of(&["missing", "does not exist"]);
    });
    assert!(!missing.exists());
}

#[test]
fn mounts_that_make_no_sense_are_errors() {
    let host = Host::new();
    let folder = host.folder("data");
    let twice = volume(&folder, "/data");
    host.leaves_no_trace(|| {
        host.sh(&["-v", &volume(&folder, "relative")], "true").fails(125).complains_of(&["relative"]);
        host.sh(&["-v", &volume(&folder, "/")], "true").fails(125);
        host.sh(&["-v", &twice, "-v", &twice], "true").fails(125).complains_of(&["/data"]);
        host.sh(&["--mount", "type=bind,target=/data"], "true").fails(125).complains_of(&["source"]);
        host.sh(&["--mount", "type=nosuch,target=/data"], "true").fails(125).complains_of(&["nosuch"]);
        host.sh(&["--mount", "type=bind,colour=red,source=/,target=/data"], "true")
            .fails(125)
            .complains_of(&["colour"]);
    });
}

#[test]
fn a_link_in_the_image_cannot_lead_a_mount_out_of_it() {
    // The image says that /data is somewhere on the host; the mount has to land inside all the same.
    let host = Host::new();
    let outside = host.folder("outside");
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    std::os::unix::fs::symlink(&outside, tree.join("data")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../../..", tree.join("up")).unwrap();
    let archive = host.work().join("evil.tar");
    busybox::pack(&tree, &archive).unwrap();
    host.tare(["image", "import"]).arg(&archive).arg("evil").run().ok();
    let source = host.folder("source");
    host.file("source/file", "inside");
    let before = fs::read_dir(&outside).unwrap().count();
    for (target, script) in [("/data/deep", "cat /data/deep/file"), ("/up/made", "cat /made/file")] {
        let out =
            host.tare(["run", "--rm", "-v", &volume(&source, target), "evil", "sh", "-c", script]).run();
        out.prints("inside");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), before, "the mount made something outside");
    assert!(!Path::new("/made").exists());
}

#[test]
fn a_socket_and_a_device_of_the_host_can_be_bound() {
    let host = Host::new();
    let socket = host.work().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    host.sh(&["-v", &volume(&socket, "/socket")], "[ -S /socket ] && echo socket").prints("socket");
}
