//! Whatever is killed whenever: the next command finds the pieces and puts them away.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tare_tests::fault::Moments;
use tare_tests::process::Process;
use tare_tests::{Host, eventually};

#[test]
fn a_run_that_is_killed_at_any_moment_leaves_nothing() {
    let host = Host::new();
    host.busybox();
    let mut moments = Moments::new();
    for _ in 0..20 {
        let running = host.tare(["run", "--rm", "--memory", "64m", "busybox", "true"]).start();
        std::thread::sleep(moments.below(Duration::from_millis(40)));
        host.note_ids();
        running.signal(Signal::KILL);
        running.wait();
        host.tare(["ps"]).run().ok();
    }
    // The container itself runs on to its end; then its monitor, or the next command, removes it.
    eventually("no container is left", || host.containers().is_empty());
}

#[test]
fn when_the_whole_engine_is_killed_at_any_moment_the_next_command_sweeps() {
    let host = Host::new();
    host.busybox();
    let mut moments = Moments::new();
    for _ in 0..20 {
        let running = host.tare(["run", "--rm", "--memory", "64m", "busybox", "sleep", "1"]).start();
        std::thread::sleep(moments.below(Duration::from_millis(60)));
        host.note_ids();
        for process in host.processes() {
            process.kill();
        }
        running.signal(Signal::KILL);
        running.wait();
        host.tare(["ps"]).run().ok();
    }
    eventually("no container is left", || host.containers().is_empty());
}

#[test]
fn a_container_outlives_its_monitor_and_can_be_stopped() {
    let host = Host::new();
    let id = host.detached(&["--name", "orphan"], "sleep 60");
    for process in host.processes() {
        process.kill();
    }
    eventually("the monitor is dead", || host.processes().is_empty());
    assert_eq!(host.status("orphan"), "running");
    host.tare(["stop", "-t", "1", "orphan"]).run().ok();
    assert_ne!(host.status("orphan"), "running");
    host.tare(["rm", &id]).run().ok();
}

#[test]
fn a_container_that_died_with_its_monitor_is_seen_as_ended() {
    let host = Host::new();
    let id = host.detached(&["--name", "both"], "sleep 60");
    let first = host.pid("both");
    for process in host.processes() {
        process.kill();
    }
    tare_tests::process::signal(first, Signal::KILL);
    eventually("both are dead", || host.processes().is_empty());
    eventually("ps says so", || host.tare(["ps", "-q"]).run().stdout().is_empty());
    assert_eq!(host.status(&id), "exited");
    host.tare(["rm", &id]).run().ok();
}

#[test]
fn a_name_that_a_killed_rename_has_left_is_given_back() {
    let host = Host::new();
    let id = host.detached(&["--name", "new"], "sleep 60");
    std::os::unix::fs::symlink(&id, host.root().join("names/old")).unwrap();
    host.tare(["ps"]).run().ok();
    host.tare(["inspect", "old"]).run().fails(1);
    assert_eq!(host.status("new"), "running");
}

#[test]
fn a_name_that_a_killed_removal_or_rename_has_left_can_be_given_at_once() {
    let host = Host::new();
    host.busybox();
    let leave = |name: &str, id: &str| {
        std::os::unix::fs::symlink(id, host.root().join("names").join(name)).expect("a link");
    };
    host.tare(["create", "--name", "box", "busybox", "true"]).run().ok();
    leave("gone", &"a".repeat(64));
    let id = host.tare(["create", "--name", "gone", "busybox", "true"]).run().ok();
    leave("left", &"b".repeat(64));
    host.tare(["rename", "gone", "left"]).run().ok();
    // Killed half way, and given again.
    leave("half", &id);
    host.tare(["rename", "left", "half"]).run().ok();
    assert_eq!(host.inspect("half")["Id"], id);
    host.tare(["rename", "half", "box"]).run().fails(1).complains_of(&["in use"]);
}

#[test]
fn a_start_does_not_wait_for_what_a_killed_removal_has_left_to_delete() {
    let host = Host::new();
    host.sh(&[], "true").ok();
    let trash = host.root().join("trash").join("a".repeat(64));
    std::fs::create_dir_all(&trash).expect("a folder");
    // What is in the trash is read first, and this stands for a disk that takes its time.
    let file = trash.join("container.json");
    let made = std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo can be called");
    assert!(made.success());
    // The last sweep was long ago.
    let swept =
        std::fs::File::options().write(true).open(host.run_root().join("swept")).expect("there was one");
    swept.set_modified(std::time::UNIX_EPOCH).expect("another time");
    host.sh(&[], "true").ok();
    drop(std::fs::File::options().write(true).open(&file).expect("somebody reads it"));
    eventually("it is deleted", || !trash.exists());
}

#[test]
fn volumes_of_a_container_that_nobody_was_told_of_go_with_it() {
    let host = Host::new();
    host.busybox();
    let create = ["create", "-v", "/anonymous", "-v", "named:/named", "busybox", "true"];
    let id = host.tare(create).run().ok();
    // What a kill leaves just before the end.
    std::fs::remove_file(host.root().join("containers").join(id).join("status.json")).unwrap();
    host.tare(["ps"]).run().ok();
    assert!(host.containers().is_empty());
    assert_eq!(host.tare(["volume", "ls", "-q"]).run().ok(), "named");
}

#[test]
fn what_several_start_at_once_is_started_once_and_all_are_content() {
    let host = Host::new();
    host.busybox();
    host.tare(["create", "--name", "box", "busybox", "sleep", "60"]).run().ok();
    for _ in 0..4 {
        let starts: Vec<_> = (0..4).map(|_| host.tare(["start", "box"]).start()).collect();
        for start in starts {
            start.wait().ok();
        }
        assert_eq!(host.status("box"), "running");
        host.tare(["stop", "-t", "0", "box"]).run().ok();
    }
}

#[test]
fn a_hundred_starts_leave_nothing() {
    let host = Host::new();
    host.busybox();
    host.leaves_no_trace(|| {
        for _ in 0..100 {
            host.tare(["run", "--rm", "--network", "none", "busybox", "true"]).run().ok();
        }
    });
}

#[test]
fn many_at_once_all_end_with_their_own_code() {
    let host = Host::new();
    host.busybox();
    let runs: Vec<_> = (0..20)
        .map(|code: i32| {
            (code, host.tare(["run", "--rm", "busybox", "sh", "-c"]).arg(format!("exit {code}")).start())
        })
        .collect();
    for (code, running) in runs {
        running.wait().fails(code);
    }
    assert!(host.containers().is_empty());
}

/// 1,000 runs with `cargo xtask soak kills`, a short form of it otherwise.
#[test]
fn of_many_runs_some_killed_at_random_nothing_is_left() {
    let host = Host::new();
    host.busybox();
    let runs: u32 = std::env::var("TARE_SOAK_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut moments = Moments::new();
    let mut killed = 0;
    for run in 0..runs {
        let running =
            host.tare(["run", "--rm", "--memory", "64m", "--network", "none", "busybox", "true"]).start();
        if run % 10 != 9 {
            running.wait().ok();
            continue;
        }
        // In turn the command, its monitor, and both; the whole of a run takes about 20 ms.
        std::thread::sleep(moments.below(Duration::from_millis(20)));
        host.note_ids();
        let command = running.id();
        for process in host.processes() {
            let is_command = process.id == command;
            if killed % 3 == 2 || is_command == (killed % 3 == 0) {
                process.kill();
            }
        }
        killed += 1;
        running.wait();
    }
    println!("{runs} runs, {killed} of them killed");
    host.tare(["ps"]).run().ok();
    eventually("nothing is left", || {
        host.tare(["ps", "-aq"]).run().ok().is_empty()
            && ["state/containers", "state/trash", "state/names", "run/containers", "run/ranges"].iter().all(
                |name| {
                    let folder = match name.split_once('/') {
                        Some(("state", rest)) => host.root().join(rest),
                        Some((_, rest)) => host.run_root().join(rest),
                        None => unreachable!("each has a slash"),
                    };
                    std::fs::read_dir(folder).map_or(true, |entries| entries.count() == 0)
                },
            )
    });
}

#[test]
fn what_a_failed_test_leaves_is_taken_away_even_if_it_is_frozen() {
    let host = Host::new();
    let id = host.detached(&["--network", "none"], "sleep 600");
    host.tare(["pause", &id]).run().ok();
    let pid = host.pid(&id);
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let folders: Vec<_> = text
        .lines()
        .filter(|line| line.contains(&id))
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .map(|(controllers, path)| {
            Path::new("/sys/fs/cgroup").join(controllers).join(path.trim_start_matches('/'))
        })
        .collect();
    assert!(folders.iter().any(|folder| folder.exists()), "{folders:?}");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _host = host;
        std::panic::resume_unwind(Box::new("a test fails"));
    }));
    assert!(failed.is_err());
    assert!(Process::by_id(pid).is_none_or(|process| !process.is_alive()), "{id} lives");
    assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
}
