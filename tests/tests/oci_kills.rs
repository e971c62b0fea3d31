//! The runtime killed half way: at every step of its own, at every step of the process that becomes the container, and
//! at any moment. Whatever was done by then, `delete --force` takes all of it away; that nothing is left on the
//! machine is checked where each [`Bundle`] goes.
//!
//! A step is a system call, and strace(1) kills just before the n-th. `TARE_SOAK_RUNS` says how many of them are
//! tried (`cargo xtask soak oci-steps`, `oci-kills`).
#![forbid(unsafe_code)]

use std::fs;
use std::time::Duration;

use serde_json::json;
use tare_tests::Bundle;
use tare_tests::attack::repetitions;
use tare_tests::fault::{KILLED, Moments, Step, before, some, steps, traced};

/// Kills a verb before its first step, its second and so on. `prepare` makes what it needs, `look` looks at what became
/// of it.
#[track_caller]
fn kill_at_each_step(words: &[&str], prepare: impl Fn(&Bundle), look: impl Fn(&Bundle, &Step)) {
    let call = |bundle: &Bundle| {
        let words = words.iter().map(|word| if *word == "ID" { bundle.id() } else { word });
        bundle.oci(words.map(str::to_owned).collect::<Vec<_>>())
    };
    let whole = Bundle::new();
    prepare(&whole);
    let log = whole.work("strace");
    whole.apart(traced(&["-o", log.to_str().expect("a path of our own is text")], call(&whole))).ok();
    let steps = steps(fs::read_to_string(&log).expect("what strace saw").lines());
    drop(whole);
    assert!(steps.len() > 50, "{words:?} has {steps:?}");
    let mut killed = 0;
    for step in some(&steps, 8) {
        let bundle = Bundle::new();
        prepare(&bundle);
        let out = bundle.apart(traced(&["-o", "/dev/null", "-e", &before(step)], call(&bundle)));
        killed += usize::from(out.code() == KILLED);
        look(&bundle, step);
        bundle.oci(["delete", "--force", bundle.id()]).run().ok();
        assert!(!bundle.exists(), "{step:?}");
    }
    println!("{words:?}: {} steps, killed at {killed}", steps.len());
    assert!(killed > 0);
}

fn status(bundle: &Bundle) -> Option<String> {
    bundle.exists().then(|| bundle.status())
}

#[test]
fn killed_at_each_step_of_create_it_leaves_nothing_that_runs() {
    kill_at_each_step(
        &["create", "ID"],
        |_| (),
        |bundle, step| {
            let status = status(bundle);
            let fits = matches!(status.as_deref(), None | Some("stopped" | "created" | "creating"));
            assert!(fits, "{step:?}: {status:?}");
        },
    );
}

#[test]
fn killed_at_each_step_of_run_it_can_be_deleted() {
    kill_at_each_step(&["run", "--detach", "ID"], |_| (), |_, _| ());
}

#[test]
fn killed_at_each_step_of_start_it_waits_or_runs() {
    kill_at_each_step(
        &["start", "ID"],
        |bundle| bundle.created(&[]),
        |bundle, step| {
            let status = status(bundle);
            let fits = matches!(status.as_deref(), Some("created" | "running" | "stopped"));
            assert!(fits, "{step:?}: {status:?}");
            // What had not come so far can be done again.
            if status.as_deref() == Some("created") {
                bundle.oci(["start", bundle.id()]).run().ok();
                assert_eq!(bundle.status(), "running", "{step:?}");
            }
        },
    );
}

#[test]
fn killed_at_each_step_of_exec_the_container_goes_on() {
    kill_at_each_step(
        &["exec", "ID", "true"],
        |bundle| bundle.detached(&[]),
        |bundle, step| {
            assert_eq!(bundle.status(), "running", "{step:?}");
            bundle.exec(&[], "echo well").prints("well");
        },
    );
}

#[test]
fn killed_at_each_step_of_delete_it_can_be_deleted_again() {
    kill_at_each_step(&["delete", "--force", "ID"], |bundle| bundle.detached(&[]), |_, _| ());
}

#[test]
fn killed_at_each_step_of_pause_and_resume_it_can_be_deleted() {
    kill_at_each_step(&["pause", "ID"], |bundle| bundle.detached(&[]), |_, _| ());
    let paused = |bundle: &Bundle| {
        bundle.detached(&[]);
        bundle.oci(["pause", bundle.id()]).run().ok();
    };
    kill_at_each_step(&["resume", "ID"], paused, |_, _| ());
}

#[test]
fn killed_at_each_step_of_the_process_that_becomes_it_a_container_is_undone() {
    let bundle = Bundle::new();
    bundle.config(|config| config["process"]["args"] = json!(["true"]));
    let log = bundle.work("strace");
    traced(&["-f", "-o", log.to_str().expect("text")], bundle.oci(["run", bundle.id()])).run().ok();
    let log = fs::read_to_string(log).expect("what strace saw");
    let lines: Vec<(&str, &str)> = log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(pid, call)| (pid, call.trim_start()))
        .collect();
    let first = lines.first().expect("a line").0;
    let parents = steps(lines.iter().filter(|(pid, _)| *pid == first).map(|(_, call)| *call));
    let childs = lines.iter().filter(|(pid, _)| *pid != first).map(|(_, call)| *call);
    let mut childs = steps(childs.take_while(|call| !call.starts_with("execve")));
    // Of those that the parent has as well it would be the parent who dies.
    childs.retain(|step| !parents.contains(step));
    assert!(childs.len() > 50, "{childs:?}");
    let mut killed = 0;
    for step in some(&childs, 24) {
        let out =
            traced(&["-f", "-o", "/dev/null", "-e", &before(step)], bundle.oci(["run", bundle.id()])).run();
        if out.code() == KILLED {
            // The parent has had it as often this time.
            bundle.oci(["delete", "--force", bundle.id()]).run().ok();
        } else {
            killed += usize::from(out.code() != 0);
        }
        assert!(!bundle.exists(), "{step:?}: {out:#?}");
    }
    println!("{} steps of the child, killed at {killed}", childs.len());
    assert!(killed > 0);
}

/// 1,000 calls with `cargo xtask soak oci-kills`, a short form of it otherwise.
#[test]
fn of_many_calls_killed_at_random_nothing_is_left() {
    let mut moments = Moments::new();
    let (mut calls, mut starts) = (0, 0);
    while calls < repetitions(40) {
        let bundle = Bundle::new();
        let id = bundle.id();
        let life: [&[&str]; 5] = [
            &["create", id],
            &["start", id],
            &["exec", id, "true"],
            &["kill", id, "KILL"],
            &["delete", "--force", id],
        ];
        for words in life {
            // Every other one is let be, so that the later ones have something to do.
            if moments.number(2) == 0 {
                moments.kill(bundle.oci(words), Duration::from_millis(14));
                calls += 1;
            } else {
                bundle.apart(bundle.oci(words));
            }
            starts += usize::from(status(&bundle).is_some_and(|status| status == "running"));
        }
    }
    println!("{calls} calls killed; it was seen running {starts} times");
}
