//! Capabilities, masks, the system call filter, and the `--security-opt`s that change them.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use tare_sys::{Error, Kind, Result};

use super::spec_error;
use crate::request::HostConfig;

/// Docker's default set: images made for Docker run as they are. In a user namespace of its own, what each
/// of them reaches ends at the container's own ids and namespaces.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All that Linux 6.18 has.
const ALL: [Capability; 41] = {
    use Capability as C;
    [
        C::AuditControl,
        C::AuditRead,
        C::AuditWrite,
        C::BlockSuspend,
        C::Bpf,
        C::CheckpointRestore,
        C::Chown,
        C::DacOverride,
        C::DacReadSearch,
        C::Fowner,
        C::Fsetid,
        C::IpcLock,
        C::IpcOwner,
        C::Kill,
        C::Lease,
        C::LinuxImmutable,
        C::MacAdmin,
        C::MacOverride,
        C::Mknod,
        C::NetAdmin,
        C::NetBindService,
        C::NetBroadcast,
        C::NetRaw,
        C::Perfmon,
        C::Setfcap,
        C::Setgid,
        C::Setpcap,
        C::Setuid,
        C::SysAdmin,
        C::SysBoot,
        C::SysChroot,
        C::Syslog,
        C::SysModule,
        C::SysNice,
        C::SysPacct,
        C::SysPtrace,
        C::SysRawio,
        C::SysResource,
        C::SysTime,
        C::SysTtyConfig,
        C::WakeAlarm,
    ]
};

/// Docker's masked paths.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Docker's read-only paths.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// Ours.
    Default,
    /// None.
    Unconfined,
    /// The caller's, in this file.
    File(String),
}

/// What was decided about security.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Capabilities of the process.
    pub capabilities: HashSet<Capability>,
    /// No gain of privileges by exec.
    pub no_new_privileges: bool,
    /// The filter.
    pub seccomp: Seccomp,
    unmasked: bool,
}

/// Reads the request.
pub fn security(host: &HostConfig) -> Result<Secure> {
    let mut secure = Secure {
        capabilities: capabilities(host)?,
        no_new_privileges: false,
        seccomp: if host.privileged { Seccomp::Unconfined } else { Seccomp::Default },
        unmasked: host.privileged,
    };
    for option in &host.security_opt {
        // Docker takes both `key=value` and, of old, `key:value`.
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option.as_str(), ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => secure.no_new_privileges = true,
            ("no-new-privileges", "false") => secure.no_new_privileges = false,
            ("seccomp", "unconfined") => secure.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin" | "default") => secure.seccomp = Seccomp::Default,
            ("seccomp", file) if !file.is_empty() => secure.seccomp = Seccomp::File(file.to_owned()),
            ("systempaths", "unconfined") => secure.unmasked = true,
            // None of these is in force, so turning it off changes nothing.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            ("apparmor" | "label", _) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "--security-opt {option}: labels of AppArmor and SELinux are not set by tare yet"
                    ),
                )
                .hint("leave it out, or use apparmor=unconfined or label=disable"));
            }
            _ => {
                return Err(Error::new(Kind::Usage, format!("--security-opt {option}: not an option")).hint(
                    "the options are seccomp=FILE|unconfined, no-new-privileges[=true|false], systempaths=unconfined, apparmor=unconfined, label=disable",
                ));
            }
        }
    }
    Ok(secure)
}

impl Secure {
    /// What is hidden.
    pub fn masked(&self, thermal: &[String]) -> Vec<String> {
        if self.unmasked {
            return Vec::new();
        }
        MASKED.iter().map(|path| (*path).to_owned()).chain(thermal.iter().cloned()).collect()
    }

    /// What may not be written.
    pub fn read_only(&self) -> Vec<String> {
        if self.unmasked { Vec::new() } else { READ_ONLY.iter().map(|path| (*path).to_owned()).collect() }
    }

    /// Bounding, effective and permitted alike; inheritable and ambient stay empty (CVE-2022-24769).
    pub fn capability_sets(&self) -> Result<LinuxCapabilities> {
        LinuxCapabilitiesBuilder::default()
            .bounding(self.capabilities.clone())
            .effective(self.capabilities.clone())
            .permitted(self.capabilities.clone())
            .inheritable(HashSet::new())
            .ambient(HashSet::new())
            .build()
            .map_err(spec_error)
    }
}

/// Docker's rules: drops of `ALL` first, then what is added; an explicit drop wins over `--cap-add ALL`.
fn capabilities(host: &HostConfig) -> Result<HashSet<Capability>> {
    if host.privileged {
        return Ok(ALL.into());
    }
    let (add, drop) = (names("cap-add", &host.cap_add)?, names("cap-drop", &host.cap_drop)?);
    let mut set: HashSet<Capability> = match (&add, &drop) {
        (Names { all: true, .. }, _) => ALL.into(),
        (_, Names { all: true, .. }) => HashSet::new(),
        _ => DEFAULT.into(),
    };
    if drop.all && add.all {
        set = ALL.into();
    }
    if !drop.all || add.all {
        set.retain(|capability| !drop.list.contains(capability));
    }
    set.extend(add.list.iter().copied().filter(|capability| !drop.list.contains(capability)));
    Ok(set)
}

struct Names {
    all: bool,
    list: Vec<Capability>,
}

fn names(flag: &str, words: &[String]) -> Result<Names> {
    let mut names = Names { all: false, list: Vec::new() };
    for word in words {
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            names.all = true;
            continue;
        }
        let known = ALL.into_iter().find(|capability| capability.to_string() == name);
        names.list.push(known.ok_or_else(|| {
            Error::new(Kind::Usage, format!("--{flag} {word}: there is no such capability"))
                .hint("capabilities(7) lists them; NET_ADMIN and CAP_NET_ADMIN are the same")
        })?);
    }
    Ok(names)
}
