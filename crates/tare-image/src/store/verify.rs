//! Looking for damage: is every blob what its digest says, and every layer's tree what its blob unpacks to?
//!
//! What is found is marked in `damaged/`, by the digest of the blob or the diff-id of the layer. What is marked does
//! not count as held, so whoever takes the image in again (`pull`, `load`) fetches it, and puts it in the place of what
//! is damaged.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags};
use tare_sys::{Context, Kind, Result};

use super::compact::{Hashing, copy};
use super::{Image, ImageStore, compare, files};
use crate::digest::{Digest, Hasher};
use crate::recipe;
use crate::unpack::{self, Content, Limits};

/// The folder of the marks.
const DAMAGED: &str = "damaged";

/// Something that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The blob's digest, or the layer's diff-id.
    pub digest: Digest,
    /// It is the layer's tree, not the blob.
    pub unpacked: bool,
    /// What is wrong with it.
    pub what: String,
}

impl ImageStore {
    /// Looks at every blob of an image and at every layer. `seen` has what was looked at for other images. What is
    /// damaged is marked, and what is whole again is not any more.
    ///
    /// Of a layer without a blob the tar is looked at that its recipe makes, which has the owners and modes, too.
    ///
    /// Errors: those of the disk; damage is none.
    pub fn verify(&self, image: &Image, seen: &mut BTreeSet<String>) -> Result<Vec<Damage>> {
        let mut found = Vec::new();
        let layers: BTreeSet<&Digest> = image.layer_blobs.iter().collect();
        for blob in &image.blobs {
            if layers.contains(&blob.digest) || !seen.insert(blob.digest.hex().to_owned()) {
                continue;
            }
            let what = match self.hash(&blob.digest)? {
                Some(digest) if digest == blob.digest => None,
                Some(_) => Some("its bytes have another digest".to_owned()),
                None => Some("it is gone".to_owned()),
            };
            self.judge(&blob.digest, false, what, &mut found)?;
        }
        for (diff_id, blob) in image.layers.iter().zip(&image.layer_blobs) {
            if seen.insert(format!("{}/{diff_id}", blob.hex())) {
                self.verify_layer(diff_id, blob, &mut found)?;
            }
        }
        Ok(found)
    }

    fn verify_layer(&self, diff_id: &str, blob: &Digest, found: &mut Vec<Damage>) -> Result<()> {
        let layer = Digest::parse(&format!("sha256:{diff_id}"))?;
        match self.hash(blob)? {
            Some(digest) if digest == *blob => {
                self.judge(blob, false, None, found)?;
                // What was taken in once is within what somebody allowed.
                let limits = Limits { ratio: u64::MAX, ..Limits::default() };
                let what = self.compare_with(diff_id, &|| {
                    let file = File::open(self.blob_path(blob)).doing(|| format!("open blob {blob}"))?;
                    recipe::tar_of(file, &limits)
                })?;
                self.judge(&layer, true, what, found)
            }
            Some(_) => self.judge(blob, false, Some("its bytes have another digest".to_owned()), found),
            None if self.recipe_path(diff_id).exists() => {
                let what = match self.hash_by_recipe(diff_id) {
                    Ok(digest) if digest == layer => self.compare_with(diff_id, &|| {
                        let tar = self.by_recipe(diff_id)?;
                        Ok(Box::new(BufReader::with_capacity(128 << 10, tar)))
                    })?,
                    Ok(_) => Some("the bytes of its files have another digest".to_owned()),
                    Err(err) if err.kind() == Kind::Corrupt => Some(err.to_string()),
                    Err(err) => return Err(err),
                };
                self.judge(&layer, true, what, found)
            }
            None => self.judge(blob, false, Some("it is gone".to_owned()), found),
        }
    }

    /// Unpacks the layer once more and compares.
    fn compare_with(
        &self,
        diff_id: &str,
        tar: &dyn Fn() -> Result<Box<dyn BufRead>>,
    ) -> Result<Option<String>> {
        let pending = self.pending()?;
        let mut found = None;
        // As it is in an imported image: there, names that begin with `.wh.` are files.
        for (name, content) in [("tree", Content::Layer), ("root", Content::Root)] {
            let path = pending.path.join(name);
            files::make_folder(&path, 0o700)?;
            let (limits, entries) = (Limits::default(), AtomicU64::new(0));
            unpack::unpack(tar()?, folder(&path)?, pending.folder.as_fd(), content, &limits, &entries)?;
            let tree = match folder(&self.layer_path(diff_id)) {
                Err(err) if err.kind() == Kind::NotFound => return Ok(Some("it is gone".to_owned())),
                tree => tree?,
            };
            match compare::difference(tree, folder(&path)?)? {
                None => return Ok(None),
                Some(what) => drop(found.get_or_insert(what)),
            }
        }
        Ok(found)
    }

    fn hash(&self, digest: &Digest) -> Result<Option<Digest>> {
        let mut file = match File::open(self.blob_path(digest)) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.doing(|| format!("open blob {digest}"))?,
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).doing(|| format!("read blob {digest}"))? {
                0 => return Ok(Some(hasher.finish())),
                length => hasher.update(&buffer[..length]),
            }
        }
    }

    fn hash_by_recipe(&self, diff_id: &str) -> Result<Digest> {
        let mut hashing = Hashing::new(std::io::sink());
        copy(&mut self.by_recipe(diff_id)?, &mut hashing)?;
        Ok(hashing.end().1)
    }

    fn judge(
        &self,
        digest: &Digest,
        unpacked: bool,
        what: Option<String>,
        found: &mut Vec<Damage>,
    ) -> Result<()> {
        match what {
            None => self.unmark(digest.hex()),
            Some(what) => {
                self.mark(digest.hex())?;
                found.push(Damage { digest: digest.clone(), unpacked, what });
                Ok(())
            }
        }
    }

    fn mark(&self, hex: &str) -> Result<()> {
        let marks = self.root.join(DAMAGED);
        files::make_folder(&marks, 0o700)?;
        files::replace(&marks, hex, b"", 0o600)
    }

    /// What is there is whole again.
    pub(super) fn unmark(&self, hex: &str) -> Result<()> {
        files::remove(&self.root.join(DAMAGED).join(hex)).map(drop)
    }

    /// Whether a blob or a layer was found to be damaged.
    pub(super) fn is_damaged(&self, hex: &str) -> bool {
        self.root.join(DAMAGED).join(hex).exists()
    }
}

/// Opens a folder to read it.
pub(super) fn folder(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open({path:?})"))
}
