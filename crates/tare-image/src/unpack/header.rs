//! One 512-byte tar header, read strictly.
//!
//! The layout comes from the `tar` crate; the numbers are read here, because it cuts base-256 numbers to 64
//! bits and refuses blank fields, and two readers that disagree on a size see two different archives.

use std::borrow::Cow;

use tar::{EntryType, Header};

/// Bytes in a header, and the unit everything in a tar archive is rounded up to.
pub(super) const BLOCK: usize = 512;

/// What a header says, before the extension headers in front of it have their say.
pub(super) struct Raw {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i128,
    pub(super) uid: i128,
    pub(super) gid: i128,
    pub(super) size: i128,
    pub(super) mtime: i128,
    pub(super) major: i128,
    pub(super) minor: i128,
}

/// Whether the block is all zeros, which ends an archive.
pub(super) fn is_end(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|b| *b == 0)
}

/// Whether the checksum in the block is right, which is the only mark that every tar header bears.
pub(super) fn checksum_is_right(block: &[u8; BLOCK]) -> bool {
    let stored = number(&block[148..156]);
    let sum = |as_number: fn(u8) -> i128| -> i128 {
        block
            .iter()
            .enumerate()
            .map(|(at, b)| if (148..156).contains(&at) { 32 } else { as_number(*b) })
            .sum()
    };
    // Some old tars summed signed bytes.
    stored.is_some_and(|stored| stored == sum(i128::from) || stored == sum(|b| i128::from(b.cast_signed())))
}

/// Reads a header whose checksum is right; the error names the field that makes no sense.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Raw, String> {
    let header = Header::from_byte_slice(block);
    let fields = header.as_old();
    let need = |name: &str, field: &[u8]| number(field).ok_or_else(|| format!("its {name} is not a number"));
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (need("major", &ustar.dev_major)?, need("minor", &ustar.dev_minor)?),
        (_, Some(gnu)) => (need("major", &gnu.dev_major)?, need("minor", &gnu.dev_minor)?),
        _ => (0, 0),
    };
    Ok(Raw {
        kind: header.entry_type(),
        path: header.path_bytes().into_owned(),
        link: header.link_name_bytes().map(Cow::into_owned).unwrap_or_default(),
        mode: need("mode", &fields.mode)?,
        uid: need("uid", &fields.uid)?,
        gid: need("gid", &fields.gid)?,
        size: need("size", &fields.size)?,
        mtime: need("mtime", &fields.mtime)?,
        major,
        minor,
    })
}

/// Octal in ASCII with blanks around, or base-256 (GNU) with the top bit set; a blank field is 0.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement of the whole field but for the mark; at most 12 bytes, so it fits.
        let start = i128::from(first & 0x3f) - i128::from(first & 0x40);
        return Some(rest.iter().fold(start, |value, b| value * 256 + i128::from(*b)));
    }
    let text = field.split(|b| *b == 0).next().unwrap_or_default().trim_ascii();
    text.iter().try_fold(0, |value: i128, b| match b {
        b'0'..=b'7' => Some(value * 8 + i128::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777 ", Some(0o77777777777)),
            (b"0000648\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", Some(1 << 64)),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn any_block_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let block: [u8; BLOCK] = bytes.try_into().unwrap();
            let _ = checksum_is_right(&block);
            let _ = parse(&block);
        }
    }
}
