//! The table at the end of a test run.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How a step ended.
#[derive(Debug)]
pub enum Outcome {
    /// All well.
    Passed,
    /// Not well; why, in one line.
    Failed(String),
    /// It could not be tried, which is no success either.
    NotRun(String),
}

/// The steps so far.
#[derive(Debug, Default)]
pub struct Summary {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    outcome: Outcome,
    took: Duration,
}

impl Summary {
    /// Runs one step and remembers how it ended; an error is a failure like any other.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Outcome>) {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = work().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        if let Outcome::Failed(why) | Outcome::NotRun(why) = &outcome {
            println!("{name}: {why}");
        }
        self.add(name, outcome, start.elapsed());
    }

    /// Remembers a step that was done elsewhere.
    pub fn add(&mut self, name: impl Into<String>, outcome: Outcome, took: Duration) {
        self.rows.push(Row { name: name.into(), outcome, took });
    }

    /// Prints the table.
    pub fn print(&self) {
        print!("\n{}", self.table());
    }

    fn table(&self) -> String {
        let mut table = format!("{:<26} {:<8} {:>8}\n", "STEP", "RESULT", "SECONDS");
        for row in &self.rows {
            let (result, why) = match &row.outcome {
                Outcome::Passed => ("ok", ""),
                Outcome::Failed(why) => ("FAILED", why.lines().next().unwrap_or_default()),
                Outcome::NotRun(why) => ("NOT RUN", why.lines().next().unwrap_or_default()),
            };
            let line = format!("{:<26} {result:<8} {:>8.1}  {why}", row.name, row.took.as_secs_f64());
            table.push_str(line.trim_end());
            table.push('\n');
        }
        table.push_str(if self.passed() { "All passed.\n" } else { "NOT all passed.\n" });
        table
    }

    fn passed(&self) -> bool {
        self.rows.iter().all(|row| matches!(row.outcome, Outcome::Passed))
    }

    /// Success only if every step was a success.
    pub fn exit_code(&self) -> ExitCode {
        if self.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_the_whole_and_the_rest_still_runs() {
        let mut summary = Summary::default();
        summary.step("first", || anyhow::bail!("no such thing\nat all"));
        summary.step("second", || Ok(Outcome::Passed));
        let table = summary.table();
        assert!(table.contains("FAILED") && table.contains("no such thing"), "{table}");
        assert!(table.contains("second") && table.contains("NOT all passed"), "{table}");
        assert!(!summary.passed());
    }

    #[test]
    fn what_was_not_run_is_no_success() {
        let mut summary = Summary::default();
        summary.step("host tests", || Ok(Outcome::NotRun("need root".to_owned())));
        assert!(!summary.passed());
        assert!(summary.table().contains("NOT RUN"));
    }
}
