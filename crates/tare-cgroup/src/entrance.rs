//! The way in: what a container's first process needs to be in the cgroup before it is anything else.

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use tare_sys::{Context, Error, Kind, Result};

use crate::cgroup::{Cgroup, EAGER_V2, Keeper};
use crate::control;
use crate::driver::{EAGER_OCI_V1, own};
use crate::hierarchy::{CONTROLLERS, Version};
use crate::plan::Purpose;
use crate::systemd::{self, Property, Systemd, Target};

/// How a process gets into a cgroup. Open files are close-on-exec.
///
/// The kernel checks the rights of whoever opened them, so a child in a new user namespace can use what its
/// parent opened on the host.
#[derive(Debug)]
pub enum Entrance {
    /// The cgroup's directory (`O_PATH`), for `clone3(CLONE_INTO_CGROUP)`: the child is born inside.
    V2(OwnedFd),
    /// The `tasks` file of each tree, `cpu` last, for [`join`](Entrance::join).
    V1(Vec<OwnedFd>),
    /// systemd puts the child in: its parent calls [`admit`](Entrance::admit) while the child waits.
    Unit(Box<Admission>),
    /// There is no cgroup, and nothing to do.
    Disabled,
}

/// What is to be asked of systemd once there is a process.
#[derive(Debug)]
pub struct Admission {
    /// A handle of its own, so that the entrance may outlive the one it was made from.
    cgroup: Cgroup,
    unit: String,
    user: bool,
    /// The unit to start; `None`: it runs, and the process is moved into it.
    start: Option<Start>,
}

/// A unit that is still to be started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub target: Target,
    pub id: String,
    pub resources: LinuxResources,
    /// Properties from annotations.
    pub extra: Vec<Property>,
}

impl Cgroup {
    /// Opens the way in. On v1, of a cgroup that was [`open`](Cgroup::open)ed, in every tree where it exists.
    ///
    /// Errors: [`Kind::NotFound`] where the cgroup exists in no tree.
    pub fn entrance(&self) -> Result<Entrance> {
        match &self.keeper {
            Keeper::Disabled => return Ok(Entrance::Disabled),
            Keeper::Unit { name, user } => {
                // For a running unit, only where the kernel would not let us.
                if self.plan.is_some() || (*user && !self.may_enter()?) {
                    let mut cgroup =
                        Cgroup::new(&self.on, self.relative()?.to_owned(), u32::MAX, self.keeper.clone());
                    cgroup.rootless = self.rootless;
                    let start = self.plan.as_deref().cloned();
                    let admission = Admission { cgroup, unit: name.clone(), user: *user, start };
                    return Ok(Entrance::Unit(Box::new(admission)));
                }
            }
            Keeper::Files => {}
        }
        let root = self.on.root();
        let mut files = Vec::new();
        for dir in self.dirs()? {
            if self.on.version() == Version::V2 {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(root, dir.as_str(), flags, Mode::empty());
                return opened
                    .map(Entrance::V2)
                    .doing(|| format!("open({:?}, O_PATH|O_DIRECTORY)", self.on.shown(&dir)));
            }
            let path = format!("{dir}/tasks");
            match control::open_write(root, &path) {
                Ok(file) => files.push(file),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    return Err(Error::syscall(format!("open({:?}, O_WRONLY)", self.on.shown(&path)), errno));
                }
            }
        }
        match files.is_empty() {
            true => Err(Error::new(Kind::NotFound, format!("cgroup /{}: in no hierarchy", self.relative()?))),
            false => Ok(Entrance::V1(files)),
        }
    }

    /// v2: whether a process may go from our own cgroup to this one: who moves it must be allowed to write to the
    /// nearest cgroup around both. Source: cgroup-v2.rst, "Delegation Containment".
    fn may_enter(&self) -> Result<bool> {
        if self.on.version() == Version::V1 {
            return Ok(true);
        }
        let own = own()?;
        let ours = own.split('/').filter(|part| !part.is_empty());
        let both = self.relative()?.split('/').zip(ours).take_while(|(one, two)| one == two);
        let around: Vec<&str> = both.map(|(part, _)| part).collect();
        let file = format!("{}/cgroup.procs", self.on.dir("", &around.join("/")));
        Ok(rustix::fs::accessat(self.on.root(), file, Access::WRITE_OK, AtFlags::EACCESS).is_ok())
    }
}

impl Entrance {
    /// Moves the calling thread in; called by the child while that thread is all it has. Each v1 tree costs
    /// one write of about 60 µs: a thread that moves itself needs no grace period of the kernel's, a process
    /// named by its number does (11 ms and more).
    ///
    /// On v2 this is for a process that was not born inside. It moves the whole process, costs a grace period,
    /// and needs the caller's own rights to the directory. For a unit, and without a cgroup, it does nothing.
    ///
    /// Errors: `EINVAL` from `cpu` for a realtime process on kernels with `RT_GROUP_SCHED`; `EAGAIN` from
    /// `pids` never: the limit stops forks, not arrivals. Source: cgroups(7).
    pub fn join(&self) -> Result<()> {
        match self {
            Entrance::V2(dir) => control::write(dir.as_fd(), "cgroup.procs", "0")
                .doing(|| format!("write({}/cgroup.procs, \"0\")", tare_sys::path::fd_name(dir))),
            Entrance::V1(files) => files.iter().try_for_each(|file| {
                control::write_fd(file, "0").map_err(|errno| {
                    let err =
                        Error::syscall(format!("write({}, \"0\")", tare_sys::path::fd_name(file)), errno)
                            .context("join cgroup");
                    match errno {
                        Errno::INVAL => err.hint(
                            "a realtime process cannot join a cpu cgroup without realtime time: start tare \
                             with the normal scheduling policy (chrt -o 0)",
                        ),
                        Errno::NOSPC => err.hint("the cpuset has no cpus or no memory nodes"),
                        _ => err,
                    }
                })
            }),
            Entrance::Unit(_) | Entrance::Disabled => Ok(()),
        }
    }

    /// Puts the child into a systemd unit, with all its limits. The parent calls it after clone(2), and lets the
    /// child go on (to its cgroup namespace, to making devices, to the container's command) only when it has
    /// returned. `child` is its number in the caller's pid namespace. For every other entrance it does nothing.
    ///
    /// If it fails, the unit may be there with the child in it: kill the child, then [`remove`](Cgroup::remove).
    ///
    /// Errors: what systemd says, with the unit's name; after 30 s a time-out; then those of writing limits.
    pub fn admit(&self, child: Pid) -> Result<()> {
        match self {
            Entrance::Unit(admission) => admission.admit(child),
            _ => Ok(()),
        }
    }
}

impl Admission {
    fn admit(&self, child: Pid) -> Result<()> {
        let number = child.as_raw_nonzero().get();
        let mut systemd = Systemd::connect(self.user)?;
        let Some(start) = &self.start else {
            return systemd.attach(&self.unit, number.unsigned_abs());
        };
        let version = self.cgroup.on.version();
        let mut properties = match start.target.is_slice() {
            true => systemd::start_of_slice(&start.target, &start.id, version),
            false => systemd::start(&start.target, &start.id, number.unsigned_abs(), version),
        };
        let resources = known(&start.resources, self.user);
        properties.extend(systemd::limits(&resources, version, systemd.version()?, None)?);
        properties.extend(start.extra.iter().cloned());
        systemd.start(&self.unit, properties)?;
        drop(systemd);
        self.settle(start, number).doing(|| format!("limits of unit {}", self.unit))
    }

    /// Writes what systemd cannot express, and joins the trees that it does not manage.
    fn settle(&self, start: &Start, child: i32) -> Result<()> {
        let cgroup = &self.cgroup;
        let on = &cgroup.on;
        let relative = cgroup.relative()?;
        let move_to = |dir: &str| {
            let path = format!("{dir}/cgroup.procs");
            control::write(on.root(), &path, &child.to_string())
                .doing(|| format!("write({:?}, \"{child}\")", on.shown(&path)))
        };
        if on.version() == Version::V2 {
            let plan = cgroup.plan(&start.resources, Purpose::Create)?;
            cgroup.enable(&plan, &EAGER_V2)?;
            cgroup.apply(&plan, Purpose::Create)?;
            return if start.target.is_slice() { move_to(relative) } else { Ok(()) };
        }
        // systemd has written device rules already.
        let plan = cgroup.plan(&start.resources, Purpose::Update)?;
        cgroup.make_missing(&plan)?;
        let needed = plan.controllers();
        let ours: Vec<&'static str> = CONTROLLERS
            .into_iter()
            .filter(|name| {
                let must = needed.iter().any(|(own, _)| own == name);
                // systemd takes a process out of the devices tree if it knows of no rules.
                must || (EAGER_OCI_V1.contains(name) && *name != "devices")
            })
            .filter(|name| on.mounted(name).is_some())
            .collect();
        for controller in &ours {
            cgroup.make_in(controller)?;
        }
        cgroup.apply(&plan, Purpose::Update)?;
        ours.iter().try_for_each(|controller| move_to(&on.dir(controller, relative)))
    }
}

impl Cgroup {
    /// Tells systemd the limits that it knows, so that it does not write the old ones again.
    pub(crate) fn update_unit(&self, unit: &str, user: bool, resources: &LinuxResources) -> Result<()> {
        let mut systemd = Systemd::connect(user)?;
        let resources = known(resources, user);
        let release = systemd.version()?;
        let properties = systemd::limits(&resources, self.on.version(), release, self.quota())?;
        systemd.set(unit, properties)
    }

    /// The cpu quota in force, in microseconds a period; `None` where there is none or no telling.
    fn quota(&self) -> Option<i64> {
        let file = if self.on.version() == Version::V1 { "cpu.cfs_quota_us" } else { "cpu.max" };
        let path = format!("{}/{file}", self.on.dir("cpu", self.relative().ok()?));
        let text = control::read(self.on.root(), &path).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok()
    }
}

/// What this systemd can enforce: a user's has no say over devices, and would complain in the journal.
fn known(resources: &LinuxResources, user: bool) -> Cow<'_, LinuxResources> {
    if !user || resources.devices().is_none() {
        return Cow::Borrowed(resources);
    }
    let mut known = resources.clone();
    known.set_devices(None);
    Cow::Owned(known)
}
