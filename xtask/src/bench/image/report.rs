//! The tables of `bench image`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bench::report::{Spread, machine};

/// What was measured of one piece of work for one engine.
pub struct Row {
    work: String,
    engine: String,
    /// From the start of the command to its end.
    pub wall: Vec<Duration>,
    /// User and system time of all its processes, daemons too.
    pub cpu: Vec<Duration>,
    /// The most memory at once.
    pub peak_kb: Option<u64>,
}

impl Row {
    /// Nothing measured yet.
    pub fn new(work: &str, engine: &str) -> Row {
        Row {
            work: work.to_owned(),
            engine: engine.to_owned(),
            wall: Vec::new(),
            cpu: Vec::new(),
            peak_kb: None,
        }
    }
}

/// Everything there is to say.
pub struct Report {
    facts: Vec<(String, String)>,
    runs: usize,
    /// Of each piece of work, ours first.
    pub rows: Vec<Row>,
    /// Looking an image up.
    pub resolve: Option<Duration>,
}

/// At least so many times faster than the peers.
const FASTER: f64 = 3.0;
/// At most so many times what `tar` takes.
const OF_TAR: f64 = 1.3;

impl Report {
    /// Knows the machine, and nothing else yet.
    pub fn new(runs: usize) -> Report {
        let facts: Vec<(String, String)> =
            machine().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Report { facts, runs, rows: Vec::new(), resolve: None }
    }

    /// One more thing that a reader has to know.
    pub fn fact(&mut self, name: &str, value: String) {
        self.facts.push((name.to_owned(), value));
    }

    /// Writes `image.json` and `image.md`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(&self.json())?;
        fs::write(folder.join("image.json"), json + "\n").context("writing image.json")?;
        fs::write(folder.join("image.md"), self.markdown()).context("writing image.md")?;
        Ok(())
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Images\n\n");
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let _ = write!(
            text,
            "\nWall and CPU time in ms over {} runs of each in turn, min / median / p90, on stores without the image. CPU \
             time is of all\nprocesses, daemons too; memory is the most that they had at once, beyond what a daemon had \
             before. tare's wall time\nincludes bringing all to the disk, which the peers leave undone.\n\n",
            self.runs
        );
        text.push_str("| | | wall | CPU | peak memory MB |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let peak = row.peak_kb.map_or("-".to_owned(), |kb| format!("{:.0}", kb as f64 / 1024.0));
            let (wall, cpu) = (Spread::of(&row.wall), Spread::of(&row.cpu));
            let _ = writeln!(text, "| {} | {} | {wall} | {cpu} | {peak} |", row.work, row.engine);
        }
        text.push_str("\nRatios, by medians:\n\n| | | wall | CPU | goal |\n|---|---|---|---|---|\n");
        for (ours, peer) in self.pairs() {
            let [wall, cpu] = ratios(ours, peer);
            let goal = match peer.engine.starts_with("tar ") {
                true => format!(
                    "at least {:.2} of tar and sync, wall: {}",
                    1.0 / OF_TAR,
                    met(wall >= 1.0 / OF_TAR)
                ),
                false => format!("{FASTER}: {}", met(wall >= FASTER && cpu >= FASTER)),
            };
            let _ = writeln!(
                text,
                "| {} | {} : {} | {wall:.2} | {cpu:.2} | {goal} |",
                ours.work, peer.engine, ours.engine
            );
        }
        if let Some(peak) =
            self.rows.iter().filter(|row| row.engine == "tare").filter_map(|row| row.peak_kb).max()
        {
            let _ = writeln!(
                text,
                "\nPeak memory of tare: {:.0} MB (goal: under 128: {})",
                peak as f64 / 1024.0,
                met(peak < 128 << 10)
            );
        }
        if let Some(list) = self.rows.iter().find(|row| row.work.starts_with("tare images")) {
            let median = Spread::of(&list.wall).median;
            let _ =
                writeln!(text, "\n{}: {median:.1} ms (goal: under 30: {})", list.work, met(median < 30.0));
        }
        if let Some(resolve) = self.resolve {
            let us = resolve.as_secs_f64() * 1e6;
            let _ = writeln!(
                text,
                "\nLooking an image up as a start does, of 500: {us:.1} µs (goal: under 100: {})",
                met(us < 100.0)
            );
        }
        text
    }

    /// The first of each piece of work with each of the others.
    fn pairs(&self) -> Vec<(&Row, &Row)> {
        let mut pairs = Vec::new();
        let mut first: Option<&Row> = None;
        for row in &self.rows {
            match first.filter(|first| first.work == row.work) {
                Some(first) => pairs.push((first, row)),
                None => first = Some(row),
            }
        }
        pairs
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "work": row.work, "engine": row.engine, "wall": Spread::of(&row.wall).json(),
                "cpu": Spread::of(&row.cpu).json(), "peak_kb": row.peak_kb,
            })
        });
        let ratios = self.pairs().into_iter().map(|(ours, peer)| {
            let [wall, cpu] = ratios(ours, peer);
            json!({ "work": ours.work, "peer": peer.engine, "wall": wall, "cpu": cpu })
        });
        json!({
            "machine": self.facts.iter().map(|(name, value)| (name.replace(' ', "_"), json!(value)))
                .collect::<serde_json::Map<_, _>>(),
            "runs": self.runs,
            "rows": rows.collect::<Vec<_>>(),
            "peer_to_ours": ratios.collect::<Vec<_>>(),
            "resolve_ns": self.resolve.map(|time| time.as_nanos() as u64),
        })
    }
}

fn ratios(ours: &Row, peer: &Row) -> [f64; 2] {
    let ratio = |ours: &[Duration], peer: &[Duration]| Spread::of(peer).median / Spread::of(ours).median;
    [ratio(&ours.wall, &peer.wall), ratio(&ours.cpu, &peer.cpu)]
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "NOT met" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_compared_with_each_of_the_others() {
        let row = |engine: &str, ms: u64| Row {
            wall: vec![Duration::from_millis(ms)],
            cpu: vec![Duration::from_millis(ms)],
            peak_kb: Some(2048),
            ..Row::new("pull x", engine)
        };
        let report = Report {
            facts: Vec::new(),
            runs: 1,
            rows: vec![row("tare", 10), row("podman", 40), row("docker", 20)],
            resolve: Some(Duration::from_micros(20)),
        };
        let text = report.markdown();
        assert!(text.contains("| pull x | podman : tare | 4.00 | 4.00 | 3: met |"), "{text}");
        assert!(text.contains("| pull x | docker : tare | 2.00 | 2.00 | 3: NOT met |"), "{text}");
        assert!(text.contains("20.0 µs (goal: under 100: met)"), "{text}");
    }
}
