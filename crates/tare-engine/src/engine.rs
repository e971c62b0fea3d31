//! The engine, and the verbs that look: `ps`, `inspect`, `logs`, `info`.

use tare_image::ImageStore;
use tare_sys::{Error, Kind, Result};

use crate::container::{Folders, Roots};
use crate::facts;
use crate::list::{ListQuery, Size};
use crate::{inspect, sweep};

/// The engine: two folders and the verbs on them.
#[derive(Debug)]
pub struct Engine {
    pub(crate) roots: Roots,
}

impl Engine {
    /// An engine on these folders. Touches nothing yet.
    pub fn new(roots: Roots) -> Engine {
        Engine { roots }
    }

    /// Where everything is kept.
    /// The folders where everything is kept.
    pub fn folders(&self) -> &Roots {
        &self.roots
    }

    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The image store.
    pub fn images(&self) -> Result<ImageStore> {
        ImageStore::open(&self.roots.state.join("images"))
    }

    /// Everything about a container, in Docker's shape.
    pub fn inspect(&self, container: &str) -> Result<serde_json::Value> {
        let folders = self.find(container)?;
        inspect::container(&self.roots, &folders)
    }

    /// How much it has written, and that with its image.
    pub fn size(&self, container: &str) -> Result<Size> {
        let folders = self.find(container)?;
        Ok(crate::list::size(self, &folders.record()?))
    }

    /// About the host and the engine, in Docker's words.
    pub fn info(&self) -> Result<serde_json::Value> {
        let (containers, _) = self.list(&ListQuery { all: true, ..ListQuery::default() })?;
        let images = self.images()?.list()?.len();
        Ok(facts::info(&self.roots, &containers, images))
    }

    pub(crate) fn find(&self, container: &str) -> Result<Folders> {
        sweep::sweep(&self.roots)?;
        Ok(self.roots.folders(&self.roots.find(container)?))
    }
}

pub(crate) fn not_running(container: &str) -> Error {
    Error::new(Kind::Conflict, format!("the container {container} is not running"))
        .hint("`tare ps` lists those that are")
}

pub(crate) fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(Kind::Permission, "make a container: tare needs root for this")
        .hint("run the command with sudo"))
}
