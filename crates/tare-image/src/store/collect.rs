//! Collection: whatever in the store no image uses goes.
//!
//! What is wanted is what the records in `ids/` name; all else is left over from processes that died, or from a power
//! cut. There are no counts that could be wrong. It is done under the store's lock, so nothing is taken for left over
//! that is just being put in place.

use std::collections::BTreeSet;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::disk::Counter;
use tare_sys::{Context, Result};

use super::ingest::INGEST;
use super::pending::Pending;
use super::{ImageStore, files};
use crate::digest::is_lower_hex;
use crate::unpack::removal;

/// What a collection took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs, layers, downloads that were never finished, and records of nothing.
    pub things: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl ImageStore {
    /// Removes what no image uses.
    ///
    /// Errors: those of the disk.
    pub fn collect(&self) -> Result<Collected> {
        let mut collected = Collected::default();
        if !self.root.join("lock").exists() {
            return Ok(collected);
        }
        let mut counter = Counter::default();
        let trash = {
            let lock = self.lock()?;
            let images = self.images()?;
            let ids: BTreeSet<&str> = images.iter().map(|image| image.id.hex()).collect();
            let blobs: BTreeSet<&str> =
                images.iter().flat_map(|image| &image.blobs).map(|blob| blob.digest.hex()).collect();
            let layers: BTreeSet<&str> =
                images.iter().flat_map(|image| &image.layers).map(String::as_str).collect();
            let mut trash = Pending::abandoned(self, &lock)?;
            for name in files::names_in(&self.root.join("layers"))? {
                if is_hex(&name) && !layers.contains(name.as_str()) {
                    trash.extend(Pending::layer_to_go(self, &name, &lock)?);
                }
            }
            let mut remove = |folder: &str, keep: &dyn Fn(&str) -> bool| {
                let folder = self.root.join(folder);
                for name in files::names_in(&folder)?.iter().filter(|name| !keep(name)) {
                    let path = folder.join(name);
                    collected.bytes += counter.add(&path)?;
                    collected.things += u64::from(files::remove(&path)?);
                }
                Ok::<_, tare_sys::Error>(())
            };
            remove("blobs/sha256", &|name| blobs.contains(name))?;
            let recipes = self.needed_recipes(&images);
            remove("recipes", &|name| recipes.contains(name))?;
            remove("damaged", &|name| blobs.contains(name) || layers.contains(name))?;
            // Temporary files of processes that died: they are made under the lock, which we have.
            remove("ids", &|name| ids.contains(name))?;
            let named: BTreeSet<String> = self
                .names()?
                .into_iter()
                .filter(|record| ids.contains(record.image_id.trim_start_matches("sha256:")))
                .map(|record| super::record::file_name(&record.name))
                .collect();
            remove("names", &|name| named.contains(name))?;
            self.write_index()?;
            trash
        };
        for pending in &trash {
            collected.bytes += pending.size(&mut counter)?;
            collected.things += 1;
        }
        drop(trash);
        self.drop_ingests(&mut counter, &mut collected)?;
        Ok(collected)
    }

    /// Removes downloads that nobody is at.
    fn drop_ingests(&self, counter: &mut Counter, collected: &mut Collected) -> Result<()> {
        let path = self.root.join(INGEST);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for name in files::names_in(&path)? {
            let parent = rustix::fs::open(&path, flags, Mode::empty()).doing(|| format!("open({path:?})"))?;
            let folder = match rustix::fs::openat(&parent, name.as_str(), flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                opened => opened.doing(|| format!("open({path:?}/{name})"))?,
            };
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    collected.bytes += counter.add(&path.join(&name))?;
                    collected.things += 1;
                    removal::remove(&parent, name.as_ref())?;
                }
                Err(Errno::WOULDBLOCK) => {}
                failed => failed.doing(|| format!("flock({path:?}/{name})"))?,
            }
        }
        Ok(())
    }
}

fn is_hex(name: &str) -> bool {
    name.len() == 64 && is_lower_hex(name)
}
