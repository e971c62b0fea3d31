//! `diff`: what a container has added, changed and deleted, by what overlayfs keeps in its writable folder.
//!
//! ```text
//! upper folder: a name ─▶ whiteout: D
//!                      ─▶ seen in the layers below: C, else A     (a folder on the way to a change is C, as in Docker)
//! ```

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::path::{Root, fd_name};
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::engine::{Engine, need_root};
use crate::root::open_folder;

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Docker's 0.
    Changed,
    /// Docker's 1.
    Added,
    /// Docker's 2.
    Deleted,
}

/// One change of a container's file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// To which path, from `/`.
    pub path: PathBuf,
}

/// Folders that a container may be deep; as many as an image may.
const DEEPEST: usize = 1024;

impl Engine {
    /// What a container has changed, sorted by path.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Unsupported`] for a container without layers.
    pub fn changes(&self, container: &str) -> Result<Vec<Change>> {
        need_root()?;
        let folders = self.find(container)?;
        let record = folders.record()?;
        let (lower, upper) = self.layers_of(&record, &folders, "diff")?;
        let what = || format!("diff {}", record.name);
        // The topmost first, as overlayfs asks them.
        let layers =
            lower.iter().rev().map(|path| open_folder(path).map(Root::new)).collect::<Result<Vec<_>>>();
        let mut walk = Walk { layers: layers.doing(what)?, changes: Vec::new() };
        let upper = Root::new(open_folder(&upper).doing(what)?);
        let all: Vec<usize> = (0..walk.layers.len()).collect();
        walk.folder(&upper, Path::new(""), &all).doing(what)?;
        walk.changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(walk.changes)
    }
}

struct Walk {
    layers: Vec<Root>,
    changes: Vec<Change>,
}

impl Walk {
    /// Looks at a folder of the writable layer; `seen` are the layers in which that folder is seen through it.
    fn folder(&mut self, upper: &Root, top: &Path, seen: &[usize]) -> Result<()> {
        let mut folders = vec![(top.to_owned(), seen.to_vec())];
        while let Some((path, seen)) = folders.pop() {
            if path.components().count() > DEEPEST {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("a folder lies more than {DEEPEST} folders deep"),
                ));
            }
            let Some(folder) = open(upper, &path)? else { continue };
            let seen = if is_opaque(&folder) { Vec::new() } else { seen };
            for name in names(&folder)? {
                let whole = path.join(&name);
                let stat = match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    stat => stat.doing(|| format!("stat {name:?} in {}", fd_name(&folder)))?,
                };
                let file = FileType::from_raw_mode(stat.st_mode);
                let (below, through) = self.below(&seen, &whole)?;
                let kind = match (file, below) {
                    (FileType::CharacterDevice, _) if stat.st_rdev == 0 => ChangeKind::Deleted,
                    (_, true) => ChangeKind::Changed,
                    (_, false) => ChangeKind::Added,
                };
                self.changes.push(Change { kind, path: Path::new("/").join(&whole) });
                if file == FileType::Directory {
                    folders.push((whole, through));
                }
            }
        }
        Ok(())
    }

    /// Whether a path is seen in the layers below, and in which of them it is a folder that is seen.
    fn below(&self, seen: &[usize], path: &Path) -> Result<(bool, Vec<usize>)> {
        let (mut found, mut through) = (false, Vec::new());
        for at in seen {
            let Some(layer) = self.layers.get(*at) else { continue };
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let there = match layer.open(path, flags, Mode::empty()) {
                Err(err) if matches!(err.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => continue,
                there => there?,
            };
            let stat = rustix::fs::fstat(&there).doing(|| format!("fstat({})", fd_name(&there)))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::CharacterDevice if stat.st_rdev == 0 => break,
                FileType::Directory => {
                    found = true;
                    through.push(*at);
                    if open(layer, path)?.is_some_and(|folder| is_opaque(&folder)) {
                        break;
                    }
                }
                // A file hides all below; a folder above it hides the file.
                _ => {
                    found = true;
                    break;
                }
            }
        }
        Ok((found, through))
    }
}

/// Opens a folder; `None` where it is gone.
fn open(root: &Root, path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match root.open(path, flags, Mode::empty()) {
        Err(err) if matches!(err.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => Ok(None),
        opened => opened.map(Some),
    }
}

fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(folder, rootless::opaque_attribute(), &mut value)
        .is_ok_and(|length| value[..length] == *b"y")
}

fn names(folder: &OwnedFd) -> Result<Vec<OsString>> {
    let list = || -> rustix::io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_bytes().to_owned();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    };
    list().doing(|| format!("getdents64({})", fd_name(folder)))
}

/// The path as people read it; what is no UTF-8 is replaced.
impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = match self.kind {
            ChangeKind::Changed => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        write!(f, "{letter} {}", self.path.display())
    }
}
