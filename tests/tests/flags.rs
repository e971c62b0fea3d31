//! Flags of `tare run` that belong nowhere else: each by its effect, or as a clear error.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use tare_tests::{Host, eventually};

#[test]
fn new_files_get_the_permissions_that_umask_leaves() {
    let host = Host::new();
    host.sh(&[], "umask; touch /f; stat -c %a /f").prints("0022\n644");
    host.sh(&["--umask", "0077"], "umask; touch /f; stat -c %a /f").prints("0077\n600");
    host.sh(&["--umask", "9"], "true").fails(125).complains_of(&["--umask 9", "octal"]);
}

#[test]
fn the_time_zone_is_that_of_the_name() {
    let host = Host::new();
    if Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() {
        host.sh(&["--tz", "Asia/Tokyo"], "date +%z").prints("+0900");
    }
    host.sh(&["--tz", "Mars/Olympus"], "true")
        .fails(125)
        .complains_of(&["Mars/Olympus", "unknown time zone"]);
    host.sh(&["--tz", "../../etc/shadow"], "true").fails(125).complains_of(&["unknown time zone"]);
}

#[test]
fn the_number_of_the_first_process_is_written_down() {
    let host = Host::new();
    let file = host.work().join("pid");
    let id = host.detached(&["--pidfile", file.to_str().unwrap()], "sleep 60");
    assert_eq!(fs::read_to_string(&file).unwrap(), host.pid(&id).to_string());
    host.tare(["rm", "-f", &id]).run().ok();
}

#[test]
fn a_container_is_replaced_by_another_of_its_name() {
    let host = Host::new();
    let first = host.detached(&["--name", "web"], "sleep 60");
    let second = host.detached(&["--name", "web", "--replace"], "sleep 60");
    assert_eq!(host.containers(), std::slice::from_ref(&second));
    assert_ne!(first, second);
    host.sh(&["--replace"], "true").fails(125).complains_of(&["cannot replace container without --name"]);
    host.tare(["rm", "-f", "web"]).run().ok();
}

#[test]
fn notes_runtime_and_drivers_are_what_they_say() {
    let host = Host::new();
    let id = host.detached(
        &[
            "--annotation",
            "team=web",
            "--runtime",
            "runc",
            "--disable-content-trust",
            "--isolation",
            "default",
            "--volume-driver",
            "local",
        ],
        "sleep 60",
    );
    assert_eq!(host.inspect(&id)["HostConfig"]["Annotations"]["team"], "web");
    host.tare(["rm", "-f", &id]).run().ok();
    host.sh(&["--runtime", "kata"], "true")
        .fails(125)
        .complains_of(&["unknown or invalid runtime name: kata"]);
    host.sh(&["--volume-driver", "rexray", "-v", "/x"], "true").fails(125).complains_of(&["rexray"]);
    host.sh(&["--gpus", "all"], "true").fails(125).complains_of(&["gpu", "CDI spec", "nvidia-ctk"]);
    host.sh(&["--isolation", "hyperv"], "true").fails(125).complains_of(&["isolation"]);
    host.sh(&["--kernel-memory", "64m"], "true").complains_of(&["ignored"]).ok();
}

#[test]
fn an_image_for_another_platform_is_not_taken_for_the_one_asked_for() {
    let host = Host::new();
    let here = if cfg!(target_arch = "x86_64") { "linux/amd64" } else { "linux/arm64" };
    host.sh(&["--platform", here], "echo here").prints("here");
    host.sh(&["--platform", "linux/s390x"], "true").fails(125).complains_of(&[
        "does not match the specified platform",
        "linux/s390x",
        here,
    ]);
    host.sh(&["--platform", "windows/amd64"], "true").fails(125).complains_of(&["windows/amd64"]);
}

#[test]
fn the_writable_layer_cannot_grow_beyond_its_size() {
    let host = Host::new();
    host.busybox();
    for text in ["size=much", "size=1m", "colour=red"] {
        host.sh(&["--storage-opt", text], "true").fails(125).complains_of(&[text.split('=').next().unwrap()]);
    }
    let fill = "dd if=/dev/zero of=/big bs=1M count=64 2>&1 | grep -o -e 'No space left' -e 'quota exceeded'; rm /big; echo kept > /file";
    let flags = ["run", "--name", "small", "--storage-opt", "size=24m", "busybox", "sh", "-c"];
    let said = host.tare(flags).arg(fill).run().ok();
    assert!(said == "No space left" || said == "quota exceeded", "{said}");
    // What was written is there when it does not run, and after another start.
    let out = host.work().join("out");
    host.tare(["cp", "small:/file"]).arg(&out).run().ok();
    assert_eq!(fs::read_to_string(&out).unwrap(), "kept\n");
    host.tare(["start", "-a", "small"]).run().ok();
    host.tare(["rm", "small"]).run().ok();
    eventually("nothing of it is mounted", || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        !mounts.contains(host.root().to_str().unwrap())
    });
    let said =
        host.tare(["run", "--rm", "--storage-opt", "size=24m", "busybox", "sh", "-c", fill]).run().ok();
    assert!(!said.is_empty());
    host.tare(["run", "--rm", "--storage-opt", "size=24m", "host", "true"])
        .run()
        .fails(125)
        .complains_of(&["storage-opt"]);
}

#[test]
fn what_docker_has_and_tare_has_not_says_what_to_use() {
    let host = Host::new();
    host.sh(&["--use-api-socket"], "true").fails(125).complains_of(&["--use-api-socket", "--volume"]);
    host.tare(["create", "--name", "box", "busybox", "true"]).run().ok();
    for flag in [["--checkpoint", "one"], ["--checkpoint-dir", "/x"]] {
        host.tare(["start"])
            .args(flag)
            .arg("box")
            .run()
            .fails(1)
            .complains_of(&[flag[0], "tare-oci restore"]);
    }
}
