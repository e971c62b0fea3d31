//! What a container has from outside, and criu therefore neither saves nor makes: bind mounts, the files that its
//! process was started with, namespaces that it joined. Each gets a name when it is saved, by which the restore
//! says what takes its place.
//!
//! The names are runc's, and so is the file for those of the standard streams: what it saved, this restores, and
//! the other way round.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use tare_cgroup::Cgroup;
use tare_sys::path::Root;
use tare_sys::process::namespace;
use tare_sys::{Context, Error, Kind, Result};

use super::wire::Message;
use crate::mounts::Options;
use crate::namespaces;

/// Where the names of the standard streams are kept, among the saved files.
const STREAMS: &str = "descriptors.json";
/// Where a container finds the folder of its socket for sd_notify(3) (`container/create.rs`).
const NOTIFY: &str = "/run/notify";

/// Fields of `criu_opts`.
mod field {
    pub const EXT_MNT: u32 = 23;
    pub const INHERIT_FD: u32 = 27;
    pub const EXTERNAL: u32 = 37;
    pub const JOIN_NS: u32 = 39;
}

/// One mount from outside.
#[derive(Debug, PartialEq, Eq)]
struct External {
    /// Its name: where the spec wants it.
    destination: PathBuf,
    /// What lies there, on the host.
    source: PathBuf,
}

/// All of them, as the spec has it. `notify`: the container's folder for sd_notify(3).
fn mounts(spec: &Spec, bundle: &Path, cgroup: &Cgroup, notify: &Path) -> Result<Vec<External>> {
    let mut all = Vec::new();
    let linux = spec.linux().as_ref();
    for mount in spec.mounts().iter().flatten() {
        let options = Options::of(mount)?;
        let destination = mount.destination();
        if options.bind {
            refuse_map(mount)?;
            let source = bundle.join(mount.source().as_deref().unwrap_or(Path::new("")));
            all.push(External { destination: destination.clone(), source });
        } else if matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && namespaces::listed(spec) & namespace::CGROUP == 0
        {
            // On v1 these are binds of its own cgroups; on v2, where there is but one, criu knows what to do.
            for (name, path) in cgroup.paths().into_iter().filter(|(name, _)| !name.is_empty()) {
                all.push(External { destination: destination.join(name), source: path.into() });
            }
        }
    }
    // Nodes that could not be made are the host's, bound.
    let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let usual = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| Path::new("/dev").join(name));
    for path in devices.iter().map(|device| device.path().clone()).chain(usual) {
        all.push(External { destination: path.clone(), source: path });
    }
    all.push(External { destination: NOTIFY.into(), source: notify.to_owned() });
    Ok(all)
}

/// criu would bind it again without its map, so that the container got other rights than it had.
fn refuse_map(mount: &Mount) -> Result<()> {
    let has = |map: &Option<Vec<_>>| map.as_ref().is_some_and(|map| !map.is_empty());
    let option = |name: &String| matches!(name.as_str(), "idmap" | "ridmap");
    if !has(mount.uid_mappings()) && !mount.options().iter().flatten().any(option) {
        return Ok(());
    }
    let what = format!("bind mount to {}: criu cannot restore an id map", mount.destination().display());
    Err(Error::new(Kind::Unsupported, what).hint("use a mount without idmap"))
}

/// Options of a dump for the mounts of process `pid`: by their place as it is, behind links.
pub fn dump_mounts(
    mut options: Message,
    pid: i32,
    spec: &Spec,
    bundle: &Path,
    cgroup: &Cgroup,
    notify: &Path,
) -> Result<Message> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open(&path, flags, Mode::empty()).doing(|| format!("open({path:?})"))?);
    let points = MountPoints::of(pid)?;
    for external in mounts(spec, bundle, cgroup, notify)? {
        let Some(found) = root.find(&external.destination)? else { continue };
        if let Some(point) = points.of_root(&found)? {
            options = options.bytes(field::EXT_MNT, pair(point, &external.destination));
        }
    }
    let linux = spec.linux().as_ref();
    for path in linux.and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default() {
        let Some(found) = root.find(Path::new(path))? else { continue };
        let stat = rustix::fs::fstat(&found).doing(|| format!("stat {path}"))?;
        // A folder is covered by a tmpfs, which criu can make.
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            options = options.bytes(field::EXT_MNT, pair(path, "/dev/null"));
        }
    }
    Ok(options)
}

/// Options of a restore for the mounts.
pub fn restore_mounts(
    mut options: Message,
    spec: &Spec,
    bundle: &Path,
    cgroup: &Cgroup,
    notify: &Path,
) -> Result<Message> {
    for external in mounts(spec, bundle, cgroup, notify)? {
        options = options.bytes(field::EXT_MNT, pair(&external.destination, &external.source));
    }
    Ok(options)
}

/// `ext_mount_map`.
fn pair(key: impl AsRef<Path>, value: impl AsRef<Path>) -> Message {
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    Message::default().bytes(1, bytes(key.as_ref())).bytes(2, bytes(value.as_ref()))
}

/// The mounts that a process sees: their number, and where they are.
struct MountPoints(Vec<(u64, String)>);

impl MountPoints {
    /// Reads mountinfo (proc_pid_mountinfo(5)).
    fn of(pid: i32) -> Result<MountPoints> {
        let path = format!("/proc/{pid}/mountinfo");
        let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
        let point = |line: &str| {
            let mut words = line.split(' ');
            let number = words.next()?.parse().ok()?;
            Some((number, unescaped(words.nth(3)?)))
        };
        Ok(MountPoints(text.lines().filter_map(point).collect()))
    }

    /// Where the mount is whose root this file is.
    fn of_root(&self, file: &OwnedFd) -> Result<Option<&str>> {
        let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .doing(|| "statx(STATX_MNT_ID)")?;
        if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(None);
        }
        let found = self.0.iter().find(|(number, _)| *number == stat.stx_mnt_id);
        Ok(found.map(|(_, point)| point.as_str()))
    }

    fn has(&self, wanted: u64) -> bool {
        self.0.iter().any(|(number, _)| *number == wanted)
    }
}

/// The kernel writes a space, tab, line end and backslash as three octal digits.
fn unescaped(text: &str) -> String {
    let pairs = [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")];
    pairs.iter().fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

/// `mnt_id` of an fdinfo (proc_pid_fdinfo(5)).
fn mount_number(fdinfo: &str) -> Result<u64> {
    let text = fs::read_to_string(fdinfo).doing(|| format!("read {fdinfo}"))?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    number
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| Error::new(Kind::Kernel, format!("{fdinfo} names no mount")))
}

/// Options of a dump for the standard streams of process `pid`, whose names go to a file in `images`.
///
/// A pipe that only its other end is outside of, criu saves with a number that it is known by. A file of the host,
/// such as a log, is known by its mount and its number.
pub fn dump_streams(mut options: Message, pid: i32, images: &Path) -> Result<Message> {
    let points = MountPoints::of(pid)?;
    let mut names = Vec::new();
    for number in 0..3 {
        let path = format!("/proc/{pid}/fd/{number}");
        let Ok(target) = fs::read_link(&path) else {
            // It has closed it.
            names.push(String::new());
            continue;
        };
        let mut name = target.to_string_lossy().into_owned();
        let mount = mount_number(&format!("/proc/{pid}/fdinfo/{number}"))?;
        if name.starts_with('/') && !points.has(mount) {
            let stat = rustix::fs::stat(&path).doing(|| format!("stat({path:?})"))?;
            name = format!("file[{mount:x}:{:x}]", stat.st_ino);
            options = options.bytes(field::EXTERNAL, &name);
        }
        names.push(name);
    }
    let file = images.join(STREAMS);
    let bytes = serde_json::to_vec(&names).unwrap_or_default();
    fs::write(&file, bytes).doing(|| format!("write {}", file.display()))?;
    Ok(options)
}

/// Options of a restore for the standard streams: each from outside becomes ours, which criu finds at `first` and
/// the two numbers after it.
pub fn restore_streams(mut options: Message, images: &Path, first: i32) -> Result<Message> {
    let file = images.join(STREAMS);
    let what = || format!("read {}", file.display());
    let bytes = fs::read(&file)
        .doing(what)
        .map_err(|err| err.hint("--image-path is the folder that a checkpoint wrote to, not a pre-dump"))?;
    let names: Vec<String> = serde_json::from_slice(&bytes)
        .map_err(|err| Error::new(Kind::Corrupt, format!("{}: {err}", what())))?;
    let mut known = Vec::new();
    for (name, number) in names.iter().zip(first..).take(3) {
        let outside = name.contains("pipe:") || name.starts_with("file[");
        // Two streams may be one pipe; then they are one again.
        if outside && !known.contains(name) {
            known.push(name.clone());
            options = options.bytes(field::INHERIT_FD, inherited(name, number));
        }
    }
    Ok(options)
}

fn inherited(name: &str, number: i32) -> Message {
    Message::default().bytes(1, name).number(2, u64::from(number.unsigned_abs()))
}

/// The namespaces that the spec joins by path.
fn joined(spec: &Spec) -> impl Iterator<Item = (LinuxNamespaceType, &Path)> {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let path = |path: &'_ Option<PathBuf>| path.as_ref().is_some_and(|path| path != Path::new(""));
    list.iter()
        .filter(move |namespace| path(namespace.path()))
        .filter_map(|namespace| Some((namespace.typ(), namespace.path().as_deref()?)))
}

/// criu's and runc's name for a namespace of these two kinds that is not the container's own.
fn name_of(kind: LinuxNamespaceType) -> Option<(&'static str, &'static str)> {
    match kind {
        LinuxNamespaceType::Network => Some(("net", "extRootNetNS")),
        LinuxNamespaceType::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// Options of a dump for namespaces.
pub fn dump_namespaces(mut options: Message, spec: &Spec) -> Result<Message> {
    for (kind, path) in joined(spec) {
        if let Some((short, name)) = name_of(kind) {
            let stat = rustix::fs::stat(path).doing(|| format!("stat({path:?})"))?;
            options = options.bytes(field::EXTERNAL, format!("{short}[{}]:{name}", stat.st_ino));
        }
    }
    Ok(options)
}

/// Options of a restore for namespaces, and the files for criu, which finds them at `first` and after it.
pub fn restore_namespaces(mut options: Message, spec: &Spec, first: i32) -> Result<(Message, Vec<OwnedFd>)> {
    let mut files = Vec::new();
    for (kind, path) in joined(spec) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .doing(|| format!("open the {kind} namespace {}", path.display()))?;
        match (name_of(kind), kind) {
            (Some((_, name)), _) => {
                options = options.bytes(field::INHERIT_FD, inherited(name, first + files.len() as i32));
                files.push(file);
            }
            (None, LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time) => {
                let what = format!("join the {kind} namespace {}: criu cannot", path.display());
                return Err(Error::new(Kind::Unsupported, what)
                    .hint("leave its path out of the spec, or the namespace"));
            }
            (None, _) => {
                let short = match kind {
                    LinuxNamespaceType::Mount => "mnt",
                    LinuxNamespaceType::Uts => "uts",
                    LinuxNamespaceType::Ipc => "ipc",
                    _ => "user",
                };
                let join = Message::default().bytes(1, short).bytes(2, path.as_os_str().as_encoded_bytes());
                options = options.bytes(field::JOIN_NS, join);
            }
        }
    }
    Ok((options, files))
}

/// Makes, in a root that may be fresh, the places for its mounts where they are missing: `create` made them in the
/// one that was saved. What is to lie in another mount has its place there.
pub fn make_places(rootfs: &Path, spec: &Spec, bundle: &Path) -> Result<()> {
    let what = || format!("open the root file system {}", rootfs.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open(rootfs, flags, Mode::empty()).doing(what)?);
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for (index, mount) in mounts.iter().enumerate() {
        let place = mount.destination();
        if mounts[..index].iter().any(|above| place.starts_with(above.destination())) {
            continue;
        }
        let source = bundle.join(mount.source().as_deref().unwrap_or(Path::new("")));
        let what = || format!("make the place for the mount on {}", place.display());
        match Options::of(mount)?.bind && !source.is_dir() {
            true => root.make_file(place, Mode::from_raw_mode(0o644)),
            false => root.make_dirs(place, Mode::from_raw_mode(0o755)),
        }
        .doing(what)?;
    }
    Ok(())
}

/// Brings up the loopback interface in the network namespace of a process, as `create` does: criu makes that
/// namespace, and leaves it as it is.
pub fn raise_loopback(pid: i32) -> Result<()> {
    let open = |path: String| {
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open({path:?})"))
    };
    let theirs = open(format!("/proc/{pid}/ns/net"))?;
    let back = open("/proc/self/ns/net".to_owned())?;
    tare_sys::process::enter(theirs.as_fd(), namespace::NET)?;
    let raised = tare_sys::link::loopback_up();
    tare_sys::process::enter(back.as_fd(), namespace::NET)?;
    raised
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_known_by_number() {
        let points = MountPoints::of(std::process::id().cast_signed()).unwrap();
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(points.of_root(&root).unwrap(), Some("/"));
        let below = rustix::fs::open("/proc/self", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(points.of_root(&below).unwrap(), None);
        assert_eq!(unescaped(r"/a\040b\134c"), r"/a b\c");
    }
}
