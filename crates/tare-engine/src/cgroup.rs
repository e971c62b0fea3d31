//! Which cgroup a container has: for root one of ours, for an ordinary user what the user's systemd makes, or none.
//!
//! An ordinary user may make cgroups only below one that was delegated, which is what the user's own systemd has. Where
//! there is none, a container has no cgroup: it runs, and to ask for a limit is an error.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use tare_cgroup::{Cgroup, Driver, Hierarchies, Location};
use tare_sys::{Error, Kind, Result, rootless};

use crate::container::Record;

/// Where the cgroup of a new container is to be, in every hierarchy, and its unit if it is one of systemd's; an empty
/// path: it has none. `parent`: what was asked for.
pub fn place(
    on: &Hierarchies,
    id: &str,
    parent: &str,
    resources: Option<&LinuxResources>,
) -> Result<(PathBuf, Option<String>)> {
    if !rootless::is_on() {
        return Ok((Path::new("/").join(if parent.is_empty() { "/tare" } else { parent }).join(id), None));
    }
    let none = LinuxResources::default();
    let resources = resources.unwrap_or(&none);
    if tare_cgroup::delegated_to_user(on).is_empty() {
        if limits(resources) {
            return Err(nothing_delegated());
        }
        return Ok((PathBuf::new(), None));
    }
    let location = make(on, id, parent, resources)?.location();
    Ok((PathBuf::from(location.path), location.unit))
}

fn nothing_delegated() -> Error {
    Error::new(Kind::Permission, "limit the container: no cgroup is delegated to you").hint(
        "limits for an ordinary user need cgroup v2 and the user's own systemd (log in, or have root \
         `loginctl enable-linger` you); or run without limits",
    )
}

/// Whether anything is limited; rules for devices are not a limit here, for an ordinary user can make none.
fn limits(resources: &LinuxResources) -> bool {
    let mut rest = resources.clone();
    rest.set_devices(None);
    rest != LinuxResources::default()
}

fn make(on: &Hierarchies, id: &str, parent: &str, resources: &LinuxResources) -> Result<Cgroup> {
    let path = format!("{parent}:tare:{id}");
    let driver = Driver::Systemd { user: true };
    Cgroup::create_for(on, &driver, id, Some(&path), resources, &HashMap::new(), true)
}

/// Makes it; a unit is only prepared, as it needs a process.
pub fn create(on: &Hierarchies, record: &Record, resources: &LinuxResources) -> Result<Cgroup> {
    match record.cgroup_unit {
        Some(_) => make(on, &record.id, &record.request.host_config.cgroup_parent, resources),
        None if rootless::is_on() => Ok(open(on, record)),
        None => Cgroup::create(on, &record.cgroup, resources),
    }
}

/// Changes the limits of one that runs, if there is anything to change.
pub fn update(on: &Hierarchies, record: &Record, change: &LinuxResources) -> Result<()> {
    if !limits(change) {
        return Ok(());
    }
    if rootless::is_on() && record.cgroup_unit.is_none() {
        return Err(nothing_delegated());
    }
    open(on, record).update(change)
}

/// Finds it again. Whether it is there is seen when it is used.
pub fn open(on: &Hierarchies, record: &Record) -> Cgroup {
    if !rootless::is_on() {
        return Cgroup::open(on, &record.cgroup);
    }
    let driver = match record.cgroup_unit {
        Some(_) => Driver::Systemd { user: true },
        None => Driver::Disabled,
    };
    let path = record.cgroup.display().to_string();
    Cgroup::at(on, &Location { driver, path, unit: record.cgroup_unit.clone(), rootless: true })
}

/// That of a container whose record cannot be read, unless it was asked for another. An ordinary user's is its systemd's affair.
pub fn usual(on: &Hierarchies, id: &str) -> Option<Cgroup> {
    (!rootless::is_on()).then(|| Cgroup::open(on, &Path::new("/tare").join(id)))
}

/// A set-up that dies for want of memory looks like any other death; the cgroup knows better.
pub fn explain_death(err: Error, cgroup: &Cgroup) -> Error {
    match cgroup.memory_events() {
        Ok(events) if events.oom_kills > 0 => {
            Error::new(Kind::Exhausted, format!("{err} (the memory limit was reached)"))
                .hint("give it a larger --memory")
        }
        _ => err,
    }
}
