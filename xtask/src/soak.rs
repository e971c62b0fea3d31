//! `cargo xtask soak NAME`: the long forms of proofs whose short forms are part of `cargo xtask test`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::workspace::option;

/// The variable by which a test learns how many runs are wanted.
const RUNS: &str = "TARE_SOAK_RUNS";

/// The name of a soak, how many runs it has unless told otherwise, and the tests that it is the long form of, by a part
/// of their names.
const SOAKS: [(&str, u32, &str); 8] = [
    ("kills", 1000, "of_many_runs_some_killed_at_random"),
    ("power", 300, "of_many_power_cuts_none_takes_what_was_acknowledged"),
    ("image-kills", 1000, "of_many_image_commands_killed_at_random"),
    ("full-disk", 50, "a_disk_that_fills_up_at_any_point"),
    ("oci-run", 2000, "of_many_short_runs_each_ends_with_its_own_code"),
    ("oci-kills", 1000, "of_many_calls_killed_at_random_nothing_is_left"),
    // More than any command has steps, so each is tried.
    ("oci-steps", 1000, "killed_at_each_step_of"),
    ("oci-races", 1000, "swapped"),
];

/// `cargo xtask soak NAME [--runs N]`, by the names in [`SOAKS`].
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    let (name, mut rest) = words.split_first().map_or(("", words), |(name, rest)| (*name, rest));
    let Some((_, mut runs, test)) = SOAKS.into_iter().find(|soak| soak.0 == name) else {
        bail!("the soaks are {}", SOAKS.map(|soak| soak.0).join(", "));
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
