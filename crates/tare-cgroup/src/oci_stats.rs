//! Everything that a cgroup counts, in the JSON shape of `runc events --stats`, which containerd and others read.
//!
//! Field names: types/events.go of runc. Fields of Intel RDT and of network interfaces, which are no cgroup's, are
//! left to the caller.

use std::collections::BTreeMap;

use rustix::io::Errno;
use serde::Serialize;
use tare_sys::{Error, Kind, Result};

use crate::cgroup::Cgroup;
use crate::control;
use crate::hierarchy::Version;

mod v1;
mod v2;

/// What a cgroup uses, as runc prints it. Zero where the kernel does not count, or the controller is missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OciStats {
    /// Processor time.
    pub cpu: OciCpu,
    /// Which processors and memory nodes it may use.
    pub cpuset: CpusetStats,
    /// Memory.
    pub memory: OciMemory,
    /// Processes and threads.
    pub pids: OciPids,
    /// Block devices.
    pub blkio: BlkioStats,
    /// Huge pages by size, such as `2MB`.
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// RDMA devices.
    #[serde(skip_serializing_if = "RdmaStats::is_empty")]
    pub rdma: RdmaStats,
}

fn zero(number: &u64) -> bool {
    *number == 0
}

/// How long processes waited for a resource (pressure stall information).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PsiStats {
    /// While at least one process waited.
    pub some: PsiLine,
    /// While all did.
    pub full: PsiLine,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PsiLine {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds since the beginning.
    pub total: u64,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OciCpu {
    /// Time used.
    pub usage: CpuUsage,
    /// How the quota was met.
    pub throttling: OciThrottling,
    /// Waiting for a processor (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<PsiStats>,
}

/// Processor time used, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// On all processors.
    #[serde(skip_serializing_if = "zero")]
    pub total: u64,
    /// On each processor (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// On each processor, in the kernel (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// On each processor, in user mode (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// How often a CPU quota was used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciThrottling {
    /// Enforcement periods that have passed.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// Periods in which the quota was used up.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Nanoseconds spent waiting because of it.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_time: u64,
}

/// The `cpuset` controller's files by their names; on v2 only `cpus` and `mems`, those in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // They are the kernel's: cpuset(7).
pub struct CpusetStats {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OciMemory {
    /// Page cache.
    #[serde(skip_serializing_if = "zero")]
    pub cache: u64,
    /// All memory.
    pub usage: LimitedUsage,
    /// Memory and swap together; on v2 added up, for the sake of v1's readers.
    pub swap: LimitedUsage,
    /// The kernel's memory (v1).
    pub kernel: LimitedUsage,
    /// TCP buffers (v1).
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: LimitedUsage,
    /// `memory.stat`, line by line.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Waiting for memory (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<PsiStats>,
    /// `memory.events`, line by line (v2).
    pub event_count: BTreeMap<String, u64>,
}

/// A use with a limit, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitedUsage {
    /// The limit; on v2 2^64-1 and on v1 about 2^63 for none, as runc has it.
    pub limit: u64,
    /// In use now.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most ever in use.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OciPids {
    /// How many there are.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// How many there may be; 0 for no limit.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Block devices; each list by device and operation. v2 knows bytes and operations only.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlkioStats {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Requests in the queue.
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    /// Nanoseconds from dispatch to completion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Nanoseconds in queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Requests merged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Milliseconds of the disk's time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Sectors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    /// Waiting for disks (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<PsiStats>,
}

/// One count of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    /// Device number, first part.
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    /// Device number, second part.
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard` or `Total`; empty where the kernel does not tell.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The count.
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HugetlbStats {
    /// In use now.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most ever in use (v1).
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// RDMA devices: handles and objects by device, `hca_handle` and `hca_object`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RdmaStats {
    /// In use now.
    pub rdma_current: BTreeMap<String, BTreeMap<String, u64>>,
    /// The limits; 2^64-1 for none.
    pub rdma_limit: BTreeMap<String, BTreeMap<String, u64>>,
}

impl RdmaStats {
    fn is_empty(&self) -> bool {
        self.rdma_current.is_empty() && self.rdma_limit.is_empty()
    }
}

impl Cgroup {
    /// All that the cgroup counts, for `events --stats`; about thirty small reads.
    ///
    /// Errors: [`Kind::NotFound`] if the cgroup is gone. A single file that cannot be read counts as zero.
    pub fn oci_stats(&self) -> Result<OciStats> {
        let relative = self.relative()?;
        if self.paths().is_empty() {
            return Err(Error::new(Kind::NotFound, format!("cgroup /{relative}: it does not exist")));
        }
        let files = Files { cgroup: self };
        let mut stats = match self.on.version() {
            Version::V1 => v1::stats(&files)?,
            Version::V2 => v2::stats(&files),
        };
        stats.rdma = RdmaStats {
            rdma_current: files.read("rdma.current").map(|text| rdma(&text)).unwrap_or_default(),
            rdma_limit: files.read("rdma.max").map(|text| rdma(&text)).unwrap_or_default(),
        };
        Ok(stats)
    }
}

/// The control files of a cgroup, by name.
struct Files<'a> {
    cgroup: &'a Cgroup,
}

impl Files<'_> {
    /// A file's text; `None` where it is missing or cannot be read.
    fn read(&self, name: &str) -> Option<String> {
        let controller = name.split('.').next().unwrap_or_default();
        let on = &self.cgroup.on;
        let path = format!("{}/{name}", on.dir(controller, self.cgroup.relative().ok()?));
        match control::read(on.root(), &path) {
            Ok(text) => Some(text),
            // Pressure files answer so where the kernel was booted without them.
            Err(Errno::OPNOTSUPP) => None,
            Err(_) => None,
        }
    }

    /// A file with one number; `max` is 2^64-1, and nothing is 0.
    fn number(&self, name: &str) -> u64 {
        self.read(name).map_or(0, |text| number(text.trim()))
    }

    fn pressure(&self, name: &str) -> Option<PsiStats> {
        self.read(name).map(|text| pressure(&text))
    }
}

fn number(text: &str) -> u64 {
    if text == "max" { u64::MAX } else { text.parse().unwrap_or(0) }
}

/// `key value` lines.
fn table(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn pressure(text: &str) -> PsiStats {
    let mut stats = PsiStats::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let to = match words.next() {
            Some("some") => &mut stats.some,
            Some("full") => &mut stats.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => to.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => to.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => to.avg300 = value.parse().unwrap_or(0.0),
                "total" => to.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    stats
}

/// `mlx4_0 hca_handle=2 hca_object=max` lines.
fn rdma(text: &str) -> BTreeMap<String, BTreeMap<String, u64>> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(device, words)| {
            let words = words.split_ascii_whitespace().filter_map(|word| word.split_once('='));
            (device.to_owned(), words.map(|(key, value)| (key.to_owned(), number(value))).collect())
        })
        .collect()
}

/// `0-2,5` as single numbers. At most 8192, the kernel's most cpus.
fn expand(list: &str) -> Vec<u16> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            numbers.extend((first..=last.min(8191)).take(8192));
        }
    }
    numbers
}

/// The sizes of huge pages that this machine has, as the control files name them: `2MB`.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut sizes: Vec<String> = entries.filter_map(|entry| page_size(entry.file_name().to_str()?)).collect();
    sizes.sort();
    sizes
}

/// `hugepages-2048kB` is `2MB`.
fn page_size(folder: &str) -> Option<String> {
    let kilobytes: u64 = folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_names_of_runc() {
        let mut stats = OciStats::default();
        stats.cpu.usage.total = 5;
        stats.cpu.throttling.throttled_time = 7;
        stats.memory.kernel_tcp.usage = 3;
        stats.memory.usage.limit = u64::MAX;
        stats.blkio.io_queued_recursive.push(BlkioEntry { major: 8, minor: 0, op: "Read".into(), value: 4 });
        stats.hugetlb.insert("2MB".into(), HugetlbStats { usage: 1, max: 0, failcnt: 2 });
        stats.pids.current = 1;
        let json = serde_json::to_value(&stats).unwrap();
        assert_eq!(
            json["cpu"],
            serde_json::json!({
                "usage": { "total": 5, "kernel": 0, "user": 0 }, "throttling": { "throttledTime": 7 },
            })
        );
        assert_eq!(json["memory"]["kernelTCP"], serde_json::json!({ "limit": 0, "usage": 3, "failcnt": 0 }));
        assert_eq!(json["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(
            json["blkio"]["ioQueueRecursive"][0],
            serde_json::json!({ "major": 8, "op": "Read", "value": 4 })
        );
        assert_eq!(json["hugetlb"]["2MB"], serde_json::json!({ "usage": 1, "failcnt": 2 }));
        assert_eq!(json["pids"], serde_json::json!({ "current": 1 }));
        assert_eq!(json["cpuset"]["sched_relax_domain_level"], 0);
        assert!(json.get("rdma").is_none());
    }

    #[test]
    fn reads_the_kernels_formats() {
        let stats =
            pressure("some avg10=1.50 avg60=0.10 avg300=0.00 total=42\nfull avg10=0.00 total=7\nbroken\n");
        assert_eq!((stats.some.avg10, stats.some.total, stats.full.total), (1.5, 42, 7));
        assert_eq!(expand("0-2,5\n"), [0, 1, 2, 5]);
        assert!(expand("\n").is_empty() && expand("5-1,x,0-").is_empty() && expand("0-65535").len() == 8192);
        assert_eq!(table("anon 5\nfile 7\nbroken\nx y\n").len(), 2);
        assert_eq!(rdma("mlx hca_handle=2 hca_object=max\n")["mlx"]["hca_object"], u64::MAX);
        assert_eq!(page_size("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(page_size("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(page_size("hugepages-64kB").as_deref(), Some("64KB"));
    }
}
