//! Images made to lead the engine astray, by `tare run --rootfs`: their files of users, the files that the engine puts
//! into a container, the program that they name, and what a container leaves behind. Each test is named for what must
//! hold, with the CVE whose recipe it is.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};
use tare_tests::attack::{Canary, link_instead};
use tare_tests::{Host, Outcome, Tare, busybox, stretched};

const UP: &str = "../../../../../../../../../../../..";

/// A root file system of busybox, to be spoilt.
#[track_caller]
fn tree(host: &Host) -> PathBuf {
    let tree = host.folder("tree");
    busybox::tree(&tree).expect("a busybox root");
    tree
}

/// `tare run --rm --userns host FLAGS --rootfs TREE WORDS`: with the host's own ids, which is the harder case.
fn call(host: &Host, tree: &Path, flags: &[&str], words: &[&str]) -> Tare {
    let base = ["run", "--rm", "--userns", "host", "--network", "none"];
    host.tare(base).args(flags).arg("--rootfs").arg(tree).args(words)
}

#[track_caller]
fn run(host: &Host, tree: &Path, flags: &[&str], words: &[&str]) -> Outcome {
    call(host, tree, flags, words).run()
}

#[test]
fn cve_2024_9676_and_2026_47262_files_of_users_that_are_none_are_refused_at_once() {
    let host = Host::new();
    let tree = tree(&host);
    let canary = Canary::new(host.work().join("canary"));
    for name in ["passwd", "group"] {
        let place = tree.join("etc").join(name);
        let whole = fs::read(&place).expect("the image's own");
        for kind in ["link", "link up", "pipe", "zero", "2 GiB", "folder"] {
            fs::remove_file(&place).expect("removing a file");
            let node = |kind| {
                let id = rustix::fs::makedev(1, 5);
                rustix::fs::mknodat(CWD, &place, kind, Mode::RUSR | Mode::ROTH, id).expect("a node");
            };
            match kind {
                "link" => symlink(canary.at("passwd"), &place).expect("a link"),
                "link up" => symlink(format!("{UP}{}", canary.at("passwd")), &place).expect("a link"),
                "pipe" => node(FileType::Fifo),
                "zero" => node(FileType::CharacterDevice),
                "folder" => fs::create_dir(&place).expect("a folder"),
                _ => fs::File::create(&place).and_then(|file| file.set_len(2 << 30)).expect("a sparse file"),
            }
            let start = Instant::now();
            // A name that only the canary's file knows, and would give the host's root.
            let out = run(&host, &tree, &["--user", "evil:evil"], &["id", "-u"]);
            assert!(start.elapsed() < stretched(Duration::from_secs(5)), "{kind}: {:?}", start.elapsed());
            assert!(out.code() == 125 || out.code() == 126, "{name} {kind}: {out:#?}");
            assert_eq!(out.stdout(), "", "{name} {kind}");
            canary.is_untouched();
            if kind == "folder" { fs::remove_dir(&place) } else { fs::remove_file(&place) }
                .expect("removing");
            fs::write(&place, &whole).expect("the image's own");
        }
    }
}

#[test]
fn cve_2024_40635_2026_46680_and_2016_3697_digits_are_ids_and_ids_are_whole() {
    let host = Host::new();
    let tree = tree(&host);
    let users = "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n\
                 -1:x:0:0::/:/bin/sh\n99999999999:x:0:0::/:/bin/sh\nhigh:x:4294967296:0::/:/bin/sh\n\
                 none:x::0::/:/bin/sh\n";
    fs::write(tree.join("etc/passwd"), users).expect("a file");
    run(&host, &tree, &["--user", "1000"], &["id", "-u"]).prints("1000");
    for bad in ["4294967295", "4294967296", "99999999999", "-1", "+1", " 0", "0x0", "high", "none", "1000:-1"]
    {
        let out = run(&host, &tree, &[&format!("--user={bad}")], &["id", "-u"]);
        assert!(out.code() != 0 && out.stdout().is_empty(), "{bad:?}: {out:#?}");
    }
}

#[test]
fn cve_2025_24965_files_that_the_engine_puts_in_land_on_no_file_of_the_hosts() {
    let host = Host::new();
    let tree = tree(&host);
    let canary = Canary::new(host.work().join("canary"));
    for name in ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc", "dev", "dev/shm", "tmp", "srv"] {
        let place = tree.join(name);
        let saved = tree.join("saved");
        let was = fs::symlink_metadata(&place).is_ok();
        if was {
            fs::rename(&place, &saved).expect("setting it aside");
        }
        for target in [canary.at("file"), canary.at("empty"), canary.at("nothing")] {
            for target in [target.clone(), format!("{UP}{target}")] {
                link_instead(&place, &target);
                let flags = ["--tmpfs", "/tmp", "--workdir", "/srv/deeper", "--add-host", "evil:192.0.2.1"];
                run(&host, &tree, &flags, &["true"]);
                canary.is_untouched();
            }
        }
        let _ = fs::remove_file(&place);
        if was {
            fs::rename(&saved, &place).expect("putting it back");
        }
    }
}

#[test]
fn cve_2024_21626_no_program_is_reached_through_an_open_file_of_the_engines() {
    let host = Host::new();
    let tree = tree(&host);
    let marker = host.work().join("busybox");
    fs::copy(tree.join("bin/busybox"), &marker).expect("a program of the host's");
    for number in 3..24 {
        let program = format!("/proc/self/fd/{number}/{UP}{}", marker.display());
        let out = run(&host, &tree, &[], &[&program, "echo", "the host's"]);
        assert!(out.code() != 0 && out.stdout().is_empty(), "{number}: {out:#?}");
        let out = run(&host, &tree, &["--init"], &[&program, "echo", "the host's"]);
        assert!(out.code() != 0 && out.stdout().is_empty(), "{number}, --init: {out:#?}");
    }
}

#[test]
fn cve_2025_9566_what_a_container_left_is_removed_without_following_it() {
    let host = Host::new();
    host.busybox();
    let canary = Canary::new(host.work().join("canary"));
    let script = format!(
        "cd /; mkdir -p d/e; for n in a d/b d/e/c; do ln -s {0} $n; ln -s {UP}{0} $n-up; done; \
         rm -r /etc /home; ln -s {0} /etc; ln -s {UP} /home; mkfifo /pipe; mknod /null c 1 3; true",
        canary.path().display()
    );
    for flags in [&["run", "--userns", "host", "--name", "left"][..], &["run", "--name", "left"]] {
        host.tare(flags).args(["busybox", "sh", "-c", &script]).run().ok();
        host.tare(["rm", "left"]).run().ok();
        canary.is_untouched();
    }
}

#[test]
fn cve_2019_14271_no_program_or_library_of_an_image_is_used_outside() {
    let host = Host::new();
    let tree = tree(&host);
    let canary = Canary::new(host.work().join("canary"));
    let script = format!("#!/bin/sh\n: > {}/ran\n", canary.path().display());
    for name in ["newuidmap", "newgidmap", "nsenter", "xz", "unpigz", "gzip", "zstd", "tar", "tare", "mount"]
    {
        let file = tree.join("bin").join(name);
        let _ = fs::remove_file(&file);
        fs::write(&file, &script).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    let log = host.work().join("strace");
    let inner = call(&host, &tree, &["--user", "app"], &["/bin/true"]).into_command();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=execve,execveat,open,openat", "-o"]).arg(&log);
    strace.arg(inner.get_program()).args(inner.get_args());
    strace.env("TARE_ROOT", host.root()).env("TARE_RUN_ROOT", host.run_root());
    Tare::of(strace).run().ok();
    let text = fs::read_to_string(&log).expect("what strace saw");
    let foreign = |line: &&str| {
        line.contains("libnss")
            || line.contains("nsswitch")
            || line.contains("execve(\"") && !line.contains("/tare\"") && !line.contains("/bin/true\"")
    };
    assert_eq!(text.lines().filter(foreign).collect::<Vec<_>>(), Vec::<&str>::new());
    canary.is_untouched();
}
