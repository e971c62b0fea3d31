//! Where a cgroup's directories are: for the host's tools, and on v1 what a container may see of them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use rustix::fs::AtFlags;

use crate::cgroup::{Cgroup, Keeper};
use crate::hierarchy::{CONTROLLERS, Version};

impl Cgroup {
    /// The v1 trees that this cgroup has a directory in: the name of a folder for it, and the options that
    /// mount it (one word a controller; those that the host mounted together have to be named together).
    ///
    /// A tree in which the container has no cgroup of its own is left out: there it is in the host's root, and
    /// would be shown the whole host. Empty on v2, where there is only one tree.
    pub fn mounts(&self) -> Vec<(String, Vec<String>)> {
        let mut mounts: Vec<(String, Vec<String>)> = Vec::new();
        if self.on.version() == Version::V2 {
            return mounts;
        }
        let present = self.present.load(Ordering::Relaxed);
        for (index, controller) in CONTROLLERS.iter().enumerate() {
            if present & (1 << index) == 0 || self.on.mounted(controller).is_none() {
                continue;
            }
            // A handle on what an earlier command made does not know which trees it chose.
            if present == u32::MAX && !self.there(&self.on.dir(controller, &self.relative)) {
                continue;
            }
            // Hosts that mount several together name the folder after all of them, with a link for each.
            let name = rustix::fs::readlinkat(self.on.root(), *controller, Vec::new())
                .ok()
                .and_then(|target| target.into_string().ok())
                .filter(|target| !target.contains('/'))
                .unwrap_or_else(|| (*controller).to_owned());
            if !mounts.iter().any(|(known, _)| *known == name) {
                let together = name.split(',').map(str::to_owned).collect();
                mounts.push((name, together));
            }
        }
        mounts
    }

    /// The cgroup's directories on the host, by controller; v2 has one, under the name "". Only those that exist, and
    /// with systemd on v1 also that of its own tree, `name=systemd`.
    pub fn paths(&self) -> BTreeMap<String, String> {
        let mut paths = BTreeMap::new();
        let Ok(relative) = self.relative() else {
            return paths;
        };
        let mut add = |name: &str, dir: String| {
            if self.there(&dir) {
                paths.insert(name.to_owned(), self.on.shown(&dir));
            }
        };
        match self.on.version() {
            Version::V2 => add("", self.on.dir("", relative)),
            Version::V1 => {
                let present = self.present.load(Ordering::Relaxed);
                for (index, controller) in CONTROLLERS.iter().enumerate() {
                    if present & (1 << index) != 0 {
                        add(controller, self.on.dir(controller, relative));
                    }
                }
                if matches!(self.keeper, Keeper::Unit { .. }) {
                    add("name=systemd", format!("systemd/{relative}"));
                }
            }
        }
        paths
    }

    fn there(&self, dir: &str) -> bool {
        rustix::fs::statat(self.on.root(), dir, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}
