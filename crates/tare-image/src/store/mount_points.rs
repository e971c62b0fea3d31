//! The lowest layer of every container: the places that something is always mounted on.
//!
//! ```text
//! layers/mount-points/{dev,proc,sys,etc/{hosts,hostname,resolv.conf}}
//! ```
//!
//! An image that lacks one of them would get it made in the container's own layer at each start, and removed
//! again with it; and what was never written by the container would show up as its change.

use std::path::PathBuf;

use tare_sys::Result;

use super::{ImageStore, files};

pub(super) const NAME: &str = "mount-points";

impl ImageStore {
    /// The layer that goes below all others. Every import makes sure that it is there.
    pub fn mount_points(&self) -> PathBuf {
        self.root.join("layers").join(NAME)
    }

    /// Makes it; several at once do not mind each other, for every step may be there already.
    pub(super) fn make_mount_points(&self) -> Result<()> {
        let layer = self.mount_points();
        for folder in ["dev", "proc", "sys", "etc"] {
            files::make_folder(&layer, 0o755)?;
            files::make_folder(&layer.join(folder), 0o755)?;
        }
        for file in ["hosts", "hostname", "resolv.conf"] {
            match files::create(&layer.join("etc").join(file), b"", 0o644) {
                Err(err) if err.errno() == Some(rustix::io::Errno::EXIST) => {}
                made => drop(made?),
            }
        }
        Ok(())
    }
}
