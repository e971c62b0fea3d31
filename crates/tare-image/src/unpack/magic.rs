//! What a stream of bytes is, told by its first bytes; names and file endings are not asked.

use tare_sys::{Error, Kind, Result};

use super::header::{self, BLOCK};

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip, any number of members.
    Gzip,
    /// Zstandard, any number of frames, windows up to 128 MiB.
    Zstd,
}

/// Tells from the first 512 bytes (or all there are) what an archive is; whatever cannot be read is an error
/// that names what it looks like, and what to do.
pub(crate) fn detect(head: &[u8]) -> Result<Compression> {
    match head {
        // Docker makes layers without a byte; whoever wants more says so.
        [] => Ok(Compression::None),
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        // A frame, or a skippable frame in front of one.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        _ => match <&[u8; BLOCK]>::try_from(head) {
            Ok(block) if header::is_end(block) || header::checksum_is_right(block) => Ok(Compression::None),
            _ => Err(not_a_tar(head)),
        },
    }
}

/// The window that the first frame of a zstd stream needs, in bytes (RFC 8878, section 3.1.1.1); `None` where it
/// cannot be told.
pub(super) fn zstd_window(head: &[u8]) -> Option<u64> {
    let mut head = head;
    // Skippable frames, which say how long they are.
    while let [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, rest @ ..] = head {
        let length = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
        head = rest.get(length..)?;
    }
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = head else { return None };
    let is_single = descriptor & 0x20 != 0;
    if !is_single {
        let window = *rest.first()?;
        let base = 1u64 << (10 + u32::from(window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The window is the whole content, whose size is said.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let field = rest.get(dictionary..dictionary + length)?;
    let size = field.iter().rev().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
    Some(if length == 2 { size + 256 } else { size })
}

/// The error for bytes that are no tar archive.
pub(super) fn not_a_tar(head: &[u8]) -> Error {
    let (what, hint) = match head {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            ("xz-compressed", "decompress it first: xz -dc FILE | tare image import - NAME")
        }
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => {
            ("bzip2-compressed", "decompress it first: bzip2 -dc FILE | tare image import - NAME")
        }
        [0x04, 0x22, 0x4d, 0x18, ..] => {
            ("lz4-compressed", "decompress it first: lz4 -dc FILE | tare image import - NAME")
        }
        [0x1f, 0x9d, ..] => {
            ("compressed by compress", "decompress it first: zcat FILE | tare image import - NAME")
        }
        [0x1f, 0x8b, ..] => {
            ("gzip-compressed twice", "decompress it once: gzip -dc FILE | tare image import - NAME")
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("compressed twice", "decompress it once, then import it"),
        [b'P', b'K', 3, 4, ..] => ("a zip file", "unpack it and make a tar archive of it"),
        [b'7', b'z', 0xbc, 0xaf, ..] => ("a 7z file", "unpack it and make a tar archive of it"),
        [b'0', b'7', b'0', b'7', b'0', b'1' | b'2' | b'7', ..] => {
            ("a cpio archive", "unpack it and make a tar archive of it")
        }
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => {
            ("an ar archive or a Debian package", "unpack it and make a tar archive of it")
        }
        [0x7f, b'E', b'L', b'F', ..] => {
            ("a program", "put it into a tar archive first: tar -cf app.tar PROGRAM")
        }
        [b'h', b's', b'q', b's', ..] => ("a squashfs file system", "unpack it and make a tar archive of it"),
        [b'Q', b'F', b'I', 0xfb, ..] => {
            ("a qcow2 disk image", "images are made from tar archives of a root filesystem")
        }
        _ if head.trim_ascii_start().starts_with(b"<") => {
            ("an HTML or XML page", "look into it: a download may have brought an error page")
        }
        _ if head.trim_ascii_start().starts_with(b"{") => {
            ("a JSON text", "look into it: a download may have brought an error message")
        }
        _ if is_text(head) => ("a text", "give a tar archive of a root filesystem"),
        _ if head.len() < BLOCK => ("too short for one, or cut off", "fetch or make the archive again"),
        _ => ("something else, or damaged", "give a tar archive of a root filesystem: plain, gzip or zstd"),
    };
    Error::new(Kind::Corrupt, format!("this is not a tar archive: it is {what}")).hint(hint)
}

/// Whether it is UTF-8 without control characters; the last character may be cut.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(err) if err.error_len().is_none() => {
            std::str::from_utf8(&head[..err.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty() && !valid.chars().any(|c| c.is_control() && !c.is_whitespace())
}
