//! The container's `/dev`: a small tmpfs of its own with the nodes of the spec, made whole by the parent.
//!
//! The parent makes it because a user namespace may not: nodes made there cannot be opened. A parent that may not
//! either leaves it to the child to bind the host's nodes. Nothing of the image's own `/dev` is looked at; where a
//! spec mounts nothing there, the nodes are made in it without following a link out (CVE-2026-41579,
//! CVE-2026-47766).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, Mount, Spec,
};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;
use tare_sys::mount::{Change, Detached, attr};
use tare_sys::path::Root;
use tare_sys::{Context, Error, Kind, Result};

use crate::annotations;
use crate::mounts::Options;
use crate::rootfs::IdMap;

/// The devices that every container has (runtime-spec, config-linux.md, "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links that every container has (runtime-spec, runtime-linux.md, "Dev symbolic links").
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Whether this mount of the spec is the container's `/dev`.
pub fn is_dev(mount: &Mount) -> bool {
    mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs")
}

/// What lies at the container's `/dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dev {
    /// What the image has there.
    OfImage,
    /// The tmpfs that [`build`] made.
    Ours,
    /// Another mount of the spec, such as the host's own `/dev`; what is in it is the caller's affair.
    Foreign,
}

/// Builds the tmpfs with everything in it; says whether it could make the nodes.
pub fn build(
    mount: &Mount,
    options: &Options,
    spec: &Spec,
    idmap: Option<IdMap<'_>>,
) -> Result<(Detached, bool)> {
    let dev = options.build_new("tmpfs", mount, annotations::mount_label(spec)?)?;
    let nodes = match idmap {
        Some(map) => {
            rustix::fs::fchown(&open_root(&dev)?, Some(Uid::from_raw(map.uid)), Some(Gid::from_raw(map.gid)))
                .doing(|| "fchown(/dev)")?;
            tare_sys::process::with_fs_ids(map.uid, map.gid, || fill(&dev, spec, idmap))?
        }
        None => fill(&dev, spec, idmap)?,
    };
    Ok((dev, nodes))
}

fn open_root(dev: &Detached) -> Result<std::os::fd::OwnedFd> {
    dev.open(".", OFlags::RDONLY | OFlags::DIRECTORY)
}

fn fill(dev: &Detached, spec: &Spec, idmap: Option<IdMap<'_>>) -> Result<bool> {
    let before = rustix::process::umask(Mode::empty());
    let result = fill_unmasked(dev, spec, idmap);
    rustix::process::umask(before);
    result
}

fn fill_unmasked(dev: &Detached, spec: &Spec, idmap: Option<IdMap<'_>>) -> Result<bool> {
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).doing(|| format!("symlink /dev/{name}"))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755)).doing(|| format!("mkdir /dev/{name}"))?;
    }
    if spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true)) {
        // The container's terminal is bound here later.
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(dev, "console", flags, Mode::from_raw_mode(0o600))
            .doing(|| "create /dev/console")?;
    }
    for (name, major, minor) in DEFAULT {
        let id = makedev(major, minor);
        match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), id) {
            Err(Errno::PERM) => return Ok(false),
            result => result.doing(|| format!("mknod /dev/{name} {major}:{minor}"))?,
        }
    }
    let root = Root::new(open_root(dev)?);
    for device in devices(spec).filter(|device| is_in_dev(device.path())) {
        make_node(&root, device, device.path().strip_prefix("/dev").unwrap_or(device.path()), idmap)?;
    }
    Ok(true)
}

fn devices(spec: &Spec) -> impl Iterator<Item = &LinuxDevice> {
    let all = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    all.iter().filter(|device| !is_link(device.path()))
}

/// Whether a device belongs into the `/dev` that is made whole beforehand. What every container has there as a
/// link of its own stays that, though a host may have a node by the name.
fn is_in_dev(path: &Path) -> bool {
    path.starts_with("/dev") && path.components().all(|part| part != Component::ParentDir)
}

fn is_link(path: &Path) -> bool {
    path.strip_prefix("/dev").is_ok_and(|name| LINKS.iter().any(|(link, _)| name == Path::new(link)))
}

fn kind_of(device: &LinuxDevice) -> Result<FileType> {
    match device.typ() {
        LinuxDeviceType::B => Ok(FileType::BlockDevice),
        LinuxDeviceType::C | LinuxDeviceType::U => Ok(FileType::CharacterDevice),
        LinuxDeviceType::P => Ok(FileType::Fifo),
        LinuxDeviceType::A => Err(Error::new(
            Kind::Usage,
            format!("make the device {}: type \"a\" is not one device", device.path().display()),
        )),
    }
}

/// Makes a node at `path` inside the root. One that is there already has to be the one that was asked for.
fn make_node(root: &Root, device: &LinuxDevice, path: &Path, idmap: Option<IdMap<'_>>) -> Result<()> {
    let what = || format!("make the device {}", device.path().display());
    let kind = kind_of(device)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let parent = root.make_dirs(folder, Mode::from_raw_mode(0o755)).doing(what)?;
    let name = path.file_name().ok_or_else(|| Error::new(Kind::Usage, what()))?;
    let id = makedev(device.major() as u32, device.minor() as u32);
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(&parent, name, kind, mode, id) {
        Err(Errno::EXIST) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let there = rustix::fs::openat(&parent, name, flags, Mode::empty()).doing(what)?;
            return is_device(&there, kind, id).and_then(|is| match is {
                true => Ok(()),
                false => Err(Error::new(Kind::Conflict, format!("{}: something else is there", what()))
                    .hint("mount a tmpfs on /dev, so that nothing of the image's is in the way")),
            });
        }
        result => result.doing(|| format!("mknod {}", device.path().display()))?,
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if (uid, gid) != (0, 0) {
        let (base_uid, base_gid) = idmap.map_or((0, 0), |map| (map.uid, map.gid));
        let (uid, gid) = (Uid::from_raw(base_uid + uid), Gid::from_raw(base_gid + gid));
        rustix::fs::chownat(parent.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .doing(what)?;
    }
    Ok(())
}

fn is_device(file: &OwnedFd, kind: FileType, id: u64) -> Result<bool> {
    let stat = rustix::fs::fstat(file).doing(|| "fstat(device)")?;
    // The number alone says nothing: that of a file which is no device is 0 (CVE-2026-88265).
    Ok(FileType::from_raw_mode(stat.st_mode) == kind && (kind == FileType::Fifo || stat.st_rdev == id))
}

/// The default devices as a spec would have them.
fn default_devices() -> Result<Vec<LinuxDevice>> {
    DEFAULT
        .into_iter()
        .map(|(name, major, minor)| {
            LinuxDeviceBuilder::default()
                .path(format!("/dev/{name}"))
                .typ(LinuxDeviceType::C)
                .major(i64::from(major))
                .minor(i64::from(minor))
                .build()
                .map_err(|err| Error::new(Kind::Corrupt, format!("the device {name}: {err}")))
        })
        .collect()
}

/// Makes, in the child and with all mounts attached, the devices that [`build`] did not: all, where the spec
/// mounts nothing on `/dev` or nodes may not be made here, and those that lie elsewhere.
pub fn complete(root: &Root, spec: &Spec, dev: Dev, without_nodes: bool) -> Result<()> {
    let all = dev == Dev::OfImage || (dev == Dev::Ours && without_nodes);
    if all {
        for device in default_devices()? {
            make_or_bind(root, &device)?;
        }
    }
    for device in devices(spec) {
        if all || !is_in_dev(device.path()) {
            make_or_bind(root, device)?;
        }
    }
    if dev == Dev::OfImage {
        let folder = root.make_dirs(Path::new("/dev"), Mode::from_raw_mode(0o755))?;
        for (name, target) in LINKS {
            match rustix::fs::symlinkat(target, &folder, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).doing(|| format!("symlink /dev/{name}")),
            }
        }
    }
    Ok(())
}

fn make_or_bind(root: &Root, device: &LinuxDevice) -> Result<()> {
    match make_node(root, device, device.path(), None) {
        Err(err) if err.errno() == Some(Errno::PERM) => bind(root, device),
        result => result,
    }
}

/// Binds the host's own node, which a user namespace may open where it could not open one of its own.
fn bind(root: &Root, device: &LinuxDevice) -> Result<()> {
    let path = device.path();
    let what = || format!("bind the host's device {}", path.display());
    let host = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
    let id = makedev(device.major() as u32, device.minor() as u32);
    if !is_device(&host, kind_of(device)?, id)? {
        return Err(Error::new(
            Kind::NotFound,
            format!("{}: the host has no device {}:{} there", what(), device.major(), device.minor()),
        )
        .hint(
            "a user namespace cannot make device nodes, so they have to be the host's, under the same name",
        ));
    }
    let tree = Detached::clone_fd(&host, false).doing(what)?;
    tree.change(&Change { set: attr::NOSUID | attr::NOEXEC, ..Change::default() }).doing(what)?;
    let place = root.make_file(path, Mode::from_raw_mode(0o666)).doing(what)?;
    tree.attach(place).doing(what)
}

/// A spec's limits with the device rules that every container has: nothing is allowed but what the spec says, and
/// the default devices, terminals, and making nodes (runtime-spec, config-linux.md, "Default Devices"; as runc).
pub fn with_defaults(resources: Option<LinuxResources>) -> Result<LinuxResources> {
    let rule = |allow: bool, kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
        if let Some(major) = major {
            builder = builder.major(major);
        }
        if let Some(minor) = minor {
            builder = builder.minor(minor);
        }
        builder.build().map_err(|err| Error::new(Kind::Corrupt, format!("a device rule: {err}")))
    };
    use LinuxDeviceType::{A, B, C};
    let mut resources = resources.unwrap_or_default();
    let mut rules = vec![rule(false, A, None, None, "rwm")?];
    rules.extend(resources.devices_mut().take().into_iter().flatten());
    rules.push(rule(true, C, None, None, "m")?);
    rules.push(rule(true, B, None, None, "m")?);
    let terminals = [(5, Some(2)), (136, None)];
    let defaults = DEFAULT.iter().map(|(_, major, minor)| (i64::from(*major), Some(i64::from(*minor))));
    for (major, minor) in defaults.chain(terminals) {
        rules.push(rule(true, C, Some(major), minor, "rwm")?);
    }
    resources.set_devices(Some(rules));
    Ok(resources)
}

/// Whether this is the null device: a character device with its number, as the number alone is also that of other
/// things (CVE-2026-88265).
pub fn is_null(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
    })
}

/// Opens the null device of the container that we are in, for reading and writing; `None` where it has none, or
/// something else in its place.
pub fn open_null() -> Result<Option<OwnedFd>> {
    // Looked at first: to open what it is not might wait, or do something.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(place) = rustix::fs::open("/dev/null", flags, Mode::empty()) else { return Ok(None) };
    if !is_null(place.as_fd()) {
        return Ok(None);
    }
    match rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(null) if is_null(null.as_fd()) => Ok(Some(null)),
        _ => Ok(None),
    }
}

/// The host's null device, checked to be one.
pub fn hosts_null() -> Result<OwnedFd> {
    let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open(\"/dev/null\")")?;
    if !is_device(&null, FileType::CharacterDevice, makedev(1, 3))? {
        return Err(Error::new(Kind::Corrupt, "the host's /dev/null is not the null device"));
    }
    Ok(null)
}
