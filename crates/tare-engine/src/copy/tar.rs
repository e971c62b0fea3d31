//! Items as a tar archive, and an archive as items.

use std::ffi::OsStr;
use std::io::{BufReader, Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{Archive, Builder, EntryType, Header};
use tare_sys::{Context, Error, Kind, Result};

use super::Copied;
use super::item::{Item, Sort, travels};
use super::read::Put;

/// Prefix of extended attributes in extension headers, as every tar writes them.
const ATTRIBUTE: &str = "SCHILY.xattr.";

/// Writes an archive.
pub struct TarWriter<'a> {
    builder: Builder<&'a mut dyn Write>,
    name: Vec<u8>,
    copied: Copied,
}

impl<'a> TarWriter<'a> {
    /// `name`: what the top is called in it.
    pub fn new(to: &'a mut dyn Write, name: Vec<u8>) -> TarWriter<'a> {
        TarWriter { builder: Builder::new(to), name, copied: Copied::default() }
    }

    fn path(&self, path: &[u8]) -> Vec<u8> {
        if path.is_empty() { self.name.clone() } else { [&*self.name, b"/", path].concat() }
    }

    pub fn put(&mut self, item: &Item, data: &mut dyn Read) -> Result<()> {
        let mut path = self.path(&item.path);
        let what = format!("write {} to the archive", String::from_utf8_lossy(&path));
        let mut header = Header::new_gnu();
        header.set_mode(item.mode);
        header.set_uid(item.uid.into());
        header.set_gid(item.gid.into());
        header.set_mtime(u64::try_from(item.mtime.0).unwrap_or(0));
        header.set_size(0);
        let pairs: Vec<(String, &[u8])> = item
            .attributes
            .iter()
            .filter_map(|(name, value)| {
                Some((format!("{ATTRIBUTE}{}", std::str::from_utf8(name).ok()?), &**value))
            })
            .collect();
        if !pairs.is_empty() {
            let pairs = pairs.iter().map(|(key, value)| (key.as_str(), *value));
            self.builder.append_pax_extensions(pairs).doing(|| what.clone())?;
        }
        let link = |kind, target: Vec<u8>, header: &mut Header| {
            header.set_entry_type(kind);
            target
        };
        let target = match &item.sort {
            Sort::Folder => {
                path.push(b'/');
                header.set_entry_type(EntryType::Directory);
                None
            }
            Sort::File(size) => {
                self.copied.bytes += size;
                header.set_size(*size);
                header.set_entry_type(EntryType::Regular);
                None
            }
            Sort::Link(target) => Some(link(EntryType::Symlink, target.clone(), &mut header)),
            Sort::Again(first) => Some(link(EntryType::Link, self.path(first), &mut header)),
            Sort::Pipe => {
                header.set_entry_type(EntryType::Fifo);
                None
            }
            Sort::Other => {
                self.copied.left_out += 1;
                return Ok(());
            }
        };
        let path = Path::new(OsStr::from_bytes(&path));
        match target {
            Some(target) => {
                self.builder.append_link(&mut header, path, Path::new(OsStr::from_bytes(&target)))
            }
            None => self.builder.append_data(&mut header, path, data),
        }
        .doing(|| what)
    }

    pub fn finish(mut self) -> Result<Copied> {
        self.builder.finish().doing(|| "write the end of the archive")?;
        self.builder.get_mut().flush().doing(|| "write the archive")?;
        Ok(self.copied)
    }
}

/// Reads an archive, plain or compressed; it may be a stranger's, so its paths are held to what lies below the top.
pub fn read(from: &mut dyn Read, put: &mut Put<'_>) -> Result<()> {
    // A pipe may give it in pieces.
    let mut head = Vec::new();
    (&mut *from).take(4).read_to_end(&mut head).doing(|| "read the archive")?;
    let from = BufReader::with_capacity(128 << 10, Cursor::new(head.clone()).chain(from));
    let stream: Box<dyn Read + '_> = match &head[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(from).doing(|| "read the archive")?)
        }
        [0xfd, b'7', b'z', b'X'] | [b'B', b'Z', b'h', ..] => {
            return Err(Error::new(Kind::Unsupported, "the archive is compressed by xz or bzip2")
                .hint("decompress it first: xz -dc FILE | tare cp - CONTAINER:/folder"));
        }
        _ => Box::new(from),
    };
    let mut archive = Archive::new(stream);
    for entry in archive.entries().doing(|| "read the archive")? {
        let mut entry = entry.doing(|| "read the archive")?;
        let path = clean(&entry.path_bytes())?;
        let header = entry.header().clone();
        let number = |value: std::io::Result<u64>, what: &str| {
            let value = value.doing(|| format!("read the archive: {what}"))?;
            u32::try_from(value)
                .map_err(|_| Error::new(Kind::Corrupt, format!("read the archive: {what} {value}")))
        };
        let target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        let sort = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Sort::File(entry.size()),
            EntryType::Directory => Sort::Folder,
            EntryType::Symlink => Sort::Link(target),
            EntryType::Link => Sort::Again(clean(&target)?),
            EntryType::Fifo => Sort::Pipe,
            EntryType::Char | EntryType::Block => Sort::Other,
            _ => continue,
        };
        let mut attributes = Vec::new();
        if let Some(pairs) = entry.pax_extensions().doing(|| "read the archive")? {
            for pair in pairs.flatten() {
                if let Some(name) = pair.key_bytes().strip_prefix(ATTRIBUTE.as_bytes())
                    && travels(name)
                {
                    attributes.push((name.to_vec(), pair.value_bytes().to_vec()));
                }
            }
        }
        let item = Item {
            path,
            sort,
            mode: header.mode().doing(|| "read the archive: mode")? & 0o7777,
            uid: number(header.uid(), "owner")?,
            gid: number(header.gid(), "group")?,
            mtime: (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
            attributes,
        };
        put(&item, &mut entry)?;
    }
    Ok(())
}

/// A path below the top: without `.`, without a leading slash, and never with `..`.
fn clean(path: &[u8]) -> Result<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut clean = Vec::new();
    for part in parts {
        if part == b".." {
            let what = format!(
                "entry {:?} of the archive: '..' could lead out of the folder",
                String::from_utf8_lossy(path)
            );
            return Err(Error::new(Kind::Corrupt, what));
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let item = |path: &[u8], sort: Sort| Item {
            path: path.to_vec(),
            sort,
            mode: 0o644,
            uid: 5,
            gid: 6,
            mtime: (7, 0),
            attributes: Vec::new(),
        };
        let long = [b"x".repeat(200), b"/".to_vec(), b"y".repeat(150)].concat();
        let items = [
            item(b"", Sort::Folder),
            item(b"f", Sort::File(5)),
            item(b"l", Sort::Link(b"../../etc".to_vec())),
            item(b"again", Sort::Again(b"f".to_vec())),
            item(&long, Sort::File(0)),
            item(b"p", Sort::Pipe),
        ];
        let mut bytes = Vec::new();
        let mut writer = TarWriter::new(&mut bytes, b"top".to_vec());
        for item in &items {
            let mut data: &[u8] = if item.path == b"f" { b"hello" } else { b"" };
            writer.put(item, &mut data).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), Copied { bytes: 5, left_out: 0 });
        let mut found = Vec::new();
        read(&mut &bytes[..], &mut |item, data| {
            let mut text = String::new();
            data.read_to_string(&mut text).unwrap();
            if !text.is_empty() {
                assert_eq!(text, "hello");
            }
            found.push(item.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(found.len(), items.len());
        for (found, item) in found.iter().zip(&items) {
            let expected =
                if item.path.is_empty() { b"top".to_vec() } else { [b"top/", &*item.path].concat() };
            assert_eq!(found.path, expected);
            assert_eq!((found.uid, found.gid, found.mtime.0), (5, 6, 7));
        }
        assert_eq!(found[2].sort, items[2].sort);
        assert_eq!(found[3].sort, Sort::Again(b"top/f".to_vec()));
    }

    #[test]
    fn hostile_archives_are_errors() {
        for path in [&b"../x"[..], b"a/../../x", b".."] {
            assert_eq!(clean(path).unwrap_err().kind(), Kind::Corrupt);
        }
        assert_eq!(clean(b"/./a//b/").unwrap(), b"a/b");
        for bytes in [&b"not a tar at all, but long enough to be looked at as one"[..], &[0xff; 2048]] {
            assert!(read(&mut &bytes[..], &mut |_, _| Ok(())).is_err());
        }
        assert!(read(&mut &b"\xfd7zXZ\0"[..], &mut |_, _| Ok(())).is_err());
    }

    /// Gives one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let length = to.len().min(1);
            self.0.read(&mut to[..length])
        }
    }

    #[test]
    fn an_archive_that_comes_in_pieces_is_known_for_what_it_is() {
        let mut plain = Vec::new();
        let mut writer = TarWriter::new(&mut plain, b"top".to_vec());
        let item = Item {
            path: Vec::new(),
            sort: Sort::File(5),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            attributes: Vec::new(),
        };
        writer.put(&item, &mut &b"hello"[..]).unwrap();
        writer.finish().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::stream::encode_all(&plain[..], 1).unwrap();
        for archive in [&plain, &gzip.finish().unwrap(), &zstd] {
            let mut found = 0;
            read(&mut Slow(archive), &mut |item, _| {
                assert_eq!(item.path, b"top");
                found += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(found, 1);
        }
    }
}
