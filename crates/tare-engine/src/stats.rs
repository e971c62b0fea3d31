//! `stats`: what containers use, as Docker counts it.

use std::fs;

use tare_cgroup::{Cgroup, Hierarchies, Stats};
use tare_sys::time::Moment;
use tare_sys::{Error, Kind, Result};

use crate::container::Status;
use crate::engine::Engine;

/// What one container uses, at one moment.
#[derive(Clone, Debug)]
pub struct Usage {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was looked at.
    pub at: Moment,
    /// Nothing is used by one that does not run.
    pub running: bool,
    /// Of the cgroup.
    pub cgroup: Stats,
    /// Bytes received and sent by the interfaces of its network namespace, the loopback left out; `None` where that
    /// is the host's.
    pub network: Option<(u64, u64)>,
    /// Packets that its limits on the network have dropped, for it and from it; `None` where it has none.
    pub dropped: Option<(u64, u64)>,
    /// How long some of its processes had to wait, in percent of the last 10 seconds; `None` where the kernel or the
    /// cgroup does not say.
    pub pressure: Pressure,
    /// Nanoseconds that all CPUs of the host have been busy or idle, together.
    pub host_time: u64,
    /// CPUs of the host.
    pub cpus: u32,
    /// Bytes of memory of the host.
    pub host_memory: u64,
    /// Bytes read and written, by its processes that live.
    pub io: (u64, u64),
}

/// Pressure stall information (Documentation/accounting/psi.rst), percent of the last 10 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Waiting for a CPU.
    pub cpu: Option<f64>,
    /// Waiting for memory.
    pub memory: Option<f64>,
    /// Waiting for a disk.
    pub io: Option<f64>,
}

impl Usage {
    /// Memory in use, without the page cache that the kernel would take first; as Docker counts.
    pub fn memory(&self) -> u64 {
        self.cgroup.memory.map_or(0, |memory| memory.usage.saturating_sub(memory.inactive_file))
    }

    /// How much memory there is for it: its limit, or the host's.
    pub fn memory_limit(&self) -> u64 {
        let limit = self.cgroup.memory.and_then(|memory| memory.limit).unwrap_or(self.host_memory);
        limit.min(self.host_memory)
    }

    /// Percent of a CPU used since `before`; above 100 with several. Docker's formula.
    pub fn cpu_percent(&self, before: &Usage) -> f64 {
        let of = |usage: &Usage| usage.cgroup.cpu.map_or(0, |cpu| cpu.usage);
        let used = of(self).saturating_sub(of(before)) as f64;
        let elapsed = (self.at.0 - before.at.0).max(1) as f64;
        used / elapsed * 100.0
    }
}

impl Engine {
    /// What the containers that run use, or those that are named; with `all` also those that do not run, which use
    /// nothing.
    ///
    /// Errors: [`Kind::NotFound`] for a name.
    pub fn usage(&self, names: &[&str], all: bool) -> Result<Vec<Usage>> {
        let roots = self.roots();
        let ids = match names {
            [] => roots.ids()?,
            names => names.iter().map(|name| roots.find(name)).collect::<Result<_>>()?,
        };
        let hierarchies = Hierarchies::discover()?;
        let host = Host::look();
        let mut list = Vec::new();
        for id in ids {
            let folders = roots.folders(&id);
            let (Ok(record), Ok(status)) = (folders.record(), folders.status()) else { continue };
            let status = status.unwrap_or_else(Status::created);
            let running = status.process().is_some();
            if !running && !all && names.is_empty() {
                continue;
            }
            let cgroup = crate::cgroup::open(&hierarchies, &record);
            let processes = if running { cgroup.processes().unwrap_or_default() } else { Vec::new() };
            let pids: Vec<i32> = processes.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            let stats = if running { cgroup.stats().unwrap_or_default() } else { Stats::default() };
            let created = Moment::parse(&record.created).map_or(0, |moment| moment.0);
            let limited = running && !record.request.host_config.network_limits.is_empty();
            let usage = Usage {
                id,
                name: record.name.clone(),
                at: Moment::now(),
                running,
                io: stats.io.map_or_else(|| io_of(&pids), |io| (io.read_bytes, io.write_bytes)),
                cgroup: stats,
                network: running.then(|| network_of(status.pid)).flatten(),
                dropped: limited.then(|| crate::network::dropped(roots, &record.id, status.pid)).flatten(),
                pressure: if running { pressure_of(&cgroup) } else { Pressure::default() },
                host_time: host.time,
                cpus: host.cpus,
                host_memory: host.memory,
            };
            list.push((created, usage));
        }
        list.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
        Ok(list.into_iter().map(|(_, usage)| usage).collect())
    }
}

struct Host {
    time: u64,
    cpus: u32,
    memory: u64,
}

impl Host {
    fn look() -> Host {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        // user nice system idle iowait irq softirq steal (proc_stat(5)).
        let first = stat.lines().next().unwrap_or_default();
        let ticks: u64 =
            first.split_ascii_whitespace().skip(1).take(8).filter_map(|word| word.parse::<u64>().ok()).sum();
        let cpus = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        Host { time: ticks * tick, cpus: cpus.try_into().unwrap_or(1), memory: total.unwrap_or(0) * 1024 }
    }
}

/// Received and sent, of all interfaces but the loopback (`/proc/PID/net/dev`, proc_pid_net(5)).
fn network_of(pid: i32) -> Option<(u64, u64)> {
    let own = fs::read_link("/proc/self/ns/net").ok()?;
    if fs::read_link(format!("/proc/{pid}/ns/net")).ok()? == own {
        return None;
    }
    Some(traffic(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
}

fn traffic(table: &str) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for line in table.lines() {
        let Some((name, figures)) = line.split_once(':') else { continue };
        let figures: Vec<u64> =
            figures.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
        if name.trim() != "lo" && figures.len() >= 9 {
            sum = (sum.0.saturating_add(figures[0]), sum.1.saturating_add(figures[8]));
        }
    }
    sum
}

/// Read and written by the living processes (`/proc/PID/io`), where the cgroup does not count it.
fn io_of(pids: &[i32]) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let of = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        sum = (sum.0 + of("read_bytes:"), sum.1 + of("write_bytes:"));
    }
    sum
}

fn pressure_of(cgroup: &Cgroup) -> Pressure {
    let of = |name: &str| cgroup.pressure(name).ok().flatten();
    Pressure { cpu: of("cpu"), memory: of("memory"), io: of("io") }
}

impl Engine {
    /// What `ps` says of a container's processes, with these options of ps(1): a heading, then rows.
    ///
    /// Errors: [`Kind::Conflict`] for one that does not run; [`Kind::Unsupported`] where there is no `ps`.
    pub fn top(&self, container: &str, options: &[&str]) -> Result<Vec<Vec<String>>> {
        let folders = self.roots().folders(&self.roots().find(container)?);
        let record = folders.record()?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_none() {
            return Err(Error::new(Kind::Conflict, format!("container {} is not running", record.name)));
        }
        let cgroup = crate::cgroup::open(&Hierarchies::discover()?, &record);
        let mut pids: Vec<i32> = cgroup.processes()?.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        pids.sort_unstable();
        match options {
            [] => Ok(crate::processes::table(&pids, status.base)),
            options => crate::processes::by_ps(&pids, options),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_leaves_the_loopback_out() {
        let table = "Inter-|   Receive      |  Transmit\n face |bytes    packets\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n\
                     eth0: 100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\neth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\nbad: 1\n";
        assert_eq!(traffic(table), (101, 22));
    }
}
