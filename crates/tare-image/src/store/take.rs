//! Taking in an image that somebody else made: its documents are here, its layers are still with their source.
//!
//! ```text
//! documents ─▶ which layers are missing? ─▶ each: ingest/<blob>/ (fetch, hash, inflate, unpack; several at once)
//!                                               └─▶ one syncfs ─▶ renames, records (as import does)
//! ```
//!
//! Processes that want the same layer wait for the one that is at it, and find it done. Layers are held in the order
//! of their digests, so that no two processes wait for each other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use tare_sys::{Context, Error, Kind, Result};

use super::ingest::{Ingest, RECIPE, Wanted};
use super::pending::Pending;
use super::verify::folder;
use super::{Blob, Image, ImageStore, RunRecord, compare, files, index, record};
use crate::config::{self, Described, HistoryLine};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::unpack::Limits;

/// Where an image's layers come from.
pub trait Source: Sync {
    /// The bytes of a blob, from the byte `from` on. `size` is what the manifest says it has.
    ///
    /// Errors are worth another try, with the same or a later `from`.
    fn blob(&self, digest: &Digest, size: u64, from: u64) -> Result<Box<dyn Read + '_>>;

    /// Whether its bytes can be read again at no cost.
    fn is_at_hand(&self) -> bool {
        false
    }
}

/// An image's documents, byte for byte, and what they say of its layers. Whoever makes one has checked the bytes
/// against the digests by which they were asked for.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The manifest of one platform's image.
    pub manifest: Vec<u8>,
    /// Its media type.
    pub manifest_type: String,
    /// The configuration; its digest is the image's id.
    pub config: Vec<u8>,
    /// The layers' blobs, lowest first.
    pub layers: Vec<Blob>,
}

/// Who is told how far each layer is.
pub type Watch<'a> = dyn Fn(&Digest, LayerState) + Sync + 'a;

/// How to take an image in.
#[derive(Clone, Copy, Default)]
pub struct TakeOptions<'a> {
    /// What its layers may ask for.
    pub limits: Limits,
    /// The digest by which it was asked for and found: names may have this one.
    pub known_as: Option<&'a Digest>,
    /// What the names point to in the registry that the image comes from.
    pub origin: Option<&'a Digest>,
    /// Layers at once; 0 for the usual number.
    pub parallel: usize,
    /// Told of each layer, from several threads, after each 128 KiB or so.
    pub progress: Option<&'a Watch<'a>>,
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// The store had it already.
    Held,
    /// It is missing, and its turn will come.
    Queued {
        /// Bytes that its blob has.
        total: u64,
    },
    /// Another process is at it.
    Waiting,
    /// On its way.
    Coming {
        /// Bytes of the blob that have come.
        bytes: u64,
        /// Bytes that it has.
        total: u64,
        /// Entries unpacked.
        entries: u64,
    },
    /// All of it is unpacked, and its digests are right.
    Done,
}

/// Layers at once. Few, for each has a thread that inflates and one that writes.
const PARALLEL: usize = 3;
/// Bytes of a layer's blob after which the disk is told to begin with what has come of it.
const SYNC_EVERY: u64 = 16 << 20;
/// How often to begin again because another process removed what was there.
const ROUNDS: u32 = 5;

impl Source for ImageStore {
    fn blob(&self, digest: &Digest, _size: u64, from: u64) -> Result<Box<dyn Read + '_>> {
        self.read_blob(digest, from)
    }

    fn is_at_hand(&self) -> bool {
        true
    }
}

impl ImageStore {
    /// Takes an image in and gives it these names. On return it is on the disk.
    ///
    /// Errors: [`Kind::Corrupt`] for documents that contradict themselves, and for layers with other bytes than
    /// promised; [`Kind::Exhausted`] where the disk is full; those of the source. Nothing of the image can be seen
    /// then; what has come of its layers is kept for the next try.
    pub fn take(
        &self,
        incoming: &Incoming,
        source: &dyn Source,
        names: &[Reference],
        options: &TakeOptions<'_>,
    ) -> Result<Image> {
        if let Some(name) =
            names.iter().find(|name| name.digest().is_some_and(|of| Some(of) != options.known_as))
        {
            return Err(Error::new(Kind::Usage, format!("name an image {name}: a digest cannot be chosen"))
                .hint("leave out what follows the '@'"));
        }
        let described = config::describe(&incoming.config)?;
        if described.diff_ids.len() != incoming.layers.len() {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the image's manifest has {} layers, and its configuration {}",
                    incoming.layers.len(),
                    described.diff_ids.len()
                ),
            ));
        }
        self.make_folders()?;
        for _ in 0..ROUNDS {
            let taken = self.try_to_take(incoming, &described, source, names, options);
            if let Some(image) = taken.map_err(|err| self.with_advice(err))? {
                return Ok(image);
            }
        }
        Err(Error::new(Kind::Conflict, "the image's layers are removed as fast as they come")
            .hint("does something prune images all the time?"))
    }

    /// Gives an image of the store one more name, which another image may lose by it.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Usage`] for a name with a digest.
    pub fn tag(&self, image: &str, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(Error::new(Kind::Usage, format!("name an image {name}: a digest cannot be chosen"))
                .hint("leave out what follows the '@'"));
        }
        // Found out before a store is made to lock.
        self.resolve(image)?;
        let _lock = self.lock()?;
        let found = self.resolve(image)?;
        self.publish_name(&RunRecord { name: name.full(), ..found })?;
        self.write_index()
    }

    /// The image that a name or an id means.
    ///
    /// Errors: as [`resolve`](ImageStore::resolve).
    pub fn image_of(&self, name: &str) -> Result<Image> {
        let id = self.resolve(name)?.image_id;
        self.list()?
            .into_iter()
            .find(|image| image.id.as_str() == id)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("image {name:?} was removed just now")))
    }

    /// The documents of an image that the store has, and what it takes to fetch its layers from here.
    ///
    /// Errors: those of reading them.
    pub fn incoming_of(&self, image: &Image) -> Result<Incoming> {
        let path = self.blob_path(&image.manifest);
        let manifest = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let blob = |digest: &Digest| image.blobs.iter().find(|blob| blob.digest == *digest).cloned();
        Ok(Incoming {
            manifest,
            manifest_type: image.manifest_type.clone(),
            config: self.config_of(image)?,
            layers: image.layer_blobs.iter().filter_map(blob).collect(),
        })
    }

    /// What the store would write down of an image with these documents.
    ///
    /// Errors: [`Kind::Corrupt`] for documents that contradict themselves.
    pub fn outline(&self, incoming: &Incoming) -> Result<Image> {
        self.image(incoming, &config::describe(&incoming.config)?, &BTreeMap::new())
    }

    /// The bytes of an image's configuration.
    ///
    /// Errors: those of reading it.
    pub fn config_of(&self, image: &Image) -> Result<Vec<u8>> {
        let path = self.blob_path(&image.id);
        std::fs::read(&path).doing(|| format!("read {}", path.display()))
    }

    /// How an image was made, the first step first: each with the bytes that it added.
    ///
    /// Errors: as [`resolve`](ImageStore::resolve); those of reading its configuration.
    pub fn history(&self, name: &str) -> Result<Vec<(HistoryLine, u64)>> {
        let image = self.image_of(name)?;
        let bytes = self.config_of(&image)?;
        let mut sizes = image.layer_sizes.into_iter();
        let lines = config::describe(&bytes)?.history.into_iter();
        Ok(lines
            .map(|line| {
                let size = if line.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
                (line, size)
            })
            .collect())
    }

    /// The folder for files that are of no use once their process has ended.
    pub fn scratch(&self) -> Result<std::path::PathBuf> {
        self.make_folders()?;
        Ok(self.root.clone())
    }

    /// `None`: a layer that was there has gone meanwhile.
    fn try_to_take(
        &self,
        incoming: &Incoming,
        described: &Described,
        source: &dyn Source,
        names: &[Reference],
        options: &TakeOptions<'_>,
    ) -> Result<Option<Image>> {
        let tell = |digest: &Digest, state| {
            if let Some(progress) = options.progress {
                progress(digest, state);
            }
        };
        // An image may have a layer twice, most often an empty one.
        let wanted: BTreeMap<&str, Wanted<'_>> = incoming
            .layers
            .iter()
            .zip(&described.diff_ids)
            .map(|(blob, diff_id)| {
                (blob.digest.hex(), Wanted { digest: &blob.digest, size: blob.size, diff_id })
            })
            .collect();
        let mut missing = Vec::new();
        for wanted in wanted.values() {
            if !self.holds(wanted)? {
                let ingest = Ingest::open(self, wanted.digest, &|| tell(wanted.digest, LayerState::Waiting))?;
                if !self.holds(wanted)? {
                    tell(wanted.digest, LayerState::Queued { total: wanted.size });
                    missing.push((*wanted, ingest));
                    continue;
                }
                ingest.remove()?;
            } else {
                Ingest::clear(self, wanted.digest)?;
            }
            tell(wanted.digest, LayerState::Held);
        }
        // The long ones first: the short ones fill the gaps. What is renamed first plays no part.
        missing.sort_by_key(|(wanted, _)| std::cmp::Reverse(wanted.size));
        let layers: Vec<_> = wanted.into_values().collect();
        let taken = self.fill_and_publish(incoming, described, &layers, &missing, source, names, options);
        match &taken {
            Ok(Some(_)) => missing.into_iter().try_for_each(|(_, ingest)| ingest.remove())?,
            // What has filled the disk must not go on to fill it; the error says more than one of removing would.
            Err(err) if err.kind() == Kind::Exhausted => missing.into_iter().for_each(|(_, ingest)| {
                let _ = ingest.remove();
            }),
            _ => {}
        }
        taken
    }

    #[allow(clippy::too_many_arguments, reason = "what it is to take, and what is missing of it")]
    fn fill_and_publish(
        &self,
        incoming: &Incoming,
        described: &Described,
        layers: &[Wanted<'_>],
        missing: &[(Wanted<'_>, Ingest)],
        source: &dyn Source,
        names: &[Reference],
        options: &TakeOptions<'_>,
    ) -> Result<Option<Image>> {
        let sizes = fill_all(missing, source, options, folder(&self.root)?)?;
        let image = self.image(incoming, described, &sizes)?;
        let wrong = self.wrong_trees(missing)?;
        let documents = self.pending()?;
        files::create(&documents.path.join("config"), &incoming.config, 0o444)?;
        files::create(&documents.path.join("manifest"), &incoming.manifest, 0o444)?;
        // The one sync: trees, blobs and documents. Only what it has brought to the disk is renamed.
        rustix::fs::syncfs(&documents.folder).doing(|| format!("syncfs({:?})", documents.path))?;
        let lock = self.lock()?;
        let is_missing = |digest: &Digest| missing.iter().any(|(wanted, _)| wanted.digest == digest);
        for wanted in layers.iter().filter(|wanted| !is_missing(wanted.digest)) {
            if !self.holds(wanted)? {
                return Ok(None);
            }
        }
        self.put_in_place(missing, &wrong, &documents)?;
        self.publish(image, names, options.origin, &lock).map(Some)
    }

    /// Whether a layer and its blob are here, which they are only whole.
    fn holds(&self, wanted: &Wanted<'_>) -> Result<bool> {
        let (blob, layer) = (wanted.digest.hex(), wanted.diff_id.hex());
        if !self.layer_path(layer).exists() || self.is_damaged(blob) || self.is_damaged(layer) {
            return Ok(false);
        }
        if self.blob_path(wanted.digest).exists() {
            return Ok(true);
        }
        // A recipe makes a plain layer as it was. In place of another blob it is good enough only for an image that was
        // compacted: its owner wanted it so.
        let compacted = |image: &Image| image.layer_blobs.contains(wanted.digest);
        Ok(self.recipe_path(layer).exists()
            && (wanted.digest == wanted.diff_id || self.images()?.iter().any(compacted)))
    }

    fn put_in_place(
        &self,
        layers: &[(Wanted<'_>, Ingest)],
        wrong: &BTreeSet<&str>,
        documents: &Pending,
    ) -> Result<()> {
        let rename = |from: std::path::PathBuf, to: std::path::PathBuf, hex: &str| {
            // What is there was on the disk before it got that name; the same bytes either way, unless it was damaged
            // since.
            if !to.exists() || self.is_damaged(hex) {
                std::fs::rename(&from, &to).doing(|| format!("rename({from:?}, {to:?})"))?;
                self.unmark(hex)?;
            }
            Ok::<_, Error>(())
        };
        for (wanted, ingest) in layers {
            let layer = wanted.diff_id.hex();
            let (blob, recipe) = (ingest.path.join("blob"), ingest.path.join(RECIPE));
            if recipe.exists() {
                files::make_folder(&self.root.join("recipes"), 0o700)?;
                let to = self.recipe_path(layer);
                std::fs::rename(&recipe, &to).doing(|| format!("rename({recipe:?}, {to:?})"))?;
            } else {
                std::fs::set_permissions(&blob, std::fs::Permissions::from_mode(0o444))
                    .doing(|| format!("chmod({blob:?})"))?;
                rename(blob, self.blob_path(wanted.digest), wanted.digest.hex())?;
            }
            let (from, to) = (ingest.path.join("tree"), self.layer_path(layer));
            if wrong.contains(layer) {
                // The damaged one goes with the ingest's folder.
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, &to, swap)
                    .doing(|| format!("renameat2({from:?}, {to:?}, RENAME_EXCHANGE)"))?;
            } else if !to.exists() {
                std::fs::rename(&from, &to).doing(|| format!("rename({from:?}, {to:?})"))?;
            }
        }
        for name in ["config", "manifest"] {
            let path = documents.path.join(name);
            let bytes = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
            let digest = Digest::of(&bytes);
            rename(path, self.blob_path(&digest), digest.hex())?;
        }
        files::sync_folder(&self.root.join("blobs/sha256"))?;
        files::sync_folder(&self.root.join("layers"))?;
        let by_recipe = |wanted: &Wanted<'_>| self.recipe_path(wanted.diff_id.hex()).exists();
        if layers.iter().any(|(wanted, _)| by_recipe(wanted)) {
            files::sync_folder(&self.root.join("recipes"))?;
            files::sync_folder(&self.root)?;
        }
        // Only now that its recipe is on the disk, a damaged blob can go.
        for (wanted, _) in layers.iter().filter(|(wanted, _)| by_recipe(wanted)) {
            if self.is_damaged(wanted.digest.hex()) {
                files::remove(&self.blob_path(wanted.digest))?;
            }
        }
        layers.iter().try_for_each(|(wanted, _)| self.unmark(wanted.diff_id.hex()))
    }

    /// Of layers that came anew because something of them was damaged: those whose tree here is another.
    fn wrong_trees<'a>(&self, layers: &[(Wanted<'a>, Ingest)]) -> Result<BTreeSet<&'a str>> {
        let mut wrong = BTreeSet::new();
        for (wanted, ingest) in layers {
            let layer = wanted.diff_id.hex();
            let path = self.layer_path(layer);
            if path.exists()
                && (self.is_damaged(wanted.digest.hex()) || self.is_damaged(layer))
                && compare::difference(folder(&path)?, folder(&ingest.path.join("tree"))?)?.is_some()
            {
                wrong.insert(layer);
            }
        }
        Ok(wrong)
    }

    /// Writes the records; what fails leaves the image as it was before.
    pub(super) fn publish(
        &self,
        mut image: Image,
        names: &[Reference],
        origin: Option<&Digest>,
        lock: &super::lock::Lock,
    ) -> Result<Image> {
        let before: Option<Image> = record::read(&self.root.join("ids").join(image.id.hex()))?;
        let mut named = Vec::new();
        for name in names {
            named.push((name, self.find_name(name)?));
        }
        let written = self.write_records(&image, names, origin);
        if let Err(err) = written {
            // Not acknowledged, so nobody may rely on it; whatever fails here is left to a later collection.
            if before.is_none() {
                let _ = self.forget(&image, lock);
            }
            for before in named.into_iter().filter_map(|(_, before)| before) {
                let _ = self.publish_name(&before);
            }
            return Err(err);
        }
        if let Some(before) = before {
            // The same image by another manifest: the old one's blobs may be nobody's now.
            for blob in self.unused(&before)?.0 {
                files::remove(&self.root.join("blobs/sha256").join(blob))?;
            }
        }
        image.names = self.names_of(&image)?;
        Ok(image)
    }

    fn write_records(&self, image: &Image, names: &[Reference], origin: Option<&Digest>) -> Result<()> {
        files::replace(&self.root.join("ids"), image.id.hex(), &record::to_json(image)?, 0o600)?;
        for name in names {
            self.publish_name(&RunRecord {
                image_id: image.id.to_string(),
                name: name.full(),
                layers: self.visible(&image.layers),
                config: image.config.clone(),
                digest: origin.cloned(),
            })?;
        }
        self.write_index()
    }

    pub(super) fn image(
        &self,
        incoming: &Incoming,
        described: &Described,
        fresh: &BTreeMap<String, u64>,
    ) -> Result<Image> {
        let config = index::check_size("configuration", &incoming.config)?;
        let manifest = index::check_size("manifest", &incoming.manifest)?;
        let mut blobs = vec![config.clone(), manifest.clone()];
        let mut seen = BTreeSet::new();
        blobs.extend(incoming.layers.iter().filter(|blob| seen.insert(blob.digest.clone())).cloned());
        let layers: Vec<String> = described.diff_ids.iter().map(|id| id.hex().to_owned()).collect();
        let mut sizes = BTreeMap::new();
        if layers.iter().any(|layer| !fresh.contains_key(layer)) {
            for image in self.images()? {
                sizes.extend(image.layers.into_iter().zip(image.layer_sizes));
            }
        }
        let size = |layer: &String| fresh.get(layer).or_else(|| sizes.get(layer)).copied().unwrap_or(0);
        let layer_sizes: Vec<u64> = layers.iter().map(size).collect();
        Ok(Image {
            id: config.digest.clone(),
            names: Vec::new(),
            digests: BTreeMap::new(),
            manifest: manifest.digest.clone(),
            manifest_type: incoming.manifest_type.clone(),
            created: described.created.clone(),
            platform: described.platform.clone(),
            comment: described.comment.clone(),
            size: layer_sizes.iter().sum(),
            blobs,
            layers,
            layer_blobs: incoming.layers.iter().map(|blob| blob.digest.clone()).collect(),
            layer_sizes,
            config: described.config.clone(),
        })
    }
}

/// Fills the layers, several at once. Answers with the bytes in each one's files, by diff-id.
///
/// Meanwhile the disk is kept busy: what has come is synced over and over on a thread beside, so that little is left to
/// wait for at the end.
fn fill_all(
    layers: &[(Wanted<'_>, Ingest)],
    source: &dyn Source,
    options: &TakeOptions<'_>,
    disk: OwnedFd,
) -> Result<BTreeMap<String, u64>> {
    let next = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let sizes = Mutex::new(BTreeMap::new());
    let failure = Mutex::new(None);
    // Who syncs already will be asked only once more.
    let (ask, asked) = sync_channel(1);
    let work = |ask: SyncSender<()>| {
        while !over.load(Ordering::Relaxed)
            && let Some((wanted, ingest)) = layers.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let synced = AtomicU64::new(0);
            let tell = |state| {
                if let LayerState::Coming { bytes, .. } = state
                    && bytes.saturating_sub(synced.load(Ordering::Relaxed)) >= SYNC_EVERY
                {
                    synced.store(bytes, Ordering::Relaxed);
                    let _ = ask.try_send(());
                }
                if let Some(progress) = options.progress {
                    progress(wanted.digest, state);
                }
                match over.load(Ordering::Relaxed) {
                    true => Err(Error::new(Kind::Conflict, "another layer failed")),
                    false => Ok(()),
                }
            };
            match ingest.fill(source, *wanted, &options.limits, &tell) {
                Ok(unpacked) => {
                    lock(&sizes).insert(wanted.diff_id.hex().to_owned(), unpacked.bytes);
                    // Nobody stops a layer that is done.
                    let _ = tell(LayerState::Done);
                }
                Err(err) => {
                    // Those that stop because of the first say nothing new.
                    if !over.swap(true, Ordering::Relaxed) {
                        *lock(&failure) = Some(err.context(format!("take in layer {}", wanted.digest)));
                    }
                }
            }
        }
    };
    let threads = if options.parallel == 0 { PARALLEL } else { options.parallel }.min(layers.len());
    let (over, failure) = (&over, &failure);
    std::thread::scope(|scope| {
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        // Without these threads it only takes longer.
        let _ = thread("tare-sync").spawn_scoped(scope, move || {
            while asked.recv().is_ok() {
                // The kernel tells of a write that failed once only, so the sync at the end would not know.
                if let Err(errno) = rustix::fs::syncfs(&disk)
                    && !over.swap(true, Ordering::Relaxed)
                {
                    *lock(failure) = Some(Error::syscall("syncfs(the image store)", errno));
                }
            }
        });
        for _ in 1..threads {
            let ask = ask.clone();
            let _ = thread("tare-layer").spawn_scoped(scope, || work(ask));
        }
        work(ask);
    });
    match lock(failure).take() {
        Some(err) => Err(err),
        None => Ok(std::mem::take(&mut *lock(&sizes))),
    }
}

/// A thread that broke off has left nothing half written in what these locks guard.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
