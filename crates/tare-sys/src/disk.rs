//! How much of a disk something takes, as du(1) counts it: whole blocks, a file with several names once.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context, Result};

/// Bytes in a block of st_blocks (stat(2)).
const BLOCK: u64 = 512;

/// Counts trees; a file that was counted once is not counted again, wherever it shows up.
#[derive(Debug, Default)]
pub struct Counter {
    seen: HashSet<(u64, u64)>,
}

/// A folder that is being looked through.
struct Level {
    inode: (u64, u64),
    /// Folders in it that are still to come.
    folders: Vec<OsString>,
}

impl Counter {
    /// Bytes on disk of `path` and all below it, on its own file system; 0 where there is nothing. Links are not
    /// followed. What vanishes meanwhile does not count. However deep the tree is, two fds are open.
    ///
    /// Errors: those of listing a folder.
    pub fn add(&mut self, path: &Path) -> Result<u64> {
        let what = || format!("look through {}", path.display());
        let stat = match rustix::fs::lstat(path) {
            Err(Errno::NOENT) => return Ok(0),
            stat => stat.doing(what)?,
        };
        let mut bytes = self.count(&stat);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(bytes);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(bytes),
            opened => opened.doing(what)?,
        };
        let mut levels = vec![self.list(&here, &stat, &mut bytes).doing(what)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.folders.pop() {
                let inner = match rustix::fs::openat(&here, &name, flags, Mode::empty()) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    opened => opened.doing(what)?,
                };
                let inner_stat = rustix::fs::fstat(&inner).doing(what)?;
                if inner_stat.st_dev != stat.st_dev {
                    continue;
                }
                levels.push(self.list(&inner, &inner_stat, &mut bytes).doing(what)?);
                here = inner;
                continue;
            }
            levels.pop();
            let Some(level) = levels.last() else { break };
            here = rustix::fs::openat(&here, "..", flags, Mode::empty()).doing(what)?;
            let back = rustix::fs::fstat(&here).doing(what)?;
            if (back.st_dev, back.st_ino) != level.inode {
                // Somebody moves folders about under us. What is above is gone from our sight.
                break;
            }
        }
        Ok(bytes)
    }

    fn list(&mut self, folder: &OwnedFd, stat: &Stat, bytes: &mut u64) -> rustix::io::Result<Level> {
        let mut folders = Vec::new();
        for entry in Dir::read_from(folder.as_fd())? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let inner = match rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                inner => inner?,
            };
            if inner.st_dev != stat.st_dev {
                continue;
            }
            *bytes += self.count(&inner);
            if FileType::from_raw_mode(inner.st_mode) == FileType::Directory {
                folders.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(Level { inode: (stat.st_dev, stat.st_ino), folders })
    }

    fn count(&mut self, stat: &Stat) -> u64 {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !is_folder && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return 0;
        }
        stat.st_blocks.unsigned_abs() * BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn counts_as_du_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/one"), vec![1; 10_000]).unwrap();
        fs::hard_link(root.join("a/one"), root.join("a/b/two")).unwrap();
        fs::write(root.join("a/b/c/three"), "3").unwrap();
        std::os::unix::fs::symlink("/", root.join("a/out")).unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(root).output().unwrap();
        let du: u64 =
            String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(Counter::default().add(root).unwrap(), du);
        let mut counter = Counter::default();
        let first = counter.add(&root.join("a/one")).unwrap();
        assert!(first >= 10_000);
        assert_eq!(counter.add(&root.join("a/b/two")).unwrap(), 0, "the same file");
        assert_eq!(counter.add(&root.join("nothing")).unwrap(), 0);
    }

    #[test]
    fn depth_is_no_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut here: OwnedFd = fs::File::open(folder.path()).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "deep", Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, "deep", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        assert!(Counter::default().add(folder.path()).unwrap() > 0);
    }
}
