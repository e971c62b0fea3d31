//! `image copy`: an image from one place to another, without anything but files and a registry in between.
//!
//! ```text
//! NAME               the store here                    docker://NAME               a registry
//! oci:FOLDER[:NAME]  an OCI image layout               docker-archive:FILE[:NAME]  an archive (also oci-archive:)
//! ```
//!
//! An archive and a registry are written from a layout: the store is one, and so is a folder. What comes from elsewhere
//! goes through a folder that is thrown away.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tare_image::archive::ImageArchive;
use tare_image::archive::save::{Saved, save};
use tare_image::layout::Layout;
use tare_image::registry::Repository;
use tare_image::store::{Image, Incoming, Source, TakeOptions};
use tare_image::{ImageStore, Platform, Reference};
use tare_sys::{Context, Error, Kind, Result};

use crate::carry::{is_host, name_of_host};
use crate::engine::{Engine, need_root};
use crate::events::Event;
use crate::pull::access;

/// Where an image is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Store(Reference),
    /// An id, or the beginning of one: only to copy from.
    Id(String),
    Registry(Reference),
    Layout(PathBuf, Option<String>),
    Archive(PathBuf, Option<Reference>),
}

impl Place {
    fn parse(text: &str) -> Result<Place> {
        let split = |rest: &str| match rest.split_once(':') {
            Some((path, name)) => (PathBuf::from(path), Some(name.to_owned())),
            None => (PathBuf::from(rest), None),
        };
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Place::Registry(Reference::parse(name)?));
        }
        match text.split_once(':') {
            Some(("oci", rest)) => {
                let (path, name) = split(rest);
                Ok(Place::Layout(path, name))
            }
            Some(("docker-archive" | "oci-archive", rest)) => {
                let (path, name) = split(rest);
                Ok(Place::Archive(path, name.as_deref().map(Reference::parse).transpose()?))
            }
            _ => match Reference::parse(text) {
                Ok(name) if is_host(&name) => Err(name_of_host(&name)),
                Ok(name) => Ok(Place::Store(name)),
                Err(_) if text.len() == 64 || text.starts_with("sha256:") => Ok(Place::Id(text.to_owned())),
                Err(err) => Err(err.hint("NAME, docker://NAME, oci:FOLDER:NAME or docker-archive:FILE:NAME")),
            },
        }
    }
}

impl Engine {
    /// Copies an image; answers with its id. Where nothing else is said, it keeps its name.
    ///
    /// Errors: [`Kind::NotFound`] for an image that is not there; [`Kind::Usage`] for places that make no sense; those of
    /// the places.
    pub fn copy_image(&self, from: &str, to: &str, platform: Option<&str>) -> Result<String> {
        need_root()?;
        let platform = platform.map_or_else(|| Ok(Platform::host()), Platform::parse)?;
        let (from, to) = (Place::parse(from)?, Place::parse(to)?);
        let store = self.images()?;
        match &from {
            Place::Store(_) | Place::Id(_) => {
                let (text, name) = match &from {
                    Place::Store(name) => (name.full(), Some(name.clone())),
                    Place::Id(id) => (id.clone(), None),
                    _ => Default::default(),
                };
                // A short id reads like a name.
                let image = match (store.whole_image_of(&text), &from) {
                    (Err(err), Place::Store(name)) if err.kind() == Kind::NotFound => {
                        store.whole_image_of(&name.familiar_name()).map_err(|_| err)?
                    }
                    (image, _) => image?,
                };
                let incoming = store.incoming_of(&image)?;
                self.bring(&Origin { layout: Some(&store), source: &store, incoming, name }, &to)
            }
            Place::Registry(name) => {
                let (settings, logins) = access()?;
                let repository = Repository::open(name, &settings, &logins)?;
                let found = repository.find(name, &platform)?;
                let name = Some(name.clone());
                self.bring(&Origin { layout: None, source: &repository, incoming: found.incoming, name }, &to)
            }
            Place::Layout(folder, name) => {
                let layout = Layout::at(folder);
                let incoming = layout.find(name.as_deref(), &platform)?;
                let as_store = ImageStore::open(&absolute(folder)?)?;
                // A tag alone names nothing.
                let name = name.as_deref().filter(|name| name.contains([':', '/']));
                let name = name.and_then(|name| Reference::parse(name).ok());
                self.bring(&Origin { layout: Some(&as_store), source: &layout, incoming, name }, &to)
            }
            Place::Archive(path, wanted) => {
                let file = File::open(path).doing(|| format!("open the archive {}", path.display()))?;
                let mut archive = ImageArchive::open_any(file, &store.scratch()?)?;
                let mut images = archive.images(&platform)?;
                let at = match wanted {
                    Some(wanted) => images.iter().position(|image| image.names.contains(wanted)),
                    None if images.len() == 1 => Some(0),
                    None => {
                        let what =
                            format!("{} has {} images, and no name is given", path.display(), images.len());
                        return Err(Error::new(Kind::Usage, what).hint("write docker-archive:FILE:NAME"));
                    }
                };
                let Some(at) = at else {
                    return Err(Error::new(Kind::NotFound, format!("{} has no such image", path.display())));
                };
                let image = images.swap_remove(at);
                let name = wanted.clone().or_else(|| image.names.first().cloned());
                self.bring(&Origin { layout: None, source: &archive, incoming: image.incoming, name }, &to)
            }
        }
    }

    fn bring(&self, from: &Origin<'_>, to: &Place) -> Result<String> {
        let named = |given: &Option<Reference>| given.clone().or_else(|| from.name.clone());
        let id = tare_image::Digest::of(&from.incoming.config).to_string();
        match to {
            Place::Id(_) => Err(Error::new(Kind::Usage, "an image cannot be copied to an id")),
            Place::Store(name) => {
                let options = TakeOptions::default();
                let names = std::slice::from_ref(name);
                let image = self.images()?.take(&from.incoming, from.source, names, &options)?;
                self.emit(&Event::image("load", &image.id.to_string(), &name.to_string()));
                Ok(id)
            }
            Place::Layout(folder, name) => {
                let name = name.clone().or_else(|| from.name.as_ref().map(Reference::full));
                Layout::at(folder).write(&from.incoming, from.source, name.as_deref())?;
                Ok(id)
            }
            Place::Archive(path, name) => from.with_layout(self, &|layout, image| {
                let names = named(name).into_iter().collect();
                write_whole(path, |file| save(layout, &[Saved { image: image.clone(), names }], file))
            }),
            Place::Registry(name) => from.with_layout(self, &|layout, image| {
                let (settings, logins) = access()?;
                let repository = Repository::open_to_push(name, Vec::new(), &settings, &logins)?;
                repository.push(layout, image, name, &|_, _| {}).map(drop)
            }),
        }
    }
}

/// An image to be copied.
struct Origin<'a> {
    /// The layout that it lies in, if it does.
    layout: Option<&'a ImageStore>,
    source: &'a dyn Source,
    incoming: Incoming,
    name: Option<Reference>,
}

impl Origin<'_> {
    /// Does something with the image in a layout: its own, or one that is made for this. Answers with its id.
    fn with_layout(
        &self,
        engine: &Engine,
        work: &dyn Fn(&ImageStore, &Image) -> Result<()>,
    ) -> Result<String> {
        if let Some(layout) = self.layout {
            let image = layout.outline(&self.incoming)?;
            work(layout, &image)?;
            return Ok(image.id.to_string());
        }
        let staging = engine.images()?.staging()?;
        let folder = staging.path().join("layout");
        Layout::at(&folder).write(&self.incoming, self.source, None)?;
        let layout = ImageStore::open(&folder)?;
        let image = layout.outline(&self.incoming)?;
        work(&layout, &image)?;
        Ok(image.id.to_string())
    }
}

/// Writes a file that gets its name when it is whole.
fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
    let written = File::create_new(&unfinished)
        .doing(|| format!("make {}", unfinished.display()))
        .and_then(|file| write(&mut BufWriter::with_capacity(1 << 20, file)))
        .and_then(|()| std::fs::rename(&unfinished, path).doing(|| format!("rename {}", path.display())));
    if written.is_err() {
        // The failure is the one to report.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

fn absolute(folder: &Path) -> Result<PathBuf> {
    std::path::absolute(folder).doing(|| format!("find {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_skopeo_writes_them() {
        let name = |text: &str| Reference::parse(text).unwrap();
        let table = [
            ("busybox", Place::Store(name("busybox"))),
            ("localhost:5000/a:1", Place::Store(name("localhost:5000/a:1"))),
            ("docker://localhost:5000/a", Place::Registry(name("localhost:5000/a"))),
            ("oci:/x", Place::Layout("/x".into(), None)),
            ("oci:x:a:1", Place::Layout("x".into(), Some("a:1".to_owned()))),
            ("docker-archive:/x.tar:a:1", Place::Archive("/x.tar".into(), Some(name("a:1")))),
            ("oci-archive:/x.tar", Place::Archive("/x.tar".into(), None)),
        ];
        for (text, place) in table {
            assert_eq!(Place::parse(text).unwrap(), place, "{text}");
        }
        for bad in ["", "docker://", "host", "Wrong"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
