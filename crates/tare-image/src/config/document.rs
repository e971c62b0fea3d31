//! The OCI image configuration written for an imported image: one layer, one line of history.

use serde::Serialize;

use super::{ImageConfig, Platform};
use crate::digest::Digest;

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
