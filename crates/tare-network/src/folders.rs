//! Where networks lie on disk.
//!
//! ```text
//! <state>/networks/<name>/network.json                     what was asked for; lasts
//! <run>/networks/<network id>/addresses/<address> -> <id>  a link, made exclusively: an address has one owner
//!                             endpoints/<id>.json          what that container has there, and its names
//! <run>/networks.lock                                      flock(2)ed: shared by who adds to the firewall,
//!                                                          exclusively by who makes it anew, or makes or
//!                                                          removes a network
//! ```

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tare_sys::{Context, Error, Kind, Result};

/// The folders of all networks of one engine.
#[derive(Clone, Debug)]
pub struct Folders {
    /// What must last: the engine's state folder.
    pub state: PathBuf,
    /// What ends with the boot: the engine's run folder.
    pub run: PathBuf,
}

impl Folders {
    /// The folders below an engine's.
    pub fn new(state: &Path, run: &Path) -> Folders {
        Folders { state: state.to_owned(), run: run.to_owned() }
    }

    /// Where all networks are written down.
    pub fn networks(&self) -> PathBuf {
        self.state.join("networks")
    }

    /// Where the network of this name is written down.
    pub fn network(&self, name: &str) -> PathBuf {
        self.networks().join(name)
    }

    /// What a network has until the next boot.
    pub fn of_network(&self, network_id: &str) -> PathBuf {
        self.run.join("networks").join(network_id)
    }

    /// Where the claimed addresses of a network are.
    pub fn addresses(&self, network_id: &str) -> PathBuf {
        self.of_network(network_id).join("addresses")
    }

    /// Where the endpoints of a network are.
    pub fn endpoints(&self, network_id: &str) -> PathBuf {
        self.of_network(network_id).join("endpoints")
    }
}

/// The lock on all networks of an engine, held while it lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] OwnedFd);

impl Lock {
    /// For changing what is of one container's alone.
    pub fn shared(folders: &Folders) -> Result<Lock> {
        Lock::take(folders, FlockOperation::LockShared)
    }

    /// For changing what others rely on.
    pub fn exclusive(folders: &Folders) -> Result<Lock> {
        Lock::take(folders, FlockOperation::LockExclusive)
    }

    fn take(folders: &Folders, how: FlockOperation) -> Result<Lock> {
        let path = folders.run.join("networks.lock");
        let what = || format!("lock {}", path.display());
        let open = || {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        };
        let file = match open() {
            Err(rustix::io::Errno::NOENT) => {
                make_folder(&folders.run)?;
                open()
            }
            file => file,
        }
        .doing(what)?;
        loop {
            match rustix::fs::flock(&file, how) {
                Err(rustix::io::Errno::INTR) => continue,
                result => return result.doing(what).map(|()| Lock(file)),
            }
        }
    }
}

/// Makes a folder and its parents, for root alone.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(|| format!("mkdir {}", path.display()))
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.doing(|| format!("read {}", path.display()))?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|err| Error::new(Kind::Corrupt, format!("read {}: {err}", path.display())))
}

/// Writes a JSON file, whole or not at all.
pub(crate) fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let path = folder.join(name);
    let what = || format!("write {}", path.display());
    let text = serde_json::to_vec_pretty(value)
        .map_err(|err| Error::new(Kind::Corrupt, format!("{}: {err}", what())))?;
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&temporary).and_then(|mut file| file.write_all(&text)).doing(what)?;
    fs::rename(&temporary, &path).doing(what)
}

/// The names in a folder; none where there is no such folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default()
}
