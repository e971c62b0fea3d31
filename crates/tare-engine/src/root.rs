//! The root file system of a container that exists, seen from outside: which folders it is made of.
//!
//! A container on an image has its layers, and over them the folder that it writes to. One on a folder (`--rootfs`)
//! has that folder. One on the built-in image `host` writes to memory, which only it has.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders, Record};
use crate::engine::Engine;

/// What a container's root is made of.
pub(crate) enum Root {
    /// Layers, the lowest first, and the folder that it writes to.
    Layers { lower: Vec<PathBuf>, upper: PathBuf },
    /// A folder of the host.
    Folder(PathBuf),
}

impl Engine {
    /// What the root of a container is made of. `verb` is what somebody wants to do with it.
    ///
    /// Errors: [`Kind::Unsupported`] for a container on the image `host`.
    pub(crate) fn root_of(&self, record: &Record, folders: &Folders, verb: &str) -> Result<Root> {
        let rootfs = &record.request.host_config.rootfs;
        if !rootfs.is_empty() {
            return Ok(Root::Folder(PathBuf::from(rootfs)));
        }
        if record.image_id.is_empty() {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{verb} {}: it stands on the image host, and what it writes is in memory alone",
                    record.name
                ),
            )
            .hint("use a container that was made from an image"));
        }
        let images = self.images()?;
        let layers = record.layers.iter().map(|layer| images.layer_path(layer));
        Ok(Root::Layers {
            lower: std::iter::once(images.mount_points()).chain(layers).collect(),
            upper: folders.state.join("rw/upper"),
        })
    }

    /// The layers below a container, the lowest first, and the folder that it writes to.
    ///
    /// Errors: [`Kind::Unsupported`] for a container that has none.
    pub(crate) fn layers_of(
        &self,
        record: &Record,
        folders: &Folders,
        verb: &str,
    ) -> Result<(Vec<PathBuf>, PathBuf)> {
        match self.root_of(record, folders, verb)? {
            Root::Layers { lower, upper } => Ok((lower, upper)),
            Root::Folder(folder) => Err(Error::new(
                Kind::Unsupported,
                format!("{verb} {}: it writes into the folder {} itself", record.name, folder.display()),
            )
            .hint(format!("tar -C {} -c . | tare import - NAME makes an image of it", folder.display()))),
        }
    }
}

/// Opens a folder to read it.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open({path:?})"))
}
