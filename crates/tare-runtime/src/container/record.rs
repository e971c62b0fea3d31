//! A container's folder.
//!
//! ```text
//! ROOT/                 0711, made when it is missing (--root)
//! └── ID/               0711; flock on it: one verb that changes the container at a time
//!     ├── state.json    what every verb needs to know (`Record`)
//!     ├── config.json   the specification it was created with
//!     ├── cgroup.json   where its cgroup is about to be made; for a `create` that dies before it writes state.json
//!     ├── filter        its compiled system call filter, if any (`seccomp/cache.rs`)
//!     ├── start.sock    `create`'s process waits here for `start`; gone once the program runs
//!     └── notify/       the socket for sd_notify(3), if the caller has one
//! ```
//!
//! `state.json` is replaced by rename, so a reader sees the old one or the new one.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use tare_cgroup::Location;
use tare_sys::process;
use tare_sys::{Context, Error, Kind, Result};

use crate::seccomp::Compiled;

/// What every verb needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The specification's version.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Its first process; 0 while there is none yet.
    pub pid: i32,
    /// When that began, in clock ticks after boot: a number alone may be another's by now.
    pub began: u64,
    /// The boot that this was in.
    pub boot: String,
    /// Its bundle's folder.
    pub bundle: PathBuf,
    /// Its root file system.
    pub rootfs: PathBuf,
    /// When it was created (RFC 3339).
    pub created: String,
    /// Who created it.
    pub owner: u32,
    /// Its annotations.
    pub annotations: HashMap<String, String>,
    /// Where its cgroup is.
    pub cgroup: Location,
    /// Its processes die with its first.
    pub has_pid_namespace: bool,
    /// The resctrl group that was made for it.
    pub rdt: Option<PathBuf>,
}

impl Record {
    /// Its first process, if that still lives.
    pub fn pidfd(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid)?;
        // Opened first and compared then: the number cannot be given to another while we hold it.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        (process::began(self.pid) == Some(self.began) && self.boot == process::boot_id()).then_some(pidfd)
    }
}

/// One container's folder.
#[derive(Debug)]
pub struct Folder {
    id: String,
    path: PathBuf,
}

/// Holding a folder's lock.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] OwnedFd);

/// An id becomes a name of a file, of a cgroup and of a unit.
fn check_id(id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(plain) {
        return Err(Error::new(Kind::Usage, format!("invalid container ID format: {id:?}"))
            .hint("an id consists of letters, digits and _ + - . and is neither . nor .."));
    }
    Ok(())
}

impl Folder {
    /// Makes the folder of a new container; the answer holds its lock.
    pub fn make(root: &Path, id: &str) -> Result<(Folder, Lock)> {
        check_id(id)?;
        let path = root.join(id);
        let make = || fs::DirBuilder::new().mode(0o711).create(&path);
        let made = match make() {
            Err(err) if err.kind() == ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o711)
                    .create(root)
                    .doing(|| format!("make the folder of all containers {}", root.display()))?;
                make()
            }
            made => made,
        };
        match made {
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("create {id}: container with given ID already exists"),
                )
                .hint("delete it first, or choose another id"));
            }
            made => made.doing(|| format!("mkdir {}", path.display()))?,
        }
        let folder = Folder { id: id.to_owned(), path };
        let lock = folder.lock()?;
        Ok((folder, lock))
    }

    /// The folder of a container that there is.
    pub fn open(root: &Path, id: &str) -> Result<Folder> {
        check_id(id)?;
        let path = root.join(id);
        if !path.is_dir() {
            return Err(Error::new(Kind::NotFound, format!("container does not exist: {id}"))
                .hint(format!("there is no folder {}; is --root right?", path.display())));
        }
        Ok(Folder { id: id.to_owned(), path })
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where `start` is waited for.
    pub fn start_socket(&self) -> PathBuf {
        self.file("start.sock")
    }

    /// Where the socket for sd_notify(3) is.
    pub fn notify(&self) -> PathBuf {
        self.file("notify")
    }

    /// Nobody waits for `start` any more.
    pub fn forget_start(&self) {
        // One that stays is found out when somebody connects.
        let _ = fs::remove_file(self.start_socket());
    }

    fn open_lock(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty()).doing(|| format!("open {}", self.path.display()))
    }

    /// Waits until no other verb changes the container.
    ///
    /// Errors: [`Kind::NotFound`] if it was deleted meanwhile, even if there is a new one of that name.
    pub fn lock(&self) -> Result<Lock> {
        let file = self.open_lock()?;
        let flock = || rustix::fs::flock(&file, FlockOperation::LockExclusive);
        rustix::io::retry_on_intr(flock).doing(|| format!("flock {}", self.path.display()))?;
        let what = || format!("stat {}", self.path.display());
        let (locked, named) =
            (rustix::fs::fstat(&file).doing(what)?, rustix::fs::stat(&self.path).doing(what)?);
        if locked.st_ino != named.st_ino {
            return Err(Error::new(Kind::NotFound, format!("container {} was deleted meanwhile", self.id)));
        }
        Ok(Lock(file))
    }

    /// Whether some verb is changing it now.
    pub fn is_locked(&self) -> bool {
        self.open_lock()
            .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// What is known of the container; `None` where `create` has not come so far.
    pub fn record(&self) -> Result<Option<Record>> {
        let path = self.file("state.json");
        let bytes = match fs::read(&path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.doing(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|err| {
            Error::new(Kind::Corrupt, format!("read {}: {err}", path.display()))
                .hint("delete --force removes the container")
        })
    }

    /// Writes it down.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|err| Error::new(Kind::Corrupt, format!("write the state of {}: {err}", self.id)))?;
        let (path, fresh) = (self.file("state.json"), self.file("state.json.new"));
        let what = || format!("write {}", path.display());
        write_private(&fresh, &bytes).doing(what)?;
        fs::rename(&fresh, &path).doing(what)
    }

    /// Notes where its cgroup is about to be made.
    pub fn announce_cgroup(&self, location: &Location) -> Result<()> {
        let bytes = serde_json::to_vec(location)
            .map_err(|err| Error::new(Kind::Corrupt, format!("write the cgroup of {}: {err}", self.id)))?;
        self.keep("cgroup.json", &bytes)
    }

    /// Where its cgroup was about to be made, if `create` has come so far.
    pub fn announced_cgroup(&self) -> Option<Location> {
        // A note that was cut off is older than the cgroup.
        serde_json::from_slice(&fs::read(self.file("cgroup.json")).ok()?).ok()
    }

    /// The specification it was created with.
    pub fn spec(&self) -> Result<Spec> {
        let path = self.file("config.json");
        crate::spec::parse(&crate::spec::read_file(&path)?, &path)
    }

    /// Keeps a file in it.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.file(name);
        write_private(&path, bytes).doing(|| format!("write {}", path.display()))
    }

    /// Its compiled filter, if it has one.
    pub fn filter(&self) -> Result<Option<Compiled>> {
        let path = self.file("filter");
        match fs::read(&path) {
            Ok(bytes) => Compiled::from_bytes(&bytes).map(Some),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).doing(|| format!("read {}", path.display())),
        }
    }

    /// Removes it with everything in it.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
            result => result.doing(|| format!("remove {}", self.path.display())),
        }
    }
}

/// Writes a file that nobody else may read: a spec has passwords in its environment, and others may pass through the
/// folder if they know the id.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// Ids of all containers below a root, in order.
pub fn ids(root: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(|| format!("list {}", root.display()))?,
    };
    let mut ids: Vec<String> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|id| check_id(id).is_ok())
        .collect();
    ids.sort();
    Ok(ids)
}

/// A user's name on this host, or their number where they have none.
pub fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("#{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_name() {
        for good in ["a", "web-1", "A_b+c.d", "..."] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        let long = "x".repeat(1025);
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ä", "a\n", &long] {
            assert_eq!(check_id(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }
}
