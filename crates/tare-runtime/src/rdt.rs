//! Intel's Resource Director Technology: shares of the processor's cache and memory bandwidth, by the kernel's
//! resctrl file system.
//!
//! Source: runtime-spec, config-linux.md "IntelRdt"; the kernel's Documentation/filesystems/resctrl.rst.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use rustix::process::Pid;
use tare_sys::{Context, Error, Kind, Result};

/// Where resctrl is mounted.
const MOUNT: &str = "/sys/fs/resctrl";
/// `RDTGROUP_SUPER_MAGIC` (linux/magic.h).
const MAGIC: u64 = 0x0765_5821;

/// Puts a process into its class of service. Answers with the group if it was made now, and is to be removed with
/// the container.
///
/// Errors: [`Kind::Unsupported`] where resctrl is not mounted; those of writing what the spec says.
pub fn join(rdt: &LinuxIntelRdt, id: &str, pid: Pid) -> Result<Option<PathBuf>> {
    let mounted = rustix::fs::statfs(MOUNT).is_ok_and(|stat| stat.f_type as u64 == MAGIC);
    if !mounted {
        return Err(Error::new(Kind::Unsupported, format!("intelRdt: {MOUNT} is not mounted")).hint(
            "mount -t resctrl resctrl /sys/fs/resctrl on a processor that can (grep -E 'rdt|mba' /proc/cpuinfo)",
        ));
    }
    join_at(Path::new(MOUNT), rdt, id, pid)
}

fn join_at(mount: &Path, rdt: &LinuxIntelRdt, id: &str, pid: Pid) -> Result<Option<PathBuf>> {
    let name = rdt.clos_id().as_deref().unwrap_or(id);
    let mut parts = Path::new(name).components();
    let root = name == "/";
    if !root && !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(Error::new(Kind::Usage, format!("intelRdt.closID {name:?}: not the name of a group")));
    }
    let group = if root { mount.to_owned() } else { mount.join(name) };
    let made = !root && make(&group)?;
    let schemata = schemata(rdt);
    let done = (|| {
        if !schemata.is_empty() {
            write(&group.join("schemata"), &schemata)?;
        } else if made && rdt.clos_id().is_some() && has_schema(rdt) {
            return Err(Error::new(Kind::Usage, format!("intelRdt: the group {name} has no schemata")));
        }
        if *rdt.enable_monitoring() == Some(true) {
            let monitored = group.join("mon_groups").join(id);
            make(&monitored)?;
            write(&group.join("tasks"), &pid.as_raw_nonzero().to_string())?;
            return write(&monitored.join("tasks"), &pid.as_raw_nonzero().to_string());
        }
        write(&group.join("tasks"), &pid.as_raw_nonzero().to_string())
    })();
    if done.is_err() && made {
        // The failure is the one to report.
        let _ = fs::remove_dir(&group);
    }
    done?;
    Ok(made.then_some(group))
}

fn has_schema(rdt: &LinuxIntelRdt) -> bool {
    rdt.l3_cache_schema().is_some() || rdt.mem_bw_schema().is_some()
}

/// All lines to be written, in one write: the kernel takes them together or not at all.
fn schemata(rdt: &LinuxIntelRdt) -> String {
    let old = [rdt.l3_cache_schema(), rdt.mem_bw_schema()];
    let lines = old.into_iter().flatten().chain(rdt.schemata().iter().flatten());
    lines.map(|line| line.trim()).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// Makes a group; says whether it is new.
fn make(group: &Path) -> Result<bool> {
    match fs::create_dir(group) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(err) => Err(err).doing(|| format!("mkdir {}", group.display())).map_err(|err| {
            err.hint("the processor has a fixed number of classes; see num_closids in /sys/fs/resctrl/info")
        }),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).doing(|| format!("write {text:?} to {}", path.display()))
}

/// Removes a group that [`join`] made.
pub fn remove(group: &Path) -> Result<()> {
    match fs::remove_dir(group) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("rmdir {}", group.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIntelRdtBuilder;

    #[test]
    fn a_group_is_made_filled_and_told_apart_from_one_that_was_there() {
        let mount = tempfile::tempdir().unwrap();
        let rdt = LinuxIntelRdtBuilder::default()
            .l3_cache_schema("L3:0=f")
            .mem_bw_schema("MB:0=50")
            .build()
            .unwrap();
        let pid = Pid::from_raw(7).unwrap();
        let made = join_at(mount.path(), &rdt, "web", pid).unwrap();
        assert_eq!(made, Some(mount.path().join("web")));
        let read = |name: &str| fs::read_to_string(mount.path().join("web").join(name)).unwrap();
        assert_eq!((read("schemata").as_str(), read("tasks").as_str()), ("L3:0=f\nMB:0=50\n", "7"));
        assert_eq!(join_at(mount.path(), &rdt, "web", pid).unwrap(), None);
    }

    #[test]
    fn a_class_cannot_lead_elsewhere() {
        let mount = tempfile::tempdir().unwrap();
        for bad in ["..", "a/b", "/etc", ""] {
            let rdt = LinuxIntelRdtBuilder::default().clos_id(bad).build().unwrap();
            let err = join_at(mount.path(), &rdt, "web", Pid::from_raw(7).unwrap()).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{bad:?}");
        }
    }
}
