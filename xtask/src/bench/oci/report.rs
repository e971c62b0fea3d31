//! The tables of `bench oci`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::bench::measure::Usage;
use crate::bench::oci::memory::Memory;
use crate::bench::oci::runtime::Runtime;
use crate::bench::oci::scenario::Kind;
use crate::bench::oci::{OURS, ratio};
use crate::bench::report::Spread;

/// What was measured of one scenario for one runtime.
pub struct Row {
    kind: Kind,
    runtime: String,
    /// Wall times with a rest before each.
    pub cold: Vec<Duration>,
    /// Wall times without.
    pub warm: Vec<Duration>,
    /// User and system time.
    pub cpu: Option<Duration>,
    /// System calls.
    pub syscalls: Option<u64>,
    /// Context switches and memory.
    pub usage: Option<Usage>,
}

impl Row {
    /// Nothing measured yet.
    pub fn new(kind: Kind, runtime: &Runtime) -> Row {
        Row {
            kind,
            runtime: runtime.name.clone(),
            cold: Vec::new(),
            warm: Vec::new(),
            cpu: None,
            syscalls: None,
            usage: None,
        }
    }

    fn json(&self) -> Value {
        json!({
            "cold": (!self.cold.is_empty()).then(|| Spread::of(&self.cold).json()),
            "warm": Spread::of(&self.warm).json(),
            "cpu_ms": self.cpu.map(milliseconds),
            "syscalls": self.syscalls,
            "context_switches": self.usage.map(|usage| usage.switches),
            "max_rss_kb": self.usage.map(|usage| usage.resident_kb),
        })
    }
}

/// Everything there is to say.
pub struct Report {
    /// What a reader has to know to judge the figures.
    pub facts: Vec<(String, String)>,
    /// Of each, where nothing else is said.
    pub runs: usize,
    /// The first runtime of each scenario is ours, if it is there.
    pub rows: Vec<Row>,
    /// By runtime.
    pub memory: Vec<Memory>,
}

impl Report {
    /// Writes `oci.json` and `oci.md`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(&self.json())?;
        fs::write(folder.join("oci.json"), json + "\n").context("writing oci.json")?;
        fs::write(folder.join("oci.md"), self.markdown()).context("writing oci.md")?;
        Ok(())
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# The OCI runtime\n\n");
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let _ = write!(
            text,
            "\nThe same bundle for all: the config of `runc spec`, read-only root, own pid, network, ipc, uts and \
             mount\nnamespaces. Wall time in ms over {} runs of each in turn, min / median / p90. Cold rests 20 ms \
             before each run,\nwarm does not. CPU time, system calls and context switches are of all processes; \
             memory is that of the\nlargest. System calls are the least of three runs, switches and memory the least \
             of five.\n\n",
            self.runs
        );
        text.push_str("| | | cold | warm | CPU ms | system calls | switches | max RSS MB |\n");
        text.push_str("|---|---|---|---|---|---|---|---|\n");
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row.kind.name(),
                row.runtime,
                or_dash((!row.cold.is_empty()).then(|| Spread::of(&row.cold).to_string())),
                if row.warm.len() == 1 {
                    format!("{:.2}", milliseconds(row.warm[0]))
                } else {
                    Spread::of(&row.warm).to_string()
                },
                or_dash(row.cpu.map(|cpu| format!("{:.2}", milliseconds(cpu)))),
                or_dash(row.syscalls.map(|calls| calls.to_string())),
                or_dash(row.usage.map(|usage| usage.switches.to_string())),
                or_dash(row.usage.map(|usage| format!("{:.1}", usage.resident_kb as f64 / 1024.0))),
            );
        }
        self.ratios_table(&mut text);
        if !self.memory.is_empty() {
            text.push_str(
                "\n| | smallest memory limit that `true` runs under, KB | charged to the cgroup, KB |\n",
            );
            text.push_str("|---|---|---|\n");
        }
        for memory in &self.memory {
            let kb = |bytes: Option<u64>| or_dash(bytes.map(|bytes| (bytes / 1024).to_string()));
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                memory.runtime,
                kb(memory.smallest_limit),
                kb(memory.charged)
            );
        }
        text
    }

    fn ratios_table(&self, text: &mut String) {
        let pairs = self.pairs();
        let Some((first, _)) = pairs.first() else { return };
        let _ = writeln!(
            text,
            "\nHow many times as much as {} a peer takes, by medians (more is better):\n",
            first.runtime
        );
        text.push_str("| | | cold | warm | CPU | system calls | goal |\n|---|---|---|---|---|---|---|\n");
        for (ours, peer) in pairs {
            let ratios = Ratios::of(ours, peer);
            let shown = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let goal = goal(ours, peer).map_or("-".to_owned(), |goal| {
                let met = [ratios.cold, ratios.warm, ratios.cpu].iter().flatten().all(|ratio| *ratio >= goal);
                format!("{goal}: {}", if met { "met" } else { "NOT met" })
            });
            let _ = writeln!(
                text,
                "| {} | {} : {} | {} | {} | {} | {} | {goal} |",
                ours.kind.name(),
                peer.runtime,
                ours.runtime,
                shown(ratios.cold),
                shown(ratios.warm),
                shown(ratios.cpu),
                shown(ratios.syscalls)
            );
        }
    }

    /// The first runtime of each scenario with each of the others.
    fn pairs(&self) -> Vec<(&Row, &Row)> {
        let mut pairs = Vec::new();
        let mut first: Option<&Row> = None;
        for row in &self.rows {
            match first.filter(|first| first.kind == row.kind) {
                Some(first) => pairs.push((first, row)),
                None => first = Some(row),
            }
        }
        pairs
    }

    fn json(&self) -> Value {
        let facts: Map<String, Value> =
            self.facts.iter().map(|(name, value)| (name.replace(' ', "_"), json!(value))).collect();
        let mut scenarios: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for row in &self.rows {
            scenarios.entry(row.kind.folder()).or_default().insert(row.runtime.clone(), row.json());
        }
        let ratios: Vec<Value> = self
            .pairs()
            .into_iter()
            .map(|(ours, peer)| {
                let ratios = Ratios::of(ours, peer);
                json!({
                    "scenario": ours.kind.folder(), "ours": ours.runtime, "peer": peer.runtime,
                    "cold": ratios.cold, "warm": ratios.warm, "cpu": ratios.cpu, "syscalls": ratios.syscalls,
                    "goal": goal(ours, peer),
                })
            })
            .collect();
        let memory: Map<String, Value> = self
            .memory
            .iter()
            .map(|memory| {
                let figures =
                    json!({ "smallest_limit_bytes": memory.smallest_limit, "charged_bytes": memory.charged });
                (memory.runtime.clone(), figures)
            })
            .collect();
        json!({ "machine": facts, "runs": self.runs, "scenarios": scenarios, "peer_to_ours": ratios, "memory": memory })
    }
}

/// The peer's share of ours.
struct Ratios {
    cold: Option<f64>,
    warm: Option<f64>,
    cpu: Option<f64>,
    syscalls: Option<f64>,
}

impl Ratios {
    fn of(ours: &Row, peer: &Row) -> Ratios {
        let wall = |ours: &[Duration], peer: &[Duration]| {
            let ratio = Spread::of(peer).median / Spread::of(ours).median;
            ratio.is_finite().then_some(ratio)
        };
        Ratios {
            cold: wall(&ours.cold, &peer.cold),
            warm: wall(&ours.warm, &peer.warm),
            cpu: ours.cpu.zip(peer.cpu).map(|(ours, peer)| ratio(peer, ours)),
            syscalls: ours.syscalls.zip(peer.syscalls).map(|(ours, peer)| peer as f64 / ours as f64),
        }
    }
}

/// The goals are those of tare, whoever else is measured in its place.
fn goal(ours: &Row, peer: &Row) -> Option<f64> {
    ours.kind.goal(&peer.runtime).filter(|_| ours.runtime == OURS)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compares_the_first_with_the_others_and_knows_the_goals() {
        let row = |runtime: &str, ms: u64| Row {
            kind: Kind::Run,
            runtime: runtime.to_owned(),
            cold: vec![Duration::from_millis(ms)],
            warm: vec![Duration::from_millis(ms)],
            cpu: Some(Duration::from_millis(ms)),
            syscalls: Some(ms * 100),
            usage: None,
        };
        let rows = vec![row("tare-oci", 4), row("crun", 12), row("runc", 24)];
        let report = Report { facts: Vec::new(), runs: 1, rows, memory: Vec::new() };
        let text = report.markdown();
        assert!(text.contains("| run | crun : tare-oci | 3.00 | 3.00 | 3.00 | 3.00 | 2.5: met |"), "{text}");
        assert!(
            text.contains("| run | runc : tare-oci | 6.00 | 6.00 | 6.00 | 6.00 | 8: NOT met |"),
            "{text}"
        );
        assert_eq!(report.json()["peer_to_ours"][0]["cold"], 3.0);
    }
}
