//! The engine killed half way: each verb at every step of its command, and a monitor at every step of its own. The next
//! command completes or undoes what was begun, and in the end everything can be removed and nothing is left.
//!
//! A step is a system call: see [`tare_tests::fault`]. `TARE_SOAK_RUNS` says how many of them are tried
//! (`cargo xtask soak life-steps`).
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use tare_tests::fault::{KILLED, Step, before, some, steps, traced};
use tare_tests::{Host, eventually};

/// Steps of each verb that are tried where nobody asks for more.
const FEW: usize = 6;
/// A container that has some of everything.
const FLAGS: [&str; 13] = [
    "--name",
    "box",
    "-v",
    "data:/data",
    "-v",
    "/anonymous",
    "-p",
    "8080:80",
    "--memory",
    "64m",
    "--health-cmd",
    "true",
    "--health-interval=1s",
];
const SCRIPT: &str = "trap 'exit 7' TERM; while :; do echo on; sleep 0.1; done";

fn with_flags<'a>(verb: &[&'a str]) -> Vec<&'a str> {
    [verb, &FLAGS, &["busybox", "sh", "-c", SCRIPT]].concat()
}

fn running(host: &Host) {
    host.tare(with_flags(&["run", "-d"])).run().ok();
}

/// `None`: there is no such container.
fn state(host: &Host) -> Option<String> {
    let text = host.tare(["ps", "-a", "--format", "{{.Names}} {{.State}}"]).run().ok();
    text.lines().find_map(|line| line.strip_prefix("box ").map(str::to_owned))
}

/// After the next command it is in one of these states; `""` stands for: it is not there.
#[track_caller]
fn is_one_of(host: &Host, step: &Step, states: &[&str]) {
    let state = state(host).unwrap_or_default();
    assert!(states.contains(&&*state), "{step:?}: {state:?}");
}

/// A host, and what its state roots look like with no container.
struct Ground {
    host: Host,
    bare: Vec<PathBuf>,
}

/// Events go on for ever, and a sweep leaves a stamp.
fn listing(host: &Host) -> Vec<PathBuf> {
    let root = host.root();
    let stays = |path: &PathBuf| !path.starts_with(root.join("images")) && path.is_file();
    let mut files: Vec<PathBuf> = host.listing().into_iter().filter(stays).collect();
    // Links: a name without a container is as bad as a file.
    for folder in [root.join("names"), root.join("trash"), host.run_root().join("containers")] {
        files.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    files.extend(
        fs::read_dir(host.run_root().join("ranges")).into_iter().flatten().flatten().map(|e| e.path()),
    );
    files
}

impl Ground {
    fn new() -> Ground {
        let host = Host::new();
        host.busybox();
        let ground = Ground { host, bare: Vec::new() };
        running(&ground.host);
        ground.remove_all();
        Ground { bare: listing(&ground.host), ..ground }
    }

    fn remove_all(&self) {
        self.host.note_ids();
        let all = self.host.containers();
        if !all.is_empty() {
            self.host.tare(["rm", "-f", "-v"]).args(&all).run().ok();
        }
    }

    /// Takes everything away, which leaves what was there before.
    fn is_bare_again(&self, step: &Step) {
        self.remove_all();
        let mut said: Vec<PathBuf> = Vec::new();
        eventually(&format!("nothing is left after {step:?}"), || {
            // Marks of users that are gone are taken away where somebody looks for users.
            self.host.tare(["volume", "ls"]).run().ok();
            self.host.tare(["ps"]).run().ok();
            let all = listing(&self.host);
            let more: Vec<_> = all.into_iter().filter(|path| !self.bare.contains(path)).collect();
            if more != said {
                println!("{step:?}: {more:?}");
            }
            said = more;
            said.is_empty()
        });
    }
}

/// Kills a verb's command before its first step, its second and so on. `prepare` makes what it needs, `look` looks at what
/// became of it.
#[track_caller]
fn kill_at_each_step(words: &[&str], prepare: impl Fn(&Host), look: impl Fn(&Host, &Step)) {
    let ground = Ground::new();
    let host = &ground.host;
    prepare(host);
    let log = host.work().join("strace");
    host.note_ids();
    traced(&["-o", log.to_str().expect("text")], host.tare(words)).run().ok();
    let steps = steps(fs::read_to_string(&log).expect("what strace saw").lines());
    ground.remove_all();
    assert!(steps.len() > 30, "{words:?} has {steps:?}");
    let mut killed = 0;
    for step in some(&steps, FEW) {
        prepare(host);
        let out = traced(&["-o", "/dev/null", "-e", &before(step)], host.tare(words)).run();
        killed += usize::from(out.code() == KILLED);
        host.note_ids();
        look(host, step);
        ground.is_bare_again(step);
    }
    println!("{words:?}: {} steps, killed at {killed}", steps.len());
    assert!(killed > 0);
}

#[test]
fn killed_at_any_step_of_run_it_runs_or_was_never_there() {
    kill_at_each_step(
        &with_flags(&["run", "-d"]),
        |_| (),
        |host, step| {
            // The monitor has been told to start it, or has not.
            eventually("it runs or is gone", || matches!(state(host).as_deref(), None | Some("running")));
            if state(host).is_some() {
                host.tare(["exec", "box", "true"]).run().ok();
            } else {
                running(host);
            }
            is_one_of(host, step, &["running"]);
        },
    );
}

#[test]
fn killed_at_any_step_of_a_run_in_the_foreground_it_ends_and_goes() {
    kill_at_each_step(
        &["run", "--rm", "--name", "box", "-v", "/anonymous", "busybox", "sh", "-c", "sleep 0.1; echo on"],
        |_| (),
        |host, _| eventually("it is gone", || state(host).is_none()),
    );
}

#[test]
fn killed_at_any_step_of_create_it_is_whole_or_gone() {
    kill_at_each_step(
        &with_flags(&["create"]),
        |_| (),
        |host, step| {
            is_one_of(host, step, &["", "created"]);
            if state(host).is_none() {
                host.tare(with_flags(&["create"])).run().ok();
            }
            host.tare(["start", "box"]).run().ok();
            is_one_of(host, step, &["running"]);
        },
    );
}

#[test]
fn killed_at_any_step_of_start_it_can_be_started() {
    kill_at_each_step(
        &["start", "box"],
        |host| drop(host.tare(with_flags(&["create"])).run().ok()),
        |host, step| {
            eventually("it runs or waits", || {
                matches!(state(host).as_deref(), Some("created" | "running" | "exited"))
            });
            host.tare(["start", "box"]).run().ok();
            is_one_of(host, step, &["running"]);
        },
    );
}

#[test]
fn killed_at_any_step_of_stop_it_can_be_stopped() {
    // Before its first word it does not heed signals.
    let ready = |host: &Host| {
        running(host);
        eventually("it says something", || !host.tare(["logs", "box"]).run().ok().is_empty());
    };
    kill_at_each_step(&["stop", "box"], ready, |host, step| {
        is_one_of(host, step, &["running", "exited"]);
        host.tare(["stop", "box"]).run().ok();
        is_one_of(host, step, &["exited"]);
        assert_eq!(host.inspect("box")["State"]["ExitCode"], 7, "{step:?}");
    });
}

#[test]
fn killed_at_any_step_of_restart_it_runs() {
    kill_at_each_step(&["restart", "box"], running, |host, step| {
        eventually("it runs", || state(host).as_deref() == Some("running"));
        host.tare(["exec", "box", "true"]).run().ok();
        host.tare(["restart", "box"]).run().ok();
        is_one_of(host, step, &["running"]);
    });
}

#[test]
fn killed_at_any_step_of_pause_and_unpause_it_can_go_on() {
    kill_at_each_step(&["pause", "box"], running, |host, step| {
        is_one_of(host, step, &["running", "paused"]);
        // The order may still be on its way: with a second one there is nothing more to come.
        host.tare(["pause", "box"]).run();
        is_one_of(host, step, &["paused"]);
        host.tare(["unpause", "box"]).run().ok();
        host.tare(["exec", "box", "true"]).run().ok();
    });
    let paused = |host: &Host| {
        running(host);
        host.tare(["pause", "box"]).run().ok();
    };
    kill_at_each_step(&["unpause", "box"], paused, |host, step| {
        is_one_of(host, step, &["running", "paused"]);
    });
}

#[test]
fn killed_at_any_step_of_rm_it_can_be_removed() {
    kill_at_each_step(&["rm", "-f", "-v", "box"], running, |host, step| {
        eventually("it runs, has ended or is gone", || {
            matches!(state(host).as_deref(), None | Some("running" | "exited"))
        });
        host.tare(["rm", "-f", "-v", "box"]).run().ok();
        is_one_of(host, step, &[""]);
        // Its name and its port are free.
        running(host);
    });
}

#[test]
fn a_container_whose_removal_was_killed_on_the_way_still_has_its_name() {
    let host = Host::new();
    host.busybox();
    host.tare(["create", "--name", "box", "busybox", "true"]).run().ok();
    // The first file that `rm` moves is the container's folder.
    let step = ("rename".to_owned(), 1);
    let killed = traced(&["-o", "/dev/null", "-e", &before(&step)], host.tare(["rm", "box"])).run();
    killed.fails(KILLED);
    assert_eq!(host.status("box"), "created");
    host.tare(["rm", "box"]).run().ok();
    assert_eq!(host.tare(["ps", "-aq"]).run().ok(), "");
}

#[test]
fn killed_at_any_step_of_rename_it_has_one_name() {
    kill_at_each_step(&["rename", "box", "chest"], running, |host, step| {
        let names = host.tare(["ps", "--format", "{{.Names}}"]).run().ok();
        let free = match &*names {
            "box" => "chest",
            "chest" => "box",
            names => panic!("{step:?}: {names:?}"),
        };
        host.tare(["inspect", free]).run().fails(1);
        host.tare(["create", "--name", free, "busybox", "true"]).run().ok();
    });
}

#[test]
fn killed_at_any_step_of_update_it_can_be_updated() {
    let update = ["update", "--memory", "48m", "--memory-swap", "96m", "--restart", "always", "box"];
    kill_at_each_step(&update, running, |host, step| {
        host.tare(update).run().ok();
        assert_eq!(host.inspect("box")["HostConfig"]["Memory"], 48 << 20, "{step:?}");
    });
}

#[test]
fn killed_at_any_step_of_exec_the_container_goes_on() {
    kill_at_each_step(&["exec", "box", "true"], running, |host, step| {
        is_one_of(host, step, &["running"]);
        host.tare(["exec", "box", "echo", "well"]).run().prints("well");
    });
}
