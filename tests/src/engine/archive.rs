//! The busybox root as an image that every engine can load: what `docker save` writes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::busybox;

/// The image's name in an engine.
pub const IMAGE: &str = "docker.io/library/busybox:latest";

/// Writes the image as a tar; needs a folder to work in.
pub fn write(folder: &Path, file: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let layer = busybox::cached_archive();
    fs::copy(&layer, folder.join("layer.tar"))?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/bin:/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)] },
        "history": [{ "created_by": "tare's tests" }],
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let status = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .arg("-cf")
        .arg(file)
        .args(["manifest.json", "config.json", "layer.tar"])
        .status()
        .context("starting tar")?;
    anyhow::ensure!(status.success(), "tar failed ({status})");
    Ok(())
}

fn sha256(file: &Path) -> Result<String> {
    let out = Command::new("sha256sum").arg("--").arg(file).output().context("starting sha256sum")?;
    let text = String::from_utf8(out.stdout)?;
    Ok(text.split(' ').next().context("sha256sum printed nothing")?.to_owned())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
