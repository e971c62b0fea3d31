//! How this process is scheduled: policy, I/O priority, processors, personality, memory nodes.

use crate::error::{Context, Result};
use crate::process::check;

/// `struct sched_attr` of sched_setattr(2), as of Linux 5.3.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Of the normal policies: -20 to 19.
    pub nice: i32,
    /// Of the real-time policies: 1 to 99.
    pub priority: u32,
    /// Of `SCHED_DEADLINE`, nanoseconds.
    pub runtime: u64,
    /// Of `SCHED_DEADLINE`, nanoseconds.
    pub deadline: u64,
    /// Of `SCHED_DEADLINE`, nanoseconds.
    pub period: u64,
    /// Utilisation clamps, 0 to 1024.
    pub util_min: u32,
    /// Utilisation clamps, 0 to 1024.
    pub util_max: u32,
}

/// Sets policy and parameters of this thread (sched_setattr(2)).
pub fn set_attributes(mut attributes: Attributes) -> Result<()> {
    attributes.size = size_of::<Attributes>() as u32;
    // SAFETY: `attributes` says its own size, and the kernel only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0u32) };
    check(result).doing(|| format!("sched_setattr(policy={}, {attributes:?})", attributes.policy)).map(drop)
}

/// Sets the I/O class (1 real-time, 2 best effort, 3 idle) and priority of this process (ioprio_set(2)).
pub fn set_io_priority(class: u32, priority: u32) -> Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let value = (class << 13) | (priority & 0x1fff);
    // SAFETY: ioprio_set(2) takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    check(result).doing(|| format!("ioprio_set(class={class}, priority={priority})")).map(drop)
}

/// Binds this thread to the processors whose bits are set, as many as there may be (sched_setaffinity(2)).
pub fn set_affinity(mask: &[u64]) -> Result<()> {
    // SAFETY: the kernel reads as many bytes as it is told, all of them `mask`'s.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) };
    check(result).doing(|| format!("sched_setaffinity({mask:x?})")).map(drop)
}

/// Sets the execution domain and its flags (personality(2)).
pub fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: personality(2) takes no pointers.
    let result = unsafe { libc::personality(persona) };
    check(result.into()).doing(|| format!("personality({persona:#x})")).map(drop)
}

/// Sets where memory of this thread comes from (set_mempolicy(2)); no nodes at all is a null mask.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<()> {
    let (mask, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel takes one bit less than it is told.
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the kernel reads `bits` - 1 bits, all of them `nodes`'.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    check(result).doing(|| format!("set_mempolicy({mode:#x}, {nodes:x?})")).map(drop)
}
