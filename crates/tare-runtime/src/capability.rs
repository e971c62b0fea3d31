//! Capabilities: names, and what leaves a process with just those of the spec (capabilities(7)).

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use tare_sys::{Context, Error, Result};

/// By number, as in linux/capability.h of Linux 6.18.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The bit of a capability. The enum's order is alphabetical, so its numbers say nothing.
fn bit(capability: Capability) -> CapabilitySet {
    use Capability as C;
    match capability {
        C::AuditControl => CapabilitySet::AUDIT_CONTROL,
        C::AuditRead => CapabilitySet::AUDIT_READ,
        C::AuditWrite => CapabilitySet::AUDIT_WRITE,
        C::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        C::Bpf => CapabilitySet::BPF,
        C::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
        C::Chown => CapabilitySet::CHOWN,
        C::DacOverride => CapabilitySet::DAC_OVERRIDE,
        C::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        C::Fowner => CapabilitySet::FOWNER,
        C::Fsetid => CapabilitySet::FSETID,
        C::IpcLock => CapabilitySet::IPC_LOCK,
        C::IpcOwner => CapabilitySet::IPC_OWNER,
        C::Kill => CapabilitySet::KILL,
        C::Lease => CapabilitySet::LEASE,
        C::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        C::MacAdmin => CapabilitySet::MAC_ADMIN,
        C::MacOverride => CapabilitySet::MAC_OVERRIDE,
        C::Mknod => CapabilitySet::MKNOD,
        C::NetAdmin => CapabilitySet::NET_ADMIN,
        C::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        C::NetBroadcast => CapabilitySet::NET_BROADCAST,
        C::NetRaw => CapabilitySet::NET_RAW,
        C::Perfmon => CapabilitySet::PERFMON,
        C::Setgid => CapabilitySet::SETGID,
        C::Setfcap => CapabilitySet::SETFCAP,
        C::Setpcap => CapabilitySet::SETPCAP,
        C::Setuid => CapabilitySet::SETUID,
        C::SysAdmin => CapabilitySet::SYS_ADMIN,
        C::SysBoot => CapabilitySet::SYS_BOOT,
        C::SysChroot => CapabilitySet::SYS_CHROOT,
        C::SysModule => CapabilitySet::SYS_MODULE,
        C::SysNice => CapabilitySet::SYS_NICE,
        C::SysPacct => CapabilitySet::SYS_PACCT,
        C::SysPtrace => CapabilitySet::SYS_PTRACE,
        C::SysRawio => CapabilitySet::SYS_RAWIO,
        C::SysResource => CapabilitySet::SYS_RESOURCE,
        C::SysTime => CapabilitySet::SYS_TIME,
        C::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        C::Syslog => CapabilitySet::SYSLOG,
        C::WakeAlarm => CapabilitySet::WAKE_ALARM,
    }
}

fn set(list: &Option<HashSet<Capability>>) -> CapabilitySet {
    list.iter().flatten().fold(CapabilitySet::empty(), |all, capability| all | bit(*capability))
}

fn set_own(sets: CapabilitySets) -> Result<()> {
    rustix::thread::set_capabilities(None, sets).doing(|| {
        let (e, p, i) = (sets.effective.bits(), sets.permitted.bits(), sets.inheritable.bits());
        format!("capset(effective={e:#x}, permitted={p:#x}, inheritable={i:#x})")
    })
}

/// The names of a set, for a person to read.
fn names(set: CapabilitySet) -> String {
    let held = NAMES.iter().zip(0..).filter(|(_, number)| set.bits() & (1u64 << number) != 0);
    held.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The sets of a spec as bits.
#[derive(Clone, Copy, Debug)]
pub struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Sets {
    /// Reads the spec's; none at all where it says nothing. In particular nothing is inheritable that was not
    /// asked to be, or a file capability in the image could raise what was left out (CVE-2022-29162).
    pub fn of(capabilities: Option<&LinuxCapabilities>) -> Sets {
        let none = CapabilitySet::empty();
        capabilities.map_or(
            Sets { bounding: none, effective: none, permitted: none, inheritable: none, ambient: none },
            |c| Sets {
                bounding: set(c.bounding()),
                effective: set(c.effective()),
                permitted: set(c.permitted()),
                inheritable: set(c.inheritable()),
                ambient: set(c.ambient()),
            },
        )
    }

    /// Takes all but the bounding set's out of the process's bounding set; needs `CAP_SETPCAP`, so it comes
    /// before the other sets shrink. Up to the kernel's last one, which may be newer than those we know.
    pub fn limit_bounding(&self) -> Result<()> {
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The first number that the kernel does not know: there are no more.
                Err(Errno::INVAL) => break,
                Err(errno) => {
                    return Err(Error::syscall(format!("prctl(PR_CAPBSET_DROP, {number})"), errno)
                        .hint("limiting capabilities needs CAP_SETPCAP"));
                }
            }
        }
        Ok(())
    }

    /// Whether the spec lets the process use `CAP_SYS_ADMIN`.
    pub fn has_admin(&self) -> bool {
        self.effective.contains(CapabilitySet::SYS_ADMIN)
    }

    /// Sets the remaining four sets, and answers what could not be given and why. What the process does not
    /// have cannot be: the host's own root may lack capabilities (a container in a container), and Docker gives
    /// what there is.
    ///
    /// With `keep_admin`, `CAP_SYS_ADMIN` stays until [`drop_admin`](Sets::drop_admin): to load a filter without
    /// no_new_privs (seccomp(2)) as the last thing before exec.
    pub fn apply(&self, keep_admin: bool) -> Result<Vec<String>> {
        let have = rustix::thread::capabilities(None).doing(|| "capget()")?.permitted;
        let (given, warnings) = self.within(have, rustix::process::geteuid().is_root());
        let kept = if keep_admin { have & CapabilitySet::SYS_ADMIN } else { CapabilitySet::empty() };
        set_own(CapabilitySets {
            effective: given.effective | kept,
            permitted: given.permitted | kept,
            inheritable: given.inheritable,
        })?;
        for number in (0..u64::BITS).filter(|number| given.ambient.bits() & (1 << number) != 0) {
            let one = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::configure_capability_in_ambient_set(one, true)
                .doing(|| format!("prctl(PR_CAP_AMBIENT_RAISE, {number})"))?;
        }
        Ok(warnings)
    }

    /// Takes away what [`apply`](Sets::apply) kept beyond the spec.
    pub fn drop_admin(&self) -> Result<()> {
        let now = rustix::thread::capabilities(None).doing(|| "capget()")?;
        let less = |now: CapabilitySet, asked: CapabilitySet| now & (asked | !CapabilitySet::SYS_ADMIN);
        set_own(CapabilitySets {
            effective: less(now.effective, self.effective & self.permitted),
            permitted: less(now.permitted, self.permitted),
            inheritable: now.inheritable,
        })
    }

    /// What of this a process with `have` can be given: the kernel's own rules (capset(2), prctl(2)), which
    /// would refuse the whole where only a part is impossible.
    fn within(&self, have: CapabilitySet, root: bool) -> (Sets, Vec<String>) {
        let mut warnings = Vec::new();
        let mut keep = |kind: &str, wanted: CapabilitySet, possible: CapabilitySet, why: &str| {
            let lost = wanted & !possible;
            if !lost.is_empty() {
                warnings.push(format!("{kind}capabilities could not be given: {} ({why})", names(lost)));
            }
            wanted & possible
        };
        let all = self.permitted | self.effective | self.inheritable | self.ambient;
        let have = keep("", all, have, "the runtime itself does not have them");
        let permitted = self.permitted & have;
        let effective = keep("effective ", self.effective & have, permitted, "they are not permitted");
        let inheritable =
            keep("inheritable ", self.inheritable & have, self.bounding, "they are not in the bounding set");
        let both = permitted & inheritable;
        let asked = self.ambient & have;
        // Root's programs get all that is permitted without it (capabilities(7)), and the usual spec lists ambient
        // ones that are not inheritable: a word about these would be noise.
        let ambient = if root {
            asked & both
        } else {
            keep("ambient ", asked, both, "they have to be both permitted and inheritable")
        };
        (Sets { bounding: self.bounding, effective, permitted, inheritable, ambient }, warnings)
    }
}

#[cfg(test)]
mod tests;
