//! The runtime by itself, many times and under load: every exit code is right, and no run hangs.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tare_tests::Tare;
use tare_tests::engine::{self, Scratch, bundle};

/// A short-lived process has ended long before; a loaded machine gets the benefit of the doubt.
const LIMIT: Duration = Duration::from_secs(30);
/// More than there are processors, so that every moment of a run is interrupted in some.
const SIDE_BY_SIDE: usize = 8;

/// 2,000 runs with `cargo xtask soak oci-run`, a short form of it otherwise.
#[test]
fn of_many_short_runs_each_ends_with_its_own_code() {
    let runtime = engine::runtime();
    let scratch = Scratch::new();
    let runs: usize = std::env::var("TARE_SOAK_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let (state, next) = (scratch.at("state"), AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    let slowest = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for lane in 0..SIDE_BY_SIDE {
            let (scratch, runtime, state, next, wrong, slowest) =
                (&scratch, &runtime, &state, &next, &wrong, &slowest);
            scope.spawn(move || {
                let folder = scratch.path().join(format!("bundle-{lane}"));
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= runs {
                        return;
                    }
                    let code = i32::try_from(run % 256).expect("less than 256");
                    let name = format!("{}-{run}", scratch.name());
                    let mut spec = bundle::spec(&["/bin/sh", "-c", &format!("echo {run}; exit {code}")]);
                    spec["linux"]["cgroupsPath"] = format!("/{}/{name}", scratch.name()).into();
                    bundle::make(&folder, &spec).expect("a bundle");
                    let mut command = Command::new(runtime);
                    command.args(["--root", state, "run", "--bundle"]).arg(&folder).arg(&name);
                    let start = Instant::now();
                    let out = Tare::of(command).within(LIMIT).run();
                    let mut slowest = slowest.lock().expect("no panic while held");
                    *slowest = start.elapsed().max(*slowest);
                    if out.code() != code || out.stdout() != run.to_string() {
                        wrong.lock().expect("no panic while held").push(format!("run {run}: {out:#?}"));
                    }
                }
            });
        }
    });
    println!(
        "{runs} runs, {SIDE_BY_SIDE} side by side, the slowest took {:?}",
        slowest.into_inner().expect("no panic")
    );
    let mut wrong = wrong.into_inner().expect("no panic");
    wrong.truncate(5);
    assert!(wrong.is_empty(), "wrong ends, the first five: {}", wrong.join("\n"));
    let kept: BTreeSet<_> =
        std::fs::read_dir(&state).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let kept: Vec<_> = kept.iter().filter(|name| name.to_string_lossy().starts_with("tare-test-")).collect();
    assert!(kept.is_empty(), "state that was kept: {kept:?}");
    let left = scratch.left(|_| false);
    assert!(left.is_empty(), "left behind: {left:#?}");
}
