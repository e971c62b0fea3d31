//! From the archive as it came to the tar stream in it: told apart, kept, inflated, held to its limits, and hashed.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tare_sys::{Context, Error, Kind, Result};

use super::header::BLOCK;
use super::pipe::{self, CHUNK, PipeReader, PipeWriter};
use super::{Compression, Limits, magic};
use crate::digest::{Digest, Hasher};

/// What was learnt about an archive while it passed.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) compression: Compression,
    /// Of the bytes as they came.
    pub(crate) blob: Digest,
    pub(crate) blob_size: u64,
    /// Of the tar stream in them, to its very end: the layer's diff-id.
    pub(crate) diff_id: Digest,
}

/// Sends the tar stream inside `archive` into the pipe and keeps the bytes as they came in `keep`, if they are to be
/// kept. `progress` hears of bytes in and out. `None` where the pipe's reader is gone: it has the error.
///
/// The stream is hashed on a thread of its own: inflating takes as long as hashing and writing the files together.
pub(crate) fn pass(
    archive: impl Read,
    keep: Option<&File>,
    to: PipeWriter,
    limits: &Limits,
    progress: &dyn Fn(u64, u64),
) -> Result<Option<Passed>> {
    let (stream, hashing) = pipe::pipe();
    std::thread::scope(|scope| {
        let hashing = std::thread::Builder::new()
            .name("tare-hash".to_owned())
            .spawn_scoped(scope, move || hash(hashing, &to))
            .doing(|| "start a thread")?;
        let inflated = inflate(archive, keep, stream, limits, progress);
        let diff_id =
            hashing.join().map_err(|_| Error::new(Kind::Kernel, "the thread that hashes broke off"))?;
        Ok(match (inflated?, diff_id) {
            (Some(Inflated { compression, blob, size }), Some(diff_id)) => Some(Passed {
                compression,
                blob: blob.unwrap_or_else(|| diff_id.clone()),
                blob_size: size,
                diff_id,
            }),
            _ => None,
        })
    })
}

/// Hands the stream on, and answers with its digest; `None` where it breaks off, or nobody takes it.
fn hash(mut from: PipeReader, to: &PipeWriter) -> Option<Digest> {
    let mut hasher = Hasher::new();
    while let Some(buffer) = from.exchange(to.spare()) {
        hasher.update(&buffer);
        if !to.send(buffer) {
            return None;
        }
    }
    (from.is_at_end() && to.end()).then(|| hasher.finish())
}

/// What was learnt about an archive on the way to its stream.
struct Inflated {
    compression: Compression,
    /// Of the bytes as they came; `None` where they are the stream itself.
    blob: Option<Digest>,
    size: u64,
}

fn inflate(
    archive: impl Read,
    keep: Option<&File>,
    to: PipeWriter,
    limits: &Limits,
    progress: &dyn Fn(u64, u64),
) -> Result<Option<Inflated>> {
    let taken = Cell::new(0);
    let mut source = Source { archive, keep, hasher: Some(Hasher::new()), taken: &taken };
    let head = source.head()?;
    let compression = magic::detect(&head)?;
    let window = Window::of(&head, limits);
    // The stream is hashed by itself; where it is the archive itself, that does for both.
    if compression == Compression::None {
        source.hasher = None;
    }
    let mut input = BufReader::with_capacity(CHUNK, io::Cursor::new(head).chain(source));
    let mut out = 0u64;
    {
        let mut stream: Box<dyn Read + '_> = match compression {
            Compression::None => Box::new(&mut input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(&mut input)),
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(&mut input).doing(|| "start zstd")?;
                decoder.window_log_max(window.log).doing(|| "limit the window of zstd")?;
                Box::new(decoder)
            }
        };
        loop {
            let mut buffer = to.buffer();
            let n =
                fill(&mut stream, &mut buffer).map_err(|err| name_error(err, compression, taken.get()))?;
            if n == 0 {
                break;
            }
            buffer.truncate(n);
            out += n as u64;
            if compression != Compression::None
                && out > limits.ratio_after
                && out / limits.ratio > taken.get()
            {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!(
                        "the archive inflates beyond reason: {} bytes became more than {out} (the limit is {}:1)",
                        taken.get(),
                        limits.ratio
                    ),
                )
                .hint("if you trust it, decompress it first and import the plain tar archive"));
            }
            progress(taken.get(), out);
            if !to.send(buffer) {
                return Ok(None);
            }
        }
    }
    // What comes after the compressed stream belongs to the blob all the same.
    io::copy(&mut input, &mut io::sink()).map_err(|err| name_error(err, compression, taken.get()))?;
    progress(taken.get(), out);
    if !to.end() {
        return Ok(None);
    }
    let (_, source) = input.into_inner().into_inner();
    Ok(Some(Inflated { compression, blob: source.hasher.map(Hasher::finish), size: taken.get() }))
}

/// Base-two logarithm of the window that any layer may have, however many come at once: 8 MiB, which zstd's levels
/// up to 19 stay within.
const USUAL_WINDOW: u32 = 23;

/// Memory for the window of a zstd stream. Larger windows than usual come one at a time, so that what an image takes
/// is bounded whatever its layers are.
struct Window {
    log: u32,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Window {
    /// Waits for its turn where the first frame says that it needs more than usual.
    fn of(head: &[u8], limits: &Limits) -> Window {
        static TURN: Mutex<()> = Mutex::new(());
        match magic::zstd_window(head) {
            Some(size) if size > 1 << USUAL_WINDOW => Window {
                log: limits.zstd_window_log,
                // There is nothing behind it that a thread that broke off could have left half done.
                _turn: Some(TURN.lock().unwrap_or_else(PoisonError::into_inner)),
            },
            _ => Window { log: USUAL_WINDOW.min(limits.zstd_window_log), _turn: None },
        }
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match stream.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(have)
}

/// The archive, with a copy kept of every byte that passes, if it is to be kept.
struct Source<'a, R> {
    archive: R,
    keep: Option<&'a File>,
    /// `None` where the stream itself is hashed.
    hasher: Option<Hasher>,
    taken: &'a Cell<u64>,
}

impl<R: Read> Source<'_, R> {
    /// The first block, or all there is.
    fn head(&mut self) -> Result<Vec<u8>> {
        let mut head = Vec::with_capacity(BLOCK);
        self.take(BLOCK as u64)
            .read_to_end(&mut head)
            .map_err(|err| name_error(err, Compression::None, 0))?;
        Ok(head)
    }
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.archive.read(into)?;
        let bytes = &into[..n];
        if let Some(mut keep) = self.keep {
            // An error of our own disk, not of the archive: told apart by its type in `name_error`.
            keep.write_all(bytes).doing(|| "write the archive to the store").map_err(io::Error::other)?;
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.taken.set(self.taken.get() + n as u64);
        Ok(n)
    }
}

/// Says in one line what went wrong while reading, and whose fault it was.
fn name_error(err: io::Error, compression: Compression, at: u64) -> Error {
    let err = match err.downcast::<Error>() {
        Ok(ours) => return ours,
        Err(err) => err,
    };
    if let Some(errno) = rustix::io::Errno::from_io_error(&err) {
        return Error::syscall("read the archive", errno);
    }
    let what = match compression {
        Compression::None => "archive",
        Compression::Gzip => "gzip data",
        Compression::Zstd => "zstd data",
    };
    let why = match err.kind() {
        io::ErrorKind::UnexpectedEof => "it stops too early: the rest is missing".to_owned(),
        _ if err.to_string().contains("too much memory") => {
            let what = format!("the {what} needs a window that is larger than any layer may have (64 MiB)");
            return Error::new(Kind::Corrupt, what)
                .hint("compress it again without --ultra and --long: zstd -19 does with 8 MiB");
        }
        _ => err.to_string(),
    };
    Error::new(Kind::Corrupt, format!("the {what} is damaged near byte {at}: {why}"))
        .hint("fetch or make the archive again")
}
