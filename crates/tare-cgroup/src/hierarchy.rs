//! What the host has at `/sys/fs/cgroup`: one v2 tree, or v1 trees by controller.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags};
use tare_sys::{Context, Error, Kind, Result};

use crate::control;

/// `statfs(2)` magic of a cgroup v1 hierarchy (`linux/magic.h`).
const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
/// `statfs(2)` magic of the cgroup v2 tree (`linux/magic.h`).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Every v1 controller we know, in the order of joining. `cpu` is last: whoever has joined a low-weight cpu
/// cgroup may wait for a core before it goes on.
pub(crate) const CONTROLLERS: [&str; 14] = [
    "memory",
    "pids",
    "devices",
    "freezer",
    "cpuset",
    "cpuacct",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "rdma",
    "perf_event",
    "misc",
    "cpu",
];

/// Which interface the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One tree per controller. A hybrid host, where v2 is mounted beside without controllers, counts as this.
    V1,
    /// One tree for all controllers.
    V2,
}

/// The host's cgroup mounts. Cheap to clone; looks up a v1 controller once, when it is first asked for.
#[derive(Clone, Debug)]
pub struct Hierarchies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mount: PathBuf,
    root: OwnedFd,
    version: Version,
    /// v1: where each controller is mounted.
    v1: [OnceLock<Option<Tree>>; CONTROLLERS.len()],
    /// v1: the usual controllers are where they usually are, so that nothing has to be searched.
    usual: bool,
    /// v1: the mount points of controllers by /proc/self/mountinfo, read when one is not in its usual place.
    elsewhere: OnceLock<Vec<(String, String)>>,
    /// v2: the words of the root's `cgroup.controllers`.
    v2: OnceLock<String>,
}

/// A v1 tree.
#[derive(Clone, Debug)]
struct Tree {
    /// Two controllers with one device number are one tree.
    device: u64,
    /// Its root, relative to [`Hierarchies::root`] or absolute: `memory`, `/cgroup/memory`.
    place: String,
}

impl Hierarchies {
    /// Looks at `/sys/fs/cgroup`; a v1 controller that is not there under its name is searched for in
    /// `/proc/self/mountinfo`.
    ///
    /// Errors: [`Kind::Unsupported`] where no cgroups are mounted. Source: cgroups(7).
    pub fn discover() -> Result<Hierarchies> {
        Hierarchies::look_at(Path::new("/sys/fs/cgroup"), true)
    }

    /// A host without cgroups, for [`Driver::Disabled`](crate::Driver::Disabled): it has no controller.
    pub fn none() -> Result<Hierarchies> {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| "open(\"/\", O_PATH|O_DIRECTORY)")?;
        let mut none = Inner::new(Path::new("/"), root, Version::V1, false);
        none.v1 = std::array::from_fn(|_| OnceLock::from(None));
        Ok(Hierarchies(Arc::new(none)))
    }

    /// As [`discover`](Hierarchies::discover), for another mount point.
    ///
    /// `root` is either a mounted v2 tree or a directory that holds v1 mounts named by controller.
    pub fn at(root: &Path) -> Result<Hierarchies> {
        Hierarchies::look_at(root, false)
    }

    fn look_at(root: &Path, search: bool) -> Result<Hierarchies> {
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open({root:?}, O_PATH|O_DIRECTORY)"))
            .map_err(|err| err.with_kind(Kind::Unsupported).hint(how_to_mount(root)))?;
        let stat = rustix::fs::fstatfs(&fd).doing(|| format!("fstatfs({root:?})"))?;
        let version = if stat.f_type as u64 == CGROUP2_SUPER_MAGIC { Version::V2 } else { Version::V1 };
        let mut inner = Inner::new(root, fd, version, search);
        // Two looks tell a host that mounts each by its name from one that does not: `memory` is mounted alone,
        // and `cpu` nearly always together with `cpuacct`, by links.
        inner.usual =
            version == Version::V2 || ["memory", "cpu"].iter().all(|name| inner.look(name).is_some());
        let found = Hierarchies(Arc::new(inner));
        if version == Version::V1 && !CONTROLLERS.iter().any(|name| found.mounted(name).is_some()) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("no cgroups are mounted at {}", root.display()),
            )
            .hint(how_to_mount(root)));
        }
        Ok(found)
    }

    /// Which interface this is.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// Whether a limit of this controller can be set here: `memory`, `pids`, `cpu`, `cpuset`, `io` (or `blkio`,
    /// the same), `devices`, `freezer`, `cpuacct`, `hugetlb`, `rdma`…
    ///
    /// On v2 `devices`, `freezer` and `cpuacct` are part of the kernel and always there (devices as BPF).
    pub fn has(&self, controller: &str) -> bool {
        match self.0.version {
            Version::V1 => self.mounted(if controller == "io" { "blkio" } else { controller }).is_some(),
            Version::V2 => match controller {
                "devices" | "freezer" | "cpuacct" => true,
                "blkio" => self.lists("io"),
                other => self.lists(other),
            },
        }
    }

    fn lists(&self, controller: &str) -> bool {
        let words =
            self.0.v2.get_or_init(|| control::read(self.root(), "cgroup.controllers").unwrap_or_default());
        words.split_ascii_whitespace().any(|word| word == controller)
    }

    /// v1: the device number of the controller's mount, `None` where it is not mounted.
    pub(crate) fn mounted(&self, controller: &str) -> Option<u64> {
        self.tree(controller).map(|tree| tree.device)
    }

    fn tree(&self, controller: &str) -> Option<&Tree> {
        let index = CONTROLLERS.iter().position(|&name| name == controller)?;
        let found = self.0.v1[index].get_or_init(|| {
            self.0.look(controller).or_else(|| {
                let elsewhere = self.0.elsewhere.get_or_init(|| {
                    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                    v1_mounts(&text)
                });
                // The latest mount is the one that is seen.
                elsewhere
                    .iter()
                    .rev()
                    .filter(|(name, _)| name == controller)
                    .find_map(|(_, place)| self.0.look(place))
            })
        });
        found.as_ref()
    }

    /// The mount point; paths for control files are relative to it.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.0.root.as_fd()
    }

    /// Where the cgroup `relative` has the files of `controller`, relative to [`root`](Hierarchies::root).
    pub(crate) fn dir(&self, controller: &str, relative: &str) -> String {
        // Where everything is in its usual place, nothing need be looked up.
        let place = match self.0.version == Version::V1 && !self.0.usual {
            true => self.tree(controller).map_or(controller, |tree| tree.place.as_str()),
            false => controller,
        };
        match (self.0.version, relative) {
            (Version::V1, "") => place.to_owned(),
            (Version::V1, _) => format!("{place}/{relative}"),
            (Version::V2, "") => ".".to_owned(),
            (Version::V2, _) => relative.to_owned(),
        }
    }

    /// A path relative to the root as a person would type it.
    pub(crate) fn shown(&self, path: &str) -> String {
        self.0.mount.join(path).display().to_string()
    }

    /// The directories that one cgroup may consist of: one on v2, one per controller on v1.
    pub(crate) fn dirs(&self, relative: &str) -> Vec<String> {
        match self.0.version {
            Version::V1 => CONTROLLERS.iter().map(|controller| self.dir(controller, relative)).collect(),
            Version::V2 => vec![self.dir("", relative)],
        }
    }

    /// The error for a limit whose controller is not here.
    pub(crate) fn lacks(&self, controller: &str, limit: &str) -> Error {
        let mount = self.0.mount.display();
        let err = Error::new(
            Kind::Unsupported,
            format!("{limit}: this host has no cgroup controller \"{controller}\" at {mount}"),
        );
        match self.0.version {
            Version::V1 => err.hint(format!(
                "mount it (mkdir {mount}/{controller} && mount -t cgroup -o {controller} {controller} \
                 {mount}/{controller}), or run without this limit"
            )),
            Version::V2 => err.hint(format!(
                "it is not in {mount}/cgroup.controllers: see cgroup_disable= in /proc/cmdline and whether a v1 \
                 hierarchy holds it, ask for its delegation if you are not root, or run without this limit"
            )),
        }
    }
}

impl Inner {
    fn new(mount: &Path, root: OwnedFd, version: Version, search: bool) -> Inner {
        Inner {
            mount: mount.to_owned(),
            root,
            version,
            v1: [const { OnceLock::new() }; CONTROLLERS.len()],
            usual: true,
            elsewhere: if search { OnceLock::new() } else { OnceLock::from(Vec::new()) },
            v2: OnceLock::new(),
        }
    }

    /// v1: what is mounted at `place` (relative to our mount point, or absolute), if it is a v1 tree.
    fn look(&self, place: &str) -> Option<Tree> {
        let stat = rustix::fs::statfs(self.mount.join(place)).ok()?;
        if stat.f_type as u64 != CGROUP_SUPER_MAGIC {
            return None;
        }
        let device = rustix::fs::statat(&self.root, place, AtFlags::empty()).ok()?.st_dev;
        Some(Tree { device, place: place.to_owned() })
    }
}

/// Controllers and mount points of the v1 trees in a mountinfo text (proc_pid_mountinfo(5)).
fn v1_mounts(mountinfo: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let mut words = kind.split(' ');
        if words.next() != Some("cgroup") {
            continue;
        }
        let Some(place) = mount.split(' ').nth(4) else { continue };
        // The options of the file system are the last word, and name the controllers.
        for option in
            words.next_back().unwrap_or_default().split(',').filter(|word| CONTROLLERS.contains(word))
        {
            found.push((option.to_owned(), unescape(place)));
        }
    }
    found
}

/// `\\040` is a space.
fn unescape(path: &str) -> String {
    ["040", "011", "012", "134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(path.to_owned(), |path, (code, plain)| path.replace(&format!("\\{code}"), plain))
}

fn how_to_mount(root: &Path) -> String {
    let root = root.display();
    format!("mount the cgroup tree first: mkdir -p {root} && mount -t cgroup2 cgroup2 {root}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_cgroups_is_refused_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let err = Hierarchies::at(folder.path()).unwrap_err();
        assert_eq!(err.kind(), Kind::Unsupported);
        assert!(err.hint_text().unwrap().contains("mount -t cgroup2"), "{err:?}");

        let err = Hierarchies::at(&folder.path().join("absent")).unwrap_err();
        assert_eq!(err.kind(), Kind::Unsupported);
    }

    #[test]
    fn trees_are_found_wherever_they_are_mounted() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    33 31 0:30 / /cg\\040roups/memory rw - cgroup memory rw,memory\n\
                    34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\nbroken\n - \n";
        let expected = [
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct"),
            ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("memory", "/cg roups/memory"),
        ];
        assert_eq!(v1_mounts(text), expected.map(|(name, place)| (name.to_owned(), place.to_owned())));
    }

    #[test]
    fn a_plain_folder_named_like_a_controller_is_no_controller() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("memory")).unwrap();
        assert!(Hierarchies::at(folder.path()).is_err());
    }
}
