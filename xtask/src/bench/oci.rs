//! `cargo xtask bench oci`: the OCI runtime beside crun and runc, on the same bundle.
//!
//! Every scenario is done by the runtimes in turn, A B C A B C…, as in `bench start`, with the same meaning of
//! cold and warm. The container's program is a static `true` of a few hundred bytes, so that what is measured is
//! the runtime. Everything runs in a mount namespace of its own, where 1,000 other mounts can be made.

mod memory;
mod program;
mod report;
mod runtime;
mod scenario;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench::measure::Meter;
use crate::bench::oci::report::{Report, Row};
use crate::bench::oci::runtime::Runtime;
use crate::bench::oci::scenario::{Kind, Scenario};
use crate::bench::{PRIVATE, REST, in_private_mounts};
use crate::build;
use crate::workspace::{Workspace, is_root, option};

/// The runtime that the goals are for.
const OURS: &str = "tare-oci";
/// How many containers the scenarios of many have.
const MANY: usize = 100;

struct Options {
    runs: usize,
    binary: Option<PathBuf>,
    only: String,
}

/// `cargo xtask bench oci [--runs N] [--binary FILE] [--only WORD]`.
pub fn chore(mut words: &[&str]) -> Result<ExitCode> {
    let mut options = Options { runs: 50, binary: None, only: String::new() };
    while !words.is_empty() {
        if let Some(number) = option(&mut words, "--runs")? {
            options.runs = number.parse().with_context(|| format!("--runs {number} is no number"))?;
        } else if let Some(file) = option(&mut words, "--binary")? {
            options.binary = Some(std::path::absolute(file)?);
        } else if let Some(word) = option(&mut words, "--only")? {
            options.only = word.to_owned();
        } else {
            anyhow::bail!("bench oci does not know `{}`", words[0]);
        }
    }
    ensure!(options.runs > 0, "--runs 0 measures nothing");
    ensure!(is_root(), "bench oci needs root");
    if std::env::var_os(PRIVATE).is_none() {
        return in_private_mounts();
    }
    bench(&options)?;
    Ok(ExitCode::SUCCESS)
}

fn bench(options: &Options) -> Result<()> {
    let workspace = Workspace::find()?;
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        // Built here, so that it is never the quick build of the tests that is measured.
        None => {
            let linking = build::announce_linking(&workspace)?;
            build::build(&workspace, &linking, "release")?.binary.with_file_name(OURS)
        }
    };
    let scratch =
        tempfile::Builder::new().prefix("tare-bench-").tempdir_in("/var/tmp").context("making a folder")?;
    let (runtimes, absent) = runtime::all(scratch.path(), &binary)?;
    for name in &absent {
        println!("{name} is not there, so it is not measured");
    }
    ensure!(!runtimes.is_empty(), "there is no runtime to measure");
    let program = program::make(scratch.path())?;
    println!("the container runs {program}");

    let meter = Meter::new(scratch.path())?;
    let mut rows = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.name().contains(&options.only)) {
        println!("\n{}", kind.name());
        let work = scratch.path().join(kind.folder());
        rows.extend(measure(&meter, kind, &runtimes, &work, options.runs)?);
    }
    let memory = if "memory".contains(&options.only) {
        memory::measure(&runtimes, scratch.path())?
    } else {
        Vec::new()
    };

    let report = Report { facts: facts(&runtimes, &absent, &program), runs: options.runs, rows, memory };
    println!("\n{}", report.markdown());
    if options.only.is_empty() && runtimes[0].name == OURS {
        let folder = workspace.root.join("bench/results");
        report.write(&folder)?;
        println!("Written to {} and oci.md", folder.join("oci.json").display());
    }
    Ok(())
}

fn facts(runtimes: &[Runtime], absent: &[String], program: &str) -> Vec<(String, String)> {
    let machine = crate::bench::report::machine().into_iter();
    let mut facts: Vec<_> = machine.map(|(name, value)| (name.to_owned(), value)).collect();
    facts.push(("program in the container".to_owned(), program.to_owned()));
    facts.extend(runtimes.iter().map(|runtime| (runtime.name.clone(), runtime.version.clone())));
    if !absent.is_empty() {
        facts.push(("not there, so not measured".to_owned(), absent.join(", ")));
    }
    facts
}

/// One scenario, all runtimes in turn.
fn measure(meter: &Meter, kind: Kind, runtimes: &[Runtime], folder: &Path, runs: usize) -> Result<Vec<Row>> {
    let scenarios: Vec<Scenario<'_>> =
        runtimes.iter().map(|runtime| Scenario::prepare(kind, runtime, folder)).collect::<Result<_>>()?;
    let mut rows: Vec<Row> = runtimes.iter().map(|runtime| Row::new(kind, runtime)).collect();
    if let Some(count) = kind.many() {
        for (scenario, row) in scenarios.iter().zip(&mut rows) {
            let (wall, cpu) = scenario.many(count)?;
            row.warm.push(wall / u32::try_from(count)?);
            row.cpu = Some(cpu / u32::try_from(count)?);
        }
        return Ok(rows);
    }
    // Once for each, unmeasured: page cache, and a clear error before a long wait.
    for scenario in &scenarios {
        meter.wall(scenario)?;
    }
    for _ in 0..runs {
        for (scenario, row) in scenarios.iter().zip(&mut rows) {
            std::thread::sleep(REST);
            row.cold.push(meter.wall(scenario)?);
        }
    }
    for _ in 0..runs {
        for (scenario, row) in scenarios.iter().zip(&mut rows) {
            row.warm.push(meter.wall(scenario)?);
        }
    }
    for (scenario, row) in scenarios.iter().zip(&mut rows) {
        row.cpu = Some(meter.cpu(scenario, runs)?);
        row.syscalls = meter.syscalls(scenario)?;
        row.usage = meter.usage(scenario)?;
    }
    Ok(rows)
}

/// How many times as long the peer takes.
fn ratio(peer: Duration, tare: Duration) -> f64 {
    peer.as_secs_f64() / tare.as_secs_f64()
}
