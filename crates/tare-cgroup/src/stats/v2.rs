//! The v2 files. Source: admin-guide/cgroup-v2.rst.

use rustix::io::Errno;
use tare_sys::{Error, Kind, Result};

use super::{CpuStats, IoStats, MemoryEvents, MemoryStats, PidsStats, Stats, Throttling};
use crate::cgroup::Cgroup;
use crate::control::{self, value_of};

/// Reads a file of the cgroup; `None` where the kernel or the cgroup has no such file.
fn file(cgroup: &Cgroup, name: &str) -> Result<Option<String>> {
    let path = format!("{}/{name}", cgroup.relative()?);
    match control::read(cgroup.on.root(), &path) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(Error::syscall(format!("read({:?})", cgroup.on.shown(&path)), errno)),
    }
}

/// A file with one number; `max` is `None`, as is no file.
fn number(cgroup: &Cgroup, name: &str) -> Result<Option<u64>> {
    Ok(file(cgroup, name)?.and_then(|text| text.trim().parse().ok()))
}

/// A controller that is not enabled looks like a cgroup that is gone; the directory tells them apart.
fn check_there(cgroup: &Cgroup) -> Result<()> {
    let relative = cgroup.relative()?;
    match rustix::fs::statat(cgroup.on.root(), relative, rustix::fs::AtFlags::empty()) {
        Err(Errno::NOENT) => {
            Err(Error::new(Kind::NotFound, format!("cgroup /{relative}: it does not exist")))
        }
        _ => Ok(()),
    }
}

pub(super) fn memory_events(cgroup: &Cgroup) -> Result<MemoryEvents> {
    let Some(events) = file(cgroup, "memory.events")? else {
        return check_there(cgroup).map(|()| MemoryEvents::default());
    };
    Ok(MemoryEvents {
        oom_kills: value_of(&events, "oom_kill").unwrap_or(0),
        peak: number(cgroup, "memory.peak")?,
        limit: number(cgroup, "memory.max")?,
    })
}

pub(super) fn stats(cgroup: &Cgroup) -> Result<Stats> {
    check_there(cgroup)?;
    let memory = match number(cgroup, "memory.current")? {
        None => None,
        Some(usage) => {
            let stat = file(cgroup, "memory.stat")?.unwrap_or_default();
            Some(MemoryStats {
                usage,
                cache: value_of(&stat, "file").unwrap_or(0),
                inactive_file: value_of(&stat, "inactive_file").unwrap_or(0),
                limit: number(cgroup, "memory.max")?,
            })
        }
    };
    let pids = match number(cgroup, "pids.current")? {
        None => None,
        Some(current) => Some(PidsStats { current, limit: number(cgroup, "pids.max")? }),
    };
    Ok(Stats {
        cpu: file(cgroup, "cpu.stat")?.map(|text| cpu(&text)),
        memory,
        pids,
        io: file(cgroup, "io.stat")?.map(|text| io(&text)),
    })
}

pub(super) fn pressure(cgroup: &Cgroup, what: &str) -> Result<Option<f64>> {
    Ok(file(cgroup, &format!("{what}.pressure"))?.and_then(|text| some_of_ten(&text)))
}

/// `some avg10=1.23 avg60=… avg300=… total=…`
fn some_of_ten(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

/// `cpu.stat` counts in microseconds; the throttling lines are there with the cpu controller only.
fn cpu(text: &str) -> CpuStats {
    let nanoseconds = |key| value_of(text, key).unwrap_or(0).saturating_mul(1000);
    CpuStats {
        usage: nanoseconds("usage_usec"),
        user: nanoseconds("user_usec"),
        system: nanoseconds("system_usec"),
        throttling: value_of(text, "nr_periods").map(|periods| Throttling {
            periods,
            throttled_periods: value_of(text, "nr_throttled").unwrap_or(0),
            throttled: nanoseconds("throttled_usec"),
        }),
    }
}

/// Adds up `MAJ:MIN rbytes=N wbytes=N rios=N wios=N …` lines.
fn io(text: &str) -> IoStats {
    let mut stats = IoStats::default();
    for (key, value) in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
        let value = value.parse::<u64>().unwrap_or(0);
        match key {
            "rbytes" => stats.read_bytes += value,
            "wbytes" => stats.write_bytes += value,
            "rios" => stats.reads += value,
            "wios" => stats.writes += value,
            _ => {}
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_microseconds_as_nanoseconds() {
        let text = "usage_usec 5\nuser_usec 3\nsystem_usec 2\n";
        let plain = CpuStats { usage: 5000, user: 3000, system: 2000, throttling: None };
        assert_eq!(cpu(text), plain);
        let text = format!("{text}nr_periods 9\nnr_throttled 4\nthrottled_usec 7\n");
        let throttling = Some(Throttling { periods: 9, throttled_periods: 4, throttled: 7000 });
        assert_eq!(cpu(&text), CpuStats { throttling, ..plain });
    }

    #[test]
    fn reads_pressure() {
        assert_eq!(some_of_ten("some avg10=1.25 avg60=0.00 total=9\nfull avg10=0.50\n"), Some(1.25));
        assert_eq!(some_of_ten("full avg10=0.50\n"), None);
        assert_eq!(some_of_ten("some avg10=x"), None);
    }

    #[test]
    fn adds_up_devices() {
        let text =
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=9 dios=9\n254:0 rbytes=10 wbytes=0 rios=1 wios=0\n";
        assert_eq!(io(text), IoStats { read_bytes: 11, write_bytes: 2, reads: 4, writes: 4 });
        assert_eq!(io("8:0\n"), IoStats::default());
    }
}
