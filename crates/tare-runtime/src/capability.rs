//! Capabilities: names, and the one function that leaves a process with just those of the spec.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tare_sys::{Context, Result};

/// Highest capability of Linux 6.18 (`CAP_CHECKPOINT_RESTORE`).
const LAST: u32 = 40;

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
    /// Reads the spec's; none at all where it says nothing.
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
    /// before the other sets shrink. Those the caller itself lacks are skipped: nothing to drop.
    pub fn limit_bounding(&self) -> Result<()> {
        for number in 0..=LAST {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // An older kernel that does not know the capability cannot grant it either.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(errno) => return Err(errno).doing(|| format!("prctl(PR_CAPBSET_DROP, {number})")),
            }
        }
        Ok(())
    }

    /// Whether the process is to have `CAP_SYS_ADMIN` anyway.
    pub fn has_admin(&self) -> bool {
        self.effective.contains(CapabilitySet::SYS_ADMIN)
    }

    /// Sets the remaining four sets, and leaves `CAP_SYS_ADMIN` in effect beside them where `keep_admin` says so.
    ///
    /// What the process does not have cannot be given: the host's own root may lack capabilities (a container in a
    /// container), and Docker gives what there is. The answer names what was not.
    pub fn apply(&self, keep_admin: bool) -> Result<Vec<String>> {
        let have = rustix::thread::capabilities(None).doing(|| "capget()")?.permitted;
        let kept = if keep_admin { have & CapabilitySet::SYS_ADMIN } else { CapabilitySet::empty() };
        let permitted = self.permitted & have;
        let sets = CapabilitySets {
            effective: (self.effective & permitted) | kept,
            permitted: permitted | kept,
            inheritable: self.inheritable & have,
        };
        rustix::thread::set_capabilities(None, sets)
            .doing(|| format!("capset(permitted={:#x})", permitted.bits()))?;
        if !self.ambient.is_empty() {
            for number in 0..=LAST {
                let one = CapabilitySet::from_bits_retain(1 << number);
                if (self.ambient & permitted & sets.inheritable).contains(one) {
                    rustix::thread::configure_capability_in_ambient_set(one, true)
                        .doing(|| format!("prctl(PR_CAP_AMBIENT_RAISE, {number})"))?;
                }
            }
        }
        let missing = self.permitted & !have;
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = missing.iter_names().map(|(name, _)| name).collect();
        Ok(vec![format!("not given, because this host's root lacks them: CAP_{}", names.join(", CAP_"))])
    }

    /// Drops the `CAP_SYS_ADMIN` that [`apply`](Sets::apply) left.
    pub fn drop_admin(&self) -> Result<()> {
        let mut sets = rustix::thread::capabilities(None).doing(|| "capget()")?;
        sets.effective -= CapabilitySet::SYS_ADMIN;
        sets.permitted -= CapabilitySet::SYS_ADMIN;
        rustix::thread::set_capabilities(None, sets)
            .doing(|| format!("capset(permitted={:#x})", sets.permitted.bits()))
    }
}
