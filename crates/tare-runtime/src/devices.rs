//! The container's `/dev`: a small tmpfs of its own with the nodes of the spec, made whole by the parent.
//!
//! The parent makes it because a user namespace may not: nodes made there cannot be opened. Nothing of the
//! image's own `/dev` is looked at (CVE-2026-41579, CVE-2026-47766).

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, Spec};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use tare_sys::mount::Detached;
use tare_sys::path::Root;
use tare_sys::{Context, Error, Kind, Result};

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

/// Builds the tmpfs with everything in it.
pub fn build(mount: &Mount, options: &Options, spec: &Spec, idmap: Option<IdMap<'_>>) -> Result<Detached> {
    let dev = options.build_new("tmpfs", mount)?;
    match idmap {
        Some(map) => {
            rustix::fs::fchown(&open_root(&dev)?, Some(Uid::from_raw(map.uid)), Some(Gid::from_raw(map.gid)))
                .doing(|| "fchown(/dev)")?;
            tare_sys::process::with_fs_ids(map.uid, map.gid, || fill(&dev, spec, idmap))?;
        }
        None => fill(&dev, spec, idmap)?,
    }
    Ok(dev)
}

fn open_root(dev: &Detached) -> Result<std::os::fd::OwnedFd> {
    dev.open(".", OFlags::RDONLY | OFlags::DIRECTORY)
}

fn fill(dev: &Detached, spec: &Spec, idmap: Option<IdMap<'_>>) -> Result<()> {
    let before = rustix::process::umask(Mode::empty());
    let result = fill_unmasked(dev, spec, idmap);
    rustix::process::umask(before);
    result
}

fn fill_unmasked(dev: &Detached, spec: &Spec, idmap: Option<IdMap<'_>>) -> Result<()> {
    let make = |name: &str, kind: FileType, mode: u32, major: u32, minor: u32| {
        rustix::fs::mknodat(dev, name, kind, Mode::from_raw_mode(mode), makedev(major, minor))
            .doing(|| format!("mknod /dev/{name} {major}:{minor}"))
    };
    for (name, major, minor) in DEFAULT {
        make(name, FileType::CharacterDevice, 0o666, major, minor)?;
    }
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
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for device in devices {
        make_device(dev, device, idmap)?;
    }
    Ok(())
}

fn make_device(dev: &Detached, device: &LinuxDevice, idmap: Option<IdMap<'_>>) -> Result<()> {
    let what = || format!("make the device {}", device.path().display());
    let name = device.path().strip_prefix("/dev/").map_err(|_| {
        Error::new(Kind::Usage, format!("{}: it lies outside /dev", what()))
            .hint("name a path below /dev: --device /dev/x:/dev/y")
    })?;
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(Error::new(Kind::Usage, format!("{}: type \"a\" is not one device", what())));
        }
    };
    let root = Root::new(open_root(dev)?);
    let parent =
        root.make_dirs(name.parent().unwrap_or(Path::new("")), Mode::from_raw_mode(0o755)).doing(what)?;
    let file = name.file_name().ok_or_else(|| Error::new(Kind::Usage, what()))?;
    let id = makedev(device.major() as u32, device.minor() as u32);
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(&parent, file, kind, mode, id) {
        // One of the defaults, asked for again.
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        result => result.doing(|| format!("mknod {}", device.path().display()))?,
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if (uid, gid) != (0, 0) {
        let (base_uid, base_gid) = idmap.map_or((0, 0), |map| (map.uid, map.gid));
        let (uid, gid) = (Uid::from_raw(base_uid + uid), Gid::from_raw(base_gid + gid));
        rustix::fs::chownat(parent.as_fd(), file, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .doing(what)?;
    }
    Ok(())
}
