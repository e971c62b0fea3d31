//! How the kernel is to schedule a container's process: `process.scheduler`, `process.ioPriority`,
//! `process.execCPUAffinity`, `linux.personality` and `linux.memoryPolicy` of the runtime specification.
//!
//! Everything here acts on the calling thread, needs the capabilities that the container may not have, and
//! stays over exec: so it is done in the container's process, after it has joined its cgroup (which decides
//! about its CPUs and real-time share) and before capabilities and filter. After the last fork, too: a process of
//! `SCHED_DEADLINE` cannot make another (sched(7): EAGAIN, unless with `SCHED_FLAG_RESET_ON_FORK`).

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use rustix::io::Errno;
use tare_sys::scheduler::{self, Attributes};
use tare_sys::{Context, Error, Kind, Result};

use crate::number_list;

/// Above the most CPUs that Linux can be built for (8192 on x86, arch/x86/Kconfig).
const MAX_CPUS: usize = 64 * 1024;
/// `MAX_NUMNODES` of the largest kernels (1 << `NODES_SHIFT`, at most 10).
const MAX_NODES: usize = 1024;

/// Gives the calling process what its spec asks for, and `linux`, its container's. `first`: it is the container's first
/// process.
///
/// Without a wish for CPUs it may run on all that its cgroup allows, whatever our caller was confined to (runc #4041:
/// containers kept the affinity of a systemd unit).
pub fn apply(process: &Process, linux: Option<&Linux>, first: bool) -> Result<()> {
    // The wish is for processes that are executed in a container (config.md, `execCPUAffinity`).
    if first || process.exec_cpu_affinity().is_none() {
        // Everyone may do this to himself; a failure only means that the old affinity stays.
        let _ = scheduler::set_affinity(&[u64::MAX; MAX_CPUS / 64]);
    }
    if let Some(scheduler) = process.scheduler() {
        set_scheduler(scheduler)?;
    }
    if let Some(priority) = process.io_priority() {
        set_io_priority(*priority)?;
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        set_personality(personality)?;
    }
    match linux.and_then(|linux| linux.memory_policy().as_ref()) {
        Some(policy) => set_memory_policy(policy),
        None => Ok(()),
    }
}

/// `execCPUAffinity.initial`: where the process is while it is made.
pub fn set_initial_affinity(process: &Process) -> Result<()> {
    let wanted = process.exec_cpu_affinity().as_ref();
    set_affinity(wanted.and_then(|wanted| wanted.initial().as_deref()), "execCPUAffinity.initial")
}

/// `execCPUAffinity.final`: where it is once it is in its cgroup.
pub fn set_final_affinity(process: &Process) -> Result<()> {
    let wanted = process.exec_cpu_affinity().as_ref();
    set_affinity(wanted.and_then(|wanted| wanted.cpu_affinity_final().as_deref()), "execCPUAffinity.final")
}

fn set_affinity(list: Option<&str>, field: &str) -> Result<()> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(()) };
    let cpus = number_list::bits(list, MAX_CPUS, field)?;
    scheduler::set_affinity(&cpus).doing(|| format!("{field} {list}")).map_err(|err| match err.errno() {
        Some(Errno::INVAL) => err
            .with_kind(Kind::Usage)
            .hint("none of these CPUs is both online and allowed by the cgroup's cpuset"),
        _ => err,
    })
}

fn set_scheduler(wanted: &Scheduler) -> Result<()> {
    use LinuxSchedulerPolicy as P;
    let what = || format!("set the scheduler {}", wanted.policy());
    let attributes = attributes(wanted).doing(what)?;
    scheduler::set_attributes(attributes).doing(what).map_err(|err| match (err.errno(), wanted.policy()) {
        (Some(Errno::PERM), P::SchedDeadline) => err.hint(
            "it needs CAP_SYS_NICE, and the process must be allowed on all CPUs: no affinity, no cpuset (sched(7))",
        ),
        (Some(Errno::PERM), P::SchedFifo | P::SchedRr) => err.hint(
            "it needs CAP_SYS_NICE and, on cgroup v1, real-time share: cpu.rt_runtime_us of the container's cgroup and of all above it",
        ),
        (Some(Errno::PERM | Errno::ACCESS), _) => err.hint("a nice value below the present one needs CAP_SYS_NICE"),
        (Some(Errno::BUSY), P::SchedDeadline) => err.with_kind(Kind::Exhausted).hint(
            "the CPUs have no such bandwidth left: runtime divided by period is what it takes of one CPU",
        ),
        (Some(Errno::INVAL), P::SchedDeadline) => err.with_kind(Kind::Usage).hint(
            "the kernel's bounds for the period are in /proc/sys/kernel/sched_deadline_period_{min,max}_us",
        ),
        (Some(Errno::INVAL | Errno::TOOBIG | Errno::OPNOTSUPP), _) => {
            err.with_kind(Kind::Unsupported).hint("this kernel does not know this policy or one of its flags")
        }
        _ => err,
    })
}

/// What the kernel is told; what it would answer with a bare EINVAL is refused in words (sched_setattr(2)).
fn attributes(wanted: &Scheduler) -> Result<Attributes> {
    use LinuxSchedulerPolicy as P;
    let refuse = |why: &str| Err(Error::new(Kind::Usage, why));
    let policy = *wanted.policy();
    let (real_time, shared) = match policy {
        P::SchedFifo | P::SchedRr => (true, false),
        P::SchedOther | P::SchedBatch => (false, true),
        P::SchedIdle | P::SchedDeadline => (false, false),
        P::SchedIso => {
            return Err(Error::new(
                Kind::Unsupported,
                "no Linux has this policy; its number is only reserved",
            ));
        }
    };
    let nice = wanted.nice().unwrap_or(0);
    // The other policies do not look at it; specs that set it all the same are not rare (runc takes them too).
    if shared && !(-20..=19).contains(&nice) {
        return refuse("nice is from -20 to 19");
    }
    let priority = wanted.priority().unwrap_or(0);
    if real_time && !(1..=99).contains(&priority) {
        return refuse("a real-time policy needs a priority from 1 to 99");
    }
    if !real_time && priority != 0 {
        return refuse("a priority is for SCHED_FIFO and SCHED_RR only");
    }
    let [runtime, deadline, period] =
        [wanted.runtime(), wanted.deadline(), wanted.period()].map(|field| field.unwrap_or(0));
    if policy != P::SchedDeadline && runtime | deadline | period != 0 {
        return refuse("runtime, deadline and period are for SCHED_DEADLINE only");
    }
    if policy == P::SchedDeadline {
        // kernel/sched/deadline.c, __checkparam_dl: the clock counts in 1024 nanoseconds.
        if runtime < 1024 {
            return refuse("runtime has to be 1024 nanoseconds at least");
        }
        if runtime > deadline || (period != 0 && deadline > period) {
            return refuse("runtime <= deadline <= period has to hold");
        }
        if deadline.max(period) >> 63 != 0 {
            return refuse("deadline and period have to be below 2^63 nanoseconds");
        }
    }
    let flags = wanted.flags().iter().flatten().fold(0, |all, flag| all | flag_bit(*flag));
    let mut attributes = Attributes::default();
    (attributes.policy, attributes.flags) = (number(policy), flags);
    (attributes.nice, attributes.priority) = (nice, priority.unsigned_abs());
    (attributes.runtime, attributes.deadline, attributes.period) = (runtime, deadline, period);
    Ok(attributes)
}

/// `SCHED_*` of linux/sched.h.
fn number(policy: LinuxSchedulerPolicy) -> u32 {
    use LinuxSchedulerPolicy as P;
    match policy {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    }
}

/// `SCHED_FLAG_*` of linux/sched.h.
fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
    use LinuxSchedulerFlag as F;
    match flag {
        F::SchedResetOnFork => 0x01,
        F::SchedFlagReclaim => 0x02,
        F::SchedFlagDLOverrun => 0x04,
        F::SchedFlagKeepPolicy => 0x08,
        F::SchedFlagKeepParams => 0x10,
        F::SchedFlagUtilClampMin => 0x20,
        F::SchedFlagUtilClampMax => 0x40,
    }
}

fn set_io_priority(wanted: LinuxIOPriority) -> Result<()> {
    // `IOPRIO_CLASS_*` of linux/ioprio.h.
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let what = || format!("set the disk priority {} {}", wanted.class(), wanted.priority());
    let level = match wanted.priority() {
        level @ 0..=7 => level as u32,
        _ => return Err(Error::new(Kind::Usage, format!("{}: it is from 0 to 7", what()))),
    };
    scheduler::set_io_priority(class, level).doing(what).map_err(|err| match err.errno() {
        Some(Errno::PERM) => err.hint("the real-time class needs CAP_SYS_NICE or CAP_SYS_ADMIN"),
        _ => err,
    })
}

/// Sets the execution domain. Flags by the names of personality(2); the specification defines none yet.
fn set_personality(wanted: &LinuxPersonality) -> Result<()> {
    let domain = match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    let mut value: u64 = domain;
    for flag in wanted.flags().iter().flatten() {
        value |= match flag.as_str() {
            "UNAME26" => 0x0002_0000,
            "ADDR_NO_RANDOMIZE" => 0x0004_0000,
            "MMAP_PAGE_ZERO" => 0x0010_0000,
            "ADDR_COMPAT_LAYOUT" => 0x0020_0000,
            "READ_IMPLIES_EXEC" => 0x0040_0000,
            "ADDR_LIMIT_32BIT" => 0x0080_0000,
            "SHORT_INODE" => 0x0100_0000,
            "WHOLE_SECONDS" => 0x0200_0000,
            "STICKY_TIMEOUTS" => 0x0400_0000,
            "ADDR_LIMIT_3GB" => 0x0800_0000,
            _ => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("personality flag {flag:?}: there is no such flag"),
                ));
            }
        };
    }
    scheduler::set_personality(value).doing(|| "set the personality")
}

/// Sets from which NUMA nodes the process gets its memory.
fn set_memory_policy(wanted: &LinuxMemoryPolicy) -> Result<()> {
    use MemoryPolicyModeType as M;
    // `MPOL_*` of linux/mempolicy.h.
    let mode: u32 = match wanted.mode() {
        M::MpolDefault => 0,
        M::MpolPreferred => 1,
        M::MpolBind => 2,
        M::MpolInterleave => 3,
        M::MpolLocal => 4,
        M::MpolPreferredMany => 5,
        M::MpolWeightedInterleave => 6,
    };
    let flags = wanted.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1u32 << 15,
        }
    });
    let nodes = match wanted.nodes().as_deref().map(str::trim) {
        None | Some("") => Vec::new(),
        Some(list) => number_list::bits(list, MAX_NODES, "memory policy: nodes")?,
    };
    let what = || format!("set the memory policy {}", wanted.mode());
    scheduler::set_memory_policy(mode | flags, &nodes).doing(what).map_err(|err| match err.errno() {
        Some(Errno::INVAL) => err.with_kind(Kind::Usage).hint(
            "MPOL_DEFAULT and MPOL_LOCAL take no nodes, the others need some that exist and that the cpuset allows; see /sys/devices/system/node/has_memory",
        ),
        _ => err,
    })
}

#[cfg(test)]
mod tests;
