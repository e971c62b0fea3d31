//! The mounts of a spec: their options read once, each built detached, then attached in the spec's order.
//!
//! Who builds what: *binds* come from host paths, so the parent opens them before the container has a view of
//! its own (and shows them through its id map); *new file systems* belong to the container's namespaces, so
//! the child makes them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::mount::{Change, Detached, NewFs, Propagation, attr};
use tare_sys::path::Root;
use tare_sys::{Context, Error, Kind, Result};

use crate::rootfs::IdMap;

/// The option strings of one mount, understood.
#[derive(Debug, Default)]
pub struct Options {
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`.
    pub recursive_bind: bool,
    set: u64,
    clear: u64,
    /// Of `rro` and its kin: for everything mounted below as well.
    set_recursive: u64,
    clear_recursive: u64,
    propagation: Option<(Propagation, bool)>,
    /// `idmap`, or `ridmap` with everything mounted below.
    idmap: Option<bool>,
    /// What the file system itself shall know: `size=64m`.
    data: Vec<(String, Option<String>)>,
    /// `tmpcopyup`: the tmpfs begins with what it covers.
    pub copy_up: bool,
    /// `copy-symlink`: a source that is a link is made again as a link.
    pub copy_link: bool,
    /// `src-nofollow`: a source that is a link is bound as the link it is.
    source_nofollow: bool,
    /// `subpath=…`: what is bound lies here in the source. Nothing in the source, whoever made it, leads out of it
    /// (CVE-2023-3676 and its kin, kubernetes#63818).
    subpath: Option<PathBuf>,
    /// `lower=…`, each: what is bound is this stack of layers, the lowest first, read-only.
    lower: Vec<PathBuf>,
    /// `dest-nofollow`: a destination that is a link is covered, not followed.
    destination_nofollow: bool,
}

impl Options {
    /// Reads a mount's options. Those of mount(8) that this knows are taken; the rest go to the file system,
    /// and to a bind, which has none, they are an error.
    pub fn of(mount: &Mount) -> Result<Options> {
        let mut options = Options { bind: mount.typ().as_deref() == Some("bind"), ..Options::default() };
        for word in mount.options().iter().flatten() {
            options.take(word);
        }
        if options.bind && !options.data.is_empty() {
            let unknown: Vec<&str> = options.data.iter().map(|(key, _)| key.as_str()).collect();
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "mount {}: a bind mount has no option {}",
                    mount.destination().display(),
                    unknown.join(", ")
                ),
            ));
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) {
        if let Some((bits, clears)) = attribute(word) {
            if clears {
                self.clear_attr(bits)
            } else {
                self.set_attr(bits)
            }
            return;
        }
        if let Some((bits, clears)) = word.strip_prefix('r').and_then(attribute) {
            if clears {
                self.clear_recursive |= bits;
                self.set_recursive &= !bits;
            } else {
                let field = whole_field(bits);
                self.set_recursive = (self.set_recursive & !field) | bits;
                self.clear_recursive = (self.clear_recursive & !field) | (field & attr::ATIME);
            }
            return;
        }
        match word {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive_bind) = (true, true),
            "private" => self.propagation = Some((Propagation::Private, false)),
            "rprivate" => self.propagation = Some((Propagation::Private, true)),
            "slave" => self.propagation = Some((Propagation::Slave, false)),
            "rslave" => self.propagation = Some((Propagation::Slave, true)),
            "shared" => self.propagation = Some((Propagation::Shared, false)),
            "rshared" => self.propagation = Some((Propagation::Shared, true)),
            "unbindable" => self.propagation = Some((Propagation::Unbindable, false)),
            "runbindable" => self.propagation = Some((Propagation::Unbindable, true)),
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "copy-symlink" => self.copy_link = true,
            "src-nofollow" => self.source_nofollow = true,
            "dest-nofollow" => self.destination_nofollow = true,
            // "defaults" says itself that it changes nothing; this way of mounting never prints anything that
            // "silent" could keep quiet; and access lists are a matter of the kernel's build, not of a mount.
            "defaults" | "" | "silent" | "loud" | "acl" | "noacl" => {}
            other => match other.split_once('=') {
                Some(("lower", path)) if self.bind => self.lower.push(PathBuf::from(path)),
                Some(("subpath", path)) if self.bind => self.subpath = Some(PathBuf::from(path)),
                Some((key, value)) => self.data.push((key.to_owned(), Some(value.to_owned()))),
                None => self.data.push((other.to_owned(), None)),
            },
        }
    }

    fn set_attr(&mut self, bits: u64) {
        let field = whole_field(bits);
        self.set = (self.set & !field) | bits;
        // To set one of the access-time modes, the kernel wants the whole field cleared first.
        self.clear = (self.clear & !field) | (field & attr::ATIME);
    }

    fn clear_attr(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }

    /// Builds a bind mount from its host path. `userns`: whose id map it is seen through, if `idmap` asks and the
    /// mount has no map of its own.
    pub fn build_bind(&self, mount: &Mount, userns: Option<BorrowedFd<'_>>) -> Result<Detached> {
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        let what = || format!("bind mount {} to {}", source.display(), mount.destination().display());
        let tree = self.open_source(source, userns).map_err(|err| match err.errno() {
            Some(Errno::NOENT) if self.subpath.is_some() => {
                let part = self.subpath.as_deref().unwrap_or(Path::new(""));
                Error::new(
                    Kind::NotFound,
                    format!("{}: cannot access path {}: no such file or directory", what(), part.display()),
                )
                .hint("a subpath has to be there, inside the volume, before it can be mounted")
            }
            Some(Errno::NOENT) => Error::new(
                Kind::NotFound,
                format!("{}: the source path does not exist: no such file or directory", what()),
            )
            .hint("create it first, or check the path for a typo"),
            _ => err.context(what()),
        })?;
        let own_map = match (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref()) {
            (Some(uids @ [_, ..]), Some(gids @ [_, ..])) => Some(crate::idmap::namespace(uids, gids)?),
            (None | Some([]), None | Some([])) => None,
            _ => {
                return Err(Error::new(Kind::Usage, format!("{}: one of its id maps is missing", what()))
                    .hint("give the mount both uidMappings and gidMappings"));
            }
        };
        let idmap = match (&own_map, self.idmap, userns) {
            (Some(own), wish, _) => Some((own.as_fd(), wish.unwrap_or(false))),
            (None, Some(recursive), Some(userns)) => Some((userns, recursive)),
            (None, Some(_), None) => {
                return Err(Error::new(Kind::Usage, format!("{}: idmap without an id map", what()))
                    .hint("give the mount uidMappings and gidMappings, or the container a user namespace"));
            }
            (None, None, _) => None,
        };
        // A copy of a shared mount is shared with it: mounts made inside would appear on the host.
        let (propagation, propagation_deep) = self.propagation.unwrap_or((Propagation::Private, true));
        let part = |deep: bool| Change {
            set: if deep { self.set_recursive } else { self.set },
            clear: if deep { self.clear_recursive } else { self.clear },
            propagation: (propagation_deep == deep).then_some(propagation),
            idmap: idmap.filter(|(_, recursive)| *recursive == deep).map(|(userns, _)| userns),
            recursive: deep,
        };
        for change in [part(false), part(true)] {
            if change.set | change.clear != 0 || change.propagation.is_some() || change.idmap.is_some() {
                tree.change(&change).doing(what).map_err(|err| match change.idmap {
                    Some(_) => explain_idmap(err, "--userns=host"),
                    None => err,
                })?;
            }
        }
        Ok(tree)
    }

    /// `userns`: whose id map the layers of a stack are seen through; a stack itself cannot be.
    fn open_source(&self, source: &Path, userns: Option<BorrowedFd<'_>>) -> Result<Detached> {
        if !self.lower.is_empty() {
            let idmap = userns.map(|userns| IdMap { userns, uid: 0, gid: 0 });
            let stack = crate::rootfs::layers_alone(&self.lower, idmap)?;
            let Some(subpath) = &self.subpath else { return Ok(stack) };
            // The stack has to live until the part of it was copied: a detached mount ends with its fd.
            let whole = Root::new(stack.into());
            let part = whole.open(subpath, OFlags::PATH, Mode::empty())?;
            return Detached::clone_fd(part, false);
        }
        if let Some(subpath) = &self.subpath {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let whole =
                rustix::fs::open(source, flags, Mode::empty()).doing(|| format!("open({source:?})"))?;
            let part = Root::new(whole).open(subpath, OFlags::PATH, Mode::empty())?;
            return Detached::clone_fd(part, self.recursive_bind);
        }
        if !self.source_nofollow && !self.copy_link {
            return Detached::clone_path(source, self.recursive_bind);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = rustix::fs::open(source, flags, Mode::empty()).doing(|| format!("open({source:?})"))?;
        Detached::clone_fd(link, self.recursive_bind)
    }

    /// Makes a new file system in the caller's namespaces. `label`: SELinux' for what is in it, as an option.
    pub fn build_new(&self, kind: &str, mount: &Mount, label: Option<(&str, &str)>) -> Result<Detached> {
        let what = || format!("mount {kind} on {}", mount.destination().display());
        let mut fs = NewFs::open(kind).doing(what).map_err(|err| match err.errno() {
            Some(Errno::NODEV) => err.with_kind(Kind::Unsupported).hint(format!(
                "this kernel knows no file system {kind:?}: is its module there (modprobe {kind})?"
            )),
            _ => err,
        })?;
        if let Some(source) = mount.source().as_deref().filter(|source| *source != Path::new("")) {
            fs = fs.string("source", source).doing(what)?;
        }
        for (key, value) in &self.data {
            fs = match value {
                Some(value) => fs.string(key, value),
                None => fs.flag(key),
            }
            .doing(what)?;
        }
        if let Some((option, label)) = label.filter(|_| matches!(kind, "tmpfs" | "devpts")) {
            fs = fs.string(option, label).doing(what)?;
        }
        let late = if self.copy_up { attr::RDONLY } else { 0 };
        let tree = fs.mount(self.attributes() & !late).doing(what)?;
        if let Some((propagation, recursive)) = self.propagation {
            tree.change(&Change { propagation: Some(propagation), recursive, ..Change::default() })
                .doing(what)?;
        }
        Ok(tree)
    }

    /// All attributes to set.
    pub fn attributes(&self) -> u64 {
        self.set | self.set_recursive
    }

    /// Makes a tmpfs read-only that had to be written to first.
    pub fn finish_copy_up(&self, tree: &Detached) -> Result<()> {
        match self.attributes() & attr::RDONLY {
            0 => Ok(()),
            set => tree.change(&Change { set, ..Change::default() }),
        }
    }
}

/// What `linux.rootfsPropagation` means: what everything that the container is born with becomes, and what its
/// root becomes in the end.
pub fn root_propagation(word: Option<&str>) -> Result<(Propagation, Option<(Propagation, bool)>)> {
    Ok(match word {
        None | Some("" | "slave" | "rslave") => (Propagation::Slave, None),
        Some("private" | "rprivate") => (Propagation::Private, None),
        Some("shared") => (Propagation::Slave, Some((Propagation::Shared, false))),
        Some("rshared") => (Propagation::Slave, Some((Propagation::Shared, true))),
        Some("unbindable") => (Propagation::Slave, Some((Propagation::Unbindable, false))),
        Some("runbindable") => (Propagation::Slave, Some((Propagation::Unbindable, true))),
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("rootfsPropagation {other:?} is not known")).hint(
                "it is one of slave, private, shared and unbindable, or one of these with an r before it",
            ));
        }
    })
}

/// The bits that a setting replaces: itself, and for an access-time mode the others as well.
fn whole_field(bits: u64) -> u64 {
    if bits & attr::ATIME == 0 { bits } else { bits | attr::ATIME }
}

/// An attribute word and whether it clears.
fn attribute(word: &str) -> Option<(u64, bool)> {
    Some(match word {
        "ro" => (attr::RDONLY, false),
        "rw" => (attr::RDONLY, true),
        "nosuid" => (attr::NOSUID, false),
        "suid" => (attr::NOSUID, true),
        "nodev" => (attr::NODEV, false),
        "dev" => (attr::NODEV, true),
        "noexec" => (attr::NOEXEC, false),
        "exec" => (attr::NOEXEC, true),
        "noatime" => (attr::NOATIME, false),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => (attr::ATIME, true),
        "strictatime" => (attr::STRICTATIME, false),
        "nodiratime" => (attr::NODIRATIME, false),
        "diratime" => (attr::NODIRATIME, true),
        "nosymfollow" => (attr::NOSYMFOLLOW, false),
        "symfollow" => (attr::NOSYMFOLLOW, true),
        _ => return None,
    })
}

/// The kernel says EINVAL where a file system cannot be idmapped, and EPERM where the mount already is.
pub fn explain_idmap(err: Error, way_out: &str) -> Error {
    match err.errno() {
        Some(Errno::INVAL) => err.with_kind(Kind::Unsupported).hint(format!(
            "its file system cannot show ids through a user namespace (idmapped mounts); use another file system, or {way_out}"
        )),
        Some(Errno::PERM) => err.hint(format!(
            "it is idmapped already, or belongs to a user namespace with fewer rights; use another folder, or {way_out}"
        )),
        _ => err,
    }
}

/// Attaches a spec's mount where it belongs inside the root, making the place where it is missing: a folder for
/// a folder, a file for anything else. Answers the place, for a caller whom closing it costs more than keeping it.
///
/// Where the place lies on the container's procfs, by its name or by links of the image, only files that lxcfs(1)
/// stands in for may be covered, and a procfs or sysfs itself goes on a folder that is one, not on a link to one
/// (CVE-2019-19921, CVE-2023-27561).
pub fn attach(root: &Root, mount: &Mount, options: &Options, built: &Detached) -> Result<OwnedFd> {
    let destination = mount.destination();
    let what = || format!("attach the mount on {}", destination.display());
    if destination.components().all(|part| matches!(part, Component::RootDir | Component::CurDir)) {
        return Err(Error::new(Kind::Usage, format!("{}: that is the root itself", what()))
            .hint("root.path is the place for it"));
    }
    if options.copy_link
        && let Some(target) = link_target(built)?
    {
        return root.make_link(destination, &target).doing(what);
    }
    let folder = !options.bind || is_folder(built)?;
    let kind = if options.bind { "" } else { mount.typ().as_deref().unwrap_or_default() };
    let target = if matches!(kind, "proc" | "sysfs") || options.destination_nofollow {
        plain_place(root, destination, folder)
    } else {
        place(root, destination, folder)
    };
    let target = target.doing(what)?;
    if kind != "proc" {
        refuse_proc(root, &target, mount, built).doing(what)?;
    }
    put(built, target).doing(what)
}

/// Attaches a mount of our own making.
pub fn attach_at(root: &Root, destination: &Path, built: &Detached) -> Result<OwnedFd> {
    let what = || format!("attach the mount on {}", destination.display());
    let folder = is_folder(built)?;
    place(root, destination, folder).and_then(|target| put(built, target)).doing(what)
}

fn is_folder(built: &Detached) -> Result<bool> {
    let stat = rustix::fs::fstat(built).doing(|| "fstat(mount)")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn link_target(built: &Detached) -> Result<Option<std::ffi::CString>> {
    let stat = rustix::fs::fstat(built).doing(|| "fstat(mount)")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    rustix::fs::readlinkat(built, "", Vec::new()).map(Some).doing(|| "readlinkat(mount)")
}

fn place(root: &Root, destination: &Path, folder: bool) -> Result<OwnedFd> {
    if folder {
        root.make_dirs(destination, Mode::from_raw_mode(0o755))
    } else {
        root.make_file(destination, Mode::from_raw_mode(0o644))
    }
}

/// The place itself, whatever links to it: no link is followed on the way.
fn plain_place(root: &Root, destination: &Path, folder: bool) -> Result<OwnedFd> {
    match root.find_plain(destination)? {
        Some(found) => Ok(found),
        None => {
            place(root, destination, folder)?;
            root.find_plain(destination)?.ok_or_else(|| {
                Error::new(Kind::Corrupt, format!("{}: it went away again", destination.display()))
            })
        }
    }
}

fn put(built: &Detached, target: OwnedFd) -> Result<OwnedFd> {
    match built.attach(target.as_fd()) {
        Ok(()) => Ok(target),
        Err(err) => {
            let stat = rustix::fs::fstat(&target).doing(|| "fstat(place)")?;
            let on_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            match (is_folder(built)?, on_folder) {
                (true, false) => {
                    Err(err.with_kind(Kind::Usage).context("a folder on what is not a directory"))
                }
                (false, true) => Err(err.with_kind(Kind::Usage).context("not a directory on a folder")),
                _ => Err(err),
            }
            .map_err(|err| match err.kind() {
                Kind::Usage => err.hint("a folder goes on a folder, and a file on a file"),
                _ => err,
            })
        }
    }
}

/// Files of /proc that may be covered: those whose content lxcfs(1) makes the container's own, and two that
/// tell what the host's kernel is like.
const COVERABLE: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Refuses to cover what the kernel says about processes: a label or a setting would be written to something
/// that only looks like it (CVE-2019-16884).
fn refuse_proc(root: &Root, target: &OwnedFd, mount: &Mount, built: &Detached) -> Result<()> {
    /// `PROC_SUPER_MAGIC` (linux/magic.h).
    const PROC: u64 = 0x9fa0;
    let on = |fd: BorrowedFd<'_>| -> Result<bool> {
        Ok(rustix::fs::fstatfs(fd).doing(|| "fstatfs()")?.f_type as u64 == PROC)
    };
    let destination = mount.destination();
    let inside = on(target.as_fd())? || destination == Path::new("/proc");
    if !inside || COVERABLE.iter().any(|path| destination == Path::new(path)) {
        return Ok(());
    }
    // The host's own, which somebody has mounted elsewhere, confines nobody.
    if !destination.starts_with("/proc") && !is_same_file_system(root, Path::new("/proc"), target)? {
        return Ok(());
    }
    if on(built.as_fd())? {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!("{} cannot be mounted because it is inside /proc", destination.display()),
    )
    .hint("only a procfs may be mounted there, or a file over one of those that lxcfs provides"))
}

fn is_same_file_system(root: &Root, path: &Path, file: &OwnedFd) -> Result<bool> {
    let Some(there) = root.find(path)? else { return Ok(false) };
    let device = |fd: &OwnedFd| Ok(rustix::fs::fstat(fd).doing(|| "fstat(place)")?.st_dev);
    Ok(device(&there)? == device(file)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn options(words: &[&str]) -> Options {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Options::of(&MountBuilder::default().destination("/x").typ("tmpfs").options(words).build().unwrap())
            .unwrap()
    }

    #[test]
    fn later_words_win() {
        let o = options(&["ro", "rw", "nosuid", "noatime", "strictatime"]);
        assert_eq!(o.set, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(o.clear, attr::RDONLY | attr::ATIME);
    }

    #[test]
    fn recursive_words_and_data() {
        let o = options(&["rro", "rnoatime", "rslave", "size=64m", "huge"]);
        assert_eq!(o.set_recursive, attr::RDONLY | attr::NOATIME);
        assert_eq!(o.clear_recursive, attr::ATIME);
        assert_eq!(o.propagation, Some((Propagation::Slave, true)));
        assert_eq!(o.data, [("size".to_owned(), Some("64m".to_owned())), ("huge".to_owned(), None)]);
    }

    #[test]
    fn a_bind_refuses_what_it_cannot_do() {
        let mount = MountBuilder::default()
            .destination("/x")
            .typ("bind")
            .options(vec!["size=1m".to_owned()])
            .build()
            .unwrap();
        assert_eq!(Options::of(&mount).unwrap_err().kind(), Kind::Usage);
    }
}
