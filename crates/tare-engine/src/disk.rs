//! `system df`: what of the disk everything takes. The sum of its lines is what `du` says of the state folder.

use std::collections::BTreeSet;

use tare_sys::disk::Counter;
use tare_sys::{Context, Result};

use crate::container::{State, Status};
use crate::engine::Engine;
use crate::image_filter::ImageFilters;
use crate::list::ListQuery;
use crate::sweep;

/// What everything takes.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Images.
    pub images: Share,
    /// Each image: a line for each name.
    pub image_lines: Vec<ImageLine>,
    /// Containers: their writable layers, logs and records; and those that are being removed.
    pub containers: Share,
    /// Each container.
    pub container_lines: Vec<ContainerLine>,
    /// Volumes.
    pub volumes: Share,
    /// Each volume.
    pub volume_lines: Vec<VolumeLine>,
    /// All else in the state folder: networks and the like.
    pub others: u64,
}

/// One kind of things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many there are.
    pub total: u64,
    /// How many are in use.
    pub active: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes that come free if all go that are not in use.
    pub reclaimable: u64,
}

/// What an image takes.
#[derive(Clone, Debug)]
pub struct ImageLine {
    /// As in `image ls`.
    pub summary: crate::ImageSummary,
    /// Bytes: blobs and layers.
    pub size: u64,
    /// Of these, bytes that other images use too.
    pub shared: u64,
    /// Containers that stand on it.
    pub containers: u64,
}

/// What a container takes.
#[derive(Clone, Debug)]
pub struct ContainerLine {
    /// As in `ps`.
    pub summary: crate::Summary,
    /// Bytes.
    pub size: u64,
}

/// What a volume takes.
#[derive(Clone, Debug)]
pub struct VolumeLine {
    /// Its name.
    pub name: String,
    /// Containers that have it.
    pub users: u64,
    /// Bytes.
    pub size: u64,
}

impl Engine {
    /// Counts. It looks at every file.
    ///
    /// Errors: those of the disk.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        sweep::sweep(self.roots())?;
        let mut usage = DiskUsage::default();
        let state = &self.roots().state;
        let mut images_of = Vec::new();
        let mut counter = Counter::default();
        for summary in self.list(&ListQuery { all: true, ..ListQuery::default() })?.0 {
            let folders = self.roots().folders(&summary.id);
            let Ok(record) = folders.record() else { continue };
            let status = folders.status().ok().flatten().unwrap_or_else(Status::created);
            let size = counter.add(&folders.state)?;
            let containers = &mut usage.containers;
            containers.total += 1;
            match status.state {
                State::Running | State::Paused | State::Restarting => containers.active += 1,
                _ => containers.reclaimable += size,
            }
            images_of.push(record.image_id);
            usage.container_lines.push(ContainerLine { summary, size });
        }
        let in_use: BTreeSet<String> = images_of.iter().cloned().collect();
        let store = self.images()?;
        let images = store.usage(&in_use)?;
        usage.images = Share {
            total: images.images.len() as u64,
            active: images.images.keys().filter(|id| in_use.contains(*id)).count() as u64,
            size: images.total,
            reclaimable: images.reclaimable,
        };
        for summary in self.list_images(&ImageFilters::default())? {
            let of = images.images.get(&summary.id).copied().unwrap_or_default();
            let containers = images_of.iter().filter(|id| **id == summary.id).count() as u64;
            usage.image_lines.push(ImageLine { summary, size: of.size, shared: of.shared, containers });
        }
        for volume in self.volumes()? {
            let (size, users) = (counter.add(&volume.mountpoint)?, volume.users.len() as u64);
            let volumes = &mut usage.volumes;
            volumes.total += 1;
            match users {
                0 => volumes.reclaimable += size,
                _ => volumes.active += 1,
            }
            usage.volume_lines.push(VolumeLine { name: volume.name, users, size });
        }
        // Each folder of the state by itself, and what is left is the state folder's own.
        let mut counter = Counter::default();
        for folder in ["containers", "trash", "names"] {
            usage.containers.size += counter.add(&state.join(folder))?;
        }
        usage.volumes.size = counter.add(&state.join("volumes"))?;
        let whole = Counter::default().add(state).doing(|| "count the state folder")?;
        let told = usage.images.size + usage.containers.size + usage.volumes.size;
        usage.others = whole.saturating_sub(told);
        Ok(usage)
    }
}
