//! `cargo xtask soak NAME`: the long forms of proofs whose short forms are part of `cargo xtask test`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::workspace::option;

/// The variable by which a test learns how many runs are wanted.
const RUNS: &str = "TARE_SOAK_RUNS";

/// The name of a soak, how many runs it has unless told otherwise, and the test that it is the long form of.
const SOAKS: [(&str, u32, &str); 2] = [
    ("kills", 1000, "of_many_runs_some_killed_at_random"),
    ("oci-run", 2000, "of_many_short_runs_each_ends_with_its_own_code"),
];

/// `cargo xtask soak kills|oci-run [--runs N]`.
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    let (name, mut rest) = words.split_first().map_or(("", words), |(name, rest)| (*name, rest));
    let Some((_, mut runs, test)) = SOAKS.into_iter().find(|soak| soak.0 == name) else {
        bail!("the soaks are {}", SOAKS.map(|soak| soak.0).join(" and "));
    };
    while !rest.is_empty() {
        match option(&mut rest, "--runs")? {
            Some(number) => runs = number.parse()?,
            None => bail!("soak does not know `{}`", rest[0]),
        }
    }
    let status = Command::new(std::env::current_exe()?)
        .args(["test", "--only", "host", test])
        .env(RUNS, runs.to_string())
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
