//! Unit properties: the limits that systemd knows, the fixed ones, and those that annotations ask for.
//!
//! Pure, so that every table here can be tested on any host. Source: systemd.resource-control(5) and
//! org.freedesktop.systemd1(5), "Scope Unit Objects" (names and types); docs/systemd.md of runc (which limit is
//! which property, and the annotations).

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxResources};
use tare_sys::{Context, Error, Kind, Result};

use super::unit::Target;
use super::{Property, gvariant};
use crate::dbus::Value;
use crate::device;
use crate::hierarchy::Version;
use crate::plan::{io_weight, swap_max, weight_of_shares};

/// "No limit" of every property that is a number.
const INFINITY: u64 = u64::MAX;
/// The kernel's period where none is given, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// The highest cpu or memory node taken; the kernel has at most 8192 cpus.
const MAX_BIT: usize = 8192;

/// systemd versions that brought a property.
const CPU_QUOTA_PERIOD: u32 = 242;
const ALLOWED_CPUS: u32 = 244;
const DEVICE_NUMBERS: u32 = 240;
const CPU_IDLE: u32 = 252;

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// What a scope for the process `pid` starts with, apart from limits.
pub(crate) fn start(target: &Target, id: &str, pid: u32, version: Version) -> Vec<Property> {
    let mut all = vec![
        property("Description", Value::str(format!("tare container {id}"))),
        property("Slice", Value::str(&target.slice)),
        property("Delegate", Value::Bool(true)),
        property("PIDs", Value::Array("u".into(), vec![Value::Uint32(pid)])),
    ];
    all.extend(accounting(version));
    all
}

/// What a slice starts with: no processes, and its parent as a wish only.
pub(crate) fn start_of_slice(target: &Target, id: &str, version: Version) -> Vec<Property> {
    let mut all = vec![
        property("Description", Value::str(format!("tare container {id}"))),
        property("Wants", Value::strings([&target.slice])),
    ];
    all.extend(accounting(version));
    all
}

/// Without its accounting a controller may not be there for the unit. No default dependencies: else the scope
/// would be stopped early at shutdown, before whoever manages containers can do it.
fn accounting(version: Version) -> impl Iterator<Item = Property> {
    let io = if version == Version::V1 { "BlockIOAccounting" } else { "IOAccounting" };
    let yes = ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"];
    let yes = yes.into_iter().map(|name| property(name, Value::Bool(true)));
    yes.chain([property("DefaultDependencies", Value::Bool(false))])
}

/// The limits as properties. `systemd` is its version; `quota` the cpu quota in force (microseconds, -1 for none),
/// which counts when only the period changes.
///
/// What systemd cannot express is left out here, and is in the files.
///
/// Errors: [`Kind::Usage`] for values that make no sense.
pub(crate) fn limits(
    resources: &LinuxResources,
    version: Version,
    systemd: u32,
    quota: Option<i64>,
) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    memory(&mut all, resources, version)?;
    if let Some(pids) = resources.pids() {
        // 0 counts as a limit, and systemd refuses it; 1 forbids the same forks.
        let limit = match pids.limit() {
            0 => 1,
            limit => u64::try_from(limit).unwrap_or(INFINITY),
        };
        all.push(property("TasksMax", Value::Uint64(limit)));
    }
    if let Some(limits) = resources.cpu() {
        cpu(&mut all, limits, version, systemd, quota)?;
    }
    let weight = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|&weight| weight != 0);
    if let Some(weight) = weight {
        all.push(match version {
            Version::V1 => property("BlockIOWeight", Value::Uint64(weight.clamp(10, 1000).into())),
            Version::V2 => property("IOWeight", Value::Uint64(io_weight(weight))),
        });
    }
    if version == Version::V2 {
        unified(&mut all, resources, systemd)?;
    }
    if let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) {
        devices(&mut all, &device::parse(rules)?, version, systemd);
    }
    Ok(all)
}

fn bytes(value: i64) -> Value {
    Value::Uint64(u64::try_from(value).unwrap_or(INFINITY))
}

fn memory(all: &mut Vec<Property>, resources: &LinuxResources, version: Version) -> Result<()> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    // 0 stands for "not given".
    let limit = memory.limit().filter(|&bytes| bytes != 0);
    if let Some(limit) = limit {
        all.push(property(if version == Version::V1 { "MemoryLimit" } else { "MemoryMax" }, bytes(limit)));
    }
    if version == Version::V1 {
        return Ok(());
    }
    if let Some(reservation) = memory.reservation().filter(|&bytes| bytes != 0) {
        all.push(property("MemoryLow", bytes(reservation)));
    }
    if let Some(swap) = memory.swap().filter(|&bytes| bytes != 0).or((limit == Some(-1)).then_some(-1)) {
        let swap = swap_max(swap, limit)?.parse().unwrap_or(INFINITY);
        all.push(property("MemorySwapMax", Value::Uint64(swap)));
    }
    Ok(())
}

fn cpu(
    all: &mut Vec<Property>,
    cpu: &LinuxCpu,
    version: Version,
    systemd: u32,
    quota: Option<i64>,
) -> Result<()> {
    match (cpu.shares().filter(|&shares| shares != 0), version) {
        // 0 is systemd's "idle".
        _ if cpu.idle() == Some(1) && version == Version::V2 && systemd >= CPU_IDLE => {
            all.push(property("CPUWeight", Value::Uint64(0)));
        }
        (Some(shares), Version::V1) => {
            all.push(property("CPUShares", Value::Uint64(shares.clamp(2, 262_144))));
        }
        (Some(shares), Version::V2) => {
            all.push(property("CPUWeight", Value::Uint64(weight_of_shares(shares))));
        }
        (None, _) => {}
    }
    let period = cpu.period().filter(|&period| period != 0);
    let own = cpu.quota().filter(|&quota| quota != 0);
    if own.is_some() || period.is_some() {
        bandwidth(all, own.or(quota).unwrap_or(-1), period, systemd);
    }
    // systemd manages no cpusets on v1.
    if version == Version::V2 {
        cpuset(all, "AllowedCPUs", cpu.cpus().as_deref().unwrap_or_default(), systemd)?;
        cpuset(all, "AllowedMemoryNodes", cpu.mems().as_deref().unwrap_or_default(), systemd)?;
    }
    Ok(())
}

fn bandwidth(all: &mut Vec<Property>, quota: i64, period: Option<u64>, systemd: u32) {
    if let Some(period) = period.filter(|_| systemd >= CPU_QUOTA_PERIOD) {
        all.push(property("CPUQuotaPeriodUSec", Value::Uint64(period)));
    }
    let per_second = match u128::try_from(quota) {
        Ok(quota) => {
            // systemd counts whole percents of a cpu: rounded up, so that the exact file value fits in.
            let exact = quota * 1_000_000 / u128::from(period.unwrap_or(DEFAULT_PERIOD));
            u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(INFINITY)
        }
        Err(_) => INFINITY,
    };
    all.push(property("CPUQuotaPerSecUSec", Value::Uint64(per_second)));
}

fn cpuset(all: &mut Vec<Property>, name: &str, list: &str, systemd: u32) -> Result<()> {
    if !list.is_empty() && systemd >= ALLOWED_CPUS {
        all.push(property(name, Value::bytes(&bits(list)?)));
    }
    Ok(())
}

/// `0-2,8` as a set of bits, the lowest of each byte first.
fn bits(list: &str) -> Result<Vec<u8>> {
    let refuse = || {
        Error::new(Kind::Usage, format!("cpuset {list:?}: not a list of numbers and ranges"))
            .hint("write a list such as 0-3,7")
    };
    let mut bits = Vec::new();
    for part in list.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&bit| bit < MAX_BIT);
        let (first, last) = number(first).zip(number(last)).ok_or_else(refuse)?;
        if first > last {
            return Err(refuse());
        }
        for bit in first..=last {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0);
            }
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    if bits.is_empty() { Err(refuse()) } else { Ok(bits) }
}

/// Files that are named themselves, where systemd has a property for one: else it would write its own value
/// over them on the next reload.
fn unified(all: &mut Vec<Property>, resources: &LinuxResources, systemd: u32) -> Result<()> {
    let mut files: Vec<(&String, &String)> = resources.unified().iter().flatten().collect();
    files.sort();
    for (file, value) in files {
        let value = value.trim();
        let number = || match value {
            "max" => Ok(INFINITY),
            _ => value.parse::<u64>().map_err(|_| {
                Error::new(Kind::Usage, format!("unified resource {file}: {value:?} is not a number"))
            }),
        };
        let name = match file.as_str() {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpuset.cpus" => {
                cpuset(all, "AllowedCPUs", value, systemd)?;
                continue;
            }
            "cpuset.mems" => {
                cpuset(all, "AllowedMemoryNodes", value, systemd)?;
                continue;
            }
            "cpu.idle" if value == "1" && systemd >= CPU_IDLE => {
                all.push(property("CPUWeight", Value::Uint64(0)));
                continue;
            }
            "cpu.max" => {
                let mut words = value.split_ascii_whitespace();
                let quota = words.next().and_then(|word| word.parse().ok()).unwrap_or(-1);
                bandwidth(all, quota, words.next().and_then(|word| word.parse().ok()), systemd);
                continue;
            }
            _ => continue,
        };
        all.push(property(name, Value::Uint64(number()?)));
    }
    Ok(())
}

/// The devices that may be used. systemd has a list of what is allowed and no more. Rules that do not come down to
/// one leave the matter to our own program (v2), or (v1) allow all there, so that systemd leaves the process in
/// the `devices` tree, where the rules are written after it; those a reload of systemd undoes.
fn devices(all: &mut Vec<Property>, rules: &[device::Rule], version: Version, systemd: u32) {
    let (closed, entries, whole) = match device::allowed(rules) {
        Some(allowed) => {
            let entries: Vec<_> = allowed.iter().filter_map(|one| device_entry(one, systemd)).collect();
            let whole = entries.len() == allowed.len();
            (true, entries, whole)
        }
        None if version == Version::V1 => {
            let all = |sort: &str| (format!("{sort}-*"), "rwm".to_owned());
            (true, vec![all("char"), all("block")], true)
        }
        None => (false, Vec::new(), true),
    };
    let strict = closed && (whole || version == Version::V1);
    all.push(property("DevicePolicy", Value::str(if strict { "strict" } else { "auto" })));
    // An empty list takes back what was set before.
    all.push(property("DeviceAllow", Value::Array("(ss)".into(), vec![])));
    if strict && !entries.is_empty() {
        let pair = |(path, access)| Value::Struct(vec![Value::Str(path), Value::Str(access)]);
        let entries = entries.into_iter().map(pair).collect();
        all.push(property("DeviceAllow", Value::Array("(ss)".into(), entries)));
    }
}

/// A path that systemd takes for a device or a group of them, and an access.
fn device_entry(one: &device::Allowed, systemd: u32) -> Option<(String, String)> {
    let sort = match one.sort {
        device::Sort::Block => "block",
        device::Sort::Char => "char",
    };
    let path = match (one.major, one.minor) {
        (None, None) => format!("{sort}-*"),
        (Some(major), None) if systemd >= DEVICE_NUMBERS => format!("{sort}-{major}"),
        (Some(major), Some(minor)) => format!("/dev/{sort}/{major}:{minor}"),
        _ => return None,
    };
    let letters = [(device::READ, 'r'), (device::WRITE, 'w'), (device::MKNOD, 'm')];
    let access = letters.into_iter().filter(|(bit, _)| one.access & bit != 0).map(|(_, letter)| letter);
    Some((path, access.collect()))
}

/// The properties that annotations `org.systemd.property.NAME` ask for, by name. `NAMESec` is a duration in
/// seconds for the property `NAMEUSec`.
///
/// Errors: [`Kind::Usage`] naming the annotation.
pub(crate) fn annotated(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else {
            continue;
        };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(Error::new(Kind::Usage, format!("annotation {key}: {name:?} is not a property")));
        }
        let value = gvariant::parse(text).doing(|| format!("annotation {key}"))?;
        all.push(match name.strip_suffix("Sec") {
            Some(stem) if stem.ends_with(|last: char| last.is_ascii_lowercase()) => {
                let value = microseconds(&value).ok_or_else(|| {
                    Error::new(Kind::Usage, format!("annotation {key}: {text:?} is no duration"))
                })?;
                (format!("{stem}USec"), Value::Uint64(value))
            }
            _ => (name.to_owned(), value),
        });
    }
    all.sort_by(|one, two| one.0.cmp(&two.0));
    Ok(all)
}

fn microseconds(value: &Value) -> Option<u64> {
    let whole = match value {
        Value::Double(seconds) if *seconds >= 0.0 => return Some((seconds * 1e6) as u64),
        Value::Byte(number) => i128::from(*number),
        Value::Int16(number) => i128::from(*number),
        Value::Uint16(number) => i128::from(*number),
        Value::Int32(number) => i128::from(*number),
        Value::Uint32(number) => i128::from(*number),
        Value::Int64(number) => i128::from(*number),
        Value::Uint64(number) => i128::from(*number),
        _ => return None,
    };
    u64::try_from(whole).ok()?.checked_mul(1_000_000)
}

#[cfg(test)]
mod tests;
