//! Limits, by their effect. What has to be timed is in `rates.rs`.
#![forbid(unsafe_code)]

use std::fs;

use tare_tests::Host;

/// Takes 200 MB at once and touches all of it.
const HUNGRY: &str = "exec dd if=/dev/zero of=/dev/null bs=200M count=1";

#[test]
fn too_much_memory_is_137_and_tare_says_that_it_was_memory() {
    let host = Host::new();
    let out = host.sh(&["--memory", "64m", "--memory-swap", "64m"], HUNGRY);
    out.fails(137).complains_of(&["memory", "64"]);
}

#[test]
fn inspect_tells_an_out_of_memory_kill_from_another() {
    let host = Host::new();
    host.busybox();
    let run = |name: &str, script: &str| {
        let flags = ["run", "--name", name, "--init", "--memory", "64m", "--memory-swap", "64m"];
        host.tare(flags).args(["busybox", "sh", "-c", script]).run().fails(137);
        host.inspect(name)["State"]["OOMKilled"].clone()
    };
    assert_eq!(run("hungry", HUNGRY), true);
    assert_eq!(run("killed", "kill -KILL $$"), false);
}

#[test]
fn enough_memory_is_enough() {
    let host = Host::new();
    host.sh(&["--memory", "400m"], HUNGRY).ok();
    host.sh(&["--memory", "400m", "--memory-reservation", "100m"], HUNGRY).ok();
}

#[test]
fn the_memory_limit_is_seen_inside() {
    let host = Host::new();
    let script =
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
    host.sh(&["-m", "64m"], script).prints("67108864");
    host.sh(&["--memory", "1g"], script).prints("1073741824");
}

#[test]
fn a_fork_bomb_stops_at_the_limit() {
    let host = Host::new();
    // Fifty sleepers are asked for; the shell itself is one of the twenty that may be.
    let script = "i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done 2>/tmp/err; \
        ls -d /proc/[0-9]* | wc -l; cat /tmp/err";
    let out = host.sh(&["--pids-limit", "20"], &format!("({script}) || true; ls -d /proc/[0-9]* | wc -l"));
    let most = out.stdout().lines().filter_map(|line| line.trim().parse::<u32>().ok()).max().unwrap_or(0);
    assert!(most <= 20, "{most} processes: {out:#?}");
    let complaint = format!("{}{}", out.stdout(), out.stderr());
    assert!(complaint.contains("fork") || complaint.contains("temporarily unavailable"), "{out:#?}");
}

#[test]
fn pids_limit_unlimited_has_no_limit() {
    let host = Host::new();
    let script = "i=0; while [ $i -lt 50 ]; do sleep 3 & i=$((i+1)); done; ls -d /proc/[0-9]* | wc -l";
    for unlimited in ["-1", "0"] {
        let out = host.sh(&["--pids-limit", unlimited], script).ok();
        assert!(out.trim().parse::<u32>().unwrap() >= 51, "{out}");
    }
}

#[test]
fn cpuset_leaves_only_the_named_processors() {
    let host = Host::new();
    host.sh(&["--cpuset-cpus", "0"], "nproc; grep Cpus_allowed_list /proc/self/status | tr -d '\\t'")
        .prints("1\nCpus_allowed_list:0");
}

#[test]
fn cpu_and_disk_weights_are_taken() {
    let host = Host::new();
    host.sh(&["--cpu-shares", "512"], "true").ok();
    // Not every kernel has weights for disks; then it has to be said and the container still starts, as
    // under Docker, or it is refused. What may not be is a message without the flag's name.
    let out = host.sh(&["--blkio-weight", "300"], "true");
    if out.code() != 0 {
        out.fails(125).complains_of(&["blkio-weight"]);
    }
}

#[test]
fn the_readiness_to_be_killed_can_be_set() {
    let host = Host::new();
    host.sh(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj").prints("500");
}

#[test]
fn resource_limits_are_set_and_inherited() {
    let host = Host::new();
    host.sh(&["--ulimit", "nofile=512:1024"], "ulimit -Sn; ulimit -Hn").prints("512\n1024");
    host.sh(&["--ulimit", "core=0", "--ulimit", "stack=1048576"], "ulimit -c; ulimit -s").prints("0\n1024");
    host.sh(&["--ulimit", "nofile=300"], "ulimit -Sn; ulimit -Hn").prints("300\n300");
}

#[test]
fn limits_are_shown_by_inspect_as_docker_shows_them() {
    let host = Host::new();
    let flags = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "20", "--cpu-shares", "512"];
    host.detached(&[&["--name", "limited"], &flags[..]].concat(), "sleep 60");
    let config = host.inspect("limited")["HostConfig"].clone();
    assert_eq!(config["Memory"], 67_108_864);
    assert_eq!(config["NanoCpus"], 500_000_000);
    assert_eq!(config["PidsLimit"], 20);
    assert_eq!(config["CpuShares"], 512);
}

#[test]
fn limits_that_make_no_sense_are_refused_before_anything_is_made() {
    let host = Host::new();
    host.leaves_no_trace(|| {
        let cases: [(&[&str], &str); 10] = [
            (&["--memory", "lots"], "memory"),
            (&["--memory", "1k"], "memory"),
            (&["--memory", "64m", "--memory-swap", "32m"], "swap"),
            (&["--cpus", "-1"], "cpus"),
            (&["--cpus", "100000"], "cpus"),
            (&["--cpuset-cpus", "4000"], "cpuset"),
            (&["--pids-limit", "many"], "pids-limit"),
            (&["--ulimit", "nofile=2:1"], "ulimit"),
            (&["--ulimit", "nosuch=1"], "ulimit"),
            (&["--oom-score-adj", "5000"], "oom-score-adj"),
        ];
        for (flags, word) in cases {
            host.sh(flags, "true").fails(125).complains_of(&[word]);
        }
    });
}

#[test]
fn the_container_may_not_change_its_own_limits() {
    let host = Host::new();
    let script = "for f in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do \
        [ -e $f ] && echo 1000000000 > $f; done 2>/dev/null; \
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
    host.sh(&["--memory", "64m"], script).prints("67108864");
}

#[test]
fn the_cgroups_of_a_container_are_gone_with_it() {
    let host = Host::new();
    let flags = ["--memory", "64m", "--cpus", "0.5", "--cpuset-cpus", "0"];
    let id = host.detached(&flags, "sleep 60");
    let named = |id: &str| {
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", host.pid(id))).unwrap();
        cgroup.lines().filter(|line| line.contains(id)).count()
    };
    assert!(named(&id) > 0, "no cgroup carries the container's id");
    // That they are gone afterwards is what the end of every test checks.
    host.tare(["rm", "-f", &id]).run().ok();
}
