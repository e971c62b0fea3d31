//! Whatever is killed whenever: the next command finds the pieces and puts them away.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tare_tests::process::Process;
use tare_tests::{Host, eventually};

/// Moments that nobody chose. The seed is printed, so that a failure can be had again.
struct Moments(u64);

impl Moments {
    fn new() -> Moments {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let seed = std::env::var("TARE_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or(now.as_nanos() as u64);
        println!("TARE_TEST_SEED={seed}");
        Moments(seed)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_nanos((self.0 >> 20) % limit.as_nanos() as u64)
    }
}

/// Processes of the binary that work on this host's roots, among them the monitors.
fn engine(host: &Host) -> Vec<Process> {
    let mark = format!("TARE_ROOT={}", host.root().display());
    let ours = |process: &Process| process.file("environ").split('\0').any(|word| word == mark);
    Process::all().into_iter().filter(ours).filter(Process::is_alive).collect()
}

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
        for process in engine(&host) {
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
    for process in engine(&host) {
        process.kill();
    }
    eventually("the monitor is dead", || engine(&host).is_empty());
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
    for process in engine(&host) {
        process.kill();
    }
    tare_tests::process::signal(first, Signal::KILL);
    eventually("both are dead", || engine(&host).is_empty());
    eventually("ps says so", || host.tare(["ps", "-q"]).run().stdout().is_empty());
    assert_eq!(host.status(&id), "exited");
    host.tare(["rm", &id]).run().ok();
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
        for process in engine(&host) {
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
