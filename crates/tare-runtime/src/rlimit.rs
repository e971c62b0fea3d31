//! Resource limits of a process (setrlimit(2)), set from outside by the more privileged parent.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tare_sys::{Context, Error, Kind, Result};

fn resource(kind: PosixRlimitType) -> Option<Resource> {
    use PosixRlimitType as T;
    Some(match kind {
        T::RlimitCpu => Resource::Cpu,
        T::RlimitFsize => Resource::Fsize,
        T::RlimitData => Resource::Data,
        T::RlimitStack => Resource::Stack,
        T::RlimitCore => Resource::Core,
        T::RlimitRss => Resource::Rss,
        T::RlimitNproc => Resource::Nproc,
        T::RlimitNofile => Resource::Nofile,
        T::RlimitMemlock => Resource::Memlock,
        T::RlimitAs => Resource::As,
        T::RlimitLocks => Resource::Locks,
        T::RlimitSigpending => Resource::Sigpending,
        T::RlimitMsgqueue => Resource::Msgqueue,
        T::RlimitNice => Resource::Nice,
        T::RlimitRtprio => Resource::Rtprio,
        T::RlimitRttime => Resource::Rttime,
    })
}

/// Sets the limits of a child. Where the host's root may not raise a limit (no `CAP_SYS_RESOURCE`), it is
/// raised as far as it goes and the answer says so: an engine that refuses to start helps nobody.
pub fn apply(child: Pid, limits: &[PosixRlimit]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (at, limit) in limits.iter().enumerate() {
        if limits[..at].iter().any(|earlier| earlier.typ() == limit.typ()) {
            return Err(Error::new(Kind::Usage, format!("the rlimit {} is listed twice", limit.typ())));
        }
        let Some(kind) = resource(limit.typ()) else { continue };
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let wanted = Rlimit { current: bound(limit.soft()), maximum: bound(limit.hard()) };
        match prlimit(Some(child), kind, wanted) {
            Ok(_) => {}
            Err(rustix::io::Errno::PERM) => {
                let ceiling = getrlimit(kind).maximum;
                let clamp = |value: Option<u64>| match (value, ceiling) {
                    (Some(value), Some(ceiling)) => Some(value.min(ceiling)),
                    (None, ceiling) => ceiling,
                    (value, None) => value,
                };
                let clamped = Rlimit { current: clamp(wanted.current), maximum: clamp(wanted.maximum) };
                warnings.push(format!(
                    "{} was clamped to {} (this host may not raise it: CAP_SYS_RESOURCE is missing)",
                    limit.typ(),
                    ceiling.map_or("unlimited".to_owned(), |n| n.to_string()),
                ));
                prlimit(Some(child), kind, clamped).doing(|| format!("prlimit({})", limit.typ()))?;
            }
            Err(errno) => {
                return Err(errno)
                    .doing(|| format!("prlimit({}, {}:{})", limit.typ(), limit.soft(), limit.hard()));
            }
        }
    }
    Ok(warnings)
}
