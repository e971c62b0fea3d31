//! Annotations `run.oci.*`, which crun's users know.
#![forbid(unsafe_code)]

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, Receiver};

#[test]
fn what_hooks_write_goes_to_the_files_that_are_named() {
    let bundle = Bundle::sh("true");
    let (out, err) = (bundle.work("out"), bundle.work("err"));
    bundle.config(|config| {
        let says = |text: &str| {
            let script = format!("echo {text}; echo {text} failed >&2");
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
        };
        config["hooks"] = json!({ "createRuntime": says("first"), "createContainer": says("second") });
        config["annotations"] = json!({ "run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err });
    });
    bundle.oci(["run", bundle.id()]).run().ok();
    assert_eq!(fs::read_to_string(&out).expect("a file"), "first\nsecond\n");
    assert_eq!(fs::read_to_string(&err).expect("a file"), "first failed\nsecond failed\n");
}

#[test]
fn the_callers_groups_are_dropped_unless_they_are_to_be_kept() {
    let bundle = Bundle::sh("id -G");
    let run = || bundle.by_shell("exec setpriv --groups 4242 \"$@\"", ["run", bundle.id()]).run().ok();
    assert_eq!(run(), "0");
    bundle.config(|config| config["annotations"] = json!({ "run.oci.keep_original_groups": "1" }));
    assert_eq!(run(), "0 4242");
}

#[test]
fn a_pidfd_and_the_listener_go_to_their_receivers() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::sh("exec sleep 100");
    let (pidfd, agent) = (Receiver::new(&bundle, "pidfd"), Receiver::new(&bundle, "agent"));
    bundle.config(|config| {
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_NOTIFY" }] });
        config["annotations"] =
            json!({ "run.oci.pidfd_receiver": pidfd.name(), "run.oci.seccomp.receiver": agent.name() });
    });
    bundle.detached(&[]);
    let (message, _listener) = agent.receive();
    let message: serde_json::Value = serde_json::from_slice(&message).expect("JSON");
    assert_eq!(message["state"]["id"], json!(bundle.id()));
    let (_, pidfd) = pidfd.receive();
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).expect("a signal through the pidfd");
    bundle.becomes("stopped");
}

#[test]
fn what_we_do_not_do_is_refused_by_name() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::sh("echo ran");
    bundle.config(|config| config["annotations"] = json!({ "run.oci.handler": "krun", "my.own": "note" }));
    let out = bundle.oci(["run", bundle.id()]).run();
    out.fails(1).complains_of(&["run.oci.handler"]);
    assert!(!bundle.exists());
}

#[test]
fn a_share_of_the_cache_is_changed_or_refused_for_the_host() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new();
    bundle.detached(&[]);
    let out = bundle.oci(["update", "--l3-cache-schema", "L3:0=1", bundle.id()]).run();
    if fs::read_dir("/sys/fs/resctrl").is_ok_and(|mut entries| entries.next().is_some()) {
        assert_eq!(out.code(), 0, "{out:#?}");
    } else {
        out.fails(1).complains_of(&["/sys/fs/resctrl is no resctrl"]);
    }
}
