//! An image for a [`Server`](super::Server) to give out.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{Answer, Request};
use crate::Host;

/// The media type of its manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A busybox image in a file, as skopeo names it: `docker-archive:FILE`.
#[track_caller]
pub fn archive(host: &Host) -> String {
    let (from, file) = (Host::new(), host.work().join("busybox.tar"));
    let busybox = from.busybox();
    from.tare(["save", "-o"]).arg(&file).arg(busybox).run().ok();
    format!("docker-archive:{}", file.display())
}

/// What a server needs to give out a busybox image.
#[derive(Clone, Debug)]
pub struct Stock {
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// Its configuration and its one layer, with their digests.
    pub blobs: Vec<(String, Vec<u8>)>,
}

impl Stock {
    /// Has skopeo make one.
    #[track_caller]
    pub fn new(host: &Host) -> Stock {
        let layout = host.work().join("layout");
        let to = format!("oci:{}", layout.display());
        let status = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", &archive(host), &to])
            .status();
        assert!(status.expect("skopeo").success());
        let read = |digest: &Value| {
            let digest = digest.as_str().expect("a digest").to_owned();
            let bytes =
                fs::read(layout.join("blobs/sha256").join(&digest["sha256:".len()..])).expect("a blob");
            (digest, bytes)
        };
        let index: Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).expect("an index")).expect("JSON");
        let (_, manifest) = read(&index["manifests"][0]["digest"]);
        let described: Value = serde_json::from_slice(&manifest).expect("JSON");
        let blobs = [&described["config"]["digest"], &described["layers"][0]["digest"]].map(read).into();
        Stock { manifest, blobs }
    }

    /// What a good registry would answer.
    pub fn answer(&self, request: &Request) -> Answer {
        if request.path.contains("/manifests/") {
            return Answer::ok(self.manifest.clone()).header("Content-Type", MANIFEST);
        }
        match self.blobs.iter().find(|(digest, _)| request.path.ends_with(digest.as_str())) {
            Some((_, bytes)) => Answer::ok(bytes.clone()),
            None => Answer::status(404),
        }
    }

    /// The layer and its digest.
    pub fn layer(&self) -> &(String, Vec<u8>) {
        &self.blobs[1]
    }
}
