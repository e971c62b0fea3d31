//! Which volumes a container is to have: the caller's, those of other containers, the image's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use serde::{Deserialize, Serialize};
use tare_sys::{Error, Kind, Result};

use super::mounts::inside;
use super::spec_error;
use crate::request::CreateRequest;

/// Something of the host that is mounted in a container and is known by more than its path (Docker's
/// `MountPoint`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `volume`, `image`, or `bind` where it was taken over from another container.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The volume's name or the image's id; empty for a bind, and for an anonymous volume that is yet to be made.
    pub name: String,
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside.
    pub destination: PathBuf,
    /// `local`, of a volume.
    pub driver: String,
    /// Options as the caller wrote them.
    pub mode: String,
    /// It may be written to.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// `rprivate` and so on; empty: `rprivate`.
    pub propagation: String,
    /// Folder or file in the volume or image that is mounted instead of all of it.
    pub subpath: String,
    /// Folders of an image's layers, the lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<PathBuf>,
    /// The volume was made for this container and has no name that anybody gave it.
    pub anonymous: bool,
}

/// A mount, and what it takes to make its volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The mount; its source is not known yet.
    pub point: MountPoint,
    /// An empty volume gets what the image has at this place.
    pub copy: bool,
    /// Labels of the volume, if it has to be made.
    pub labels: BTreeMap<String, String>,
    /// Options of its driver, if it has to be made.
    pub options: BTreeMap<String, String>,
}

/// All volumes, and what is taken over from other containers, without those that something else covers.
///
/// `image`: the folders that the image wants volumes on. `inherited`: from `--volumes-from`, in order.
pub fn wanted<'a>(
    request: &'a CreateRequest,
    image: impl IntoIterator<Item = &'a String>,
    inherited: Vec<MountPoint>,
) -> Result<Vec<Wanted>> {
    let host = &request.host_config;
    check_driver(&host.volume_driver)?;
    let mut own = Vec::new();
    // Where something is mounted that is no volume.
    let mut taken: Vec<PathBuf> = Vec::new();
    for bind in &host.binds {
        match named(bind)? {
            Some(wanted) => own.push(wanted),
            None => taken.extend(bind.split(':').nth(1).map(inside).transpose()?),
        }
    }
    for mount in &host.mounts {
        match mount.kind.as_str() {
            "volume" => own.push(asked(mount)?),
            "image" => own.push(image_asked(mount)?),
            _ => taken.push(inside(&mount.target)?),
        }
    }
    for destination in host.tmpfs.keys() {
        taken.push(inside(destination)?);
    }
    // The caller's own goes over what is taken over, and of that the last.
    for point in inherited.into_iter().rev() {
        let covered = taken.iter().chain(own.iter().map(|wanted| &wanted.point.destination));
        if covered.into_iter().all(|place| *place != point.destination) {
            own.push(Wanted { point, ..Wanted::default() });
        }
    }
    for folder in request.config.volumes.keys().chain(image) {
        let destination = inside(folder).map_err(|err| err.context(format!("volume on {folder:?}")))?;
        let covered = taken.iter().chain(own.iter().map(|wanted| &wanted.point.destination));
        if covered.into_iter().all(|place| *place != destination) {
            own.push(Wanted { point: volume(String::new(), destination), copy: true, ..Wanted::default() });
        }
    }
    Ok(own)
}

fn volume(name: String, destination: PathBuf) -> MountPoint {
    MountPoint {
        kind: "volume".to_owned(),
        anonymous: name.is_empty(),
        name,
        destination,
        driver: "local".to_owned(),
        rw: true,
        ..MountPoint::default()
    }
}

/// `NAME:DESTINATION[:OPTIONS]`; `None` for a host path.
fn named(text: &str) -> Result<Option<Wanted>> {
    let mut parts = text.splitn(3, ':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if source.starts_with('/') {
        return Ok(None);
    }
    let mode = parts.next().unwrap_or_default();
    let bad = |why: String| {
        Error::new(Kind::Usage, format!("--volume {text:?}: {why}"))
            .hint("write NAME:/path/inside, with :ro to make it read-only")
    };
    check_name(source)?;
    let mut wanted =
        Wanted { point: volume(source.to_owned(), inside(target)?), copy: true, ..Wanted::default() };
    mode.clone_into(&mut wanted.point.mode);
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        match word {
            "rw" | "copy" => {}
            "ro" => wanted.point.rw = false,
            "nocopy" => wanted.copy = false,
            // Labels of SELinux, and hints for Docker Desktop.
            "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nosuid" | "nodev" | "noexec" | "suid" | "dev" | "exec" => {}
            word => return Err(bad(format!("invalid mode: {word:?} is not an option of a volume"))),
        }
    }
    Ok(Some(wanted))
}

/// `--mount type=volume,…`
fn asked(mount: &crate::request::Mount) -> Result<Wanted> {
    let what = || format!("--mount type=volume,target={}", mount.target);
    if !mount.source.is_empty() {
        check_name(&mount.source)?;
    }
    let asked = &mount.volume_options;
    check_driver(&asked.driver).map_err(|err| err.context(what()))?;
    let mut point = volume(mount.source.clone(), inside(&mount.target)?);
    point.rw = !mount.read_only;
    point.subpath = checked_subpath(&asked.subpath).map_err(|err| err.context(what()))?;
    Ok(Wanted {
        point,
        // What is at the place in the image belongs to the whole of a volume and not to a part of it.
        copy: !asked.no_copy && asked.subpath.is_empty(),
        labels: asked.labels.clone(),
        options: asked.driver_options.clone(),
    })
}

/// `--mount type=image,…`
fn image_asked(mount: &crate::request::Mount) -> Result<Wanted> {
    let point = MountPoint {
        kind: "image".to_owned(),
        source: PathBuf::from(&mount.source),
        destination: inside(&mount.target)?,
        subpath: checked_subpath(&mount.image_options.subpath)?,
        ..MountPoint::default()
    };
    Ok(Wanted { point, ..Wanted::default() })
}

fn checked_subpath(subpath: &str) -> Result<String> {
    let path = Path::new(subpath);
    if path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
        return Err(Error::new(Kind::Usage, format!("volume-subpath or image-subpath {subpath:?}"))
            .hint("it has to be a relative path within the volume or image, without '..'"));
    }
    Ok(subpath.to_owned())
}

/// The only driver there is.
pub fn check_driver(driver: &str) -> Result<()> {
    match driver {
        "" | "local" => Ok(()),
        driver => Err(Error::new(Kind::Unsupported, format!("volume driver {driver:?} not found"))
            .hint("tare has the driver \"local\", which mounts what mount(8) can: --opt type=nfs --opt o=… --opt device=…")),
    }
}

/// Docker's rule for names: two characters at least, so that `C:` is none.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let fits = name.len() >= 2
        && name.len() <= 240
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain);
    if fits {
        return Ok(());
    }
    let what = format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"
    );
    Err(Error::new(Kind::Usage, what)
        .hint("two characters at least; to mount a folder of the host write its path with / or ./ in front"))
}

/// The spec's words for a mount point.
pub fn mount(point: &MountPoint, idmap: bool) -> Result<Mount> {
    let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
    let mut options = vec!["rbind".to_owned(), propagation.to_owned()];
    options.extend(point.layers.iter().map(|layer| format!("lower={}", layer.display())));
    if !point.rw {
        options.push("rro".to_owned());
    }
    let kept = |word: &&str| matches!(*word, "nosuid" | "nodev" | "noexec" | "suid" | "dev" | "exec");
    options.extend(point.mode.split(',').filter(kept).map(str::to_owned));
    if !point.subpath.is_empty() {
        options.push(format!("subpath={}", point.subpath));
    }
    if idmap && point.layers.is_empty() {
        options.push("ridmap".to_owned());
    }
    MountBuilder::default()
        .destination(&point.destination)
        .typ("bind")
        .source(&point.source)
        .options(options)
        .build()
        .map_err(spec_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Config, HostConfig, Mount, VolumeOptions};

    fn list(request: &CreateRequest, image: &[&str], inherited: Vec<MountPoint>) -> Result<Vec<String>> {
        let image: Vec<String> = image.iter().map(|text| (*text).to_owned()).collect();
        let wanted = wanted(request, &image, inherited)?;
        Ok(wanted
            .iter()
            .map(|w| {
                let flags = [(!w.point.rw, " ro"), (w.copy, " copy"), (w.point.anonymous, " anonymous")];
                let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
                format!("{}:{}{flags}", w.point.name, w.point.destination.display())
            })
            .collect())
    }

    fn request(binds: &[&str], volumes: &[&str], tmpfs: &[&str]) -> CreateRequest {
        let text = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        CreateRequest {
            config: Config {
                volumes: text(volumes).into_iter().map(|v| (v, Default::default())).collect(),
                ..Config::default()
            },
            host_config: HostConfig {
                binds: text(binds),
                tmpfs: text(tmpfs).into_iter().map(|v| (v, String::new())).collect(),
                ..HostConfig::default()
            },
            ..CreateRequest::default()
        }
    }

    #[test]
    fn what_the_caller_mounts_goes_over_the_image_and_over_other_containers() {
        let other =
            |name: &str, to: &str| MountPoint { rw: true, ..volume(name.to_owned(), PathBuf::from(to)) };
        let asked = request(&["db:/data:ro,nocopy", "/srv:/srv"], &["/anon", "/data/"], &["/tmp"]);
        let inherited = vec![other("first", "/cache"), other("second", "/cache"), other("x", "/data")];
        let found = list(&asked, &["/data", "/srv", "/tmp", "/cache", "/img"], inherited).unwrap();
        assert_eq!(found, ["db:/data ro", "second:/cache", ":/anon copy anonymous", ":/img copy anonymous"]);
    }

    #[test]
    fn long_form() {
        let mut asked = request(&[], &[], &[]);
        asked.host_config.mounts = vec![Mount {
            kind: "volume".to_owned(),
            source: "db".to_owned(),
            target: "/a//b/".to_owned(),
            read_only: true,
            volume_options: VolumeOptions { subpath: "x/y".to_owned(), ..VolumeOptions::default() },
            ..Mount::default()
        }];
        assert_eq!(list(&asked, &[], vec![]).unwrap(), ["db:/a/b ro"]);
        for subpath in ["/x", "../x", "a/../../b"] {
            asked.host_config.mounts[0].volume_options.subpath = subpath.to_owned();
            assert_eq!(list(&asked, &[], vec![]).unwrap_err().kind(), Kind::Usage, "{subpath}");
        }
        asked.host_config.mounts[0].volume_options =
            VolumeOptions { driver: "rexray".to_owned(), ..VolumeOptions::default() };
        assert_eq!(list(&asked, &[], vec![]).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "a", "-a", ".hidden", "a/b", "a b", "ä1", "../x", &"x".repeat(241)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["db", "a.b-c_d", "0a"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for bind in ["x:/a", "db:/a:sideways", "db:relative", "db:/a/../b"] {
            assert!(list(&request(&[bind], &[], &[]), &[], vec![]).is_err(), "{bind}");
        }
    }
}
