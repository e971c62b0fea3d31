//! The lock on the names in a store: `flock` on a file, which dies with the process that holds it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result};

use super::ImageStore;

/// How long to wait for the lock. It is held for milliseconds, or as long as a slow disk takes for some fsyncs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Held until dropped.
pub(super) struct Lock {
    _file: File,
}

impl ImageStore {
    /// Takes the lock of the store; its folder must be there. [`Kind::Conflict`] after [`PATIENCE`].
    pub(super) fn lock(&self) -> Result<Lock> {
        let path = self.root.join("lock");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .doing(|| format!("open({path:?}, O_CREAT)"))?;
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::new(
                        Kind::Conflict,
                        format!("{}: held by another process for {} s", path.display(), PATIENCE.as_secs()),
                    )
                    .hint(format!("`fuser {}` names it", path.display())));
                }
                failed => return failed.map(|()| Lock { _file: file }).doing(|| format!("flock({path:?})")),
            }
        }
    }
}
