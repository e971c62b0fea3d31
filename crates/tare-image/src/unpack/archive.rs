//! A stream of bytes as a sequence of entries: headers, their extensions, and data.
//!
//! Old (v7), ustar, GNU and PAX archives. Not read, and refused with a reason: parts of multi-volume archives. Not
//! applied: PAX global headers, GNU volume labels (as Docker).

use std::io::BufRead;

use tar::EntryType;
use tare_sys::{Context, Error, Kind, Result};

use super::entry::{Attributes, Entry, EntryKind, EntryPath, show};
use super::header::{self, BLOCK, Raw};
use super::pax::{self, Pax, PaxSparse};
use super::sparse::{self, Map};
use super::{Content, Limits, magic};

/// Reads entries in order. After an error it must not be used further.
pub(crate) struct Archive<'a, R> {
    input: R,
    limits: &'a Limits,
    content: Content,
    /// Bytes read so far, for messages.
    position: u64,
    /// Data of the current entry not read yet.
    data: u64,
    /// Zeros that fill its last block.
    padding: u64,
    entries: u64,
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub(crate) fn new(input: R, limits: &'a Limits, content: Content) -> Archive<'a, R> {
        Archive { input, limits, content, position: 0, data: 0, padding: 0, entries: 0 }
    }

    /// The next entry; `None` at the mark that ends an archive. It must be there, but for layers, whose digest says
    /// that they are whole: some tools leave it out, and Docker does not miss it.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let (mut long_path, mut long_link, mut pax) = (None, None, None);
        loop {
            self.skip_data()?;
            let start = self.position;
            let Some(block) = self.block()? else {
                if self.content == Content::Layer
                    && matches!((&long_path, &long_link, &pax), (None, None, None))
                {
                    return Ok(None);
                }
                return Err(self.bad(match start {
                    0 => "it is empty".to_owned(),
                    _ => "it stops without the mark that ends an archive: the rest is missing".to_owned(),
                }));
            };
            if header::is_end(&block) {
                return match (long_path, long_link, pax) {
                    (None, None, None) => Ok(None),
                    _ => Err(self.bad("an extension header has no entry after it".to_owned())),
                };
            }
            if !header::checksum_is_right(&block) {
                return Err(match start {
                    0 => magic::not_a_tar(&block),
                    _ => self.bad("the checksum of a header is wrong".to_owned()),
                });
            }
            let raw = header::parse(&block).map_err(|why| self.bad(why))?;
            match raw.kind {
                EntryType::GNULongName => self.once(&mut long_path, &raw, |data| Ok(until_nul(data)))?,
                EntryType::GNULongLink => self.once(&mut long_link, &raw, |data| Ok(until_nul(data)))?,
                EntryType::XHeader => self.once(&mut pax, &raw, |data| pax::parse(&data))?,
                // Read, to hold it to the same size limit, and not applied.
                EntryType::XGlobalHeader => drop(self.extension(&raw)?),
                kind if kind.as_byte() == b'V' => {}
                _ => {
                    self.entries += 1;
                    if self.entries > self.limits.entries {
                        return Err(self.bad(format!("it has more than {} entries", self.limits.entries)));
                    }
                    let pax = pax.unwrap_or_default();
                    return self.entry(raw, &block, long_path, long_link, pax).map(Some);
                }
            }
        }
    }

    /// Hands the data of the current entry to `write`, piece by piece.
    pub(crate) fn copy_data(&mut self, mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.data > 0 {
            let position = self.position;
            let chunk = self.input.fill_buf().doing(|| format!("read the archive at byte {position}"))?;
            let take = chunk.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
            if take == 0 {
                return Err(self.bad(format!("it ends within an entry; {} bytes are missing", self.data)));
            }
            write(&chunk[..take])?;
            self.input.consume(take);
            self.data -= take as u64;
            self.position += take as u64;
        }
        Ok(())
    }

    /// Reads what is left, so that the sender of the bytes gets to its end too.
    pub(crate) fn drain(mut self) -> Result<()> {
        std::io::copy(&mut self.input, &mut std::io::sink()).doing(|| "read the archive to its end")?;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<()> {
        self.copy_data(|_| Ok(()))?;
        self.data = std::mem::take(&mut self.padding);
        // umoci's `insert` leaves out what fills the last block, too.
        match self.copy_data(|_| Ok(())) {
            Err(err) if self.content == Content::Layer && self.at_end() => {
                self.data = 0;
                drop(err);
                Ok(())
            }
            skipped => skipped,
        }
    }

    fn at_end(&mut self) -> bool {
        self.input.fill_buf().is_ok_and(<[u8]>::is_empty)
    }

    /// A whole block, or `None` where the input ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let read = self.input.read(&mut block[have..]);
            match read.doing(|| format!("read the archive at byte {}", self.position))? {
                0 if have == 0 => return Ok(None),
                0 if self.position == have as u64 => return Err(magic::not_a_tar(&block[..have])),
                0 => return Err(self.bad("it ends within a header: the rest is missing".to_owned())),
                n => {
                    have += n;
                    self.position += n as u64;
                }
            }
        }
        Ok(Some(block))
    }

    /// The data of an extension header, which is read into memory and so is limited.
    fn extension(&mut self, raw: &Raw) -> Result<Vec<u8>> {
        let size = self.size(raw.size)?;
        if size > self.limits.extension {
            return Err(self.bad(format!(
                "an extension header of {size} bytes is beyond the limit of {}",
                self.limits.extension
            )));
        }
        self.expect_data(size);
        let mut data = Vec::new();
        self.copy_data(|chunk| {
            data.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(data)
    }

    /// Fills `slot` from an extension header; a second one for the same entry would be read differently by
    /// different readers, so it is refused.
    fn once<T>(
        &mut self,
        slot: &mut Option<T>,
        raw: &Raw,
        parse: impl FnOnce(Vec<u8>) -> Result<T, String>,
    ) -> Result<()> {
        if slot.is_some() {
            return Err(self.bad("an entry has two extension headers of the same kind".to_owned()));
        }
        let data = self.extension(raw)?;
        *slot = Some(parse(data).map_err(|why| self.bad(why))?);
        Ok(())
    }

    fn expect_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn entry(
        &mut self,
        raw: Raw,
        block: &[u8; BLOCK],
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut pax: Pax,
    ) -> Result<Entry> {
        let own_name = pax.sparse.as_mut().and_then(|sparse| sparse.name.take());
        let name = long_path.or(own_name).or(pax.path).unwrap_or(raw.path);
        let link = long_link.or(pax.link).unwrap_or(raw.link);
        let bad = |why: &str| Error::new(Kind::Corrupt, format!("entry {}: {why}", show(&name)));
        let path = EntryPath::parse(&name, self.limits)?;
        let device = || -> Result<(u32, u32)> {
            // Linux has 12 bits and 20 (kdev_t.h). mknod(2) cuts off what is more, and what is left of 4096:0 is
            // 0:0, which overlayfs reads as a whiteout.
            let part = |n: i128, bits: u32| {
                let part = u32::try_from(n).ok().filter(|part| *part < 1 << bits);
                part.ok_or_else(|| bad("its device number is out of range"))
            };
            Ok((part(raw.major, 12)?, part(raw.minor, 20)?))
        };
        let kind = match raw.kind {
            // Before ustar a folder was a file whose name ends in '/'.
            EntryType::Regular if name.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink if link.is_empty() => return Err(bad("the symbolic link has no target")),
            EntryType::Symlink if link.len() >= self.limits.path || link.contains(&0) => {
                return Err(bad("the target of the symbolic link is too long, or holds a NUL"));
            }
            EntryType::Symlink => EntryKind::Symlink(link),
            EntryType::Link => {
                let target = EntryPath::parse(&link, self.limits)
                    .map_err(|err| err.context(format!("hard link {}", show(&name))))?;
                if target.is_root() {
                    return Err(bad("the hard link has no target"));
                }
                EntryKind::HardLink(target)
            }
            EntryType::Char => match device()? {
                // Overlayfs reads this as "the file below is deleted".
                (0, 0) => return Err(bad("a character device 0:0 would hide files; it is refused")),
                (major, minor) => EntryKind::CharDevice(major, minor),
            },
            EntryType::Block => device().map(|(major, minor)| EntryKind::BlockDevice(major, minor))?,
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                let letter = char::from(other.as_byte()).escape_default();
                return Err(bad(&format!("entries of type '{letter}' are not for images"))
                    .hint("make the archive again with tar --create --format=pax, in one volume"));
            }
        };
        if path.is_root() && kind != EntryKind::Directory {
            return Err(bad("only a folder can be the root of an image"));
        }
        // Old tars write a size for entries that have no data; GNU tar and Go read it as 0, so do we. A folder
        // in the guise of a file does have its data, which is skipped.
        let has_data = matches!(raw.kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        let size = match (has_data, pax.size) {
            (true, Some(size)) => size,
            (true, None) => self.size(raw.size)?,
            (false, _) => 0,
        };
        if size > i64::MAX as u64 {
            return Err(bad("its size is out of range"));
        }
        let sparse = match (raw.kind, pax.sparse.take()) {
            (EntryType::GNUSparse, None) => {
                Some(self.gnu_sparse(block, size).map_err(|err| in_entry(err, &name))?)
            }
            (EntryType::Regular | EntryType::Continuous, Some(sparse)) => {
                Some(self.pax_sparse(sparse, size).map_err(|err| in_entry(err, &name))?)
            }
            (_, Some(_)) => return Err(bad("it is said to be sparse in two ways, or is no file")),
            (_, None) => {
                self.expect_data(size);
                None
            }
        };
        // Of the data, the map is read.
        let size = self.data;
        let id = |what: &str, from_pax: Option<u64>, from_header: i128| {
            let id = from_pax.map_or(from_header, i128::from);
            // The last one, 2^32-1, means "leave as it is" to chown(2).
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| {
                bad(&format!("its {what} {id} is out of range"))
                    .hint("make the archive again with --numeric-owner and ids below 4294967295")
            })
        };
        let attributes = Attributes {
            mode: u32::try_from(raw.mode & 0o7777).unwrap_or(0),
            uid: id("uid", pax.uid, raw.uid)?,
            gid: id("gid", pax.gid, raw.gid)?,
            mtime: Some(pax.mtime.unwrap_or_else(|| (clamp(raw.mtime), 0))),
            xattrs: pax.xattrs,
        };
        Ok(Entry { path, kind, size, sparse, attributes })
    }

    /// The map of an old GNU sparse file, which goes on in blocks between its header and its data.
    fn gnu_sparse(&mut self, header: &[u8; BLOCK], data: u64) -> Result<Map> {
        let mut pieces = Vec::new();
        let (mut more, size) = sparse::of_header(header, &mut pieces).map_err(|why| self.bad(why))?;
        let mut blocks = 0;
        while more {
            blocks += BLOCK as u64;
            if blocks > self.limits.extension {
                return Err(self.too_many_pieces());
            }
            let block = self
                .block()?
                .ok_or_else(|| self.bad("it ends within the map of a sparse file".to_owned()))?;
            more = sparse::of_block(&block, &mut pieces).map_err(|why| self.bad(why))?;
        }
        self.expect_data(data);
        self.map(pieces, size)
    }

    /// The map of a PAX sparse file, in its records or in front of its data.
    fn pax_sparse(&mut self, sparse: PaxSparse, data: u64) -> Result<Map> {
        let size = sparse.size.ok_or_else(|| self.bad("a sparse file has no size".to_owned()))?;
        self.expect_data(data);
        match (sparse.major, sparse.minor) {
            (0, _) if !sparse.pieces.is_empty() || size == 0 || data == 0 => self.map(sparse.pieces, size),
            (1, 0) => {
                let mut lines = sparse::Lines::default();
                for _ in 0..self.limits.extension / BLOCK as u64 {
                    if self.data < BLOCK as u64 {
                        return Err(self.bad("a sparse file is too short for its map".to_owned()));
                    }
                    let block = self
                        .block()?
                        .ok_or_else(|| self.bad("it ends within the map of a sparse file".to_owned()))?;
                    self.data -= BLOCK as u64;
                    if let Some(pieces) = lines.read(&block).map_err(|why| self.bad(why))? {
                        return self.map(pieces, size);
                    }
                }
                Err(self.too_many_pieces())
            }
            (major, minor) => Err(self.bad(format!(
                "a sparse file is of an unknown form, or has no map (version {major}.{minor})"
            ))),
        }
    }

    fn map(&self, pieces: Vec<sparse::Piece>, size: u64) -> Result<Map> {
        if size > self.limits.sparse {
            let most = self.limits.sparse;
            return Err(self.bad(format!("a sparse file of {size} bytes is beyond the limit of {most}")));
        }
        Map::new(pieces, size, self.data).map_err(|why| self.bad(why))
    }

    fn too_many_pieces(&self) -> Error {
        self.bad(format!("the map of a sparse file is beyond the limit of {} bytes", self.limits.extension))
    }

    /// Where in the input the data of the current entry begin. For a caller that reads them by itself, or not at all,
    /// and brings the input to what follows: so many bytes on.
    pub(super) fn leave_data(&mut self) -> (u64, u64) {
        let at = self.position;
        let skipped = std::mem::take(&mut self.data) + std::mem::take(&mut self.padding);
        self.position = at.saturating_add(skipped);
        (at, skipped)
    }

    /// What the bytes come from.
    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    fn size(&self, size: i128) -> Result<u64> {
        u64::try_from(size).map_err(|_| self.bad(format!("the size {size} makes no sense")))
    }

    fn bad(&self, why: String) -> Error {
        Error::new(Kind::Corrupt, format!("archive, at byte {}: {why}", self.position))
            .hint("fetch or make the archive again")
    }
}

fn in_entry(err: Error, name: &[u8]) -> Error {
    err.context(format!("entry {}", show(name)))
}

fn clamp(seconds: i128) -> i64 {
    i64::try_from(seconds).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX })
}

/// GNU ends a long name with a NUL.
fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    data.truncate(end);
    data
}
