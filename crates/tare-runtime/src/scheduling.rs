//! How a process is scheduled, where its memory comes from, and which machine it believes to be on.
//!
//! Source: runtime-spec, config.md "Linux Process", config-linux.md "Memory policy" and "Personality".

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use rustix::io::Errno;
use tare_sys::scheduler::{self, Attributes};
use tare_sys::{Error, Kind, Result};

/// More processors or memory nodes than any kernel is built for.
const MOST: usize = 1 << 16;

/// Applies what the spec asks for to this process; without such, not a single call is made. `linux`: of a
/// container's first process, for what belongs to the container.
pub fn apply(process: &Process, linux: Option<&Linux>) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        set_scheduler(scheduler)?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u32::try_from(priority.priority()).ok().filter(|level| *level < 8);
        let level = level.ok_or_else(|| {
            Error::new(Kind::Usage, format!("ioPriority {}: it is from 0 to 7", priority.priority()))
        })?;
        scheduler::set_io_priority(class, level)?;
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        set_personality(personality)?;
    }
    if let Some(policy) = linux.and_then(|linux| linux.memory_policy().as_ref()) {
        set_memory_policy(policy)?;
    }
    Ok(())
}

/// `execCPUAffinity.initial`: where the process is while it is made.
pub fn set_initial_affinity(process: &Process) -> Result<()> {
    let list = process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.initial().as_deref());
    set_affinity(list, "execCPUAffinity.initial")
}

/// `execCPUAffinity.final`: where it is once it is in its cgroup.
pub fn set_final_affinity(process: &Process) -> Result<()> {
    let list =
        process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.cpu_affinity_final().as_deref());
    set_affinity(list, "execCPUAffinity.final")
}

fn set_affinity(list: Option<&str>, field: &str) -> Result<()> {
    match list.filter(|list| !list.is_empty()) {
        None => Ok(()),
        Some(list) => scheduler::set_affinity(&bits(list, field)?).map_err(|err| match err.errno() {
            Some(Errno::INVAL) => err
                .context(format!("{field} {list}"))
                .hint("none of these processors is there for the process: see cpuset.cpus of its cgroup"),
            _ => err.context(format!("{field} {list}")),
        }),
    }
}

fn set_scheduler(wanted: &Scheduler) -> Result<()> {
    use LinuxSchedulerPolicy as Policy;
    let policy = match wanted.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flags = wanted.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    let priority = wanted.priority().unwrap_or(0);
    let priority = u32::try_from(priority)
        .map_err(|_| Error::new(Kind::Usage, format!("scheduler.priority {priority}: below zero")))?;
    let mut attributes = Attributes::default();
    (attributes.policy, attributes.flags, attributes.priority) = (policy, flags, priority);
    attributes.nice = wanted.nice().unwrap_or(0);
    attributes.runtime = wanted.runtime().unwrap_or(0);
    attributes.deadline = wanted.deadline().unwrap_or(0);
    attributes.period = wanted.period().unwrap_or(0);
    scheduler::set_attributes(attributes).map_err(|err| {
        let err = err.context(format!("scheduler {:?}", wanted.policy()));
        match err.errno() {
            Some(Errno::PERM) if policy == 6 => err.hint(
                "SCHED_DEADLINE needs CAP_SYS_NICE, and all processors of the root domain in the process's mask",
            ),
            Some(Errno::PERM) => {
                err.hint("needs CAP_SYS_NICE, and on cgroup v1 realtime time for the cgroup (cpu.rt_runtime_us)")
            }
            Some(Errno::INVAL) if policy == 6 => {
                err.hint("for SCHED_DEADLINE: 1024 <= runtime <= deadline <= period, in nanoseconds")
            }
            Some(Errno::INVAL) => {
                err.hint("priority is 1 to 99 for FIFO and RR and 0 for the others; nice is -20 to 19")
            }
            Some(Errno::BUSY) => err.hint("the host has no processor time left to promise"),
            _ => err,
        }
    })
}

/// Flags of personality(2) by name.
const PERSONA_FLAGS: [(&str, u64); 9] = [
    ("UNAME26", 0x002_0000),
    ("ADDR_NO_RANDOMIZE", 0x004_0000),
    ("FDPIC_FUNCPTRS", 0x008_0000),
    ("MMAP_PAGE_ZERO", 0x010_0000),
    ("ADDR_COMPAT_LAYOUT", 0x020_0000),
    ("READ_IMPLIES_EXEC", 0x040_0000),
    ("ADDR_LIMIT_32BIT", 0x080_0000),
    ("SHORT_INODE", 0x100_0000),
    ("WHOLE_SECONDS", 0x200_0000),
];

fn set_personality(wanted: &LinuxPersonality) -> Result<()> {
    let mut persona = match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    for flag in wanted.flags().iter().flatten() {
        let known = PERSONA_FLAGS.iter().find(|(name, _)| flag == name);
        let (_, bit) = known.ok_or_else(|| {
            Error::new(Kind::Usage, format!("personality: there is no flag {flag:?}"))
                .hint("personality(2) lists them, for example ADDR_NO_RANDOMIZE")
        })?;
        persona |= bit;
    }
    scheduler::set_personality(persona)
}

fn set_memory_policy(wanted: &LinuxMemoryPolicy) -> Result<()> {
    use MemoryPolicyModeType as Mode;
    let mode = match wanted.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = wanted.flags().iter().flatten().fold(0u32, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        }
    });
    let nodes = match wanted.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(list) => bits(list, "memoryPolicy.nodes")?,
    };
    scheduler::set_memory_policy(mode | flags, &nodes).map_err(|err| match err.errno() {
        Some(Errno::INVAL) => {
            err.hint("the mode and its flags and nodes do not go together, or no such node is there")
        }
        Some(Errno::NOSYS) => err.hint("this kernel is built without NUMA"),
        _ => err,
    })
}

/// Reads a list such as `0-3,7` into bits.
fn bits(list: &str, field: &str) -> Result<Vec<u64>> {
    let bad = || {
        Error::new(Kind::Usage, format!("{field} {list:?}: not a list of numbers")).hint("write it as 0-3,7")
    };
    let number =
        |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < MOST).ok_or_else(bad);
    let mut bits = Vec::new();
    for part in list.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(bad());
        }
        for one in first..=last {
            if bits.len() <= one / 64 {
                bits.resize(one / 64 + 1, 0);
            }
            bits[one / 64] |= 1u64 << (one % 64);
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(bits("0-3,7", "x").unwrap(), [0b1000_1111]);
        assert_eq!(bits("64", "x").unwrap(), [0, 1]);
        assert_eq!(bits(" 1 , 0", "x").unwrap(), [3]);
        assert_eq!(bits("2000", "x").unwrap().len(), 32);
        for bad in ["", ",", "a", "3-1", "-1", "1-", "0-99999999", "1,,2", "0x1"] {
            assert_eq!(bits(bad, "x").unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }
}
