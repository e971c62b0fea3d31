//! The images: Debian's minbase as one layer, and the same files in ten.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tare_tests::debian;

use crate::workspace::{output, program};

/// An image that all engines bring in.
pub struct Image {
    /// For people.
    pub title: &'static str,
    /// Its name in the registry, without the address.
    pub name: &'static str,
    /// As `docker save` writes it.
    pub archive: PathBuf,
    layers: usize,
}

/// The images, and a registry that has them.
pub struct Inputs {
    pub minbase: Image,
    pub ten: Image,
    /// `127.0.0.1:PORT`.
    pub registry: String,
    server: Child,
    layouts: PathBuf,
}

impl Inputs {
    /// Makes what is not in `target` yet, and starts a registry.
    pub fn make(target: &Path, scratch: &Path) -> Result<Inputs> {
        let cache = target.join("bench-image");
        let layouts = cache.join("layouts");
        fs::create_dir_all(&layouts)?;
        let debian = debian::archive_in(&target.join("test-cache"));
        let mut images = Vec::new();
        for (title, name, layers) in [("Debian minbase", "minbase", 1), ("ten layers", "ten", 10)] {
            let layout = layouts.join(name);
            if !layout.join("index.json").exists() {
                println!("making {}", layout.display());
                let _ = fs::remove_dir_all(&layout);
                make_layout(&debian, &layout, layers, scratch)?;
            }
            let archive = cache.join(format!("{name}.tar"));
            if !archive.exists() {
                let from = format!("oci:{}", layout.display());
                let to = format!("docker-archive:{}:tare-bench/{name}:1", archive.display());
                output(Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet", &from, &to]))?;
            }
            images.push(Image { title, name, archive, layers });
        }
        let (server, registry) = registry(scratch)?;
        let (Some(ten), Some(minbase)) = (images.pop(), images.pop()) else { bail!("two images were made") };
        let inputs = Inputs { minbase, ten, registry, server, layouts };
        for image in [&inputs.minbase, &inputs.ten] {
            let from = format!("oci:{}", inputs.layouts.join(image.name).display());
            let to = format!("docker://{}", inputs.remote(image));
            let words = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to];
            output(Command::new("skopeo").args(words))?;
        }
        Ok(inputs)
    }

    /// The name to pull.
    pub fn remote(&self, image: &Image) -> String {
        format!("{}/{}:1", self.registry, image.name)
    }

    /// Layers and bytes.
    pub fn describe(&self, image: &Image) -> Result<String> {
        let mut bytes = 0;
        for blob in fs::read_dir(self.layouts.join(image.name).join("blobs/sha256"))? {
            bytes += blob?.metadata()?.len();
        }
        let unpacked = fs::metadata(&image.archive)?.len();
        let mb = |bytes: u64| bytes as f64 / 1e6;
        Ok(format!(
            "{} gzip layer(s), {:.1} MB; as a file {:.1} MB, not compressed",
            image.layers,
            mb(bytes),
            mb(unpacked)
        ))
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// An OCI image layout of so many gzip layers, each with its share of the archive's files.
fn make_layout(archive: &Path, layout: &Path, layers: usize, scratch: &Path) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut tars = vec![archive.to_owned()];
    if layers > 1 {
        tars.clear();
        let tree = scratch.join("debian");
        fs::create_dir_all(&tree)?;
        output(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&tree))?;
        let list = output(Command::new("sh").args(["-c", "find . -mindepth 1 | sort"]).current_dir(&tree))?;
        let names: Vec<&str> = list.lines().collect();
        for (number, part) in names.chunks(names.len().div_ceil(layers)).enumerate() {
            let (list, tar) = (scratch.join("list"), scratch.join(format!("part-{number}.tar")));
            fs::write(&list, part.join("\n"))?;
            let mut command = Command::new("tar");
            command.args(["--no-recursion", "--numeric-owner", "-C"]).arg(&tree).arg("-T").arg(&list);
            output(command.arg("-cf").arg(&tar))?;
            tars.push(tar);
        }
        fs::remove_dir_all(&tree)?;
    }
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for tar in &tars {
        let packed = scratch.join("layer.tar.gz");
        output(Command::new("sh").args(["-c", "gzip -n -c $0 > $1"]).arg(tar).arg(&packed))?;
        diff_ids.push(format!("sha256:{}", sum(tar)?));
        descriptors.push(keep(&blobs, &packed, "application/vnd.oci.image.layer.v1.tar+gzip")?);
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": { "Cmd": ["/bin/sh"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let document = scratch.join("document");
    fs::write(&document, config.to_string())?;
    let config = keep(&blobs, &document, "application/vnd.oci.image.config.v1+json")?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": descriptors });
    fs::write(&document, manifest.to_string())?;
    let manifest = keep(&blobs, &document, manifest_type)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string())?;
    Ok(())
}

/// Moves a file among the blobs, and describes it.
fn keep(blobs: &Path, file: &Path, media_type: &str) -> Result<serde_json::Value> {
    let (sum, size) = (sum(file)?, fs::metadata(file)?.len());
    // The scratch folder may be on another disk.
    fs::copy(file, blobs.join(&sum))?;
    Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{sum}"), "size": size }))
}

fn sum(file: &Path) -> Result<String> {
    let text = output(Command::new("sha256sum").arg(file))?;
    Ok(text.get(..64).context("sha256sum prints a sum")?.to_owned())
}

/// A tar of small files in folders of a hundred.
pub fn many_files(scratch: &Path, count: usize) -> Result<PathBuf> {
    let tree = scratch.join("files");
    for number in 0..count {
        let folder = tree.join(format!("folder-{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join(format!("file-{number}")), vec![b'x'; 500 + number % 7 * 500])?;
    }
    let archive = scratch.join("files.tar");
    output(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&tree).arg("."))?;
    fs::remove_dir_all(&tree)?;
    Ok(archive)
}

/// Debian's registry, on a port that is free.
fn registry(scratch: &Path) -> Result<(Child, String)> {
    let program = program("docker-registry").context("docker-registry is not installed")?;
    let (config, log) = (scratch.join("registry.yml"), scratch.join("registry.log"));
    let folder = scratch.join("registry");
    let text = format!(
        "version: 0.1\nlog: {{ level: info, formatter: json }}\n\
         storage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp:\n  addr: 127.0.0.1:0\n",
        folder.display()
    );
    fs::write(&config, text)?;
    let out = fs::File::create(&log)?;
    let server = Command::new(program)
        .arg("serve")
        .arg(&config)
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("starting docker-registry")?;
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(&log)?;
        let rest = text.split("listening on ").nth(1);
        let address = rest.and_then(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
            Some(rest[..end].to_owned())
        });
        if let Some(address) = address {
            return Ok((server, address));
        }
        ensure!(start.elapsed() < Duration::from_secs(30), "docker-registry does not listen: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
