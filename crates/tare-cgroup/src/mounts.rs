//! What a container may see of its own cgroups, on v1: the trees that it has a place in.

use std::sync::atomic::Ordering;

use crate::cgroup::Cgroup;
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
}
