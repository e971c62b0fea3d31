//! cgroups: makes one for a container, writes its limits, and reads, freezes, kills and removes it.
//!
//! It never mounts a hierarchy, never touches a cgroup that it was not given by path, and never decides a
//! limit: what `LinuxResources` asks for is written, or the whole creation is undone with an error. It starts no
//! thread.
//!
//! ```text
//! LinuxResources ── plan (pure) ──▶ files and values ── apply ──▶ kernel
//! Hierarchies ── Cgroup::create ──▶ entrance() ──▶ the child: Entrance::join, or clone3(CLONE_INTO_CGROUP)
//! later:        Cgroup::open ──▶ update, stats, freeze, kill ──▶ remove
//! OCI runtime:  Cgroup::create_for(driver) ──▶ entrance() ──▶ clone ──▶ Entrance::admit(pid) ──▶ the child goes on
//!               Cgroup::at(location) ──▶ as above, and OciStats, OomWatch, delegate
//! after a crash: children ──▶ open ──▶ kill, remove
//! ```
//!
//! On cgroup v1 every controller has a tree of its own; a container gets a directory in `memory`, `pids` and
//! `devices`, and in another tree only when a limit or a verb (freeze) needs it. On v2 there is one tree.

#![forbid(unsafe_code)]

mod apply;
mod cgroup;
mod control;
mod dbus;
mod delegation;
mod device;
mod driver;
mod entrance;
mod freeze;
mod hierarchy;
mod members;
mod mounts;
mod oci_stats;
mod oom;
mod plan;
mod removal;
mod stats;
mod systemd;
mod tree;

pub use cgroup::Cgroup;
pub use driver::{Driver, Location, delegated_to_user};
pub use entrance::{Admission, Entrance};
pub use hierarchy::{Hierarchies, Version};
pub use oci_stats::{
    BlkioEntry, BlkioStats, CpuUsage, CpusetStats, HugetlbStats, LimitedUsage, OciCpu, OciMemory, OciPids,
    OciStats, OciThrottling, PsiLine, PsiStats, RdmaStats,
};
pub use oom::OomWatch;
pub use removal::children;
pub use stats::{CpuStats, IoStats, MemoryEvents, MemoryStats, PidsStats, Stats, Throttling};
pub use systemd::systemd_is_running;
