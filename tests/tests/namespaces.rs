//! What a container sees of its own, and what it shares when asked to.
#![forbid(unsafe_code)]

use std::fs;

use tare_tests::process::Process;
use tare_tests::{Host, eventually};

fn ours(kind: &str) -> String {
    // This thread's: a test has a network of its own.
    fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap().display().to_string()
}

fn theirs(host: &Host, flags: &[&str], kind: &str) -> String {
    host.sh(flags, &format!("readlink /proc/self/ns/{kind}")).ok()
}

#[test]
fn each_of_the_eight_namespaces_is_its_own() {
    let host = Host::new();
    let script = "for n in pid mnt uts ipc net user cgroup time; do readlink /proc/self/ns/$n; done";
    let out = host.sh(&[], script).ok();
    let theirs: Vec<&str> = out.lines().collect();
    let names = ["pid", "mnt", "uts", "ipc", "net", "user", "cgroup", "time"];
    assert_eq!(theirs.len(), names.len(), "{out}");
    for (name, theirs) in names.iter().zip(theirs) {
        assert_ne!(ours(name), theirs, "the {name} namespace is the host's");
    }
}

#[test]
fn host_modes_share_the_hosts_namespace() {
    let host = Host::new();
    assert_eq!(theirs(&host, &["--ipc", "host"], "ipc"), ours("ipc"));
    assert_eq!(theirs(&host, &["--uts", "host"], "uts"), ours("uts"));
    assert_eq!(theirs(&host, &["--network", "host"], "net"), ours("net"));
    assert_eq!(theirs(&host, &["--pid", "host"], "pid"), ours("pid"));
    assert_eq!(theirs(&host, &["--userns", "host"], "user"), ours("user"));
    assert_eq!(theirs(&host, &["--cgroupns", "host"], "cgroup"), ours("cgroup"));
}

#[test]
fn private_modes_can_be_named() {
    let host = Host::new();
    assert_ne!(theirs(&host, &["--ipc", "private"], "ipc"), ours("ipc"));
    assert_ne!(theirs(&host, &["--cgroupns", "private"], "cgroup"), ours("cgroup"));
    assert_ne!(theirs(&host, &["--userns", "private"], "user"), ours("user"));
}

#[test]
fn a_container_can_join_anothers_namespaces() {
    let host = Host::new();
    let id = host.detached(&["--name", "first", "--network", "none"], "sleep 60");
    let first = Process::by_id(host.pid("first")).expect("it runs");
    for (flag, kind) in [("--network", "net"), ("--pid", "pid"), ("--ipc", "ipc")] {
        let by_name = theirs(&host, &[flag, "container:first"], kind);
        assert_eq!(by_name, first.link(&format!("ns/{kind}")), "{flag} container:NAME");
        let by_id = theirs(&host, &[flag, &format!("container:{id}")], kind);
        assert_eq!(by_id, by_name, "{flag} container:ID");
    }
}

#[test]
fn joining_a_container_that_does_not_run_is_an_error() {
    let host = Host::new();
    host.busybox();
    let out = host.tare(["run", "--rm", "--network", "container:nobody", "busybox", "true"]).run();
    out.fails(125).complains_of(&["nobody"]);
    host.tare(["run", "--name", "over", "busybox", "true"]).run().ok();
    let out = host.tare(["run", "--rm", "--pid", "container:over", "busybox", "true"]).run();
    out.fails(125).complains_of(&["over", "not running"]);
}

#[test]
fn the_command_is_pid_1_and_sees_only_its_own_processes() {
    let host = Host::new();
    // The shell looks by itself: how many helpers of a pipe have started by then is a matter of luck.
    host.sh(&[], "echo $$; set -- /proc/[0-9]*; echo $#").prints("1\n1");
}

#[test]
fn the_hostname_is_as_asked_or_the_short_id() {
    let host = Host::new();
    host.sh(&["--hostname", "box.example"], "hostname; cat /etc/hostname").prints("box.example\nbox.example");
    host.sh(&["-h", "box"], "hostname").prints("box");
    let id = host.detached(&[], "hostname; sleep 60");
    eventually("the hostname is in the log", || !host.tare(["logs", &id]).run().stdout().is_empty());
    host.tare(["logs", &id]).run().prints(&id[..12]);
    let ours = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    host.sh(&["--uts", "host"], "hostname").prints(ours.trim());
}

#[test]
fn the_container_cannot_rename_the_host() {
    let host = Host::new();
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    host.sh(&["--privileged"], "hostname renamed; hostname").prints("renamed");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn network_none_has_a_loopback_that_is_up() {
    let host = Host::new();
    host.sh(&["--network", "none"], "ls /sys/class/net; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up")
        .prints("lo\nup");
}

#[test]
fn two_containers_cannot_reach_each_others_loopback() {
    let host = Host::new();
    host.detached(&["--name", "server", "--network", "none"], "nc -ll -p 7000 -e true");
    let ask = "nc -w 1 127.0.0.1 7000 </dev/null && echo open || echo closed";
    host.sh(&["--network", "none"], ask).prints("closed");
    let joined = ["--network", "container:server"];
    eventually("the server listens", || host.sh(&joined, "netstat -lnt").ok().contains(":7000"));
    host.sh(&joined, ask).prints("open");
}

#[test]
fn shared_memory_is_not_the_hosts() {
    let host = Host::new();
    let name = format!("tare-test-{}", std::process::id());
    host.sh(&[], &format!("echo x > /dev/shm/{name}; ls /dev/shm")).prints(&name);
    assert!(!std::path::Path::new("/dev/shm").join(name).exists());
}

#[test]
fn clocks_can_be_moved() {
    let host = Host::new();
    let uptime = |flags: &[&str]| -> f64 {
        let text = host.sh(flags, "cat /proc/uptime").ok();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let plain = uptime(&[]);
    let moved = uptime(&["--time-offset", "boottime=+3d"]);
    let days = (moved - plain) / 86_400.0;
    assert!((days - 3.0).abs() < 0.01, "moved by {days} days");
    let script = "grep -E 'monotonic|boottime' /proc/self/timens_offsets | tr -s ' \\t' ' '";
    let out = host.sh(&["--time-offset", "monotonic=+1h,boottime=+90m"], script).ok();
    assert!(out.contains("monotonic 3600 0") && out.contains("boottime 5400 0"), "{out}");
}

#[test]
fn a_time_offset_that_makes_no_sense_is_an_error() {
    let host = Host::new();
    host.busybox();
    let before_its_zero =
        host.tare(["run", "--rm", "--time-offset", "boottime=-99999d", "busybox", "true"]).run();
    before_its_zero.fails(125).complains_of(&["boottime", "hint"]);
    for wrong in ["boottime=soon", "realtime=+1h", "+3d"] {
        let out = host.tare(["run", "--rm", "--time-offset", wrong, "busybox", "true"]).run();
        out.fails(125).complains_of(&["time-offset"]);
    }
}

#[test]
fn the_cgroup_namespace_hides_where_the_container_is() {
    let host = Host::new();
    let out = host.sh(&["--memory", "64m"], "cat /proc/self/cgroup").ok();
    let memory = out.lines().find(|line| line.contains(":memory:") || line.starts_with("0::")).unwrap();
    assert!(memory.ends_with(":/"), "{out}");
}
