//! The v1 files. Source: admin-guide/cgroup-v1/{memory,cpuacct,pids,blkio-controller}.rst.

use rustix::io::Errno;
use rustix::process::Pid;
use tare_sys::{Context, Error, Kind, Result};

use super::{CpuStats, IoStats, MemoryEvents, MemoryStats, PidsStats, Stats, Throttling};
use crate::cgroup::Cgroup;
use crate::control::{self, value_of};

/// "No limit" reads as the largest page-aligned number; no machine has half of that.
const NO_LIMIT: u64 = 1 << 62;

/// Reads a file of the cgroup; `None` where the host or the cgroup lacks the controller.
fn file(cgroup: &Cgroup, name: &str) -> Result<Option<String>> {
    let controller = name.split('.').next().unwrap_or_default();
    let path = format!("{}/{name}", cgroup.on.dir(controller, cgroup.relative()?));
    match control::read(cgroup.on.root(), &path) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        Err(errno) => Err(Error::syscall(format!("read({:?})", cgroup.on.shown(&path)), errno)),
    }
}

fn number(cgroup: &Cgroup, name: &str) -> Result<Option<u64>> {
    Ok(file(cgroup, name)?.and_then(|text| text.trim().parse().ok()))
}

fn gone(cgroup: &Cgroup) -> Result<Error> {
    Ok(Error::new(Kind::NotFound, format!("cgroup /{}: it does not exist", cgroup.relative()?)))
}

pub(super) fn memory_events(cgroup: &Cgroup) -> Result<MemoryEvents> {
    let Some(oom) = file(cgroup, "memory.oom_control")? else {
        return if cgroup.on.has("memory") { Err(gone(cgroup)?) } else { Ok(MemoryEvents::default()) };
    };
    Ok(MemoryEvents {
        oom_kills: value_of(&oom, "oom_kill").unwrap_or(0),
        peak: number(cgroup, "memory.max_usage_in_bytes")?,
        limit: limit(cgroup)?,
    })
}

fn limit(cgroup: &Cgroup) -> Result<Option<u64>> {
    Ok(number(cgroup, "memory.limit_in_bytes")?.filter(|&bytes| bytes < NO_LIMIT))
}

pub(super) fn stats(cgroup: &Cgroup) -> Result<Stats> {
    let memory = match number(cgroup, "memory.usage_in_bytes")? {
        None => None,
        Some(usage) => {
            let stat = file(cgroup, "memory.stat")?.unwrap_or_default();
            Some(MemoryStats {
                usage,
                cache: value_of(&stat, "total_cache").unwrap_or(0),
                inactive_file: value_of(&stat, "total_inactive_file").unwrap_or(0),
                limit: limit(cgroup)?,
            })
        }
    };
    let pids = match number(cgroup, "pids.current")? {
        None => None,
        // "max" is no number, and no limit.
        Some(current) => Some(PidsStats { current, limit: number(cgroup, "pids.max")? }),
    };
    if memory.is_none() && pids.is_none() && (cgroup.on.has("memory") || cgroup.on.has("pids")) {
        return Err(gone(cgroup)?);
    }
    let io = match file(cgroup, "blkio.throttle.io_service_bytes_recursive")? {
        None => None,
        Some(bytes) => {
            let operations = file(cgroup, "blkio.throttle.io_serviced_recursive")?.unwrap_or_default();
            Some(IoStats {
                read_bytes: sum(&bytes, "Read"),
                write_bytes: sum(&bytes, "Write"),
                reads: sum(&operations, "Read"),
                writes: sum(&operations, "Write"),
            })
        }
    };
    Ok(Stats { cpu: Some(cpu(cgroup)?), memory, pids, io })
}

/// Adds up `MAJ:MIN Read N` lines.
fn sum(text: &str, direction: &str) -> u64 {
    let words = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    words
        .filter_map(|words| match words.as_slice() {
            [_, word, number] if *word == direction => number.parse::<u64>().ok(),
            _ => None,
        })
        .sum()
}

fn cpu(cgroup: &Cgroup) -> Result<CpuStats> {
    let mut stats = match number(cgroup, "cpuacct.usage")? {
        Some(usage) => CpuStats {
            usage,
            user: number(cgroup, "cpuacct.usage_user")?.unwrap_or(0),
            system: number(cgroup, "cpuacct.usage_sys")?.unwrap_or(0),
            throttling: None,
        },
        None => from_proc(&cgroup.processes()?),
    };
    stats.throttling = file(cgroup, "cpu.stat")?.map(|text| Throttling {
        periods: value_of(&text, "nr_periods").unwrap_or(0),
        throttled_periods: value_of(&text, "nr_throttled").unwrap_or(0),
        throttled: value_of(&text, "throttled_time").unwrap_or(0),
    });
    Ok(stats)
}

/// The time of the living processes and of the children that they have waited for. A container's init waits
/// for every orphan, so little is lost.
fn from_proc(pids: &[Pid]) -> CpuStats {
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let mut stats = CpuStats::default();
    for pid in pids {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        // A process that has just ended is not there to be read.
        let Ok((user, system)) = std::fs::read_to_string(&path).doing(|| &*path).map(|text| ticks(&text))
        else {
            continue;
        };
        stats.user += user * tick;
        stats.system += system * tick;
    }
    stats.usage = stats.user + stats.system;
    stats
}

/// utime + cutime and stime + cstime of a `/proc/PID/stat` line (proc_pid_stat(5), fields 14 to 17). The name
/// in field 2 may hold anything, so the fields are counted from its closing bracket.
fn ticks(stat: &str) -> (u64, u64) {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let mut fields = after.split_ascii_whitespace().skip(11).map(|field| field.parse::<u64>().unwrap_or(0));
    let mut next = || fields.next().unwrap_or(0);
    let (utime, stime, cutime, cstime) = (next(), next(), next(), next());
    (utime + cutime, stime + cstime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_devices_and_leaves_totals_out() {
        let text = "8:0 Read 10\n8:0 Write 3\n8:16 Read 5\n8:16 Total 8\nTotal 18\n";
        assert_eq!((sum(text, "Read"), sum(text, "Write")), (15, 3));
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (a) b (c) R 1 1 1 0 -1 0 0 0 0 0 40 30 2 1 20 0 1";
        assert_eq!(ticks(text), (42, 31));
        assert_eq!(ticks(""), (0, 0));
    }
}
