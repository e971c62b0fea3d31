//! Import: an archive of a root filesystem becomes an image of one layer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result};

use super::pending::Pending;
use super::{Blob, Image, ImageStore, RunRecord, files, index, record};
use crate::config::{self, Change, ImageConfig, Platform};
use crate::documents;
use crate::reference::Reference;
use crate::unpack::input::{self, Passed};
use crate::unpack::{self, Content, Limits, Unpacked, pipe};

/// How to import.
#[derive(Clone, Default)]
pub struct ImportOptions<'a> {
    /// Applied, in order, to an empty configuration.
    pub changes: Vec<Change>,
    /// The image's comment.
    pub message: String,
    /// What the image runs on; by default this machine.
    pub platform: Option<Platform>,
    /// What the archive may ask for.
    pub limits: Limits,
    /// Called on the importing thread after each 128 KiB or so of the tar stream.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the archive read.
    pub bytes_in: u64,
    /// Bytes of the tar stream in it.
    pub bytes_out: u64,
    /// Entries unpacked.
    pub entries: u64,
}

impl ImageStore {
    /// Makes an image of the root filesystem in `archive` (tar; plain, gzip or zstd, told by its content) and
    /// gives it the name; an image that had the name keeps everything else. `archive` is read to its end, with
    /// nothing but this process's memory between: it may be a pipe. On return, the image is on the disk.
    ///
    /// Errors: [`Kind::Usage`] for a name with a digest; [`Kind::Corrupt`] for an archive that is broken or out
    /// of bounds; [`Kind::Exhausted`] where the disk is full. Nothing of the image is left then.
    pub fn import(&self, archive: impl Read, name: &Reference, options: &ImportOptions<'_>) -> Result<Image> {
        self.import_as(archive, Some(name), options)
    }

    /// The same, perhaps without a name.
    ///
    /// Errors: as [`import`](ImageStore::import).
    pub fn import_as(
        &self,
        archive: impl Read,
        name: Option<&Reference>,
        options: &ImportOptions<'_>,
    ) -> Result<Image> {
        if let Some(name) = name.filter(|name| name.digest().is_some()) {
            return Err(Error::new(Kind::Usage, format!("import as {name}: a digest cannot be chosen"))
                .hint("leave out what follows the '@'"));
        }
        self.take_in(archive, name, options).map_err(|err| self.with_advice(err))
    }

    /// On a full disk: which one, and what helps.
    pub(super) fn with_advice(&self, err: Error) -> Error {
        match err.errno() {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let root = self.root.display();
                err.hint(format!(
                    "free space on the disk of {root}: `tare image ls`, `tare image rm`, `df {root}`"
                ))
            }
            _ => err,
        }
    }

    fn take_in(
        &self,
        archive: impl Read,
        name: Option<&Reference>,
        options: &ImportOptions<'_>,
    ) -> Result<Image> {
        self.make_folders()?;
        let pending = self.pending()?;
        let (passed, unpacked) = self.unpack_into(&pending, archive, options)?;
        let image = describe(&passed, &unpacked, &pending, options)?;
        // The one sync: tree, blob, config and manifest. Only what it has brought to the disk is renamed.
        rustix::fs::syncfs(&pending.folder).doing(|| format!("syncfs({:?})", pending.path))?;
        self.publish_import(image, name, &pending)
    }

    /// The two halves of unpacking, on two threads: reading, hashing and inflating here, writing files there.
    fn unpack_into(
        &self,
        pending: &Pending,
        archive: impl Read,
        options: &ImportOptions<'_>,
    ) -> Result<(Passed, Unpacked)> {
        let tree = pending.path.join("tree");
        files::make_folder(&tree, 0o700)?;
        let tree = rustix::fs::open(&tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open({tree:?})"))?;
        let blob = files::create(&pending.path.join("blob"), b"", 0o600)?;
        let entries = AtomicU64::new(0);
        let passed_by = Cell::new((0, 0));
        let progress = |bytes_in, bytes_out| {
            passed_by.set((bytes_in, bytes_out));
            if let Some(progress) = options.progress {
                progress(Progress { bytes_in, bytes_out, entries: entries.load(Ordering::Relaxed) });
            }
        };
        let (writer, reader) = pipe::pipe();
        let (limits, counter) = (&options.limits, &entries);
        let (passed, unpacked) = std::thread::scope(|scope| {
            let unpacking = std::thread::Builder::new()
                .name("tare-unpack".to_owned())
                .spawn_scoped(scope, move || {
                    unpack::unpack(reader, tree, pending.folder.as_fd(), Content::Root, limits, counter)
                })
                .doing(|| "start a thread")?;
            let passed = input::pass(archive, Some(&blob), writer, limits, &progress);
            let unpacked = unpacking
                .join()
                .unwrap_or_else(|_| Err(Error::new(Kind::Kernel, "the thread that unpacks broke off")));
            Ok::<_, Error>((passed, unpacked))
        })?;
        // The last entries are counted after the last bytes came by.
        let (bytes_in, bytes_out) = passed_by.get();
        progress(bytes_in, bytes_out);
        match (passed, unpacked) {
            // The reading side's own error comes first: the other side only saw the bytes stop.
            (Err(err), _) | (_, Err(err)) => Err(err),
            (Ok(Some(passed)), Ok(unpacked)) => Ok((passed, unpacked)),
            (Ok(None), Ok(_)) => {
                Err(Error::new(Kind::Kernel, "the unpacking stopped before the archive's end"))
            }
        }
    }

    /// Renames what is on the disk into place and writes the records; undoes it where that fails.
    fn publish_import(&self, mut image: Image, name: Option<&Reference>, pending: &Pending) -> Result<Image> {
        let lock = self.lock()?;
        let before = match name {
            Some(name) => self.find_name(name)?,
            None => None,
        };
        let published = self.publish_files(&image, pending).and_then(|()| self.publish_records(&image, name));
        if let Err(err) = published {
            // Not acknowledged, so nobody may rely on it; whatever fails here is left to a later collection.
            let _ = self.forget(&image, &lock);
            if let Some(before) = before {
                let _ = self.publish_name(&before);
            }
            return Err(err);
        }
        image.names = self.names_of(&image)?;
        Ok(image)
    }

    fn publish_files(&self, image: &Image, pending: &Pending) -> Result<()> {
        let blobs = self.root.join("blobs/sha256");
        let [config, manifest, layer] = &image.blobs[..] else {
            return Err(Error::new(Kind::Kernel, "an imported image has three blobs"));
        };
        for (file, blob) in [("config", config), ("manifest", manifest), ("blob", layer)] {
            let to = blobs.join(blob.digest.hex());
            // One that is there was on the disk before it got that name; the same bytes either way.
            if !to.exists() {
                let from = pending.path.join(file);
                std::fs::rename(&from, &to).doing(|| format!("rename({from:?}, {to:?})"))?;
            }
        }
        files::sync_folder(&blobs)?;
        for layer in &image.layers {
            let to = self.layer_path(layer);
            if !to.exists() {
                let from = pending.path.join("tree");
                std::fs::rename(&from, &to).doing(|| format!("rename({from:?}, {to:?})"))?;
            }
        }
        files::sync_folder(&self.root.join("layers"))
    }

    fn publish_records(&self, image: &Image, name: Option<&Reference>) -> Result<()> {
        files::replace(&self.root.join("ids"), image.id.hex(), &record::to_json(image)?, 0o600)?;
        if let Some(name) = name {
            self.publish_name(&RunRecord {
                image_id: image.id.to_string(),
                name: name.full(),
                layers: image.layers.clone(),
                config: image.config.clone(),
                digest: None,
            })?;
        }
        self.write_index()
    }

    pub(super) fn publish_name(&self, name: &RunRecord) -> Result<()> {
        let file_name = record::file_name(&name.name);
        files::replace(&self.root.join("names"), &file_name, &record::to_json(name)?, 0o600)
    }
}

/// Writes configuration and manifest beside the layer.
fn describe(
    passed: &Passed,
    unpacked: &Unpacked,
    pending: &Pending,
    options: &ImportOptions<'_>,
) -> Result<Image> {
    let mut config = ImageConfig::default();
    options.changes.iter().for_each(|change| change.apply(&mut config));
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let created = jiff::Timestamp::now().to_string();
    let document = config::document(&config, &platform, &created, &options.message, &passed.diff_id)
        .map_err(|err| Error::new(Kind::Kernel, format!("write the configuration: {err}")))?;
    let config_blob = index::check_size("configuration", &document)?;
    let layer = Blob { digest: passed.blob.clone(), size: passed.blob_size };
    let manifest = documents::manifest(&config_blob, &[(layer.clone(), passed.compression)])?;
    let manifest_blob = index::check_size("manifest", &manifest)?;
    files::create(&pending.path.join("config"), &document, 0o444)?;
    files::create(&pending.path.join("manifest"), &manifest, 0o444)?;
    for file in ["blob", "config", "manifest"] {
        let path = pending.path.join(file);
        std::fs::set_permissions(&path, Permissions::from_mode(0o444))
            .doing(|| format!("chmod({path:?})"))?;
    }
    Ok(Image {
        id: config_blob.digest.clone(),
        names: Vec::new(),
        digests: BTreeMap::new(),
        manifest: manifest_blob.digest.clone(),
        manifest_type: documents::MANIFEST.to_owned(),
        created,
        platform,
        comment: options.message.clone(),
        size: unpacked.bytes,
        blobs: vec![config_blob, manifest_blob, layer.clone()],
        layers: vec![passed.diff_id.hex().to_owned()],
        layer_blobs: vec![layer.digest.clone()],
        layer_sizes: vec![unpacked.bytes],
        config,
    })
}
