//! `checkpoint` and `restore`, through a real CRIU. Debian 12's does not know the newest kernels; where it says so itself
//! (`criu check`), there is nothing to see but the error. The guests of `cargo xtask test --only vm` have older ones.
#![forbid(unsafe_code)]

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, eventually};

fn criu_works() -> bool {
    let check = Command::new("criu").arg("check").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let works =
        is_ours() && rustix::process::geteuid().is_root() && check.is_ok_and(|status| status.success());
    if !works {
        eprintln!("not run: `criu check` says that it does not work here");
    }
    works
}

/// A container that counts in its memory, and writes down how far it is.
fn counting() -> Bundle {
    let bundle = Bundle::sh("n=0; while :; do n=$((n+1)); echo $n > /count; sleep 0.05; done");
    fs::write(bundle.rootfs().join("count"), "").expect("a file");
    bundle.config(|config| {
        config["root"]["readonly"] = false.into();
        config["process"]["noNewPrivileges"] = false.into();
    });
    bundle
}

fn count(bundle: &Bundle) -> u32 {
    let text = fs::read_to_string(bundle.rootfs().join("count")).expect("the count");
    text.trim().parse().unwrap_or(0)
}

fn counts_beyond(bundle: &Bundle, number: u32) {
    eventually("it counts on", || count(bundle) > number);
}

#[test]
fn a_restored_container_goes_on_where_it_was() {
    if !criu_works() {
        return;
    }
    let bundle = counting();
    let bound = bundle.work("bound");
    fs::create_dir(&bound).expect("a folder");
    fs::write(bound.join("file"), "of the host").expect("a file");
    bundle.config(|config| {
        let mount = json!({ "destination": "/bound", "type": "bind", "source": bound, "options": ["rbind"] });
        config["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    bundle.detached(&[]);
    counts_beyond(&bundle, 20);
    bundle.verb("checkpoint", &["--image-path", "../files/image"]).run().ok();
    assert!(!bundle.exists(), "it is in the image now, and nowhere else");
    let stopped_at = count(&bundle);

    let flags =
        ["restore", "--detach", "--image-path", "../files/image", "--pid-file", "../files/pid", bundle.id()];
    bundle.apart(bundle.oci(flags)).ok();
    assert_eq!(bundle.status(), "running");
    let pid = fs::read_to_string(bundle.work("pid")).expect("the pid file");
    assert_eq!(bundle.state()["pid"].to_string(), pid);
    counts_beyond(&bundle, stopped_at);
    assert!(count(&bundle) < stopped_at + 1000, "it went on, and did not begin again from some other number");
    assert_eq!(bundle.exec(&[], "cat /bound/file").ok(), "of the host");
    bundle.verb("kill", &["KILL"]).run().ok();
    bundle.becomes("stopped");
    bundle.verb("delete", &[]).run().ok();
}

#[test]
fn a_container_that_is_left_running_goes_on_and_can_be_dumped_again() {
    if !criu_works() {
        return;
    }
    let bundle = counting();
    bundle.detached(&[]);
    for image in ["../files/one", "../files/two"] {
        bundle.verb("checkpoint", &["--leave-running", "--image-path", image]).run().ok();
        assert_eq!(bundle.status(), "running");
        counts_beyond(&bundle, count(&bundle));
    }
}

#[test]
fn a_restore_in_the_foreground_ends_with_the_containers_exit_code() {
    if !criu_works() {
        return;
    }
    let bundle = Bundle::sh("while [ ! -e /end ]; do sleep 0.05; done; exit 7");
    bundle.config(|config| {
        config["root"]["readonly"] = false.into();
        config["process"]["noNewPrivileges"] = false.into();
    });
    bundle.detached(&[]);
    bundle.verb("checkpoint", &["--image-path", "../files/image"]).run().ok();
    fs::write(bundle.rootfs().join("end"), "").expect("a file");
    bundle.apart(bundle.oci(["restore", "--image-path", "../files/image", bundle.id()])).fails(7);
    assert!(!bundle.exists());
}

#[test]
fn without_criu_the_container_runs_on_and_the_error_says_what_to_install() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::sh("exec sleep 100");
    bundle.detached(&[]);
    let out = bundle.verb("checkpoint", &["--image-path", "../files/image"]).env("PATH", "/nowhere").run();
    out.fails(1).complains_of(&["criu", "install"]);
    assert_eq!(bundle.status(), "running");
    let bundle = Bundle::new();
    let out =
        bundle.oci(["restore", "--image-path", "../files/none", bundle.id()]).env("PATH", "/nowhere").run();
    assert_ne!(out.code(), 0, "{out:#?}");
    assert!(!bundle.exists());
}
