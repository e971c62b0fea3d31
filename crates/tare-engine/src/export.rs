//! `export`: a container's root file system as a tar, as the container sees it, without what is mounted in it.

use std::io::Write;

use rustix::fs::OFlags;
use tare_image::pack;
use tare_runtime::rootfs;
use tare_sys::{Context, Result};

use crate::engine::{Engine, need_root};
use crate::events::Event;
use crate::root::{Root, open_folder};

impl Engine {
    /// Writes the root file system of a container, running or not.
    ///
    /// Errors: [`tare_sys::Kind::NotFound`]; [`tare_sys::Kind::Unsupported`] for one on the image `host`; those of
    /// reading and of writing to `to`.
    pub fn export(&self, container: &str, to: impl Write) -> Result<()> {
        need_root()?;
        let folders = self.find(container)?;
        let record = folders.record()?;
        let what = || format!("export {}", record.name);
        match self.root_of(&record, &folders, "export")? {
            Root::Folder(folder) => pack::root(open_folder(&folder).doing(what)?, to).doing(what)?,
            Root::Layers { mut lower, upper } => {
                lower.push(upper);
                // A detached mount ends with its own fd, whatever is open in it: it is held to the end.
                let view = rootfs::layers_alone(&lower, None).doing(what)?;
                let tree = view.open(".", OFlags::RDONLY | OFlags::DIRECTORY).doing(what)?;
                pack::root(tree, to).doing(what)?;
            }
        }
        self.emit(&Event::container(&record, "export"));
        Ok(())
    }
}
