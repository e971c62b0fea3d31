//! Recipes: how to make a layer's tar again, byte for byte, from the tree that it was unpacked to.
//!
//! ```text
//! zstd of:  'r' LENGTH BYTES              these bytes: headers, padding, what the tree has not
//!           'f' LENGTH PATH BYTES-OF-IT   the first so many bytes of that file of the tree
//!           'e'                           the end
//! ```
//!
//! Lengths are 64 bits, little endian. A recipe takes a hundredth of what the layer does. Whoever follows one checks
//! the digest of what comes out: files of the tree may have been damaged since.
//!
//! A recipe is written while a layer is unpacked ([`Recording`]), or later, from its blob ([`write`]).

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags};
use tare_sys::path::{Root, fd_name};
use tare_sys::{Context, Error, Kind, Result};

use crate::unpack::archive::Archive;
use crate::unpack::entry::as_path;
use crate::unpack::{Compression, Content, Limits, magic};

/// Bytes in a piece.
const CHUNK: usize = 128 << 10;
/// Bytes that a path or a run of raw bytes may have in a recipe.
const LONGEST: u64 = 1 << 20;

/// The tar stream in a blob, whatever it is compressed with.
pub(crate) fn tar_of<'a>(mut blob: File, limits: &Limits) -> Result<Box<dyn BufRead + 'a>> {
    let mut head = Vec::new();
    (&mut blob).take(512).read_to_end(&mut head).doing(|| "read the blob")?;
    blob.rewind().doing(|| "lseek(the blob, 0)")?;
    let bytes = BufReader::with_capacity(CHUNK, blob);
    Ok(match magic::detect(&head)? {
        Compression::None => Box::new(bytes),
        Compression::Gzip => {
            Box::new(BufReader::with_capacity(CHUNK, flate2::bufread::MultiGzDecoder::new(bytes)))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes).doing(|| "start zstd")?;
            decoder.window_log_max(limits.zstd_window_log).doing(|| "limit the window of zstd")?;
            Box::new(BufReader::with_capacity(CHUNK, decoder))
        }
    })
}

/// Writes the recipe for a tar stream whose tree this is.
pub(crate) fn write(tar: impl BufRead, tree: OwnedFd, to: &File) -> Result<()> {
    let zstd = zstd::stream::write::Encoder::new(to, 3).doing(|| "start zstd")?;
    let recipe = Rc::new(RefCell::new(Recipe { to: zstd, raw: Vec::new(), failed: None }));
    let recorder = Recorder { tar, recipe: recipe.clone(), on: Rc::new(Cell::new(true)) };
    let on = recorder.on.clone();
    let tree = Root::new(tree);
    let limits = Limits { extension: u64::from(u32::MAX), ..Limits::default() };
    let mut archive = Archive::new(recorder, &limits, Content::Layer);
    while let Some(entry) = archive.next()? {
        if entry.size == 0 {
            continue;
        }
        on.set(false);
        let file = open(&tree, entry.path.bytes())?;
        let mut same = 0;
        let mut differs = file.is_none();
        let mut there = vec![0; CHUNK];
        archive.copy_data(|chunk| {
            let mut recipe = recipe.borrow_mut();
            if !differs && let Some(file) = &file {
                let part = &mut there[..chunk.len().min(CHUNK)];
                if part.len() == chunk.len() && file.read_exact_at(part, same).is_ok() && part == chunk {
                    same += chunk.len() as u64;
                    return Ok(());
                }
                differs = true;
                recipe.file(entry.path.bytes(), same);
            }
            recipe.raw(chunk);
            Ok(())
        })?;
        if !differs {
            recipe.borrow_mut().file(entry.path.bytes(), same);
        }
        on.set(true);
    }
    archive.drain()?;
    let recipe = Rc::into_inner(recipe)
        .ok_or_else(|| Error::new(Kind::Kernel, "write a recipe: somebody still writes"))?
        .into_inner();
    recipe.finish().doing(|| "write a recipe")
}

/// Writes down the recipe of a layer while it is unpacked. Whoever unpacks says which bytes went into a file of the tree,
/// and when one of these files did not stay as it was.
#[derive(Clone)]
pub(crate) struct Recording {
    recipe: Rc<RefCell<Recipe<File>>>,
    on: Rc<Cell<bool>>,
    spoiled: Rc<Cell<bool>>,
}

impl Recording {
    pub(crate) fn new(to: File) -> Result<Recording> {
        // The quickest level: it is on the way of every layer.
        let to = zstd::stream::write::Encoder::new(to, 1).doing(|| "start zstd")?;
        let recipe = Recipe { to, raw: Vec::new(), failed: None };
        Ok(Recording { recipe: Rc::new(RefCell::new(recipe)), on: Rc::default(), spoiled: Rc::default() })
    }

    /// The same bytes, written down as they are read.
    pub(crate) fn of<R: BufRead>(&self, tar: R) -> impl BufRead + use<R> {
        self.on.set(true);
        Recorder { tar, recipe: self.recipe.clone(), on: self.on.clone() }
    }

    /// What `copy` reads becomes the first `size` bytes of a file of the tree.
    pub(crate) fn file<T>(&self, path: &[u8], size: u64, copy: impl FnOnce() -> Result<T>) -> Result<T> {
        self.on.set(false);
        let copied = copy()?;
        self.recipe.borrow_mut().file(path, size);
        self.on.set(true);
        Ok(copied)
    }

    /// Something of the tree was replaced, so it does not have all that the layer's tar has.
    pub(crate) fn spoil(&self) {
        self.spoiled.set(true);
    }

    /// Ends the recipe, when the bytes have been read to their end. `false`: it is good for nothing.
    pub(crate) fn end(self) -> Result<bool> {
        let recipe = Rc::into_inner(self.recipe)
            .ok_or_else(|| Error::new(Kind::Kernel, "write a recipe: somebody still writes"))?;
        recipe.into_inner().finish().doing(|| "write a recipe")?;
        Ok(!self.spoiled.get())
    }
}

/// Follows a recipe: reads the tar that it makes. The caller checks the digest of what comes out.
///
/// Errors, wrapped in [`io::Error`]: [`Kind::Corrupt`] for a recipe that is damaged, and where the tree lacks a file.
pub(crate) struct Following {
    recipe: BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
    tree: Root,
    piece: Piece,
}

/// What is read now.
enum Piece {
    Raw(u64),
    File { file: File, path: Vec<u8>, left: u64 },
    End,
}

impl Following {
    pub(crate) fn new(recipe: File, tree: OwnedFd) -> Result<Following> {
        let decoder = zstd::stream::read::Decoder::new(recipe).doing(|| "read a recipe")?;
        let recipe = BufReader::with_capacity(CHUNK, decoder);
        Ok(Following { recipe, tree: Root::new(tree), piece: Piece::Raw(0) })
    }

    fn next_piece(&mut self) -> Result<Piece> {
        let mut tag = [0];
        self.recipe.read_exact(&mut tag).map_err(|_| damaged())?;
        if tag == *b"e" {
            return Ok(Piece::End);
        }
        let length = self.number()?;
        if length > LONGEST {
            return Err(damaged());
        }
        match tag {
            [b'r'] => Ok(Piece::Raw(length)),
            [b'f'] => {
                let mut path = vec![0; length as usize];
                self.recipe.read_exact(&mut path).map_err(|_| damaged())?;
                let left = self.number()?;
                let file = open(&self.tree, &path)?.ok_or_else(|| missing(&path))?;
                Ok(Piece::File { file, path, left })
            }
            _ => Err(damaged()),
        }
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = [0; 8];
        self.recipe.read_exact(&mut number).map_err(|_| damaged())?;
        Ok(u64::from_le_bytes(number))
    }
}

impl Read for Following {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() {
            let (from, left): (&mut dyn Read, _) = match &mut self.piece {
                Piece::End => return Ok(0),
                Piece::Raw(0) | Piece::File { left: 0, .. } => {
                    self.piece = self.next_piece().map_err(io::Error::other)?;
                    continue;
                }
                Piece::Raw(left) => (&mut self.recipe, left),
                Piece::File { file, left, .. } => (file, left),
            };
            let length = into.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            let read = from.read(&mut into[..length])?;
            *left -= read as u64;
            if read == 0 {
                return Err(io::Error::other(match &self.piece {
                    Piece::File { path, .. } => missing(path),
                    _ => damaged(),
                }));
            }
            return Ok(read);
        }
        Ok(0)
    }
}

fn damaged() -> Error {
    Error::new(Kind::Corrupt, "the recipe of a layer is damaged").hint("pull the image again")
}

fn missing(path: &[u8]) -> Error {
    let path = crate::unpack::show(path);
    Error::new(Kind::Corrupt, format!("the file {path} of the layer is gone, or too short"))
        .hint("pull the image again")
}

/// A regular file of the tree.
fn open(tree: &Root, path: &[u8]) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = tree.open(as_path(path), flags, Mode::empty()) else { return Ok(None) };
    let stat = rustix::fs::fstat(&file).doing(|| format!("fstat({})", fd_name(&file)))?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then(|| File::from(file)))
}

struct Recipe<W: Write> {
    to: zstd::stream::write::Encoder<'static, W>,
    raw: Vec<u8>,
    failed: Option<io::Error>,
}

impl<W: Write> Recipe<W> {
    fn raw(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= CHUNK {
            self.flush();
        }
    }

    fn file(&mut self, path: &[u8], size: u64) {
        self.flush();
        if size > 0 {
            let piece = [b"f", &(path.len() as u64).to_le_bytes()[..], path, &size.to_le_bytes()].concat();
            self.put(&piece);
        }
    }

    fn flush(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        for piece in raw.chunks(LONGEST as usize) {
            self.put(&[b"r", &(piece.len() as u64).to_le_bytes()[..]].concat());
            self.put(piece);
        }
    }

    /// A failure is kept for the end: nobody can be told in the midst of a read.
    fn put(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.to.write_all(bytes).err();
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush();
        self.put(b"e");
        match self.failed.take() {
            Some(err) => Err(err),
            None => self.to.finish().map(drop),
        }
    }
}

/// Writes down all that is read through it, while it is on.
struct Recorder<R, W: Write> {
    tar: R,
    recipe: Rc<RefCell<Recipe<W>>>,
    on: Rc<Cell<bool>>,
}

impl<R: BufRead, W: Write> BufRead for Recorder<R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.tar.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is buffered is handed out without reading.
        if self.on.get()
            && let Ok(buffered) = self.tar.fill_buf()
        {
            self.recipe.borrow_mut().raw(&buffered[..amount.min(buffered.len())]);
        }
        self.tar.consume(amount);
    }
}

impl<R: BufRead, W: Write> Read for Recorder<R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let length = have.len().min(into.len());
        into[..length].copy_from_slice(&have[..length]);
        self.consume(length);
        Ok(length)
    }
}
