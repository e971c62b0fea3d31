//! The host's cgroup v2 tree, whose options survive criu.
//!
//! criu mounts the tree for itself, without options, and where that happens in the first cgroup namespace the kernel
//! takes it as a change for everybody (`apply_cgroup_root_flags` in kernel/cgroup/cgroup.c): `nsdelegate` is gone, and
//! with it the rule that a container cannot change the limits that its own cgroup was given.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use tare_sys::mount::NewFs;
use tare_sys::{Context, Result};

/// Held while a criu runs: a second one would take the options that the first has lost for the host's own. Only root can
/// open it, so nobody else can make root wait.
const LOCK: &str = "/run/tare-criu.lock";

/// The tree as it was before criu.
pub struct KeptTree {
    tree: CgroupTree,
    _lock: File,
}

/// Where the tree is mounted, and how.
#[derive(Debug, PartialEq, Eq)]
struct CgroupTree {
    point: PathBuf,
    /// Separated by commas.
    options: String,
}

impl KeptTree {
    /// `None` where the host has no such tree, and for whoever may not change its options anyway. Waits until no other
    /// criu of ours runs.
    pub fn find() -> Result<Option<KeptTree>> {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(LOCK);
        let lock = match opened {
            Err(err) if err.kind() == ErrorKind::PermissionDenied => return Ok(None),
            opened => opened.doing(|| format!("open {LOCK}"))?,
        };
        lock.lock().doing(|| format!("lock {LOCK}"))?;
        Ok(mounted()?.map(|tree| KeptTree { tree, _lock: lock }))
    }

    /// Gives the tree the options back that it had, if it has others by now.
    pub fn restore(&self) -> Result<()> {
        if mounted()?.is_none_or(|now| now == self.tree) {
            return Ok(());
        }
        let CgroupTree { point, options } = &self.tree;
        let words = options.split(',').filter(|word| !matches!(*word, "rw" | "ro"));
        let set =
            || -> Result<()> { words.clone().try_fold(NewFs::pick(point)?, NewFs::flag)?.reconfigure() };
        set().map_err(|err| {
            err.context("give the cgroup tree its options back, which criu has changed")
                .hint(format!("mount -o remount,{options} {}", point.display()))
        })
    }
}

fn mounted() -> Result<Option<CgroupTree>> {
    let path = "/proc/self/mountinfo";
    fs::read_to_string(path).map(|text| in_mountinfo(&text)).doing(|| format!("read {path}"))
}

/// The tree in a mountinfo text (proc_pid_mountinfo(5)).
fn in_mountinfo(text: &str) -> Option<CgroupTree> {
    text.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut words = file_system.split(' ');
        if words.next() != Some("cgroup2") {
            return None;
        }
        let point = PathBuf::from(mount.split(' ').nth(4)?);
        Some(CgroupTree { point, options: words.nth(1)?.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_tree_and_its_options() {
        let text = "24 1 0:22 / /proc rw,nosuid - proc proc rw\n\
            30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let tree = in_mountinfo(text).expect("a tree");
        assert_eq!(tree.point, PathBuf::from("/sys/fs/cgroup"));
        assert_eq!(tree.options, "rw,nsdelegate,memory_recursiveprot");
        assert_eq!(in_mountinfo("24 1 0:22 / /proc rw - proc proc rw\nbroken"), None);
    }
}
