//! Volumes: folders with a name that outlive the containers that use them. People keep their databases here.
//!
//! ```text
//! <state>/volumes/<name>/         flock(2)ed while a container is made on it, or it is removed
//!     volume.json                 labels, options, when it was made; written once
//!     _data/                      what is in it, with true ids on disk
//!     users/<container id>        a container that has it; stale where there is no such container
//!     filling/                    what the image has there, on its way to _data
//! <state>/volumes/.pending/new-…/ being made, flock(2)ed by who makes it
//! <state>/volumes/.pending/old-…/ being removed
//! ```
//!
//! A volume comes into being by the rename of a folder that is complete, and only if nobody has the name. It goes by a
//! rename as well, under its lock, once no container has it: a kill at any moment leaves a whole volume or none.
//! Nothing else here ever removes what is in `_data`.

mod device;
mod mounted;
mod place;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tare_sys::disk::Counter;
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Roots, explain_full, make_folder, read_json, write_json};
use crate::engine::{Engine, need_root};
use crate::events::{self, Event};
use crate::policy::volumes::{check_driver, check_name};
use crate::removal::names;

pub(crate) use device::size as parse_size;
pub(crate) use mounted::{is_mounted, mount_all, unmount_unused};
pub(crate) use place::{Claims, discard_anonymous, inherited, leave, resolve};

/// Docker's mark on volumes that nobody gave a name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// `volume.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct VolumeRecord {
    /// When it was made.
    pub created_at: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver: `type`, `o`, `device`, `size`.
    pub options: BTreeMap<String, String>,
}

/// A volume, as callers see it.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Where it is on the host.
    pub mountpoint: PathBuf,
    /// Ids of the containers that have it.
    pub users: Vec<String>,
}

impl Volume {
    /// Nobody gave it a name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }

    /// Docker's object.
    pub fn to_json(&self) -> serde_json::Value {
        let empty_is_null = |map: &BTreeMap<String, String>| {
            if map.is_empty() { serde_json::Value::Null } else { serde_json::json!(map) }
        };
        serde_json::json!({
            "CreatedAt": self.created,
            "Driver": "local",
            "Labels": empty_is_null(&self.labels),
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": empty_is_null(&self.options),
            "Scope": "local",
        })
    }
}

/// What pruning took away.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Names.
    pub names: Vec<String>,
    /// Bytes that are free again.
    pub bytes: u64,
}

/// One volume on disk.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub name: String,
    pub path: PathBuf,
}

/// The lock on a volume, held for as long as it is open.
#[derive(Debug)]
pub(crate) struct VolumeLock(#[expect(dead_code, reason = "held, not read")] OwnedFd);

impl Folder {
    pub fn of(roots: &Roots, name: &str) -> Folder {
        Folder { name: name.to_owned(), path: roots.state.join("volumes").join(name) }
    }

    pub fn data(&self) -> PathBuf {
        self.path.join("_data")
    }

    /// Reads `volume.json`; `None` where there is no such volume. One whose description the power took away while its
    /// data stayed is a volume without labels and options.
    pub fn record(&self) -> Result<Option<VolumeRecord>> {
        let file = self.path.join("volume.json");
        let empty = fs::metadata(&file).is_ok_and(|meta| meta.len() == 0);
        match if empty { Ok(None) } else { read_json(&file) } {
            Ok(None) if self.data().is_dir() => Ok(Some(VolumeRecord::default())),
            Err(err) => Err(Error::new(err.kind(), format!("volume {}: {err}", self.name))
                .hint(format!("its data is in {} all the same", self.data().display()))),
            found => found,
        }
    }

    /// Waits for the lock, unless the volume is not there (any more).
    pub fn lock(&self, exclusive: bool) -> Result<Option<VolumeLock>> {
        let what = || format!("lock the volume {}", self.name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            fd => fd.doing(what)?,
        };
        let operation = if exclusive { FlockOperation::LockExclusive } else { FlockOperation::LockShared };
        while let Err(errno) = rustix::fs::flock(&fd, operation) {
            if errno != Errno::INTR {
                return Err(errno).doing(what);
            }
        }
        // It may have been removed while we waited, and another made under its name.
        let held = rustix::fs::fstat(&fd).doing(what)?;
        match rustix::fs::stat(&self.path) {
            Ok(there) if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino) => {
                Ok(Some(VolumeLock(fd)))
            }
            Ok(_) => self.lock(exclusive),
            Err(_) => Ok(None),
        }
    }

    /// Ids of the containers that have it; marks of containers that are gone are taken away.
    pub fn users(&self, roots: &Roots) -> Vec<String> {
        let mut users = names(&self.path.join("users"));
        users.retain(|id| {
            let there = roots.folders(id).state.exists();
            if !there {
                let _ = fs::remove_file(self.path.join("users").join(id));
            }
            there
        });
        users.sort();
        users
    }

    /// Notes that this container has it.
    pub fn add_user(&self, id: &str) -> Result<()> {
        let path = self.path.join("users").join(id);
        File::create(&path).map(drop).doing(|| format!("create {}", path.display())).map_err(explain_full)
    }

    /// Takes that note back.
    pub fn remove_user(&self, id: &str) {
        let _ = fs::remove_file(self.path.join("users").join(id));
    }

    /// Makes the volume; one that is there already is as good. Says whether it is new.
    pub fn make(&self, roots: &Roots, record: VolumeRecord, durable: bool) -> Result<bool> {
        check_name(&self.name)?;
        device::check(&record.options)?;
        let what = || format!("create the volume {}", self.name);
        for _ in 0..10 {
            let new = pending(roots).join(format!("new-{}", random_name()?));
            make_folder(&new, 0o700).map_err(explain_full).doing(what)?;
            // A sweep may have found it before it was locked, and removed it: then once more.
            let Ok(Some(_lock)) = lock_pending(&new) else { continue };
            let result = self.make_at(&new, record.clone(), durable).map_err(explain_full);
            match result {
                Ok(true) => self.tell(roots, "create"),
                _ => delete(&new),
            }
            return result.doing(what);
        }
        Err(Error::new(Kind::Conflict, format!("{}: it is swept away as often as it is made", what())))
    }

    fn make_at(&self, new: &Path, mut record: VolumeRecord, durable: bool) -> Result<bool> {
        // Before there is a limit, which is inherited by all that is made after it: who uses a full volume is noted too.
        make_folder(&new.join("users"), 0o700)?;
        if let Some(size) = record.options.get("size").filter(|_| !record.options.contains_key("type")) {
            let size = device::size(size)?;
            tare_sys::quota::limit(new, size).map_err(explain_quota)?;
        }
        make_folder(&new.join("_data"), 0o755)?;
        record.created_at = Moment::now().to_string();
        write_json(new, "volume.json", &record)?;
        if durable {
            for path in [new.join("volume.json"), new.to_owned()] {
                File::open(&path)
                    .and_then(|file| file.sync_all())
                    .doing(|| format!("fsync {}", path.display()))?;
            }
        }
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, new, cwd, &self.path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Ok(false),
            made => made.doing(|| format!("rename to {}", self.path.display()))?,
        }
        if durable && let Some(volumes) = self.path.parent() {
            File::open(volumes)
                .and_then(|file| file.sync_all())
                .doing(|| format!("fsync {}", volumes.display()))?;
        }
        Ok(true)
    }

    /// Removes it, unless a container has it. `None`: it is not there.
    pub fn remove(&self, roots: &Roots) -> Result<Option<()>> {
        let Some(_lock) = self.lock(true)? else { return Ok(None) };
        let users = self.users(roots);
        if !users.is_empty() {
            let what = format!("remove {}: volume is in use - [{}]", self.name, users.join(", "));
            return Err(Error::new(Kind::Conflict, what)
                .hint("remove those containers first; `tare ps -a` lists them"));
        }
        mounted::unmount(&self.data())?;
        make_folder(&pending(roots), 0o700)?;
        let old = pending(roots).join(format!("old-{}", random_name()?));
        fs::rename(&self.path, &old).doing(|| format!("remove the volume {}", self.name))?;
        delete(&old);
        self.tell(roots, "destroy");
        Ok(Some(()))
    }

    fn tell(&self, roots: &Roots, action: &str) {
        events::emit(roots, &Event::new("volume", action, &self.name).with("driver", "local"));
    }

    fn shown(&self, roots: &Roots) -> Result<Option<Volume>> {
        let Some(record) = self.record()? else { return Ok(None) };
        Ok(Some(Volume {
            name: self.name.clone(),
            created: record.created_at,
            labels: record.labels,
            options: record.options,
            mountpoint: self.data(),
            users: self.users(roots),
        }))
    }
}

/// Deletes a volume that is out of the way already, and gives its quota back. The quota is known by the folder, so that goes
/// last.
fn delete(old: &Path) {
    let _ = fs::remove_dir_all(old.join("_data"));
    tare_sys::quota::forget(old);
    let _ = fs::remove_dir_all(old);
}

fn pending(roots: &Roots) -> PathBuf {
    roots.state.join("volumes/.pending")
}

/// Locks a folder that is being made; `None` while somebody else has it.
fn lock_pending(path: &Path) -> Result<Option<VolumeLock>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open({path:?})"))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) if path.exists() => Ok(Some(VolumeLock(fd))),
        Ok(()) | Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno).doing(|| format!("lock {}", path.display())),
    }
}

/// Finishes what a kill left half done: what was being made or removed.
pub(crate) fn sweep(roots: &Roots) {
    let pending = pending(roots);
    for name in names(&pending) {
        let path = pending.join(name);
        if let Ok(Some(_lock)) = lock_pending(&path) {
            delete(&path);
        }
    }
}

fn explain_quota(err: Error) -> Error {
    match err.kind() {
        Kind::Unsupported => err.context("size: this file system has no project quotas").hint(
            "a size needs ext4 mounted with prjquota (after tune2fs -O project,quota) or xfs mounted with pquota; or use --opt type=tmpfs --opt o=size=…",
        ),
        _ => err,
    }
}

/// 64 hexadecimal digits: the name of a volume that nobody names.
pub(crate) fn random_name() -> Result<String> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).doing(|| "getrandom()")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_such(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("get {name}: no such volume"))
        .hint("`tare volume ls` lists the volumes")
}

impl Engine {
    /// Makes a volume; without a name it gets one. One that is there with the same options is as good.
    ///
    /// Errors: [`Kind::Conflict`] where it has other options, [`Kind::Unsupported`] for another driver, and for a size
    /// on a file system without project quotas.
    pub fn create_volume(
        &self,
        name: &str,
        driver: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Volume> {
        need_root()?;
        check_driver(driver)?;
        let mut labels = labels;
        let name = match name {
            "" => {
                labels.insert(ANONYMOUS.to_owned(), String::new());
                random_name()?
            }
            name => name.to_owned(),
        };
        let folder = Folder::of(&self.roots, &name);
        let record = VolumeRecord { labels, options: options.clone(), ..VolumeRecord::default() };
        if !folder.make(&self.roots, record, true)?
            && folder.record()?.is_some_and(|there| !options.is_empty() && there.options != options)
        {
            return Err(Error::new(
                Kind::Conflict,
                format!("create {name}: conflict: volume name must be unique: it exists with other options"),
            )
            .hint(format!("look at it with `tare volume inspect {name}`, or choose another name")));
        }
        self.volume(&name)
    }

    /// The volumes, by name.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        crate::sweep::sweep(&self.roots)?;
        let mut list = Vec::new();
        for name in names(&self.roots.state.join("volumes")) {
            if check_name(&name).is_err() {
                continue;
            }
            // One whose description is damaged is listed without it: its data is there.
            let folder = Folder::of(&self.roots, &name);
            match folder.shown(&self.roots) {
                Ok(volume) => list.extend(volume),
                Err(_) => list.push(Volume {
                    users: folder.users(&self.roots),
                    mountpoint: folder.data(),
                    name,
                    created: String::new(),
                    labels: BTreeMap::new(),
                    options: BTreeMap::new(),
                }),
            }
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// One volume.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        match check_name(name) {
            Ok(()) => Folder::of(&self.roots, name).shown(&self.roots)?.ok_or_else(|| no_such(name)),
            Err(_) => Err(no_such(name)),
        }
    }

    /// Removes a volume, unless a container has it. With `force` one that is not there is no error.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        need_root()?;
        crate::sweep::sweep(&self.roots)?;
        let removed = match check_name(name) {
            Ok(()) => Folder::of(&self.roots, name).remove(&self.roots)?,
            Err(_) => None,
        };
        match removed {
            None if !force => Err(no_such(name)),
            _ => Ok(()),
        }
    }

    /// Removes the volumes that no container has and that `chosen` takes.
    pub fn prune_volumes(&self, chosen: &dyn Fn(&Volume) -> bool) -> Result<Pruned> {
        need_root()?;
        let mut pruned = Pruned::default();
        for volume in self.volumes()? {
            if !volume.users.is_empty() || !chosen(&volume) {
                continue;
            }
            let bytes = Counter::default().add(&volume.mountpoint)?;
            match Folder::of(&self.roots, &volume.name).remove(&self.roots) {
                Ok(Some(())) => {
                    pruned.bytes += bytes;
                    pruned.names.push(volume.name);
                }
                // Somebody else removed it, or just took it.
                Ok(None) => {}
                Err(err) if err.kind() == Kind::Conflict => {}
                Err(err) => return Err(err),
            }
        }
        Ok(pruned)
    }
}

/// Whether a folder has nothing in it; a fresh ext4 has `lost+found`, which is nothing.
fn is_empty(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(true),
        entries => {
            let mut entries = entries.doing(|| format!("list {}", folder.display()))?;
            Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found")))
        }
    }
}

/// Opens a folder of the host.
fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open({path:?})"))
}

/// Copies the content of one folder into another, by their fds.
fn copy(from: &OwnedFd, to: &Path) -> Result<()> {
    let to_fd = open_folder(to)?;
    tare_runtime::copy_up::copy_tree(from.as_fd(), to_fd.as_fd())
}
