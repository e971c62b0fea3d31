//! The systemd driver: the cgroup of a container is a transient unit, which systemd makes when the first process
//! is there.
//!
//! ```text
//! cgroupsPath "slice:prefix:name" ── unit ──▶ names and path
//! LinuxResources, annotations ── properties, gvariant ──▶ unit properties
//! both ── calls ── dbus ──▶ StartTransientUnit, SetUnitProperties, StopUnit
//! ```
//!
//! systemd knows only a part of the limits, and writes what it knows again when it is told to reload. So what
//! it knows is said as properties, and everything is then also written into the files of the unit's cgroup.
//!
//! Source: systemd.resource-control(5), org.freedesktop.systemd1(5), systemd.io/CGROUP_DELEGATION.

use std::path::Path;

mod calls;
mod gvariant;
mod properties;
mod unit;

pub(crate) use calls::Systemd;
pub(crate) use properties::{annotated, limits, start, start_of_slice};
pub(crate) use unit::{Target, target};

/// A property of a unit.
pub(crate) type Property = (String, crate::dbus::Value);

/// Whether this host was booted with systemd: it has the folder `/run/systemd/system`, as sd_booted(3) asks.
pub fn systemd_is_running() -> bool {
    Path::new("/run/systemd/system").symlink_metadata().is_ok_and(|found| found.is_dir())
}
