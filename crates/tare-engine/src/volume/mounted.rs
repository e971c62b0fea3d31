//! Volumes that are file systems of their own (`--opt type=nfs …`): mounted on `_data` while a container runs on them.

use std::path::Path;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use tare_runtime::mounts::Options;
use tare_sys::{Context, Error, Kind, Result};

use super::device::{self, Device};
use super::{Folder, open_folder};
use crate::container::{Record, Roots};
use crate::policy::volumes::MountPoint;
use crate::request::HostConfig;

/// Makes ready what a container mounts: the folders of the host that are missing, and the volumes that are file systems
/// and not mounted yet. Of volumes that are folders of ours only the descriptions are read.
pub(crate) fn mount_all(roots: &Roots, record: &Record) -> Result<()> {
    make_sources(&record.request.host_config)?;
    for point in record.mounts.iter().filter(|point| point.kind == "volume") {
        let folder = Folder::of(roots, &point.name);
        let Some(record) = folder.record()? else {
            return Err(Error::new(
                Kind::NotFound,
                format!("mount {}: no such volume: its folder was removed", point.name),
            )
            .hint(format!("make it again, empty: tare volume create {}", point.name)));
        };
        if matches!(device::of(&record.options), Device::FileSystem(..)) {
            let _lock = folder.lock(true)?;
            mount_one(&folder)?;
        }
    }
    Ok(())
}

/// Docker's rule: what `--volume` names and is not there is made, as a folder; `--mount` makes it if told to.
fn make_sources(host: &HostConfig) -> Result<()> {
    let binds =
        host.binds.iter().filter_map(|text| text.split(':').next()).filter(|path| path.starts_with('/'));
    let mounts =
        host.mounts.iter().filter(|mount| mount.create_source && matches!(mount.kind.as_str(), "" | "bind"));
    for path in binds.chain(mounts.map(|mount| mount.source.as_str())) {
        if rustix::fs::access(path, rustix::fs::Access::EXISTS) == Err(Errno::NOENT) {
            std::fs::create_dir_all(path).doing(|| format!("mkdir {path}"))?;
        }
    }
    Ok(())
}

/// Mounts one, under the lock of the caller.
pub(super) fn mount_one(folder: &Folder) -> Result<()> {
    if let Some(record) = folder.record()?
        && let Device::FileSystem(kind, device, words) = device::of(&record.options)
        && !is_mounted(&folder.data())?
    {
        mount(folder, &kind, &device, &words)?;
    }
    Ok(())
}

fn mount(folder: &Folder, kind: &str, device: &str, words: &[String]) -> Result<()> {
    let what = || format!("mount the volume {} ({kind} {device})", folder.name);
    let mount = device::mount(kind, device, words)?;
    let built = Options::of(&mount)?.build_new(kind, &mount, None).doing(what)?;
    built.attach(open_folder(&folder.data())?).doing(what)
}

/// Unmounts those that no other container runs on. What goes wrong is tried again when the next one ends.
pub(crate) fn unmount_unused(roots: &Roots, id: &str, points: &[MountPoint]) {
    for point in points.iter().filter(|point| point.kind == "volume") {
        let folder = Folder::of(roots, &point.name);
        let Ok(Some(record)) = folder.record() else { continue };
        if matches!(device::of(&record.options), Device::FileSystem(..))
            && let Ok(Some(_lock)) = folder.lock(true)
        {
            unmount_one(roots, id, &folder);
        }
    }
}

/// Unmounts one unless another container runs on it, under the lock of the caller.
pub(super) fn unmount_one(roots: &Roots, id: &str, folder: &Folder) {
    if !folder.users(roots).iter().any(|user| user != id && is_running(roots, user)) {
        let _ = unmount(&folder.data());
    }
}

/// Runs, or somebody is about to start it.
fn is_running(roots: &Roots, id: &str) -> bool {
    let folders = roots.folders(id);
    matches!(folders.lock(), Ok(None))
        || folders.status().ok().flatten().is_some_and(|status| status.process().is_some())
}

/// Whether something is mounted there.
pub(crate) fn is_mounted(path: &Path) -> Result<bool> {
    let stat = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .doing(|| format!("statx({path:?})"))?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away what is mounted there, if anything.
pub(super) fn unmount(path: &Path) -> Result<()> {
    loop {
        match rustix::mount::unmount(path, rustix::mount::UnmountFlags::NOFOLLOW) {
            Ok(()) => continue,
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).doing(|| format!("umount2({path:?})")),
        }
    }
}
