//! The pool of warm networks: taken once, by those who ask for nothing else, replaced, and put away whatever is killed.
#![forbid(unsafe_code)]

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tare_tests::fault::{KILLED, before, some, steps, traced};
use tare_tests::machine::{get, run};
use tare_tests::{Host, eventually};

/// Steps of each kind of work that are tried where nobody asks for more.
const FEW: usize = 6;
const SERVER: &str = "mkdir -p /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w";

/// The addresses of the networks that are ready.
#[track_caller]
fn ready(host: &Host) -> Vec<String> {
    let text = host.tare(["system", "warm", "--format", "{{.Addresses}}"]).run().ok();
    text.split(',').filter(|address| !address.is_empty()).map(str::to_owned).collect()
}

/// The ids of those that are ready. An address that has become free is used again, an id is not.
#[track_caller]
fn ids(host: &Host) -> Vec<String> {
    let mut ids = files(host, "warm");
    ids.retain(|name| !name.contains('.') && name != "size");
    ids
}

#[track_caller]
fn warm(host: &Host, count: usize) {
    host.busybox();
    host.tare(["system", "warm", &count.to_string()]).run().ok();
    if count > 0 {
        assert_eq!(ready(host).len(), count);
    }
}

fn address(host: &Host, name: &str) -> String {
    let networks = &host.inspect(name)["NetworkSettings"]["Networks"];
    networks["bridge"]["IPAddress"].as_str().unwrap_or_default().to_owned()
}

/// The host's links that begin so.
fn links(prefix: &str) -> Vec<String> {
    let text = run(&["ip", "-o", "link"]);
    let names = text.lines().filter_map(|line| line.split([' ', ':', '@']).nth(2).map(str::to_owned));
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn bridge() -> String {
    links("tare-").pop().expect("a bridge")
}

fn files(host: &Host, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(host.run_root().join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Empties the pool and removes all containers: that leaves nothing in the kernel and no claims.
#[track_caller]
fn goes_without_a_trace(host: &Host) {
    host.note_ids();
    let all = host.containers();
    if !all.is_empty() {
        host.tare(["rm", "-f"]).args(&all).run().ok();
    }
    host.tare(["system", "warm", "0"]).run().ok();
    let mut left = Vec::new();
    eventually("nothing is left", || {
        host.tare(["ps"]).run().ok();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(&*host.run_root().to_string_lossy()));
        left = [files(host, "warm"), files(host, "ranges"), links("tv")].concat();
        left.extend(mounts.map(str::to_owned));
        for network in files(host, "networks") {
            left.extend(files(host, &format!("networks/{network}/addresses")));
        }
        left.is_empty()
    });
}

#[test]
fn a_start_takes_a_warm_network_which_works_as_any_other_and_is_replaced() {
    let host = Host::new();
    warm(&host, 2);
    let before = ready(&host);
    host.detached(&["--name", "web", "-p", "8080:80"], SERVER);
    let web = address(&host, "web");
    assert!(before.contains(&web), "{web} is one of {before:?}");
    eventually("it serves", || get("127.0.0.1", 8080) == "hello");
    let said = host.sh(&[], &format!("nslookup web; printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 {web} 80; cat /proc/self/uid_map; ip addr; ip route"));
    let said = said.stdout();
    for part in ["127.0.0.11:53", "can't find web", "hello", "65536", "LOOPBACK,UP", "default via 10.120."] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("inet6") || !said.contains("fe80"), "no IPv6 where nobody asked for it: {said}");
    eventually("there are two again", || {
        let now = ready(&host);
        now.len() == 2 && !now.contains(&web)
    });
    eventually("nothing of it is pinned any more", || {
        files(&host, "warm").iter().all(|name| !name.contains('.'))
    });
    assert_eq!(get("127.0.0.1", 8080), "hello", "the network is its own");
    host.tare(["restart", "-t", "0", "web"]).run().ok();
    eventually("it serves again", || get("127.0.0.1", 8080) == "hello");
    goes_without_a_trace(&host);
}

#[test]
fn no_two_containers_have_the_same_network() {
    let host = Host::new();
    warm(&host, 3);
    let calls: Vec<_> = (0..6)
        .map(|n| host.tare(["run", "-d", "--name", &format!("c{n}"), "busybox", "sleep", "600"]).start())
        .collect();
    for call in calls {
        call.wait().ok();
    }
    host.note_ids();
    let mut spaces: Vec<_> = (0..6)
        .map(|n| fs::read_link(format!("/proc/{}/ns/net", host.pid(&format!("c{n}")))).unwrap())
        .collect();
    let mut addresses: Vec<_> = (0..6).map(|n| address(&host, &format!("c{n}"))).collect();
    spaces.sort();
    spaces.dedup();
    addresses.sort();
    addresses.dedup();
    assert_eq!((spaces.len(), addresses.len()), (6, 6));
    eventually("the pool is full again", || ready(&host).len() == 3);
    assert!(ready(&host).iter().all(|address| !addresses.contains(address)), "and has addresses of its own");
    goes_without_a_trace(&host);
}

#[test]
fn who_asks_for_something_else_makes_a_network_of_its_own() {
    let host = Host::new();
    warm(&host, 1);
    let before = ids(&host);
    host.tare(["network", "create", "other"]).run().ok();
    for flags in [
        &["--network", "none"][..],
        &["--network", "host"],
        &["--network", "other"],
        &["--userns=host"],
        &["--ip", "10.120.7.7"],
        &["--mac-address", "02:42:00:00:00:77"],
        &["--network", "bridge", "--privileged"],
    ] {
        host.sh(flags, "true").ok();
        assert_eq!(ids(&host), before, "{flags:?}");
    }
    host.sh(&["--network", "bridge"], "true").ok();
    eventually("that one was taken", || ids(&host).len() == 1 && ids(&host) != before);
    goes_without_a_trace(&host);
}

#[test]
fn one_that_is_not_as_the_network_is_now_is_never_taken() {
    let host = Host::new();
    warm(&host, 2);
    let looks = |why: &str, expected: &str| {
        let said = host
            .sh(&[], "ip link show eth0; ping -c 1 -W 5 $(ip route | grep -o '[0-9.]*' | head -n 1)")
            .stdout();
        assert!(said.contains(expected) && said.contains("1 packets received"), "{why}: {said}");
        eventually("there are two again", || ready(&host).len() == 2);
    };
    looks("as usual", "mtu 1500");
    run(&["ip", "link", "set", &bridge(), "mtu", "1400"]);
    looks("after its bridge was changed", "mtu 1400");
    run(&["ip", "link", "del", &bridge()]);
    looks("after its bridge was removed", "mtu 1500");
    for name in files(&host, "warm").iter().filter(|name| *name != "size") {
        run(&["umount", &host.run_root().join("warm").join(name).join("net").to_string_lossy()]);
    }
    looks("after somebody has unmounted its namespace, as a reboot does", "mtu 1500");
    goes_without_a_trace(&host);
}

#[test]
fn the_pool_is_shown_and_wrong_sizes_are_refused() {
    let host = Host::new();
    assert!(host.tare(["system", "warm"]).run().ok().ends_with("bridge    0         0"));
    warm(&host, 2);
    let shown: serde_json::Value =
        serde_json::from_str(&host.tare(["system", "warm", "--format", "json"]).run().ok()).unwrap();
    assert_eq!((shown["Size"].as_str(), shown["Ready"].as_str()), (Some("2"), Some("2")));
    for (size, why) in [("many", "no number"), ("-1", "unknown flag"), ("257", "256 at most")] {
        let said = host.tare(["system", "warm", size]).run();
        assert!(said.code() != 0 && said.stderr().contains(why), "{size}: {said:?}");
    }
    warm(&host, 1);
    goes_without_a_trace(&host);
}

#[test]
fn the_pool_is_emptied_and_filled_while_monitors_look_after_it() {
    let host = Host::new();
    for _ in 0..20 {
        warm(&host, 1);
        // Its monitor wants to replace what it took, just now.
        host.sh(&[], "true").ok();
        host.tare(["system", "warm", "0"]).run().ok();
    }
    goes_without_a_trace(&host);
}

#[test]
fn killed_at_any_step_of_filling_the_pool_the_next_command_puts_it_right() {
    let host = Host::new();
    host.busybox();
    let log = host.work().join("strace");
    traced(&["-o", log.to_str().unwrap()], host.tare(["system", "warm", "2"])).run().ok();
    let steps = steps(fs::read_to_string(&log).unwrap().lines());
    goes_without_a_trace(&host);
    let mut killed = 0;
    for step in some(&steps, FEW) {
        let out = traced(&["-o", "/dev/null", "-e", &before(step)], host.tare(["system", "warm", "2"])).run();
        killed += usize::from(out.code() == KILLED);
        host.sh(&["--name", "box"], "true").ok();
        warm(&host, 2);
        goes_without_a_trace(&host);
    }
    assert!(killed > 0, "{steps:?}");
}

#[test]
fn killed_at_any_step_of_a_start_the_network_that_it_took_is_not_lost() {
    let host = Host::new();
    warm(&host, 1);
    let start = ["run", "-d", "--name", "box", "busybox", "sleep", "600"];
    let log = host.work().join("strace");
    traced(&["-o", log.to_str().unwrap()], host.tare(start)).run().ok();
    let log = fs::read_to_string(&log).unwrap();
    // From where it looks for one to where the monitor has it.
    let lines: Vec<_> = log.lines().collect();
    let first = lines.iter().position(|line| line.contains("/warm\"")).expect("it looks for one");
    let steps = &steps(lines.iter().copied())[first..];
    goes_without_a_trace(&host);
    for step in some(steps, FEW) {
        warm(&host, 1);
        let out = traced(&["-o", "/dev/null", "-e", &before(step)], host.tare(start)).run();
        assert!(matches!(out.code(), 0 | KILLED), "{step:?}: {out:?}");
        host.note_ids();
        eventually("it runs, or was never there", || {
            let all = host.tare(["ps", "-a", "--format", "{{.State}}"]).run().ok();
            all.is_empty() || all == "running"
        });
        host.sh(&[], "ip route").ok();
        goes_without_a_trace(&host);
    }
}

#[test]
fn a_monitor_killed_while_it_replaces_a_network_is_finished_by_the_next_command() {
    let host = Host::new();
    for step in ["rename", "umount2", "rmdir", "flock", "mkdir", "clone3", "setns", "mount", "write"] {
        warm(&host, 1);
        host.detached(&["--name", "web", "-p", "8080:80"], SERVER);
        let monitor = host.processes().into_iter().map(|process| process.id).next().expect("a monitor");
        let inject = format!("inject={step}:signal=KILL:when=1");
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-p", &monitor.to_string(), "-o", "/dev/null", "-e", &inject]);
        let mut strace = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("it is killed, or has done all that", || {
            host.processes().is_empty() || files(&host, "warm").iter().all(|name| !name.contains('.'))
        });
        host.tare(["ps"]).run().ok();
        eventually("it serves", || get("127.0.0.1", 8080) == "hello");
        host.sh(&[], "ip route").ok();
        eventually("there is one again", || ready(&host).len() == 1);
        goes_without_a_trace(&host);
        tare_tests::process::signal(strace.id().cast_signed(), Signal::KILL);
        strace.wait().unwrap();
    }
}
