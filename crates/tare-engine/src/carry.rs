//! Images carried in files: `load` and `save`; and their names: `tag`.

use std::fs::File;
use std::io::Write;

use flate2::write::GzEncoder;
use tare_image::archive::ImageArchive;
use tare_image::archive::save::{Saved, save};
use tare_image::store::{Image, TakeOptions, Watch};
use tare_image::{ImageStore, Platform, Reference};
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result};

use crate::engine::{Engine, need_root};
use crate::events::Event;
use crate::host_image;

/// An image that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// `sha256:…`.
    pub id: String,
    /// The names that the archive gave it, as people write them; none for an image without a name.
    pub names: Vec<String>,
}

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    #[default]
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

impl Packing {
    /// What the name of a file asks for by its end: `.gz` or `.tgz`, `.zst`.
    pub fn of(path: &str) -> Packing {
        match path.rsplit_once('.').map(|(_, end)| end) {
            Some("gz" | "tgz") => Packing::Gzip,
            Some("zst") => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// A step in which an image was made.
#[derive(Clone, Debug)]
pub struct Step {
    /// The image's id, for the last step; else empty.
    pub id: String,
    /// Seconds since 1970; 0 where nobody says.
    pub created: i64,
    /// The command.
    pub created_by: String,
    /// Bytes that it added.
    pub size: u64,
    /// A remark.
    pub comment: String,
}

impl Engine {
    /// Loads all images of an archive, as `docker save` writes it or an OCI image layout in a tar; compressed or not,
    /// a file or a pipe. `watch` hears of each layer.
    ///
    /// Errors: [`Kind::Corrupt`] for an archive that is damaged or contradicts itself, [`Kind::Permission`] for whoever
    /// is not root. Images that were loaded before the one that failed stay.
    pub fn load_images(
        &self,
        archive: File,
        platform: Option<&str>,
        watch: &Watch<'_>,
    ) -> Result<Vec<Loaded>> {
        need_root()?;
        let store = self.images()?;
        let mut archive = ImageArchive::open_any(archive, &store.scratch()?)?;
        let platform = platform.map_or_else(|| Ok(Platform::host()), Platform::parse)?;
        let found = archive.images(&platform)?;
        let mut loaded = Vec::new();
        for image in &found {
            let options = TakeOptions { progress: Some(watch), ..TakeOptions::default() };
            if let Some(name) = image.names.iter().find(|name| is_host(name)) {
                return Err(name_of_host(name));
            }
            let taken = store.take(&image.incoming, &archive, &image.names, &options)?;
            let names: Vec<_> = image.names.iter().map(Reference::to_string).collect();
            let name = names.first().map_or("", String::as_str);
            self.emit(&Event::image("load", &taken.id.to_string(), name));
            loaded.push(Loaded { id: taken.id.to_string(), names });
        }
        Ok(loaded)
    }

    /// Writes images into one archive that Docker, Podman and skopeo read. An image that is asked for by its id goes
    /// without names.
    ///
    /// Errors: [`Kind::NotFound`] for an image that is not there, or not for the platform; those of writing.
    pub fn save_images(
        &self,
        names: &[&str],
        platform: Option<&str>,
        packing: Packing,
        to: impl Write,
    ) -> Result<()> {
        let store = self.images()?;
        let mut images: Vec<Saved> = Vec::new();
        for name in names {
            if Reference::parse(name).is_ok_and(|name| is_host(&name)) {
                return Err(Error::new(Kind::Usage, "save the image host: it is this machine itself")
                    .hint("`tar -C / --one-file-system -c . | tare import - NAME` makes an image of it"));
            }
            let record = store.resolve(name)?;
            let named = (!record.name.is_empty()).then(|| Reference::parse(&record.name)).transpose()?;
            let image = store.whole_image_of(name)?;
            is_for(&image, platform).doing(|| format!("save {name}"))?;
            match images.iter_mut().find(|known| known.image.id == image.id) {
                Some(known) => known.names.extend(named),
                None => images.push(Saved { image, names: named.into_iter().collect() }),
            }
        }
        write(&store, &images, packing, to)?;
        for saved in &images {
            let id = saved.image.id.to_string();
            let name = saved.names.first().map_or_else(|| id.clone(), Reference::to_string);
            self.emit(&Event::image("save", &id, &name));
        }
        Ok(())
    }

    /// How an image was made, the last step first, as Docker lists it.
    ///
    /// Errors: [`Kind::NotFound`], also for an image that is not for the platform.
    pub fn history(&self, image: &str, platform: Option<&str>) -> Result<Vec<Step>> {
        let store = self.images()?;
        let id = store.resolve(image)?.image_id;
        is_for(&store.image_of(&id)?, platform).doing(|| format!("history of {image}"))?;
        let mut steps: Vec<Step> = Vec::new();
        for (line, size) in store.history(image)?.into_iter().rev() {
            steps.push(Step {
                // Of the steps before the last nobody knows an image any more.
                id: if steps.is_empty() { id.clone() } else { String::new() },
                created: line.created.as_deref().and_then(Moment::parse).map_or(0, Moment::seconds),
                created_by: line.created_by.unwrap_or_default(),
                size,
                comment: line.comment.unwrap_or_default(),
            });
        }
        Ok(steps)
    }

    /// Gives an image one more name.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Usage`] for what cannot be a name.
    pub fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        need_root()?;
        let name = Reference::parse(name)?;
        if is_host(&name) {
            return Err(name_of_host(&name));
        }
        let store = self.images()?;
        store.tag(image, &name).doing(|| format!("tag {image} as {name}"))?;
        let id = store.resolve(&name.full()).map(|record| record.image_id).unwrap_or_default();
        self.emit(&Event::image("tag", &id, &name.to_string()));
        Ok(())
    }
}

/// Checks that an image is for the platform that was asked for: the store has one of a name.
pub(crate) fn is_for(image: &Image, platform: Option<&str>) -> Result<()> {
    let Some(wanted) = platform.map(Platform::parse).transpose()? else { return Ok(()) };
    match image.platform.serves(&wanted) {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::NotFound, format!("the image is for {}, not for {wanted}", image.platform))
                .hint(format!("`tare pull --platform {wanted}` fetches the other")))
        }
    }
}

pub(crate) fn is_host(name: &Reference) -> bool {
    name.familiar_name() == host_image::NAME
}

pub(crate) fn name_of_host(name: &Reference) -> Error {
    Error::new(Kind::Usage, format!("the name {name} is the built-in image's")).hint("choose another name")
}

fn write(store: &ImageStore, images: &[Saved], packing: Packing, to: impl Write) -> Result<()> {
    let end = || "write the end of the archive";
    match packing {
        Packing::Plain => save(store, images, to),
        Packing::Gzip => {
            let mut gzip = GzEncoder::new(to, flate2::Compression::default());
            save(store, images, &mut gzip)?;
            gzip.finish().and_then(|mut to| to.flush()).doing(end)
        }
        Packing::Zstd => {
            let mut zstd = zstd::stream::write::Encoder::new(to, 0).doing(|| "start zstd")?;
            save(store, images, &mut zstd)?;
            zstd.finish().and_then(|mut to| to.flush()).doing(end)
        }
    }
}
