//! Twenty containers of every kind, and kills at random: of commands, monitors and health checks, one at a time or all at
//! once. The containers live on, with their output and their exit codes; what was half done is completed or undone by the
//! next command; in the end all can be removed and nothing is left.
//!
//! 1,000 kills with `cargo xtask soak life-kills`, a short form of it otherwise.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tare_tests::attack::repetitions;
use tare_tests::fault::Moments;
use tare_tests::machine::{get, run};
use tare_tests::process::{Process, ends_are_told};
use tare_tests::{Host, eventually, stretched};

/// Numbers without end, ten a second.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
/// The same, and each number goes to the volume first.
const COUNT_TO_VOLUME: &str =
    "i=0; while :; do i=$((i+1)); echo $i >> /data/numbers; echo $i; sleep 0.1; done";
const SERVE: &str = "mkdir -p /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w";
/// Ten numbers, then a failure.
const COME_BACK: &str = "for i in $(seq 10); do echo $i; sleep 0.1; done; exit 3";

/// Containers whose process lives through everything.
const STEADY: [(&str, &[&str], &str); 13] = [
    ("plain-1", &[], COUNT),
    ("plain-2", &["--memory", "64m"], COUNT),
    ("terminal", &["-t", "--network", "none"], COUNT),
    ("plain-4", &["--userns", "host"], COUNT),
    ("init", &["--init"], COUNT),
    ("checked-1", &["--health-cmd", "true", "--health-interval", "500ms"], COUNT),
    ("checked-2", &["--health-cmd", "echo well", "--health-interval", "1s"], COUNT),
    ("served-1", &["--network", "net", "-p", "8081:80"], SERVE),
    ("served-2", &["--network", "net", "-p", "127.0.0.1:8082:80"], SERVE),
    ("kept-1", &["-v", "numbers-1:/data"], COUNT_TO_VOLUME),
    ("kept-2", &["-v", "numbers-2:/data", "-v", "/anonymous"], COUNT_TO_VOLUME),
    ("policy", &["--restart", "always"], COUNT),
    ("frozen", &[], COUNT),
];
/// Containers that end by themselves, and are started again.
const BACK: [&str; 2] = ["back-1", "back-2"];
/// Containers that commands start, stop, rename and remove.
const STIRRED: [(&str, &[&str], &str); 5] = [
    ("stirred-1", &["-v", "/anonymous"], COUNT),
    ("stirred-2", &["--network", "net", "-p", "8083:80"], SERVE),
    ("stirred-3", &["--restart", "always"], COUNT),
    ("stirred-4", &["--health-cmd", "true", "--health-interval", "500ms"], COUNT),
    ("stirred-5", &["-t"], COUNT),
];

/// What is done to a stirred container, by its name; `run` is made of what it is.
const STIR: [&[&str]; 12] = [
    &["stop", "-t", "0"],
    &["start"],
    &["restart", "-t", "0"],
    &["kill"],
    &["pause"],
    &["unpause"],
    &["rm", "-f", "-v"],
    &["rename"],
    &["update", "--memory", "64m", "--memory-swap", "128m"],
    &["network", "connect", "net"],
    &["network", "disconnect", "-f", "net"],
    &["run"],
];
/// What leaves a container as it is.
const LOOK: [&[&str]; 11] = [
    &["exec", "NAME", "true"],
    &["exec", "-d", "NAME", "sleep", "0.2"],
    &["exec", "NAME", "sh", "-c", "seq 10000"],
    &["logs", "NAME"],
    &["logs", "-f", "NAME"],
    &["wait", "NAME"],
    &["attach", "--no-stdin", "--sig-proxy=false", "NAME"],
    &["stats", "--no-stream", "NAME"],
    &["top", "NAME"],
    &["cp", "NAME:/etc/passwd", "-"],
    &["update", "--memory", "96m", "--memory-swap", "192m", "NAME"],
];

struct Load {
    host: Host,
    moments: Moments,
    /// The first processes of the steady ones.
    pids: BTreeMap<&'static str, i64>,
    kills: usize,
}

impl Load {
    fn inspect(&self, names: &[&str]) -> Vec<Value> {
        let text = self.host.tare(["container", "inspect"]).args(names).run().ok();
        serde_json::from_str(&text).expect("inspect prints JSON")
    }

    fn start(&mut self) {
        let host = &self.host;
        host.busybox();
        host.tare(["network", "create", "net"]).run().ok();
        for (name, flags, script) in STEADY {
            host.detached(&[&["--name", name][..], flags].concat(), script);
        }
        host.tare(["pause", "frozen"]).run().ok();
        for name in BACK {
            host.detached(&["--name", name, "--restart", "always"], COME_BACK);
        }
        for (name, flags, script) in STIRRED {
            host.detached(&[&["--name", name][..], flags].concat(), script);
        }
        let names = STEADY.map(|(name, ..)| name);
        let pids = self.inspect(&names);
        self.pids = names.into_iter().zip(pids.iter().map(|c| c["State"]["Pid"].as_i64().unwrap())).collect();
        for name in ["plain-1", "init"] {
            self.host.tare(["exec", "-d", name, "sleep", "100000"]).run().ok();
        }
    }

    /// Monitors, health checks and commands; not what is inside containers, or is just becoming one. Of a monitor and the one
    /// who holds its terminal as well one has to live.
    fn victims(&self) -> Vec<Process> {
        let outside = |process: &Process| {
            let status = process.file("status");
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            numbers.split_whitespace().count() == 1 && process.file("comm") != "tare-terminal\n"
        };
        self.host.processes().into_iter().filter(outside).collect()
    }

    fn kill_some(&mut self, most: usize) {
        let victims = self.victims();
        for _ in 0..=self.moments.number(most) {
            if let Some(process) = self.moments.one_of(&victims) {
                println!("kill {}", process.command());
                process.kill();
                self.kills += 1;
            }
        }
    }

    /// A command, which is killed at some moment, perhaps with others.
    fn kill_a_command(&mut self) {
        let words = self.command();
        println!("{}", words.join(" "));
        let limit = Duration::from_millis([5, 30, 120][self.moments.number(3)]);
        let together = self.moments.number(3) == 0;
        let pause = self.moments.below(stretched(limit));
        let running = self.host.tare(&words).start();
        std::thread::sleep(pause);
        self.host.note_ids();
        if together {
            self.kill_some(2);
        }
        running.signal(Signal::KILL);
        let out = running.wait();
        self.kills += usize::from(out.code() == 128 + 9);
    }

    fn command(&mut self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self.moments.number(5) {
            0 => words(&["run", "--rm", "-v", "/anonymous", "busybox", "sh", "-c", "sleep 0.05"]),
            1 => words(&["create", "--name", "brief", "-v", "/anonymous", "busybox", "true"]),
            2 => {
                let name = STEADY[self.moments.number(STEADY.len())].0;
                let look = LOOK[self.moments.number(LOOK.len())];
                look.iter().map(|word| word.replace("NAME", name)).collect()
            }
            _ => {
                let (name, flags, script) = STIRRED[self.moments.number(STIRRED.len())];
                match STIR[self.moments.number(STIR.len())] {
                    ["run"] => {
                        let flags = [&["run", "-d", "--name", name][..], flags].concat();
                        words(&[&flags[..], &["busybox", "sh", "-c", script]].concat())
                    }
                    ["rename"] => match self.moments.number(2) {
                        0 => words(&["rename", name, &format!("{name}-renamed")]),
                        _ => words(&["rename", &format!("{name}-renamed"), name]),
                    },
                    verb => words(&[verb, &[name]].concat()),
                }
            }
        }
    }

    /// The next command; then everything is as it should be.
    fn look(&mut self) {
        self.host.tare(["ps", "-a"]).run().ok();
        let names: Vec<_> = self.pids.keys().copied().collect();
        for container in self.inspect(&names) {
            let name = container["Name"].as_str().unwrap().trim_start_matches('/');
            let wanted = if name == "frozen" { "paused" } else { "running" };
            let state = (&container["State"]["Status"], &container["State"]["Pid"]);
            assert_eq!(state, (&Value::from(wanted), &Value::from(self.pids[name])), "{name}");
        }
        for container in self.inspect(&BACK) {
            let state = container["State"]["Status"].as_str().unwrap();
            assert!(["running", "restarting"].contains(&state), "{container}");
        }
    }

    /// A closer look: monitors answer, ports lead somewhere, checks are made.
    fn look_closely(&mut self) {
        for port in [8081, 8082] {
            eventually("it is served", || get("127.0.0.1", port) == "hello");
        }
        for (name, flags, _) in STEADY {
            if name != "frozen" {
                self.host.tare(["exec", name, "true"]).run().ok();
            }
            if flags.contains(&"--health-cmd") {
                eventually("it is found well", || {
                    self.inspect(&[name])[0]["State"]["Health"]["Status"] == "healthy"
                });
            }
            self.host.tare(["kill", "-s", "CONT", name]).run().ok();
        }
        // Each can be brought to run again, whatever has become of it.
        for (name, flags, script) in STIRRED {
            let renamed = format!("{name}-renamed");
            let listed = self.host.tare(["ps", "-a", "--format", "{{.Names}}"]).run().ok();
            if listed.lines().any(|line| line == renamed) {
                self.host.tare(["rm", "-f", "-v", &renamed]).run().ok();
            }
            if !listed.lines().any(|line| line == name) {
                self.host.detached(&[&["--name", name][..], flags].concat(), script);
            }
            if self.host.status(name) == "paused" {
                self.host.tare(["unpause", name]).run().ok();
            }
            eventually("it runs", || {
                self.host.tare(["start", name]).run().ok();
                self.host.status(name) == "running"
            });
        }
        self.host.tare(["rm", "-f", "-v", "brief"]).run().ok();
    }

    /// Ends all, and looks at what they have written.
    fn finish(&self) {
        let host = &self.host;
        host.tare(["unpause", "frozen"]).run().ok();
        let names = self.pids.keys().copied();
        host.tare(["stop", "-t", "0"]).args(names).run().ok();
        for (name, _, script) in STEADY {
            let container = &self.inspect(&[name])[0];
            assert_eq!(container["State"]["Status"], "exited", "{name}");
            // Of the two signals of `stop` the init passes the first on, and nothing else here heeds it.
            let code = container["State"]["ExitCode"].as_i64();
            let known = code == Some(137) || (name == "init" && code == Some(143));
            assert!(known || (code == Some(255) && !ends_are_told()), "{name}: {container}");
            // What is read from a terminal has left it.
            if script == SERVE || name == "terminal" {
                continue;
            }
            let highest = all_numbers(name, &host.tare(["logs", name]).run().ok());
            if let Some(number) = name.strip_prefix("kept") {
                let volume = format!("numbers{number}:/data");
                let read = host.sh(&["-v", &volume, "--network", "none"], "cat /data/numbers").ok();
                let kept = all_numbers(name, &read);
                // It was killed between the one and the other at worst.
                assert!(kept - highest <= 1, "{name}: {highest} in the log, {kept} in the volume");
            }
        }
        for name in BACK {
            eventually("it has come back", || self.inspect(&[name])[0]["RestartCount"].as_i64() > Some(0));
            let log = host.tare(["logs", name]).run().ok();
            for number in log.lines() {
                assert!((1..=10).contains(&number.parse::<u64>().expect("a number")), "{name}: {log}");
            }
        }
        host.note_ids();
        host.tare(["rm", "-f", "-v"]).args(host.containers()).run().ok();
        host.tare(["volume", "rm", "numbers-1", "numbers-2"]).run().ok();
        host.tare(["network", "rm", "net"]).run().ok();
    }
}

/// The numbers are there from 1 on; one may be there twice, if its monitor was killed over it. The last one.
#[track_caller]
fn all_numbers(name: &str, text: &str) -> u64 {
    let mut last = 0;
    for line in text.lines() {
        let number: u64 = line.parse().unwrap_or_else(|_| panic!("{name}: {line:?} is no number"));
        assert!(number <= last + 1, "{name}: after {last} came {number}: {text}");
        last = last.max(number);
    }
    assert!(last > 0, "{name} wrote nothing");
    last
}

/// What a machine has where there are no containers: files, links, rules.
fn left(host: &Host) -> Vec<String> {
    let mut left = Vec::new();
    let root = host.root();
    for folder in ["containers", "names", "trash", "volumes", "networks"].map(|name| root.join(name)) {
        left.extend(names(&folder));
    }
    for folder in ["containers", "ranges", "networks"].map(|name| host.run_root().join(name)) {
        left.extend(names(&folder));
    }
    let links = run(&["ip", "-o", "link"]);
    left.extend(links.lines().filter_map(|line| Some(line.split(": ").nth(1)?.to_owned())));
    left.extend(run(&["nft", "list", "ruleset"]).lines().map(|line| line.trim().to_owned()));
    left.sort();
    left
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

#[test]
fn of_many_kills_among_twenty_containers_nothing_is_lost_and_nothing_is_left() {
    let host = Host::new();
    // What every machine has that had networks, a published port and a volume once.
    host.sh(&["--network", "bridge"], "true").ok();
    host.tare(["network", "create", "net"]).run().ok();
    host.sh(&["--network", "net", "-p", "8081:80", "-v", "/anonymous"], "true").ok();
    host.tare(["network", "rm", "net"]).run().ok();
    let before = left(&host);
    let mut load = Load { host, moments: Moments::new(), pids: BTreeMap::new(), kills: 0 };
    load.start();
    let (wanted, mut rounds) = (repetitions(40), 0);
    while load.kills < wanted {
        rounds += 1;
        match load.moments.number(10) {
            0 => {
                println!("kill all");
                for process in load.victims() {
                    process.kill();
                    load.kills += 1;
                }
            }
            1..4 => load.kill_some(3),
            _ => load.kill_a_command(),
        }
        load.look();
        if rounds % 40 == 0 {
            load.look_closely();
        }
    }
    load.look_closely();
    load.finish();
    println!("{} kills in {rounds} rounds", load.kills);
    eventually("nothing is left", || {
        load.host.tare(["ps"]).run().ok();
        let mut left = left(&load.host);
        left.retain(|thing| !before.contains(thing));
        if !left.is_empty() {
            println!("left: {left:?}");
        }
        left.is_empty()
    });
}
