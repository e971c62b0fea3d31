//! Known escapes, and settings that must not be lost: each test is named for what must hold, with the CVE whose recipe
//! it is. Those about the runtime's own binary are in `oci_binary.rs`, about links, pipes and devices in the root file
//! system in `oci_hostile_rootfs.rs`, about races in `oci_races.rs`, about a runtime that is killed in `oci_kills.rs`.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::{Value, json};
use tare_tests::Bundle;
use tare_tests::attack::Canary;
use tare_tests::bundle::is_ours;

fn without_mount(bundle: &Bundle, destination: &str) {
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|at| at.starts_with(destination)));
    });
}

#[test]
fn cve_2019_16884_nothing_but_a_procfs_is_mounted_on_proc() {
    let bundle = Bundle::sh("true");
    let fake = bundle.work("fake");
    fs::create_dir_all(fake.join("self/attr")).expect("folders");
    fs::write(fake.join("self/attr/exec"), "").expect("a file");
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/proc");
        mounts.push(json!({ "destination": "/proc", "type": "bind", "source": fake, "options": ["bind"] }));
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    assert!(out.stderr().contains("/proc"), "{out:#?}");
}

#[test]
fn cve_2026_88265_and_2025_31133_a_null_device_that_is_none_covers_nothing() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::sh("echo x > /proc/keys; cat /proc/keys; [ -c /proc/keys ] && echo device");
    without_mount(&bundle, "/dev");
    let dev = bundle.rootfs().join("dev");
    fs::create_dir_all(&dev).expect("a folder");
    fs::write(dev.join("null"), "a regular file").expect("a file");
    // What is there is not the device: said, not used.
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    assert_eq!(fs::read_to_string(dev.join("null")).expect("a file"), "a regular file");
    // A link to something of the kernel's is not followed either.
    fs::remove_file(dev.join("null")).expect("removing");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).expect("a link");
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a file");
    let _ = bundle.oci(["run", bundle.id()]).run();
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a file"), pattern);
}

#[test]
fn cve_2024_21626_no_working_folder_leads_out() {
    for number in 3..24 {
        let bundle = Bundle::sh("pwd; ls");
        let path = format!("/proc/self/fd/{number}");
        bundle.config(|config| config["process"]["cwd"] = path.as_str().into());
        let out = bundle.by_shell("exec 7</ 9</sys/fs/cgroup; exec \"$@\"", ["run", bundle.id()]).run();
        assert_ne!(out.code(), 0, "{path}: {out:#?}");
    }
    let bundle = Bundle::new();
    bundle.detached(&[]);
    for number in 3..24 {
        let path = format!("/proc/self/fd/{number}");
        let script = "exec 7</ 9</sys/fs/cgroup; exec \"$@\"";
        let out = bundle.by_shell(script, ["exec", "--cwd", &path, bundle.id(), "pwd"]).run();
        assert_ne!(out.code(), 0, "{path}: {out:#?}");
    }
}

#[test]
fn cve_2024_21626_and_2016_9962_no_file_of_the_hosts_is_open_inside() {
    // By its own shell's words: three streams, and the folder that it lists.
    let script = "for fd in /proc/self/fd/*; do echo ${fd##*/}; done";
    let inherits = "exec 3</ 4</etc/passwd 8</; exec \"$@\"";
    let bundle = Bundle::sh(script);
    let out = bundle.by_shell(inherits, ["run", bundle.id()]).run().ok();
    assert!(out.lines().all(|fd| matches!(fd, "0" | "1" | "2" | "3")), "{out}");
    let bundle = Bundle::sh("readlink /proc/self/fd/3 /proc/self/fd/4 /proc/self/fd/8");
    assert_eq!(bundle.by_shell(inherits, ["run", bundle.id()]).run().stdout(), "");
}

#[test]
fn cve_2022_29162_nothing_is_inheritable_that_was_not_asked_for() {
    let bundle = Bundle::new();
    bundle.detached(&[]);
    let grep = ["grep", "CapInh", "/proc/self/status"];
    let out = bundle.oci(["exec", "--cap", "CAP_NET_RAW", bundle.id()]).args(grep).run().ok();
    assert_eq!(out.split_whitespace().last(), Some("0000000000000000"), "{out}");
}

#[test]
fn cve_2026_30892_users_are_numbers_and_whole() {
    let bundle = Bundle::new();
    bundle.detached(&[]);
    let id = |user: &str| bundle.oci(["exec", "--user", user, bundle.id(), "sh", "-c", "id -u; id -g"]).run();
    id("1").prints("1\n0");
    id("1:2").prints("1\n2");
    id("0").prints("0\n0");
    for bad in ["4294967295", "4294967296", "-1", "+1", " 1", ":1", "1:", "0x1", "99999999999"] {
        assert_ne!(id(bad).code(), 0, "{bad:?}");
    }
}

#[test]
fn cve_2021_43784_maps_that_are_too_long_are_refused() {
    let bundle = Bundle::sh("true");
    bundle.config(|config| {
        let lines: Vec<_> =
            (0..10_000).map(|n| json!({ "containerID": n, "hostID": 100_000 + n, "size": 1 })).collect();
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
        config["linux"]["uidMappings"] = lines.clone().into();
        config["linux"]["gidMappings"] = lines.into();
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    assert!(!bundle.exists());
}

#[test]
fn cve_2023_25809_without_a_cgroup_namespace_the_hosts_cgroups_are_read_only() {
    let script = "for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo $$ > $f && echo wrote $f; done; \
                  mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x; true";
    let bundle = Bundle::sh(script);
    bundle.config(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .expect("namespaces")
            .retain(|namespace| namespace["type"] != "cgroup");
    });
    let hosts_mounts = || {
        let all = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        all.lines().filter_map(|line| Some(line.split_once(" - cgroup")?.1.to_owned())).collect::<Vec<_>>()
    };
    let before = hosts_mounts();
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_eq!(out.stdout(), "", "{out:#?}");
    assert_eq!(hosts_mounts(), before, "the options of the host's own mount are as they were");

    // The host's by path is the host's.
    bundle.config(|config| {
        let list = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        list.push(json!({ "type": "cgroup", "path": "/proc/self/ns/cgroup" }));
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_eq!(out.stdout(), "", "{out:#?}");
}

#[test]
fn cve_2025_23266_a_hook_gets_its_own_environment_alone() {
    let bundle = Bundle::sh("true");
    let told = bundle.work("env");
    bundle.config(|config| {
        config["process"]["env"] =
            json!(["PATH=/bin", "LD_PRELOAD=/proc/self/cwd/evil.so", "GCONV_PATH=/evil"]);
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("env > {}", told.display())],
                           "env": ["ONLY=this"] });
        config["hooks"] = json!({ "createRuntime": [hook] });
    });
    bundle.oci(["run", bundle.id()]).run().ok();
    let env = fs::read_to_string(&told).expect("what the hook wrote");
    assert!(env.contains("ONLY=this") && !env.contains("LD_PRELOAD") && !env.contains("GCONV"), "{env}");
}

#[test]
fn cve_2023_25173_supplementary_groups_are_those_asked_for() {
    let bundle = Bundle::sh("id -G");
    bundle.config(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 7] });
    });
    bundle.oci(["run", bundle.id()]).run().prints("1000 5 7");
}

#[test]
fn a_device_node_of_the_hosts_keeps_its_owner_and_mode() {
    let facts = || {
        let meta = fs::metadata("/dev/null").expect("the null device");
        (meta.uid(), meta.gid(), meta.mode())
    };
    let before = facts();
    let bundle = Bundle::new();
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(
            json!({ "destination": "/data/null", "type": "bind", "source": "/dev/null", "options": ["bind"] }),
        );
        config["process"]["user"] = json!({ "uid": 1234, "gid": 1234 });
    });
    bundle.detached(&[]);
    bundle.oci(["exec", "--user", "4321", bundle.id(), "sh", "-c", "echo x > /data/null"]).run().ok();
    assert_eq!(facts(), before);
}

#[test]
fn cve_2022_36109_and_2023_25173_groups_of_exec_are_those_asked_for_and_the_users_own() {
    let bundle = Bundle::new();
    bundle.config(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 7] });
    });
    bundle.detached(&[]);
    let id = |flags: &[&str]| bundle.oci(["exec"]).args(flags).args([bundle.id(), "id", "-G"]).run().ok();
    assert_eq!(id(&["--user", "2000:2000", "--additional-gids", "9"]).split(' ').next(), Some("2000"));
    let groups = id(&["--user", "2000:2000", "--additional-gids", "9"]);
    assert!(
        groups.split(' ').any(|group| group == "9") && !groups.split(' ').any(|group| group == "0"),
        "{groups}"
    );
    assert_eq!(id(&[]), "1000 5 7");
}

#[test]
fn cve_2025_23266_no_hook_gets_the_containers_environment_or_the_callers() {
    // All kinds, and none has an environment in the spec.
    let bundle = Bundle::sh("cat /told.startContainer");
    let outside = bundle.work("told");
    bundle.config(|config| {
        config["process"]["env"] =
            json!(["PATH=/bin", "LD_PRELOAD=/proc/self/cwd/evil.so", "GCONV_PATH=/evil"]);
        let mut hooks = serde_json::Map::new();
        for kind in
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        {
            let file = match kind {
                "startContainer" => "/told.startContainer".to_owned(),
                _ => format!("{}.{kind}", outside.display()),
            };
            // What the shell itself was given, not what it adds.
            let script = format!("tr '\\0' '\\n' </proc/$$/environ >{file}");
            let script = format!("PATH=/bin:/usr/bin; {script}; pwd >>{file}");
            hooks.insert(kind.to_owned(), json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]));
        }
        config["hooks"] = Value::Object(hooks);
    });
    let call = bundle.oci(["run", bundle.id()]).env("LD_PRELOAD", "/evil.so").env("GCONV_PATH", "/evil");
    let inside = call.run().ok();
    let mut told = vec![("startContainer", inside)];
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let file = format!("{}.{kind}", outside.display());
        told.push((kind, fs::read_to_string(file).expect("what the hook wrote")));
    }
    for (kind, text) in told {
        assert!(!text.contains("evil") && !text.contains("PRELOAD"), "{kind}: {text}");
        assert!(
            text.trim_end().lines().last().is_some_and(|folder| folder.starts_with('/')),
            "{kind}: {text}"
        );
    }
}

#[test]
fn cve_2021_43784_texts_that_are_too_long_are_refused() {
    for key in ["path", "uidMappings"] {
        let bundle = Bundle::sh("true");
        let long = "x/".repeat(35_000);
        bundle.config(|config| match key {
            "path" => {
                config["linux"]["namespaces"][0]["path"] = format!("/proc/self/ns/{long}").into();
            }
            _ => config["linux"]["cgroupsPath"] = format!("/{}/{long}", bundle.id()).into(),
        });
        let out = bundle.oci(["run", bundle.id()]).run();
        assert_ne!(out.code(), 0, "{key}");
        assert!(!out.stderr().contains("panicked"), "{key}");
        assert!(!bundle.exists());
    }
}

#[test]
fn a_cgroup_path_leads_nowhere_but_down() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new();
    bundle.detached(&[]);
    for path in ["..", "../..", "/../x", "below/../../x"] {
        let out = bundle.oci(["exec", "--cgroup", path, bundle.id(), "true"]).run();
        assert_ne!(out.code(), 0, "{path}: {out:#?}");
    }
    // In a spec a path with dots is one without them.
    let bundle = Bundle::sh("cat /proc/self/cgroup");
    bundle.config(|config| {
        config["linux"]["cgroupsPath"] = format!("/../../../{}", bundle.id()).into();
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    assert!(out.code() != 0 || !out.stdout().contains(".."), "{out:#?}");
}

#[test]
fn cve_2019_16884_a_label_that_cannot_be_given_is_an_error() {
    if !is_ours() {
        return;
    }
    let selinux = "system_u:system_r:tare_no_such_type_t:s0";
    for (key, label) in [("apparmorProfile", "tare-no-such-profile"), ("selinuxLabel", selinux)] {
        let bundle = Bundle::sh("echo unconfined");
        bundle.config(|config| config["process"][key] = label.into());
        let out = bundle.oci(["run", bundle.id()]).run();
        assert!(out.code() != 0 && out.stdout().is_empty(), "{key}: {out:#?}");
        out.complains_of(&[label]);
        assert!(!bundle.exists());
    }
    let bundle = Bundle::new();
    bundle.detached(&[]);
    for flags in [["--apparmor", "tare-no-such-profile"], ["--process-label", selinux]] {
        let out = bundle.oci(["exec"]).args(flags).args([bundle.id(), "echo", "unconfined"]).run();
        assert!(out.code() != 0 && out.stdout().is_empty(), "{flags:?}: {out:#?}");
    }
}

#[test]
fn cve_2020_15257_and_2024_25621_what_the_runtime_keeps_is_its_owners_alone() {
    let bundle = Bundle::new();
    bundle.config(|config| {
        // Those of the host, from where an abstract socket could be reached.
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "network");
        config["process"]["env"].as_array_mut().expect("variables").push("PASSWORD=secret".into());
    });
    bundle.created(&[]);
    let sockets = bundle.exec(&[], "cat /proc/net/unix").ok();
    let abstracts = sockets.lines().filter(|line| line.contains('@') && line.contains(bundle.id()));
    assert_eq!(abstracts.collect::<Vec<_>>(), Vec::<&str>::new());
    let folder = bundle.root().join(bundle.id());
    assert_eq!(fs::metadata(&folder).expect("the container's folder").mode() & 0o066, 0);
    for entry in fs::read_dir(&folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let facts = entry.metadata().expect("its facts");
        // The spec has passwords, and who knows the id may pass through the folder.
        let forbidden = if facts.is_file() { 0o077 } else { 0o022 };
        assert_eq!(facts.mode() & forbidden, 0, "{:?} is open to others", entry.path());
    }
}

#[test]
fn cve_2026_53489_nothing_outside_is_read_or_written_for_a_restore() {
    // Logs and files of a saved container that are links.
    let bundle = Bundle::sh("true");
    let canary = Canary::new(bundle.work("canary"));
    let image = bundle.work("image");
    fs::create_dir(&image).expect("a folder");
    for (name, target) in [
        ("container.log", "secret"),
        ("descriptors.json", "secret"),
        ("inventory.img", "secret"),
        ("config.json", "secret"),
        ("io.containers", "empty"),
    ] {
        symlink(canary.at(target), image.join(name)).expect("a link");
    }
    let out = bundle.oci(["restore", "--detach", "--image-path"]).arg(&image).arg(bundle.id()).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    assert!(!out.stderr().contains(tare_tests::attack::SECRET), "{out:#?}");
    assert!(!bundle.exists());
    canary.is_untouched();
}
