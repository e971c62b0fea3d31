//! `cargo xtask soak NAME`: the long forms of proofs whose short forms are part of `cargo xtask test`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::workspace::{self, Workspace, option, output};

/// The variable by which a test learns how many runs are wanted.
const RUNS: &str = "TARE_SOAK_RUNS";

/// The name of a soak, how many runs it has unless told otherwise, and the tests that it is the long form of, by a part
/// of their names.
const SOAKS: [(&str, u32, &str); 10] = [
    ("kills", 1000, "of_many_runs_some_killed_at_random"),
    ("life-kills", 1000, "of_many_kills_among_twenty_containers"),
    // More than any command has steps, so each is tried.
    ("life-steps", 1000, "killed_at_any_step_of"),
    ("power", 300, "of_many_power_cuts_none_takes_what_was_acknowledged"),
    ("image-kills", 1000, "of_many_image_commands_killed_at_random"),
    ("full-disk", 50, "a_disk_that_fills_up_at_any_point"),
    ("oci-run", 2000, "of_many_short_runs_each_ends_with_its_own_code"),
    ("oci-kills", 1000, "of_many_calls_killed_at_random_nothing_is_left"),
    ("oci-steps", 1000, "killed_at_each_step_of"),
    ("oci-races", 1000, "swapped"),
];

/// Targets of `fuzz/`.
const FUZZ_TARGETS: [&str; 6] = ["archive", "layer", "images", "manifest", "config", "reference"];
/// Inputs to each target where libFuzzer is not installed.
const MUTATIONS: &str = "20000";

/// `cargo xtask soak NAME [--runs N]`, by the names in [`SOAKS`], and `soak fuzz [--seconds N]`.
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    let (name, mut rest) = words.split_first().map_or(("", words), |(name, rest)| (*name, rest));
    if name == "fuzz" {
        return fuzz(rest);
    }
    let Some((_, mut runs, test)) = SOAKS.into_iter().find(|soak| soak.0 == name) else {
        bail!("the soaks are fuzz, {}", SOAKS.map(|soak| soak.0).join(", "));
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

/// Each target of `fuzz/` for so many seconds, by libFuzzer; it needs a nightly compiler and cargo-fuzz. Without them, the
/// same targets by the tests' own mutations.
fn fuzz(mut words: &[&str]) -> Result<ExitCode> {
    let mut seconds = "600";
    while !words.is_empty() {
        match option(&mut words, "--seconds")? {
            Some(number) => seconds = number,
            None => bail!("soak fuzz does not know `{}`", words[0]),
        }
    }
    let workspace = Workspace::find()?;
    let tests = |words: &[&str]| {
        let mut command = workspace.cargo();
        command.args([
            "test",
            "--profile",
            "ci",
            "--package",
            "tare-image",
            "--test",
            "image",
            "--",
            "--nocapture",
        ]);
        command.args(words);
        command
    };
    let nightly = |words: &[&str]| {
        let mut command = Command::new("rustup");
        // Cargo's own variables name the compiler that runs us.
        command.args(["run", "nightly", "cargo", "fuzz"]).args(words).current_dir(&workspace.root);
        for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(name);
        }
        command
    };
    if output(&mut nightly(&["--version"])).is_err() {
        println!("neither a nightly compiler nor cargo-fuzz: the tests' own mutations are taken");
        workspace::run(tests(&["whatever_strangers_send"]).env("TARE_SOAK_RUNS", MUTATIONS))?;
        return Ok(ExitCode::SUCCESS);
    }
    let corpus = workspace.root.join("fuzz/corpus");
    workspace::run(tests(&["--ignored", "inputs_to_begin_from"]).env("TARE_FUZZ_CORPUS", &corpus))?;
    for target in FUZZ_TARGETS {
        println!("{target}, for {seconds} s");
        let time = format!("-max_total_time={seconds}");
        let limits = ["-max_len=16384", "-rss_limit_mb=1024", "-timeout=20", "-print_final_stats=1"];
        workspace::run(nightly(&["run", target, "--", &time]).args(limits))?;
    }
    Ok(ExitCode::SUCCESS)
}
