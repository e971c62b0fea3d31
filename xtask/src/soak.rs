//! `cargo xtask soak NAME`: the long forms of proofs whose short forms are part of `cargo xtask test`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::workspace::option;

/// The variable by which a test learns how many runs are wanted.
const RUNS: &str = "TARE_SOAK_RUNS";

/// `cargo xtask soak kills [--runs N]`.
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    let Some((&"kills", mut rest)) = words.split_first() else {
        bail!("there is one soak so far: kills");
    };
    let mut runs = "1000";
    while !rest.is_empty() {
        match option(&mut rest, "--runs")? {
            Some(number) => runs = number,
            None => bail!("soak does not know `{}`", rest[0]),
        }
    }
    let number: u32 = runs.parse()?;
    let status = Command::new(std::env::current_exe()?)
        .args(["test", "--only", "host", "of_many_runs_some_killed_at_random"])
        .env(RUNS, number.to_string())
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
