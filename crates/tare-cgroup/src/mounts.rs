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
        if self.on.version() == Version::V2 {
            return Vec::new();
        }
        let present = self.present.load(Ordering::Relaxed);
        let trees: Vec<u64> = CONTROLLERS
            .iter()
            .enumerate()
            .filter(|(index, _)| present & (1 << index) != 0)
            .filter_map(|(_, controller)| self.on.mounted(controller))
            .collect();
        let mut mounts: Vec<(u64, Vec<String>)> = Vec::new();
        for controller in CONTROLLERS {
            let Some(tree) = self.on.mounted(controller).filter(|tree| trees.contains(tree)) else {
                continue;
            };
            match mounts.iter_mut().find(|(known, _)| *known == tree) {
                Some((_, together)) => together.push(controller.to_owned()),
                None => mounts.push((tree, vec![controller.to_owned()])),
            }
        }
        mounts.into_iter().map(|(_, together)| (together.join(","), together)).collect()
    }
}
