//! `cargo xtask bench start` and `bench oci`: what a container's start costs, beside the peers that are installed.
//!
//! Absolute figures drift with the machine and its load, so the contenders run in turn, A B C A B C…, and what
//! counts is their ratio. Two modes, because a tight loop keeps the kernel's locks warm and hides costs that a
//! person or a CI job always pays: *cold* rests 20 ms before each run, *warm* does not.

mod contender;
mod engine;
mod image;
mod measure;
mod network;
mod oci;
mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::bench::contender::Contender;
use crate::bench::measure::Meter;
use crate::bench::report::{Figures, Report};
use crate::build;
use crate::workspace::{Workspace, is_root, option};

const REST: Duration = Duration::from_millis(20);

struct Options {
    runs: usize,
    image: String,
    binary: Option<PathBuf>,
}

/// `cargo xtask bench start|oci|image|engine|network OPTIONS`.
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    match words.split_first() {
        Some((&"start", rest)) => start_chore(rest),
        Some((&"oci", rest)) => oci::chore(rest),
        Some((&"image", rest)) => image::chore(rest),
        Some((&"engine", rest)) => engine::chore(rest),
        Some((&"network", rest)) => network::chore(rest),
        _ => bail!("the benches are start, oci, image, engine and network"),
    }
}

/// `cargo xtask bench start [--runs N] [--image NAME] [--binary FILE]`.
fn start_chore(mut words: &[&str]) -> Result<ExitCode> {
    let mut options = Options { runs: 50, image: "busybox".to_owned(), binary: None };
    while !words.is_empty() {
        if let Some(number) = option(&mut words, "--runs")? {
            options.runs = number.parse().with_context(|| format!("--runs {number} is no number"))?;
        } else if let Some(name) = option(&mut words, "--image")? {
            options.image = name.to_owned();
        } else if let Some(file) = option(&mut words, "--binary")? {
            options.binary = Some(std::path::absolute(file)?);
        } else {
            bail!("bench start does not know `{}`", words[0]);
        }
    }
    ensure!(options.runs > 0, "--runs 0 measures nothing");
    ensure!(is_root(), "bench start needs root: runc and crun do, so that like is compared with like");
    if contender::peers_need_plain_v1() {
        return in_private_mounts();
    }
    start(&options)?;
    Ok(ExitCode::SUCCESS)
}

/// Says to the chore that it runs in a mount namespace of its own already.
const PRIVATE: &str = "TARE_BENCH_PRIVATE_MOUNTS";

/// Runs the same chore again in a mount namespace of its own, so that the machine keeps its mounts. Where a
/// hybrid cgroup tree has a v2 half that keeps crun from starting, it is not to be seen there, for every
/// contender alike.
fn in_private_mounts() -> Result<ExitCode> {
    let mut hide = "exec \"$0\" \"$@\"".to_owned();
    if contender::peers_need_plain_v1() {
        println!("crun refuses a hybrid cgroup tree, so everything is measured with its v2 half hidden");
        // crun goes on to make folders there, which would stay in the tree below for ever.
        let empty =
            "umount -l /sys/fs/cgroup/unified && mount -t tmpfs tare-bench /sys/fs/cgroup/unified && ";
        hide.insert_str(0, empty);
    }
    let status = Command::new("unshare")
        .env(PRIVATE, "1")
        .args(["--mount", "--propagation", "private", "sh", "-c", &hide])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .status()
        .context("starting unshare (Debian package util-linux)")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(options: &Options) -> Result<()> {
    let workspace = Workspace::find()?;
    let (binary, linking) = match &options.binary {
        Some(binary) => (binary.clone(), "as given by --binary".to_owned()),
        None => {
            let linking = build::announce_linking(&workspace)?;
            (build::build(&workspace, &linking, "release")?.binary, linking.to_string())
        }
    };

    // Not /tmp, which may be memory: the upper folder of a real container is on a disk.
    let scratch =
        tempfile::Builder::new().prefix("tare-bench-").tempdir_in("/var/tmp").context("making a folder")?;
    let (contenders, absent) = contender::all(scratch.path(), &binary, &options.image)?;
    for name in &absent {
        println!("{name} is not installed, so it is not measured (Debian package {name})");
    }
    let meter = Meter::new(scratch.path())?;
    let figures = measure(&meter, &contenders, options.runs)?;

    let report = Report::new(linking, options.runs, &contenders, figures, absent);
    let folder = workspace.root.join("bench/results");
    report.write(&folder)?;
    println!("\n{}", report.markdown());
    println!("Written to {} and start.md", folder.join("start.json").display());
    Ok(())
}

fn measure(meter: &Meter, contenders: &[Contender], runs: usize) -> Result<Vec<Figures>> {
    let mut figures: Vec<Figures> = contenders.iter().map(|_| Figures::default()).collect();
    // Once for each, unmeasured: page cache, and a clear error before a long wait.
    for contender in contenders {
        meter.wall(contender)?;
    }
    println!("cold: {runs} runs of each in turn, {} ms of rest before each", REST.as_millis());
    for _ in 0..runs {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            std::thread::sleep(REST);
            figures.cold.push(meter.wall(contender)?);
        }
    }
    println!("warm: {runs} runs of each in turn, without a rest");
    for _ in 0..runs {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            figures.warm.push(meter.wall(contender)?);
        }
    }
    println!("CPU time and system calls");
    for (contender, figures) in contenders.iter().zip(&mut figures) {
        figures.cpu = Some(meter.cpu(contender, runs)?);
        figures.syscalls = meter.syscalls(contender)?;
    }
    Ok(figures)
}
