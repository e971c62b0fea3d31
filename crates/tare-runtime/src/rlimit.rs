//! Resource limits of a process (setrlimit(2)), set from outside by the more privileged parent.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tare_sys::{Context, Error, Kind, Result};

fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as T;
    match kind {
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
    }
}

/// Sets the limits of a child. Where the caller may not raise a limit (no `CAP_SYS_RESOURCE`: a container in a
/// container, or a user who is not root), it is raised as far as it goes and the answer says so: an engine that
/// refuses to start helps nobody. Lowering needs no right and is always done.
///
/// A type that is listed twice is an error (runtime-spec, config.md, `rlimits`).
pub fn apply(child: Pid, limits: &[PosixRlimit]) -> Result<Vec<String>> {
    refuse_twice(limits)?;
    let mut warnings = Vec::new();
    for limit in limits {
        let kind = resource(limit.typ());
        let wanted = Rlimit { current: bound(limit.soft()), maximum: bound(limit.hard()) };
        match prlimit(Some(child), kind, wanted) {
            Ok(_) => {}
            Err(Errno::PERM) => {
                let clamped = clamp(child, kind, wanted).doing(|| call(limit))?;
                warnings.push(format!(
                    "{} {}:{} was clamped to {}:{} (no more is allowed without CAP_SYS_RESOURCE{})",
                    limit.typ(),
                    words(wanted.current),
                    words(wanted.maximum),
                    words(clamped.current),
                    words(clamped.maximum),
                    if kind == Resource::Nofile { ", or above fs.nr_open" } else { "" },
                ));
            }
            Err(Errno::INVAL) => {
                return Err(Error::syscall(call(limit), Errno::INVAL)
                    .with_kind(Kind::Usage)
                    .hint("the soft limit may not be above the hard one"));
            }
            Err(errno) => return Err(errno).doing(|| call(limit)),
        }
    }
    Ok(warnings)
}

/// Raises a limit as far as it goes: for files to what nobody may go above (fs.nr_open, proc_sys_fs(5)), else to
/// the caller's own, which the child has just inherited.
fn clamp(child: Pid, kind: Resource, wanted: Rlimit) -> Result<Rlimit> {
    let below =
        |ceiling| Rlimit { current: lower(wanted.current, ceiling), maximum: lower(wanted.maximum, ceiling) };
    if kind == Resource::Nofile {
        let highest = tare_sys::path::read_short("/proc/sys/fs/nr_open")?.trim().parse().ok();
        if prlimit(Some(child), kind, below(highest)).is_ok() {
            return Ok(below(highest));
        }
    }
    let clamped = below(getrlimit(kind).maximum);
    prlimit(Some(child), kind, clamped).doing(|| "with the caller's own limit")?;
    Ok(clamped)
}

fn refuse_twice(limits: &[PosixRlimit]) -> Result<()> {
    let twice =
        limits.iter().enumerate().find(|(at, limit)| limits[..*at].iter().any(|l| l.typ() == limit.typ()));
    match twice {
        Some((_, limit)) => {
            Err(Error::new(Kind::Usage, format!("set resource limits: {} is listed twice", limit.typ())))
        }
        None => Ok(()),
    }
}

/// The highest number is "no limit" (`RLIM_INFINITY`, getrlimit(2)).
fn bound(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn lower(value: Option<u64>, ceiling: Option<u64>) -> Option<u64> {
    match (value, ceiling) {
        (Some(value), Some(ceiling)) => Some(value.min(ceiling)),
        (value, ceiling) => value.or(ceiling),
    }
}

fn words(value: Option<u64>) -> String {
    value.map_or("unlimited".to_owned(), |value| value.to_string())
}

fn call(limit: &PosixRlimit) -> String {
    format!("prlimit({}, {}:{})", limit.typ(), words(bound(limit.soft())), words(bound(limit.hard())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::PosixRlimitBuilder;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    fn limit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
        PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard).build().unwrap()
    }

    /// Waits for a line, then says how many files it may open.
    fn waiting(uid: u32) -> Child {
        let script = "read go; ulimit -S -n; ulimit -H -n";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).uid(uid).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    fn ask(child: Child) -> String {
        let out = child.wait_with_output().unwrap();
        String::from_utf8(out.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn pid(child: &Child) -> Pid {
        Pid::from_child(child)
    }

    #[test]
    fn lowering_needs_no_right() {
        let child = waiting(0);
        let warnings = apply(pid(&child), &[limit(PosixRlimitType::RlimitNofile, 10, 20)]).unwrap();
        assert_eq!((warnings.len(), ask(child).as_str()), (0, "10 20"));
    }

    #[test]
    fn raising_goes_as_far_as_it_may_and_says_so() {
        let own = getrlimit(Resource::Nofile).maximum.unwrap();
        // With CAP_SYS_RESOURCE still no further than this.
        let highest: u64 = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap().trim().parse().unwrap();
        let child = waiting(0);
        let warnings = apply(pid(&child), &[limit(PosixRlimitType::RlimitNofile, 11, u64::MAX)]).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("RLIMIT_NOFILE 11:unlimited was clamped to 11:"), "{warnings:?}");
        let got = ask(child);
        assert!([format!("11 {own}"), format!("11 {highest}")].contains(&got), "{got}");
    }

    #[test]
    fn a_user_who_is_not_root_lowers_and_is_clamped_as_well() {
        let ceiling = getrlimit(Resource::Nofile).maximum.unwrap();
        // Identities are a thread's own, and a child gets those of the thread that made it.
        let seen = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let child = waiting(65534);
            let limits = [
                limit(PosixRlimitType::RlimitNofile, ceiling + 1, ceiling + 1),
                limit(PosixRlimitType::RlimitCore, 0, 0),
            ];
            let warnings = apply(pid(&child), &limits).unwrap();
            (warnings.len(), ask(child))
        });
        assert_eq!(seen.join().unwrap(), (1, format!("{ceiling} {ceiling}")));
    }

    #[test]
    fn twice_the_same_is_an_error() {
        let twice = [limit(PosixRlimitType::RlimitCore, 1, 1), limit(PosixRlimitType::RlimitCore, 1, 1)];
        let child = waiting(0);
        let err = apply(pid(&child), &twice).unwrap_err();
        assert_eq!(err.to_string(), "set resource limits: RLIMIT_CORE is listed twice");
        ask(child);
    }

    #[test]
    fn soft_above_hard_is_refused_with_the_reason() {
        let child = waiting(0);
        let err = apply(pid(&child), &[limit(PosixRlimitType::RlimitNofile, 30, 20)]).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage);
        assert!(err.hint_text().unwrap().contains("soft limit"), "{err:?}");
        ask(child);
    }

    #[test]
    fn clamping_keeps_what_is_below_the_ceiling() {
        assert_eq!(lower(Some(5), Some(9)), Some(5));
        assert_eq!(lower(Some(10), Some(9)), Some(9));
        assert_eq!(lower(None, Some(9)), Some(9));
        assert_eq!(lower(Some(5), None), Some(5));
        assert_eq!(lower(None, None), None);
    }
}
