//! The label that a security module gives to the program at exec.
//!
//! It is asked for by a write to a file of /proc, which a container could have replaced by something that takes the
//! write and does nothing (CVE-2019-16884, CVE-2025-52881). So the caller opens the host's own /proc beforehand,
//! and nothing mounted over any part of it is passed through.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result};

/// `PROC_SUPER_MAGIC` (linux/magic.h).
const PROC: u64 = 0x9fa0;

/// Asks for the labels. A module that is not there is an error: no security setting degrades silently; only to be
/// unconfined by an AppArmor that is not there is nothing to ask for.
pub fn set_exec_label(proc: impl AsFd, apparmor: Option<&str>, selinux: Option<&str>) -> Result<()> {
    let stat = rustix::fs::fstatfs(&proc).doing(|| "fstatfs(/proc)")?;
    if stat.f_type as u64 != PROC {
        return Err(Error::new(Kind::Corrupt, "set a security label: /proc is not a procfs"));
    }
    if let Some(profile) = apparmor {
        let done = open(&proc, "self/attr/apparmor/exec")
            .or_else(|_| open(&proc, "self/attr/exec"))
            .and_then(|file| write(&file, &format!("exec {profile}")));
        match done {
            Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) if profile == "unconfined" => {}
            Err(errno) => return Err(refused("AppArmor profile", profile, errno)),
            Ok(()) => {}
        }
    }
    if let Some(label) = selinux {
        open(&proc, "self/attr/exec")
            .and_then(|file| write(&file, label))
            .map_err(|errno| refused("SELinux label", label, errno))?;
    }
    Ok(())
}

fn open(proc: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), how)
}

fn write(file: &OwnedFd, text: &str) -> rustix::io::Result<()> {
    rustix::io::write(file, text.as_bytes()).map(drop)
}

fn refused(what: &str, label: &str, errno: Errno) -> Error {
    let err = Error::syscall(format!("write({what} {label:?}) to /proc/self/attr/exec"), errno);
    match errno {
        Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP => err.with_kind(Kind::Unsupported).hint(
            "is the security module there (cat /sys/kernel/security/lsm), and the profile loaded? Else leave the label out",
        ),
        _ => err,
    }
}
