//! Devices by the names of the Container Device Interface: `vendor.com/class=name`, as `--device` and `--gpus` ask for
//! them. What such a device needs in a container is said by its vendor, in files on this host.
//!
//! ```text
//! /etc/cdi/*.json *.yaml         written once: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`
//! /var/run/cdi/*.json *.yaml     written anew at each boot, and they win
//! ```
//!
//! `TARE_CDI_DIRS` names other folders, separated by colons; the last one wins. Source: the CDI specification, SPEC.md
//! and the schema of version 1.1.0 (github.com/cncf-tags/container-device-interface).
//!
//! The files are the administrator's, and a mistake in one must not become a hole: what is not known is an error, paths
//! are absolute and have no `..`, sizes are bounded. A file that makes no sense takes none of the others with it; it is
//! told where a device is not found, and by `info`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use tare_sys::{Context, Error, Kind, Result};

use crate::request::DeviceRequest;

/// Where specs are looked for.
const DIRS: &str = "/etc/cdi:/var/run/cdi";
/// Longest file that is read, bytes; NVIDIA's for a machine with eight cards has a tenth of it.
const LONGEST: u64 = 4 << 20;
/// Most files in a folder.
const MOST: usize = 1000;
/// The versions of the format that this module knows.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// The kinds that `--gpus` can mean, and whose driver has which name.
const GPUS: [(&str, &str); 2] = [("nvidia", "nvidia.com/gpu"), ("amd", "amd.com/gpu")];

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "notes for people")]
    annotations: BTreeMap<String, String>,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "notes for people")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

/// What a device changes in the container that gets it (`containerEdits`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Nodes below `/dev`, as a rule.
    pub device_nodes: Vec<Node>,
    /// Files and folders of the host.
    pub mounts: Vec<Mount>,
    /// Programs of the host.
    pub hooks: Vec<Hook>,
    /// More groups of the user.
    #[serde(rename = "additionalGIDs", alias = "additionalGids")]
    pub additional_gids: Vec<u32>,
    /// Cannot be had: see [`Edits::check`].
    intel_rdt: Option<serde_json::Value>,
    /// Cannot be had.
    net_devices: Vec<serde_json::Value>,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Node {
    /// Path inside.
    pub path: PathBuf,
    /// Path on the host, where it is another.
    pub host_path: Option<PathBuf>,
    /// `b`, `c` or `u`; empty: as on the host.
    #[serde(rename = "type")]
    pub kind: String,
    /// Numbers; as on the host where there are none.
    pub major: Option<u64>,
    /// See `major`.
    pub minor: Option<u64>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Some of `rwm`; empty: all.
    pub permissions: String,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mount {
    /// What is mounted.
    pub host_path: PathBuf,
    /// Where.
    pub container_path: PathBuf,
    /// `bind`, also empty or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `ro`, `nosuid` …
    pub options: Vec<String>,
}

/// A program that is run at a point of the container's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hook {
    /// Which point: see [`HOOKS`].
    pub hook_name: String,
    /// The program.
    pub path: PathBuf,
    /// Its arguments, its name first.
    pub args: Vec<String>,
    /// Its variables.
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    pub timeout: Option<i64>,
}

/// The points of a start where this engine runs hooks.
pub const HOOKS: [&str; 4] = ["prestart", "createRuntime", "createContainer", "startContainer"];

impl Edits {
    fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::new(Kind::Usage, why));
        if self.intel_rdt.is_some() || !self.net_devices.is_empty() {
            return Err(Error::new(
                Kind::Unsupported,
                "intelRdt and netDevices of CDI specs are not supported yet",
            ));
        }
        for pair in &self.env {
            if pair.split_once('=').is_none_or(|(key, _)| key.is_empty()) || pair.contains('\0') {
                return bad(format!("env {pair:?}: it must be KEY=value"));
            }
        }
        for node in &self.device_nodes {
            plain("deviceNodes path", &node.path)?;
            node.host_path.as_deref().map_or(Ok(()), |path| plain("deviceNodes hostPath", path))?;
            if !["", "b", "c", "u"].contains(&node.kind.as_str()) {
                return bad(format!("deviceNodes type {:?}: it must be b, c or u", node.kind));
            }
            if node.permissions.chars().any(|letter| !"rwm".contains(letter)) {
                return bad(format!("deviceNodes permissions {:?}: they are some of rwm", node.permissions));
            }
        }
        for mount in &self.mounts {
            plain("mounts hostPath", &mount.host_path)?;
            plain("mounts containerPath", &mount.container_path)?;
            if !["", "bind", "none"].contains(&mount.kind.as_str()) {
                return bad(format!("mounts type {:?}: only bind mounts are supported", mount.kind));
            }
        }
        for hook in &self.hooks {
            plain("hooks path", &hook.path)?;
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("hookName {:?}: supported are {}", hook.hook_name, HOOKS.join(", ")),
                ));
            }
        }
        Ok(())
    }

    fn add(&mut self, more: &Edits) {
        self.env.extend(more.env.iter().cloned());
        self.device_nodes.extend(more.device_nodes.iter().cloned());
        self.mounts.extend(more.mounts.iter().cloned());
        self.hooks.extend(more.hooks.iter().cloned());
        self.additional_gids.extend(&more.additional_gids);
    }
}

fn plain(what: &str, path: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let odd = |part| matches!(part, Component::ParentDir | Component::CurDir);
    if path.is_absolute() && !path.components().any(odd) && !path.as_os_str().as_bytes().contains(&0) {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("{what} {path:?}: it must be an absolute path without '..'")))
}

impl Spec {
    fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::new(Kind::Usage, why));
        if !VERSIONS.contains(&self.cdi_version.as_str()) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("cdiVersion {:?}: known are 0.1.0 to {}", self.cdi_version, VERSIONS[9]),
            ));
        }
        if !is_kind(&self.kind) {
            return bad(format!("kind {:?}: it must be vendor.com/class", self.kind));
        }
        self.container_edits.check()?;
        for (at, device) in self.devices.iter().enumerate() {
            if !is_device(&device.name) {
                return bad(format!("device name {:?}", device.name));
            }
            if self.devices[..at].iter().any(|other| other.name == device.name) {
                return bad(format!("device {} is there twice", device.name));
            }
            device.container_edits.check().map_err(|err| err.context(format!("device {}", device.name)))?;
        }
        Ok(())
    }
}

/// Whether this is a device's whole name: `vendor.com/class=name`.
pub fn is_name(text: &str) -> bool {
    text.split_once('=').is_some_and(|(kind, name)| is_kind(kind) && is_device(name))
}

fn is_kind(text: &str) -> bool {
    let word = |text: &str, marks: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && ends(text.chars().next_back())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
    };
    text.split_once('/').is_some_and(|(vendor, class)| word(vendor, "_-.") && word(class, "_-."))
}

fn is_device(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

/// All specs of this host.
#[derive(Debug, Default)]
pub struct Registry {
    /// With the number of the folder and the file; later folders come later.
    specs: Vec<(usize, PathBuf, Spec)>,
    /// What is wrong with files that do not count.
    pub errors: Vec<Error>,
}

/// The folders of specs; the last one wins.
pub fn folders() -> Vec<PathBuf> {
    let folders = std::env::var_os("TARE_CDI_DIRS").unwrap_or_else(|| DIRS.into());
    std::env::split_paths(&folders).filter(|path| path.is_absolute()).collect()
}

impl Registry {
    /// Reads what there is.
    pub fn read() -> Registry {
        let mut registry = Registry::default();
        for (at, folder) in folders().iter().enumerate() {
            if let Err(err) = registry.read_folder(at, folder) {
                registry.errors.push(err);
            }
        }
        registry
    }

    fn read_folder(&mut self, at: usize, folder: &Path) -> Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.doing(|| format!("list {}", folder.display()))?,
        };
        let is_spec = |path: &PathBuf| {
            path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml")
        };
        let mut files: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(is_spec).take(MOST).collect();
        files.sort();
        for path in files {
            match read(&path) {
                Ok(spec) => self.specs.push((at, path, spec)),
                Err(err) => self.errors.push(err.context(format!("read the CDI spec {}", path.display()))),
            }
        }
        Ok(())
    }

    /// Names of all devices, each once.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .specs
            .iter()
            .flat_map(|(_, _, spec)| {
                spec.devices.iter().map(|device| format!("{}={}", spec.kind, device.name))
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// What these devices change, all together.
    ///
    /// Errors: [`Kind::NotFound`] for one that is in no spec, [`Kind::Conflict`] for one that is in two of one folder.
    pub fn edits(&self, names: &[String]) -> Result<Edits> {
        let mut all = Edits::default();
        let mut seen: Vec<&Path> = Vec::new();
        for name in names {
            let (kind, wanted) = name.split_once('=').unwrap_or((name, ""));
            let found =
                self.specs.iter().filter(|(_, _, spec)| spec.kind == kind).flat_map(|(at, path, spec)| {
                    let devices = spec.devices.iter().filter(|device| device.name == wanted);
                    devices.map(move |device| (*at, path, spec, device))
                });
            let found: Vec<_> = found.collect();
            let Some((at, path, spec, device)) = found.last() else { return Err(self.unresolvable(name)) };
            if let Some((_, other, ..)) = found.iter().rev().skip(1).find(|(other, ..)| other == at) {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("CDI device {name} is in {} and in {}", other.display(), path.display()),
                )
                .hint("take it out of one of the two files"));
            }
            if !seen.contains(&path.as_path()) {
                seen.push(path);
                all.add(&spec.container_edits);
            }
            all.add(&device.container_edits);
        }
        Ok(all)
    }

    fn unresolvable(&self, name: &str) -> Error {
        let folders: Vec<_> = folders().iter().map(|path| path.display().to_string()).collect();
        let names = self.names();
        let what = format!(
            "CDI device injection failed: unresolvable CDI devices {name}: no spec in {} has it",
            folders.join(" or ")
        );
        let what = match self.errors.first() {
            Some(err) => format!("{what} ({err})"),
            None => what,
        };
        Error::new(Kind::NotFound, what).hint(match names.is_empty() {
            true => "the device's vendor has a tool that writes specs; for NVIDIA: \
                     nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
                .to_owned(),
            false => format!("there are {}", names.join(", ")),
        })
    }

    /// The names that requests stand for: of CDI as they are, GPUs as Docker 29 maps them.
    ///
    /// Errors: [`Kind::NotFound`] where no spec has GPUs, [`Kind::Unsupported`] for another driver or capability.
    pub fn resolve(&self, requests: &[DeviceRequest]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for request in requests {
            if request.driver == "cdi" {
                names.extend(request.device_ids.iter().cloned());
                continue;
            }
            let kind = self.kind_of_gpus(request)?;
            if !request.device_ids.is_empty() {
                names.extend(request.device_ids.iter().map(|id| format!("{kind}={id}")));
            } else if request.count < 0 {
                names.push(format!("{kind}=all"));
            } else {
                names.extend((0..request.count).map(|number| format!("{kind}={number}")));
            }
        }
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Ok(names)
    }

    fn kind_of_gpus(&self, request: &DeviceRequest) -> Result<&'static str> {
        let refuse = |why: String| {
            let (driver, capabilities) = (&request.driver, &request.capabilities);
            let what =
                format!("could not select device driver {driver:?} with capabilities: {capabilities:?}");
            Error::new(Kind::NotFound, format!("{what}: {why}"))
                .hint("for NVIDIA: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
        };
        if !request.capabilities.iter().flatten().any(|word| word == "gpu") {
            return Err(refuse("only gpu is known".to_owned()).with_kind(Kind::Unsupported));
        }
        let meant: Vec<&'static str> = GPUS
            .into_iter()
            .filter(|(driver, _)| request.driver.is_empty() || request.driver == *driver)
            .map(|(_, kind)| kind)
            .collect();
        if meant.is_empty() {
            return Err(refuse("known are nvidia, amd and cdi".to_owned()).with_kind(Kind::Unsupported));
        }
        let has = |kind: &&&str| self.specs.iter().any(|(_, _, spec)| spec.kind == **kind);
        meant.iter().find(has).copied().ok_or_else(|| {
            let folders: Vec<_> = folders().iter().map(|path| path.display().to_string()).collect();
            let bad = self.errors.first().map_or_else(String::new, |err| format!(" ({err})"));
            refuse(format!("no CDI spec of {} in {}{bad}", meant.join(" or "), folders.join(" or ")))
        })
    }
}

/// What the devices that are asked for by name change in their container. Looks at the disk only if there are any.
pub fn edits(requests: &[DeviceRequest]) -> Result<Edits> {
    if requests.is_empty() {
        return Ok(Edits::default());
    }
    let registry = Registry::read();
    registry.edits(&registry.resolve(requests)?)
}

fn read(path: &Path) -> Result<Spec> {
    use std::os::unix::fs::OpenOptionsExt;
    // A FIFO of that name shall not hold us up.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).doing(|| "open")?;
    let meta = file.metadata().doing(|| "stat")?;
    if !meta.is_file() {
        return Err(Error::new(Kind::Usage, "it is no file"));
    }
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).doing(|| "read")?;
    if text.len() as u64 > LONGEST {
        return Err(Error::new(Kind::Usage, format!("it has more than {LONGEST} bytes")));
    }
    let bad = |why: String| Error::new(Kind::Usage, why);
    let spec: Spec = match path.extension().is_some_and(|end| end == "json") {
        true => serde_json::from_slice(&text).map_err(|err| bad(err.to_string()))?,
        false => serde_saphyr::from_slice(&text).map_err(|err| bad(err.without_snippet().to_string()))?,
    };
    spec.check()?;
    Ok(spec)
}

#[cfg(test)]
mod tests;
