//! One entry's header: ustar, with a PAX header before it for what ustar has no room for (POSIX.1-2017, pax).

/// Bytes in a block of a tar.
pub(super) const BLOCK: usize = 512;
/// The largest number in a field of seven octal digits, and of eleven.
const SEVEN: u64 = 0o777_7777;
const ELEVEN: u64 = 0o777_7777_7777;

/// An entry, without its data.
#[derive(Default)]
pub(super) struct Entry<'a> {
    /// A folder's ends in '/'.
    pub(super) path: &'a [u8],
    pub(super) kind: EntryKind<'a>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whole seconds, as Docker and Podman have them: fractions would cost each file a header of their own.
    pub(super) mtime: i64,
    pub(super) size: u64,
    /// Extended attributes.
    pub(super) attributes: &'a [(Vec<u8>, Vec<u8>)],
}

#[derive(Default)]
pub(super) enum EntryKind<'a> {
    #[default]
    File,
    Folder,
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

impl Entry<'_> {
    /// Its headers, whole blocks.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (letter, link, (major, minor)) = match self.kind {
            EntryKind::File => (b'0', &b""[..], (0, 0)),
            EntryKind::HardLink(target) => (b'1', target, (0, 0)),
            EntryKind::Symlink(target) => (b'2', target, (0, 0)),
            EntryKind::CharDevice(major, minor) => (b'3', &b""[..], (major, minor)),
            EntryKind::BlockDevice(major, minor) => (b'4', &b""[..], (major, minor)),
            EntryKind::Folder => (b'5', &b""[..], (0, 0)),
            EntryKind::Fifo => (b'6', &b""[..], (0, 0)),
        };
        let mut pax = Vec::new();
        let number = |pax: &mut Vec<u8>, key: &[u8], value: i128| {
            record(pax, key, value.to_string().as_bytes());
        };
        if self.path.len() > 100 {
            record(&mut pax, b"path", self.path);
        }
        if link.len() > 100 {
            record(&mut pax, b"linkpath", link);
        }
        for (key, id) in [(&b"uid"[..], self.uid), (&b"gid"[..], self.gid)] {
            if u64::from(id) > SEVEN {
                number(&mut pax, key, id.into());
            }
        }
        if self.size > ELEVEN {
            number(&mut pax, b"size", self.size.into());
        }
        let mtime = u64::try_from(self.mtime).ok().filter(|mtime| *mtime <= ELEVEN);
        if mtime.is_none() {
            number(&mut pax, b"mtime", self.mtime.into());
        }
        for (name, value) in self.attributes {
            record(&mut pax, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        let mut bytes = Vec::with_capacity(BLOCK);
        if !pax.is_empty() {
            let size = pax.len() as u64;
            bytes.extend_from_slice(&block(b"PaxHeader", b'x', b"", 0o644, [0; 2], size, 0, (0, 0)));
            bytes.extend_from_slice(&pax);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend_from_slice(&block(
            self.path,
            letter,
            link,
            self.mode,
            [self.uid, self.gid],
            self.size,
            mtime.unwrap_or(0),
            (major, minor),
        ));
        bytes
    }
}

/// One header block. What does not fit is cut: the PAX header has it whole.
#[allow(clippy::too_many_arguments, reason = "the fields of a header, each once")]
fn block(
    path: &[u8],
    letter: u8,
    link: &[u8],
    mode: u32,
    ids: [u32; 2],
    size: u64,
    mtime: u64,
    (major, minor): (u32, u32),
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, room: usize, text: &[u8]| {
        let length = text.len().min(room);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    let octal = |digits: usize, value: u64| format!("{value:0digits$o}").into_bytes();
    let seven = |value: u32| octal(7, if u64::from(value) > SEVEN { 0 } else { value.into() });
    put(0, 100, path);
    put(100, 7, &octal(7, mode.into()));
    put(108, 7, &seven(ids[0]));
    put(116, 7, &seven(ids[1]));
    put(124, 11, &octal(11, if size > ELEVEN { 0 } else { size }));
    put(136, 11, &octal(11, mtime));
    put(148, 8, b"        ");
    put(156, 1, &[letter]);
    put(157, 100, link);
    put(257, 8, b"ustar\x0000");
    put(329, 7, &seven(major));
    put(337, 7, &seven(minor));
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..154].copy_from_slice(&octal(6, sum));
    block[154] = 0;
    block
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(length.to_string().as_bytes());
    pax.push(b' ');
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        let mut pax = Vec::new();
        record(&mut pax, b"a", b"b");
        record(&mut pax, b"path", &[b'x'; 90]);
        // 3 + 4 + 1 + 90 + 1 would be 99 with two digits: 1+4+1+90+1 = 97, and two make 99.
        let second = [b"99 path=".as_slice(), &[b'x'; 90], b"\n"].concat();
        assert_eq!(pax, [b"6 a=b\n".as_slice(), &second].concat());
        let mut pax = Vec::new();
        record(&mut pax, b"path", &[b'x'; 91]);
        assert!(pax.starts_with(b"101 path="), "{}", String::from_utf8_lossy(&pax));
        assert_eq!(pax.len(), 101);
    }
}
