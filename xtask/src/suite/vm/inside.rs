//! What runs in the guest: a plan of test programs one after another, and the leak check after all of them.
//!
//! Each result goes to stdout as one marked line, which the host side picks out; what a failed program said
//! goes there as it is.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::suite::leaks::{self, Snapshot};
use crate::suite::summary::Outcome;
use crate::suite::vm::Job;
use crate::{vm, workspace};

/// The hidden chore.
pub const TESTS: &str = "vm-tests";

/// How a line begins that has a result.
const MARK: &str = "::tare-vm-result:: ";

/// What one program may take: the longest takes about a third of it.
const LIMIT: Duration = Duration::from_secs(300);

/// A result: what was run, how it ended, how long it took.
type Ended = (String, Outcome, Duration);

/// `xtask vm-tests PLAN BINARY`, in the guest.
pub fn tests_chore(words: &[&str]) -> Result<ExitCode> {
    let [plan, binary] = words else { bail!("{TESTS} is for `cargo xtask test` to call") };
    let plan: Value = serde_json::from_slice(&fs::read(plan).with_context(|| format!("reading {plan}"))?)?;
    let jobs: Vec<Job> = plan.as_array().into_iter().flatten().filter_map(Job::from_json).collect();
    let binary = Path::new(binary);
    if jobs.iter().any(|job| job.as_user) {
        keep_user_manager()?;
    }
    let before = Snapshot::take(binary);
    let mut good = true;
    let mut tell = |name: &str, work: &mut dyn FnMut() -> Result<Outcome>| {
        let start = Instant::now();
        let outcome = work().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        good &= matches!(outcome, Outcome::Passed);
        println!("{}", result_line(&(name.to_owned(), outcome, start.elapsed())));
    };
    for job in &jobs {
        tell(&job.name, &mut || run(job));
    }
    tell("leak check", &mut || leaks::check(&before, binary));
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one program; says what it said if that was not "ok".
fn run(job: &Job) -> Result<Outcome> {
    let log = Path::new("/tmp/tare-vm-test.log");
    let out = File::create(log)?;
    let mut command = if job.as_user { as_user(job) } else { Command::new(&job.program) };
    command.args(&job.words).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    // A group of its own, so that what hangs goes as a whole.
    let mut child = command.process_group(0).spawn().with_context(|| format!("starting {}", job.program))?;
    let start = Instant::now();
    let status: Option<ExitStatus> = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > LIMIT {
            if let Some(group) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
                rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
            }
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(50));
    };
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    if status.is_some_and(|status| status.success()) {
        println!("{}: {}", job.name, last_words(&text));
        return Ok(Outcome::Passed);
    }
    println!("--- {} said:\n{}\n---", job.name, text.trim_end());
    Ok(Outcome::Failed(match status {
        None => format!("did not end within {} s; {}", LIMIT.as_secs(), last_words(&text)),
        Some(status) => why(&text).unwrap_or_else(|| format!("{status}; see its output above")),
    }))
}

/// Starts the user's own systemd, to stay: its mounts and processes are there before the tests and after them, and
/// not half a minute longer than the last session, as they are by themselves.
fn keep_user_manager() -> Result<()> {
    workspace::run(Command::new("loginctl").args(["enable-linger", "tester"]))?;
    workspace::run(Command::new("systemctl").args(["start", "user@4000.service"]))
}

/// The command that starts a program in the user's session, with our environment.
fn as_user(job: &Job) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["/run/tare-vm/as-user", "env"]);
    let passed = std::env::vars().filter(|(name, _)| vm::is_passed(name));
    command.args(passed.map(|(name, value)| format!("{name}={value}"))).arg(&job.program);
    command
}

/// The line in which a test program sums up.
fn last_words(text: &str) -> &str {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("test result: "));
    line.unwrap_or("it has not summed up")
}

/// Which tests failed.
fn why(text: &str) -> Option<String> {
    let failed = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failed: Vec<&str> = failed.collect();
    (!failed.is_empty()).then(|| format!("{} failed: {}", failed.len(), failed.join(", ")))
}

fn result_line((name, outcome, took): &Ended) -> String {
    let (result, why) = match outcome {
        Outcome::Passed => ("ok", ""),
        Outcome::Failed(why) => ("failed", why.as_str()),
        Outcome::NotRun(why) => ("not run", why.as_str()),
    };
    let value = json!({ "name": name, "result": result, "why": why, "ms": took.as_millis() as u64 });
    format!("{MARK}{value}")
}

/// The result in a line, if it has one.
pub fn result_in(line: &str) -> Option<Ended> {
    let value: Value = serde_json::from_str(line.trim().strip_prefix(MARK)?).ok()?;
    let why = value["why"].as_str()?.to_owned();
    let outcome = match value["result"].as_str()? {
        "ok" => Outcome::Passed,
        "failed" => Outcome::Failed(why),
        _ => Outcome::NotRun(why),
    };
    Some((value["name"].as_str()?.to_owned(), outcome, Duration::from_millis(value["ms"].as_u64()?)))
}

/// A result for people who watch.
pub fn spoken((name, outcome, took): &Ended) -> String {
    let outcome = match outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Failed(why) => format!("FAILED: {why}"),
        Outcome::NotRun(why) => format!("NOT RUN: {why}"),
    };
    format!("{name}: {outcome} ({:.1} s)", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_comes_through_a_line() {
        let ended =
            ("oci (user)".to_owned(), Outcome::Failed("1 failed: a::b".to_owned()), Duration::new(3, 0));
        let again = result_in(&result_line(&ended)).unwrap();
        assert_eq!(format!("{ended:?}"), format!("{again:?}"));
        assert_eq!(spoken(&again), "oci (user): FAILED: 1 failed: a::b (3.0 s)");
        assert!(result_in("test result: ok").is_none());
    }

    #[test]
    fn failed_tests_are_named() {
        let text = "test a ... ok\ntest b::c ... FAILED\n\ntest result: FAILED. 1 passed; 1 failed\n";
        assert_eq!(why(text).unwrap(), "1 failed: b::c");
        assert_eq!(last_words(text), "FAILED. 1 passed; 1 failed");
        assert_eq!(why("killed"), None);
    }
}
