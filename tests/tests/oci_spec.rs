//! What config.json asks for, seen from inside: one effect a field.
#![forbid(unsafe_code)]

use std::fs;

use serde_json::json;
use tare_tests::Bundle;
use tare_tests::bundle::is_ours;

/// Runs the script with a changed config, and gives what it printed.
#[track_caller]
fn says(script: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let bundle = Bundle::sh(script);
    bundle.config(change);
    bundle.oci(["run", bundle.id()]).run().ok()
}

#[test]
fn priority_personality_and_affinity() {
    let out = says("cat /proc/self/stat | cut -d' ' -f19", |config| {
        config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
    });
    assert_eq!(out, "5");
    if !is_ours() {
        return;
    }
    let out = says("uname -m", |config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }));
    assert!(out == "i686" || !cfg!(target_arch = "x86_64"), "{out}");
    let bundle = Bundle::new();
    bundle.config(|config| config["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "0" }));
    bundle.detached(&[]);
    let out = bundle.exec(&[], "grep Cpus_allowed_list /proc/self/status").ok();
    assert_eq!(out.split_whitespace().last(), Some("0"), "{out}");
}

#[test]
fn limits_umask_and_oom_score() {
    let out = says("ulimit -n; umask; cat /proc/self/oom_score_adj", |config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 77, "soft": 66 }]);
        config["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o027 });
        config["process"]["oomScoreAdj"] = 500.into();
    });
    assert_eq!(out, "66\n0027\n500");
}

#[test]
fn clocks_of_a_time_namespace() {
    if !is_ours() {
        return;
    }
    let host: f64 = fs::read_to_string("/proc/uptime")
        .expect("the uptime")
        .split_whitespace()
        .next()
        .and_then(|text| text.parse().ok())
        .expect("a number");
    let out = says("cut -d' ' -f1 /proc/uptime", |config| {
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 100_000, "nanosecs": 0 } });
    });
    assert!(out.parse::<f64>().expect("a number") > host + 99_000.0, "{out}");
}

#[test]
fn namespaces_of_another_container_are_joined() {
    let other = Bundle::new();
    other.detached(&[]);
    let pid = other.state()["pid"].clone();
    let link =
        |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a link").display().to_string();
    let script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";
    let out = says(script, |config| {
        for namespace in config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
            let path = match namespace["type"].as_str() {
                Some("network") => "net",
                Some("ipc") => "ipc",
                Some("uts") => "uts",
                Some("pid") => "pid",
                _ => continue,
            };
            namespace["path"] = format!("/proc/{pid}/ns/{path}").into();
        }
        config.as_object_mut().expect("an object").remove("hostname");
    });
    assert_eq!(out, [link("net"), link("ipc"), link("uts"), link("pid")].join("\n"));
}

#[test]
fn a_user_namespace_with_a_joined_network() {
    let other = Bundle::new();
    other.detached(&[]);
    let net = format!("/proc/{}/ns/net", other.state()["pid"]);
    let wanted = fs::read_link(&net).expect("a link").display().to_string();
    let out = says("readlink /proc/self/ns/net; cat /proc/self/uid_map", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.push(json!({ "type": "user" }));
        for namespace in namespaces.iter_mut().filter(|namespace| namespace["type"] == "network") {
            namespace["path"] = net.as_str().into();
        }
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 65_536 }]);
        (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) = (map.clone(), map);
        // A sysfs belongs to the owner of the network.
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|at| at.starts_with("/sys")));
    });
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some(wanted.as_str()));
    assert_eq!(lines.next().map(|line| line.split_whitespace().collect()), Some(vec!["0", "0", "65536"]));
}

#[test]
fn mounts_copy_up_recursive_read_only_and_id_maps() {
    let bundle = Bundle::sh(
        "cat /copied/file; echo x > /copied/new && echo writable; echo x > /ro/sub/x || echo read-only; \
         stat -c %u /mapped/file",
    );
    fs::create_dir(bundle.rootfs().join("copied")).expect("a folder");
    fs::write(bundle.rootfs().join("copied/file"), "from below\n").expect("a file");
    let source = bundle.work("source");
    fs::create_dir_all(source.join("sub")).expect("folders");
    fs::write(source.join("file"), "").expect("a file");
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({ "destination": "/copied", "type": "tmpfs", "source": "tmpfs",
                            "options": ["tmpcopyup", "mode=755"] }));
        mounts.push(
            json!({ "destination": "/ro", "type": "bind", "source": source, "options": ["rbind", "rro"] }),
        );
        if is_ours() {
            let map = json!([{ "containerID": 0, "hostID": 7000, "size": 10 }]);
            mounts.push(json!({ "destination": "/mapped", "type": "bind", "source": source,
                                "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map }));
        }
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    let out = if is_ours() { out.ok() } else { out.stdout() };
    assert!(out.starts_with("from below\nwritable\nread-only"), "{out}");
    assert!(!is_ours() || out.ends_with("7000"), "{out}");
}

#[test]
fn hooks_run_in_their_order_and_places() {
    let bundle = Bundle::sh("echo program >> /log");
    let log = bundle.rootfs().join("log");
    fs::write(&log, "").expect("a file");
    let state = bundle.work("state");
    let outside = |name: &str| {
        let script = format!("cat > {}-{name}; echo {name} >> {}", state.display(), log.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
    };
    bundle.config(|config| {
        config["root"]["readonly"] = false.into();
        let inside = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "/bin/echo startContainer >> /log"] }]);
        config["hooks"] = json!({
            "prestart": outside("prestart"), "createRuntime": outside("createRuntime"),
            "createContainer": outside("createContainer"), "startContainer": inside,
            "poststop": outside("poststop"),
        });
    });
    bundle.created(&[]);
    assert_eq!(fs::read_to_string(&log).expect("the log"), "prestart\ncreateRuntime\ncreateContainer\n");
    bundle.verb("start", &[]).run().ok();
    bundle.becomes("stopped");
    bundle.verb("delete", &[]).run().ok();
    let text = fs::read_to_string(&log).expect("the log");
    let wanted = "prestart\ncreateRuntime\ncreateContainer\nstartContainer\nprogram\npoststop\n";
    assert_eq!(text, wanted);
    let told = fs::read_to_string(format!("{}-createRuntime", state.display())).expect("the state");
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["id"], bundle.id());
    assert!(told["pid"].as_i64().is_some_and(|pid| pid > 0), "{told}");
}

#[test]
fn a_failed_hook_undoes_the_container() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        let bundle = Bundle::sh("sleep 100");
        bundle.config(|config| {
            let args = ["sh", "-c", "cat >/dev/null; echo no such luck >&2; exit 3"];
            config["hooks"][kind] = json!([{ "path": "/bin/sh", "args": args }]);
        });
        let out = bundle.oci(["run", bundle.id()]).run();
        assert_ne!(out.code(), 0, "{kind}: {out:#?}");
        if is_ours() {
            out.complains_of(&[kind, "no such luck", "exit status 3"]);
            assert!(!bundle.exists(), "{kind}");
        }
    }
}

#[test]
fn a_hook_that_hangs_is_killed_in_time() {
    let bundle = Bundle::sh("true");
    bundle.config(|config| {
        let args = ["sh", "-c", "sleep 600 & wait"];
        config["hooks"]["createRuntime"] = json!([{ "path": "/bin/sh", "args": args, "timeout": 1 }]);
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
}

#[test]
fn a_profile_may_forbid_all_that_only_the_runtime_needs() {
    if !is_ours() {
        return;
    }
    // Not even to set an id, a limit or a signal, to open a file or to send a message.
    let bundle = Bundle::new();
    bundle.config(|config| {
        config["process"]["args"] = json!(["/bin/busybox", "true"]);
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        config["process"]["noNewPrivileges"] = false.into();
        let names = [
            "setresuid",
            "setresgid",
            "setgroups",
            "sendmsg",
            "recvmsg",
            "seccomp",
            "umask",
            "close_range",
            "faccessat2",
            "pivot_root",
            "mount",
            "fchdir",
            "chdir",
        ];
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": names, "action": "SCMP_ACT_KILL_PROCESS" }] });
    });
    bundle.oci(["run", bundle.id()]).run().ok();
}

#[test]
fn a_filter_answers_as_the_profile_says() {
    let out = says("mkdir /tmp/x; echo $?; uname -s", |config| {
        config["root"]["readonly"] = false.into();
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }] });
    });
    assert_eq!(out, "1\nLinux");
}

#[test]
fn a_seccomp_agent_gets_the_listener() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::sh("sleep 100");
    let receiver = tare_tests::Receiver::new(&bundle, "agent");
    bundle.config(|config| {
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": receiver.name(), "listenerMetadata": "meta",
            "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_NOTIFY" }] });
    });
    bundle.detached(&[]);
    let (message, _listener) = receiver.receive();
    let message: serde_json::Value = serde_json::from_slice(&message).expect("JSON");
    assert_eq!(message["fds"], json!(["seccompFd"]));
    assert_eq!((&message["metadata"], &message["state"]["id"]), (&json!("meta"), &json!(bundle.id())));
    assert_eq!(message["pid"], bundle.state()["pid"]);
}

#[test]
fn readiness_is_told_to_the_service_manager() {
    let bundle = Bundle::sh("sleep 100");
    let place = bundle.work("host-notify");
    let host = std::os::unix::net::UnixDatagram::bind(&place).expect("a socket");
    host.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a time limit");
    // Inside there is no program that speaks to a socket, so the host's side speaks into the folder.
    let root = bundle.root();
    let id = bundle.id().to_owned();
    let speaker = std::thread::spawn(move || {
        let inside = root.join(id).join("notify/notify.sock");
        let socket = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        let start = std::time::Instant::now();
        while socket.send_to(b"READY=1", &inside).is_err() {
            assert!(start.elapsed() < std::time::Duration::from_secs(20), "nobody listens");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    if !is_ours() {
        return;
    }
    let call = bundle.oci(["run", "--detach", bundle.id()]).env("NOTIFY_SOCKET", &place);
    bundle.apart(call).ok();
    speaker.join().expect("the speaker");
    let mut text = [0; 200];
    let length = host.recv(&mut text).expect("a message");
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    assert!(text.contains("READY=1") && text.contains("MAINPID="), "{text}");
}

#[test]
fn settings_of_the_containers_own_namespaces() {
    let out = says("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; hostname", |config| {
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "9999" });
        config["hostname"] = "box".into();
    });
    assert_eq!(out, "1\n9999\nbox");
    let bundle = Bundle::sh("true");
    bundle.config(|config| config["linux"]["sysctl"] = json!({ "vm.swappiness": "1" }));
    assert_ne!(bundle.oci(["run", bundle.id()]).run().code(), 0);
}

#[test]
fn devices_of_the_spec_are_there_and_the_rules_hold() {
    let bundle =
        Bundle::sh("stat -c %t:%T:%a:%u /dev/mine; head -c 1 /dev/mine | wc -c; head -c 1 /dev/not; true");
    bundle.config(|config| {
        config["linux"]["devices"] = json!([
            { "path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 5, "gid": 6 },
            { "path": "/dev/not", "type": "c", "major": 1, "minor": 11 },
        ]);
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    out.prints("1:5:644:5\n1").complains_of(&["/dev/not", "not permitted"]);
}

#[test]
fn any_version_1_is_taken_and_no_other() {
    for (version, works) in
        [("1.0.0", true), ("1.0.2-dev", true), ("1.9.0", true), ("2.0.0", false), ("x", false)]
    {
        let bundle = Bundle::sh("true");
        bundle.config(|config| config["ociVersion"] = version.into());
        let out = bundle.oci(["run", bundle.id()]).run();
        assert!(!is_ours() || (out.code() == 0) == works, "{version}: {out:#?}");
    }
}

#[test]
fn a_host_device_of_the_network_moves_in_with_its_address() {
    if !is_ours() {
        return;
    }
    let bundle =
        Bundle::sh("cat /sys/class/net/inside/flags; ip addr show dev inside 2>/dev/null; ls /sys/class/net");
    bundle.config(|config| {
        config["linux"]["netDevices"] = json!({ "tare-dummy": { "name": "inside" } });
    });
    // The "host" is a network namespace of the test's own.
    let script = "ip link add tare-dummy type dummy && ip addr add 10.9.8.7/24 dev tare-dummy && exec \"$@\"";
    let call = bundle.oci(["run", bundle.id()]).into_command();
    let mut wrapped = std::process::Command::new("unshare");
    wrapped.args(["-n", "sh", "-c", script, "sh"]).arg(call.get_program()).args(call.get_args());
    if let Some(folder) = call.get_current_dir() {
        wrapped.current_dir(folder);
    }
    let out = tare_tests::Tare::of(wrapped).run();
    if out.stderr().contains("Unknown device type") {
        eprintln!("this kernel has no dummy devices");
        return;
    }
    let text = out.ok();
    assert!(text.contains("inside"), "{text}");
    // IFF_UP is the lowest bit.
    let flags = u32::from_str_radix(text.lines().next().unwrap_or_default().trim_start_matches("0x"), 16);
    assert_eq!(flags.expect("a number") & 1, 1, "{text}");
}
