//! Unpacking an archive made by a stranger into a folder.
//!
//! What holds, whatever the archive says (tests: `tests/image/hostile.rs`):
//!
//! - nothing outside the folder is made, changed, linked to or read: folders are opened by
//!   `openat2(RESOLVE_IN_ROOT)`, so links lead where the container would see them leading, and the last part
//!   of a path is never followed;
//! - owner, mode, times and extended attributes go to the thing just made, by its fd or without following;
//! - nothing that means something to overlayfs is made: no character device 0:0, no `trusted.overlay.*`;
//! - of `security.*`, only file capabilities are taken: labels of the host are not the image's to set;
//! - names, numbers, entries, extension headers and the rate of inflation are limited ([`Limits`]), and memory
//!   does not grow with the archive (2 MiB of buffers, and 4 MiB of folder attributes before they are spilled).
//!
//! As root, owners, devices and set-id bits are kept as they are. Without privilege, owners are not set and
//! devices are left out and counted ([`Unpacked::devices_left_out`]).
//!
//! In a layer, names that begin with `.wh.` say what of the layers below is gone (`whiteout`); in a root filesystem,
//! which has no layers below, they are plain files.
//!
//! ```text
//! input (inflate, rate) ─ pipe ─▶ hash ─ pipe ─▶ archive (headers, pax) ─▶ Entry ─▶ tree (folders, files)
//!                                                                             └─▶ attributes of folders, at the end
//! ```

pub(crate) mod archive;
pub(crate) mod attributes;
pub(crate) mod entry;
mod header;
pub(crate) mod input;
pub(crate) mod listing;
pub(crate) mod magic;
mod pax;
pub(crate) mod pipe;
pub(crate) mod removal;
mod sparse;
mod tree;
pub(crate) mod whiteout;

use std::fs::File;
use std::io::BufRead;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use tare_sys::{Context, Result};

use crate::recipe::Recording;

pub(crate) use entry::show;
pub use magic::Compression;

/// What an archive may ask for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries in one archive.
    pub entries: u64,
    /// Bytes in a path or a link's target.
    pub path: usize,
    /// Folders a path leads through.
    pub depth: usize,
    /// Bytes in one PAX header or GNU long name; they are read into memory.
    pub extension: u64,
    /// Bytes that one compressed byte may become, on average from the start; counted after `ratio_after`.
    pub ratio: u64,
    /// Bytes of output below which the ratio is not looked at.
    pub ratio_after: u64,
    /// Base-two logarithm of the largest zstd window; it is memory.
    pub zstd_window_log: u32,
    /// Bytes of a sparse file, holes included: they cost nothing, but programs stumble over a file that is larger than
    /// any disk.
    pub sparse: u64,
}

impl Default for Limits {
    /// 10 million entries, paths of 4,096 bytes and 1,024 folders, extension headers of 1 MiB (Go's limit, so
    /// Docker's), 64 MiB of zstd window, sparse files of 2 TiB (which holds a lastlog with the last of all users), and 200:1 after 100 MiB: gzip reaches 1,030:1 at most, on zeros, and
    /// a root filesystem stays below 10:1, so 200 refuses 10 GiB of zeros after 100 MiB and no real image.
    fn default() -> Limits {
        Limits {
            entries: 10_000_000,
            path: 4096,
            depth: 1024,
            extension: 1 << 20,
            ratio: 200,
            ratio_after: 100 << 20,
            zstd_window_log: 26,
            sparse: 2 << 40,
        }
    }
}

/// What came out of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries read.
    pub entries: u64,
    /// Bytes of data in files, hard links counted once: what the image weighs.
    pub bytes: u64,
    /// Device nodes that were not made for want of privilege.
    pub devices_left_out: u64,
    /// Extended attributes that were dropped: overlayfs' own, host labels, or not supported by the file system.
    pub xattrs_dropped: u64,
}

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A whole root filesystem.
    Root,
    /// A change to the layers below.
    Layer,
}

/// Unpacks the tar archive in `input` (not compressed) into the empty folder `into`, and reads `input` to its
/// end. `scratch` is a folder for a temporary file that never has a name for long. `entries` is counted up as
/// it goes, for whoever shows progress.
///
/// On an error the folder holds what came before it; the caller removes it.
pub(crate) fn unpack(
    input: impl BufRead,
    into: OwnedFd,
    scratch: BorrowedFd<'_>,
    content: Content,
    limits: &Limits,
    entries: &AtomicU64,
) -> Result<Unpacked> {
    fill(
        tree::Tree::new(into, scratch, content, None)?,
        archive::Archive::new(input, limits, content),
        entries,
    )
}

/// The same for a layer, and writes its recipe. `false`: the recipe is good for nothing, for the layer's archive has more
/// than the tree has.
pub(crate) fn unpack_with_recipe(
    input: impl BufRead,
    into: OwnedFd,
    scratch: BorrowedFd<'_>,
    recipe: File,
    limits: &Limits,
    entries: &AtomicU64,
) -> Result<(Unpacked, bool)> {
    let recording = Recording::new(recipe)?;
    let tree = tree::Tree::new(into, scratch, Content::Layer, Some(recording.clone()))?;
    let unpacked = fill(tree, archive::Archive::new(recording.of(input), limits, Content::Layer), entries)?;
    Ok((unpacked, recording.end()?))
}

fn fill(
    mut tree: tree::Tree,
    mut archive: archive::Archive<'_, impl BufRead>,
    entries: &AtomicU64,
) -> Result<Unpacked> {
    let mut unpacked = Unpacked::default();
    while let Some(entry) = archive.next()? {
        unpacked.entries += 1;
        entries.store(unpacked.entries, Ordering::Relaxed);
        tree.place(&entry, &mut archive, &mut unpacked)
            .doing(|| format!("unpack {}", entry::show(entry.path.bytes())))?;
    }
    tree.finish(&mut unpacked)?;
    archive.drain()?;
    Ok(unpacked)
}
