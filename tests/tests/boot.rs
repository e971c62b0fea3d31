//! After a reboot: `tare system boot`, what is written for an init, and units for containers.
#![forbid(unsafe_code)]

use std::fs;

use tare_tests::Host;

fn reboot(host: &Host, names: &[&str]) {
    let pids: Vec<i32> = names.iter().map(|name| host.pid(name)).collect();
    tare_tests::reboot(&host.root(), &host.run_root(), || host.processes(), &pids);
}

#[test]
fn what_asked_for_it_runs_again_after_a_reboot() {
    let host = Host::new();
    let names = ["always", "unless", "stopped", "stopped-always", "failing", "none"];
    for name in names {
        let policy = match name {
            "always" | "stopped-always" => "always",
            "unless" | "stopped" => "unless-stopped",
            "failing" => "on-failure",
            _ => "no",
        };
        host.detached(&["--name", name, "--restart", policy], "sleep 600");
    }
    host.tare(["create", "--name", "new", "--restart", "always", "busybox", "sleep", "600"]).run().ok();
    host.tare(["stop", "-t", "0", "stopped", "stopped-always"]).run().ok();
    reboot(&host, &names);
    let said = host.tare(["system", "boot"]).run().ok();
    let mut started: Vec<&str> = said.lines().collect();
    started.sort_unstable();
    assert_eq!(started, ["always", "stopped-always", "unless"]);
    for (name, status) in [
        ("always", "running"),
        ("unless", "running"),
        ("stopped-always", "running"),
        ("stopped", "exited"),
        ("failing", "exited"),
        ("none", "exited"),
        ("new", "created"),
    ] {
        assert_eq!(host.status(name), status, "{name}");
    }
    // Twice does no harm.
    host.tare(["system", "boot"]).run().prints("");
    for name in names.iter().chain(&["new"]) {
        host.tare(["rm", "-f", name]).run().ok();
    }
}

#[test]
fn the_restart_policy_can_be_changed_later() {
    let host = Host::new();
    let id = host.detached(&["--name", "box"], "sleep 600");
    host.tare(["update", "--restart", "unless-stopped", "box"]).run().ok();
    assert_eq!(host.inspect("box")["HostConfig"]["RestartPolicy"]["Name"], "unless-stopped");
    host.tare(["update", "--restart", "sometimes", "box"]).run().fails(1).complains_of(&["on-failure"]);
    reboot(&host, &["box"]);
    host.tare(["system", "boot"]).run().prints("box");
    host.tare(["rm", "-f", &id]).run().ok();
    let id = host.detached(&["--rm"], "sleep 600");
    host.tare(["update", "--restart", "always", &id]).run().fails(1).complains_of(&["--rm"]);
    host.tare(["rm", "-f", &id]).run().ok();
}

#[test]
fn each_init_is_written_for() {
    let host = Host::new();
    let print = |init: &str| host.tare(["system", "service", "--print", "--init", init]).run().ok();
    let root = format!("--root={}", host.root().display());
    for (init, word) in [
        ("systemd", "WantedBy=multi-user.target"),
        ("openrc", "#!/sbin/openrc-run"),
        ("cron", "@reboot root"),
    ] {
        let text = print(init);
        assert!(text.contains(word) && text.contains(&root) && text.contains("system boot"), "{text}");
    }
    host.tare(["system", "service", "--print", "--init", "upstart"])
        .run()
        .fails(1)
        .complains_of(&["upstart"]);
    let file = host.work().join("tare.service");
    let said = host.tare(["system", "service", "--init", "systemd", "-o"]).arg(&file).run().ok();
    assert!(said.contains("Wrote") && said.contains("systemd"), "{said}");
    assert!(fs::read_to_string(&file).unwrap().starts_with("[Unit]"));
    host.tare(["system", "service", "--remove", "-o"]).arg(&file).run().ok();
    assert!(!file.exists());
    host.tare(["system", "service", "-o", "/no/such/folder/x"])
        .run()
        .fails(1)
        .complains_of(&["/no/such/folder/x"]);
}

#[test]
fn a_container_gets_a_unit_of_its_own() {
    let host = Host::new();
    let id = host.detached(&["--name", "web", "--restart", "on-failure", "--stop-timeout", "7"], "sleep 600");
    let text = host.tare(["generate", "systemd", "web"]).run().ok();
    for word in
        [&format!("start --attach {id}"), "Restart=on-failure", "stop --timeout 7", "TimeoutStopSec=27"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let text =
        host.tare(["generate", "systemd", "-n", "--restart-policy", "always", "-t", "3", "web"]).run().ok();
    assert!(text.contains("# container-web.service") && text.contains("Restart=always"), "{text}");
    host.tare(["generate", "systemd", "nosuch"]).run().fails(1).complains_of(&["no such container"]);
    host.tare(["rm", "-f", "web"]).run().ok();
}
