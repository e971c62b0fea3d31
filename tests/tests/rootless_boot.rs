//! After a reboot, for an ordinary user: by the user's own systemd, in a guest where one has logged in. Run by root, for whom a
//! user is made up who has no systemd, there is only the rest to see.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tare_tests::machine::is_throw_away;
use tare_tests::{User, eventually, reboot};

fn inspect(user: &User, name: &str) -> Value {
    let text = user.tare(["inspect", name]).run().ok();
    serde_json::from_str::<Value>(&text).expect("inspect prints JSON")[0].take()
}

fn status(user: &User, name: &str) -> String {
    inspect(user, name)["State"]["Status"].as_str().expect("State.Status").to_owned()
}

fn pid(user: &User, name: &str) -> i32 {
    inspect(user, name)["State"]["Pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("State.Pid")
}

fn systemctl(words: &[&str]) -> String {
    let out = Command::new("systemctl").arg("--user").args(words).output().expect("systemctl");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Where the user's systemd looks for units.
fn units() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").expect("a login session has a home")).join(".config/systemd/user")
}

/// The user's containers, before a reboot and after it.
fn boot(user: &User, start: impl FnOnce() -> String) {
    user.busybox();
    let run = |name: &str, policy: &str, network: &str| {
        let flags = ["--name", name, "--restart", policy, "--network", network];
        user.detached(&flags, "exec sleep 1000");
    };
    run("always", "always", "none");
    run("host", "unless-stopped", "host");
    run("published", "unless-stopped", "bridge");
    run("stopped", "unless-stopped", "none");
    run("not", "no", "none");
    user.tare(["stop", "-t", "0", "stopped"]).run().ok();
    let pids = ["always", "host", "published", "not"].map(|name| pid(user, name));
    reboot(&user.root(), &user.run_root(), || user.processes(), &pids);
    let said = start();
    let mut started: Vec<&str> = said.lines().collect();
    started.sort_unstable();
    assert_eq!(started, ["always", "host", "published"]);
    for name in ["always", "host", "published"] {
        assert_eq!(status(user, name), "running", "{name}");
        user.tare(["exec", name, "true"]).run().ok();
    }
    for name in ["stopped", "not"] {
        assert_eq!(status(user, name), "exited", "{name}");
    }
    let own = fs::read_link("/proc/thread-self/ns/net").expect("our network").display().to_string();
    user.tare(["exec", "host", "readlink", "/proc/self/ns/net"]).run().prints(&own);
}

#[test]
fn what_asked_for_it_runs_again_on_either_network() {
    let user = User::new();
    boot(&user, || user.tare(["system", "boot"]).run().ok());
    // Twice does no harm.
    user.tare(["system", "boot"]).run().prints("");
}

#[test]
fn the_users_systemd_has_it_start_by_itself() {
    let user = User::new();
    if user.is_made_up() {
        let print = |init: &str| user.tare(["system", "service", "--print", "--init", init]).run().ok();
        let (unit, lines) = (print("systemd"), print("cron"));
        assert!(unit.contains("WantedBy=default.target") && !unit.contains("network-online"), "{unit}");
        assert!(lines.contains("@reboot ") && !lines.contains("@reboot root"), "{lines}");
        for text in [unit, lines] {
            for folder in [user.root(), user.run_root()] {
                assert!(text.contains(folder.to_str().unwrap()), "{text}");
            }
        }
        for init in ["cron", "openrc"] {
            let refused = user.tare(["system", "service", "--init", init]).run();
            refused.fails(1).complains_of(&["ordinary user", "crontab -e"]);
        }
        return;
    }
    if !is_throw_away() {
        return;
    }
    boot(&user, || {
        let said = user.tare(["system", "service"]).run().ok();
        let unit = units().join("tare.service");
        for line in [
            &format!("Wrote {} for systemd", unit.display()),
            "Ran systemctl --user daemon-reload",
            "Ran systemctl --user enable tare.service",
        ] {
            assert!(said.lines().any(|said| said == line), "{line}: {said}");
        }
        // The guest's user lingers: there is nothing to be said of it.
        assert!(!said.contains("enable-linger"), "{said}");
        assert_eq!(systemctl(&["is-enabled", "tare.service"]), "enabled");
        // What the user's systemd does when it starts.
        systemctl(&["start", "default.target"]);
        eventually("it has been started", || systemctl(&["is-active", "tare.service"]) == "active");
        let journal = ["--user-unit", "tare.service", "-q", "-o", "cat", "-t", "tare"];
        let out = Command::new("journalctl").args(journal).output().expect("journalctl");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        // The journal may be closed to the user; who runs is looked at all the same.
        if said.is_empty() { "always\nhost\npublished".to_owned() } else { said }
    });
    // The service may be stopped and started: its containers have lives of their own.
    let before = pid(&user, "always");
    systemctl(&["restart", "tare.service"]);
    systemctl(&["stop", "tare.service"]);
    assert_eq!(pid(&user, "always"), before);
    user.tare(["exec", "always", "true"]).run().ok();
    let said = user.tare(["system", "service", "--remove"]).run().ok();
    assert!(said.contains("Removed"), "{said}");
    assert!(!units().join("tare.service").exists());
    assert_ne!(systemctl(&["is-enabled", "tare.service"]), "enabled");
}

#[test]
fn a_container_can_be_a_unit_of_the_users_systemd() {
    let user = User::new();
    user.detached(&["--name", "other", "--network", "none"], "exec sleep 1000");
    let create =
        ["create", "--name", "web", "--network", "none", "--stop-timeout", "3", "--restart", "on-failure"];
    user.tare(create)
        .args(["busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"])
        .run()
        .ok();
    let text = user.tare(["generate", "systemd", "-n", "web"]).run().ok();
    for word in
        ["start --attach web", "Restart=on-failure", "stop --timeout 3 web", "WantedBy=default.target"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("network-online"), "{text}");
    // A program that can be called.
    let call = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a call");
    let program = call.split(' ').next().expect("a program");
    assert!(program.ends_with("/tare") && program.len() > 5, "{call}");
    if user.is_made_up() || !is_throw_away() {
        return;
    }
    fs::create_dir_all(units()).expect("a folder");
    let unit = format!("container-web-{}.service", std::process::id());
    fs::write(units().join(&unit), text).expect("a unit");
    systemctl(&["daemon-reload"]);
    systemctl(&["start", &unit]);
    eventually("it runs", || status(&user, "web") == "running");
    assert_eq!(systemctl(&["is-active", &unit]), "active");
    let first = pid(&user, "web");
    tare_tests::process::signal(first, rustix::process::Signal::KILL);
    eventually("it was started again", || ![0, first].contains(&pid(&user, "web")));
    systemctl(&["stop", &unit]);
    assert_eq!(
        (status(&user, "web").as_str(), systemctl(&["is-active", &unit]).as_str()),
        ("exited", "inactive")
    );
    // Who shares the user's machine with it goes on.
    user.tare(["exec", "other", "true"]).run().ok();
    fs::remove_file(units().join(&unit)).expect("removing the unit");
    systemctl(&["daemon-reload"]);
}
