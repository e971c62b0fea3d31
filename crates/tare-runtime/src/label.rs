//! Labels of the Linux security modules: the AppArmor profile and the SELinux context of a container.
//!
//! They are written through a procfs that we hold, never through a path `/proc/…`, which an image or a volume
//! can cover with files of its own, so that the label goes nowhere (CVE-2019-16884, CVE-2023-28642,
//! CVE-2025-52881). A label that cannot be set is an error: a security setting never degrades silently.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tare_sys::path::fd_name;
use tare_sys::{Context, Error, Kind, Result};

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: u64 = 0x9fa0;
/// `PROC_ROOT_INO` of linux/proc_fs.h.
const PROC_ROOT: u64 = 1;

/// Sets what the next exec of the calling thread is confined by. `proc`: the root of a procfs in which this
/// thread is visible. An empty label asks for nothing; AppArmor's `unconfined` asks for nothing where there is
/// no AppArmor.
pub fn set_exec_label(proc: impl AsFd, apparmor: Option<&str>, selinux: Option<&str>) -> Result<()> {
    if let Some(profile) = apparmor.filter(|profile| !profile.is_empty()) {
        set_apparmor(proc.as_fd(), profile).doing(|| format!("set the AppArmor profile {profile:?}"))?;
    }
    match selinux {
        None | Some("") => Ok(()),
        Some(label) => set_selinux(proc.as_fd(), label).doing(|| format!("set the SELinux label {label:?}")),
    }
}

/// Whether this host enforces AppArmor profiles. Looks at the host's /sys.
fn apparmor_enabled() -> bool {
    apparmor_enabled_in(Path::new("/sys"))
}

fn apparmor_enabled_in(sys: &Path) -> bool {
    std::fs::read(sys.join("module/apparmor/parameters/enabled")).is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether this host has SELinux labels. Looks at the host's /sys.
fn selinux_enabled() -> bool {
    selinux_enabled_in(Path::new("/sys"))
}

fn selinux_enabled_in(sys: &Path) -> bool {
    let lsms = std::fs::read_to_string(sys.join("kernel/security/lsm")).unwrap_or_default();
    // securityfs may not be mounted; selinuxfs is, wherever a policy has been loaded.
    lsms.trim().split(',').any(|lsm| lsm == "selinux") || sys.join("fs/selinux/enforce").exists()
}

fn set_apparmor(proc: BorrowedFd<'_>, profile: &str) -> Result<()> {
    // Since Linux 5.8 each module has a folder of its own; the old file belongs to the first of them.
    let opened = match open(proc, "apparmor/exec") {
        Err(err) if err.errno() == Some(Errno::NOENT) => open(proc, "exec"),
        result => result,
    };
    let absent = |err: Error| {
        err.with_kind(Kind::Unsupported)
            .hint("this host has no AppArmor; load it, or take the profile out of the spec (apparmorProfile)")
    };
    let written = opened.and_then(|file| write(&file, &format!("exec {profile}")));
    match written {
        Ok(()) => Ok(()),
        Err(err) => {
            match err.errno() {
                // No such file; or a kernel in which nobody listens to it (security/security.c: EINVAL).
                Some(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) if !apparmor_enabled() => {
                    if profile == "unconfined" { Ok(()) } else { Err(absent(err)) }
                }
                Some(Errno::NOENT) => {
                    Err(err.hint("the profile is not loaded: see apparmor_parser(8), aa-status(8)"))
                }
                Some(Errno::PERM | Errno::ACCESS) => Err(err
                    .hint("the profile that confines us forbids the change, or no_new_privs is set already")),
                _ => Err(err),
            }
        }
    }
}

fn set_selinux(proc: BorrowedFd<'_>, label: &str) -> Result<()> {
    open(proc, "exec").and_then(|file| write(&file, label)).map_err(|err| match err.errno() {
        Some(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) if !selinux_enabled() => err
            .with_kind(Kind::Unsupported)
            .hint("this host has no SELinux; take the label out of the spec (selinuxLabel)"),
        Some(Errno::INVAL) => err.with_kind(Kind::Usage).hint("the loaded policy does not know this context"),
        Some(Errno::PERM | Errno::ACCESS) => {
            err.hint("the loaded policy does not let us change to this context")
        }
        _ => err,
    })
}

/// Opens a file of the calling thread's `attr` folder. By `thread-self`, which the procfs itself answers with a
/// number of its own pid namespace; nothing may be mounted in between, and no other link be followed.
fn open(proc: BorrowedFd<'_>, file: &str) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(proc).doing(|| format!("fstat({})", fd_name(proc)))?;
    let kind = rustix::fs::fstatfs(proc).doing(|| format!("fstatfs({})", fd_name(proc)))?;
    if kind.f_type as u64 != PROC_MAGIC || stat.st_ino != PROC_ROOT {
        return Err(Error::new(Kind::Corrupt, format!("{} is not the root of a procfs", fd_name(proc))));
    }
    let path = format!("thread-self/attr/{file}");
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(proc, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), how)
        .doing(|| format!("openat2({}, {path:?})", fd_name(proc)))
        .map_err(|err| match err.errno() {
            Some(Errno::XDEV) => err
                .with_kind(Kind::Corrupt)
                .hint("something is mounted over the procfs that labels are set by"),
            _ => err,
        })
}

/// A label is taken by one write(2) or not at all.
fn write(file: &OwnedFd, text: &str) -> Result<()> {
    let call = || format!("write({}, {text:?})", fd_name(file));
    match rustix::io::write(file, text.as_bytes()).doing(call)? {
        length if length == text.len() => Ok(()),
        length => Err(Error::new(Kind::Kernel, format!("{}: only {length} bytes were taken", call()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_sys::mount::{Detached, NewFs, Propagation, set_propagation_of_all};
    use tare_sys::process::{namespace, unshare};

    fn host_proc() -> OwnedFd {
        rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn a_label_without_its_module_is_an_error_that_says_so() {
        if apparmor_enabled() || selinux_enabled() {
            return;
        }
        let fresh = NewFs::open("proc").unwrap().mount(0).unwrap();
        let host = host_proc();
        for proc in [host.as_fd(), fresh.as_fd()] {
            let err = set_exec_label(proc, Some("docker-default"), None).unwrap_err();
            assert_eq!(err.kind(), Kind::Unsupported, "{err}");
            assert!(err.to_string().starts_with("set the AppArmor profile \"docker-default\": "), "{err}");
            assert!(err.hint_text().unwrap().contains("no AppArmor"), "{err:?}");
            let err = set_exec_label(proc, None, Some("system_u:system_r:container_t:s0")).unwrap_err();
            assert!(err.hint_text().unwrap().contains("no SELinux"), "{err:?}");
        }
    }

    #[test]
    fn what_asks_for_nothing_is_no_error() {
        let proc = host_proc();
        set_exec_label(&proc, None, None).unwrap();
        set_exec_label(&proc, Some(""), Some("")).unwrap();
        set_exec_label(&proc, Some("unconfined"), None).unwrap();
    }

    #[test]
    fn only_the_root_of_a_procfs_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let attr = folder.path().join("thread-self/attr");
        std::fs::create_dir_all(&attr).unwrap();
        std::fs::write(attr.join("exec"), "").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for path in [folder.path(), Path::new("/proc/self"), Path::new("/proc/sys")] {
            let fake = rustix::fs::open(path, flags, Mode::empty()).unwrap();
            let err = set_exec_label(&fake, Some("docker-default"), None).unwrap_err();
            assert_eq!(err.kind(), Kind::Corrupt, "{err}");
            assert!(err.to_string().contains("not the root of a procfs"), "{err}");
        }
        assert_eq!(std::fs::read(attr.join("exec")).unwrap(), b"");
    }

    #[test]
    fn what_is_mounted_over_it_gets_no_label() {
        // In a thread with mounts of its own.
        let outcome = std::thread::spawn(|| {
            unshare(namespace::MOUNT).unwrap();
            set_propagation_of_all(Propagation::Private).unwrap();
            let proc = host_proc();
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let attr = rustix::fs::openat(&proc, "thread-self/attr", flags, Mode::empty()).unwrap();
            let fake: Detached = NewFs::open("tmpfs").unwrap().mount(0).unwrap();
            fake.attach(&attr).unwrap();
            let make = OFlags::CREATE | OFlags::WRONLY;
            let dummy = rustix::fs::openat(&fake, "exec", make, Mode::from_raw_mode(0o666)).unwrap();
            let err = set_exec_label(&proc, Some("docker-default"), None).unwrap_err();
            (err, rustix::fs::fstat(&dummy).unwrap().st_size)
        });
        let (err, written) = outcome.join().unwrap();
        assert_eq!((err.errno(), written), (Some(Errno::XDEV), 0), "{err}");
    }

    #[test]
    fn modules_are_told_by_the_hosts_sys() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!apparmor_enabled_in(sys.path()) && !selinux_enabled_in(sys.path()));
        for folder in ["module/apparmor/parameters", "kernel/security", "fs/selinux"] {
            std::fs::create_dir_all(sys.path().join(folder)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(sys.path().join(name), text).unwrap();
        write("module/apparmor/parameters/enabled", "N\n");
        write("kernel/security/lsm", "capability,landlock,notselinux\n");
        assert!(!apparmor_enabled_in(sys.path()) && !selinux_enabled_in(sys.path()));
        write("module/apparmor/parameters/enabled", "Y\n");
        write("kernel/security/lsm", "capability,selinux\n");
        assert!(apparmor_enabled_in(sys.path()) && selinux_enabled_in(sys.path()));
        write("kernel/security/lsm", "capability");
        write("fs/selinux/enforce", "1");
        assert!(selinux_enabled_in(sys.path()));
    }
}
