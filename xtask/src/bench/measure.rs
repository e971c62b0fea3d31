//! One run, measured: wall time, processor time, system calls, over all processes it takes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};

use crate::workspace::program;

/// How long what a run leaves in the background may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that is measured: a command line, or several in a row.
pub trait Work {
    /// Does it once. Commands that count go through the stopwatch.
    fn once(&self, stopwatch: &mut Stopwatch<'_>) -> Result<()>;

    /// Does nothing of it go on in the background when it has been done?
    fn ends(&self) -> bool {
        true
    }
}

/// Takes the measurements.
pub struct Meter {
    complaints: PathBuf,
    strace: Option<PathBuf>,
    time: Option<PathBuf>,
    table: PathBuf,
}

/// What GNU time tells about one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Times that a processor was given to another process, wanted or not.
    pub switches: u64,
    /// The memory of the largest of its processes, in kilobytes.
    pub resident_kb: u64,
}

/// Adds up what the commands of one piece of work take.
pub struct Stopwatch<'a> {
    meter: &'a Meter,
    wrapper: Wrapper,
    took: Duration,
    calls: u64,
    usage: Usage,
    /// The table of a command that was left in the background.
    left: Option<PathBuf>,
}

/// What stands before each command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrapper {
    Nothing,
    Strace,
    Time,
}

impl Stopwatch<'_> {
    /// Runs a command that leaves a process behind, which waits for the commands after this one. When the
    /// command has ended or is about to, the file `done` is there.
    ///
    /// strace would wait for that process, so it goes on in the background; whoever calls has to reap it.
    pub fn time_and_leave(&mut self, command: Command, done: &Path) -> Result<()> {
        let (Wrapper::Strace, Some(strace)) = (self.wrapper, &self.meter.strace) else {
            return self.time(command);
        };
        let table = self.meter.table.with_extension("left");
        let mut traced = Command::new(strace);
        traced.args(["-f", "-c", "-o"]).arg(&table).arg("--");
        traced.arg(command.get_program()).args(command.get_args());
        traced.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        traced.spawn().context("starting strace")?;
        let start = Instant::now();
        while fs::metadata(done).map_or(true, |file| file.len() == 0) {
            ensure!(start.elapsed() < PATIENCE, "`{}` hangs", crate::workspace::shell_line(&traced));
            std::thread::sleep(Duration::from_millis(1));
        }
        // What is left to do after writing the file is little.
        std::thread::sleep(Duration::from_millis(200));
        self.left = Some(table);
        Ok(())
    }

    /// Runs a command to its end.
    pub fn time(&mut self, mut command: Command) -> Result<()> {
        let table = &self.meter.table;
        match (self.wrapper, &self.meter.strace, &self.meter.time) {
            (Wrapper::Strace, Some(strace), _) => {
                let mut traced = Command::new(strace);
                traced.args(["-f", "-c", "-o"]).arg(table).arg("--");
                self.meter.run(traced.arg(command.get_program()).args(command.get_args()))?;
                let calls = total_calls(&fs::read_to_string(table)?);
                self.calls += calls.context("strace printed no line with the total")?;
            }
            (Wrapper::Time, _, Some(time)) => {
                let mut timed = Command::new(time);
                timed.args(["-f", "%c %w %M", "-o"]).arg(table);
                self.meter.run(timed.arg(command.get_program()).args(command.get_args()))?;
                let usage = usage(&fs::read_to_string(table)?).context("GNU time printed something else")?;
                self.usage.switches += usage.switches;
                self.usage.resident_kb = self.usage.resident_kb.max(usage.resident_kb);
            }
            _ => self.took += self.meter.run(&mut command)?,
        }
        Ok(())
    }
}

impl Meter {
    /// Makes this process the parent of every orphan below it: a monitor that puts itself into the background
    /// then still ends up in our accounts, and the next run does not begin before it is gone.
    pub fn new(scratch: &Path) -> Result<Meter> {
        set_child_subreaper(Some(getpid())).context("becoming the parent of orphans")?;
        let strace = program("strace");
        if strace.is_none() {
            println!("strace is not installed, so system calls are not counted (Debian package strace)");
        }
        let (complaints, table) = (scratch.join("stderr"), scratch.join("table"));
        Ok(Meter { complaints, strace, time: program("time"), table })
    }

    /// From the start of the command to its exit code, which is what its user waits for.
    pub fn wall(&self, work: &dyn Work) -> Result<Duration> {
        Ok(self.once(work, Wrapper::Nothing)?.took)
    }

    /// User and system time of every process of a run, on average over `runs`.
    ///
    /// The kernel tells it in clock ticks, so many runs are added up before reading.
    pub fn cpu(&self, work: &dyn Work, runs: usize) -> Result<Duration> {
        let before = ticks_of_children()?;
        for _ in 0..runs {
            self.wall(work)?;
        }
        let ticks = ticks_of_children()? - before;
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(Duration::from_secs_f64(seconds / runs as f64))
    }

    /// How many system calls a run takes, over all its processes; the least of three.
    pub fn syscalls(&self, work: &dyn Work) -> Result<Option<u64>> {
        if self.strace.is_none() {
            return Ok(None);
        }
        let mut least = u64::MAX;
        for _ in 0..3 {
            least = least.min(self.once(work, Wrapper::Strace)?.calls);
        }
        Ok(Some(least))
    }

    /// Context switches and memory, over all processes of a run; the least of five.
    pub fn usage(&self, work: &dyn Work) -> Result<Option<Usage>> {
        if self.time.is_none() {
            return Ok(None);
        }
        let mut least = Usage { switches: u64::MAX, resident_kb: u64::MAX };
        for _ in 0..5 {
            let usage = self.once(work, Wrapper::Time)?.usage;
            least.switches = least.switches.min(usage.switches);
            least.resident_kb = least.resident_kb.min(usage.resident_kb);
        }
        Ok(Some(least))
    }

    fn once(&self, work: &dyn Work, wrapper: Wrapper) -> Result<Stopwatch<'_>> {
        let usage = Usage { switches: 0, resident_kb: 0 };
        let mut stopwatch =
            Stopwatch { meter: self, wrapper, took: Duration::ZERO, calls: 0, usage, left: None };
        work.once(&mut stopwatch)?;
        if work.ends() {
            reap_the_rest()?;
        }
        if let Some(table) = &stopwatch.left {
            let calls = total_calls(&fs::read_to_string(table)?);
            stopwatch.calls += calls.context("strace printed no line with the total")?;
        }
        Ok(stopwatch)
    }

    fn run(&self, command: &mut Command) -> Result<Duration> {
        let name = command.get_program().to_string_lossy().into_owned();
        let complaints = File::create(&self.complaints)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints);
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let status = child.wait()?;
        let took = start.elapsed();
        if !status.success() {
            let why = fs::read_to_string(&self.complaints).unwrap_or_default();
            bail!("{} failed ({status}): {}", crate::workspace::shell_line(command), why.trim());
        }
        Ok(took)
    }
}

/// Waits for every process that a run left to us.
pub fn reap_the_rest() -> Result<()> {
    let start = Instant::now();
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(rustix::io::Errno::INTR) | Ok(Some(_)) => {}
            Err(error) => return Err(error).context("waiting for the last processes of a run"),
            Ok(None) if start.elapsed() > PATIENCE => {
                bail!("a run left a process that did not end within {} s", PATIENCE.as_secs());
            }
            Ok(None) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// What all our children that have ended used, and theirs.
pub fn ticks_of_children() -> Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    children_ticks_in(&stat).context("/proc/self/stat has a strange form")
}

fn children_ticks_in(stat: &str) -> Option<u64> {
    // The name of the program may hold spaces and brackets; the fields after the last bracket do not.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn total_calls(table: &str) -> Option<u64> {
    let line = table.lines().rfind(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// Wanted switches, unwanted ones, and the largest process, as GNU time was asked to print them.
fn usage(table: &str) -> Option<Usage> {
    // A line about an exit code may stand before it.
    let numbers: Option<Vec<u64>> =
        table.lines().last()?.split_whitespace().map(|word| word.parse().ok()).collect();
    match numbers?[..] {
        [unwanted, wanted, resident_kb] => Some(Usage { switches: wanted + unwanted, resident_kb }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_is_read_from_the_last_line_of_gnu_time() {
        let expected = Usage { switches: 7, resident_kb: 2048 };
        assert_eq!(usage("Command exited with non-zero status 1\n3 4 2048\n"), Some(expected));
        assert_eq!(usage("nothing"), None);
    }

    #[test]
    fn the_total_is_read_from_straces_table() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     60.00    0.000100           5        20           read\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.000181           2      1010        53 total\n";
        assert_eq!(total_calls(table), Some(1010));
        assert_eq!(total_calls("nothing"), None);
    }

    #[test]
    fn the_childrens_time_is_the_sixteenth_and_seventeenth_field() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 200 0 0 7 8 30 12 20 0 1 0 100";
        assert_eq!(children_ticks_in(stat), Some(42));
    }
}
