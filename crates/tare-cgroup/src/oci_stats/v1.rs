//! The v1 files. Source: admin-guide/cgroup-v1/{memory,cpuacct,cpusets,blkio-controller,hugetlb}.rst.

use tare_sys::Result;

use super::{BlkioEntry, Files, HugetlbStats, LimitedUsage, OciStats, expand, huge_page_sizes, table};

pub(super) fn stats(files: &Files<'_>) -> Result<OciStats> {
    let mut stats = OciStats::default();
    cpu(files, &mut stats)?;
    cpuset(files, &mut stats);
    memory(files, &mut stats);
    stats.pids.current = files.number("pids.current");
    stats.pids.limit = Some(files.number("pids.max")).filter(|&limit| limit != u64::MAX).unwrap_or(0);
    blkio(files, &mut stats);
    for size in huge_page_sizes() {
        let file = |name: &str| format!("hugetlb.{size}.{name}");
        if files.read(&file("usage_in_bytes")).is_some() {
            let entry = HugetlbStats {
                usage: files.number(&file("usage_in_bytes")),
                max: files.number(&file("max_usage_in_bytes")),
                failcnt: files.number(&file("failcnt")),
            };
            stats.hugetlb.insert(size, entry);
        }
    }
    Ok(stats)
}

fn cpu(files: &Files<'_>, stats: &mut OciStats) -> Result<()> {
    let usage = &mut stats.cpu.usage;
    if files.read("cpuacct.usage").is_some() {
        usage.total = files.number("cpuacct.usage");
        usage.user = files.number("cpuacct.usage_user");
        usage.kernel = files.number("cpuacct.usage_sys");
        let each = |name| numbers(&files.read(name).unwrap_or_default());
        usage.percpu = each("cpuacct.usage_percpu");
        usage.percpu_user = each("cpuacct.usage_percpu_user");
        usage.percpu_kernel = each("cpuacct.usage_percpu_sys");
    } else if let Some(cpu) = files.cgroup.stats()?.cpu {
        // Added up from the processes that there are.
        (usage.total, usage.user, usage.kernel) = (cpu.usage, cpu.user, cpu.system);
    }
    let table = table(&files.read("cpu.stat").unwrap_or_default());
    let of = |key: &str| table.get(key).copied().unwrap_or(0);
    stats.cpu.throttling.periods = of("nr_periods");
    stats.cpu.throttling.throttled_periods = of("nr_throttled");
    stats.cpu.throttling.throttled_time = of("throttled_time");
    Ok(())
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn cpuset(files: &Files<'_>, stats: &mut OciStats) {
    let set = &mut stats.cpuset;
    let Some(cpus) = files.read("cpuset.cpus") else {
        return;
    };
    set.cpus = expand(&cpus);
    set.mems = expand(&files.read("cpuset.mems").unwrap_or_default());
    set.cpu_exclusive = files.number("cpuset.cpu_exclusive");
    set.mem_hardwall = files.number("cpuset.mem_hardwall");
    set.mem_exclusive = files.number("cpuset.mem_exclusive");
    set.memory_migrate = files.number("cpuset.memory_migrate");
    set.memory_spread_page = files.number("cpuset.memory_spread_page");
    set.memory_spread_slab = files.number("cpuset.memory_spread_slab");
    set.memory_pressure = files.number("cpuset.memory_pressure");
    set.sched_load_balance = files.number("cpuset.sched_load_balance");
    let level = files.read("cpuset.sched_relax_domain_level");
    set.sched_relax_domain_level = level.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
}

fn memory(files: &Files<'_>, stats: &mut OciStats) {
    let memory = &mut stats.memory;
    memory.raw = table(&files.read("memory.stat").unwrap_or_default());
    memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
    let usage = |sort: &str| LimitedUsage {
        limit: files.number(&format!("memory.{sort}limit_in_bytes")),
        usage: files.number(&format!("memory.{sort}usage_in_bytes")),
        max: files.number(&format!("memory.{sort}max_usage_in_bytes")),
        failcnt: files.number(&format!("memory.{sort}failcnt")),
    };
    memory.usage = usage("");
    memory.swap = usage("memsw.");
    memory.kernel = usage("kmem.");
    memory.kernel_tcp = usage("kmem.tcp.");
}

fn blkio(files: &Files<'_>, stats: &mut OciStats) {
    let blkio = &mut stats.blkio;
    for (name, list) in [
        ("io_service_bytes", &mut blkio.io_service_bytes_recursive),
        ("io_serviced", &mut blkio.io_serviced_recursive),
        ("io_queued", &mut blkio.io_queued_recursive),
        ("io_service_time", &mut blkio.io_service_time_recursive),
        ("io_wait_time", &mut blkio.io_wait_time_recursive),
        ("io_merged", &mut blkio.io_merged_recursive),
        ("time", &mut blkio.io_time_recursive),
        ("sectors", &mut blkio.sectors_recursive),
    ] {
        // BFQ counts what goes through it, CFQ (before 5.0) did; throttling counts for every scheduler.
        for sort in ["bfq.", "", "throttle."] {
            *list = entries(&files.read(&format!("blkio.{sort}{name}_recursive")).unwrap_or_default());
            if !list.is_empty() {
                break;
            }
        }
    }
}

/// `8:0 Read 10` or `8:0 10` lines; the total of all devices is no entry.
fn entries(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (op, value) = rest.split_once(' ').unwrap_or(("", rest));
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.trim().parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_devices_with_and_without_an_operation() {
        let found = entries("8:0 Read 10\n8:16 7\nTotal 17\nbroken\n8:x Read 1\n");
        let entry = |minor, op: &str, value| BlkioEntry { major: 8, minor, op: op.to_owned(), value };
        assert_eq!(found, [entry(0, "Read", 10), entry(16, "", 7)]);
    }
}
