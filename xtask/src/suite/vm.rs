//! The vm lane: tests that this machine cannot give a home, in guests that can (see `crate::vm`).
//!
//! ```text
//! table (table.rs) + test programs (programs.rs) -> a plan for each guest, a file -> one boot of the guest
//!   -> `xtask vm-tests PLAN` runs it there (inside.rs) -> a line for each result -> summary
//! ```
//!
//! A guest is booted once for its whole plan, because booting takes as long as a dozen tests; only where the
//! emulation broke its kernel does what is left get another (`vm::BROKEN_BY_EMULATION`). It sees this
//! machine's files, so the test programs are compiled here; it writes elsewhere, so nothing of its work stays.

mod inside;
mod programs;
mod table;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

pub use inside::{TESTS, tests_chore};

use crate::suite::Suite;
use crate::suite::summary::{Outcome, Summary};
use crate::suite::vm::programs::Program;
use crate::suite::vm::table::{Flavour, TABLE};
use crate::vm::{self, Kernel, Options};

/// What one guest may take in all. It is there to end what hangs; the plans are made for a third of it.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// One test program to be run in a guest.
#[derive(Debug)]
struct Job {
    /// What the summary calls it.
    name: String,
    program: String,
    words: Vec<String>,
    /// In a login session of the guest's ordinary user.
    as_user: bool,
}

impl Job {
    fn to_json(&self) -> Value {
        json!({ "name": self.name, "program": self.program, "words": self.words, "as_user": self.as_user })
    }

    fn from_json(value: &Value) -> Option<Job> {
        let words = value["words"].as_array()?.iter().filter_map(Value::as_str);
        Some(Job {
            name: value["name"].as_str()?.to_owned(),
            program: value["program"].as_str()?.to_owned(),
            words: words.map(str::to_owned).collect(),
            as_user: value["as_user"].as_bool()?,
        })
    }
}

/// Runs the lane: compiles, makes the test inputs, boots each guest in turn.
pub fn lane(suite: &Suite, binary: &Path, summary: &mut Summary) {
    let mut programs = None;
    summary.step("compile guests' tests", || {
        programs = Some(programs::compile(suite)?);
        // The inputs are made here: a guest would take minutes, and could not keep them.
        tare_tests::busybox::cached_archive_in(&suite.cache());
        tare_tests::debian::archive_in(&suite.cache());
        Ok(Outcome::Passed)
    });
    let Some(programs) = programs else { return };
    for flavour in [Flavour::Bare, Flavour::Systemd] {
        let jobs = jobs(flavour, &programs, &suite.filters);
        let boot = format!("vm {flavour}");
        let mut results = Vec::new();
        summary.step(&boot, || run(suite, binary, flavour, &jobs, &mut results));
        for (name, outcome, took) in results {
            summary.add(format!("  {name}"), outcome, took);
        }
    }
}

/// What the table says of the programs that there are.
fn jobs(flavour: Flavour, programs: &[Program], filters: &[String]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for row in TABLE.iter().filter(|row| row.flavour == flavour) {
        for program in programs.iter().filter(|program| row.takes(&program.package, &program.name)) {
            let mut words = vec!["--test-threads=4".to_owned()];
            words.extend(row.skip.iter().flat_map(|(test, _)| ["--skip".to_owned(), (*test).to_owned()]));
            words.extend(filters.iter().cloned());
            let who = if row.as_user { " (user)" } else { "" };
            jobs.push(Job {
                name: format!("{}{who}", program.name),
                program: program.path.clone(),
                words,
                as_user: row.as_user,
            });
        }
    }
    jobs
}

/// Runs the jobs in guests until each has its result; one that never came is a failure.
fn run(
    suite: &Suite,
    binary: &Path,
    flavour: Flavour,
    jobs: &[Job],
    results: &mut Vec<(String, Outcome, Duration)>,
) -> Result<Outcome> {
    for boot in 1.. {
        let status = run_in_guest(suite, binary, flavour, &without_result(jobs, results), results)?;
        if status.code() == Some(vm::BROKEN_BY_EMULATION.into()) && boot < BOOTS {
            println!("vm {flavour}: what has no result yet runs in a new guest");
            continue;
        }
        let missing = without_result(jobs, results);
        for job in &missing {
            let why = format!("the guest ended before it ({status})");
            results.push((job.name.clone(), Outcome::NotRun(why), Duration::ZERO));
        }
        let failed = results.iter().any(|(_, outcome, _)| !matches!(outcome, Outcome::Passed));
        return Ok(match (status.code(), failed) {
            (Some(0), false) => Outcome::Passed,
            // Its rows say what.
            (Some(0 | 1), true) if missing.is_empty() => Outcome::Failed("see below".to_owned()),
            _ => Outcome::Failed(format!("the guest ended with {status}; what it said is above")),
        });
    }
    unreachable!("the last boot returns")
}

fn without_result<'a>(jobs: &'a [Job], results: &[(String, Outcome, Duration)]) -> Vec<&'a Job> {
    jobs.iter().filter(|job| !results.iter().any(|(name, ..)| *name == job.name)).collect()
}

/// How many guests the jobs get when the emulation breaks one after the other.
const BOOTS: u32 = 3;

/// Boots a guest for the jobs and reads their results, and that of the leak check after them.
fn run_in_guest(
    suite: &Suite,
    binary: &Path,
    flavour: Flavour,
    jobs: &[&Job],
    results: &mut Vec<(String, Outcome, Duration)>,
) -> Result<ExitStatus> {
    // In a folder that the guest sees under the same path.
    fs::create_dir_all(suite.workspace.target.join("vm"))?;
    let plan = suite.workspace.target.join("vm").join(format!("plan-{flavour}.json"));
    let list: Vec<Value> = jobs.iter().map(|job| job.to_json()).collect();
    fs::write(&plan, serde_json::to_string_pretty(&list)?)?;
    let words = [std::env::current_exe()?, TESTS.into(), plan, binary.to_owned()];
    let options = Options {
        systemd: flavour == Flavour::Systemd,
        user: false,
        kernel: Kernel::default(),
        timeout: LIMIT,
        command: words.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
    };
    let mut command = vm::command(&suite.workspace, &options)?;
    command.env("TARE_BIN", binary).env("TARE_TEST_CACHE", suite.cache());
    let mut guest = command.stdout(Stdio::piped()).spawn().context("starting the guest")?;
    let out = guest.stdout.take().context("the guest has no stdout")?;
    for line in BufReader::new(out).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        match inside::result_in(&line) {
            Some(result) => {
                println!("{}", inside::spoken(&result));
                results.push(result);
            }
            None => println!("{line}"),
        }
    }
    Ok(guest.wait()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_through_the_plan_unchanged() {
        let words = vec!["--skip".to_owned(), "it's \"this\"".to_owned()];
        let job = Job { name: "cgroup".to_owned(), program: "/p".to_owned(), words, as_user: true };
        let again = Job::from_json(&job.to_json()).unwrap();
        assert_eq!(format!("{job:?}"), format!("{again:?}"));
    }

    #[test]
    fn the_table_chooses_programs_by_package_and_pattern() {
        let program = |package: &str, name: &str| Program {
            package: package.to_owned(),
            name: name.to_owned(),
            path: format!("/{name}"),
        };
        let programs = [
            program("tare-cgroup", "effects"),
            program("tare-image", "image"),
            program("tare-tests", "oci_rootless_run"),
            program("tare-tests", "rates"),
        ];
        let names = |flavour| -> Vec<String> {
            jobs(flavour, &programs, &[]).into_iter().map(|job| job.name).collect()
        };
        assert_eq!(names(Flavour::Bare), ["effects"]);
        assert_eq!(names(Flavour::Systemd), ["effects", "oci_rootless_run (user)"]);
    }
}
