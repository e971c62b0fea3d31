//! `cargo xtask test`: the README's second command, and what the CI runs.
//!
//! ```text
//! packages -> fmt -> clippy -> layers -> unit tests -> binary -> host tests -> leak check -> guests -> summary
//! ```
//!
//! A step that fails does not stop the ones that can still say something. All compiling is done with one
//! profile and one linking, so that nothing is built twice, and the tests run what users get: a static binary.

mod leaks;
mod packages;
mod summary;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::linking::Linking;
use crate::suite::leaks::Snapshot;
use crate::suite::summary::{Outcome, Summary};
use crate::workspace::{Workspace, is_root, option};
use crate::{build, layers, workspace};

const PROFILE: &str = "ci";

pub use vm::{TESTS, tests_chore};

/// Which tests were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    All,
    Unit,
    Host,
    Vm,
}

/// `cargo xtask test [--only unit|host|vm] [FILTER…]`.
pub fn chore(mut words: &[&str]) -> Result<ExitCode> {
    let mut lane = Lane::All;
    let mut filters = Vec::new();
    while let Some((first, rest)) = words.split_first() {
        match option(&mut words, "--only")? {
            Some("unit") => lane = Lane::Unit,
            Some("host") => lane = Lane::Host,
            Some("vm") => lane = Lane::Vm,
            Some(other) => bail!("there is no lane `{other}`: it is unit, host or vm"),
            None if first.starts_with('-') => bail!("test does not know `{first}`"),
            None => {
                filters.push((*first).to_owned());
                words = rest;
            }
        }
    }

    let workspace = Workspace::find()?;
    let linking = build::announce_linking(&workspace)?;
    let suite = Suite { workspace, linking, filters };
    let mut summary = Summary::default();
    // First of all: unit tests compare with libraries and programs of others as well.
    summary.step("packages", if is_root() { packages::install_missing } else { packages::name_missing });
    if matches!(lane, Lane::All | Lane::Unit) {
        suite.unit_lane(&mut summary);
    }
    if lane != Lane::Unit
        && let Some(binary) = suite.prepare(&mut summary)
    {
        if lane != Lane::Vm {
            suite.host_lane(&binary, &mut summary);
        }
        if lane != Lane::Host {
            vm::lane(&suite, &binary, &mut summary);
        }
    }
    summary.print();
    Ok(summary.exit_code())
}

struct Suite {
    workspace: Workspace,
    linking: Linking,
    filters: Vec<String>,
}

impl Suite {
    /// Everything that needs no container: formatting, lints, layers, unit tests.
    fn unit_lane(&self, summary: &mut Summary) {
        summary.step("fmt", || self.cargo(["fmt", "--all", "--check"]));
        summary.step("clippy", || {
            let mut command = self.compiling(["clippy", "--workspace", "--all-targets"]);
            done(command.args(["--", "-D", "warnings"]))
        });
        summary.step("layers", || match layers::chore(&[])? {
            code if code == ExitCode::SUCCESS => Ok(Outcome::Passed),
            _ => Ok(Outcome::Failed("a rule of the house is broken".to_owned())),
        });
        summary.step("unit tests", || {
            let mut command =
                self.compiling(["test", "--workspace", "--exclude", "tare-tests", "--no-fail-fast"]);
            done(command.arg("--").args(&self.filters))
        });
    }

    /// What all lanes with containers need: the binary, which is given back.
    fn prepare(&self, summary: &mut Summary) -> Option<PathBuf> {
        if !is_root() {
            summary.step("tests of behaviour", || {
                Ok(Outcome::NotRun("need root; `cargo xtask test --only unit` runs the rest".to_owned()))
            });
            return None;
        }
        let mut binary = None;
        summary.step("build", || {
            binary = Some(build::build(&self.workspace, &self.linking, PROFILE)?.binary);
            Ok(Outcome::Passed)
        });
        if binary.is_none() {
            let why = "there is no binary to test".to_owned();
            summary.step("tests of behaviour", || Ok(Outcome::NotRun(why)));
        }
        binary
    }

    /// The behaviour, with the real binary on the real kernel.
    fn host_lane(&self, binary: &Path, summary: &mut Summary) {
        // Compiled apart from the run, so that the leak check's window holds nothing but tests.
        summary.step("compile host tests", || {
            done(self.compiling(["test", "--package", "tare-tests"]).arg("--no-run"))
        });
        let before = Snapshot::take(binary);
        summary.step("host tests", || {
            let mut command = self.compiling(["test", "--package", "tare-tests", "--no-fail-fast"]);
            command.env("TARE_BIN", binary).env("TARE_TEST_CACHE", self.cache());
            // Most of a test is waiting, so more of them run side by side than there are processors.
            let threads = std::thread::available_parallelism().map_or(4, |n| n.get().max(4));
            command.args(["--", "--test-threads", &threads.to_string()]);
            done(command.args(&self.filters))
        });
        summary.step("leak check", || leaks::check(&before, binary));
    }

    /// Where test inputs that are slow to make are kept between runs.
    fn cache(&self) -> PathBuf {
        self.workspace.target.join("test-cache")
    }

    /// A cargo command that compiles: the suite's profile, and the linking that users get.
    fn compiling<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = self.workspace.cargo();
        command.args(words).args(["--profile", PROFILE]);
        self.linking.apply(&mut command);
        command
    }

    fn cargo<const N: usize>(&self, words: [&str; N]) -> Result<Outcome> {
        done(self.workspace.cargo().args(words))
    }
}

/// Runs a command to its end; its own output says what went wrong, so the summary only names it.
fn done(command: &mut Command) -> Result<Outcome> {
    println!("\n$ {}", workspace::shell_line(command));
    match command.status()? {
        status if status.success() => Ok(Outcome::Passed),
        status => Ok(Outcome::Failed(format!("{status}; see its output above"))),
    }
}
