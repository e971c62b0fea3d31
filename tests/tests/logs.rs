//! What is kept of a container's output, and who can read it.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use tare_tests::{Host, eventually};

fn log_path(host: &Host, name: &str) -> PathBuf {
    PathBuf::from(host.inspect(name)["LogPath"].as_str().expect("a path"))
}

/// A container that ran to its end.
fn ended(host: &Host, flags: &[&str], script: &str) {
    host.detached(flags, script);
    eventually("it ends", || host.status("noisy") == "exited");
}

#[test]
fn a_flood_fills_so_many_files_and_no_more() {
    let host = Host::new();
    let flags = ["--name", "noisy", "--log-opt", "max-size=40k", "--log-opt", "max-file=3"];
    ended(&host, &flags, "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
    let path = log_path(&host, "noisy");
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
    let old = |age: u32| PathBuf::from(format!("{}.{age}", path.display()));
    assert!(size(&path) > 0 && size(&old(1)) >= 40_000 && size(&old(2)) >= 40_000, "three files");
    assert!(!old(3).exists() && size(&old(1)) < 45_000);
    let lines = host.tare(["logs", "noisy"]).run().ok();
    let numbers: Vec<u32> = lines.lines().map(|line| line[5..].parse().expect("a whole line")).collect();
    assert_eq!(numbers.last(), Some(&2999));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, none missing");
    host.tare(["logs", "-n", "2", "noisy"]).run().prints("line 2998\nline 2999");
    host.tare(["logs", "--tail", "700", "noisy"]).run().ok().lines().next().expect("a line");
}

#[test]
fn several_readers_follow_to_the_end() {
    let host = Host::new();
    let flags = ["--name", "noisy", "--log-opt", "max-size=10k", "--log-opt", "max-file=5"];
    host.detached(
        &flags,
        "i=0; while [ $i -lt 900 ]; do echo line $i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.1; done",
    );
    let readers: Vec<_> = (0..3).map(|_| host.tare(["logs", "-f", "noisy"]).start()).collect();
    for reader in readers {
        let lines = reader.wait().ok();
        assert_eq!(lines.lines().count(), 900);
        assert!(lines.ends_with("line 899"));
    }
}

#[test]
fn times_attributes_and_bytes_that_are_no_text() {
    let host = Host::new();
    let flags = ["--name", "noisy", "--label", "team=blue", "--log-opt", "labels=team"];
    ended(&host, &flags, "echo one; sleep 1.2; printf 'b\\377\\n' >&2; printf end");
    let out = host.tare(["logs", "--details", "noisy"]).run();
    assert_eq!(
        (out.stdout().as_str(), out.stderr()),
        ("team=blue one\nteam=blue end", "team=blue b\u{fffd}\n")
    );
    let times = host.tare(["logs", "-t", "noisy"]).run().ok();
    let first = times.split(' ').next().expect("a time");
    assert_eq!(host.tare(["logs", "--until", first, "noisy"]).run().ok(), "one");
    let later = host.tare(["logs", "--since", first, "noisy"]).run().ok();
    assert!(later.contains("one") && later.contains("end"), "{later}");
    host.tare(["logs", "--since", "0s", "noisy"]).run().prints("");
    host.tare(["logs", "--since", "soon", "noisy"]).run().fails(1).complains_of(&["since", "soon"]);
}

#[test]
fn a_log_driver_that_keeps_nothing_or_is_not_there() {
    let host = Host::new();
    ended(&host, &["--name", "noisy", "--log-driver", "none"], "echo x");
    host.tare(["logs", "noisy"]).run().fails(1).complains_of(&["none"]);
    assert!(!log_path(&host, "noisy").exists());
    let refused = host.tare(["run", "--log-driver", "syslog", "busybox", "true"]).run();
    refused.fails(125).complains_of(&["syslog", "json-file"]);
    let refused = host.tare(["run", "--log-opt", "max-size=lots", "busybox", "true"]).run();
    refused.fails(125).complains_of(&["max-size=lots"]);
}
