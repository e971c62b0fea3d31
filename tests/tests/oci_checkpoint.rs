//! `checkpoint` and `restore`, through a real CRIU. Debian 12's does not know the newest kernels; where it says so itself
//! (`criu check`), there is nothing to see but the error. The guests of `cargo xtask test --only vm` have older ones.
#![forbid(unsafe_code)]

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, Receiver, eventually};

fn criu_works() -> bool {
    // In a cgroup namespace, where it cannot change the options of the host's tree.
    let check = Command::new("unshare")
        .args(["--cgroup", "criu", "check"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let works =
        is_ours() && rustix::process::geteuid().is_root() && check.is_ok_and(|status| status.success());
    if !works {
        eprintln!("not run: `criu check` says that it does not work here");
    }
    works
}

/// How the host's cgroup v2 tree is mounted while no criu is at work.
fn cgroup_tree() -> Option<String> {
    let out = Command::new("flock").args(["/run/tare-criu.lock", "cat", "/proc/self/mountinfo"]).output();
    let text = String::from_utf8(out.expect("flock").stdout).expect("text");
    let tree = text.lines().find(|line| line.contains(" - cgroup2 "))?;
    tree.split(' ').next_back().map(str::to_owned)
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
    let tree = cgroup_tree();
    bundle.verb("checkpoint", &["--image-path", "../files/image"]).run().ok();
    assert!(!bundle.exists(), "it is in the image now, and nowhere else");
    assert_eq!(cgroup_tree(), tree, "the host's cgroup tree keeps its options (nsdelegate)");
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
fn memory_is_saved_beforehand_and_only_the_rest_at_the_end() {
    if !criu_works() {
        return;
    }
    let bundle = counting();
    bundle.detached(&[]);
    bundle.verb("checkpoint", &["--pre-dump", "--image-path", "../files/before"]).run().ok();
    assert_eq!(bundle.status(), "running");
    counts_beyond(&bundle, count(&bundle));
    let out = bundle.verb("checkpoint", &["--image-path", "../files/last", "--parent-path", "/before"]).run();
    out.fails(1).complains_of(&["--parent-path", "relative"]);
    let flags =
        ["--image-path", "../files/last", "--parent-path", "../before", "--work-path", "../files/logs"];
    bundle.verb("checkpoint", &flags).run().ok();
    assert!(bundle.work("logs/dump.log").exists() && !bundle.work("last/dump.log").exists());
    let parent = fs::read_link(bundle.work("last/parent")).expect("criu's link to the parent");
    assert_eq!(parent.to_str(), Some("../before"));

    let out = bundle.oci(["restore", "--detach", "--image-path", "../files/before", bundle.id()]).run();
    out.fails(1).complains_of(&["descriptors.json", "pre-dump"]);
    assert!(!bundle.exists());
    let stopped_at = count(&bundle);
    bundle.apart(bundle.oci(["restore", "--detach", "--image-path", "../files/last", bundle.id()])).ok();
    counts_beyond(&bundle, stopped_at);
}

#[test]
fn a_stream_that_is_a_pipe_becomes_the_callers_new_one() {
    if !criu_works() {
        return;
    }
    let bundle = Bundle::sh(
        "n=0; while [ ! -e /end ]; do n=$((n+1)); echo $n; : > /at-$n; sleep 0.05; done; echo last",
    );
    bundle.config(|config| {
        config["root"]["readonly"] = false.into();
        config["process"]["noNewPrivileges"] = false.into();
    });
    // In the foreground the test's pipes are its streams.
    let run = bundle.oci(["run", bundle.id()]).start();
    eventually("it counts", || bundle.rootfs().join("at-5").exists());
    bundle.verb("checkpoint", &["--image-path", "../files/image"]).run().ok();
    let out = run.wait();
    // criu has killed it.
    out.fails(128 + 9);
    let before = out.stdout().lines().count();
    assert!(before >= 5);
    fs::write(bundle.rootfs().join("end"), "").expect("a file");
    let out = bundle.oci(["restore", "--image-path", "../files/image", bundle.id()]).run();
    let text = out.ok();
    let after: Vec<&str> = text.lines().collect();
    assert_eq!(after.last(), Some(&"last"), "{after:?}");
    assert!(after.len() < 5, "it is not begun again: {after:?}");
}

#[test]
fn a_terminal_comes_back_through_the_console_socket() {
    if !criu_works() {
        return;
    }
    let bundle = Bundle::sh("n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done");
    bundle.config(|config| {
        config["process"]["terminal"] = true.into();
        config["process"]["noNewPrivileges"] = false.into();
    });
    let first = Receiver::new(&bundle, "first");
    bundle.detached(&["--console-socket", first.name()]);
    let (_, console) = first.receive();
    assert!(rustix::termios::isatty(&console));
    bundle.verb("checkpoint", &["--image-path", "../files/image"]).run().ok();

    let image = ["restore", "--detach", "--image-path", "../files/image"];
    let out = bundle.oci(image).arg(bundle.id()).run();
    out.fails(1).complains_of(&["console socket"]);
    let second = Receiver::new(&bundle, "second");
    bundle.apart(bundle.oci(image).args(["--console-socket", second.name(), bundle.id()])).ok();
    let (_, console) = second.receive();
    assert!(rustix::termios::isatty(&console));
    let mut buffer = [0; 256];
    let length = rustix::io::read(&console, &mut buffer).expect("reading the terminal");
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(text.contains("line"), "{text:?}");
}

#[test]
fn what_is_around_the_process_is_made_as_for_a_new_container() {
    if !criu_works() {
        return;
    }
    let bundle = counting();
    let (hook, told) = (bundle.work("hook"), bundle.work("told"));
    fs::write(&hook, format!("#!/bin/sh\necho $1 >>{}\n[ $1 != fail ]\n", told.display())).expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&hook, mode).expect("making it executable");
    let entry = |name: &str| json!([{ "path": hook, "args": ["hook", name] }]);
    bundle.config(|config| config["linux"]["resources"]["pids"] = json!({ "limit": 77 }));
    bundle.detached(&[]);
    bundle.verb("checkpoint", &["--image-path", "../files/image"]).run().ok();

    let restore = || {
        let flags = ["restore", "--detach", "--image-path", "../files/image", bundle.id()];
        bundle.apart(bundle.oci(flags))
    };
    // A hook that fails ends it, and nothing is left.
    bundle.config(|config| {
        config["hooks"] = json!({ "prestart": entry("fail"), "poststop": entry("poststop") })
    });
    restore().fails(1).complains_of(&["prestart hook 0"]);
    assert!(!bundle.exists());
    assert_eq!(fs::read_to_string(&told).expect("what the hooks were told"), "fail\npoststop\n");

    fs::write(&told, "").expect("forgetting it");
    let names = ["prestart", "createRuntime", "poststart"];
    bundle.config(|config| {
        config["hooks"] = names.iter().map(|name| ((*name).to_owned(), entry(name))).collect();
    });
    restore().ok();
    assert_eq!(
        fs::read_to_string(&told).expect("what the hooks were told"),
        "prestart\ncreateRuntime\npoststart\n"
    );
    assert!(bundle.exec(&[], "ip addr show dev lo").ok().contains("LOOPBACK,UP"));
    assert!(bundle.exec(&[], "cat /proc/kcore").ok().is_empty(), "it is masked again");
    assert_ne!(bundle.exec(&[], "echo 1 >/proc/sysrq-trigger").code(), 0, "it is read-only again");
    let stats = bundle.oci(["events", "--stats", bundle.id()]).run().ok();
    assert!(stats.contains("77"), "the limit of its new cgroup: {stats}");
}

#[test]
fn options_without_sense_are_refused() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new();
    bundle.created(&[]);
    let refused = |verb: &str, flags: &[&str], words: &[&str]| {
        bundle.oci([verb]).args(flags).arg(bundle.id()).run().fails(1).complains_of(words);
    };
    refused("checkpoint", &[], &["cannot be checkpointed in created state"]);
    bundle.verb("start", &[]).run().ok();
    refused("checkpoint", &["--manage-cgroups-mode", "loose"], &["soft, full, strict or ignore"]);
    refused("checkpoint", &["--network-lock", "x"], &["iptables, nftables or skip"]);
    refused("checkpoint", &["--empty-ns", "pid"], &["only network"]);
    refused("checkpoint", &["--page-server", "27"], &["ADDRESS:PORT"]);
    refused("checkpoint", &["--lazy-pages"], &["--page-server"]);
    refused("checkpoint", &["--status-fd", "99", "--lazy-pages"], &["no such open file"]);
    refused("restore", &["--no-pivot"], &["pivots"]);
    refused("restore", &["--image-path", "../files/none"], &["already exists"]);
    assert_eq!(bundle.status(), "running");
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
