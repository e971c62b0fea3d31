//! Commit: an image, and on top of it what a container changed, become a new image.
//!
//! ```text
//! upper folder ─▶ pack::layer ─▶ gzip ─▶ input::pass (hash; kept as the blob) ─▶ unpack ─▶ pending/tree
//! ```
//!
//! The layer's tree is not the upper folder but what anybody makes of the layer's tar: an image is the same here and
//! wherever it is carried.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU64;

use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags};
use tare_sys::{Context, Error, Kind, Result};

use super::pending::Pending;
use super::{Blob, Image, ImageStore, Incoming, files};
use crate::config::{self, Change, ImageConfig};
use crate::digest::Digest;
use crate::documents::{self, Descriptor};
use crate::pack;
use crate::reference::Reference;
use crate::unpack::input::{self, Passed};
use crate::unpack::pipe::{self, PipeWriter};
use crate::unpack::{self, Content, Limits, Unpacked};

/// What to write into the new image.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// How it wants to be run, before `changes`. What the base says besides (health checks, say) stays.
    pub config: ImageConfig,
    /// Applied, in order.
    pub changes: Vec<Change>,
    /// Who made it.
    pub author: String,
    /// A remark for its history.
    pub message: String,
    /// The command that made the changes, for its history.
    pub command: String,
}

impl ImageStore {
    /// Makes an image of `base` (an id) and the upper folder of an overlay over its layers, and gives it the name. On
    /// return it is on the disk.
    ///
    /// Errors: [`Kind::NotFound`] for a base that is not here; [`Kind::Usage`] for a name with a digest; as
    /// [`pack::layer`]; [`Kind::Exhausted`] where the disk is full. Nothing of the image is left then.
    pub fn commit(
        &self,
        base: &str,
        upper: OwnedFd,
        name: Option<&Reference>,
        options: &CommitOptions,
    ) -> Result<Image> {
        if let Some(name) = name.filter(|name| name.digest().is_some()) {
            return Err(Error::new(Kind::Usage, format!("commit as {name}: a digest cannot be chosen"))
                .hint("leave out what follows the '@'"));
        }
        let base = self.image_of(base)?;
        self.make_folders()?;
        let pending = self.pending()?;
        let (passed, unpacked) = self.layer_of(upper, &pending)?;
        let incoming = self.documents_of(&base, &passed, options)?;
        for (file, bytes) in [("config", &incoming.config), ("manifest", &incoming.manifest)] {
            files::create(&pending.path.join(file), bytes, 0o444)?;
        }
        let blob = pending.path.join("blob");
        std::fs::set_permissions(&blob, std::fs::Permissions::from_mode(0o444))
            .doing(|| format!("chmod({blob:?})"))?;
        let described = config::describe(&incoming.config)?;
        let fresh = BTreeMap::from([(passed.diff_id.hex().to_owned(), unpacked.bytes)]);
        let image = self.image(&incoming, &described, &fresh)?;
        // The one sync: tree, blob and documents. Only what it has brought to the disk is renamed.
        rustix::fs::syncfs(&pending.folder).doing(|| format!("syncfs({:?})", pending.path))?;
        let lock = self.lock()?;
        if let Some(gone) = base.layers.iter().find(|layer| !self.layer_path(layer).exists()) {
            return Err(Error::new(
                Kind::Conflict,
                format!("the base image was removed meanwhile, and layer sha256:{gone} with it"),
            ));
        }
        for (file, digest) in [("config", &image.id), ("manifest", &image.manifest), ("blob", &passed.blob)] {
            let (from, to) = (pending.path.join(file), self.blob_path(digest));
            if !to.exists() {
                std::fs::rename(&from, &to).doing(|| format!("rename({from:?}, {to:?})"))?;
            }
        }
        files::sync_folder(&self.root.join("blobs/sha256"))?;
        let (from, to) = (pending.path.join("tree"), self.layer_path(passed.diff_id.hex()));
        if !to.exists() {
            std::fs::rename(&from, &to).doing(|| format!("rename({from:?}, {to:?})"))?;
        }
        files::sync_folder(&self.root.join("layers"))?;
        self.publish(image, name.map(std::slice::from_ref).unwrap_or_default(), None, &lock)
    }

    /// Packs the upper folder, and unpacks it again as a layer: three threads, one pass.
    fn layer_of(&self, upper: OwnedFd, pending: &Pending) -> Result<(Passed, Unpacked)> {
        let tree = pending.path.join("tree");
        files::make_folder(&tree, 0o700)?;
        let tree = rustix::fs::open(&tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open({tree:?})"))?;
        let blob = files::create(&pending.path.join("blob"), b"", 0o600)?;
        // Our own bytes: a container's gigabyte of zeros is no attack.
        let limits = Limits { ratio: u64::MAX, ..Limits::default() };
        let (archive_in, archive) = pipe::pipe();
        let (writer, reader) = pipe::pipe();
        let (limits, entries) = (&limits, &AtomicU64::new(0));
        std::thread::scope(|scope| {
            let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
            let packing = thread("tare-pack")
                .spawn_scoped(scope, move || {
                    let mut gzip = GzEncoder::new(Sending(&archive_in), flate2::Compression::fast());
                    pack::layer(upper, &mut gzip)?;
                    gzip.finish().doing(|| "write the layer")?;
                    // Whoever reads knows better why it stopped.
                    let _ = archive_in.end();
                    Ok::<_, Error>(())
                })
                .doing(|| "start a thread")?;
            let unpacking = thread("tare-unpack")
                .spawn_scoped(scope, move || {
                    unpack::unpack(reader, tree, pending.folder.as_fd(), Content::Layer, limits, entries)
                })
                .doing(|| "start a thread")?;
            let passed = input::pass(archive, Some(&blob), writer, limits, &|_, _| {});
            let broke = || Error::new(Kind::Kernel, "a thread that makes the layer broke off");
            let unpacked = unpacking.join().unwrap_or_else(|_| Err(broke()));
            let packed = packing.join().unwrap_or_else(|_| Err(broke()));
            match (unpacked, passed, packed) {
                // If unpacking failed, the two before it only saw their reader go.
                (Err(err), _, Ok(())) => Err(err),
                (_, _, Err(err)) | (_, Err(err), _) => Err(err),
                (Ok(unpacked), Ok(Some(passed)), Ok(())) => Ok((passed, unpacked)),
                (Ok(_), Ok(None), Ok(())) => Err(broke()),
            }
        })
    }

    fn documents_of(&self, base: &Image, passed: &Passed, options: &CommitOptions) -> Result<Incoming> {
        let read = |digest: &Digest| {
            let path = self.blob_path(digest);
            std::fs::read(&path).doing(|| format!("read {}", path.display()))
        };
        let mut config = options.config.clone();
        options.changes.iter().for_each(|change| change.apply(&mut config));
        let created = jiff::Timestamp::now().to_string();
        let step = config::Step {
            created: &created,
            created_by: &options.command,
            author: &options.author,
            comment: &options.message,
            diff_id: &passed.diff_id,
        };
        let config = config::extend(&read(&base.id)?, &config, &step)?;
        let layer = Blob { digest: passed.blob.clone(), size: passed.blob_size };
        let mut layers: Vec<Descriptor> = documents::layers_of(&read(&base.manifest)?)?;
        layers.push(documents::layer_descriptor(&layer, passed.compression));
        let config_blob = Blob { digest: Digest::of(&config), size: config.len() as u64 };
        Ok(Incoming {
            manifest: documents::manifest_of(&config_blob, &layers)?,
            manifest_type: documents::MANIFEST.to_owned(),
            config,
            layers: layers.into_iter().map(|layer| Blob { digest: layer.digest, size: layer.size }).collect(),
        })
    }
}

/// Writes into the pipe between two threads.
struct Sending<'a>(&'a PipeWriter);

impl Write for Sending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.buffer();
        let length = bytes.len().min(buffer.len());
        buffer.truncate(length);
        buffer.copy_from_slice(&bytes[..length]);
        match self.0.send(buffer) {
            true => Ok(length),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
