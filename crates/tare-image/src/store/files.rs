//! Small files and folders that must survive a power cut.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::IFlags;

use tare_sys::{Context, Error, Kind, Result};

use crate::digest::hex;

/// A name that nobody else has: 16 hex digits.
pub(super) fn random_name() -> Result<String> {
    let mut bytes = [0u8; 8];
    let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .doing(|| "getrandom(8)")?;
    match n {
        8 => Ok(hex(&bytes)),
        // The kernel gives up to 256 bytes whole (getrandom(2)).
        _ => Err(Error::new(Kind::Kernel, "getrandom(8) gave fewer bytes")),
    }
}

/// Makes a folder with exactly this mode, and those above it; one that is there stays as it is.
pub(super) fn make_folder(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(err) if err.kind() == ErrorKind::NotFound => {
            DirBuilder::new().mode(mode).recursive(true).create(path)
        }
        made => made,
    }
    // Whatever the umask took off, and without the set-gid bit that a folder above may have handed down.
    .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
    .doing(|| format!("mkdir({path:?})"))
}

/// Has the file system put folders that are made in this one far from each other, as it does with those of the disk's root
/// (FS_TOPDIR_FL, ext4's Orlov allocator). Without a journal, ext4 keeps inodes that were freed in the last minutes apart,
/// and looks at each of them whenever a file is made near: where an image was removed just now, the next one took ten
/// times as long. What cannot be told so does without.
pub(super) fn spread(folder: impl AsFd) {
    const TOPDIR: IFlags = IFlags::from_bits_retain(0x0002_0000);
    if let Ok(flags) = rustix::fs::ioctl_getflags(&folder)
        && !flags.contains(TOPDIR)
    {
        let _ = rustix::fs::ioctl_setflags(&folder, flags | TOPDIR);
    }
}

/// Writes a new file.
pub(super) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<File> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .doing(|| format!("open({path:?}, O_CREAT|O_EXCL)"))?;
    file.write_all(bytes).doing(|| format!("write({path:?})"))?;
    Ok(file)
}

/// Writes a file whole or not at all, in place of one that may be there; it is on the disk on return.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = folder.join(format!(".{name}.{}.new", random_name()?));
    let written = create(&temporary, bytes, mode)
        .and_then(|file| file.sync_all().doing(|| format!("fsync({temporary:?})")))
        .and_then(|()| {
            let to = folder.join(name);
            std::fs::rename(&temporary, &to).doing(|| format!("rename({temporary:?}, {to:?})"))
        })
        .and_then(|()| sync_folder(folder));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Removes what a [`replace`] of these names left that did not come to its end; of all names, where `name` is empty. The
/// caller holds the lock under which they are replaced.
pub(super) fn remove_unfinished(folder: &Path, name: &str) -> Result<()> {
    for file in names_in(folder)? {
        if file.starts_with(&format!(".{name}")) && file.ends_with(".new") {
            remove(&folder.join(file))?;
        }
    }
    Ok(())
}

/// Brings the names in a folder to the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).doing(|| format!("fsync({folder:?})"))
}

/// Removes a file; `false` where there was none.
pub(super) fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err).doing(|| format!("unlink({path:?})")),
    }
}

/// The names in a folder, sorted; none where there is no such folder. Names that are not UTF-8 are not ours.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(|| format!("opendir({folder:?})"))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.doing(|| format!("readdir({folder:?})"))?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
