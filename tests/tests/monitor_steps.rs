//! A monitor killed at every step of its own: while it starts a container, takes one over, keeps its output, ends it, or
//! starts it again. The container lives on or is seen as ended, its output is whole, and who asked for something gets it.
//!
//! A step is a system call: see [`tare_tests::fault`]. `TARE_SOAK_RUNS` says how many of them are tried
//! (`cargo xtask soak life-steps`).
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tare_tests::fault::{Step, before, some, steps, traced};
use tare_tests::process::ends_are_told;
use tare_tests::{Host, Tare, eventually};

/// Steps of each kind of work that are tried where nobody asks for more.
const FEW: usize = 4;
/// It says much when it is asked for it: more than a monitor takes at a time.
const SCRIPT: &str = "trap 'seq 5000' USR1; trap 'exit 7' TERM; echo 0; while :; do sleep 0.05; done";

/// The only monitor, once it has made itself small.
fn monitor(host: &Host) -> i32 {
    let mut id = 0;
    eventually("there is a monitor, and it is small", || match &host.processes()[..] {
        [process] if process.file("cmdline").starts_with("tare-monitor") => {
            id = process.id;
            true
        }
        _ => false,
    });
    id
}

/// Puts strace on a process that runs.
fn strace(id: i32, flags: &[&str]) -> Child {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-p", &id.to_string()]).args(flags);
    let child = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.expect("starting strace");
    // The first step of all it may never have come to.
    eventually("strace has it, or has killed it", || {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        !status.lines().any(|line| line == "TracerPid:\t0")
    });
    child
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of our own is text")
}

fn run(host: &Host, flags: &[&str]) {
    host.detached(&[&["--name", "box"], flags].concat(), SCRIPT);
}

/// It is asked to say much, and all of that is in its log: what was written down when its monitor was killed may be there
/// twice.
#[track_caller]
fn says_all(host: &Host) {
    tare_tests::process::signal(host.pid("box"), Signal::USR1);
    eventually("its last word is in the log", || {
        host.tare(["logs", "--tail", "1", "box"]).run().ok() == "5000"
    });
    let log = host.tare(["logs", "box"]).run().ok();
    let mut next = 0;
    for line in log.lines() {
        let number: u32 = line.parse().unwrap_or_else(|_| panic!("{line:?} is no number"));
        assert!(number <= next, "{number} instead of {next}");
        next = next.max(number + 1);
    }
}

/// Kills the monitor of a container before its first step of a work, its second and so on.
#[track_caller]
fn kill_at_each_step(flags: &[&str], work: impl Fn(&Host), look: impl Fn(&Host, Option<&Step>)) {
    let host = Host::new();
    let log = host.work().join("strace");
    run(&host, flags);
    let mut strace_of_all = strace(monitor(&host), &["-o", text(&log)]);
    work(&host);
    look(&host, None);
    host.tare(["rm", "-f", "box"]).run().ok();
    strace_of_all.wait().expect("strace");
    let steps = steps(fs::read_to_string(&log).expect("what strace saw").lines());
    assert!(steps.len() > 20, "{steps:?}");
    for step in some(&steps, FEW) {
        println!("{step:?}");
        run(&host, flags);
        let mut strace = strace(monitor(&host), &["-o", "/dev/null", "-e", &before(step)]);
        work(&host);
        look(&host, Some(step));
        host.note_ids();
        host.tare(["rm", "-f", "box"]).run().ok();
        strace.wait().expect("strace");
    }
    println!("{} steps", steps.len());
}

#[test]
fn killed_at_any_step_of_keeping_output_nothing_is_lost() {
    kill_at_each_step(&[], says_all, |host, step| assert_eq!(host.status("box"), "running", "{step:?}"));
}

#[test]
fn killed_at_any_step_of_an_ordered_stop_it_is_stopped() {
    kill_at_each_step(
        &["-p", "8080:80", "-v", "/anonymous"],
        |host| drop(host.tare(["stop", "box"]).run().ok()),
        |host, step| {
            assert_eq!(host.status("box"), "exited", "{step:?}");
            let state = &host.inspect("box")["State"];
            // 255 stands for: nobody saw how it ended.
            let known = state["ExitCode"] == 7 || state["ExitCode"] == 255 && state["Error"] != "";
            assert!(known && (step.is_some() || state["ExitCode"] == 7), "{step:?}: {state}");
        },
    );
}

#[test]
fn killed_at_any_step_of_an_end_that_nobody_asked_for_it_is_removed() {
    kill_at_each_step(
        &["--rm", "-v", "/anonymous"],
        |host| tare_tests::process::signal(host.pid("box"), Signal::TERM),
        |host, step| {
            eventually(&format!("it is gone after {step:?}"), || {
                host.tare(["inspect", "box"]).run().code() == 1
            });
            eventually(&format!("its volume is gone after {step:?}"), || {
                host.tare(["volume", "ls", "-q"]).run().ok().is_empty()
            });
        },
    );
}

#[test]
fn killed_at_any_step_of_a_restart_by_policy_it_comes_back() {
    kill_at_each_step(
        &["--restart", "always", "-p", "8080:80"],
        |host| {
            let first = host.pid("box");
            tare_tests::process::signal(first, Signal::KILL);
            eventually("it is back", || ![0, first].contains(&host.pid("box")));
        },
        |host, step| {
            eventually(&format!("it can be talked to after {step:?}"), || {
                host.tare(["exec", "box", "true"]).run().code() == 0
            });
        },
    );
}

/// The steps of the monitors that a command starts, apart from those that other processes have as well: of these it would
/// be another who dies.
fn steps_of_monitor(log: &Path) -> Vec<Step> {
    let log = fs::read_to_string(log).expect("what strace saw");
    let lines: Vec<(&str, &str)> = log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(pid, call)| (pid, call.trim_start()))
        .collect();
    let command = lines.first().expect("a line").0;
    let is_monitor = |pid: &str| lines.iter().any(|(p, call)| *p == pid && call.contains("\"tare-monitor\""));
    let named = lines.iter().map(|(pid, _)| *pid).find(|pid| *pid != command && is_monitor(pid));
    let monitor = named.expect("one process calls itself tare-monitor");
    let of = |wanted: &dyn Fn(&str) -> bool| {
        steps(lines.iter().filter(|(pid, _)| wanted(pid)).map(|(_, call)| *call))
    };
    let commands = of(&|pid| pid == command);
    let mut monitors = of(&|pid| pid == monitor);
    monitors.retain(|step| !commands.contains(step));
    monitors
}

/// Runs a command to its end under an strace that follows what the command starts for as long as that runs.
fn followed(call: Tare, flags: &[&str]) {
    let mut command = traced(&[&["-f", "-D"], flags].concat(), call).into_command();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().and_then(|mut command| command.wait()).expect("the command's end");
}

#[track_caller]
fn kill_a_new_monitor(call: impl Fn(&Host) -> Tare, prepare: impl Fn(&Host), look: impl Fn(&Host, &Step)) {
    let host = Host::new();
    host.busybox();
    let log = host.work().join("strace");
    prepare(&host);
    host.note_ids();
    followed(call(&host), &["-o", text(&log)]);
    // Otherwise it might be the next command whose monitor it is.
    let begun = || fs::read_to_string(&log).unwrap_or_default().contains("PR_SET_NAME, \"tare-monitor\"");
    eventually("there is a monitor", begun);
    eventually("it runs", || host.tare(["ps", "--format", "{{.Names}}"]).run().ok() == "box");
    eventually("its monitor works", || host.tare(["exec", "box", "true"]).run().code() == 0);
    host.tare(["rm", "-f", "box"]).run().ok();
    let steps = steps_of_monitor(&log);
    assert!(steps.len() > 20, "{steps:?}");
    for step in some(&steps, FEW) {
        println!("{step:?}");
        prepare(&host);
        followed(call(&host), &["-o", "/dev/null", "-e", &before(step)]);
        look(&host, step);
        host.note_ids();
        host.tare(["rm", "-f", "box"]).run().ok();
    }
    println!("{} steps", steps.len());
}

#[test]
fn killed_at_any_step_of_a_takeover_another_takes_over() {
    kill_a_new_monitor(
        |host| host.tare(["ps"]),
        |host| {
            run(host, &["-p", "8080:80"]);
            for process in host.processes() {
                process.kill();
            }
            eventually("the monitor is dead", || host.processes().is_empty());
        },
        |host, step| {
            assert_eq!(host.status("box"), "running", "{step:?}");
            host.tare(["exec", "box", "true"]).run().ok();
            says_all(host);
            host.tare(["stop", "box"]).run().ok();
            let state = &host.inspect("box")["State"];
            let unknown = !ends_are_told() && state["ExitCode"] == 255 && state["Error"] != "";
            assert!(state["ExitCode"] == 7 || unknown, "{step:?}: {state}");
        },
    );
}

#[test]
fn killed_at_any_step_of_a_start_it_can_be_started() {
    kill_a_new_monitor(
        |host| host.tare(["start", "box"]),
        |host| {
            let call = host.tare(["create", "--name", "box", "-p", "8080:80", "-v", "/anonymous"]);
            call.args(["busybox", "sh", "-c", SCRIPT]).run().ok();
        },
        |host, step| {
            eventually(&format!("it runs after {step:?}"), || {
                host.tare(["start", "box"]).run();
                let state = &host.inspect("box")["State"];
                state["Status"] == "running"
            });
            host.tare(["stop", "-t", "1", "box"]).run().ok();
            assert_eq!(host.status("box"), "exited", "{step:?}");
        },
    );
}
