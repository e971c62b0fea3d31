//! Devices: which nodes are made, and which the cgroup lets be opened.

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use tare_sys::{Error, Kind, Result};

use super::{DeviceFact, Facts, spec_error};
use crate::request::HostConfig;

/// What every container may open: null, zero, full, random, urandom, tty, console, ptmx and its own ptys.
/// Docker's list but for /dev/net/tun, which takes `--device`.
const OPEN: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

fn kind(device: &DeviceFact) -> LinuxDeviceType {
    if device.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
}

/// The nodes to make beside the default ones.
pub fn nodes(facts: &Facts) -> Result<Vec<LinuxDevice>> {
    facts
        .devices
        .iter()
        .map(|device| {
            LinuxDeviceBuilder::default()
                .path(device.path.as_path())
                .typ(kind(device))
                .major(device.major as i64)
                .minor(device.minor as i64)
                .file_mode(device.mode)
                .uid(device.uid)
                .gid(device.gid)
                .build()
                .map_err(spec_error)
        })
        .collect()
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access)
        .build()
        .map_err(spec_error)?;
    rule.set_major(major);
    rule.set_minor(minor);
    Ok(rule)
}

/// The cgroup's rules: nothing, but making nodes, the default devices, and those asked for.
pub fn rules(host: &HostConfig, facts: &Facts) -> Result<Vec<LinuxDeviceCgroup>> {
    use LinuxDeviceType as T;
    if host.privileged {
        return Ok(vec![rule(true, T::A, None, None, "rwm")?]);
    }
    let mut rules = vec![rule(false, T::A, None, None, "rwm")?];
    // Making a node is harmless where opening it is not allowed.
    rules.push(rule(true, T::C, None, None, "m")?);
    rules.push(rule(true, T::B, None, None, "m")?);
    for (major, minor) in OPEN {
        rules.push(rule(true, T::C, Some(major), minor, "rwm")?);
    }
    for device in &facts.devices {
        rules.push(rule(
            true,
            kind(device),
            Some(device.major as i64),
            Some(device.minor as i64),
            &device.access,
        )?);
    }
    for text in &host.device_cgroup_rules {
        rules.push(parse(text)?);
    }
    Ok(rules)
}

/// `c 1:3 rwm`, with `*` for any number.
fn parse(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || {
        Error::new(Kind::Usage, format!("--device-cgroup-rule {text:?}: not a rule"))
            .hint("write type, numbers and access: \"c 10:200 rwm\", with * for any number")
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, numbers, access] = words.as_slice() else { return Err(bad()) };
    let kind = match *kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |word: &str| match word {
        "*" => Ok(None),
        word => word.parse::<u32>().map(|n| Some(i64::from(n))).map_err(|_| bad()),
    };
    if access.is_empty() || access.chars().any(|c| !"rwm".contains(c)) {
        return Err(bad());
    }
    rule(true, kind, number(major)?, number(minor)?, access)
}
