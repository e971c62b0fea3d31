//! Limits on how fast: processor shares and disk throughput. One at a time, because they are timed.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tare_tests::Host;

/// A loaded machine can spoil one measurement, not three.
const TRIES: usize = 3;

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn within(what: &str, expected: f64, tolerance: f64, measure: impl Fn() -> f64) {
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let value = measure();
        if (value / expected - 1.0).abs() <= tolerance {
            return;
        }
        seen.push(value);
    }
    panic!("{what} should be {expected} within {:.0} %, was {seen:.3?}", tolerance * 100.0);
}

/// The processor time that `times` reports of a shell's children, in seconds.
fn seconds(times: &str) -> f64 {
    let children = times.lines().last().expect("two lines of times");
    children
        .split_whitespace()
        .map(|word| {
            let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("0m1.23s");
            minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
        })
        .sum()
}

/// Busy for four seconds, then says how much processor time that was.
const HOG: &str = "timeout 4 sh -c 'while :; do :; done'; times";

#[test]
fn a_busy_process_gets_its_share_within_15_percent() {
    let _turn = alone();
    let host = Host::new();
    within("processor time of 4 s at 0.3 processors", 1.2, 0.15, || {
        seconds(&host.sh(&["--cpus", "0.3"], HOG).ok())
    });
}

#[test]
fn shares_divide_a_processor_in_their_proportion() {
    let _turn = alone();
    let host = Host::new();
    host.busybox();
    within("the share of 1024 against 512", 2.0 / 3.0, 0.15, || {
        let start = |shares: &str| {
            let flags = ["run", "--rm", "--cpuset-cpus", "0", "--cpu-shares", shares, "busybox"];
            host.tare(flags).args(["sh", "-c", HOG]).start()
        };
        let (more, less) = (start("1024"), start("512"));
        let (more, less) = (seconds(&more.wait().ok()), seconds(&less.wait().ok()));
        more / (more + less)
    });
}

/// The whole disk that a folder is on; throttling knows no partitions.
fn disk_of(folder: &Path) -> Option<String> {
    let number = fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let mut device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if device.join("partition").exists() {
        device = device.parent()?.to_owned();
    }
    let node = Path::new("/dev").join(device.file_name()?);
    node.exists().then(|| node.display().to_string())
}

#[test]
fn a_throttled_write_runs_at_the_limit() {
    let _turn = alone();
    let host = Host::new();
    let folder = host.folder("data");
    let Some(disk) = disk_of(&folder) else {
        eprintln!("not tried: {} is on no disk with a node in /dev", folder.display());
        return;
    };
    let limit = format!("{disk}:4mb");
    let mount = format!("{}:/data", folder.display());
    // Direct: cgroup v1 does not see what the page cache writes later.
    let write = "dd if=/dev/zero of=/data/file bs=1M count=16 oflag=direct 2>/dev/null";
    within("seconds for 16 MB at 4 MB/s", 4.0, 0.25, || {
        let start = Instant::now();
        host.sh(&["-v", &mount, "--device-write-bps", &limit], write).ok();
        start.elapsed().as_secs_f64()
    });
    let read = "dd if=/data/file of=/dev/null bs=1M count=16 iflag=direct 2>/dev/null";
    within("seconds for 16 MB of reading at 4 MB/s", 4.0, 0.25, || {
        let start = Instant::now();
        host.sh(&["-v", &mount, "--device-read-bps", &limit], read).ok();
        start.elapsed().as_secs_f64()
    });
}

#[test]
fn throttled_operations_run_at_the_limit() {
    let _turn = alone();
    let host = Host::new();
    let folder = host.folder("data");
    let Some(disk) = disk_of(&folder) else {
        eprintln!("not tried: {} is on no disk with a node in /dev", folder.display());
        return;
    };
    let mount = format!("{}:/data", folder.display());
    // Blocks that are there already: making a file longer costs the file system writes of its own.
    std::fs::write(folder.join("file"), vec![1; 400 << 10]).unwrap();
    rustix::fs::sync();
    let script = "dd if=/dev/zero of=/data/file bs=4k count=100 oflag=direct conv=notrunc 2>/dev/null";
    within("seconds for 100 writes at 25 a second", 4.0, 0.25, || {
        let start = Instant::now();
        host.sh(&["-v", &mount, "--device-write-iops", &format!("{disk}:25")], script).ok();
        start.elapsed().as_secs_f64()
    });
}

#[test]
fn a_throttle_for_what_is_no_disk_is_an_error() {
    let host = Host::new();
    host.sh(&["--device-write-bps", "/dev/null:1mb"], "true").fails(125).complains_of(&["/dev/null"]);
    host.sh(&["--device-write-bps", "/dev/nosuch:1mb"], "true").fails(125).complains_of(&["/dev/nosuch"]);
}
