//! The mounts of a spec: their options read once, each built detached, then attached in the spec's order.
//!
//! Who builds what: *binds* come from host paths, so the parent opens them before the container has a view of
//! its own (and shows them through its id map); *new file systems* belong to the container's namespaces, so
//! the child makes them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use tare_sys::mount::{Change, Detached, NewFs, Propagation, attr};
use tare_sys::path::Root;
use tare_sys::{Context, Error, Kind, Result};

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
            // They change nothing: "defaults" says so itself, "rw" and the like are how a mount starts.
            "defaults" | "" => {}
            other => match other.split_once('=') {
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

    /// Builds a bind mount from its host path. `userns`: whose id map it is seen through, if `idmap` asks.
    pub fn build_bind(&self, mount: &Mount, userns: Option<BorrowedFd<'_>>) -> Result<Detached> {
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        let what = || format!("bind mount {} to {}", source.display(), mount.destination().display());
        let tree = Detached::clone_path(source, self.recursive_bind).map_err(|err| match err.errno() {
            Some(Errno::NOENT) => {
                Error::new(Kind::NotFound, format!("{}: the source path does not exist", what()))
                    .hint("create it first, or check the path for a typo")
            }
            _ => err.context(what()),
        })?;
        // A copy of a shared mount is shared with it: mounts made inside would appear on the host.
        let (propagation, propagation_deep) = self.propagation.unwrap_or((Propagation::Private, true));
        let idmap = userns.zip(self.idmap);
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

    /// Makes a new file system in the caller's namespaces.
    pub fn build_new(&self, kind: &'static str, mount: &Mount) -> Result<Detached> {
        let what = || format!("mount {kind} on {}", mount.destination().display());
        let mut fs = NewFs::open(kind).doing(what)?;
        for (key, value) in &self.data {
            fs = match value {
                Some(value) => fs.string(key, value),
                None => fs.flag(key),
            }
            .doing(what)?;
        }
        fs.mount(self.set | self.set_recursive).doing(what)
    }
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
        "atime" | "relatime" => (attr::ATIME, true),
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

/// The file systems that a spec may ask for by type.
pub fn known_kind(kind: &str) -> Option<&'static str> {
    ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2", "ramfs"]
        .into_iter()
        .find(|known| *known == kind)
}

/// Attaches a mount at `destination` inside the root, making the place where it is missing: a folder for a
/// folder, a file for anything else. Only a bind mount can be anything else. Answers the place, for a caller
/// whom closing it costs more than keeping it.
pub fn attach(root: &Root, destination: &Path, mount: &Detached, bind: bool) -> Result<OwnedFd> {
    let what = || format!("attach the mount on {}", destination.display());
    let folder = !bind || {
        let stat = rustix::fs::fstat(mount).doing(|| "fstat(mount)")?;
        FileType::from_raw_mode(stat.st_mode) == FileType::Directory
    };
    let target = if folder {
        root.make_dirs(destination, Mode::from_raw_mode(0o755)).doing(what)?
    } else {
        root.make_file(destination, Mode::from_raw_mode(0o644)).doing(what)?
    };
    match mount.attach(target.as_fd()).doing(what) {
        Ok(()) => Ok(target),
        Err(err) if err.errno() == Some(Errno::NOTDIR) => {
            Err(err.with_kind(Kind::Usage).hint("a folder goes on a folder, and a file on a file"))
        }
        Err(err) => Err(err),
    }
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
