//! One container's cgroup: a directory in one tree (v2) or in several (v1).

use std::path::{Component, Path};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::process::Pid;
use tare_sys::{Context, Error, Kind, Result};

use crate::apply::{apply, check_memory};
use crate::control;
use crate::entrance::Start;
use crate::hierarchy::{CONTROLLERS, Hierarchies, Version};
use crate::members::numbers;
use crate::plan::{self, Plan, Purpose};

/// Controllers that every container gets where the host has them: they count, kill by name and guard devices
/// even without a limit. Each costs about 0.15 ms of a start on v1, so the list is short.
const EAGER_V1: [&str; 3] = ["memory", "pids", "devices"];
/// The same on v2, where device rules are BPF and cpu time is counted without the cpu controller.
pub(crate) const EAGER_V2: [&str; 2] = ["memory", "pids"];

/// A cgroup of one container. Dropping it changes nothing; [`remove`](Cgroup::remove) does.
#[derive(Debug)]
pub struct Cgroup {
    pub(crate) on: Hierarchies,
    /// Relative to the root of the hierarchy, without `..`; empty for the root itself.
    pub(crate) relative: String,
    /// v1: bit n is set if the cgroup may have a directory in the tree of `CONTROLLERS[n]`.
    pub(crate) present: AtomicU32,
    /// Who made it.
    pub(crate) keeper: Keeper,
    /// Made without privileges: device rules are beyond us, and not an error.
    pub(crate) rootless: bool,
    /// A unit that is still to be started.
    pub(crate) plan: Option<Box<Start>>,
}

/// Who made a cgroup, and so has a say in its changes and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Nobody but us.
    Files,
    /// systemd, as this unit.
    Unit { name: String, user: bool },
    /// There is none.
    Disabled,
}

/// How a cgroup is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making<'a> {
    /// v1: trees that it gets a directory in even without a limit.
    pub eager: &'a [&'a str],
    /// Take an empty cgroup that is there as it is, rather than replace it.
    pub take: bool,
    /// Do without what an ordinary user may not do and nobody asked for.
    pub rootless: bool,
}

/// As the engine makes its own.
const REPLACE_V1: Making<'_> = Making { eager: &EAGER_V1, take: false, rootless: false };
const REPLACE_V2: Making<'_> = Making { eager: &EAGER_V2, take: false, rootless: false };

impl Cgroup {
    /// Makes the cgroup `path` and writes the limits of `resources`.
    ///
    /// `path` is absolute within the hierarchy, such as `/tare/<id>`. Missing parents are made and kept. A cgroup
    /// of that name that is left over and empty is replaced, so that no old limit lives on in it. On v1 it gets a
    /// directory in `memory`, `pids`, `devices` and in whatever `resources` needs. If anything fails, no
    /// directory of it is left.
    ///
    /// Errors: [`Kind::Unsupported`] for a limit that the host or its cgroup version cannot do,
    /// [`Kind::Conflict`] if the cgroup exists and has processes, [`Kind::Usage`] for values without sense, and
    /// what the kernel says to a value, by the limit's name. Source: cgroups(7), the kernel's
    /// admin-guide/cgroup-v1 and cgroup-v2.
    pub fn create(on: &Hierarchies, path: &Path, resources: &LinuxResources) -> Result<Cgroup> {
        let cgroup = Cgroup::new(on, checked(path)?, 0, Keeper::Files);
        match on.version() {
            Version::V1 => cgroup.create_v1(resources, REPLACE_V1),
            Version::V2 => cgroup.create_v2(resources, REPLACE_V2),
        }
        .doing(|| format!("make cgroup /{}", cgroup.relative))?;
        Ok(cgroup)
    }

    /// The cgroup `path` as it is, made by an earlier command. Makes no syscall; a path that does not exist
    /// (in some trees, or in all) shows when it is used. `..` never leads above the root.
    pub fn open(on: &Hierarchies, path: &Path) -> Cgroup {
        Cgroup::new(on, clean(path), u32::MAX, Keeper::Files)
    }

    pub(crate) fn new(on: &Hierarchies, relative: String, present: u32, keeper: Keeper) -> Cgroup {
        let present = AtomicU32::new(present);
        Cgroup { on: on.clone(), relative, present, keeper, rootless: false, plan: None }
    }

    /// Writes new limits into the running cgroup; what `resources` does not name stays as it is. On v1 a
    /// controller that was not needed before gets its directory now, and the processes move in.
    ///
    /// Errors: as [`create`](Cgroup::create). Limits written before the one that failed stay written.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let relative = self.relative()?;
        let update = || -> Result<()> {
            let plan = self.plan(resources, Purpose::Update)?;
            // Before anybody writes anything, systemd too.
            check_memory(&self.on, relative, &plan)?;
            if let Keeper::Unit { name, user } = &self.keeper {
                self.update_unit(name, *user, resources)?;
            }
            match self.on.version() {
                Version::V1 => {
                    let fresh = self.make_missing(&plan)?;
                    self.apply(&plan, Purpose::Update)?;
                    fresh.iter().try_for_each(|controller| self.move_in(controller))
                }
                Version::V2 => {
                    self.enable(&plan, &[])?;
                    self.apply(&plan, Purpose::Update)
                }
            }
        };
        update().doing(|| format!("update cgroup /{relative}"))
    }

    /// The plan for these limits; without device rules where an ordinary user on v1 cannot have any.
    pub(crate) fn plan(&self, resources: &LinuxResources, purpose: Purpose) -> Result<Plan> {
        match self.on.version() {
            Version::V1 => {
                let plan = plan::v1(resources, purpose)?;
                Ok(if self.rootless { plan.without_devices() } else { plan })
            }
            Version::V2 => plan::v2(resources),
        }
    }

    pub(crate) fn apply(&self, plan: &Plan, purpose: Purpose) -> Result<()> {
        apply(&self.on, self.relative()?, plan, purpose, self.rootless)
    }

    pub(crate) fn create_v1(&self, resources: &LinuxResources, making: Making<'_>) -> Result<()> {
        let mut plan = self.plan(resources, Purpose::Create)?;
        let needed = plan.controllers();
        if let Some((controller, limit)) = needed.iter().find(|(name, _)| self.on.mounted(name).is_none()) {
            return Err(self.on.lacks(controller, limit));
        }
        let mut undo = Undo { on: &self.on, dirs: Vec::new() };
        let mut trees = Vec::new();
        let mut taken = Vec::new();
        for controller in CONTROLLERS {
            let must = needed.iter().any(|(name, _)| *name == controller);
            if !making.eager.contains(&controller) && !must {
                continue;
            }
            // Controllers that are mounted together are one tree, with one directory for both.
            let Some(tree) = self.on.mounted(controller).filter(|tree| !trees.contains(tree)) else {
                continue;
            };
            trees.push(tree);
            let dir = self.on.dir(controller, &self.relative);
            match self.make_or_take(&dir, making) {
                Ok(true) => undo.dirs.push(dir.clone()),
                Ok(false) => taken.push(dir.clone()),
                Err(err) if making.rootless && !must && not_allowed(&err) => continue,
                Err(err) => return Err(err),
            }
            self.add(controller);
            if controller == "cpuset" {
                inherit_cpuset(&self.on, &dir)?;
            }
        }
        if making.rootless && self.present.load(Ordering::Relaxed) == 0 {
            let err = Error::new(Kind::Permission, "no cgroup tree may be written by this user");
            return Err(err.hint(DELEGATE));
        }
        let mut purpose = Purpose::Create;
        if !taken.is_empty() {
            self.refuse_members(&taken)?;
            // It may have rules from before.
            purpose = Purpose::Update;
            plan = self.plan(resources, purpose)?;
        }
        self.apply(&plan, purpose)?;
        undo.dirs.clear();
        Ok(())
    }

    pub(crate) fn create_v2(&self, resources: &LinuxResources, making: Making<'_>) -> Result<()> {
        let plan = self.plan(resources, Purpose::Create)?;
        let mut undo = Undo { on: &self.on, dirs: Vec::new() };
        let purpose = match self.make_or_take(&self.relative, making)? {
            true => {
                undo.dirs.push(self.relative.clone());
                Purpose::Create
            }
            false => {
                self.refuse_members(std::slice::from_ref(&self.relative))?;
                Purpose::Update
            }
        };
        self.enable(&plan, making.eager)?;
        self.apply(&plan, purpose)?;
        undo.dirs.clear();
        Ok(())
    }

    /// Makes one directory; says whether it is new.
    fn make_or_take(&self, dir: &str, making: Making<'_>) -> Result<bool> {
        if !making.take {
            return make_fresh(&self.on, dir).map(|()| true);
        }
        match make(&self.on, dir) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(refused_to_make(&self.on, dir, errno)),
        }
    }

    /// A cgroup that was there may be taken if nobody lives in it, and what goes in does not freeze.
    fn refuse_members(&self, dirs: &[String]) -> Result<()> {
        let members = self.members(dirs)?;
        if !members.is_empty() {
            let pids: Vec<Pid> = members.into_iter().filter_map(|pid| Pid::from_raw(pid.get())).collect();
            return Err(Error::new(Kind::Conflict, format!("it exists, and {} live in it", numbers(&pids)))
                .hint("is that container running? else give it another cgroupsPath"));
        }
        if self.is_frozen()? {
            return Err(Error::new(Kind::Conflict, "it exists, and is frozen")
                .hint("thaw it first, or give the container another cgroupsPath"));
        }
        Ok(())
    }

    /// v1: makes the directories that the plan needs and that are not there; returns their controllers.
    pub(crate) fn make_missing(&self, plan: &Plan) -> Result<Vec<&'static str>> {
        let mut fresh = Vec::new();
        for (controller, limit) in plan.controllers() {
            let known = CONTROLLERS.into_iter().find(|known| *known == controller);
            let Some(known) = known.filter(|known| self.on.mounted(known).is_some()) else {
                return Err(self.on.lacks(controller, limit));
            };
            if self.make_in(known)? {
                fresh.push(known);
            }
        }
        Ok(fresh)
    }

    /// v1: makes sure that the cgroup has a directory in this tree; says whether it is new.
    pub(crate) fn make_in(&self, controller: &'static str) -> Result<bool> {
        let dir = self.on.dir(controller, self.relative()?);
        let made = make(&self.on, &dir);
        self.add(controller);
        match made {
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(refused_to_make(&self.on, &dir, errno)),
            Ok(()) => {
                if controller == "cpuset" {
                    inherit_cpuset(&self.on, &dir)?;
                }
                Ok(true)
            }
        }
    }

    /// v2: makes the ancestors hand down the controllers that the plan needs (an error if they cannot) and
    /// those in `wanted` (tried, no more).
    pub(crate) fn enable(&self, plan: &Plan, wanted: &[&str]) -> Result<()> {
        let needed = plan.controllers();
        let here = format!("{}/cgroup.controllers", self.relative);
        let has =
            control::read(self.on.root(), &here).doing(|| format!("read({:?})", self.on.shown(&here)))?;
        let lacking = |name: &str| !has.split_ascii_whitespace().any(|word| word == name);
        let needed: Vec<_> =
            needed.into_iter().filter(|(name, _)| *name != "cgroup" && lacking(name)).collect();
        let wanted: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|name| lacking(name) && self.on.has(name) && !needed.iter().any(|(own, _)| own == name))
            .collect();
        if let Some((controller, limit)) = needed.iter().find(|(name, _)| !self.on.has(name)) {
            return Err(self.on.lacks(controller, limit));
        }
        if needed.is_empty() && wanted.is_empty() {
            return self.settle_controllers();
        }
        // From the root down: a cgroup can only hand down what it was handed.
        let ends = self.relative.match_indices('/').map(|(end, _)| end);
        for ancestor in std::iter::once("").chain(ends.map(|end| &self.relative[..end])) {
            let file = format!("{}/cgroup.subtree_control", self.on.dir("", ancestor));
            let now =
                control::read(self.on.root(), &file).doing(|| format!("read({:?})", self.on.shown(&file)))?;
            let adds = |names: &mut dyn Iterator<Item = &str>| -> String {
                let lacking = names.filter(|name| !now.split_ascii_whitespace().any(|word| word == *name));
                lacking.map(|name| format!("+{name} ")).collect::<String>().trim_end().to_owned()
            };
            let must = adds(&mut needed.iter().map(|(name, _)| *name));
            let both = adds(&mut needed.iter().map(|(name, _)| *name).chain(wanted.iter().copied()));
            if both.is_empty() || control::write(self.on.root(), &file, &both).is_ok() || must.is_empty() {
                continue;
            }
            control::write(self.on.root(), &file, &must).map_err(|errno| {
                let err = Error::syscall(format!("write({:?}, {must:?})", self.on.shown(&file)), errno);
                let limits: Vec<&str> = needed.iter().map(|(_, limit)| *limit).collect();
                err.context(limits.join(", ")).hint(match errno {
                    Errno::BUSY => "a v2 cgroup that has processes of its own cannot hand controllers down: move \
                                    them into a child cgroup, or start tare from another cgroup",
                    Errno::ACCESS | Errno::PERM => {
                        "ask for delegation: systemctl set-property user@UID.service Delegate=yes, or run as root"
                    }
                    _ => "the controller is not handed down by the cgroup above",
                })
            })?;
        }
        self.settle_controllers()
    }

    /// v2: waits until the files of the controllers that are listed are there.
    ///
    /// Where somebody else enables a controller for our neighbours too, the lists name it some microseconds before
    /// its files are made. The files are made under a lock that every write to `cgroup.subtree_control` takes, one
    /// of nothing as well (`cgroup_subtree_control_write` in kernel/cgroup/cgroup.c).
    fn settle_controllers(&self) -> Result<()> {
        let file = format!("{}/cgroup.subtree_control", self.relative);
        control::write(self.on.root(), &file, "\n")
            .doing(|| format!("write({:?}, \"\\n\")", self.on.shown(&file)))
    }

    /// The path below the hierarchy's root. The root itself is refused: no verb of ours is meant for it.
    ///
    /// So every verb of a container without a cgroup ends here, with a reason.
    pub(crate) fn relative(&self) -> Result<&str> {
        if self.keeper == Keeper::Disabled {
            return Err(Error::new(
                Kind::Unsupported,
                "this container has no cgroup: cgroups are disabled for it",
            )
            .hint("make it with a cgroup driver: cgroupfs or systemd"));
        }
        match self.relative.as_str() {
            "" => Err(Error::new(Kind::Usage, "the root cgroup is not a container's")),
            relative => Ok(relative),
        }
    }

    /// The directories that the cgroup may have, as far as this handle knows, in the order of joining.
    pub(crate) fn dirs(&self) -> Result<Vec<String>> {
        let relative = self.relative()?;
        if self.on.version() == Version::V2 {
            return Ok(self.on.dirs(relative));
        }
        let present = self.present.load(Ordering::Relaxed);
        let chosen = CONTROLLERS.iter().enumerate().filter(|(index, _)| present & (1 << index) != 0);
        Ok(chosen.map(|(_, controller)| self.on.dir(controller, relative)).collect())
    }

    fn add(&self, controller: &str) {
        if let Some(index) = CONTROLLERS.iter().position(|name| *name == controller) {
            self.present.fetch_or(1 << index, Ordering::Relaxed);
        }
    }
}

/// Takes the directories away again unless it is emptied first.
struct Undo<'a> {
    on: &'a Hierarchies,
    dirs: Vec<String>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for dir in self.dirs.iter().rev() {
            // The failure that got us here is the one to report.
            let _ = rustix::fs::unlinkat(self.on.root(), dir.as_str(), AtFlags::REMOVEDIR);
        }
    }
}

/// What to do for an ordinary user.
pub(crate) const DELEGATE: &str = "this takes root, or a cgroup that was delegated to you (systemd: Delegate=yes); \
                                   or use the systemd driver, or run without limits";

/// Whether the kernel said "not you", or "not here".
pub(crate) fn not_allowed(err: &Error) -> bool {
    matches!(err.errno(), Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)) || err.kind() == Kind::Permission
}

/// The names of a path, without `..` leading above the first.
pub(crate) fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

/// A path for a new cgroup must be one, and mean one thing only.
pub(crate) fn checked(path: &Path) -> Result<String> {
    let refuse = |why: &str| {
        Err(Error::new(Kind::Usage, format!("cgroup path {path:?}: {why}"))
            .hint("give an absolute path within the hierarchy, for example /tare/web"))
    };
    if !path.is_absolute() {
        return refuse("not absolute");
    }
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) if !name.contains(['\n', '\0']) => parts.push(name),
                _ => return refuse("a name in it is not plain text"),
            },
            _ => return refuse("'..' in it"),
        }
    }
    if parts.is_empty() {
        return refuse("the root cgroup is not a container's");
    }
    Ok(parts.join("/"))
}

/// One mkdir where the parents are there, which is all but the first time.
fn make(on: &Hierarchies, dir: &str) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdirat(on.root(), dir, mode) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    for (end, _) in dir.match_indices('/') {
        match rustix::fs::mkdirat(on.root(), &dir[..end], mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::mkdirat(on.root(), dir, mode)
}

/// As [`make`], but an empty one that is there is replaced.
fn make_fresh(on: &Hierarchies, dir: &str) -> Result<()> {
    let made = match make(on, dir) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(on.root(), dir, AtFlags::REMOVEDIR).and_then(|()| make(on, dir))
        }
        result => result,
    };
    made.map_err(|errno| refused_to_make(on, dir, errno))
}

fn refused_to_make(on: &Hierarchies, dir: &str, errno: Errno) -> Error {
    let err = Error::syscall(format!("mkdir({:?})", on.shown(dir)), errno);
    match errno {
        Errno::BUSY => {
            err.hint("a cgroup of that name has processes or children: is that container running?")
        }
        Errno::ACCESS | Errno::PERM => {
            err.hint("this takes root, or a cgroup that was delegated to you (systemd: Delegate=yes)")
        }
        Errno::ROFS => err.hint("the cgroup tree is mounted read-only here"),
        Errno::AGAIN | Errno::NOSPC | Errno::NOMEM => {
            err.hint("the host allows no more cgroups here: see cgroup.max.descendants and /proc/cgroups")
        }
        _ => err,
    }
}

/// v1: a new cpuset has no cpus and no memory nodes, and takes no process in that state. So it, and each
/// parent in the same state, gets what the parent has.
fn inherit_cpuset(on: &Hierarchies, dir: &str) -> Result<()> {
    fn filled(on: &Hierarchies, dir: &str, file: &str) -> Result<String> {
        let path = format!("{dir}/{file}");
        let now = control::read(on.root(), &path).doing(|| format!("read({:?})", on.shown(&path)))?;
        match dir.rsplit_once('/') {
            Some((parent, _)) if now.trim().is_empty() => {
                let value = filled(on, parent, file)?;
                control::write(on.root(), &path, &value)
                    .doing(|| format!("write({:?}, {value:?})", on.shown(&path)))?;
                Ok(value)
            }
            _ => Ok(now.trim().to_owned()),
        }
    }
    filled(on, dir, "cpuset.cpus").and_then(|_| filled(on, dir, "cpuset.mems")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_path_is_absolute_and_plain() {
        assert_eq!(checked(Path::new("/tare//web")).unwrap(), "tare/web");
        for bad in ["", "/", "tare/web", "/tare/../web", "/..", "/tare/a\nb"] {
            assert_eq!(checked(Path::new(bad)).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }
}
