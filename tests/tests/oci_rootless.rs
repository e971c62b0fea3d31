//! An ordinary user's containers: with one id or with many, in cgroups that systemd delegates, or in none.
//!
//! These are for a login session of an ordinary user (`cargo xtask test --only vm`); as root there is nothing to
//! see, and they say so.
#![forbid(unsafe_code)]

use serde_json::json;
use tare_tests::Bundle;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if root {
        eprintln!("not run: this is for an ordinary user");
    }
    root
}

/// What `spec --rootless` writes, with a script.
fn rootless(script: &str) -> Bundle {
    let bundle = Bundle::sh(script);
    let file = bundle.path().join("config.json");
    std::fs::remove_file(&file).expect("removing the config");
    bundle.oci(["spec", "--rootless"]).run().ok();
    bundle.config(|config| {
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    bundle
}

#[test]
fn one_id_is_enough() {
    if is_root() {
        return;
    }
    let bundle = rootless("id -u; cat /proc/self/uid_map; echo x > /dev/null && echo null");
    let out = bundle.oci(["run", bundle.id()]).run().ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2]), ("0", "null"), "{out}");
    let uid = rustix::process::getuid().as_raw().to_string();
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", uid.as_str(), "1"]);
}

#[test]
fn subordinate_ids_are_mapped_by_the_hosts_own_programs() {
    if is_root() {
        return;
    }
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let name = std::env::var("USER").expect("a login session has a user");
    let start = |file: &str| -> u32 {
        let text = std::fs::read_to_string(file).expect("the ranges");
        let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).expect("a range");
        line.split(':').nth(1).and_then(|text| text.parse().ok()).expect("a number")
    };
    let (uids, gids) = (start("/etc/subuid"), start("/etc/subgid"));
    let bundle = rootless("cat /proc/self/uid_map | wc -l; id -u; id -G");
    bundle.config(|config| {
        let map = |own: u32, first: u32| {
            json!([{ "containerID": 0, "hostID": own, "size": 1 },
                   { "containerID": 1, "hostID": first, "size": 1000 }])
        };
        config["linux"]["uidMappings"] = map(uid, uids);
        config["linux"]["gidMappings"] = map(gid, gids);
        config["process"]["user"] = json!({ "uid": 33, "gid": 33, "additionalGids": [44] });
    });
    bundle.oci(["run", bundle.id()]).run().prints("2\n33\n33 44");
}

#[test]
fn exec_kill_and_delete_work_for_their_owner() {
    if is_root() {
        return;
    }
    let bundle = rootless("sleep 1000");
    bundle.detached(&[]);
    bundle.exec(&[], "id -u").prints("0");
    bundle.verb("kill", &["KILL"]).run().ok();
    bundle.becomes("stopped");
    bundle.verb("delete", &[]).run().ok();
    assert!(!bundle.exists());
}

#[test]
fn systemd_gives_the_user_a_cgroup_with_limits() {
    if is_root() {
        return;
    }
    let bundle = rootless("cat /proc/self/cgroup; for n in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo many");
    bundle.config(|config| config["linux"]["resources"] = json!({ "pids": { "limit": 5 } }));
    let out = bundle.call(&["--systemd-cgroup"], ["run", bundle.id()]).run();
    assert!(out.stdout().contains("user@"), "{out:#?}");
    assert!(!out.stdout().contains("many") || out.stderr().contains("fork"), "{out:#?}");
}

#[test]
fn limits_without_delegation_are_refused_in_clear_words() {
    if is_root() {
        return;
    }
    let bundle = rootless("true");
    bundle.config(|config| config["linux"]["resources"] = json!({ "memory": { "limit": 100_000_000 } }));
    let out = bundle.call(&["--cgroup-manager", "cgroupfs"], ["run", bundle.id()]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    out.complains_of(&["cgroup", "hint"]);
}

#[test]
fn without_a_user_namespace_the_way_out_is_told() {
    if is_root() {
        return;
    }
    let bundle = Bundle::sh("true");
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    out.complains_of(&["user namespace", "spec --rootless"]);
}
