//! The v2 files. Source: admin-guide/cgroup-v2.rst.

use super::{BlkioEntry, Files, HugetlbStats, LimitedUsage, OciStats, expand, huge_page_sizes, table};

pub(super) fn stats(files: &Files<'_>) -> OciStats {
    let mut stats = OciStats::default();
    cpu(files, &mut stats);
    stats.cpuset.cpus = expand(&files.read("cpuset.cpus.effective").unwrap_or_default());
    stats.cpuset.mems = expand(&files.read("cpuset.mems.effective").unwrap_or_default());
    memory(files, &mut stats);
    stats.pids.current = files.number("pids.current");
    stats.pids.limit = Some(files.number("pids.max")).filter(|&limit| limit != u64::MAX).unwrap_or(0);
    let (bytes, operations) = io(&files.read("io.stat").unwrap_or_default());
    stats.blkio.io_service_bytes_recursive = bytes;
    stats.blkio.io_serviced_recursive = operations;
    stats.blkio.psi = files.pressure("io.pressure");
    for size in huge_page_sizes() {
        let Some(current) = files.read(&format!("hugetlb.{size}.current")) else {
            continue;
        };
        let events = table(&files.read(&format!("hugetlb.{size}.events")).unwrap_or_default());
        let entry = HugetlbStats {
            usage: super::number(current.trim()),
            max: 0,
            failcnt: events.get("max").copied().unwrap_or(0),
        };
        stats.hugetlb.insert(size, entry);
    }
    stats
}

fn cpu(files: &Files<'_>, stats: &mut OciStats) {
    let table = table(&files.read("cpu.stat").unwrap_or_default());
    let of = |key: &str| table.get(key).copied().unwrap_or(0);
    let nanoseconds = |key: &str| of(key).saturating_mul(1000);
    stats.cpu.usage.total = nanoseconds("usage_usec");
    stats.cpu.usage.user = nanoseconds("user_usec");
    stats.cpu.usage.kernel = nanoseconds("system_usec");
    stats.cpu.throttling.periods = of("nr_periods");
    stats.cpu.throttling.throttled_periods = of("nr_throttled");
    stats.cpu.throttling.throttled_time = nanoseconds("throttled_usec");
    stats.cpu.psi = files.pressure("cpu.pressure");
}

fn memory(files: &Files<'_>, stats: &mut OciStats) {
    let memory = &mut stats.memory;
    memory.raw = table(&files.read("memory.stat").unwrap_or_default());
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    memory.event_count = table(&files.read("memory.events").unwrap_or_default());
    let usage = |sort: &str, failures: u64| LimitedUsage {
        limit: files.number(&format!("memory.{sort}max")),
        usage: files.number(&format!("memory.{sort}current")),
        max: files.number(&format!("memory.{sort}peak")),
        failcnt: failures,
    };
    memory.usage = usage("", memory.event_count.get("max").copied().unwrap_or(0));
    let events = table(&files.read("memory.swap.events").unwrap_or_default());
    let swap = usage("swap.", events.get("max").copied().unwrap_or(0));
    memory.swap = LimitedUsage {
        // No limit on the one is no limit on both.
        limit: swap.limit.saturating_add(memory.usage.limit),
        usage: swap.usage.saturating_add(memory.usage.usage),
        max: swap.max.saturating_add(memory.usage.max),
        failcnt: swap.failcnt,
    };
    memory.psi = files.pressure("memory.pressure");
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6` lines, as bytes and as operations.
fn io(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let device = words.next().and_then(|word| word.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value: value.parse().unwrap_or(0) });
        }
    }
    (bytes, operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_entries_of_two_lists() {
        let (bytes, operations) = io("254:0 rbytes=10 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:0\nx y=1\n");
        assert_eq!((bytes.len(), operations.len()), (3, 3));
        assert_eq!(bytes[0], BlkioEntry { major: 254, minor: 0, op: "Read".into(), value: 10 });
        assert_eq!(operations[1].value, 4);
    }
}
