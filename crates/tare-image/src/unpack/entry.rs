//! An entry of an archive after every check that needs no file system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tare_sys::{Error, Kind, Result};

use super::Limits;
use super::sparse::Map;

/// What one entry asks for. Numbers are in range, paths are inside the tree by their letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: EntryPath,
    pub(super) kind: EntryKind,
    /// Bytes of data that follow; only files have any.
    pub(crate) size: u64,
    /// Where in the file they go, where it has holes.
    pub(super) sparse: Option<Map>,
    pub(super) attributes: Attributes,
}

/// What sort of thing to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    /// The target as it stands: it means something only inside the container.
    Symlink(Vec<u8>),
    /// The target's place in this tree.
    HardLink(EntryPath),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Owner, mode, time and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The lower twelve bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds; `None` leaves the time alone.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A path inside the tree: no `.`, no `..`, no empty part, no leading or trailing `/`. Empty is the tree's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Cleans and checks the name an archive gives. A leading `/` means the tree's root, as every tar has it;
    /// `..` is refused, because what it leaves out depends on links that the archive also makes.
    pub(super) fn parse(name: &[u8], limits: &Limits) -> Result<EntryPath> {
        let bad = |why: String| Err(Error::new(Kind::Corrupt, format!("entry {}: {why}", show(name))));
        if name.len() > limits.path {
            return bad(format!("its path is longer than {} bytes", limits.path));
        }
        if name.contains(&0) {
            return bad("its path holds a NUL".to_owned());
        }
        let mut clean = Vec::with_capacity(name.len());
        let mut depth = 0;
        for part in name.split(|b| *b == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return bad("its path has '..', which could lead out of the image".to_owned()),
                _ if part.len() > 255 => return bad("a part of its path is longer than 255 bytes".to_owned()),
                _ => {}
            }
            depth += 1;
            if depth > limits.depth {
                return bad(format!("it lies more than {} folders deep", limits.depth));
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(part);
        }
        Ok(EntryPath(clean))
    }

    /// As written by [`bytes`](EntryPath::bytes); for reading back what was checked once.
    pub(super) fn from_checked(bytes: Vec<u8>) -> EntryPath {
        EntryPath(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the root of the tree.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The folder it lies in (empty for the root) and its last part.
    pub(super) fn split(&self) -> (&[u8], &OsStr) {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (&self.0[..at], OsStr::from_bytes(&self.0[at + 1..])),
            None => (b"", OsStr::from_bytes(&self.0)),
        }
    }
}

/// Bytes as a path.
pub(crate) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// A name from an archive, for a message: quoted, escaped, and cut where it is absurdly long.
pub(crate) fn show(name: &[u8]) -> String {
    let (cut, more) = if name.len() > 300 { (&name[..300], "…") } else { (name, "") };
    format!("{:?}{more}", String::from_utf8_lossy(cut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths() {
        let limits = Limits::default();
        for (name, clean) in [
            (&b"a"[..], &b"a"[..]),
            (b"./a//b/./c/", b"a/b/c"),
            (b"/etc/passwd", b"etc/passwd"),
            (b"///", b""),
            (b"./", b""),
            (b"", b""),
            (b"a\\..\\b", b"a\\..\\b"),
            (b"...", b"..."),
            (b"\xff\n", b"\xff\n"),
        ] {
            assert_eq!(EntryPath::parse(name, &limits).unwrap().bytes(), clean, "{}", show(name));
        }
        for bad in
            [&b".."[..], b"../a", b"a/..", b"a/../b", b"/..", b"a\0b", &[b'a'; 256], &b"a/".repeat(1025)]
        {
            assert_eq!(EntryPath::parse(bad, &limits).unwrap_err().kind(), Kind::Corrupt, "{}", show(bad));
        }
        let long = EntryPath::parse(&vec![b'/'; 1 << 20], &limits).unwrap_err();
        assert!(long.to_string().len() < 500);
    }

    proptest! {
        #[test]
        fn no_path_has_a_step_up(name in "[./a]{0,30}") {
            if let Ok(path) = EntryPath::parse(name.as_bytes(), &Limits::default()) {
                let clean = path.bytes();
                prop_assert!(path.is_root() || clean.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
            }
        }
    }
}
