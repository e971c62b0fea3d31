//! From `LinuxResources` to files and values. Pure: nothing here looks at the host, so that both versions
//! can be tested on any host; what only the host knows (does this file exist?) is left open in a [`Setting`].

use std::borrow::Cow;

use oci_spec::runtime::LinuxResources;
use tare_sys::{Error, Kind, Result};

use crate::device::Rule;

mod v1;
mod v2;

pub(crate) use v1::plan as v1;
pub(crate) use v2::{io_weight, plan as v2, swap_max, weight_of_shares};

/// What the plan is for: a fresh cgroup has the kernel's defaults, a used one has what was written before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Create,
    Update,
}

/// One value for one control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The file's name; what stands before the first dot is the controller.
    pub file: Cow<'static, str>,
    pub value: String,
    /// The limit as the user knows it, for errors.
    pub limit: Cow<'static, str>,
    /// Another file and value, for a kernel that does not have `file`.
    pub instead: Option<(&'static str, String)>,
    /// A kernel without the file is no error.
    pub optional: bool,
    /// `value` is the second word of the file; its first word stays what it is.
    pub keep_first_word: bool,
}

impl Setting {
    pub(crate) fn new(
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        limit: impl Into<Cow<'static, str>>,
    ) -> Setting {
        Setting {
            file: file.into(),
            value: value.to_string(),
            limit: limit.into(),
            instead: None,
            optional: false,
            keep_first_word: false,
        }
    }

    pub(crate) fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// Everything that one set of resources needs, in the order of writing.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Settings that belong together: written in order, and where the kernel finds a value at odds with one
    /// that is still to be replaced (`EINVAL`), in the opposite order.
    pub steps: Vec<Vec<Setting>>,
    /// v2: the rules that a BPF program is to enforce. On v1 they are among the steps.
    pub devices: Option<Vec<Rule>>,
    /// Refuse if more bytes of memory than this are in use already (`checkBeforeUpdate`).
    pub memory_ceiling: Option<u64>,
}

impl Plan {
    fn push(&mut self, setting: Setting) {
        self.steps.push(vec![setting]);
    }

    /// The controllers that have a setting, each with the first limit that needs it.
    pub(crate) fn controllers(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for setting in self.steps.iter().flatten() {
            if !found.iter().any(|(controller, _)| *controller == setting.controller()) {
                found.push((setting.controller(), &setting.limit));
            }
        }
        found
    }

    /// Whether it limits anything; who may use which device does not count, as every spec says that.
    pub(crate) fn limits(&self) -> bool {
        self.steps.iter().flatten().any(|setting| setting.controller() != "devices")
    }

    /// Leaves the device rules out.
    pub(crate) fn without_devices(mut self) -> Plan {
        self.steps.retain(|step| step.iter().all(|setting| setting.controller() != "devices"));
        self.devices = None;
        self
    }
}

/// A number where -1 means "no limit", for which the kernel's word is `none`.
fn bound(value: i64, none: &str, limit: &str) -> Result<String> {
    match value {
        -1 => Ok(none.to_owned()),
        0.. => Ok(value.to_string()),
        _ => Err(Error::new(Kind::Usage, format!("{limit} {value}: below zero"))
            .hint("only -1, which means no limit, may be negative")),
    }
}

/// `limit` for pids. 0 counts as a limit (runtime-spec 1.3); the container's init is there already, so 1
/// forbids the same forks and lets the init itself in.
fn pids_bound(limit: i64) -> Result<String> {
    bound(if limit == 0 { 1 } else { limit }, "max", "pids limit")
}

/// The page size of a hugetlb limit, checked because it becomes part of a file name.
fn page_size(size: &str) -> Result<&str> {
    let digits = size.bytes().take_while(u8::is_ascii_digit).count();
    match (digits, &size[digits..]) {
        (1.., "KB" | "MB" | "GB") => Ok(size),
        _ => Err(Error::new(Kind::Usage, format!("huge page size {size:?} is not a size"))
            .hint("write it as the kernel does, for example 2MB or 1GB")),
    }
}

fn unsupported(limit: &str, why: &str, hint: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{limit}: {why}")).hint(hint)
}

/// A `major:minor` pair of a block device, checked because it becomes part of a value.
fn device_pair(major: i64, minor: i64, limit: &str) -> Result<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(Error::new(Kind::Usage, format!("{limit}: {major}:{minor} is not a device number"))),
    }
}

/// `rdma.max` has the same words on v1 and v2. Devices are in the order of their names.
fn rdma(plan: &mut Plan, resources: &LinuxResources) -> Result<()> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, limits) in devices {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::new(Kind::Usage, format!("rdma limit: {name:?} is not a device name")));
        }
        let mut value = name.clone();
        if let Some(handles) = limits.hca_handles() {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limits.hca_objects() {
            value.push_str(&format!(" hca_object={objects}"));
        }
        if value.len() > name.len() {
            plan.push(Setting::new("rdma.max", value, "rdma limit"));
        }
    }
    Ok(())
}

/// The tables of both versions read better as `file = value` lines.
#[cfg(test)]
fn lines(plan: &Plan) -> Vec<String> {
    plan.steps.iter().flatten().map(|setting| format!("{} = {}", setting.file, setting.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_minus_one_is_unlimited() {
        assert_eq!(bound(-1, "max", "x").unwrap(), "max");
        assert_eq!(bound(7, "max", "x").unwrap(), "7");
        assert_eq!(bound(-2, "max", "x").unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn zero_pids_still_let_the_init_in() {
        assert_eq!(pids_bound(0).unwrap(), "1");
        assert_eq!(pids_bound(-1).unwrap(), "max");
        assert_eq!(pids_bound(64).unwrap(), "64");
    }

    #[test]
    fn a_page_size_cannot_lead_elsewhere() {
        assert!(page_size("2MB").is_ok());
        for bad in ["", "MB", "2", "2mb", "2MB/../x", "../2MB", "2MB.max"] {
            assert!(page_size(bad).is_err(), "{bad}");
        }
    }
}
