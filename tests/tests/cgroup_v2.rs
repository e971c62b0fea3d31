//! cgroup v2 alone: what is counted, and limits that change while a container runs, in the kernel's own files. Where a machine
//! has the older version there is nothing to see, and the tests say so; `cargo xtask test --only vm` boots one.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tare_tests::process::eventually_or_tell;
use tare_tests::{Host, eventually};

fn is_pure() -> bool {
    let pure = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !pure {
        eprintln!("not run: cgroup v2 is not alone here");
    }
    pure
}

/// Its cgroup.
fn cgroup(host: &Host, name: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", host.pid(name))).expect("its cgroup");
    let path = text.trim_end().strip_prefix("0::/").expect("one line, of version 2");
    Path::new("/sys/fs/cgroup").join(path)
}

fn file(cgroup: &Path, name: &str) -> String {
    let text = fs::read_to_string(cgroup.join(name));
    text.unwrap_or_else(|err| panic!("{name}: {err}")).trim_end().to_owned()
}

/// The value of a key in a file of keys and values.
fn value(cgroup: &Path, name: &str, key: &str) -> u64 {
    let text = file(cgroup, name);
    let found = text.split_whitespace().skip_while(|word| *word != key).nth(1);
    found.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{key} in {text}"))
}

#[track_caller]
fn stats(host: &Host, name: &str) -> Value {
    let text = host.tare(["stats", "--no-stream", "--format", "json", name]).run().ok();
    serde_json::from_str(&text).expect("JSON")
}

/// Bytes of the first of two sizes with units, as in `1.5MiB / 64MiB` and `0B / 31.5MB`.
fn bytes(text: &str) -> f64 {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').expect("a unit");
    let factor = match text[digits..].split(' ').next().expect("a unit") {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        unit => panic!("{unit} in {text}"),
    };
    text[..digits].parse::<f64>().expect("a number") * factor
}

#[test]
fn memory_is_counted_without_the_page_cache_and_disks_by_the_kernel() {
    if !is_pure() {
        return;
    }
    let host = Host::new();
    // 30 MB through the page cache to the disk, and 10 MB that are its own.
    let script = "dd if=/dev/zero of=/big bs=1M count=30 conv=fsync 2>/dev/null; \
        text=$(head -c 10000000 /dev/zero | tr '\\0' a); touch /done; sleep 600 & sleep 600 & wait; echo ${#text}";
    host.detached(&["--name", "box", "-m", "128m", "--memory-swap", "128m"], script);
    eventually("it has written", || host.tare(["exec", "box", "test", "-e", "/done"]).run().code() == 0);
    let cgroup = cgroup(&host, "box");
    let now = stats(&host, "box");
    let used = bytes(now["MemUsage"].as_str().unwrap());
    let current: f64 = file(&cgroup, "memory.current").parse().unwrap();
    let cache = value(&cgroup, "memory.stat", "inactive_file") as f64;
    assert!(cache > 25e6, "the pages of the file are in memory: {cache}");
    assert!((used - (current - cache)).abs() < 3e6, "{used}: {current} without {cache}");
    assert!((9e6..25e6).contains(&used), "{now}");
    assert!(now["MemUsage"].as_str().unwrap().ends_with(" / 128MiB"), "{now}");
    // The shell and its two children.
    assert_eq!((now["PIDs"].as_str().unwrap(), file(&cgroup, "pids.current").as_str()), ("3", "3"), "{now}");
    let (_, written) = now["BlockIO"].as_str().unwrap().split_once(" / ").unwrap();
    assert!(bytes(written) > 29e6, "{now}: {}", file(&cgroup, "io.stat"));
    host.tare(["rm", "-f", "box"]).run().ok();
}

#[test]
fn processor_time_and_waiting_are_told() {
    if !is_pure() {
        return;
    }
    let host = Host::new();
    // Two at once on one processor, of which they may have a fifth.
    let flags = ["--name", "busy", "--cpus", "0.2", "--cpuset-cpus", "0"];
    host.detached(&flags, "while :; do :; done & while :; do :; done");
    let cgroup = cgroup(&host, "busy");
    let mut told = Value::Null;
    eventually_or_tell(
        "it is told how long they wait",
        || {
            told = stats(&host, "busy");
            // Processor, memory, disk; the kernel takes its average every two seconds.
            let pressure = told["Pressure"].as_str().expect("Pressure").split_whitespace();
            let words: Vec<f64> = pressure.filter_map(|word| word.strip_suffix('%')?.parse().ok()).collect();
            words.len() == 3 && words[0] > 5.0 && words[1] < 5.0
        },
        || format!("{}\n{}", file(&cgroup, "cpu.pressure"), file(&cgroup, "memory.pressure")),
    );
    let percent: f64 = told["CPUPerc"].as_str().unwrap().trim_end_matches('%').parse().unwrap();
    assert!(percent > 1.0 && percent < 60.0, "{told}");
    assert!(value(&cgroup, "cpu.stat", "nr_throttled") > 0);
    host.tare(["rm", "-f", "busy"]).run().ok();
}

/// Flags of `update`, and files with what is in them then.
type Row = (&'static [&'static str], &'static [(&'static str, &'static str)]);

#[test]
fn every_limit_can_be_changed_while_it_runs() {
    if !is_pure() {
        return;
    }
    let host = Host::new();
    host.detached(&["--name", "box", "--blkio-weight", "100"], "sleep 600");
    let cgroup = cgroup(&host, "box");
    // Flags, then what the kernel says; several at once count as well. `io.bfq.weight` is there where that scheduler is,
    // and `io.weight` where the kernel weighs by cost.
    let table: [Row; 14] = [
        (&["-m", "64m", "--memory-swap", "64m"], &[("memory.max", "67108864"), ("memory.swap.max", "0")]),
        (
            &["-m", "96m", "--memory-swap", "128m", "--memory-reservation", "32m"],
            &[("memory.max", "100663296"), ("memory.swap.max", "33554432"), ("memory.low", "33554432")],
        ),
        (&["--memory-swap", "-1"], &[("memory.max", "100663296"), ("memory.swap.max", "max")]),
        (&["-m", "-1"], &[("memory.max", "max")]),
        (&["--cpus", "0.5"], &[("cpu.max", "50000 100000")]),
        (&["--cpu-period", "20000", "--cpu-quota", "5000"], &[("cpu.max", "5000 20000")]),
        (&["--cpu-quota", "-1"], &[("cpu.max", "max 20000")]),
        (&["--cpu-shares", "1024"], &[("cpu.weight", "100")]),
        (&["--cpu-shares", "2"], &[("cpu.weight", "1")]),
        (&["--cpuset-cpus", "1"], &[("cpuset.cpus", "1"), ("cpuset.cpus.effective", "1")]),
        (&["--cpuset-cpus", "0-1", "--cpuset-mems", "0"], &[("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
        (&["--pids-limit", "30"], &[("pids.max", "30")]),
        (&["--pids-limit", "-1"], &[("pids.max", "max")]),
        (&["--blkio-weight", "500"], &[]),
    ];
    for (flags, files) in table {
        host.tare(["update"]).args(flags).arg("box").run().ok();
        for (name, expected) in files {
            assert_eq!(file(&cgroup, name), *expected, "{name} after {flags:?}");
        }
    }
    let weights = ["io.bfq.weight", "io.weight"].map(|name| fs::read_to_string(cgroup.join(name)));
    let weights: Vec<String> = weights.into_iter().flatten().collect();
    assert!(!weights.is_empty(), "this kernel weighs disks");
    assert!(weights.iter().any(|text| !text.contains("default 100\n")), "{weights:?}");
    // It sees them itself, and they are there at its next start.
    host.tare(["update", "-m", "48m", "--memory-swap", "48m", "--pids-limit", "40", "box"]).run().ok();
    let see = ["exec", "box", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"];
    host.tare(see).run().prints("50331648\n40");
    host.tare(["restart", "-t", "0", "box"]).run().ok();
    host.tare(see).run().prints("50331648\n40");
    host.tare(["rm", "-f", "box"]).run().ok();
}

#[test]
fn a_disk_is_held_to_its_rate() {
    if !is_pure() {
        return;
    }
    let host = Host::new();
    // The disk that the container's files are on.
    let device = fs::metadata(host.root()).expect("its folder").dev();
    let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let text = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).expect("a disk");
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME=")).expect("its name");
    let path = format!("/dev/{name}");
    let flags = ["--name", "box", "--device-write-bps"];
    let limit = format!("{path}:1mb");
    host.detached(&[&flags[..], &[&limit]].concat(), "sleep 600");
    let cgroup = cgroup(&host, "box");
    assert_eq!(file(&cgroup, "io.max"), format!("{numbers} rbps=max wbps=1048576 riops=max wiops=max"));
    // How long it takes is for benches; that it was made to wait is in the kernel's own account.
    let fill = ["exec", "box", "dd", "if=/dev/zero", "of=/big", "bs=256k", "count=12", "conv=fsync"];
    host.tare(fill).run().ok();
    let written = file(&cgroup, "io.stat");
    assert!(written.contains(&format!("{numbers} ")), "{written}");
    eventually("it had to wait for the disk", || {
        let text = file(&cgroup, "io.pressure");
        let total = text.lines().next().and_then(|line| line.rsplit_once("total=")).expect("a total");
        total.1.parse::<u64>().expect("microseconds") > 500_000
    });
    host.tare(["rm", "-f", "box"]).run().ok();
}
