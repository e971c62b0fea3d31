//! The OCI image configuration: as it is written for an imported image, with one layer and one line of history, and
//! as it is read from any other.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tare_sys::{Error, Kind, Result};

use super::{ImageConfig, Platform};
use crate::digest::Digest;
use crate::documents::MOST_LAYERS;

#[derive(Serialize)]
struct Document<'a> {
    created: &'a str,
    #[serde(flatten)]
    platform: &'a Platform,
    config: &'a ImageConfig,
    rootfs: RootFs<'a>,
    history: [History<'a>; 1],
}

#[derive(Serialize)]
struct RootFs<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    diff_ids: [&'a Digest; 1],
}

#[derive(Serialize)]
struct History<'a> {
    created: &'a str,
    comment: &'a str,
}

/// The bytes of the configuration blob; its digest is the image's id. The field order is fixed, so that the
/// same input gives the same id.
pub(crate) fn document(
    config: &ImageConfig,
    platform: &Platform,
    created: &str,
    comment: &str,
    diff_id: &Digest,
) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Document {
        created,
        platform,
        config,
        rootfs: RootFs { kind: "layers", diff_ids: [diff_id] },
        history: [History { created, comment }],
    })
}

/// A step that added a layer.
pub(crate) struct Step<'a> {
    /// RFC 3339.
    pub(crate) created: &'a str,
    pub(crate) created_by: &'a str,
    pub(crate) author: &'a str,
    pub(crate) comment: &'a str,
    pub(crate) diff_id: &'a Digest,
}

/// The configuration of an image that adds one layer to another. What `config` does not know of the base's own stays.
pub(crate) fn extend(base: &[u8], config: &ImageConfig, step: &Step<'_>) -> Result<Vec<u8>> {
    let odd = |what: &str| Error::new(Kind::Corrupt, format!("the base image's configuration: {what}"));
    let mut document: Map<String, Value> =
        serde_json::from_slice(base).map_err(|err| odd(&err.to_string()))?;
    // What older Dockers noted about the container of their last step.
    for old in ["container", "container_config", "docker_version", "id", "parent"] {
        document.remove(old);
    }
    document.insert("created".to_owned(), json!(step.created));
    if !step.author.is_empty() {
        document.insert("author".to_owned(), json!(step.author));
    }
    let all = serde_json::to_value(ImageConfig::filled()).map_err(|err| odd(&err.to_string()))?;
    let said = serde_json::to_value(config).map_err(|err| odd(&err.to_string()))?;
    let of_base = document.entry("config").or_insert_with(|| json!({}));
    if of_base.is_null() {
        *of_base = json!({});
    }
    let of_base = of_base.as_object_mut().ok_or_else(|| odd("its config is no object"))?;
    for name in all.as_object().into_iter().flat_map(Map::keys) {
        match said.get(name) {
            Some(value) => drop(of_base.insert(name.clone(), value.clone())),
            None => drop(of_base.remove(name)),
        }
    }
    let diff_ids = document.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids"));
    diff_ids
        .and_then(Value::as_array_mut)
        .ok_or_else(|| odd("it has no list of layers"))?
        .push(json!(step.diff_id));
    let mut line = Map::new();
    for (key, text) in [
        ("created", step.created),
        ("created_by", step.created_by),
        ("author", step.author),
        ("comment", step.comment),
    ] {
        if !text.is_empty() {
            line.insert(key.to_owned(), json!(text));
        }
    }
    let history = document.entry("history").or_insert_with(|| json!([]));
    if history.is_null() {
        *history = json!([]);
    }
    history.as_array_mut().ok_or_else(|| odd("its history is no list"))?.push(Value::Object(line));
    serde_json::to_vec(&document).map_err(|err| odd(&err.to_string()))
}

/// What a configuration says of its image.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) config: ImageConfig,
    pub(crate) platform: Platform,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) comment: String,
    /// Lowest layer first; sha256 all of them.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) history: Vec<HistoryLine>,
}

/// A step in which an image was made, as whoever made it tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HistoryLine {
    /// RFC 3339.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// A remark.
    pub comment: Option<String>,
    /// It made no layer.
    pub empty_layer: bool,
}

#[derive(Deserialize)]
struct Given {
    created: Option<String>,
    #[serde(flatten)]
    platform: Platform,
    config: Option<ImageConfig>,
    rootfs: GivenRootFs,
    #[serde(default)]
    history: Option<Vec<HistoryLine>>,
}

#[derive(Deserialize)]
struct GivenRootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Digest>,
}

/// Reads a configuration that somebody else wrote.
///
/// Errors: [`Kind::Corrupt`] for what is none; [`Kind::Unsupported`] for an image of another system than Linux.
pub(crate) fn describe(bytes: &[u8]) -> Result<Described> {
    let given: Given = serde_json::from_slice(bytes)
        .map_err(|err| Error::new(Kind::Corrupt, format!("read the image's configuration: {err}")))?;
    if given.platform.os != "linux" {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the image is for {}, and this is Linux", given.platform),
        ));
    }
    if given.rootfs.kind != "layers" {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the image's root file system is of type {:?}, not \"layers\"", given.rootfs.kind),
        ));
    }
    if given.rootfs.diff_ids.len() > MOST_LAYERS {
        let what =
            format!("the image has {} layers; {MOST_LAYERS} is the limit", given.rootfs.diff_ids.len());
        return Err(Error::new(Kind::Corrupt, what));
    }
    if let Some(odd) = given.rootfs.diff_ids.iter().find(|id| id.hex().len() != 64) {
        return Err(Error::new(Kind::Unsupported, format!("layer {odd}: only sha256 is known here")));
    }
    // The zero of Go's clock, which Docker writes where nobody knows.
    let created = given.created.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let history = given.history.unwrap_or_default();
    let comment = history.last().and_then(|last| last.comment.clone()).unwrap_or_default();
    Ok(Described {
        config: given.config.unwrap_or_default(),
        platform: given.platform,
        created: created.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |moment| moment.to_string()),
        comment,
        diff_ids: given.rootfs.diff_ids,
        history,
    })
}
