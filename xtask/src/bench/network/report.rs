//! The figures as tables, with the goals beside them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bench::report::{Spread, machine};

pub const START: &str = "tare run --rm -p, bridge, limits";
pub const START_WARM: &str = "tare run --rm -p, bridge, limits, warm pool";
pub const START_NONE: &str = "tare run --rm --network none, limits";
pub const START_DOCKER: &str = "docker run --rm -p, bridge, limits";
pub const START_CRUN: &str = "crun run, a bare bundle, no network";
pub const NAMES: &str = "tare: a local name by UDP";
pub const NAMES_DOCKER: &str = "docker: a local name by UDP";
pub const CROWD: &str = "tare: many at once on one bridge";
pub const CROWD_NONE: &str = "tare: many at once without a network";
pub const CROWD_DOCKER: &str = "docker: many at once on one bridge";
pub const CROWD_PODMAN: &str = "podman: many at once without a network";
pub const MANY: &str = "tare run beside many networks";
pub const MANY_NONE: &str = "tare run beside no other network";
pub const MANY_CREATE: &str = "network create, one after the other";
pub const MANY_FIRST: &str = "the first container on each";
pub const TO_HOST: &str = "a gigabyte from container to host";
pub const TO_CONTAINER: &str = "a gigabyte from container to container";
pub const PUBLISHED: &str = "a gigabyte from another host through a published port";

/// The same without tare.
pub fn by_hand(name: &str) -> String {
    format!("{name}, links by hand")
}

/// One thing that was measured, several times.
pub struct Row {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub times: Vec<Duration>,
}

impl Row {
    /// Without times.
    pub fn new(name: &str) -> Row {
        Row { name: name.to_owned(), times: Vec::new() }
    }
}

/// All of them.
pub struct Report {
    facts: Vec<(String, String)>,
    /// What was measured.
    pub rows: Vec<Row>,
}

impl Report {
    /// Without rows.
    pub fn new() -> Report {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
        Report { facts: vec![("load before the runs".to_owned(), load)], rows: Vec::new() }
    }

    /// What a reader has to know.
    pub fn fact(&mut self, name: &str, value: &str) {
        self.facts.push((name.to_owned(), value.to_owned()));
    }

    fn spread(&self, name: &str) -> Option<Spread> {
        self.rows.iter().find(|row| row.name == name).map(|row| Spread::of(&row.times))
    }

    /// Each goal, what was reached, and whether that is enough: by medians, and by the least, which load spoils less.
    fn goals(&self) -> Vec<(String, String, bool)> {
        let mut goals = Vec::new();
        let both = |a: &str, b: &str| Some((self.spread(a)?, self.spread(b)?));
        let mut ratio = |name: &str, a: &str, b: &str, most: f64| {
            if let Some((a, b)) = both(a, b) {
                let (median, min) = (a.median / b.median, a.min / b.min);
                let reached = format!("{median:.3} (of the least: {min:.3})");
                goals.push((name.to_owned(), reached, median <= most));
            }
        };
        ratio("start : docker's, at most 0.025 (40 times faster)", START, START_DOCKER, 0.025);
        ratio("start : bare crun's, below 1", START, START_CRUN, 1.0);
        for name in [TO_HOST, TO_CONTAINER, PUBLISHED] {
            ratio(&format!("{name} : by hand, at most 1.03"), name, &by_hand(name), 1.03);
        }
        ratio("a start beside many networks : beside none, at most 1.2", MANY, MANY_NONE, 1.2);
        ratio("many at once : docker's, at most 0.5", CROWD, CROWD_DOCKER, 0.5);
        ratio("many at once without a network : podman's, at most 0.5", CROWD_NONE, CROWD_PODMAN, 0.5);
        if let Some((with, without)) = both(START, START_NONE) {
            let (median, min) = (with.median - without.median, with.min - without.min);
            let reached = format!("{median:.2} ms (of the least: {min:.2})");
            goals.push((
                "start more than without a network, at most 2.5 ms".to_owned(),
                reached,
                median <= 2.5,
            ));
        }
        if let Some(names) = self.spread(NAMES) {
            let reached = format!("{:.3} ms", names.median);
            goals.push(("a local name, median below 0.1 ms".to_owned(), reached, names.median < 0.1));
        }
        goals
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Networks\n\n");
        for (name, value) in self.all_facts() {
            let _ = writeln!(text, "- {name}: {value}");
        }
        text.push_str("\nWall time in ms, in turn, 20 ms of rest before each start; min / median / p90.\n\n| | n | wall |\n|---|---|---|\n");
        for row in &self.rows {
            let spread = Spread::of(&row.times);
            let (min, median, p90) = (spread.min, spread.median, spread.p90);
            let _ =
                writeln!(text, "| {} | {} | {min:.3} / {median:.3} / {p90:.3} |", row.name, row.times.len());
        }
        text.push_str("\nGoals, by medians:\n\n| | reached | |\n|---|---|---|\n");
        for (name, reached, met) in self.goals() {
            let _ = writeln!(text, "| {name} | {reached} | {} |", if met { "met" } else { "**missed**" });
        }
        text
    }

    fn all_facts(&self) -> Vec<(String, String)> {
        let machine = machine().into_iter().map(|(name, value)| (name.to_owned(), value));
        machine.chain(self.facts.iter().cloned()).collect()
    }

    /// Writes `network.md` and `network.json`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("network.md"), self.markdown()).context("writing network.md")?;
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| json!({ "work": row.name, "runs": row.times.len(), "wall": Spread::of(&row.times).json() }))
            .collect();
        let goals: Vec<Value> = self
            .goals()
            .into_iter()
            .map(|(name, reached, met)| json!({ "goal": name, "reached": reached, "met": met }))
            .collect();
        let facts: serde_json::Map<String, Value> =
            self.all_facts().into_iter().map(|(name, value)| (name, json!(value))).collect();
        let json = serde_json::to_string_pretty(&json!({ "facts": facts, "rows": rows, "goals": goals }))?;
        fs::write(folder.join("network.json"), json + "\n").context("writing network.json")?;
        println!("Written to {} and network.json", folder.join("network.md").display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_told_from_what_was_measured() {
        let row = |name: &str, ms: &[u64]| Row {
            name: name.to_owned(),
            times: ms.iter().copied().map(Duration::from_millis).collect(),
        };
        let mut report = Report::new();
        report.rows =
            vec![row(START, &[8, 10, 12]), row(START_DOCKER, &[400, 500, 600]), row(START_NONE, &[4, 5, 9])];
        let goals = report.goals();
        assert_eq!(goals.len(), 2, "the others were not measured");
        assert!(goals[0].2 && goals[0].1.starts_with("0.020"), "{:?}", goals[0]);
        assert!(!goals[1].2 && goals[1].1.starts_with("5.00 ms"), "{:?}", goals[1]);
        assert!(report.markdown().contains("**missed**"));
    }
}
