//! systemd as the keeper of cgroups, for root. Where the host was not booted with it, there is nothing to see, and
//! the tests say so; `cargo xtask test --only vm` boots one.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use serde_json::json;
use tare_tests::{Bundle, eventually};

fn has_systemd() -> bool {
    let has = Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root();
    if !has {
        eprintln!("not run: no systemd here, or not root");
    }
    has
}

fn systemctl(words: &[&str]) -> String {
    let out = Command::new("systemctl").args(words).output().expect("systemctl");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn a_container_is_a_scope_with_its_limits_and_stays_one_over_a_reload() {
    if !has_systemd() {
        return;
    }
    // A shell, because it reaps: what has ended and is not reaped counts as a process.
    let bundle = Bundle::sh("while :; do sleep 1; done");
    let name = format!("system.slice:tare:{}", bundle.id());
    bundle.config(|config| {
        config["linux"]["cgroupsPath"] = name.as_str().into();
        config["linux"]["resources"]["pids"] = json!({ "limit": 9 });
        config["linux"]["resources"]["memory"] = json!({ "limit": 100 << 20 });
        config["annotations"] = json!({ "org.systemd.property.TimeoutStopUSec": "uint64 7000000" });
    });
    let systemd = ["--systemd-cgroup"];
    bundle.apart(bundle.call(&systemd, ["run", "--detach", bundle.id()])).ok();
    let unit = format!("tare-{}.scope", bundle.id());
    let property = |name: &str| systemctl(&["show", "--value", "-p", name, &unit]);
    assert_eq!(property("ActiveState"), "active");
    assert_eq!((property("TasksMax").as_str(), property("MemoryMax").as_str()), ("9", "104857600"));
    assert_eq!(property("TimeoutStopUSec"), "7s");
    let forks = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait; echo done";
    let limited = |why: &str| {
        let out = bundle.exec(&[], "mknod /dev/mem1 c 1 1; head -c 1 /dev/mem1");
        assert!(out.stderr().contains("not permitted"), "{why}: {out:#?}");
        let out = bundle.exec(&[], forks);
        assert!(!out.stdout().contains("done") || out.stderr().contains("fork"), "{why}: {out:#?}");
        eventually("those that were started have ended", || {
            let text = bundle.oci(["ps", "--format", "json", bundle.id()]).run().ok();
            text.matches(',').count() <= 1
        });
    };
    limited("at first");
    systemctl(&["daemon-reload"]);
    limited("after a reload");
    bundle.call(&systemd, ["update", "--pids-limit", "100", bundle.id()]).run().ok();
    assert_eq!(property("TasksMax"), "100");
    assert!(bundle.exec(&[], forks).ok().contains("done"));
    bundle.call(&systemd, ["delete", "--force", bundle.id()]).run().ok();
    assert_eq!(property("LoadState"), "not-found");
}

#[test]
fn a_short_container_leaves_no_unit() {
    if !has_systemd() {
        return;
    }
    let bundle = Bundle::sh("exit 3");
    bundle.call(&["--systemd-cgroup"], ["run", bundle.id()]).run().fails(3);
    let units = systemctl(&["list-units", "--all", "--no-legend", &format!("*{}*", bundle.id())]);
    assert_eq!(units, "");
}
