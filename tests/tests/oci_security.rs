//! Hostile root file systems, races and known escapes: each test is named for what must hold, with the CVE whose
//! recipe it is.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, Terminal};

/// A folder of the host's beside the bundle, to be left alone.
fn canary(bundle: &Bundle) -> PathBuf {
    let folder = bundle.work("canary");
    fs::create_dir_all(folder.join("pts")).expect("a folder");
    fs::write(folder.join("null"), "mine").expect("a file");
    fs::write(folder.join("ptmx"), "mine").expect("a file");
    folder
}

fn listing(folder: &Path) -> Vec<(PathBuf, u32, u64)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("its facts");
            (path, meta.mode(), meta.len())
        })
        .collect();
    all.sort();
    all
}

fn without_mount(bundle: &Bundle, destination: &str) {
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|at| at.starts_with(destination)));
    });
}

#[test]
fn cve_2019_19921_and_2023_27561_proc_and_sys_are_no_links() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::sh("true");
        fs::create_dir(bundle.rootfs().join("elsewhere")).expect("a folder");
        let place = bundle.rootfs().join(name);
        let _ = fs::remove_dir(&place);
        symlink("/elsewhere", &place).expect("a link");
        let out = bundle.oci(["run", bundle.id()]).run();
        assert_ne!(out.code(), 0, "{out:#?}");
        assert!(out.stderr().contains(name), "{out:#?}");
        assert!(!bundle.exists());
    }
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
fn cve_2026_41579_and_2026_47766_a_linked_dev_leads_nowhere_outside() {
    let bundle = Bundle::sh("ls /dev >/dev/null; echo ran");
    let folder = canary(&bundle);
    let before = listing(&folder);
    without_mount(&bundle, "/dev");
    let dev = bundle.rootfs().join("dev");
    let _ = fs::remove_dir_all(&dev);
    symlink(&folder, &dev).expect("a link");
    let _ = bundle.oci(["run", bundle.id()]).run();
    assert_eq!(listing(&folder), before);
    assert_eq!(fs::read_to_string(folder.join("null")).expect("a file"), "mine");
}

#[test]
fn cve_2026_88264_and_2025_52565_a_console_lands_inside() {
    let bundle = Bundle::sh("echo ran");
    let folder = canary(&bundle);
    let before = listing(&folder);
    bundle.config(|config| {
        config["process"]["terminal"] = true.into();
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/dev");
    });
    let dev = bundle.rootfs().join("dev");
    fs::create_dir_all(&dev).expect("a folder");
    symlink(folder.join("console"), dev.join("console")).expect("a link");
    let mut terminal = Terminal::start(bundle.oci(["run", bundle.id()]), 24, 80);
    terminal.wait();
    assert_eq!(listing(&folder), before);
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
fn cve_2019_5736_the_runtimes_binary_cannot_be_written_to() {
    if !is_ours() {
        return;
    }
    let before = fs::read(tare_tests::bundle::runtime()).expect("the binary");
    // As an interpreter, the kernel executes the file of whoever executes the script: ours.
    let bundle = Bundle::new();
    fs::write(bundle.rootfs().join("bin/evil"), "#!/proc/self/exe\n").expect("a file");
    fs::set_permissions(
        bundle.rootfs().join("bin/evil"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("its mode");
    bundle.config(|config| config["process"]["args"] = json!(["/bin/evil"]));
    let _ = bundle.oci(["run", bundle.id()]).run();
    // And while it runs as the first process, waiting for its start, root inside opens it for writing.
    let bundle = Bundle::new();
    bundle.created(&[]);
    let script = "( : >> /proc/1/exe ) 2>&1; ( : > /proc/1/exe ) 2>&1; readlink /proc/1/exe; true";
    let out = bundle.exec(&[], script);
    assert!(!out.stdout().is_empty(), "{out:#?}");
    let path = format!("/proc/{}/exe", bundle.state()["pid"]);
    // Through the same file, as the host's root: read-only whoever asks.
    let err = fs::OpenOptions::new().append(true).open(&path).expect_err("it is read-only");
    assert!(matches!(err.raw_os_error(), Some(26 | 30)), "{err}");
    assert!(fs::read(tare_tests::bundle::runtime()).expect("the binary") == before);
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
fn cve_2021_30465_and_2024_45310_a_swapped_folder_never_puts_a_mount_or_a_file_outside() {
    let bundle = Bundle::sh("true");
    let outside = bundle.work("outside");
    fs::create_dir(&outside).expect("a folder");
    let shared = bundle.work("shared");
    fs::create_dir_all(shared.join("place")).expect("folders");
    symlink(&outside, shared.join("link")).expect("a link");
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.push(
            json!({ "destination": "/shared", "type": "bind", "source": shared, "options": ["rbind"] }),
        );
        for n in 0..8 {
            let place = format!("/shared/place/{n}");
            mounts.push(json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": [] }));
        }
    });
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (place, link) = (shared.join("place"), shared.join("link"));
            while !over.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &place,
                    rustix::fs::CWD,
                    &link,
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        for n in 0..40 {
            // Whether it starts is the race's affair; where its mounts land is not.
            let _ = bundle.oci(["run", &format!("{}-{n}", bundle.id())]).run();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    assert!(!mounts.contains(&format!("{}/", outside.display())), "{mounts}");
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
