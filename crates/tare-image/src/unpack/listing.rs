//! What is in an archive that can be read from anywhere, without reading its data: where each file begins.

use std::fs::File;
use std::io::BufReader;

use tare_sys::{Context, Error, Kind, Result};

use super::archive::Archive;
use super::entry::{EntryKind, show};
use super::{Content, Limits};

/// A member of an archive.
#[derive(Debug)]
pub(crate) enum Member {
    /// A file: where its data begin, and how many bytes they are.
    File { at: u64, size: u64 },
    /// A symbolic link, as it stands.
    Symlink(Vec<u8>),
    /// Another name for a member, given from the top.
    HardLink(Vec<u8>),
}

/// Hands out each member that is a file or a link, with its name: no `.`, no `..`, no `/` in front.
pub(crate) fn each(
    file: File,
    limits: &Limits,
    mut each: impl FnMut(&[u8], Member) -> Result<()>,
) -> Result<()> {
    let length = file.metadata().doing(|| "fstat(the archive)")?.len();
    let input = BufReader::with_capacity(64 << 10, file);
    let mut archive = Archive::new(input, limits, Content::Root);
    while let Some(entry) = archive.next()? {
        let (at, skipped) = archive.leave_data();
        let next = at.checked_add(skipped).filter(|next| *next <= length);
        if next.is_none() {
            let what = format!("the archive ends within {}: the rest is missing", show(entry.path.bytes()));
            return Err(Error::new(Kind::Corrupt, what).hint("fetch or make the archive again"));
        }
        // No more than a file's length, which fits.
        archive.input().seek_relative(skipped.cast_signed()).doing(|| "lseek(the archive)")?;
        let member = match entry.kind {
            EntryKind::File if entry.sparse.is_some() => {
                let what = format!("{} of the archive is a sparse file", show(entry.path.bytes()));
                return Err(
                    Error::new(Kind::Unsupported, what).hint("make the archive again without --sparse (-S)")
                );
            }
            EntryKind::File => Member::File { at, size: entry.size },
            EntryKind::Symlink(target) => Member::Symlink(target),
            EntryKind::HardLink(target) => Member::HardLink(target.bytes().to_owned()),
            _ => continue,
        };
        each(entry.path.bytes(), member)?;
    }
    Ok(())
}
