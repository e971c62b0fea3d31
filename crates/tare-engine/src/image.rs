//! The verbs on images, in the engine's terms.

use std::cell::RefCell;
use std::io::Read;

use tare_image::{Change, ImageStore, ImportOptions, Reference};
use tare_sys::{Error, Kind, Result};

use crate::container::Roots;
use crate::engine::ImageSummary;
use tare_sys::time::Moment;

/// Imports an archive; answers the image's id. `progress` gets the bytes read so far.
pub fn import(
    store: &ImageStore,
    archive: Box<dyn Read>,
    name: &Reference,
    changes: &[String],
    message: &str,
    progress: &mut dyn FnMut(u64),
) -> Result<String> {
    let progress = RefCell::new(progress);
    let options = ImportOptions {
        changes: changes.iter().map(|change| Change::parse(change)).collect::<Result<_>>()?,
        message: message.to_owned(),
        progress: Some(&|step| (progress.borrow_mut())(step.bytes_in)),
        ..ImportOptions::default()
    };
    Ok(store.import(archive, name, &options)?.id.to_string())
}

/// A line a name; an image without a name has one as well.
pub fn list(store: &ImageStore) -> Result<Vec<ImageSummary>> {
    let mut lines = Vec::new();
    for image in store.list()? {
        let line = |repository: String, tag: String| ImageSummary {
            id: image.id.to_string(),
            repository,
            tag,
            created: Moment::parse(&image.created).map_or(0, Moment::seconds),
            size: image.size,
        };
        if image.names.is_empty() {
            lines.push(line(String::new(), String::new()));
        }
        for name in &image.names {
            let reference = Reference::parse(name)?;
            lines.push(line(reference.familiar_name(), reference.tag().unwrap_or_default().to_owned()));
        }
    }
    Ok(lines)
}

/// Takes a name away, and the image with its last name, unless a container stands on it. Answers Docker's
/// lines.
pub fn remove(store: &ImageStore, roots: &Roots, name: &str, force: bool) -> Result<Vec<String>> {
    let record = store.resolve(name)?;
    let names = store
        .list()?
        .into_iter()
        .find(|image| image.id.to_string() == record.image_id)
        .map_or(0, |i| i.names.len());
    for id in roots.ids()? {
        let Ok(container) = roots.folders(&id).record() else { continue };
        if container.image_id != record.image_id {
            continue;
        }
        // With force a name may go while another one keeps the layers; the layers never.
        if !force || names <= 1 {
            return Err(Error::new(
                Kind::Conflict,
                format!("remove the image {name}: the container {} stands on its layers", container.name),
            )
            .hint(format!("remove the container first: tare rm {}", container.name)));
        }
    }
    let removed = store.remove(name)?;
    let untagged = removed.untagged.iter().map(|name| {
        let familiar =
            Reference::parse(name).map_or_else(|_| name.clone(), |reference| reference.to_string());
        format!("Untagged: {familiar}")
    });
    let deleted = removed.deleted.iter().map(|id| format!("Deleted: {id}"));
    let layers = removed.layers.iter().map(|layer| format!("Deleted: sha256:{layer}"));
    Ok(untagged.chain(deleted).chain(layers).collect())
}
