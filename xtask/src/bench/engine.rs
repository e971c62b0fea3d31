//! `cargo xtask bench engine`: the life of a container, beside Podman and Docker: run, stop, exec, ps, logs, memory.
//!
//! The engines do each piece of work in turn, A B C A B C…, on the same busybox root, without a network; what counts is their
//! ratio. Each has folders of its own, Docker a daemon of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::bench::contender::peers_need_plain_v1;
use crate::bench::image::engine::Engine;
use crate::bench::report::{Spread, machine};
use crate::build;
use crate::workspace::{Workspace, is_root, option, output, program};

const IMAGE: &str = "tare-bench-busybox";
/// What a container that does not listen gets to end, in seconds.
const GRACE: u64 = 1;
/// How long idle containers are watched.
const WATCH: Duration = Duration::from_secs(10);
/// How long a container may take to end.
const PATIENCE: Duration = Duration::from_secs(900);

/// One piece of work, measured.
struct Row {
    work: &'static str,
    /// Engine and its times.
    times: Vec<(&'static str, Vec<Duration>)>,
    /// At least so many times faster than the others.
    goal: Option<f64>,
}

struct Options {
    runs: usize,
    containers: usize,
    idle: usize,
    megabytes: u64,
    only: String,
}

/// `cargo xtask bench engine [--runs N] [--containers N] [--idle N] [--megabytes N] [--only WORD] [--binary FILE]`.
pub fn chore(mut words: &[&str]) -> Result<ExitCode> {
    let mut options = Options { runs: 10, containers: 200, idle: 500, megabytes: 1000, only: String::new() };
    let mut binary: Option<PathBuf> = None;
    while !words.is_empty() {
        if let Some(number) = option(&mut words, "--runs")? {
            options.runs = number.parse().with_context(|| format!("--runs {number} is no number"))?;
        } else if let Some(number) = option(&mut words, "--containers")? {
            options.containers =
                number.parse().with_context(|| format!("--containers {number} is no number"))?;
        } else if let Some(number) = option(&mut words, "--idle")? {
            options.idle = number.parse().with_context(|| format!("--idle {number} is no number"))?;
        } else if let Some(number) = option(&mut words, "--megabytes")? {
            options.megabytes =
                number.parse().with_context(|| format!("--megabytes {number} is no number"))?;
        } else if let Some(word) = option(&mut words, "--only")? {
            options.only = word.to_owned();
        } else if let Some(file) = option(&mut words, "--binary")? {
            binary = Some(std::path::absolute(file)?);
        } else {
            bail!("bench engine does not know `{}`", words[0]);
        }
    }
    ensure!(options.runs > 0, "--runs 0 measures nothing");
    ensure!(is_root(), "bench engine needs root, as dockerd does");
    if peers_need_plain_v1() {
        return super::in_private_mounts();
    }
    let workspace = Workspace::find()?;
    let linking = build::announce_linking(&workspace)?;
    let binary = match binary {
        Some(binary) => binary,
        None => build::build(&workspace, &linking, "release")?.binary,
    };
    let scratch =
        tempfile::Builder::new().prefix("tare-bench-").tempdir_in("/var/tmp").context("making a folder")?;
    let archive = root_archive(scratch.path())?;
    let engines = Engine::all(&binary, scratch.path())?;
    let mut facts: Vec<(String, String)> =
        machine().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for engine in &engines {
        facts.push((engine.name().to_owned(), engine.version()?));
        output(engine.call(&["import"]).arg(&archive).arg(IMAGE))?;
    }
    let measured = measure(&engines, &options);
    for engine in &engines {
        let ids = output(&mut call(engine, &["ps", "-aq"])).unwrap_or_default();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            let _ = output(engine.call(&["rm", "-f"]).args(&ids));
        }
    }
    for engine in engines {
        engine.end()?;
    }
    let measured = measured?;
    let text = markdown(&facts, &options, &measured);
    println!("\n{text}");
    if options.only.is_empty() {
        let folder = workspace.root.join("bench/results");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("engine.md"), text).context("writing engine.md")?;
        let json = serde_json::to_string_pretty(&in_json(&facts, &measured))?;
        fs::write(folder.join("engine.json"), json + "\n").context("writing engine.json")?;
        println!("Written to {} and engine.json", folder.join("engine.md").display());
    }
    Ok(ExitCode::SUCCESS)
}

struct Measured {
    rows: Vec<Row>,
    /// Engine and kB.
    memory: Vec<(&'static str, u64)>,
    idle: Option<Idle>,
}

/// What many containers of ours that do nothing cost, their own processes included.
struct Idle {
    containers: usize,
    cpu: Duration,
    switches: u64,
}

fn measure(engines: &[Engine], options: &Options) -> Result<Measured> {
    let wanted = |name: &str| name.contains(&options.only);
    let mut rows = Vec::new();
    if wanted("run") {
        println!("run --rm");
        rows.push(beside(engines, options.runs, "run --rm … true", Some(20.0), &|engine| {
            timed(engine, &["run", "--rm", "--network", "none", IMAGE, "true"])
        })?);
        println!("run -d, stop, rm");
        rows.push(beside(engines, options.runs, "run -d, stop, rm", Some(20.0), &|engine| {
            let script = "trap 'exit 0' TERM; sleep 600 & wait";
            let run = ["run", "-d", "--name", "bench", "--network", "none", IMAGE, "sh", "-c", script];
            Ok(timed(engine, &run)? + timed(engine, &["stop", "bench"])? + timed(engine, &["rm", "bench"])?)
        })?);
    }
    if wanted("stop") {
        println!("stop of one that does not listen");
        rows.push(beside(
            engines,
            options.runs.min(5),
            "stop -t 1 of one that does not listen",
            None,
            &|engine| {
                let run = [
                    "run",
                    "-d",
                    "--name",
                    "deaf",
                    "--network",
                    "none",
                    IMAGE,
                    "sh",
                    "-c",
                    "trap '' TERM; sleep 600",
                ];
                output(&mut call(engine, &run))?;
                // Its signal must not come before it ignores it.
                output(&mut call(engine, &["exec", "deaf", "true"]))?;
                let took = timed(engine, &["stop", "-t", &GRACE.to_string(), "deaf"])?;
                output(&mut call(engine, &["rm", "deaf"]))?;
                Ok(took)
            },
        )?);
    }
    if wanted("exec") {
        println!("exec");
        for engine in engines {
            output(&mut call(
                engine,
                &["run", "-d", "--name", "bench", "--network", "none", IMAGE, "sleep", "3600"],
            ))?;
        }
        rows.push(beside(engines, options.runs, "exec … true", Some(20.0), &|engine| {
            timed(engine, &["exec", "bench", "true"])
        })?);
    }
    let mut memory = Vec::new();
    if wanted("memory") {
        println!("memory");
        for engine in engines {
            let run = ["run", "-d", "--name", "idle", "--network", "none", IMAGE, "sleep", "3600"];
            output(&mut call(engine, &run))?;
            let pid = output(&mut call(engine, &["inspect", "-f", "{{.State.Pid}}", "idle"]))?;
            // A monitor of ours executes itself again once the start is over, to be small.
            std::thread::sleep(Duration::from_secs(5));
            memory.push((engine.name(), private_of_parent(pid.trim())?));
        }
    }
    let idle = match engines.first().filter(|_| wanted("idle")) {
        Some(engine) => Some(watch_idle(engine, options.idle)?),
        None => None,
    };
    if wanted("ps") {
        println!("ps with {} containers", options.containers);
        for engine in engines {
            for _ in 0..options.containers {
                output(&mut call(engine, &["create", "--network", "none", IMAGE, "true"]))?;
            }
        }
        rows.push(beside(engines, options.runs, "ps -a, many containers", None, &|engine| {
            timed(engine, &["ps", "-a"])
        })?);
    }
    if wanted("logs") {
        println!("{} MB of lines", options.megabytes);
        // The disk has one state for all only if each begins with an idle one.
        rows.push(beside(engines, 1, "a log of many lines", Some(1.0), &|engine| {
            flood(engine, options.megabytes)
        })?);
    }
    Ok(Measured { rows, memory, idle })
}

fn beside(
    engines: &[Engine],
    runs: usize,
    work: &'static str,
    goal: Option<f64>,
    once: &dyn Fn(&Engine) -> Result<Duration>,
) -> Result<Row> {
    let mut times: Vec<_> = engines.iter().map(|engine| (engine.name(), Vec::new())).collect();
    // One more than is counted, where there are several: the first fills caches.
    let first = usize::from(runs == 1);
    for run in first..=runs {
        for (engine, (name, times)) in engines.iter().zip(&mut times) {
            let took = once(engine).with_context(|| format!("{work} by {name}"))?;
            if run > 0 {
                times.push(took);
            }
        }
    }
    Ok(Row { work, times, goal })
}

fn timed(engine: &Engine, words: &[&str]) -> Result<Duration> {
    let mut command = call(engine, words);
    let start = Instant::now();
    output(&mut command)?;
    Ok(start.elapsed())
}

/// A call that works where root may not raise limits, too.
fn call(engine: &Engine, words: &[&str]) -> Command {
    let mut command = match words.split_first() {
        Some((&verb @ ("run" | "create"), rest)) if engine.name() == "podman" => {
            let mut command =
                engine.call(&[verb, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
            command.args(rest);
            command
        }
        _ => engine.call(words),
    };
    command.stdin(Stdio::null());
    command
}

/// From the start of a container that writes lines to its end, all of them in its log.
fn flood(engine: &Engine, megabytes: u64) -> Result<Duration> {
    let line = "0123456789 the quick brown fox jumps over the lazy dog, and once more, for a line of 100 bytes it is";
    let bytes = megabytes * 1_000_000;
    let script = format!("yes '{line}' | head -c {bytes}");
    let unlimited: &[&str] = match engine.name() {
        "tare" => &["--log-opt", "max-size=-1"],
        "podman" => &["--log-driver", "k8s-file"],
        _ => &[],
    };
    let mut command = call(engine, &["run", "-d", "--name", "flood", "--network", "none"]);
    command.args(unlimited).args([IMAGE, "sh", "-c", &script]);
    rustix::fs::sync();
    let start = Instant::now();
    output(&mut command)?;
    output(&mut call(engine, &["wait", "flood"]))?;
    let took = start.elapsed();
    ensure!(took < PATIENCE, "it took too long");
    let mut logs = call(engine, &["logs", "flood"]);
    let mut child = logs.stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().context("a pipe")?;
    let found = std::io::copy(&mut out, &mut std::io::sink())?;
    child.wait()?;
    ensure!(found == bytes, "{} kept {found} bytes of {bytes}", engine.name());
    output(&mut call(engine, &["rm", "flood"]))?;
    Ok(took)
}

/// Starts many containers that do nothing, looks at them for a while, and removes them.
fn watch_idle(engine: &Engine, containers: usize) -> Result<Idle> {
    println!("{containers} idle containers");
    let mut ids = Vec::new();
    for _ in 0..containers {
        let id = output(&mut call(engine, &["run", "-d", "--network", "none", IMAGE, "sleep", "3600"]))?;
        ids.push(id.trim().to_owned());
    }
    let pids = output(call(engine, &["inspect", "-f", "{{.State.Pid}}"]).args(&ids))?;
    let mut processes = Vec::new();
    for pid in pids.split_whitespace() {
        processes.extend([parent_of(pid)?, pid.to_owned()]);
    }
    // A monitor of ours executes itself again once the start is over, to be small.
    std::thread::sleep(Duration::from_secs(5));
    let before = used_by(&processes)?;
    std::thread::sleep(WATCH);
    let after = used_by(&processes)?;
    output(call(engine, &["rm", "-f"]).args(&ids))?;
    Ok(Idle { containers, cpu: Duration::from_nanos(after.0 - before.0), switches: after.1 - before.1 })
}

/// Nanoseconds on a processor, and how often they were given one (proc_pid_schedstat(5)).
fn used_by(processes: &[String]) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for pid in processes {
        let stat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
        let mut fields = stat.split_whitespace().map(str::parse::<u64>);
        sum.0 += fields.next().context("time on a processor")??;
        sum.1 += fields.nth(1).context("how often it ran")??;
    }
    Ok(sum)
}

fn parent_of(pid: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("a parent")?;
    Ok(parent.trim().to_owned())
}

/// Private memory of what stays beside a container: the process that is its parent.
fn private_of_parent(pid: &str) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", parent_of(pid)?))?;
    let of = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
    };
    // Program text is private only by chance: where one monitor runs alone.
    Ok(of("Private_Dirty:"))
}

/// A busybox root, as a tar.
fn root_archive(scratch: &Path) -> Result<PathBuf> {
    let busybox = program("busybox").context("busybox is not there (Debian package busybox-static)")?;
    let root = scratch.join("busybox-root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    for name in ["sh", "sleep", "true", "yes", "head"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    let archive = scratch.join("busybox.tar");
    output(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."))?;
    Ok(archive)
}

/// How many times faster we are than each of the others, by medians.
fn ratios(row: &Row) -> Vec<(&'static str, f64)> {
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64)
    };
    let Some(((_, ours), others)) = row.times.split_first() else { return Vec::new() };
    others.iter().map(|(name, times)| (*name, median(times) / median(ours).max(1e-9))).collect()
}

fn markdown(facts: &[(String, String)], options: &Options, measured: &Measured) -> String {
    let Measured { rows, memory, idle } = measured;
    let mut text = String::from("# The life of a container\n\n");
    for (name, value) in facts {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let _ = write!(
        text,
        "\nWall time in ms over {} runs of each in turn, min / median / p90, without a network. `ps` lists {} containers; the \
         log is {} MB\nof lines of 101 bytes, once, and all of it is found again.\n\n| | | wall |\n|---|---|---|\n",
        options.runs, options.containers, options.megabytes
    );
    for row in rows {
        for (name, times) in &row.times {
            let _ = writeln!(text, "| {} | {name} | {} |", row.work, Spread::of(times));
        }
    }
    text.push_str("\nTimes faster, by medians:\n\n| | | ratio | goal |\n|---|---|---|---|\n");
    for row in rows {
        for (name, ratio) in ratios(row) {
            let goal = row.goal.map_or("-".to_owned(), |goal| {
                format!("{goal}: {}", if ratio >= goal { "met" } else { "**missed**" })
            });
            let _ = writeln!(text, "| {} | than {name} | {ratio:.1} | {goal} |", row.work);
        }
    }
    if !memory.is_empty() {
        text.push_str(
            "\nPrivate (dirty) memory of what stays beside an idle container, kB:\n\n| | kB |\n|---|---|\n",
        );
        for (name, kb) in memory {
            let _ = writeln!(text, "| {name} | {kb} |");
        }
    }
    if let Some(Idle { containers, cpu, switches }) = idle {
        let _ = writeln!(
            text,
            "\n{containers} idle containers of tare, monitors and processes together, over {} s: {:.1} ms of processor time, \
             {switches} wake-ups.",
            WATCH.as_secs(),
            cpu.as_secs_f64() * 1e3
        );
    }
    text
}

fn in_json(facts: &[(String, String)], measured: &Measured) -> Value {
    let Measured { rows, memory, idle } = measured;
    let row = |row: &Row| {
        let times: Vec<Value> = row
            .times
            .iter()
            .map(|(name, times)| json!({ "engine": name, "wall": Spread::of(times).json() }))
            .collect();
        json!({ "work": row.work, "times": times })
    };
    json!({
        "facts": facts.iter().map(|(name, value)| json!({ name: value })).collect::<Vec<_>>(),
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
        "idle": idle.as_ref().map(|idle| json!({
            "containers": idle.containers, "seconds": WATCH.as_secs(), "cpu_ms": idle.cpu.as_secs_f64() * 1e3,
            "wake_ups": idle.switches,
        })),
        "private_kb": memory.iter().map(|(name, kb)| json!({ *name: kb })).collect::<Vec<_>>(),
    })
}
