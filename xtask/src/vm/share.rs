//! This machine's root file system as the guest gets it: all of it, and nothing of it writable.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind_recursive, mount_remount, unmount};

/// A tmpfs in our own mount namespace, which goes with it. Its path is short, as sockets want it.
pub const RUN: &str = "/run";

/// The read-only view, in [`RUN`].
pub const ROOT: &str = "/run/root";

/// The parts of / that belong to this machine's kernel or to what runs here. The guest has its own.
const NOT_SHARED: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Makes [`RUN`] and [`ROOT`]. We are in a mount namespace of our own, from which nothing goes back.
pub fn prepare() -> Result<()> {
    mount("tare-vm", RUN, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=700")
        .context("mounting a tmpfs for the guest's files")?;
    fs::create_dir(ROOT)?;
    mount_bind_recursive("/", ROOT).context("making a second view of /")?;
    let list = fs::read_to_string("/proc/self/mountinfo").context("reading the list of mounts")?;
    // Last mounted first, so that what lies on others goes before them.
    for place in mount_points(&list).iter().rev() {
        let Some(inside) = inside(place) else { continue };
        let hidden = NOT_SHARED.iter().any(|folder| inside.starts_with(folder));
        let read_only = MountFlags::BIND | MountFlags::RDONLY;
        // What cannot be made read-only is not shown: the guest's root could write here.
        if hidden || mount_remount(place, read_only, "").is_err() {
            unmount(place, UnmountFlags::DETACH)
                .with_context(|| format!("hiding {} from the guest", inside.display()))?;
        }
    }
    Ok(())
}

/// Where a mount point of the view is on this machine.
fn inside(place: &Path) -> Option<PathBuf> {
    place.strip_prefix(ROOT).ok().map(|rest| Path::new("/").join(rest))
}

/// The fifth field of each line of mountinfo (proc_pid_mountinfo(5)).
fn mount_points(list: &str) -> Vec<PathBuf> {
    list.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| unescaped(field).into()).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescaped(field: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_spaces() {
        let list = "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:25 / /run/root/a\\040b ro - tmpfs x ro\n";
        let places = mount_points(list);
        assert_eq!(places, [Path::new("/"), Path::new("/run/root/a b")]);
        assert_eq!(inside(&places[0]), None);
        assert_eq!(inside(&places[1]).unwrap(), Path::new("/a b"));
        assert_eq!(inside(Path::new(ROOT)).unwrap(), Path::new("/"));
    }
}
