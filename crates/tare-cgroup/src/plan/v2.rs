//! The v2 files. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst; what v1's words mean in v2:
//! runtime-spec config-linux.md and what runc and crun agreed on.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use tare_sys::{Error, Kind, Result};

use super::{Plan, Setting, bound, device_pair, page_size, pids_bound, rdma, unsupported};
use crate::device;

/// Errors: [`Kind::Usage`] for values that make no sense, [`Kind::Unsupported`] for what v2 cannot express.
pub(crate) fn plan(resources: &LinuxResources) -> Result<Plan> {
    let mut plan = Plan::default();
    if let Some(limits) = resources.memory() {
        memory(&mut plan, limits)?;
    }
    if let Some(pids) = resources.pids() {
        plan.push(Setting::new("pids.max", pids_bound(pids.limit())?, "pids limit"));
    }
    if let Some(limits) = resources.cpu() {
        cpu(&mut plan, limits)?;
    }
    if let Some(limits) = resources.block_io() {
        block_io(&mut plan, limits)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let size = page_size(page.page_size())?;
        let limit = format!("huge page limit for {size}");
        let value = bound(page.limit(), "max", &limit)?;
        plan.push(Setting::new(format!("hugetlb.{size}.max"), &value, limit.clone()));
        let mut reserved = Setting::new(format!("hugetlb.{size}.rsvd.max"), value, limit);
        reserved.optional = true;
        plan.push(reserved);
    }
    let network = resources.network().as_ref();
    if network.is_some_and(|net| {
        net.class_id().is_some_and(|class| class != 0)
            || net.priorities().as_ref().is_some_and(|p| !p.is_empty())
    }) {
        return Err(unsupported(
            "network class id and priority",
            "cgroup v2 has no net_cls and net_prio",
            "match the cgroup itself in nftables (socket cgroupv2) or tc instead",
        ));
    }
    rdma(&mut plan, resources)?;
    unified(&mut plan, resources)?;
    if let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) {
        plan.devices = Some(device::parse(rules)?);
    }
    Ok(plan)
}

fn memory(plan: &mut Plan, memory: &LinuxMemory) -> Result<()> {
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported(
            "disabling the OOM killer",
            "cgroup v2 cannot do that",
            "use --memory-reservation, or --oom-score-adj, to make a kill less likely",
        ));
    }
    if memory.swappiness().is_some_and(|level| level != u64::MAX) {
        return Err(unsupported(
            "memory swappiness",
            "cgroup v2 has no swappiness per group",
            "limit swap instead: --memory-swap",
        ));
    }
    // 0 stands for "not given" in configs written by Docker and its kin.
    let limit = memory.limit().filter(|&bytes| bytes != 0);
    let swap = memory.swap().filter(|&bytes| bytes != 0);
    if let Some(bytes) = memory.reservation().filter(|&bytes| bytes != 0) {
        let value = bound(bytes, "max", "memory reservation")?;
        plan.push(Setting::new("memory.low", value, "memory reservation"));
    }
    // Swap before memory: processes that the memory limit pushes out must find the swap limit in place.
    if let Some(swap) = swap.or((limit == Some(-1)).then_some(-1)) {
        let value = swap_max(swap, limit)?;
        let mut setting = Setting::new("memory.swap.max", &value, "memory+swap limit");
        setting.optional = value == "max";
        plan.push(setting);
    }
    if let Some(bytes) = limit {
        let value = bound(bytes, "max", "memory limit")?;
        plan.push(Setting::new("memory.max", value, "memory limit"));
    }
    if memory.check_before_update() == Some(true) {
        plan.memory_ceiling = limit.and_then(|bytes| u64::try_from(bytes).ok());
    }
    Ok(())
}

/// v1 limits memory and swap together, v2 swap alone.
pub(crate) fn swap_max(swap: i64, limit: Option<i64>) -> Result<String> {
    match (swap, limit) {
        (-1, _) => Ok("max".to_owned()),
        (..-1, _) => bound(swap, "max", "memory+swap limit"),
        (_, Some(limit @ 1..)) if limit <= swap => Ok((swap - limit).to_string()),
        (_, Some(limit)) => Err(Error::new(
            Kind::Usage,
            format!("memory+swap limit {swap}: less than the memory limit {limit}"),
        )
        .hint("the swap value counts memory and swap together")),
        (_, None) => {
            Err(Error::new(Kind::Usage, format!("memory+swap limit {swap}: there is no memory limit"))
                .hint("give a memory limit as well: the swap limit is what is left above it"))
        }
    }
}

fn cpu(plan: &mut Plan, cpu: &LinuxCpu) -> Result<()> {
    if cpu.realtime_runtime().is_some_and(|us| us != 0) || cpu.realtime_period().is_some_and(|us| us != 0) {
        return Err(unsupported(
            "cpu realtime limits",
            "cgroup v2 has none",
            "run without --cpu-rt-runtime and --cpu-rt-period",
        ));
    }
    let idle = cpu.idle().map(|idle| vec![Setting::new("cpu.idle", idle, "cpu idle")]);
    let becomes_idle = cpu.idle() == Some(1);
    // An idle group takes no weight: leave that state before it, enter it after it.
    plan.steps.extend(idle.clone().filter(|_| !becomes_idle));
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        plan.push(Setting::new("cpu.weight", weight_of_shares(shares), "cpu shares"));
    }
    let mut bandwidth = Vec::new();
    let period = cpu.period().filter(|&period| period != 0);
    match (cpu.quota().filter(|&quota| quota != 0), period) {
        (Some(quota), period) => {
            let mut value = bound(quota, "max", "cpu quota")?;
            if let Some(period) = period {
                value.push_str(&format!(" {period}"));
            }
            bandwidth.push(Setting::new("cpu.max", value, "cpu quota"));
        }
        (None, Some(period)) => {
            let mut setting = Setting::new("cpu.max", period, "cpu period");
            setting.keep_first_word = true;
            bandwidth.push(setting);
        }
        (None, None) => {}
    }
    if let Some(burst) = cpu.burst() {
        bandwidth.push(Setting::new("cpu.max.burst", burst, "cpu burst"));
    }
    if !bandwidth.is_empty() {
        plan.steps.push(bandwidth);
    }
    plan.steps.extend(idle.filter(|_| becomes_idle));
    if let Some(cpus) = cpu.cpus().as_ref().filter(|list| !list.is_empty()) {
        plan.push(Setting::new("cpuset.cpus", cpus, "cpuset cpus"));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|list| !list.is_empty()) {
        plan.push(Setting::new("cpuset.mems", mems, "cpuset memory nodes"));
    }
    Ok(())
}

/// v1's shares (2 to 262144, default 1024) as v2's weight (1 to 10000, default 100).
///
/// A straight line would make the default 39. So the exponents are joined by the parabola through the three
/// points that people know: 2 → 1, 1024 → 100, 262144 → 10000. With l = log2(shares), that is
/// log10(weight) = (l² + 125 l) / 612 − 7/34, rounded up.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // 1024 must give 100 although the sum may come out a hair above 2.
            (10f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
}

/// A blkio weight (10 to 1000) on the scale of `io.weight` (1 to 10000): a straight line between the ends.
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

fn block_io(plan: &mut Plan, io: &LinuxBlockIo) -> Result<()> {
    let leaf = io.leaf_weight().is_some_and(|weight| weight != 0)
        || io.weight_device().iter().flatten().any(|device| device.leaf_weight().is_some());
    if leaf {
        return Err(unsupported(
            "block I/O leaf weight",
            "cgroup v2 has none",
            "use the weight without 'leaf': in v2 processes and child groups never compete",
        ));
    }
    // BFQ has a file of its own, with v1's range; iocost has io.weight.
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        let mut setting = Setting::new("io.bfq.weight", weight, "block I/O weight");
        setting.instead = Some(("io.weight", format!("default {}", io_weight(weight))));
        plan.push(setting);
    }
    for device in io.weight_device().iter().flatten() {
        let limit = "block I/O weight of a device";
        let pair = device_pair(device.major(), device.minor(), limit)?;
        if let Some(weight) = device.weight() {
            let mut setting = Setting::new("io.bfq.weight", format!("{pair} {weight}"), limit);
            setting.instead = Some(("io.weight", format!("{pair} {}", io_weight(weight))));
            plan.push(setting);
        }
    }
    // One line per device says all four; a rate of 0 takes the limit away, as on v1.
    let mut lines: BTreeMap<(i64, i64), String> = BTreeMap::new();
    for (word, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let line = lines.entry((device.major(), device.minor())).or_default();
            match device.rate() {
                0 => line.push_str(&format!(" {word}=max")),
                rate => line.push_str(&format!(" {word}={rate}")),
            }
        }
    }
    for ((major, minor), line) in lines {
        let pair = device_pair(major, minor, "device rate")?;
        plan.push(Setting::new("io.max", format!("{pair}{line}"), "device rate"));
    }
    Ok(())
}

/// Files that would act instead of limit, or undo what this crate holds.
const NOT_RESOURCES: [&str; 6] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.type",
    "cgroup.subtree_control",
];

fn unified(plan: &mut Plan, resources: &LinuxResources) -> Result<()> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    for (file, value) in files {
        let sound = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && file.split('.').count() >= 2
            && file.split('.').all(|part| !part.is_empty())
            && !NOT_RESOURCES.contains(&file.as_str());
        if !sound {
            return Err(Error::new(Kind::Usage, format!("unified resource {file:?}: not a resource file"))
                .hint("name a file of a controller, for example memory.high or io.max"));
        }
        // A file such as io.max takes one line per write.
        for line in value.lines().filter(|line| !line.trim().is_empty()) {
            plan.push(Setting::new(file.clone(), line, format!("unified resource {file}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
