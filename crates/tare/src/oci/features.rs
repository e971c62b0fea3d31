//! `features`: what this runtime can do, for engines that ask before they write a config.json
//! (runtime-spec `features.md`).

use oci_spec::runtime::Capability;
use serde_json::{Value, json};
use tare_sys::{Error, Kind, Result};

use super::{Call, SPEC_VERSION};
use crate::print::terminal::say;

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Not `iversion`: it is no longer an option of mounts, only of some file systems (fsconfig(2)).
/// The test `every_mount_option_that_features_lists_is_taken` mounts with each of them.
const MOUNT_OPTIONS: &[&str] = &[
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Machines that a profile may name: those that this one cannot run need no rules.
const ARCHS: [&str; 23] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// Flags of a profile, and the Linux that brought them.
const FLAGS: [(&str, (u32, u32)); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", (3, 17)),
    ("SECCOMP_FILTER_FLAG_LOG", (4, 14)),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", (4, 17)),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", (5, 19)),
];

const MEMORY_MODES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

const MEMORY_FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// Annotations that change what the runtime does: an engine should not take them from strangers.
const UNSAFE_ANNOTATIONS: [&str; 2] = ["bundle", "org.systemd.property."];

pub fn features(_: &Call) -> Result<u8> {
    let text = serde_json::to_string_pretty(&all(kernel()))
        .map_err(|err| Error::new(Kind::Corrupt, format!("write JSON: {err}")))?;
    say(&format!("{text}\n"))?;
    Ok(0)
}

fn all(kernel: (u32, u32)) -> Value {
    let known: Vec<&str> = FLAGS.iter().map(|(name, _)| *name).collect();
    let supported: Vec<&str> =
        FLAGS.iter().filter(|(_, since)| *since <= kernel).map(|(name, _)| *name).collect();
    let enabled = |enabled: bool| json!({ "enabled": enabled });
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities(),
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": {
                "enabled": true, "actions": ACTIONS, "operators": OPERATORS, "archs": ARCHS,
                "knownFlags": known, "supportedFlags": supported,
            },
            "apparmor": enabled(true),
            "selinux": enabled(true),
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": MEMORY_MODES, "flags": MEMORY_FLAGS },
            "mountExtensions": { "idmap": enabled(true) },
            "netDevices": enabled(true),
        },
        "annotations": {
            "org.tare.version": env!("CARGO_PKG_VERSION"),
            "org.tare.commit": option_env!("TARE_COMMIT").unwrap_or("unknown"),
            "org.tare.checkpoint.enabled": "false",
        },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

/// All capabilities by number, as the kernel counts them: those up to `CAP_CHECKPOINT_RESTORE` (Linux 5.9).
fn capabilities() -> Vec<Capability> {
    use Capability as C;
    vec![
        C::Chown,
        C::DacOverride,
        C::DacReadSearch,
        C::Fowner,
        C::Fsetid,
        C::Kill,
        C::Setgid,
        C::Setuid,
        C::Setpcap,
        C::LinuxImmutable,
        C::NetBindService,
        C::NetBroadcast,
        C::NetAdmin,
        C::NetRaw,
        C::IpcLock,
        C::IpcOwner,
        C::SysModule,
        C::SysRawio,
        C::SysChroot,
        C::SysPtrace,
        C::SysPacct,
        C::SysAdmin,
        C::SysBoot,
        C::SysNice,
        C::SysResource,
        C::SysTime,
        C::SysTtyConfig,
        C::Mknod,
        C::Lease,
        C::AuditWrite,
        C::AuditControl,
        C::Setfcap,
        C::MacOverride,
        C::MacAdmin,
        C::Syslog,
        C::WakeAlarm,
        C::BlockSuspend,
        C::AuditRead,
        C::Perfmon,
        C::Bpf,
        C::CheckpointRestore,
    ]
}

/// The first two numbers of this kernel's version.
fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        Arch, Features, LinuxNamespaceType, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    };
    use serde::de::DeserializeOwned;

    fn understood<T: DeserializeOwned>(names: impl IntoIterator<Item = &'static str>) {
        for name in names {
            assert!(serde_json::from_value::<T>(json!(name)).is_ok(), "{name} is listed but not understood");
        }
    }

    #[test]
    fn what_is_listed_can_be_written_into_a_config() {
        understood::<LinuxSeccompAction>(ACTIONS);
        understood::<LinuxSeccompOperator>(OPERATORS);
        understood::<Arch>(ARCHS);
        understood::<LinuxSeccompFilterFlag>(FLAGS.map(|(name, _)| name));
        understood::<LinuxNamespaceType>(NAMESPACES);
        understood::<oci_spec::runtime::MemoryPolicyModeType>(MEMORY_MODES);
        understood::<oci_spec::runtime::MemoryPolicyFlagType>(MEMORY_FLAGS);
    }

    #[test]
    fn others_can_read_it() {
        let text = all((6, 1)).to_string();
        let features: Features = serde_json::from_str(&text).unwrap();
        assert_eq!(features.oci_version_max(), SPEC_VERSION);
        assert_eq!(features.mount_options().as_ref().map(Vec::len), Some(MOUNT_OPTIONS.len()));
        assert_eq!(capabilities().len(), 41);
    }

    #[test]
    fn flags_of_a_newer_kernel_are_known_but_not_supported() {
        let seccomp = |kernel| all(kernel)["linux"]["seccomp"].clone();
        let flags = |kernel, name: &str| seccomp(kernel)[name].as_array().map(Vec::len);
        assert_eq!((flags((5, 10), "supportedFlags"), flags((6, 1), "supportedFlags")), (Some(3), Some(4)));
        assert_eq!(flags((5, 10), "knownFlags"), Some(4));
    }
}
