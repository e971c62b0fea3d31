//! A layer on its way in, under the digest of its blob: `ingest/<blob hex>/`.
//!
//! ```text
//! ingest/<blob hex>/    0700; flocked by the process that fills it
//!   blob                its bytes so far, as they came; or, of a plain layer whose source is at hand,
//!   recipe              how to make them again from the tree
//!   tree/               what they unpack to; begun anew by each process
//! ```
//!
//! Unlike a pending folder it outlives the process that fills it: whoever wants the layer next goes on where the
//! blob stopped. Its bytes are believed only once they have the digest.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result};

use super::take::{LayerState, Source};
use super::{ImageStore, files};
use crate::digest::Digest;
use crate::unpack::input::{self, Passed};
use crate::unpack::{self, Content, Limits, Unpacked, pipe, removal};

/// The folder of all of them.
pub(super) const INGEST: &str = "ingest";
/// The file that is there in place of the blob.
pub(super) const RECIPE: &str = "recipe";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How often a layer's bytes are asked for again, in a row, without [`PROGRESS`].
const TRIES: u32 = 5;
/// Bytes that have to come before a source that broke off is believed to be a good one: with one byte for each try it
/// could keep us for ever.
const PROGRESS: u64 = 64 << 10;
/// Before the source is asked again; longer each time.
const PAUSE: Duration = Duration::from_millis(100);

/// A layer's folder, held against other processes until dropped.
pub(super) struct Ingest {
    pub(super) path: PathBuf,
    name: String,
    parent: OwnedFd,
    folder: OwnedFd,
}

/// What of a layer's blob goes into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Blob,
    Recipe,
}

/// What is wanted of a source.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    pub(super) diff_id: &'a Digest,
}

impl Ingest {
    /// Opens or makes the folder of a blob. While another process holds it, this waits, and says so first.
    pub(super) fn open(store: &ImageStore, digest: &Digest, waits: &dyn Fn()) -> Result<Ingest> {
        let parent_path = store.root.join(INGEST);
        files::make_folder(&parent_path, 0o700)?;
        let parent = rustix::fs::open(&parent_path, FOLDER, Mode::empty())
            .doing(|| format!("open({parent_path:?})"))?;
        let name = digest.hex().to_owned();
        let path = parent_path.join(&name);
        let mut told = false;
        loop {
            match files::make_folder(&path, 0o700) {
                // The process that had it removed it, between two steps of ours.
                Err(err) if err.kind() == Kind::NotFound => continue,
                made => made?,
            }
            let folder = match rustix::fs::openat(&parent, &name, FOLDER, Mode::empty()) {
                // The process that had it has just published the layer.
                Err(Errno::NOENT) => continue,
                opened => opened.doing(|| format!("open({path:?})"))?,
            };
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    if !std::mem::replace(&mut told, true) {
                        waits();
                    }
                    match rustix::fs::flock(&folder, FlockOperation::LockExclusive) {
                        Err(Errno::INTR) => continue,
                        locked => locked.doing(|| format!("flock({path:?})"))?,
                    }
                }
                Err(errno) => return Err(errno).doing(|| format!("flock({path:?})")),
            }
            // What we hold may have been removed, and made anew by another, before we held it.
            let held = rustix::fs::fstat(&folder).doing(|| format!("fstat({path:?})"))?;
            let there = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)) {
                return Ok(Ingest { path, name, parent, folder });
            }
        }
    }

    /// Removes the folder of a blob that the store holds. A process that was killed, or whose power was cut, between
    /// publishing the layer and removing the folder has left it.
    pub(super) fn clear(store: &ImageStore, digest: &Digest) -> Result<()> {
        let path = store.root.join(INGEST).join(digest.hex());
        let folder = match rustix::fs::open(&path, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.doing(|| format!("open({path:?})"))?,
        };
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            // Whoever is at it will find that it is there, and remove it.
            Err(Errno::WOULDBLOCK) => Ok(()),
            locked => {
                locked.doing(|| format!("flock({path:?})"))?;
                let parent = store.root.join(INGEST);
                let parent =
                    rustix::fs::open(&parent, FOLDER, Mode::empty()).doing(|| format!("open({parent:?})"))?;
                removal::remove(&parent, digest.hex().as_ref())
            }
        }
    }

    /// Fetches what is missing of the blob, and unpacks it all. Bytes from an earlier try that turn out wrong are
    /// thrown away, and the blob is fetched once more.
    pub(super) fn fill(
        &self,
        source: &dyn Source,
        wanted: Wanted<'_>,
        limits: &Limits,
        tell: &(dyn Fn(LayerState) -> Result<()> + Sync),
    ) -> Result<Unpacked> {
        let resumed = self.have()? > 0;
        // The tree and its recipe say all of a plain layer. They are nothing to go on with, though, if it breaks off.
        let by_recipe = !resumed && wanted.digest == wanted.diff_id && source.is_at_hand();
        let fill = |kept| self.fill_once(source, wanted, limits, kept, tell);
        let filled = match fill(if by_recipe { Kept::Recipe } else { Kept::Blob }) {
            Err(err) if resumed && err.kind() == Kind::Corrupt => {
                self.throw_away().and_then(|()| fill(Kept::Blob))
            }
            // Its archive has something twice, and the tree only the last of it.
            Ok(None) => fill(Kept::Blob),
            filled => filled,
        };
        let filled = filled.and_then(|unpacked| {
            unpacked.ok_or_else(|| Error::new(Kind::Kernel, "a layer with its blob wants no recipe"))
        });
        filled.inspect_err(|err| {
            // The error says more than a failure to remove something would.
            let _ = match err.kind() {
                // What is wrong is nothing to go on with, and what has filled the disk must not go on to fill it.
                Kind::Corrupt | Kind::Exhausted => self.throw_away(),
                // The next try goes on where the blob stops, and unpacks all of it anew.
                _ => removal::remove(&self.folder, "tree".as_ref()),
            };
        })
    }

    /// `None`: the recipe is good for nothing.
    fn fill_once(
        &self,
        source: &dyn Source,
        wanted: Wanted<'_>,
        limits: &Limits,
        kept: Kept,
        tell: &(dyn Fn(LayerState) -> Result<()> + Sync),
    ) -> Result<Option<Unpacked>> {
        removal::remove(&self.folder, RECIPE.as_ref())?;
        let path = self.path.join(if kept == Kept::Blob { "blob" } else { RECIPE });
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .doing(|| format!("open({path:?}, O_CREAT)"))?;
        let mut have = self.have()?;
        if have > wanted.size {
            file.set_len(0).doing(|| format!("ftruncate({path:?})"))?;
            have = 0;
        }
        let before = File::open(&path).doing(|| format!("open({path:?})"))?;
        let (blob, recipe) = match kept {
            Kept::Blob => (Some(file), None),
            Kept::Recipe => (None, Some(file)),
        };
        let tree = self.new_tree()?;
        let rest = Resuming { source, wanted, at: have, inner: None, failures: 0, since: have };
        // What is there already is read, hashed and written over itself: the same way for every byte.
        let archive = before.take(have).chain(rest);
        let entries = AtomicU64::new(0);
        let stopped = std::cell::RefCell::new(None);
        let progress = |bytes_in: u64, _: u64| {
            let state = LayerState::Coming {
                bytes: bytes_in,
                total: wanted.size,
                entries: entries.load(Ordering::Relaxed),
            };
            if let Err(err) = tell(state) {
                stopped.borrow_mut().get_or_insert(err);
            }
        };
        let (writer, reader) = pipe::pipe();
        let (counter, folder) = (&entries, self.folder.as_fd());
        let archive = Stoppable { archive, stopped: &stopped };
        let (passed, unpacked) = std::thread::scope(|scope| {
            let unpacking = std::thread::Builder::new()
                .name("tare-unpack".to_owned())
                .spawn_scoped(scope, move || {
                    let (content, into) = (Content::Layer, tree);
                    match recipe {
                        Some(file) => unpack::unpack_with_recipe(reader, into, folder, file, limits, counter),
                        None => unpack::unpack(reader, into, folder, content, limits, counter)
                            .map(|unpacked| (unpacked, true)),
                    }
                })
                .doing(|| "start a thread")?;
            let passed = input::pass(archive, blob.as_ref(), writer, limits, &progress);
            let unpacked = unpacking
                .join()
                .unwrap_or_else(|_| Err(Error::new(Kind::Kernel, "the thread that unpacks broke off")));
            Ok::<_, Error>((passed, unpacked))
        })?;
        if let Some(err) = stopped.into_inner() {
            return Err(err);
        }
        let (passed, (unpacked, is_whole)) = match (passed, unpacked) {
            // The reading side's own error comes first: the other side only saw the bytes stop.
            (Err(err), _) | (_, Err(err)) => return Err(err),
            (Ok(Some(passed)), Ok(unpacked)) => (passed, unpacked),
            (Ok(None), Ok(_)) => {
                return Err(Error::new(Kind::Kernel, "the unpacking stopped before the layer's end"));
            }
        };
        check(&passed, wanted)?;
        Ok(is_whole.then_some(unpacked))
    }

    /// Removes it: the layer is in the store now, or its bytes are of no use.
    pub(super) fn remove(self) -> Result<()> {
        removal::remove(&self.parent, self.name.as_ref())
    }

    fn have(&self) -> Result<u64> {
        match rustix::fs::statat(&self.folder, "blob", AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(stat.st_size.unsigned_abs()),
            Err(Errno::NOENT) => Ok(0),
            Err(errno) => Err(errno).doing(|| format!("stat({:?})", self.path.join("blob"))),
        }
    }

    fn throw_away(&self) -> Result<()> {
        removal::remove(&self.folder, "blob".as_ref())?;
        removal::remove(&self.folder, RECIPE.as_ref())?;
        removal::remove(&self.folder, "tree".as_ref())
    }

    fn new_tree(&self) -> Result<OwnedFd> {
        removal::remove(&self.folder, "tree".as_ref())?;
        let path = self.path.join("tree");
        // Where it is put depends on its first name, which is another each time.
        files::spread(&self.folder);
        let fresh = self.path.join(files::random_name()?);
        files::make_folder(&fresh, 0o700)?;
        std::fs::rename(&fresh, &path).doing(|| format!("rename({fresh:?}, {path:?})"))?;
        rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open({path:?})"))
    }
}

fn check(passed: &Passed, wanted: Wanted<'_>) -> Result<()> {
    let wrong = |what: &str, is: &dyn std::fmt::Display, should: &dyn std::fmt::Display| {
        Err(Error::new(Kind::Corrupt, format!("layer {}: its {what} is {is}, not {should}", wanted.digest))
            .hint("the source sent other bytes than its manifest promises; try again, or ask its owner"))
    };
    if passed.blob_size != wanted.size {
        return wrong("size", &passed.blob_size, &wanted.size);
    }
    if passed.blob != *wanted.digest {
        return wrong("digest", &passed.blob, wanted.digest);
    }
    if passed.diff_id != *wanted.diff_id {
        return wrong("uncompressed digest", &passed.diff_id, wanted.diff_id);
    }
    Ok(())
}

/// A blob's bytes from a source that may break off: then it is asked for the rest.
struct Resuming<'a> {
    source: &'a dyn Source,
    wanted: Wanted<'a>,
    at: u64,
    inner: Option<Box<dyn Read + 'a>>,
    /// In a row, without [`PROGRESS`] between.
    failures: u32,
    /// Where the last one was.
    since: u64,
}

impl Read for Resuming<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.wanted.size.saturating_sub(self.at);
        if left == 0 {
            return self.end();
        }
        let length = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        loop {
            let inner = match &mut self.inner {
                Some(inner) => inner,
                none => none.insert(
                    self.source
                        .blob(self.wanted.digest, self.wanted.size, self.at)
                        .map_err(io::Error::other)?,
                ),
            };
            match inner.read(&mut into[..length]) {
                Ok(0) if length > 0 => {}
                Ok(n) => {
                    self.at += n as u64;
                    if self.at - self.since >= PROGRESS {
                        self.failures = 0;
                    }
                    return Ok(n);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) if self.failures >= TRIES => return Err(err),
                Err(_) => {}
            }
            self.failures += 1;
            self.since = self.at;
            if self.failures > TRIES {
                // The layer is too short; what there is of it says so best.
                return Ok(0);
            }
            self.inner = None;
            std::thread::sleep(PAUSE * self.failures);
        }
    }
}

impl Resuming<'_> {
    /// Whether the source ends where it should.
    fn end(&mut self) -> io::Result<usize> {
        // One that breaks off now has given all that was wanted.
        let more = self.inner.take().is_some_and(|mut inner| inner.read(&mut [0]).is_ok_and(|n| n > 0));
        if !more {
            return Ok(0);
        }
        let what = format!("its size is more than {} bytes", self.wanted.size);
        let hint = "the source sends other bytes than its manifest promises; ask its owner";
        Err(io::Error::other(Error::new(Kind::Corrupt, what).hint(hint)))
    }
}

/// An archive that ends in an error once somebody said stop.
struct Stoppable<'a, R> {
    archive: R,
    stopped: &'a std::cell::RefCell<Option<Error>>,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stopped.borrow().is_some() {
            return Err(io::Error::other(Error::new(Kind::Conflict, "stopped")));
        }
        self.archive.read(into)
    }
}
