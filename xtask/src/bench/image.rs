//! `cargo xtask bench image`: bringing images in, beside Docker and Podman, from one registry and the same files.
//!
//! The engines do each piece of work in turn, A B C A B C…, each on a store without the image; what counts is their ratio.
//! Before each the disk comes to rest (sync). tare's time includes bringing everything to the disk, as it always does before
//! it says that an image is there; the others do not, which `tar` is measured with and without.

pub mod engine;
mod input;
mod report;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::bench::image::engine::Engine;
use crate::bench::image::input::Inputs;
use crate::bench::image::report::{Report, Row};
use crate::bench::measure::ticks_of_children;
use crate::bench::{PRIVATE, in_private_mounts};
use crate::build;
use crate::workspace::{Workspace, is_root, option, output};

/// What the engines do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// From the registry.
    Pull,
    /// From a file.
    Load,
}

/// Bytes of the disk.
const DISK: u64 = 5 << 30;

/// Images that a store has where `tare images` is measured.
const MANY: usize = 500;

/// `cargo xtask bench image [--runs N] [--binary FILE] [--only WORD]`.
pub fn chore(mut words: &[&str]) -> Result<ExitCode> {
    let (mut runs, mut binary, mut only) = (5, None, String::new());
    while !words.is_empty() {
        if let Some(number) = option(&mut words, "--runs")? {
            runs = number.parse().with_context(|| format!("--runs {number} is no number"))?;
        } else if let Some(file) = option(&mut words, "--binary")? {
            binary = Some(std::path::absolute(file)?);
        } else if let Some(word) = option(&mut words, "--only")? {
            only = word.to_owned();
        } else {
            bail!("bench image does not know `{}`", words[0]);
        }
    }
    ensure!(runs > 0, "--runs 0 measures nothing");
    ensure!(is_root(), "bench image needs root, as dockerd does");
    if std::env::var_os(PRIVATE).is_none() {
        return in_private_mounts();
    }
    let workspace = Workspace::find()?;
    let linking = build::announce_linking(&workspace)?;
    let binary = match binary {
        Some(binary) => binary,
        None => build::build(&workspace, &linking, "release")?.binary,
    };
    let scratch = Disk::new()?;
    let wanted = |name: &str| name.contains(&only);
    let mut report = Report::new(runs);
    if ["pull", "load"].into_iter().any(wanted) {
        let inputs = Inputs::make(&workspace.target, &scratch.path())?;
        let engines = Engine::all(&binary, &scratch.path())?;
        for engine in &engines {
            report.fact(engine.name(), engine.version()?);
        }
        report.fact("Debian minbase", inputs.describe(&inputs.minbase)?);
        report.fact("ten layers", inputs.describe(&inputs.ten)?);
        for work in [Work::Pull, Work::Load] {
            for image in [&inputs.minbase, &inputs.ten] {
                let what = match work {
                    Work::Pull => format!("pull {}", image.title),
                    Work::Load => format!("load {}", image.title),
                };
                if wanted(&what) {
                    println!("{what}");
                    report.rows.extend(beside(&engines, work, image, &inputs, &what, runs)?);
                }
            }
        }
        for engine in engines {
            engine.end()?;
        }
    }
    if wanted("unpack") {
        println!("unpack 20,000 files");
        report.rows.extend(unpack(&binary, &scratch.path(), runs)?);
    }
    if wanted("list") {
        println!("{MANY} images");
        report.rows.extend(list(&binary, &scratch.path())?);
        report.resolve = Some(resolve(&workspace, &linking, &scratch.path())?);
    }
    println!("\n{}", report.markdown());
    if only.is_empty() {
        let folder = workspace.root.join("bench/results");
        report.write(&folder)?;
        println!("Written to {} and image.md", folder.join("image.json").display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A disk of ext4 with a journal, as most machines have it, in a file. On the machine's own it would count how many files
/// somebody has removed there a minute ago: without a journal, ext4 does not use their inodes again so soon, and looks at
/// each of them whenever a file is made. Its blocks are all there and written past the machine's page cache, as a disk's
/// are: else each sync would wait for the machine's own file system to write down where the blocks are, and for whatever
/// else it has to write.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Result<Disk> {
        let folder = tempfile::Builder::new()
            .prefix("tare-bench-")
            .tempdir_in("/var/tmp")
            .context("making a folder")?;
        let file = folder.path().join("disk.ext4");
        let mut out = fs::File::create(&file)?;
        std::io::copy(&mut std::io::repeat(0).take(DISK), &mut out).context("writing a disk of zeros")?;
        out.sync_all()?;
        output(
            Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0,nodiscard"]).arg(&file),
        )?;
        let disk = Disk { folder };
        fs::create_dir(disk.path())?;
        let device = output(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&file))?;
        let mounted = output(Command::new("mount").arg(device.trim()).arg(disk.path()));
        // It goes with the mount.
        output(Command::new("losetup").args(["--detach", device.trim()]))?;
        mounted?;
        Ok(disk)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The mount namespace is our own; what a daemon has mounted there goes with it.
        let _ = Command::new("umount").args(["--lazy", "--recursive"]).arg(self.path()).status();
    }
}

/// One piece of work by all engines in turn.
fn beside(
    engines: &[Engine],
    work: Work,
    image: &input::Image,
    inputs: &Inputs,
    what: &str,
    runs: usize,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = engines.iter().map(|engine| Row::new(what, engine.name())).collect();
    // One more than is counted: the first fills the page cache.
    for run in 0..=runs {
        for (engine, row) in engines.iter().zip(&mut rows) {
            engine.forget(image, inputs)?;
            rest();
            let before = ticks_of_children()? + engine.ticks()?;
            let start = Instant::now();
            output(&mut engine.command(work, image, inputs))?;
            let wall = start.elapsed();
            let ticks = ticks_of_children()? + engine.ticks()? - before;
            if run > 0 {
                row.wall.push(wall);
                row.cpu.push(time_of(ticks));
            }
        }
    }
    for (engine, row) in engines.iter().zip(&mut rows) {
        engine.forget(image, inputs)?;
        row.peak_kb = Some(engine.peak(&mut engine.command(work, image, inputs))?);
        engine.forget(image, inputs)?;
    }
    Ok(rows)
}

/// The disk has nothing left to do.
fn rest() {
    rustix::fs::sync();
    std::thread::sleep(Duration::from_millis(200));
}

fn time_of(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Many small files: `tare import` beside `tar -x`, without and with a sync of the disk after it.
fn unpack(binary: &Path, scratch: &Path, runs: usize) -> Result<Vec<Row>> {
    let archive = input::many_files(scratch, 20_000)?;
    let tree = scratch.join("tree");
    let tare = engine::tare_words(binary, &scratch.join("unpack"));
    let what = "unpack 20,000 files";
    let mut rows: Vec<Row> =
        ["tare import", "tar -x", "tar -x && sync -f"].map(|name| Row::new(what, name)).into();
    for run in 0..=runs {
        for (at, row) in rows.iter_mut().enumerate() {
            let mut command = if at == 0 {
                let mut command = tare();
                command.args(["import"]).arg(&archive).arg("many");
                command
            } else {
                fs::create_dir(&tree)?;
                let mut command = Command::new("sh");
                let script = if at == 1 { "tar -xf $0 -C $1" } else { "tar -xf $0 -C $1 && sync -f $1" };
                command.args(["-c", script]).arg(&archive).arg(&tree);
                command
            };
            rest();
            let before = ticks_of_children()?;
            let start = Instant::now();
            output(&mut command)?;
            let (wall, ticks) = (start.elapsed(), ticks_of_children()? - before);
            if run > 0 {
                row.wall.push(wall);
                row.cpu.push(time_of(ticks));
            }
            if at == 0 {
                output(tare().args(["rmi", "many"]))?;
            } else {
                fs::remove_dir_all(&tree)?;
            }
        }
    }
    Ok(rows)
}

/// `tare images` in a store of many.
fn list(binary: &Path, scratch: &Path) -> Result<Vec<Row>> {
    let tare = engine::tare_words(binary, &scratch.join("many"));
    let folder = scratch.join("one");
    fs::create_dir_all(&folder)?;
    for number in 0..MANY {
        fs::write(folder.join("number"), number.to_string())?;
        let archive = scratch.join("one.tar");
        output(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&folder).arg("."))?;
        output(tare().args(["import"]).arg(&archive).arg(format!("example.org/many/image-{number}:1")))?;
    }
    let mut row = Row::new("tare images, 500 images", "tare");
    for _ in 0..50 {
        let before = ticks_of_children()?;
        let start = Instant::now();
        let mut command = tare();
        let status = command.arg("images").stdout(Stdio::null()).status()?;
        ensure!(status.success(), "tare images failed");
        row.wall.push(start.elapsed());
        row.cpu.push(time_of(ticks_of_children()? - before));
    }
    Ok(vec![row])
}

/// What it takes to look an image up, as a start does, in that store: the example `resolve` tells, in nanoseconds.
fn resolve(workspace: &Workspace, linking: &crate::linking::Linking, scratch: &Path) -> Result<Duration> {
    let example = build::example(workspace, linking, "tare-image", "resolve")?;
    let root = scratch.join("many/root/images");
    let text = output(Command::new(example).arg(root).args(["example.org/many/image-250:1", "1000"]))?;
    Ok(Duration::from_nanos(text.trim().parse().context("the example prints nanoseconds")?))
}
