//! Races: while a container starts, another process exchanges a name that the runtime looks at for a link, again and
//! again, as a container can that shares a volume. Whether the start goes well is the race's affair; what must hold
//! is said by each test's name, with the CVE whose recipe it is.
//!
//! `TARE_SOAK_RUNS` says how many starts each race gets (`cargo xtask soak oci-races`).
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};
use tare_tests::attack::{
    Canary, SECRET, link_instead, repetitions, while_swapping, without_harm_to_the_binary,
};
use tare_tests::{Bundle, Outcome, Terminal, stretched};

const UP: &str = "../../../../../../../../../../../..";
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

fn core_pattern() -> String {
    fs::read_to_string(CORE_PATTERN).expect("core_pattern")
}

fn mounts(bundle: &Bundle, change: impl FnOnce(&mut Vec<Value>)) {
    bundle.config(|config| change(config["mounts"].as_array_mut().expect("mounts")));
}

fn without_mount(bundle: &Bundle, destination: &str) {
    mounts(bundle, |all| all.retain(|mount| mount["destination"] != destination));
}

/// A folder of the host's that the container has at `/shared`, with a folder `place` and a link `link` in it.
fn shared(bundle: &Bundle, target: impl AsRef<Path>) -> (PathBuf, PathBuf, PathBuf) {
    let folder = bundle.work("shared");
    fs::create_dir_all(folder.join("place")).expect("folders");
    link_instead(&folder.join("link"), target);
    mounts(bundle, |all| {
        all.push(json!({ "destination": "/shared", "type": "bind", "source": folder, "options": ["rbind"] }));
    });
    (folder.clone(), folder.join("place"), folder.join("link"))
}

/// Runs the container again and again while two names change places, and looks at each outcome.
#[track_caller]
fn race(bundle: &Bundle, few: usize, one: &Path, other: &Path, look: impl Fn(&Outcome)) {
    while_swapping(one, other, || {
        for _ in 0..repetitions(few) {
            look(&bundle.oci(["run", bundle.id()]).run());
        }
    });
}

/// Prints what a container may not see: the kernel's own affairs in any procfs that it has, under whatever name.
const PRIES: &str = "for p in /proc /decoy; do \
    [ -e $p/1/comm ] || continue; \
    cat $p/timer_list $p/keys; \
    ( echo pried > $p/sys/kernel/domainname ) && echo wrote; \
done 2>/dev/null";

#[test]
fn cve_2019_19921_2023_28642_and_2025_31133_a_swapped_procfs_is_masked_all_the_same() {
    let bundle = Bundle::sh(PRIES);
    let rootfs = bundle.rootfs();
    fs::create_dir(rootfs.join("elsewhere")).expect("a folder");
    symlink("/elsewhere", rootfs.join("decoy")).expect("a link");
    race(&bundle, 60, &rootfs.join("proc"), &rootfs.join("decoy"), |out| {
        assert_eq!(out.stdout(), "", "the container sees or changes what it may not");
    });
}

#[test]
fn cve_2025_31133_a_swapped_null_device_lends_nothing_of_the_kernels() {
    let script = format!("{PRIES}; readlink /proc/self/fd/0 | grep core_pattern; true");
    let bundle = Bundle::sh(&script);
    without_mount(&bundle, "/dev");
    let dev = bundle.rootfs().join("dev");
    let id = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, dev.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), id)
        .expect("a null device");
    symlink(CORE_PATTERN, dev.join("decoy")).expect("a link");
    let before = core_pattern();
    race(&bundle, 60, &dev.join("null"), &dev.join("decoy"), |out| {
        assert_eq!(out.stdout(), "", "the container sees or changes what it may not");
        assert_eq!(core_pattern(), before);
    });
}

#[test]
fn cve_2025_52565_a_swapped_console_lends_nothing_of_the_kernels() {
    let bundle =
        Bundle::sh("awk '{ print \"at\", $5, $0 }' /proc/self/mountinfo; ( echo pried > /dev/console ) 2>&1");
    without_mount(&bundle, "/dev");
    bundle.config(|config| config["process"]["terminal"] = true.into());
    let dev = bundle.rootfs().join("dev");
    fs::write(dev.join("console"), "").expect("a file");
    symlink(CORE_PATTERN, dev.join("decoy")).expect("a link");
    let before = core_pattern();
    while_swapping(&dev.join("console"), &dev.join("decoy"), || {
        for _ in 0..repetitions(20) {
            let mut terminal = Terminal::start(bundle.oci(["run", bundle.id()]), 24, 80);
            terminal.wait();
            assert_eq!(core_pattern(), before);
            let screen = terminal.screen();
            let places = screen.lines().filter_map(|line| line.strip_prefix("at ")?.split_once(' '));
            for (place, line) in places.filter(|(_, line)| line.contains(" - devpts")) {
                // The file that it was mounted on has been renamed since.
                let expected = ["/dev/pts", "/dev/console", "/dev/decoy"].contains(&place);
                assert!(expected, "a terminal is mounted on {place}: {line}");
            }
        }
    });
}

#[test]
fn cve_2025_52565_a_swapped_folder_of_terminals_lends_nothing_of_the_kernels() {
    let bundle = Bundle::sh("( echo pried > /dev/console ) 2>&1; ( echo pried > /dev/pts/0 ) 2>&1");
    without_mount(&bundle, "/dev");
    bundle.config(|config| config["process"]["terminal"] = true.into());
    let dev = bundle.rootfs().join("dev");
    fs::create_dir(dev.join("pts")).expect("a folder");
    for name in ["0", "ptmx"] {
        link_instead(&dev.join("fake").join(name), CORE_PATTERN);
    }
    symlink("/dev/fake", dev.join("decoy")).expect("a link");
    let before = core_pattern();
    while_swapping(&dev.join("pts"), &dev.join("decoy"), || {
        for _ in 0..repetitions(20) {
            Terminal::start(bundle.oci(["run", bundle.id()]), 24, 80).wait();
            assert_eq!(core_pattern(), before);
        }
    });
}

#[test]
fn cve_2021_30465_and_2024_45310_a_swapped_folder_never_puts_a_mount_or_a_file_outside() {
    for up in ["", UP] {
        let bundle = Bundle::sh("true");
        let canary = Canary::new(bundle.work("canary"));
        let (_, place, link) = shared(&bundle, format!("{up}{}", canary.path().display()));
        let source = bundle.work("source");
        fs::write(&source, "").expect("a file");
        mounts(&bundle, |all| {
            for n in 0..8 {
                let at = format!("/shared/place/{n}");
                all.push(json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": [] }));
                let at = format!("/shared/place/deep/{n}/file");
                all.push(json!({ "destination": at, "type": "bind", "source": source, "options": ["bind"] }));
            }
        });
        bundle.config(|config| config["process"]["cwd"] = "/shared/place/working/folder".into());
        race(&bundle, 40, &place, &link, |_| ());
        canary.is_untouched();
    }
}

#[test]
fn cve_2022_23648_and_2024_45310_a_swapped_folder_is_never_copied_from_outside() {
    for up in ["", UP] {
        let bundle = Bundle::sh("cat /shared/*/* 2>/dev/null; true");
        let canary = Canary::new(bundle.work("canary"));
        let (folder, place, link) = shared(&bundle, format!("{up}{}", canary.path().display()));
        for name in ["secret", "file"] {
            fs::write(place.join(name), "the volume's").expect("a file");
        }
        // Below it as well: where names are looked up while it is copied.
        for n in 0..20 {
            fs::create_dir_all(place.join(format!("{n}"))).expect("a folder");
        }
        mounts(&bundle, |all| {
            all.push(json!({ "destination": "/shared/place", "type": "tmpfs", "source": "tmpfs",
                             "options": ["tmpcopyup"] }));
        });
        let look = |out: &Outcome| assert!(!out.stdout().contains(SECRET), "{out:#?}");
        race(&bundle, 20, &place, &link, look);
        link_instead(&folder.join("link"), canary.at("secret"));
        fs::write(folder.join("place/inner"), "the volume's").expect("a file");
        link_instead(&folder.join("place/decoy"), canary.at("secret"));
        race(&bundle, 20, &folder.join("place/inner"), &folder.join("place/decoy"), look);
        canary.is_untouched();
    }
}

#[test]
fn ghsa_3q8j_pf29_vwv8_a_swapped_read_only_folder_is_never_another_and_writable() {
    let bundle = Bundle::sh("awk '$5 ~ \"^/shared/|^/etc\" { print \"at\", $5, $6 }' /proc/self/mountinfo");
    let canary = Canary::new(bundle.work("canary"));
    let (folder, place, link) = shared(&bundle, "/shared/other");
    for name in ["place/deep", "place/mask", "other/deep", "other/mask"] {
        fs::create_dir_all(folder.join(name)).expect("a folder");
    }
    bundle.config(|config| {
        config["linux"]["readonlyPaths"] = json!(["/shared/place/deep", "/shared/place"]);
        config["linux"]["maskedPaths"] = json!(["/shared/place/mask"]);
    });
    race(&bundle, 40, &place, &link, |out| {
        for (at, options) in out.stdout().lines().filter_map(|line| line.strip_prefix("at ")?.split_once(' '))
        {
            assert!(options.starts_with("ro"), "{at} is {options}");
        }
    });
    canary.is_untouched();
}

#[test]
fn cve_2024_21626_a_swapped_working_folder_never_leads_out() {
    let bundle = Bundle::new();
    let canary = Canary::new(bundle.work("canary"));
    let script =
        format!("[ -e $PWD{0} -o -e .{0} -o -e {UP}{0} ] && echo outside; true", canary.at("secret"));
    bundle.config(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["cwd"] = "/work".into();
    });
    let (work, decoy) = (bundle.rootfs().join("work"), bundle.rootfs().join("decoy"));
    fs::create_dir(&work).expect("a folder");
    symlink("/proc/self/fd/7", &decoy).expect("a link");
    let inherits = "exec 7</ 9</sys/fs/cgroup; exec \"$@\"";
    while_swapping(&work, &decoy, || {
        for _ in 0..repetitions(30) {
            let out = bundle.by_shell(inherits, ["run", bundle.id()]).run();
            assert_eq!(out.stdout(), "", "{out:#?}");
        }
    });
    bundle.config(|config| {
        config["process"]["args"] = json!(["sleep", "600"]);
        config["process"]["cwd"] = "/".into();
    });
    bundle.detached(&[]);
    while_swapping(&work, &decoy, || {
        for _ in 0..repetitions(30) {
            let words = ["exec", "--cwd", "/work", bundle.id(), "sh", "-c", &script];
            let out = bundle.by_shell(inherits, words).run();
            assert_eq!(out.stdout(), "", "{out:#?}");
        }
    });
}

#[test]
fn cve_2019_5736_and_2024_21626_a_swapped_program_is_never_the_runtime_or_the_hosts() {
    without_harm_to_the_binary(|| {
        let bundle = Bundle::new();
        let canary = Canary::new(bundle.work("canary"));
        let program = bundle.rootfs().join("bin/busybox");
        let marker = canary.path().parent().expect("a folder").join("busybox");
        fs::copy(&program, &marker).expect("a program of the host's");
        let (evil, decoy) = (bundle.rootfs().join("bin/evil"), bundle.rootfs().join("bin/decoy"));
        symlink("busybox", &evil).expect("a link");
        for target in ["/proc/self/exe".to_owned(), format!("/proc/self/fd/7{}", marker.display())] {
            link_instead(&decoy, &target);
            // Inside, it tells what it is: the container's own, by a path that there is.
            let args = json!(["/bin/evil", "readlink", "/proc/self/exe"]);
            bundle.config(|config| config["process"]["args"] = args);
            while_swapping(&evil, &decoy, || {
                for _ in 0..repetitions(40) {
                    let out = bundle.by_shell("exec 7</; exec \"$@\"", ["run", bundle.id()]).run();
                    assert!(["", "/bin/busybox"].contains(&&*out.stdout()), "{target}: {out:#?}");
                }
            });
        }
        canary.is_untouched();
    });
}

#[test]
fn cve_2024_9676_a_file_of_users_swapped_for_a_pipe_hangs_nobody() {
    let bundle = Bundle::sh("true");
    let etc = bundle.rootfs().join("etc");
    rustix::fs::mknodat(CWD, etc.join("decoy"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let start = Instant::now();
    race(&bundle, 40, &etc.join("passwd"), &etc.join("decoy"), |_| ());
    let limit = stretched(Duration::from_secs(1)) * u32::try_from(repetitions(40)).expect("a small number");
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
}

#[test]
fn cve_2019_16884_and_2025_52881_a_label_is_never_written_to_what_lies_over_proc() {
    let bundle = Bundle::new();
    bundle.detached(&[]);
    let pid = bundle.state()["pid"].to_string();
    // In the container's own mounts, as one who shares them and has the right to mount can do it at any time.
    let inside = |script: &str| {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &pid, "--mount", "--", "/bin/sh", "-c", script]);
        tare_tests::Tare::of(nsenter).run().ok()
    };
    inside(
        "mount -t tmpfs tmpfs /proc && for at in self thread-self 1; do \
         mkdir -p /proc/$at/attr/apparmor && : > /proc/$at/attr/exec && : > /proc/$at/attr/apparmor/exec; done",
    );
    let words = [["--apparmor", "tare-confined"], ["--process-label", "system_u:system_r:confined_t:s0"]];
    for label in words {
        let out = bundle.oci(["exec"]).args(label).args([bundle.id(), "echo", "unconfined"]).run();
        assert!(out.code() != 0 && out.stdout().is_empty(), "{label:?}: {out:#?}");
        assert_eq!(inside("cat /proc/*/attr/exec /proc/*/attr/apparmor/exec"), "", "{label:?}");
    }
    inside("umount /proc");
}
