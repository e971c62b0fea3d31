//! `cargo xtask bench network`: what a network costs: at the start, in throughput, for a name, and in a crowd.
//!
//! Everything happens in network namespaces that stand for machines, so that the links and the firewall of the real one
//! stay as they are. Contenders take turns, A B C A B C…, and what counts is their ratio.

mod names;
mod report;
mod throughput;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tare_tests::busybox;
use tare_tests::machine::own_network;

use crate::bench::contender::{self, peers_need_plain_v1};
use crate::bench::image::engine::{Engine, tare_words};
use crate::bench::network::report::{Report, Row};
use crate::bench::{REST, in_private_mounts};
use crate::build;
use crate::workspace::{Workspace, is_root, option, output, program};

const IMAGE: &str = "tare-bench-busybox";
/// What every contender is held to, where it can be.
const LIMITS: [&str; 4] = ["--memory", "256m", "--cpus", "1"];

struct Options {
    runs: usize,
    seconds: u32,
    containers: usize,
    networks: usize,
    only: String,
}

/// `cargo xtask bench network [--runs N] [--seconds N] [--containers N] [--networks N] [--only WORD] [--binary FILE]`.
pub fn chore(mut words: &[&str]) -> Result<ExitCode> {
    let mut options = Options { runs: 20, seconds: 2, containers: 100, networks: 300, only: String::new() };
    let mut binary: Option<PathBuf> = None;
    while !words.is_empty() {
        if let Some(number) = option(&mut words, "--runs")? {
            options.runs = number.parse().with_context(|| format!("--runs {number} is no number"))?;
        } else if let Some(number) = option(&mut words, "--seconds")? {
            options.seconds = number.parse().with_context(|| format!("--seconds {number} is no number"))?;
        } else if let Some(number) = option(&mut words, "--containers")? {
            options.containers =
                number.parse().with_context(|| format!("--containers {number} is no number"))?;
        } else if let Some(number) = option(&mut words, "--networks")? {
            options.networks = number.parse().with_context(|| format!("--networks {number} is no number"))?;
        } else if let Some(word) = option(&mut words, "--only")? {
            options.only = word.to_owned();
        } else if let Some(file) = option(&mut words, "--binary")? {
            binary = Some(std::path::absolute(file)?);
        } else {
            bail!("bench network does not know `{}`", words[0]);
        }
    }
    ensure!(options.runs > 0, "--runs 0 measures nothing");
    ensure!(is_root(), "bench network needs root: it makes links and network namespaces");
    if peers_need_plain_v1() {
        return in_private_mounts();
    }
    let workspace = Workspace::find()?;
    let binary = match binary {
        Some(binary) => binary,
        None => build::build(&workspace, &build::announce_linking(&workspace)?, "release")?.binary,
    };
    let scratch =
        tempfile::Builder::new().prefix("tare-bench-").tempdir_in("/var/tmp").context("making a folder")?;
    let archive = scratch.path().join("busybox.tar");
    busybox::archive(&archive).context("making a busybox root")?;
    own_network();
    let mut report = Report::new();
    let wanted = |name: &str| name.contains(&options.only);
    let tare = Tare::new(&binary, scratch.path(), "tare", &archive)?;
    report.fact("tare", output(Command::new(&binary).arg("--version"))?.trim());
    if ["start", "names", "crowd"].into_iter().any(wanted) {
        let docker = Engine::docker_with_networks(&scratch.path().join("docker"))?;
        if let Some(docker) = &docker {
            report.fact("docker", &docker.version()?);
            output(docker.call(&["import"]).arg(&archive).arg(IMAGE))?;
        }
        let measured = (|| {
            if wanted("start") {
                let warm = Tare::new(&binary, scratch.path(), "warm", &archive)?;
                report.rows.extend(start(
                    [&tare, &warm],
                    docker.as_ref(),
                    scratch.path(),
                    &archive,
                    options.runs,
                )?);
            }
            if wanted("names") {
                report.rows.extend(names::measure(&tare, docker.as_ref())?);
            }
            if wanted("crowd") {
                let podman = Engine::podman(scratch.path());
                if let Some(podman) = &podman {
                    report.fact("podman", &podman.version()?);
                    output(podman.call(&["import"]).arg(&archive).arg(IMAGE))?;
                }
                report.rows.extend(crowd(&tare, docker.as_ref(), podman.as_ref(), options.containers)?);
            }
            Ok(())
        })();
        docker.map_or(Ok(()), Engine::end)?;
        measured.map_err(|err: anyhow::Error| err)?;
    }
    if wanted("throughput") {
        report.rows.extend(throughput::measure(&tare, options.runs.min(5), options.seconds)?);
    }
    if wanted("many") {
        report.rows.extend(many(&binary, scratch.path(), &archive, &options)?);
    }
    println!("\n{}", report.markdown());
    if options.only.is_empty() {
        report.write(&workspace.root.join("bench/results"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// tare with state of its own, on the calling thread's machine or on another.
struct Tare {
    words: Box<dyn Fn() -> Command>,
}

impl Tare {
    fn new(binary: &Path, scratch: &Path, name: &str, archive: &Path) -> Result<Tare> {
        let tare = Tare { words: Box::new(tare_words(binary, &scratch.join(name))) };
        output(tare.call(&["image", "import"]).arg(archive).arg(IMAGE))?;
        Ok(tare)
    }

    fn call(&self, words: &[&str]) -> Command {
        let mut command = (self.words)();
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Starts a container that stays, and gives the number of its process.
    fn start(&self, words: &[&str]) -> Result<String> {
        let id = output(&mut self.call(&[&["run", "-d"], words, &[IMAGE, "sleep", "3600"]].concat()))?;
        Ok(output(&mut self.call(&["inspect", "-f", "{{.State.Pid}}", id.trim()]))?.trim().to_owned())
    }

    fn remove_all(&self) -> Result<()> {
        let ids = output(&mut self.call(&["ps", "-aq"]))?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() { Ok(()) } else { output(self.call(&["rm", "-f"]).args(ids)).map(drop) }
    }
}

fn timed(mut command: Command) -> Result<Duration> {
    command.stdin(Stdio::null());
    let start = Instant::now();
    output(&mut command)?;
    Ok(start.elapsed())
}

/// Measures works in turn; the first round fills caches and does not count.
fn in_turn(runs: usize, works: &[(&str, &dyn Fn() -> Command)]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = works.iter().map(|(name, _)| Row::new(name)).collect();
    for run in 0..=runs {
        for ((name, command), row) in works.iter().zip(&mut rows) {
            std::thread::sleep(REST);
            let took = timed(command()).with_context(|| (*name).to_owned())?;
            if run > 0 {
                row.times.push(took);
            }
        }
    }
    Ok(rows)
}

fn start(
    [tare, warm]: [&Tare; 2],
    docker: Option<&Engine>,
    scratch: &Path,
    archive: &Path,
    runs: usize,
) -> Result<Vec<Row>> {
    println!("start");
    let words = |network: &[&'static str]| -> Vec<&'static str> {
        [&["run", "--rm"], &LIMITS[..], network, &[IMAGE, "/bin/true"]].concat()
    };
    let bridge = || tare.call(&words(&["-p", "18080:80"]));
    let none = || tare.call(&words(&["--network", "none"]));
    let mut works: Vec<(&str, &dyn Fn() -> Command)> =
        vec![(report::START, &bridge), (report::START_NONE, &none)];
    let docker = docker.map(|docker| move || docker.call(&words(&["-p", "18081:80"])));
    if let Some(docker) = &docker {
        works.push((report::START_DOCKER, docker));
    }
    let crun = program("crun").map(|crun| contender::runtime("crun", &crun, scratch, archive)).transpose()?;
    let crun = crun.as_ref().map(|crun| || crun.command());
    if let Some(crun) = &crun {
        works.push((report::START_CRUN, crun));
    }
    // With a pool of its own, which is filled before the clock runs: that costs as much, at another time.
    let fill = |size: &str| output(&mut warm.call(&["system", "warm", size])).map(drop);
    fill("1").context("this tare has no pool of warm networks")?;
    let pooled = || {
        // A start that finds none is a plain one.
        let _ = fill("1");
        warm.call(&words(&["-p", "18082:80"]))
    };
    works.push((report::START_WARM, &pooled));
    let rows = in_turn(runs, &works);
    fill("0")?;
    rows
}

/// Many containers at once, on one bridge: until the last is started.
fn crowd(
    tare: &Tare,
    docker: Option<&Engine>,
    podman: Option<&Engine>,
    containers: usize,
) -> Result<Vec<Row>> {
    let run = ["run", "-d", "--rm"];
    let words = |network: &[&'static str]| [&run, network, &[IMAGE, "sleep", "3600"]].concat();
    let mut rows = Vec::new();
    let mut measure = |name: &str, command: &dyn Fn() -> Command| -> Result<()> {
        println!("{containers} at once: {name}");
        let mut row = Row::new(name);
        row.times.push(at_once(containers, command).with_context(|| name.to_owned())?);
        rows.push(row);
        Ok(())
    };
    measure(report::CROWD, &|| tare.call(&words(&[])))?;
    tare.remove_all()?;
    measure(report::CROWD_NONE, &|| tare.call(&words(&["--network", "none"])))?;
    tare.remove_all()?;
    if let Some(docker) = docker {
        measure(report::CROWD_DOCKER, &|| docker.call(&words(&[])))?;
        remove_all(docker)?;
    }
    if let Some(podman) = podman {
        // A call that works where root may not raise limits, too.
        let unlimited = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none"];
        let measured = measure(report::CROWD_PODMAN, &|| podman.call(&words(&unlimited)));
        remove_all(podman)?;
        measured?;
    }
    Ok(rows)
}

fn remove_all(engine: &Engine) -> Result<()> {
    let ids = output(&mut engine.call(&["ps", "-aq"]))?;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    if ids.is_empty() { Ok(()) } else { output(engine.call(&["rm", "-f"]).args(ids)).map(drop) }
}

fn at_once(containers: usize, command: &dyn Fn() -> Command) -> Result<Duration> {
    let start = Instant::now();
    let mut children = Vec::new();
    for _ in 0..containers {
        children.push(command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
    }
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "one of them: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(start.elapsed())
}

/// A start on a machine with many networks, and one on a machine with one, in turn.
fn many(binary: &Path, scratch: &Path, archive: &Path, options: &Options) -> Result<Vec<Row>> {
    println!("{} networks", options.networks);
    let machine = || -> Result<File> {
        let make = || {
            own_network();
            File::open("/proc/thread-self/ns/net")
        };
        let made = std::thread::spawn(make).join();
        Ok(made.map_err(|_| anyhow::anyhow!("making a network namespace failed"))??)
    };
    let on = |machine: &File, name: &str| -> Result<Tare> {
        let plain = Tare::new(binary, scratch, name, archive)?;
        let net = format!("--net=/proc/{}/fd/{}", std::process::id(), machine.as_raw_fd());
        let words = move || {
            let tare = (plain.words)();
            let mut command = Command::new("nsenter");
            command.arg(&net).arg(tare.get_program()).args(tare.get_args());
            command
        };
        Ok(Tare { words: Box::new(words) })
    };
    let machines = [machine()?, machine()?];
    let (crowded, empty) = (on(&machines[0], "crowded")?, on(&machines[1], "empty")?);
    let run =
        |tare: &Tare, network: &str| tare.call(&["run", "--rm", "--network", network, IMAGE, "/bin/true"]);
    let (mut made, mut first) = (Row::new(report::MANY_CREATE), Row::new(report::MANY_FIRST));
    output(&mut empty.call(&["network", "create", "last"]))?;
    for number in 0..options.networks {
        let name = if number + 1 == options.networks { "last".to_owned() } else { format!("n{number}") };
        made.times.push(timed(crowded.call(&["network", "create", &name]))?);
        // Its bridge is made by the first container on it.
        first.times.push(timed(run(&crowded, &name))?);
    }
    let mut rows = in_turn(
        options.runs,
        &[(report::MANY, &|| run(&crowded, "last")), (report::MANY_NONE, &|| run(&empty, "last"))],
    )?;
    rows.extend([made, first]);
    Ok(rows)
}
