//! The figures as a table for people and as JSON for plots.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bench::contender::Contender;
use crate::workspace::output;

/// What was measured of one contender.
#[derive(Debug, Default)]
pub struct Figures {
    /// Wall times with a rest before each run.
    pub cold: Vec<Duration>,
    /// Wall times without.
    pub warm: Vec<Duration>,
    /// User and system time of one run.
    pub cpu: Option<Duration>,
    /// System calls of one run.
    pub syscalls: Option<u64>,
}

/// Everything there is to say about one bench.
pub struct Report {
    facts: Vec<(&'static str, String)>,
    runs: usize,
    rows: Vec<Row>,
    absent: Vec<&'static str>,
}

struct Row {
    name: &'static str,
    version: String,
    command: String,
    cold: Spread,
    warm: Spread,
    cpu_ms: f64,
    syscalls: Option<u64>,
}

/// Milliseconds.
#[derive(Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// What nine of ten are below.
    pub p90: f64,
}

impl Spread {
    /// Sorts and counts.
    pub fn of(times: &[Duration]) -> Spread {
        let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| {
            ms.get(((ms.len() as f64 - 1.0) * share).round() as usize).copied().unwrap_or(f64::NAN)
        };
        Spread { min: at(0.0), median: at(0.5), p90: at(0.9) }
    }

    /// With the unit in the names.
    pub fn json(&self) -> Value {
        json!({ "min_ms": self.min, "median_ms": self.median, "p90_ms": self.p90 })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} / {:.2} / {:.2}", self.min, self.median, self.p90)
    }
}

impl Report {
    /// Gathers the figures and the facts about the machine.
    pub fn new(
        linking: String,
        runs: usize,
        contenders: &[Contender],
        figures: Vec<Figures>,
        absent: Vec<&'static str>,
    ) -> Report {
        let row = |(contender, figures): (&Contender, Figures)| Row {
            name: contender.name,
            version: contender.version.clone(),
            command: contender.line(),
            cold: Spread::of(&figures.cold),
            warm: Spread::of(&figures.warm),
            cpu_ms: figures.cpu.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3),
            syscalls: figures.syscalls,
        };
        let mut facts = machine();
        facts.push(("linking of tare", linking));
        Report { facts, runs, rows: contenders.iter().zip(figures).map(row).collect(), absent }
    }

    /// Writes `start.json` and `start.md`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(&self.json())?;
        fs::write(folder.join("start.json"), json + "\n").context("writing start.json")?;
        fs::write(folder.join("start.md"), self.markdown()).context("writing start.md")?;
        Ok(())
    }

    /// The table.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# The start of a container\n\n");
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        for row in &self.rows {
            let _ = writeln!(text, "- {}: `{}`, {}", row.name, row.command, row.version);
        }
        if !self.absent.is_empty() {
            let _ = writeln!(text, "- not installed, so not measured: {}", self.absent.join(", "));
        }
        let _ = writeln!(
            text,
            "\nWall time in ms over {} runs of each in turn, min / median / p90. Cold rests 20 ms before each run, \
             warm does not.\nCPU time and system calls are of all processes that a run takes, until the last has \
             ended.\n",
            self.runs
        );
        text.push_str("| | cold | warm | CPU ms | system calls |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let calls = row.syscalls.map_or("not counted".to_owned(), |calls| calls.to_string());
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.2} | {calls} |",
                row.name, row.cold, row.warm, row.cpu_ms
            );
        }
        let Some((tare, peers)) = self.rows.split_first() else { return text };
        if !peers.is_empty() {
            text.push_str("\nTare as a share of the peer, by medians (less is better):\n\n");
            text.push_str("| | cold | warm | CPU | system calls |\n|---|---|---|---|---|\n");
        }
        for peer in peers {
            let calls = calls_ratio(tare, peer).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(
                text,
                "| tare : {} | {:.2} | {:.2} | {:.2} | {calls} |",
                peer.name,
                tare.cold.median / peer.cold.median,
                tare.warm.median / peer.warm.median,
                tare.cpu_ms / peer.cpu_ms
            );
        }
        text
    }

    fn json(&self) -> Value {
        let facts: serde_json::Map<String, Value> =
            self.facts.iter().map(|(name, value)| (name.replace(' ', "_"), json!(value))).collect();
        let contenders: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name, "version": row.version, "command": row.command,
                    "cold": row.cold.json(), "warm": row.warm.json(),
                    "cpu_ms": row.cpu_ms, "syscalls": row.syscalls,
                })
            })
            .collect();
        let ratios: Vec<Value> = self
            .rows
            .split_first()
            .into_iter()
            .flat_map(|(tare, peers)| peers.iter().map(move |peer| (tare, peer)))
            .map(|(tare, peer)| {
                json!({
                    "peer": peer.name,
                    "cold": tare.cold.median / peer.cold.median,
                    "warm": tare.warm.median / peer.warm.median,
                    "cpu": tare.cpu_ms / peer.cpu_ms,
                    "syscalls": calls_ratio(tare, peer),
                })
            })
            .collect();
        json!({
            "machine": facts, "runs": self.runs, "contenders": contenders,
            "tare_to_peer": ratios, "not_installed": self.absent,
        })
    }
}

fn calls_ratio(tare: &Row, peer: &Row) -> Option<f64> {
    Some(tare.syscalls? as f64 / peer.syscalls? as f64)
}

/// What a reader has to know to judge the figures.
pub fn machine() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load: Vec<String> = read("/proc/loadavg").split(' ').take(3).map(str::to_owned).collect();
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])).unwrap_or_default();
    vec![
        ("date", date.trim().to_owned()),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("processor", format!("{processors} x {model}")),
        ("cgroups", cgroup_version(Path::new("/sys/fs/cgroup")).to_owned()),
        ("load after the runs", load.join(" ")),
    ]
}

fn cgroup_version(mounted: &Path) -> &'static str {
    if mounted.join("cgroup.controllers").exists() {
        "v2"
    } else if mounted.join("unified/cgroup.procs").exists() {
        "v1 hybrid"
    } else {
        "v1"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_least_the_middle_and_the_slow_tenth() {
        let times: Vec<Duration> = (1..=11).rev().map(Duration::from_millis).collect();
        assert_eq!(Spread::of(&times), Spread { min: 1.0, median: 6.0, p90: 10.0 });
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn the_table_has_ratios_and_names_who_was_absent() {
        let row = |name, ms: f64, syscalls| Row {
            name,
            version: "1".to_owned(),
            command: "x".to_owned(),
            cold: Spread { min: ms, median: ms, p90: ms },
            warm: Spread { min: ms, median: ms, p90: ms },
            cpu_ms: ms,
            syscalls,
        };
        let rows = vec![row("tare", 5.0, Some(300)), row("crun", 10.0, Some(1200))];
        let report = Report { facts: Vec::new(), runs: 1, rows, absent: vec!["runc"] };
        let text = report.markdown();
        assert!(text.contains("| tare : crun | 0.50 | 0.50 | 0.50 | 0.25 |"), "{text}");
        assert!(text.contains("not measured: runc"), "{text}");
        assert_eq!(report.json()["tare_to_peer"][0]["cold"], 0.5);
    }
}
