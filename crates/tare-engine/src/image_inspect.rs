//! `image inspect`: an image in Docker's shape and words, old and new: what some version of Docker's API has is there.

use serde_json::{Map, Value, json};
use tare_image::Reference;
use tare_image::store::Image;
use tare_sys::{Error, Kind, Result};

use crate::engine::Engine;

/// Fields of an image's `Config` that Docker shows even where the image says nothing.
const EMPTY: [(&str, Empty); 17] = [
    ("Hostname", Empty::Text),
    ("Domainname", Empty::Text),
    ("User", Empty::Text),
    ("AttachStdin", Empty::No),
    ("AttachStdout", Empty::No),
    ("AttachStderr", Empty::No),
    ("Tty", Empty::No),
    ("OpenStdin", Empty::No),
    ("StdinOnce", Empty::No),
    ("Env", Empty::Null),
    ("Cmd", Empty::Null),
    ("Image", Empty::Text),
    ("Volumes", Empty::Null),
    ("WorkingDir", Empty::Text),
    ("Entrypoint", Empty::Null),
    ("OnBuild", Empty::Null),
    ("Labels", Empty::Null),
];

#[derive(Clone, Copy)]
enum Empty {
    Text,
    No,
    Null,
}

impl Engine {
    /// Everything about one image.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Corrupt`] for a configuration that cannot be read.
    pub fn inspect_image(&self, name: &str) -> Result<Value> {
        let store = self.images()?;
        let image = store.image_of(name)?;
        let document: Map<String, Value> = serde_json::from_slice(&store.config_of(&image)?)
            .map_err(|err| Error::new(Kind::Corrupt, format!("inspect {name}: {err}")))?;
        let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
        let config = filled(document.get("config"));
        let (tags, digests) = names(&image)?;
        let layers: Vec<String> = image.layers.iter().map(|layer| format!("sha256:{layer}")).collect();
        let path = |layer: &String| store.layer_path(layer).display().to_string();
        let mut data = Map::new();
        if let Some((top, below)) = image.layers.split_last() {
            data.insert("UpperDir".to_owned(), json!(path(top)));
            if !below.is_empty() {
                let below: Vec<String> = below.iter().rev().map(path).collect();
                data.insert("LowerDir".to_owned(), json!(below.join(":")));
            }
        }
        let manifest = image.blobs.iter().find(|blob| blob.digest == image.manifest);
        let mut value = json!({
            "Id": image.id,
            "RepoTags": tags,
            "RepoDigests": digests,
            "Parent": "",
            "Comment": image.comment,
            "Created": image.created,
            "Container": text("container"),
            // Gone from Docker's API 1.45; Compose v1 dies without it.
            "ContainerConfig": filled(document.get("container_config")),
            "DockerVersion": text("docker_version"),
            "Author": text("author"),
            "Config": config,
            "Architecture": image.platform.architecture,
            "Os": image.platform.os,
            "Size": image.size,
            "VirtualSize": image.size,
            "GraphDriver": { "Name": "overlay", "Data": data },
            "RootFS": { "Type": "layers", "Layers": layers },
            "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
            "Descriptor": {
                "mediaType": image.manifest_type,
                "digest": image.manifest,
                "size": manifest.map_or(0, |blob| blob.size),
            },
        });
        for (key, name) in [("variant", "Variant"), ("os.version", "OsVersion")] {
            if !text(key).is_empty() {
                value[name] = json!(text(key));
            }
        }
        Ok(value)
    }
}

/// The names of an image: with tags, and with digests.
fn names(image: &Image) -> Result<(Vec<String>, Vec<String>)> {
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    for name in &image.names {
        let reference = Reference::parse(name)?;
        let digest = reference.digest().or_else(|| image.digests.get(name)).unwrap_or(&image.manifest);
        digests.push(format!("{}@{digest}", reference.familiar_name()));
        if reference.digest().is_none() {
            tags.push(reference.to_string());
        }
    }
    digests.sort();
    digests.dedup();
    Ok((tags, digests))
}

fn filled(config: Option<&Value>) -> Value {
    let mut filled: Map<String, Value> = EMPTY
        .iter()
        .map(|(name, empty)| {
            let value = match empty {
                Empty::Text => json!(""),
                Empty::No => json!(false),
                Empty::Null => Value::Null,
            };
            ((*name).to_owned(), value)
        })
        .collect();
    filled.extend(config.and_then(Value::as_object).cloned().unwrap_or_default());
    Value::Object(filled)
}
