//! What the store takes of the disk, so that it adds up to what du(1) says.

use std::collections::{BTreeMap, BTreeSet};

use tare_sys::Result;
use tare_sys::disk::Counter;

use super::ImageStore;

/// What the store takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of everything in the store's folder.
    pub total: u64,
    /// Of these, what goes if all images go that are not in use, and what no image uses.
    pub reclaimable: u64,
    /// By image id.
    pub images: BTreeMap<String, ImageUsage>,
}

/// What one image takes: its blobs, and its layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// Bytes of all of it.
    pub size: u64,
    /// Bytes of what other images use as well.
    pub shared: u64,
}

impl ImageStore {
    /// Counts. `in_use` are ids of images that must stay.
    ///
    /// Errors: those of the disk.
    pub fn usage(&self, in_use: &BTreeSet<String>) -> Result<Usage> {
        let images = self.images()?;
        let mut users: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut kept = BTreeSet::new();
        let mut parts_of = BTreeMap::new();
        for image in &images {
            let blobs = image.blobs.iter().map(|blob| format!("blobs/sha256/{}", blob.digest.hex()));
            let layers =
                image.layers.iter().flat_map(|hex| [format!("layers/{hex}"), format!("recipes/{hex}")]);
            let parts: BTreeSet<String> = blobs.chain(layers).collect();
            for part in &parts {
                users.entry(part.clone()).or_default().0 += 1;
            }
            if in_use.contains(image.id.as_str()) {
                kept.extend(parts.iter().cloned());
            }
            parts_of.insert(image.id.to_string(), parts);
        }
        // One counter for all: a file that two parts share by a link counts once, as du counts it.
        let mut counter = Counter::default();
        let mut reclaimable = 0;
        for (part, (_, bytes)) in &mut users {
            *bytes = counter.add(&self.root.join(part))?;
            if !kept.contains(part) {
                reclaimable += *bytes;
            }
        }
        let counted: u64 = users.values().map(|(_, bytes)| bytes).sum();
        let total = Counter::default().add(&self.root)?;
        let mut usage = Usage { total, reclaimable: 0, images: BTreeMap::new() };
        for (id, parts) in parts_of {
            let of = usage.images.entry(id).or_default();
            for (count, bytes) in parts.iter().filter_map(|part| users.get(part)) {
                of.size += bytes;
                of.shared += if *count > 1 { *bytes } else { 0 };
            }
        }
        usage.reclaimable = reclaimable + self.left_over(&users)?.min(total.saturating_sub(counted));
        Ok(usage)
    }

    /// Bytes of blobs, layers and unfinished downloads that no image uses.
    fn left_over(&self, used: &BTreeMap<String, (u64, u64)>) -> Result<u64> {
        let mut counter = Counter::default();
        let mut bytes = 0;
        for folder in ["blobs/sha256", "layers", "recipes", "ingest"] {
            for name in super::files::names_in(&self.root.join(folder))? {
                let part = format!("{folder}/{name}");
                if !used.contains_key(&part) && name != super::mount_points::NAME {
                    bytes += counter.add(&self.root.join(part))?;
                }
            }
        }
        Ok(bytes)
    }
}
