//! Pending folders: `layers/<random>.pending/`, flocked by whoever fills or empties them.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::{Context, Result};

use super::lock::Lock;
use super::{ImageStore, files};
use crate::unpack::removal;

/// How a pending folder's name ends.
const SUFFIX: &str = ".pending";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder of one's own that is removed, with all in it, when dropped. Holds the flock that says so.
pub(super) struct Pending {
    layers: OwnedFd,
    name: OsString,
    pub(super) path: PathBuf,
    pub(super) folder: OwnedFd,
}

impl Pending {
    /// Makes one. Under the store's lock, or a sweep may see it between being made and being flocked.
    pub(super) fn create(store: &ImageStore, _lock: &Lock) -> Result<Pending> {
        let layers_path = store.root.join("layers");
        let layers = rustix::fs::open(&layers_path, FOLDER, Mode::empty())
            .doing(|| format!("open({layers_path:?})"))?;
        let name = OsString::from(files::random_name()? + SUFFIX);
        let path = layers_path.join(&name);
        files::spread(&layers);
        files::make_folder(&path, 0o700)?;
        // From here on, dropping it removes it.
        let folder =
            rustix::fs::openat(&layers, &name, FOLDER, Mode::empty()).doing(|| format!("open({path:?})"))?;
        let pending = Pending { layers, name, path, folder };
        rustix::fs::flock(&pending.folder, FlockOperation::NonBlockingLockExclusive)
            .doing(|| format!("flock({:?})", pending.path))?;
        Ok(pending)
    }

    /// A layer that is to go: renamed, so that it is no layer any more, and removed on drop. `None` where there
    /// is none. Needs no space, so it works on a full disk.
    pub(super) fn layer_to_go(store: &ImageStore, diff_id: &str, _lock: &Lock) -> Result<Option<Pending>> {
        let layers_path = store.root.join("layers");
        let layers = rustix::fs::open(&layers_path, FOLDER, Mode::empty())
            .doing(|| format!("open({layers_path:?})"))?;
        let name = OsString::from(files::random_name()? + SUFFIX);
        let path = layers_path.join(&name);
        let folder = match rustix::fs::openat(&layers, diff_id, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.doing(|| format!("open(layers/{diff_id})"))?,
        };
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)
            .doing(|| format!("flock(layers/{diff_id})"))?;
        rustix::fs::renameat(&layers, diff_id, &layers, &name)
            .doing(|| format!("renameat(layers/{diff_id}, {name:?})"))?;
        Ok(Some(Pending { layers, name, path, folder }))
    }

    /// The folders that dead processes left; dropping them removes them. Their records that never were any go at once.
    /// Under the store's lock.
    pub(super) fn abandoned(store: &ImageStore, _lock: &Lock) -> Result<Vec<Pending>> {
        for folder in ["ids", "names"] {
            files::remove_unfinished(&store.root.join(folder), "")?;
        }
        files::remove_unfinished(&store.root, "index.json.")?;
        let layers_path = store.root.join("layers");
        let mut found = Vec::new();
        for name in files::names_in(&layers_path)? {
            if !name.ends_with(SUFFIX) {
                continue;
            }
            let path = layers_path.join(&name);
            let layers = rustix::fs::open(&layers_path, FOLDER, Mode::empty())
                .doing(|| format!("open({layers_path:?})"))?;
            let folder = match rustix::fs::openat(&layers, name.as_str(), FOLDER, Mode::empty()) {
                // Removed meanwhile by its owner.
                Err(Errno::NOENT) => continue,
                opened => opened.doing(|| format!("open({path:?})"))?,
            };
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => found.push(Pending { layers, name: name.into(), path, folder }),
                Err(Errno::WOULDBLOCK) => {}
                failed => failed.doing(|| format!("flock({path:?})"))?,
            }
        }
        Ok(found)
    }
}

/// A folder for files on their way from one place to another. It goes, with all in it, when this is dropped, or after its
/// process has died.
pub struct Staging(Pending);

impl Staging {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl ImageStore {
    /// Makes a folder on the store's disk that is thrown away.
    ///
    /// Errors: those of the disk.
    pub fn staging(&self) -> Result<Staging> {
        self.make_folders()?;
        self.pending().map(Staging)
    }

    /// A folder for what is on its way in. Those of processes that died are removed.
    pub(super) fn pending(&self) -> Result<Pending> {
        let (pending, abandoned) = {
            let lock = self.lock()?;
            let abandoned = Pending::abandoned(self, &lock)?;
            (Pending::create(self, &lock)?, abandoned)
        };
        // The long part, with the lock free again.
        drop(abandoned);
        Ok(pending)
    }
}

impl Pending {
    /// Bytes on disk that go with it.
    pub(super) fn size(&self, counter: &mut tare_sys::disk::Counter) -> Result<u64> {
        counter.add(&self.path)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // What cannot be removed now, the next import tries again: by then nobody holds the flock.
        let _ = removal::remove(&self.layers, &self.name);
    }
}
