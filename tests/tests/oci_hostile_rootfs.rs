//! Root file systems made to lead a runtime astray: links, pipes and devices where it expects folders and files. Each
//! test is named for what must hold, with the CVE whose recipe it is.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde_json::{Value, json};
use tare_tests::attack::{Canary, SECRET, link_instead};
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, Terminal, eventually, stretched};

/// Enough of it to leave any folder.
const UP: &str = "../../../../../../../../../../../..";

fn without_mount(bundle: &Bundle, destination: &str) {
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != destination);
    });
}

fn add_mount(bundle: &Bundle, mount: Value) {
    bundle.config(|config| config["mounts"].as_array_mut().expect("mounts").push(mount));
}

/// The canary's path as links in an image may have it.
fn ways_to(canary: &Canary, name: &str) -> [String; 2] {
    let path = canary.at(name);
    [path.clone(), format!("{UP}{path}")]
}

fn core_pattern() -> String {
    fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern")
}

#[test]
fn cve_2019_19921_2023_27561_2023_28642_and_2025_54867_proc_and_sys_are_folders_or_nothing_runs() {
    for name in ["proc", "sys"] {
        for kind in ["absolute", "relative", "circle", "file", "pipe"] {
            let bundle = Bundle::sh("echo ran");
            let place = bundle.rootfs().join(name);
            fs::create_dir(bundle.rootfs().join("elsewhere")).expect("a folder");
            fs::remove_dir(&place).expect("removing an empty folder");
            match kind {
                "absolute" => symlink("/elsewhere", &place).expect("a link"),
                "relative" => symlink("./elsewhere", &place).expect("a link"),
                "circle" => symlink(name, &place).expect("a link"),
                "file" => fs::write(&place, "").expect("a file"),
                _ => rustix::fs::mknodat(CWD, &place, FileType::Fifo, Mode::RUSR, 0).expect("a pipe"),
            }
            let out = bundle.oci(["run", bundle.id()]).run();
            assert!(out.code() != 0 && out.stdout().is_empty(), "{name} {kind}: {out:#?}");
            assert!(out.stderr().contains(name), "{name} {kind}: {out:#?}");
            assert!(!bundle.exists());
        }
    }
}

#[test]
fn cve_2026_41579_and_2026_47766_a_linked_dev_leads_nowhere_outside() {
    for name in ["dev", "dev/pts", "dev/shm", "dev/mqueue", "dev/ptmx", "dev/null", "dev/fuse", "elsewhere"] {
        let bundle = Bundle::sh("ls /dev >/dev/null; echo ran");
        let canary = Canary::new(bundle.work("canary"));
        without_mount(&bundle, "/dev");
        bundle.config(|config| {
            let device = |path: &str| {
                json!({ "path": path, "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 7, "gid": 7 })
            };
            config["linux"]["devices"] = json!([device("/dev/fuse"), device("/elsewhere/fuse")]);
        });
        let inside = name.strip_prefix("dev/").unwrap_or("");
        for target in ways_to(&canary, inside) {
            link_instead(&bundle.rootfs().join(name), target.trim_end_matches('/'));
            bundle.oci(["run", bundle.id()]).run();
            canary.is_untouched();
        }
    }
}

#[test]
fn cve_2026_88264_a_console_lands_on_no_file_of_the_hosts() {
    for read_only in [false, true] {
        let bundle = Bundle::sh("echo ran");
        let canary = Canary::new(bundle.work("canary"));
        without_mount(&bundle, "/dev");
        bundle.config(|config| {
            config["process"]["terminal"] = true.into();
            config["root"]["readonly"] = read_only.into();
        });
        for target in ways_to(&canary, "console").into_iter().chain(ways_to(&canary, "file")) {
            link_instead(&bundle.rootfs().join("dev/console"), target);
            Terminal::start(bundle.oci(["run", bundle.id()]), 24, 80).wait();
            canary.is_untouched();
        }
    }
}

#[test]
fn cve_2025_52565_a_console_covers_nothing_of_the_kernels_and_is_none_of_its_files() {
    // Where links of the image lead the console, and the terminal that is to be bound there.
    for link in ["dev/console", "dev/pts/0"] {
        for devpts in [true, false] {
            let bundle =
                Bundle::sh("awk '{ print \"at\", $5, $0 }' /proc/self/mountinfo; head -c1 /dev/console");
            without_mount(&bundle, "/dev");
            if !devpts {
                without_mount(&bundle, "/dev/pts");
                fs::create_dir(bundle.rootfs().join("dev/pts")).expect("a folder");
            }
            bundle.config(|config| config["process"]["terminal"] = true.into());
            link_instead(&bundle.rootfs().join(link), "/proc/sys/kernel/core_pattern");
            let before = core_pattern();
            let mut terminal = Terminal::start(bundle.oci(["run", bundle.id()]), 24, 80);
            // Somebody who reads from the terminal shall not wait for ever.
            terminal.types("x\n");
            terminal.wait();
            let screen = terminal.screen();
            let places = screen.lines().filter_map(|line| line.strip_prefix("at ")?.split_once(' '));
            for (place, kind) in places.filter(|(_, kind)| kind.contains(" - devpts")) {
                let expected = ["/dev/pts", "/dev/console"].contains(&place);
                assert!(expected, "{link}: {kind} is mounted on {place}: {screen}");
            }
            assert!(
                !screen.contains(before.trim()),
                "{link}: the console is a file of the kernel's: {screen}"
            );
            assert_eq!(core_pattern(), before);
        }
    }
}

#[test]
fn cve_2026_88265_a_null_device_that_is_none_gets_no_stream_and_no_owner() {
    // The canary is the container's /dev: nothing in it is a device.
    let bundle = Bundle::sh("echo ran; echo complains >&2; cat");
    let canary = Canary::new(bundle.work("canary"));
    bundle.config(|config| {
        config["process"]["user"] = json!({ "uid": 1234, "gid": 1234 });
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|at| at.starts_with("/dev")));
        mounts.push(
            json!({ "destination": "/dev", "type": "bind", "source": canary.path(), "options": ["bind"] }),
        );
    });
    let all_null = bundle.by_shell("exec \"$@\" </dev/null >/dev/null 2>/dev/null", ["run", bundle.id()]);
    all_null.run().ok();
    canary.is_untouched();
    let out = bundle.oci(["run", bundle.id()]).stdin("and reads").run();
    assert_eq!(out.ok(), "ran\nand reads");
    assert!(out.stderr().contains("complains\n"), "{out:#?}");
    canary.is_untouched();
}

#[test]
fn cve_2024_45310_links_in_mount_targets_make_nothing_outside() {
    let bundle = Bundle::sh("echo ran");
    let canary = Canary::new(bundle.work("canary"));
    let source = bundle.work("source");
    fs::create_dir(&source).expect("a folder");
    fs::write(source.join("file"), "mine").expect("a file");
    let mounts = [
        json!({ "destination": "/data/new/place", "type": "tmpfs", "source": "tmpfs", "options": [] }),
        json!({ "destination": "/data/new/folder", "type": "bind", "source": source, "options": ["rbind"] }),
        json!({ "destination": "/data/new/file", "type": "bind", "source": source.join("file"), "options": ["bind"] }),
        json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": [] }),
    ];
    bundle.config(|config| config["process"]["cwd"] = "/data/working/folder".into());
    for mount in mounts {
        let before = fs::read(bundle.path().join("config.json")).expect("config.json");
        add_mount(&bundle, mount);
        for name in ["", "empty", "nothing", "nothing/deeper"] {
            for target in ways_to(&canary, name) {
                link_instead(&bundle.rootfs().join("data"), target.trim_end_matches('/'));
                bundle.oci(["run", bundle.id()]).run();
                canary.is_untouched();
                // By two links, the second in a folder that the first leads to.
                link_instead(&bundle.rootfs().join("data"), "second/link");
                link_instead(&bundle.rootfs().join("second/link"), target.trim_end_matches('/'));
                bundle.oci(["run", bundle.id()]).run();
                canary.is_untouched();
            }
        }
        fs::write(bundle.path().join("config.json"), before).expect("config.json");
    }
}

#[test]
fn cve_2025_24965_what_the_runtime_itself_puts_into_a_root_stays_there() {
    let bundle = Bundle::sh("true");
    let canary = Canary::new(bundle.work("canary"));
    let manager = UnixDatagram::bind(bundle.work("manager")).expect("a socket");
    for name in ["run", "run/notify", "run/notify/notify.sock"] {
        for target in ways_to(&canary, "").into_iter().chain(ways_to(&canary, "empty")) {
            let _ = fs::remove_file(bundle.rootfs().join("run"));
            link_instead(&bundle.rootfs().join(name), target.trim_end_matches('/'));
            bundle.oci(["run", bundle.id()]).env("NOTIFY_SOCKET", bundle.work("manager")).run();
            canary.is_untouched();
            let _ = fs::remove_dir_all(bundle.rootfs().join("run"));
        }
    }
    drop(manager);
}

#[test]
fn cve_2022_23648_what_a_tmpfs_copies_up_is_the_images_alone() {
    let bundle = Bundle::sh("find /data /copy -type f -exec cat {} + ; ls -R /copy");
    let canary = Canary::new(bundle.work("canary"));
    fs::write(bundle.rootfs().join("etc/inside"), "the image's").expect("a file");
    let copies = |destination: &str| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] });
    add_mount(&bundle, copies("/copy"));
    for target in ways_to(&canary, "") {
        link_instead(&bundle.rootfs().join("copy"), target.trim_end_matches('/'));
        let out = bundle.oci(["run", bundle.id()]).run();
        assert!(!out.stdout().contains(SECRET), "{out:#?}");
        canary.is_untouched();
    }
    // A link in the folder stays a link.
    let _ = fs::remove_file(bundle.rootfs().join("copy"));
    link_instead(&bundle.rootfs().join("copy/link"), canary.at("secret"));
    link_instead(&bundle.rootfs().join("copy/folder"), canary.path());
    let out = bundle.oci(["run", bundle.id()]).run();
    assert!(!out.stdout().contains(SECRET) && out.stdout().contains("link"), "{out:#?}");

    let bundle = Bundle::sh("ls /etc; cat /etc/inside");
    fs::write(bundle.rootfs().join("etc/inside"), "the image's").expect("a file");
    add_mount(&bundle, copies("/../../../etc"));
    let out = bundle.oci(["run", bundle.id()]).run().ok();
    assert!(out.ends_with("the image's") && !out.contains("shadow"), "{out}");
}

#[test]
fn cve_2019_16884_2023_28642_and_2025_52881_no_link_brings_a_mount_onto_the_kernels_files() {
    if !is_ours() {
        return;
    }
    for target in [
        "/proc/self/attr",
        "/proc/sys/kernel",
        "/proc/self/attr/exec",
        "/proc/sys/kernel/core_pattern",
        "/proc",
    ] {
        let bundle = Bundle::sh("echo ran");
        let canary = Canary::new(bundle.work("canary"));
        link_instead(&bundle.rootfs().join("data"), target);
        let is_file = ["exec", "pattern"].iter().any(|end| target.ends_with(end));
        let source = if is_file { canary.at("file") } else { canary.at("empty") };
        add_mount(
            &bundle,
            json!({ "destination": "/data", "type": "bind", "source": source, "options": ["bind"] }),
        );
        bundle.config(|config| {
            config["linux"]["sysctl"] = json!({ "kernel.domainname": "written.example" });
        });
        let out = bundle.oci(["run", bundle.id()]).run();
        assert!(out.code() != 0 && out.stdout().is_empty(), "{target}: {out:#?}");
        assert!(out.stderr().contains("/proc"), "{target}: {out:#?}");
        canary.is_untouched();
    }
}

/// Puts something into the place of the image's file of users.
fn put(kind: &str, place: &Path, canary: &Canary) {
    let _ = fs::remove_file(place);
    let node = |kind, minor| {
        let id = rustix::fs::makedev(1, minor);
        rustix::fs::mknodat(CWD, place, kind, Mode::RUSR | Mode::ROTH, id).expect("a node");
    };
    match kind {
        "link" => symlink(canary.at("passwd"), place).expect("a link"),
        "link up" => symlink(format!("{UP}{}", canary.at("passwd")), place).expect("a link"),
        "link to a pid" => symlink("/proc/self/root/etc/passwd", place).expect("a link"),
        "pipe" => node(FileType::Fifo, 0),
        "zero" => node(FileType::CharacterDevice, 5),
        "folder" => fs::create_dir(place).expect("a folder"),
        "socket" => drop(UnixListener::bind(place).expect("a socket")),
        "2 GiB" => fs::File::create(place).and_then(|file| file.set_len(2 << 30)).expect("a sparse file"),
        other => panic!("{other}?"),
    }
}

#[test]
fn cve_2024_9676_and_2026_47262_a_file_of_users_that_is_none_is_refused_at_once() {
    // What leads outside is not there; what is no file, or too long, is refused. Nothing hangs, and none is read.
    let bundle = Bundle::sh("echo $HOME");
    let canary = Canary::new(bundle.work("canary"));
    let place = bundle.rootfs().join("etc/passwd");
    for kind in ["link", "link up", "link to a pid", "pipe", "zero", "socket", "2 GiB", "folder"] {
        put(kind, &place, &canary);
        let start = Instant::now();
        let out = bundle.oci(["run", bundle.id()]).run();
        assert!(start.elapsed() < stretched(Duration::from_secs(5)), "{kind}: {:?}", start.elapsed());
        if kind.starts_with("link") {
            assert!(!out.stdout().contains("canary"), "{kind}: {out:#?}");
        } else if is_ours() {
            assert!(out.code() != 0 && out.stdout().is_empty(), "{kind}: {out:#?}");
            out.complains_of(&["passwd"]);
        }
        canary.is_untouched();
    }
}

#[test]
fn a_pipe_or_a_device_in_the_image_is_not_even_opened() {
    if !is_ours() {
        return;
    }
    // To open is to act: a tape rewinds, a watchdog begins to count, and who waits to write to a pipe goes on.
    let bundle = Bundle::sh("true");
    let canary = Canary::new(bundle.work("canary"));
    let place = bundle.rootfs().join("etc/passwd");
    put("pipe", &place, &canary);
    let (opened, told) = mpsc::channel();
    let (began, thread) = mpsc::channel();
    let writer = place.clone();
    std::thread::spawn(move || {
        let _ = began.send(rustix::thread::gettid());
        let file = rustix::fs::open(&writer, OFlags::WRONLY, Mode::empty());
        let _ = opened.send(file.is_ok());
    });
    let stat = format!("/proc/self/task/{}/stat", thread.recv().expect("its number").as_raw_nonzero());
    eventually("the writer waits for a reader", || {
        fs::read_to_string(&stat)
            .is_ok_and(|text| text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')))
    });
    bundle.oci(["run", bundle.id()]).run().complains_of(&["passwd"]);
    // Somebody has to let the writer in, or it stays; that this is the first one is the test.
    let before = told.try_recv();
    let reader =
        rustix::fs::open(&place, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).expect("the pipe");
    let after = told.recv_timeout(stretched(Duration::from_secs(5)));
    drop(reader);
    assert!(after.is_ok() || before.is_ok(), "the writer still waits");
    assert!(before.is_err(), "the runtime has opened a pipe of the image's");
}

#[test]
fn cve_2019_14271_and_2022_1227_nothing_of_the_image_runs_outside() {
    // Programs that a runtime may call, and libraries that one may load, as the image has them.
    let bundle = Bundle::new();
    let canary = Canary::new(bundle.work("canary"));
    let script = format!("#!/bin/sh\n: > {}/ran\n", canary.path().display());
    for name in
        ["ps", "nsenter", "newuidmap", "newgidmap", "xz", "unpigz", "gzip", "tar", "tare", "tare-oci", "id"]
    {
        for folder in ["bin", "usr/bin", "sbin"] {
            let file = bundle.rootfs().join(folder).join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            let _ = fs::remove_file(&file);
            fs::write(&file, &script).expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
    }
    let log = bundle.work("strace");
    let traced = |words: &[&str]| {
        let inner = bundle.oci(words).into_command();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=execve,execveat,open,openat", "-o"]).arg(&log);
        strace.arg(inner.get_program()).args(inner.get_args()).current_dir(bundle.path());
        tare_tests::Tare::of(strace).run();
        let text = fs::read_to_string(&log).expect("what strace saw");
        let library = text.lines().find(|line| line.contains("libnss") || line.contains("nsswitch"));
        assert_eq!(library, None, "{words:?} loads a library for names");
        // The runtime's own calls, up to the container's program.
        let foreign = text.lines().filter(|line| line.contains("execve(\""));
        let foreign: Vec<_> =
            foreign.filter(|line| !line.contains("tare") && !line.contains("/true")).collect();
        assert!(foreign.is_empty(), "{words:?} executes {foreign:?}");
    };
    bundle.config(|config| config["process"]["args"] = json!(["/bin/true"]));
    traced(&["run", bundle.id()]);
    bundle.config(|config| config["process"]["args"] = json!(["/bin/sleep", "600"]));
    bundle.detached(&[]);
    traced(&["exec", "--user", "1000:1000", bundle.id(), "/bin/true"]);
    traced(&["ps", "--format", "json", bundle.id()]);
    bundle.oci(["ps", bundle.id()]).run().ok();
    traced(&["state", bundle.id()]);
    traced(&["list"]);
    traced(&["delete", "--force", bundle.id()]);
    canary.is_untouched();
}
