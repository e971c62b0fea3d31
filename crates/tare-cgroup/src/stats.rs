//! What a cgroup uses and what it ran into.

use tare_sys::Result;

use crate::cgroup::Cgroup;
use crate::hierarchy::Version;

mod v1;
mod v2;

/// What memory limits have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Processes killed by the OOM killer. On v1 those of child cgroups do not count.
    pub oom_kills: u64,
    /// The most memory ever in use, in bytes (v2: Linux 5.19).
    pub peak: Option<u64>,
    /// The memory limit in bytes, `None` where there is none.
    pub limit: Option<u64>,
}

/// What a cgroup uses. A part is `None` where the host, or on v1 this cgroup, lacks the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<PidsStats>,
    /// Block devices. On v1 only for a container with a block I/O limit.
    pub io: Option<IoStats>,
}

/// Processor time used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds on all processors since the cgroup was made.
    ///
    /// On v1 without a `cpuacct` cgroup (the usual case: it would cost each start) it is added up from
    /// `/proc/PID/stat` of the living processes and the children they waited for, to 10 ms.
    pub usage: u64,
    /// Of that, nanoseconds in user mode.
    pub user: u64,
    /// Of that, nanoseconds in the kernel.
    pub system: u64,
    /// How the quota was met; `None` without the `cpu` controller.
    pub throttling: Option<Throttling>,
}

/// How often a CPU quota was used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Enforcement periods that have passed while the container was runnable.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Nanoseconds for which runnable processes had to wait, added up over processors.
    pub throttled: u64,
}

/// Memory in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged to the cgroup, page cache included.
    pub usage: u64,
    /// Page cache.
    pub cache: u64,
    /// Page cache that the kernel would take first; `usage` less this is what `docker stats` calls usage.
    pub inactive_file: u64,
    /// The limit, `None` where there is none.
    pub limit: Option<u64>,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Processes and threads that there are.
    pub current: u64,
    /// How many there may be, `None` for no limit.
    pub limit: Option<u64>,
}

/// Traffic with block devices, all devices together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

impl Cgroup {
    /// What the memory limit has done: two or three small reads. All zero and `None` where the host has no
    /// memory controller.
    ///
    /// Errors: [`Kind::NotFound`](tare_sys::Kind::NotFound) if the cgroup is gone.
    pub fn memory_events(&self) -> Result<MemoryEvents> {
        self.relative()?;
        match self.on.version() {
            Version::V1 => v1::memory_events(self),
            Version::V2 => v2::memory_events(self),
        }
    }

    /// How much of the last 10 seconds some process had to wait for `what` (`cpu`, `memory`, `io`), in percent; `None`
    /// on v1, and where the kernel does not say.
    ///
    /// Source: Documentation/accounting/psi.rst.
    pub fn pressure(&self, what: &str) -> Result<Option<f64>> {
        self.relative()?;
        match self.on.version() {
            Version::V1 => Ok(None),
            Version::V2 => v2::pressure(self, what),
        }
    }

    /// What the cgroup uses now.
    ///
    /// Errors: [`Kind::NotFound`](tare_sys::Kind::NotFound) if the cgroup is gone.
    pub fn stats(&self) -> Result<Stats> {
        self.relative()?;
        match self.on.version() {
            Version::V1 => v1::stats(self),
            Version::V2 => v2::stats(self),
        }
    }
}
