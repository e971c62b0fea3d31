//! cgroups: makes one for a container, writes its limits, and reads, freezes, kills and removes it.
//!
//! It never mounts a hierarchy, never touches a cgroup that it was not given by path, and never decides a
//! limit: what `LinuxResources` asks for is written, or the whole creation is undone with an error.
//!
//! ```text
//! LinuxResources ── plan (pure) ──▶ files and values ── apply ──▶ kernel
//! Hierarchies ── Cgroup::create ──▶ entrance() ──▶ the child: Entrance::join, or clone3(CLONE_INTO_CGROUP)
//! later:        Cgroup::open ──▶ update, stats, freeze, kill ──▶ remove
//! after a crash: children ──▶ open ──▶ kill, remove
//! ```
//!
//! On cgroup v1 every controller has a tree of its own; a container gets a directory in `memory`, `pids` and
//! `devices`, and in another tree only when a limit or a verb (freeze) needs it. On v2 there is one tree.

#![forbid(unsafe_code)]

mod apply;
mod cgroup;
mod control;
mod device;
mod entrance;
mod freeze;
mod hierarchy;
mod members;
mod mounts;
mod plan;
mod removal;
mod stats;

pub use cgroup::Cgroup;
pub use entrance::Entrance;
pub use hierarchy::{Hierarchies, Version};
pub use removal::children;
pub use stats::{CpuStats, IoStats, MemoryEvents, MemoryStats, PidsStats, Stats, Throttling};
