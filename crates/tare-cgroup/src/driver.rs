//! Which way a container's cgroup is made, and where it is: what an OCI runtime needs beyond a path.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use rustix::fs::AtFlags;
use serde::{Deserialize, Serialize};
use tare_sys::{Context, Error, Kind, Result};

use crate::cgroup::{Cgroup, DELEGATE, EAGER_V2, Keeper, Making, checked, clean, not_allowed};
use crate::entrance::Start;
use crate::hierarchy::{Hierarchies, Version};
use crate::plan::Purpose;
use crate::systemd::{self, Systemd};

/// v1: the trees that an OCI container has a directory in. More than the engine's own containers have, because
/// containerd, cAdvisor and the like read these files themselves, and would else count the whole host.
pub(crate) const EAGER_OCI_V1: [&str; 6] = ["memory", "pids", "devices", "cpuacct", "blkio", "cpu"];

/// Who makes the cgroup. In JSON: `"cgroupfs"`, `{"systemd": {"user": false}}`, `"disabled"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// We do, by mkdir(2).
    Cgroupfs,
    /// systemd does, as a transient unit.
    Systemd {
        /// The manager of the user who calls, rather than the system's.
        user: bool,
    },
    /// Nobody: the container stays in the cgroup of whoever starts it.
    Disabled,
}

/// Where a container's cgroup is; what a state file keeps. Later versions may add fields, and none is renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Who made it.
    pub driver: Driver,
    /// Below the root of the hierarchy, on v1 the same in every tree: `/system.slice/tare-web.scope`. Empty if
    /// disabled.
    pub path: String,
    /// The systemd unit, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// It was made without privileges: device rules are not enforced where the kernel keeps them for root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rootless: bool,
}

impl Cgroup {
    /// Makes the cgroup of the OCI container `id`, or with systemd prepares it.
    ///
    /// `cgroups_path` is `linux.cgroupsPath` of the spec; `..` never leads above the root.
    /// - cgroupfs: an absolute path lies below the root of the hierarchy. A relative one, and the default `<id>`,
    ///   lie beside the caller's own cgroup on v2 (below its parent: what the caller is in has processes and so
    ///   cannot hand controllers down), as runc has it, and below the root on v1, as crun has it. An empty cgroup that
    ///   is there already is taken, with its other limits.
    /// - systemd: `slice:prefix:name`, default `:tare:<id>`; the unit is `<prefix>-<name>.scope` in `slice`. Nothing
    ///   is made yet, as a unit needs a process: [`Entrance::admit`](crate::Entrance::admit) does it. The path and all
    ///   values are checked. `annotations` `org.systemd.property.*` become properties of the unit.
    /// - disabled: nothing.
    ///
    /// `rootless`: if the kernel does not let this user make a cgroup, and neither a limit nor a path was asked for,
    /// the container does without, as if disabled; see [`location`](Cgroup::location). Device rules are no limit here.
    ///
    /// Errors: those of [`create`](Cgroup::create); [`Kind::Conflict`] if processes live in it or it is frozen;
    /// [`Kind::Permission`] naming the nearest cgroup above that is not delegated; [`Kind::Usage`] for a bad path or
    /// annotation; [`Kind::Unsupported`] without a way to systemd.
    pub fn create_for(
        on: &Hierarchies,
        driver: &Driver,
        id: &str,
        cgroups_path: Option<&str>,
        resources: &LinuxResources,
        annotations: &HashMap<String, String>,
        rootless: bool,
    ) -> Result<Cgroup> {
        let path = cgroups_path.filter(|path| !path.is_empty());
        match *driver {
            Driver::Disabled => Ok(Cgroup::disabled(on)),
            Driver::Cgroupfs => {
                let relative = place(on.version(), path, id)?;
                let mut cgroup = Cgroup::new(on, relative, 0, Keeper::Files);
                cgroup.rootless = rootless;
                cgroup.make_oci(resources, path.is_some())
            }
            Driver::Systemd { user } => {
                let target = systemd::target(path, id, user)?;
                let extra = systemd::annotated(annotations)?;
                let root = Systemd::connect(user)?.root()?;
                let relative = clean(Path::new(&format!("/{root}/{}", target.path)));
                let keeper = Keeper::Unit { name: target.unit.clone(), user };
                let mut cgroup = Cgroup::new(on, relative, u32::MAX, keeper);
                // A user's systemd cannot load device programs either.
                cgroup.rootless = rootless || user;
                cgroup.plan(resources, Purpose::Create).doing(|| format!("unit {}", target.unit))?;
                systemd::limits(resources, on.version(), u32::MAX, None)?;
                let start = Start { target, id: id.to_owned(), resources: resources.clone(), extra };
                cgroup.plan = Some(Box::new(start));
                Ok(cgroup)
            }
        }
    }

    /// Where [`create_for`](Cgroup::create_for) is about to make directories, for a note that outlives a kill half way;
    /// `None` where it makes none.
    ///
    /// Errors: [`Kind::Usage`] for a bad path.
    pub fn place_for(
        on: &Hierarchies,
        driver: &Driver,
        id: &str,
        cgroups_path: Option<&str>,
    ) -> Result<Option<Location>> {
        match driver {
            Driver::Cgroupfs => {
                let relative = place(on.version(), cgroups_path.filter(|path| !path.is_empty()), id)?;
                Ok(Some(Cgroup::new(on, relative, 0, Keeper::Files).location()))
            }
            // A unit is made when there is a process for it.
            Driver::Systemd { .. } | Driver::Disabled => Ok(None),
        }
    }

    fn make_oci(self, resources: &LinuxResources, named: bool) -> Result<Cgroup> {
        let making = |eager| Making { eager, take: true, rootless: self.rootless };
        let made = match self.on.version() {
            Version::V1 => self.create_v1(resources, making(&EAGER_OCI_V1)),
            Version::V2 => self.create_v2(resources, making(&EAGER_V2)),
        };
        let Err(err) = made else {
            return Ok(self);
        };
        let what = format!("make cgroup /{}", self.relative);
        if !self.rootless || !not_allowed(&err) {
            return Err(err.context(what));
        }
        if !named && !self.plan(resources, Purpose::Create)?.limits() {
            return Ok(Cgroup::disabled(&self.on));
        }
        let above = self.nearest();
        Err(err
            .context(format!("cgroup {above} is not delegated to this user"))
            .context(what)
            .with_kind(Kind::Permission)
            .hint(DELEGATE))
    }

    /// The nearest cgroup above that is there, as a person would type it.
    fn nearest(&self) -> String {
        let controller = "memory";
        let mut relative = self.relative.as_str();
        while let Some((above, _)) = relative.rsplit_once('/') {
            let dir = self.on.dir(controller, above);
            if rustix::fs::statat(self.on.root(), dir.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return self.on.shown(&dir);
            }
            relative = above;
        }
        self.on.shown(&self.on.dir(controller, "")).trim_end_matches("/.").to_owned()
    }

    fn disabled(on: &Hierarchies) -> Cgroup {
        Cgroup::new(on, String::new(), 0, Keeper::Disabled)
    }

    /// Where this cgroup is, to find it again with [`at`](Cgroup::at).
    pub fn location(&self) -> Location {
        let (driver, unit) = match &self.keeper {
            Keeper::Files => (Driver::Cgroupfs, None),
            Keeper::Unit { name, user } => (Driver::Systemd { user: *user }, Some(name.clone())),
            Keeper::Disabled => (Driver::Disabled, None),
        };
        let path = if driver == Driver::Disabled { String::new() } else { format!("/{}", self.relative) };
        Location { driver, path, unit, rootless: self.rootless }
    }

    /// The cgroup that an earlier command made. Makes no syscall; see [`open`](Cgroup::open).
    pub fn at(on: &Hierarchies, location: &Location) -> Cgroup {
        let keeper = match (location.driver, &location.unit) {
            (Driver::Disabled, _) => return Cgroup::disabled(on),
            (Driver::Systemd { user }, Some(name)) => Keeper::Unit { name: name.clone(), user },
            _ => Keeper::Files,
        };
        let mut cgroup = Cgroup::new(on, clean(Path::new(&location.path)), u32::MAX, keeper);
        cgroup.rootless = location.rootless;
        cgroup
    }

    /// Whether the container has no cgroup, because it was made so or had to do without.
    pub fn is_disabled(&self) -> bool {
        self.keeper == Keeper::Disabled
    }
}

/// The controllers that the systemd of the user who calls may hand down; none where there is no such, or it is out of
/// reach.
pub fn delegated_to_user(on: &Hierarchies) -> Vec<String> {
    if on.version() == Version::V1 {
        // systemd delegates no v1 tree to users.
        return Vec::new();
    }
    let root = Systemd::connect(true).and_then(|mut systemd| systemd.root());
    let Ok(root) = root else { return Vec::new() };
    let file = format!("{}/cgroup.controllers", on.dir("", &clean(Path::new(&format!("/{root}")))));
    let words = crate::control::read(on.root(), &file).unwrap_or_default();
    words.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Where the cgroup is to be, relative to the root of the hierarchy.
fn place(version: Version, path: Option<&str>, id: &str) -> Result<String> {
    let path = Path::new(path.unwrap_or(id));
    let inner = clean(path);
    if inner.is_empty() {
        return Err(Error::new(Kind::Usage, format!("cgroupsPath {path:?}: names no cgroup")));
    }
    let whole = match path.is_absolute() || version == Version::V1 {
        true => format!("/{inner}"),
        false => format!("/{}/{inner}", beside(&own()?)),
    };
    checked(Path::new(&whole))
}

/// The caller's own v2 cgroup.
pub(crate) fn own() -> Result<String> {
    let text = tare_sys::path::read_short("/proc/self/cgroup")?;
    Ok(text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned())
}

/// The cgroup around `own`. One that lies outside of our cgroup namespace begins with `/..`, and cannot be named.
fn beside(own: &str) -> String {
    if own.split('/').any(|part| part == "..") {
        return String::new();
    }
    Path::new(own).parent().map(clean).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_the_root() {
        let v1 = |path, id| place(Version::V1, path, id).unwrap();
        assert_eq!(v1(None, "web"), "web");
        assert_eq!(v1(Some("/a//b/"), "web"), "a/b");
        assert_eq!(v1(Some("/../../a/../b"), "web"), "b");
        assert_eq!(v1(Some("../../a"), "web"), "a");
        assert_eq!(place(Version::V2, Some("/a/b"), "x").unwrap(), "a/b");
        for bad in ["/", "..", "/..", "a/..", "/a\nb"] {
            assert!(place(Version::V1, Some(bad), "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_relative_path_is_beside_the_callers_cgroup() {
        assert_eq!(beside("/user.slice/user-1.slice/session-1.scope"), "user.slice/user-1.slice");
        assert_eq!(beside("/lane"), "");
        assert_eq!(beside("/"), "");
        assert_eq!(beside("/../other/x"), "");
    }

    #[test]
    fn a_location_is_stable_json() {
        let json = |location: &Location| serde_json::to_string(location).unwrap();
        let mut location = Location {
            driver: Driver::Systemd { user: true },
            path: "/a.slice/x.scope".into(),
            unit: Some("x.scope".into()),
            rootless: false,
        };
        let text = r#"{"driver":{"systemd":{"user":true}},"path":"/a.slice/x.scope","unit":"x.scope"}"#;
        assert_eq!(json(&location), text);
        assert_eq!(serde_json::from_str::<Location>(text).unwrap(), location);
        location.driver = Driver::Cgroupfs;
        location.unit = None;
        location.rootless = true;
        assert_eq!(json(&location), r#"{"driver":"cgroupfs","path":"/a.slice/x.scope","rootless":true}"#);
    }
}
