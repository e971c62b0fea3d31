//! One run, measured: wall time, processor time, system calls, over all processes it takes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};

use crate::bench::contender::Contender;
use crate::workspace::program;

/// How long what a run leaves in the background may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes the measurements.
pub struct Meter {
    complaints: PathBuf,
    strace: Option<PathBuf>,
    table: PathBuf,
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
        Ok(Meter { complaints: scratch.join("stderr"), strace, table: scratch.join("strace") })
    }

    /// From the start of the command to its exit code, which is what its user waits for.
    pub fn wall(&self, contender: &Contender) -> Result<Duration> {
        let took = self.run(&mut contender.command())?;
        reap_the_rest()?;
        Ok(took)
    }

    /// User and system time of every process of a run, on average over `runs`.
    ///
    /// The kernel tells it in clock ticks, so many runs are added up before reading.
    pub fn cpu(&self, contender: &Contender, runs: usize) -> Result<Duration> {
        let before = ticks_of_children()?;
        for _ in 0..runs {
            self.wall(contender)?;
        }
        let ticks = ticks_of_children()? - before;
        let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(Duration::from_secs_f64(seconds / runs as f64))
    }

    /// How many system calls a run takes, over all its processes; the least of three.
    pub fn syscalls(&self, contender: &Contender) -> Result<Option<u64>> {
        let Some(strace) = &self.strace else { return Ok(None) };
        let mut least = None;
        for _ in 0..3 {
            let run = contender.command();
            let mut command = Command::new(strace);
            command.args(["-f", "-c", "-o"]).arg(&self.table).arg("--");
            command.arg(run.get_program()).args(run.get_args());
            self.run(&mut command)?;
            reap_the_rest()?;
            let calls = total_calls(&fs::read_to_string(&self.table)?)
                .context("strace printed no line with the total")?;
            least = Some(least.map_or(calls, |earlier: u64| earlier.min(calls)));
        }
        Ok(least)
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
fn reap_the_rest() -> Result<()> {
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
fn ticks_of_children() -> Result<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
