//! Sizes that hold: `volume create -o size=` and `--storage-opt size=`, on disks with project quotas and on others. The kernel
//! of a machine may have none; `cargo xtask test --only vm` boots one that has.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tare_tests::disk::{Disk, apart};
use tare_tests::fault::{KILLED, before, some, steps, traced};
use tare_tests::{Host, Outcome, Tare, busybox, eventually};

/// What the tests want of a disk, megabytes: more than the least of xfs.
const MEGABYTES: u64 = 400;

/// Writes 16 MB, says what became of it, and how large the file system looks.
const FILL: &str = "dd if=/dev/zero of=/v/big bs=1M count=16 2>&1 | grep -o -e 'No space left' -e 'quota exceeded'; \
    stat -c %s /v/big; df -k /v | tail -n 1 | awk '{print $2}'";

/// A machine whose state is on a disk of its own.
struct Machine<'a> {
    host: &'a Host,
    root: &'a Path,
}

impl Machine<'_> {
    fn tare(&self, words: &[&str]) -> Tare {
        self.host.tare(words).env("TARE_ROOT", self.root)
    }

    #[track_caller]
    fn busybox(&self) {
        let archive = busybox::cached_archive();
        self.tare(&["import"]).arg(archive).arg("busybox").run().ok();
    }

    #[track_caller]
    fn sh(&self, flags: &[&str], script: &str) -> Outcome {
        self.tare(&["run", "--rm", "--network", "none"])
            .args(flags)
            .args(["busybox", "sh", "-c", script])
            .run()
    }
}

/// A file system that is mounted for a test.
struct Mounted(PathBuf);

impl Mounted {
    #[track_caller]
    fn new(kind: &str, options: &str, at: PathBuf) -> Mounted {
        let mut command = Command::new("mount");
        let status = command.args(["-t", kind, "-o", options, kind]).arg(&at).status();
        assert!(status.is_ok_and(|status| status.success()), "mounting {kind}");
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// File systems that have quotas.
const KINDS: &[&str] = &["ext4", "xfs"];

/// Tries it on each of these kinds of disk that can have quotas here.
fn on_disks_with_quotas(kinds: &[&str], test: &str, what: impl Fn(&Machine<'_>, &Disk)) {
    if !apart(test) {
        return;
    }
    for kind in kinds {
        let host = Host::new();
        let Some(disk) = Disk::with_quotas(&host.work(), kind, MEGABYTES) else { continue };
        println!("on {kind}");
        what(&Machine { host: &host, root: disk.path() }, &disk);
    }
}

#[test]
fn a_volume_has_its_size_and_no_other_pays_for_it() {
    on_disks_with_quotas(KINDS, "a_volume_has_its_size_and_no_other_pays_for_it", |machine, disk| {
        machine.busybox();
        for (name, size) in [("small", "size=8m"), ("large", "size=24m")] {
            machine.tare(&["volume", "create", "-o", size, name]).run().ok();
        }
        let projects = disk.projects();
        let mut limits: Vec<u64> = projects.iter().map(|project| project.1).collect();
        limits.sort_unstable();
        assert_eq!(limits, [8 << 20, 24 << 20], "{projects:?}");
        let said = machine.sh(&["-v", "small:/v"], FILL).ok();
        let lines: Vec<&str> = said.lines().collect();
        assert!(["No space left", "quota exceeded"].contains(&lines[0]), "{said}");
        let size: u64 = lines[1].parse().unwrap();
        assert!((7 << 20..=8 << 20).contains(&size), "{said}");
        assert_eq!(lines[2], "8192", "df shows the volume's size, not the disk's");
        // A volume that is full is so for the next container too, until something goes; what we note of the container is
        // not kept in it.
        let more = "dd if=/dev/zero of=/v/more bs=256k count=1 2> /dev/null";
        machine.sh(&["-v", "small:/v"], more).fails(1);
        machine.sh(&["-v", "small:/v"], &format!("rm /v/big && {more}")).ok();
        machine.sh(&["-v", "large:/v"], FILL).prints(&format!("{}\n24576", 16 << 20));
        // With the volume its number goes.
        machine.tare(&["volume", "rm", "small"]).run().ok();
        eventually(
            "its quota is gone",
            || matches!(disk.projects()[..], [(_, limit, used)] if limit == 24 << 20 && used >= 16 << 20),
        );
        machine.tare(&["volume", "prune", "-a", "-f"]).run().ok();
        eventually("no quota is left", || disk.projects().is_empty());
    });
}

#[test]
fn a_writable_layer_has_its_size_by_a_quota() {
    on_disks_with_quotas(KINDS, "a_writable_layer_has_its_size_by_a_quota", |machine, disk| {
        machine.busybox();
        let fill = FILL.replace("/v/", "/").replace("/v", "/");
        let words =
            ["run", "--network", "none", "--name", "box", "--storage-opt", "size=12m", "busybox", "sh"];
        let said = machine.tare(&words).args(["-c", &fill]).run().ok();
        let lines: Vec<&str> = said.lines().collect();
        assert!(["No space left", "quota exceeded"].contains(&lines[0]), "{said}");
        assert!(lines[1].parse::<u64>().unwrap() <= 12 << 20, "{said}");
        assert_eq!(lines[2], "12288", "df shows the layer's size");
        let folders = fs::read_dir(machine.root.join("containers")).unwrap().flatten();
        let images = folders.filter(|folder| folder.path().join("rw.img").exists()).count();
        assert_eq!(images, 0, "no file system of its own where there are quotas");
        assert!(matches!(disk.projects()[..], [(_, limit, _)] if limit == 12 << 20), "{:?}", disk.projects());
        // It is as full at its next start.
        machine.tare(&["start", "-a", "box"]).run().ok();
        machine.tare(&["rm", "box"]).run().ok();
        eventually("no quota is left", || disk.projects().is_empty());
        machine.sh(&["--storage-opt", "size=12m"], "true").ok();
        eventually("no quota is left", || disk.projects().is_empty());
    });
}

#[test]
fn killed_at_any_step_of_making_or_removing_no_quota_is_left() {
    let all: [(&[&str], &[&str]); 2] = [
        (&["volume", "create", "-o", "size=8m", "it"], &["volume", "rm", "it"]),
        (&["create", "--name", "it", "--storage-opt", "size=12m", "busybox", "true"], &["rm", "it"]),
    ];
    on_disks_with_quotas(
        &["ext4"],
        "killed_at_any_step_of_making_or_removing_no_quota_is_left",
        |machine, disk| {
            machine.busybox();
            let log = machine.host.work().join("strace");
            let steps_of = |words: &[&str]| {
                traced(&["-o", log.to_str().expect("text")], machine.tare(words)).run().ok();
                let steps = steps(fs::read_to_string(&log).expect("what strace saw").lines());
                // From where it has to do with quotas on, and a little before.
                let first = steps.iter().position(|(name, _)| name == "quotactl_fd").expect("a quota");
                steps[first.saturating_sub(5)..].to_vec()
            };
            for (make, remove) in all {
                // The first of all makes folders that stay.
                machine.tare(make).run().ok();
                machine.tare(remove).run().ok();
                let mut killed = 0;
                let (making, removing) = (steps_of(make), steps_of(remove));
                for (words, step) in some(&making, 10)
                    .map(|step| (make, step))
                    .chain(some(&removing, 10).map(|step| (remove, step)))
                {
                    if words == remove {
                        machine.tare(make).run().ok();
                    }
                    let out = traced(&["-o", "/dev/null", "-e", &before(step)], machine.tare(words)).run();
                    killed += usize::from(out.code() == KILLED);
                    // The next command sweeps; what was made whole is removed.
                    machine.tare(&["ps"]).run().ok();
                    machine.tare(remove).run();
                    eventually(&format!("no quota is left after {words:?} and {step:?}"), || {
                        disk.projects().is_empty()
                    });
                }
                println!("{make:?}: killed {killed} times");
                assert!(killed > 5);
            }
        },
    );
}

#[test]
fn where_there_are_no_quotas_a_volumes_size_is_refused_and_a_layer_gets_its_own_disk() {
    let test = "where_there_are_no_quotas_a_volumes_size_is_refused_and_a_layer_gets_its_own_disk";
    if !apart(test) {
        return;
    }
    let host = Host::new();
    let mounted = |kind: &str, options: &str| Mounted::new(kind, options, host.folder(kind));
    let layers = ["lower", "upper", "inner"].map(|name| host.folder(name).display().to_string());
    let options = format!("lowerdir={},upperdir={},workdir={}", layers[0], layers[1], layers[2]);
    let disk = Disk::new(&host.folder("ext4"), 64, 1024);
    let (memory, overlay) = (mounted("tmpfs", "size=200m"), mounted("overlay", &options));
    for root in [memory.0.as_path(), &overlay.0, disk.path()] {
        let machine = Machine { host: &host, root };
        let refused = machine.tare(&["volume", "create", "-o", "size=8m", "small"]).run();
        refused.fails(1).complains_of(&["size", "no project quotas", "prjquota", "pquota"]);
        machine.tare(&["volume", "ls", "-q"]).run().prints("");
        machine
            .tare(&["volume", "create", "-o", "size=much", "small"])
            .run()
            .fails(1)
            .complains_of(&["much"]);
        assert_eq!(fs::read_dir(root.join("volumes/.pending")).map_or(0, Iterator::count), 0, "{root:?}");
        // Layers on an overlay cannot be.
        if root.ends_with("overlay") {
            continue;
        }
        machine.busybox();
        let fill = FILL.replace("/v/", "/").replace("/v", "/");
        let said = machine.sh(&["--storage-opt", "size=12m"], &fill).ok();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "No space left", "{root:?}: {said}");
        assert!(lines[1].parse::<u64>().unwrap() <= 12 << 20, "{said}");
        // What the file system needs for itself is not shown.
        assert!((8 << 10..=12 << 10).contains(&lines[2].parse::<u64>().unwrap()), "{said}");
    }
}
