//! The mounts: the kernel's file systems as Docker lays them out, the engine's three files, the caller's own.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use tare_sys::{Error, Kind, Result};

use super::volumes::{self, MountPoint};
use super::{Facts, Share, Sharing, cdi, spec_error};
use crate::request::CreateRequest;

/// Size of `/dev/shm` where nobody asks, bytes.
const SHM_SIZE: i64 = 64 << 20;

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(spec_error)
}

/// All of them, in the order they are attached.
pub fn mounts(request: &CreateRequest, sharing: &Sharing, facts: &Facts) -> Result<Vec<Mount>> {
    let host = &request.host_config;
    let writable = if host.privileged { "rw" } else { "ro" };
    let own = own_mounts(request, sharing, facts)?;
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !facts.one_id {
        terminals.push("gid=5");
    }
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"])?,
        mount("/dev/pts", "devpts", "devpts", &terminals)?,
    ];
    if facts.rootless && sharing.network == Share::Host {
        // The kernel shows a new one to the root of the network alone, which this container does not have.
        list.push(mount("/sys", "bind", "/sys", &["rbind", "rro", "nosuid", "noexec", "nodev"])?);
    } else {
        list.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", writable])?);
    }
    match sharing.cgroup {
        // The host's trees, which nobody inside may write (CVE-2023-25809).
        Share::Host => {
            list.push(mount(
                "/sys/fs/cgroup",
                "bind",
                "/sys/fs/cgroup",
                &["rbind", "rro", "nosuid", "noexec", "nodev"],
            )?);
        }
        _ => {
            list.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", writable])?)
        }
    }
    list.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?);
    let size = format!("size={}", if host.shm_size > 0 { host.shm_size } else { SHM_SIZE });
    match sharing.ipc {
        Share::Host => {
            list.push(mount("/dev/shm", "bind", "/dev/shm", &["bind", "nosuid", "noexec", "nodev"])?)
        }
        _ if sharing.no_shm => {}
        _ => {
            list.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size])?)
        }
    }
    for name in ["resolv.conf", "hostname", "hosts"] {
        let source = facts.files.join(name);
        list.push(
            MountBuilder::default()
                .destination(Path::new("/etc").join(name))
                .typ("bind")
                .source(source)
                .options(vec!["bind".to_owned(), "rprivate".to_owned()])
                .build()
                .map_err(spec_error)?,
        );
    }
    if let Some(zone) = &facts.zone {
        let zone = zone.to_string_lossy();
        list.push(mount("/etc/localtime", "bind", &zone, &["bind", "ro", "rprivate"])?);
    }
    // The caller's word goes over ours, except for what the container cannot be without.
    for mine in &own {
        let target = mine.destination();
        if target == Path::new("/proc") || target == Path::new("/dev") || target == Path::new("/") {
            return Err(Error::new(Kind::Usage, format!("mount over {}", target.display()))
                .hint("mount below it, or on a path of your own"));
        }
    }
    list.retain(|ours| own.iter().all(|mine| mine.destination() != ours.destination()));
    list.extend(own);
    Ok(list)
}

/// Those of `-v`, `--mount` and `--tmpfs`; the shallow ones first, so that none hides another.
fn own_mounts(request: &CreateRequest, sharing: &Sharing, facts: &Facts) -> Result<Vec<Mount>> {
    let host = &request.host_config;
    // Where a container's ids are those around it, there is nothing to map.
    let same_ids = sharing.user == Share::Host || facts.rootless;
    let idmap = if same_ids { None } else { Some("ridmap") };
    let mut own: Vec<Mount> = Vec::new();
    for point in &facts.mounts {
        own.push(volumes::mount(point, idmap.is_some())?);
    }
    for text in host.binds.iter().filter(|text| text.starts_with('/')) {
        own.push(host_path(text, idmap)?);
    }
    for (destination, options) in &host.tmpfs {
        let options: Vec<&str> = options.split(',').filter(|word| !word.is_empty()).collect();
        own.push(tmpfs(destination, &options)?);
    }
    for asked in host.mounts.iter().filter(|asked| !matches!(asked.kind.as_str(), "volume" | "image")) {
        own.push(match asked.kind.as_str() {
            "tmpfs" => {
                let mut options = Vec::new();
                if asked.tmpfs_size > 0 {
                    options.push(format!("size={}", asked.tmpfs_size));
                }
                if asked.tmpfs_mode != 0 {
                    options.push(format!("mode={:o}", asked.tmpfs_mode));
                }
                if asked.read_only {
                    options.push("ro".to_owned());
                }
                tmpfs(&asked.target, &options.iter().map(String::as_str).collect::<Vec<_>>())?
            }
            "" | "bind" => {
                let mut options = vec![if asked.non_recursive { "bind" } else { "rbind" }];
                if asked.read_only {
                    let alone = asked.non_recursive || asked.read_only_non_recursive;
                    options.push(if alone { "ro" } else { "rro" });
                }
                let propagation = if asked.propagation.is_empty() { "rprivate" } else { &asked.propagation };
                options.push(known_propagation(propagation)?);
                bind(
                    &asked.source,
                    &asked.target,
                    options,
                    idmap.map(|_| if asked.non_recursive { "idmap" } else { "ridmap" }),
                )?
            }
            kind => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("--mount type={kind}: not a type that tare has yet"),
                )
                .hint("the types are bind, image, tmpfs and volume"));
            }
        });
    }
    own.sort_by_key(|mount| mount.destination().components().count());
    for pair in own.windows(2) {
        if pair[0].destination() == pair[1].destination() {
            return Err(Error::new(
                Kind::Usage,
                format!("duplicate mount point: {}", pair[0].destination().display()),
            )
            .hint("two of -v, --mount and --tmpfs name this path: leave one out"));
        }
    }
    cdi::add_mounts(&facts.edits, idmap, &mut own)?;
    own.sort_by_key(|mount| mount.destination().components().count());
    Ok(own)
}

/// All that is mounted from the host by the caller's wish: what the request says, and the volumes.
pub fn mount_points(request: &CreateRequest, points: &[MountPoint]) -> Vec<MountPoint> {
    let host = &request.host_config;
    let binds = host.binds.iter().filter(|text| text.starts_with('/')).filter_map(|text| {
        let mut parts = text.splitn(3, ':');
        let (source, destination) = (parts.next()?, parts.next()?);
        let mode = parts.next().unwrap_or_default();
        let propagation = mode.split(',').find(|word| known_propagation(word).is_ok());
        Some(MountPoint {
            kind: "bind".to_owned(),
            source: PathBuf::from(source),
            destination: inside(destination).ok()?,
            mode: mode.to_owned(),
            rw: mode.split(',').all(|word| word != "ro"),
            propagation: propagation.unwrap_or("rprivate").to_owned(),
            ..MountPoint::default()
        })
    });
    let mounts =
        host.mounts.iter().filter(|mount| matches!(mount.kind.as_str(), "" | "bind")).filter_map(|mount| {
            let propagation = if mount.propagation.is_empty() { "rprivate" } else { &mount.propagation };
            Some(MountPoint {
                kind: "bind".to_owned(),
                source: PathBuf::from(&mount.source),
                destination: inside(&mount.target).ok()?,
                rw: !mount.read_only,
                propagation: propagation.to_owned(),
                ..MountPoint::default()
            })
        });
    binds.chain(mounts).chain(points.iter().cloned()).collect()
}

/// `SOURCE:DESTINATION[:OPTIONS]` with a path on the host.
fn host_path(text: &str, idmap: Option<&'static str>) -> Result<Mount> {
    let bad = |why: &str| {
        Error::new(Kind::Usage, format!("--volume {text:?}: {why}"))
            .hint("write /host/path:/path/inside, with :ro to make it read-only")
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, words) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, words] => (*source, *target, *words),
        [_] => return Err(bad("there is no path inside")),
        _ => return Err(bad("too many colons")),
    };
    let mut options = vec!["rbind"];
    let mut propagation = "rprivate";
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word {
            "rw" => {}
            "ro" => options.push("rro"),
            // Labels of SELinux: on a host without it there is nothing to relabel, under Docker as here.
            "z" | "Z" => {}
            "consistent" | "cached" | "delegated" | "nocopy" => {}
            "nosuid" => options.push("nosuid"),
            "nodev" => options.push("nodev"),
            "noexec" => options.push("noexec"),
            word => {
                propagation =
                    known_propagation(word).map_err(|_| bad(&format!("{word:?} is not an option")))?
            }
        }
    }
    options.push(propagation);
    bind(source, target, options, idmap)
}

pub(super) fn known_propagation(word: &str) -> Result<&'static str> {
    ["private", "rprivate", "slave", "rslave", "shared", "rshared"]
        .into_iter()
        .find(|known| *known == word)
        .ok_or_else(|| {
            Error::new(Kind::Usage, format!("{word:?} is not a mount propagation"))
                .hint("use rprivate, private, rslave, slave, rshared or shared")
        })
}

fn bind(source: &str, target: &str, mut options: Vec<&str>, idmap: Option<&'static str>) -> Result<Mount> {
    if !source.starts_with('/') {
        return Err(Error::new(
            Kind::Usage,
            format!("bind mount {source:?}: the host path has to be absolute"),
        ));
    }
    options.extend(idmap);
    let target = inside(target)?;
    MountBuilder::default()
        .destination(target)
        .typ("bind")
        .source(source)
        .options(options.into_iter().map(str::to_owned).collect::<Vec<_>>())
        .build()
        .map_err(spec_error)
}

fn tmpfs(target: &str, words: &[&str]) -> Result<Mount> {
    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "noexec".to_owned()];
    for word in words {
        let key = word.split('=').next().unwrap_or_default();
        let known = [
            "rw",
            "ro",
            "exec",
            "noexec",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "noatime",
            "atime",
            "relatime",
            "strictatime",
            "size",
            "mode",
            "uid",
            "gid",
            "nr_inodes",
            "nr_blocks",
        ];
        if !known.contains(&key) {
            return Err(Error::new(Kind::Usage, format!("--tmpfs {target}: {word:?} is not an option"))
                .hint("use size=, mode=, uid=, gid=, ro, exec, suid, dev and their opposites"));
        }
        options.push((*word).to_owned());
    }
    if !options.iter().any(|word| word.starts_with("mode=")) {
        options.push("mode=1777".to_owned());
    }
    MountBuilder::default()
        .destination(inside(target)?)
        .typ("tmpfs")
        .source("tmpfs")
        .options(options)
        .build()
        .map_err(spec_error)
}

/// A path inside the container: absolute, and without `..`.
pub(super) fn inside(target: &str) -> Result<PathBuf> {
    let path = Path::new(target);
    if !path.is_absolute() {
        return Err(Error::new(
            Kind::Usage,
            format!("mount on {target:?}: the path inside has to be absolute"),
        )
        .hint("write it from /, as in /data"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::new(
            Kind::Usage,
            format!("mount on {target:?}: '..' in a path inside the container"),
        ));
    }
    // Twice the same place must look the same.
    Ok(path.components().collect())
}
