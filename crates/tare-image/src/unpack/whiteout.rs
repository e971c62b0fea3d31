//! Whiteouts: how a layer says that something of the layers below is gone (image-spec, layer.md), and how overlayfs
//! wants to hear it (kernel: Documentation/filesystems/overlayfs.rst).
//!
//! | in the archive     | in the tree                                                                |
//! |--------------------|----------------------------------------------------------------------------|
//! | `.wh.NAME`         | a character device 0:0 called NAME, which anybody may make since Linux 5.8 |
//! | `.wh..wh..opq`     | `trusted.overlay.opaque=y` on its folder; without privilege `user.overlay.…` |
//! | … at the top       | the same; whoever stacks the layers leaves out those below ([`is_opaque`])  |
//! | `.wh..wh.` others  | nothing: what AUFS kept for itself, in images of long ago                   |

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};
use tare_sys::path::fd_name;
use tare_sys::{Context, Error, Kind, Result, rootless};

use super::entry::{EntryPath, show};

const PREFIX: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The attributes by which overlayfs knows an opaque folder: root's, and everybody's (`userxattr`).
pub(crate) const OPAQUE_ATTRIBUTES: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// What an entry says by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// In this folder, this name is gone.
    Gone(&'a [u8], &'a OsStr),
    /// In this folder, all that the layers below have is gone.
    Opaque(&'a [u8]),
    /// Nothing that anybody needs.
    Ignored,
}

impl Marker<'_> {
    /// Reads a path; `None` for an entry like any other.
    pub(super) fn of(path: &EntryPath) -> Result<Option<Marker<'_>>> {
        let (folder, name) = path.split();
        let name = name.as_bytes();
        if let Some(part) = folder.split(|b| *b == b'/').find(|part| part.starts_with(PREFIX)) {
            if part.starts_with(AUFS) && part != OPAQUE {
                return Ok(Some(Marker::Ignored));
            }
            return Err(wrong(path, "it lies in a folder whose name means that something is gone"));
        }
        let Some(gone) = name.strip_prefix(PREFIX) else { return Ok(None) };
        match gone {
            _ if name == OPAQUE => Ok(Some(Marker::Opaque(folder))),
            _ if name.starts_with(AUFS) => Ok(Some(Marker::Ignored)),
            b"" | b"." | b".." => Err(wrong(path, "it names nothing that could be gone")),
            gone => Ok(Some(Marker::Gone(folder, OsStr::from_bytes(gone)))),
        }
    }
}

fn wrong(path: &EntryPath, why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("whiteout {}: {why}", show(path.bytes())))
}

/// Makes one.
pub(super) fn make(folder: &OwnedFd, name: &OsStr) -> Result<()> {
    rustix::fs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0)
        .doing(|| format!("mknodat({}, {name:?}, 0:0)", fd_name(folder)))
}

/// Whether there is one of that name.
pub(super) fn is_one(folder: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
    })
}

/// Whether a folder hides what the layers below have in it.
pub(crate) fn is_opaque(folder: &Path) -> bool {
    OPAQUE_ATTRIBUTES.iter().any(|attribute| {
        let mut value = [0; 1];
        rustix::fs::lgetxattr(folder, *attribute, &mut value).is_ok_and(|length| value[..length] == *b"y")
    })
}

/// Hides what the layers below have in a folder.
pub(super) fn make_opaque(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    let attribute = rootless::opaque_attribute();
    // The link in /proc leads to the folder we hold, and the last part, which is a folder, is not followed.
    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    rustix::fs::lsetxattr(&path, attribute, b"y", XattrFlags::empty())
        .doing(|| format!("lsetxattr({}/{name:?}, {attribute})", fd_name(parent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::Limits;

    #[test]
    fn names_and_what_they_mean() {
        let path = |name: &str| EntryPath::parse(name.as_bytes(), &Limits::default()).unwrap();
        let marker = |name: &str| {
            Marker::of(&path(name)).map(|marker| match marker {
                None => "plain".to_owned(),
                Some(Marker::Gone(folder, name)) => {
                    format!("gone {}/{}", String::from_utf8_lossy(folder), name.to_string_lossy())
                }
                Some(Marker::Opaque(folder)) => format!("opaque {}", String::from_utf8_lossy(folder)),
                Some(Marker::Ignored) => "ignored".to_owned(),
            })
        };
        for (name, means) in [
            ("a/b", "plain"),
            ("a/.who", "plain"),
            ("a/x.wh.b", "plain"),
            ("a/.wh.b", "gone a/b"),
            (".wh.b", "gone /b"),
            (".wh....", "gone /..."),
            ("a/.wh..wh..opq", "opaque a"),
            (".wh..wh..opq", "opaque "),
            (".wh..wh.aufs", "ignored"),
            (".wh..wh.plnk/1.2", "ignored"),
        ] {
            assert_eq!(marker(name).unwrap(), means, "{name}");
        }
        for bad in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b", ".wh..wh..opq/x"] {
            assert_eq!(marker(bad).unwrap_err().kind(), Kind::Corrupt, "{bad}");
        }
    }
}
