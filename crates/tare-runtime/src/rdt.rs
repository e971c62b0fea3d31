//! Intel Resource Director Technology: shares of the last-level cache and of memory bandwidth, by groups of the
//! resctrl file system (`linux.intelRdt`; kernel: Documentation/filesystems/resctrl.rst).
//!
//! ```text
//! ROOT/                    usually /sys/fs/resctrl: the default group
//! └── CLOSID/              the group: of the name the spec gives, or of the container's id
//!     ├── schemata         what it gets
//!     ├── tasks            who is in it
//!     └── mon_groups/ID/   counts what the container uses, if that is asked for
//! ```

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::Pid;
use tare_sys::{Context, Error, Kind, Result};

/// Where resctrl is mounted by convention.
const ROOT: &str = "/sys/fs/resctrl";

/// `RDTGROUP_SUPER_MAGIC` of linux/magic.h.
const RESCTRL_MAGIC: u64 = 0x0765_5821;

/// Names in resctrl that are no groups.
const RESERVED: [&str; 3] = ["info", "mon_groups", "mon_data"];

/// Puts a process into the group of its spec. Answers with the folder that was made for this container alone, and
/// is to be removed with it.
///
/// Errors: [`Kind::Unsupported`] where resctrl is not mounted; [`Kind::NotFound`] for a group that should be there;
/// those of writing what the spec says.
pub fn join(wanted: &LinuxIntelRdt, id: &str, pid: Pid) -> Result<Option<PathBuf>> {
    let kind = rustix::fs::statfs(ROOT).map(|stat| stat.f_type as u64);
    if kind != Ok(RESCTRL_MAGIC) {
        return Err(Error::new(Kind::Unsupported, format!("linux.intelRdt: {ROOT} is no resctrl")).hint(
            "needs an Intel or AMD CPU with RDT or QoS, and `mount -t resctrl resctrl /sys/fs/resctrl`",
        ));
    }
    join_in(Path::new(ROOT), wanted, id, pid)
}

/// Removes what [`join`] made for a container; what is gone already is no error. The kernel removes the groups that
/// count along with the group that they count in.
pub fn remove(folder: &Path) -> Result<()> {
    match rustix::fs::rmdir(folder) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).doing(|| format!("rmdir({})", folder.display())),
    }
}

fn join_in(root: &Path, wanted: &LinuxIntelRdt, id: &str, pid: Pid) -> Result<Option<PathBuf>> {
    let name = wanted.clos_id().as_deref().unwrap_or(id);
    let what = || format!("resctrl group {name:?}");
    let group = match name {
        // runtime-spec #1289: the default group.
        "/" => root.to_owned(),
        _ => root.join(check_name(name)?),
    };
    let lines = schemata(wanted)?;
    // A group of a name and nothing else has to be there (runtime-spec, config-linux.md, "IntelRdt").
    if wanted.clos_id().is_some() && lines.is_empty() && !group.is_dir() {
        return Err(Error::new(Kind::NotFound, format!("{}: there is none", what()))
            .hint("make it first, or give the spec a schema to make it with"));
    }
    let new = group != root && make(&group).doing(what)?;
    let filled = fill(root, &group, &lines, pid).and_then(|()| match wanted.enable_monitoring() {
        Some(true) => count(root, &group, id, pid).map(Some),
        _ => Ok(None),
    });
    match filled.doing(what) {
        // A group with a name of its own may be shared, and stays (as with runc).
        Ok(_) if new && wanted.clos_id().is_none() => Ok(Some(group)),
        Ok(counting) => Ok(counting),
        Err(err) => {
            if new {
                let _ = remove(&group);
            }
            Err(err)
        }
    }
}

fn fill(root: &Path, group: &Path, lines: &[String], pid: Pid) -> Result<()> {
    if !lines.is_empty() {
        write(root, &group.join("schemata"), &(lines.join("\n") + "\n"))?;
    }
    write(root, &group.join("tasks"), &pid.as_raw_nonzero().to_string())
}

/// Makes the group that counts what the container uses.
fn count(root: &Path, group: &Path, id: &str, pid: Pid) -> Result<PathBuf> {
    let folder = group.join("mon_groups").join(check_name(id)?);
    let new = make(&folder)?;
    let written = write(root, &folder.join("tasks"), &pid.as_raw_nonzero().to_string());
    if written.is_err() && new {
        let _ = remove(&folder);
    }
    written.map(|()| folder)
}

/// Makes a group; says whether it is new.
fn make(folder: &Path) -> Result<bool> {
    match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        // It was there, or another container of the same group was faster.
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => {
            let err = Error::syscall(format!("mkdir({})", folder.display()), errno);
            Err(if errno == Errno::NOSPC {
                err.hint("the CPU has no more groups: see num_closids and num_rmids in /sys/fs/resctrl/info")
            } else {
                err
            })
        }
    }
}

/// The lines to write: `schemata` as they are, or else those of the cache and of the bandwidth.
fn schemata(wanted: &LinuxIntelRdt) -> Result<Vec<String>> {
    let whole: Vec<String> = wanted.schemata().iter().flatten().cloned().collect();
    if whole.iter().any(|line| line.contains('\n')) {
        return Err(Error::new(Kind::Usage, "linux.intelRdt.schemata: an entry is one line"));
    }
    if !whole.is_empty() {
        return Ok(whole);
    }
    let mut lines = Vec::new();
    // Bandwidth in the cache's field is left out (runtime-spec: "MUST be ignored"), or it would count twice.
    let cache = wanted.l3_cache_schema().iter().flat_map(|schema| schema.lines());
    lines.extend(cache.filter(|line| !line.trim_start().starts_with("MB:")).map(str::to_owned));
    lines.extend(wanted.mem_bw_schema().iter().flat_map(|schema| schema.lines()).map(str::to_owned));
    lines.retain(|line| !line.trim().is_empty());
    Ok(lines)
}

fn check_name(name: &str) -> Result<&str> {
    let odd = name.is_empty()
        || name == "."
        || name == ".."
        || name.contains(['/', '\n', '\0'])
        || name.len() > 255;
    if odd || RESERVED.contains(&name) {
        return Err(Error::new(
            Kind::Usage,
            format!("linux.intelRdt: {name:?} cannot be the name of a group"),
        ));
    }
    Ok(name)
}

fn write(root: &Path, file: &Path, text: &str) -> Result<()> {
    let opened = std::fs::OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.doing(|| format!("write {:?} to {}", text.trim_end(), file.display())).map_err(|err| {
        // The kernel says there what it did not like.
        let status = std::fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
        match status.trim() {
            "" | "ok" => err,
            status => err.context(format!("[kernel: {status}]")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIntelRdtBuilder;

    fn pid() -> Pid {
        Pid::from_raw(4711).unwrap()
    }

    /// A folder that stands for the mount. The kernel fills a new group by itself; here an old one is filled.
    fn resctrl(groups: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for group in groups.iter().chain(&["."]) {
            let group = root.path().join(group);
            std::fs::create_dir_all(group.join("mon_groups")).unwrap();
            for file in ["schemata", "tasks"] {
                std::fs::write(group.join(file), "").unwrap();
            }
        }
        root
    }

    fn named(clos: &str) -> LinuxIntelRdtBuilder {
        LinuxIntelRdtBuilder::default().clos_id(clos)
    }

    fn read(root: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(root.path().join(name)).unwrap()
    }

    #[test]
    fn without_resctrl_the_error_says_what_is_missing() {
        if Path::new(ROOT).join("schemata").exists() {
            return;
        }
        let err = join(&LinuxIntelRdt::default(), "c1", pid()).unwrap_err();
        assert_eq!(err.kind(), Kind::Unsupported);
        assert!(err.hint_text().unwrap().contains("mount -t resctrl"), "{err:?}");
    }

    #[test]
    fn a_group_that_is_there_is_joined_and_left_behind() {
        let root = resctrl(&["gold"]);
        let wanted =
            named("gold").l3_cache_schema("L3:0=f;1=f0\nMB:0=1").mem_bw_schema("MB:0=20;1=70").build();
        assert_eq!(join_in(root.path(), &wanted.unwrap(), "c1", pid()).unwrap(), None);
        assert_eq!(read(&root, "gold/schemata"), "L3:0=f;1=f0\nMB:0=20;1=70\n");
        assert_eq!(read(&root, "gold/tasks"), "4711");
    }

    #[test]
    fn the_default_group_can_be_named() {
        let root = resctrl(&[]);
        assert_eq!(join_in(root.path(), &named("/").build().unwrap(), "c1", pid()).unwrap(), None);
        assert_eq!(read(&root, "tasks"), "4711");
    }

    #[test]
    fn a_group_that_counts_goes_with_its_container() {
        // The kernel fills a new folder; in a plain one the file has to be there before.
        let root = resctrl(&["gold", "gold/mon_groups/c1"]);
        let wanted = named("gold").enable_monitoring(true).build().unwrap();
        let folder = root.path().join("gold/mon_groups/c1");
        assert_eq!(join_in(root.path(), &wanted, "c1", pid()).unwrap(), Some(folder.clone()));
        assert_eq!(read(&root, "gold/mon_groups/c1/tasks"), "4711");
        std::fs::remove_dir_all(&folder).unwrap();
        remove(&folder).unwrap();
        // And a failure leaves none.
        assert!(join_in(root.path(), &wanted, "c1", pid()).unwrap_err().to_string().contains("c1/tasks"));
        assert!(!folder.exists());
    }

    #[test]
    fn a_failure_leaves_no_group() {
        let root = resctrl(&[]);
        let wanted = LinuxIntelRdtBuilder::default().schemata(vec!["L3:0=f".to_owned()]).build().unwrap();
        // A plain folder has no schemata file, and none is ever made.
        let err = join_in(root.path(), &wanted, "c1", pid()).unwrap_err();
        assert!(err.to_string().contains("c1/schemata"), "{err}");
        assert!(!root.path().join("c1").exists());
    }

    #[test]
    fn a_name_alone_has_to_be_there() {
        let root = resctrl(&[]);
        let err = join_in(root.path(), &named("gold").build().unwrap(), "c1", pid()).unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound);
        for name in ["", ".", "..", "a/b", "../x", "info", "mon_groups", "mon_data", "a\nb", "a\0b"] {
            let wanted = named(name).mem_bw_schema("MB:0=1").build().unwrap();
            assert_eq!(
                join_in(root.path(), &wanted, "c1", pid()).unwrap_err().kind(),
                Kind::Usage,
                "{name:?}"
            );
        }
    }

    #[test]
    fn whole_schemata_replace_the_two_others() {
        let both = LinuxIntelRdtBuilder::default()
            .schemata(vec!["L2:0=f".to_owned(), "MB:0=9".to_owned()])
            .l3_cache_schema("L3:0=1")
            .mem_bw_schema("MB:0=1");
        assert_eq!(schemata(&both.build().unwrap()).unwrap(), ["L2:0=f", "MB:0=9"]);
        let sly =
            LinuxIntelRdtBuilder::default().schemata(vec!["L3:0=f\nMB:0=9".to_owned()]).build().unwrap();
        assert_eq!(schemata(&sly).unwrap_err().kind(), Kind::Usage);
        assert!(schemata(&LinuxIntelRdt::default()).unwrap().is_empty());
    }
}
