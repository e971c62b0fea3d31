//! The v1 files. Source: the kernel's Documentation/admin-guide/cgroup-v1 and Documentation/scheduler.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};
use tare_sys::{Error, Kind, Result};

use super::{Plan, Purpose, Setting, bound, device_pair, page_size, pids_bound, rdma, unsupported};
use crate::device;

/// Errors: [`Kind::Usage`] for values that make no sense, [`Kind::Unsupported`] for what v1 cannot express.
pub(crate) fn plan(resources: &LinuxResources, purpose: Purpose) -> Result<Plan> {
    let mut plan = Plan::default();
    if let Some(memory_limits) = resources.memory() {
        memory(&mut plan, memory_limits)?;
    }
    if let Some(pids) = resources.pids() {
        plan.push(Setting::new("pids.max", pids_bound(pids.limit())?, "pids limit"));
    }
    if let Some(limits) = resources.cpu() {
        cpuset(&mut plan, limits);
        cpu(&mut plan, limits)?;
    }
    if let Some(limits) = resources.block_io() {
        block_io(&mut plan, limits)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let size = page_size(page.page_size())?;
        let limit = format!("huge page limit for {size}");
        let value = bound(page.limit(), "-1", &limit)?;
        plan.push(Setting::new(format!("hugetlb.{size}.limit_in_bytes"), &value, limit.clone()));
        let mut reserved = Setting::new(format!("hugetlb.{size}.rsvd.limit_in_bytes"), value, limit);
        reserved.optional = true;
        plan.push(reserved);
    }
    if let Some(limits) = resources.network() {
        network(&mut plan, limits)?;
    }
    rdma(&mut plan, resources)?;
    // Device rules last: whatever else can fail has failed before the container is shut off from devices.
    if let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) {
        let rules = device::parse(rules)?;
        for (file, line) in device::v1_lines(&rules, purpose)? {
            plan.push(Setting::new(file, line, "device rule"));
        }
    }
    if resources.unified().as_ref().is_some_and(|map| !map.is_empty()) {
        return Err(unsupported(
            "unified resources",
            "they name cgroup v2 files, and this host has cgroup v1",
            "use the memory, cpu, pids and blockIO limits instead, or boot with \
             systemd.unified_cgroup_hierarchy=1",
        ));
    }
    Ok(plan)
}

fn memory(plan: &mut Plan, memory: &LinuxMemory) -> Result<()> {
    // 0 stands for "not given" in configs written by Docker and its kin.
    let limit = memory.limit().filter(|&bytes| bytes != 0);
    let swap = memory.swap().filter(|&bytes| bytes != 0);
    // Whoever lifts the memory limit means no limit: memory+swap must not go on limiting it.
    let lifted = limit == Some(-1) && swap.is_none();

    let mut pair = Vec::new();
    if let Some(bytes) = limit {
        pair.push(Setting::new("memory.limit_in_bytes", bound(bytes, "-1", "memory limit")?, "memory limit"));
    }
    if let Some(bytes) = swap.or(lifted.then_some(-1)) {
        let value = bound(bytes, "-1", "memory+swap limit")?;
        let mut setting = Setting::new("memory.memsw.limit_in_bytes", value, "memory+swap limit");
        setting.optional = lifted;
        pair.push(setting);
    }
    if let (Some(limit), Some(swap @ 1..)) = (limit, swap)
        && (limit == -1 || limit > swap)
    {
        return Err(Error::new(
            Kind::Usage,
            format!("memory+swap limit {swap}: less than the memory limit {limit}"),
        )
        .hint("the swap value counts memory and swap together"));
    }
    // memory <= memory+swap at all times, so which one goes first depends on what is there now.
    if !pair.is_empty() {
        plan.steps.push(pair);
    }
    if let Some(bytes) = memory.reservation().filter(|&bytes| bytes != 0) {
        let value = bound(bytes, "-1", "memory reservation")?;
        plan.push(Setting::new("memory.soft_limit_in_bytes", value, "memory reservation"));
    }
    // u64::MAX is the -1 ("leave it") of writers whose number is signed.
    if let Some(level) = memory.swappiness().filter(|&level| level != u64::MAX) {
        if level > 100 {
            return Err(Error::new(Kind::Usage, format!("memory swappiness {level}: not within 0 to 100")));
        }
        plan.push(Setting::new("memory.swappiness", level, "memory swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        plan.push(Setting::new("memory.oom_control", 1, "disabling the OOM killer"));
    }
    if memory.check_before_update() == Some(true) {
        plan.memory_ceiling = limit.and_then(|bytes| u64::try_from(bytes).ok());
    }
    Ok(())
}

fn cpu(plan: &mut Plan, cpu: &LinuxCpu) -> Result<()> {
    let idle = cpu.idle().map(|idle| Setting::new("cpu.idle", idle, "cpu idle"));
    let becomes_idle = cpu.idle() == Some(1);
    // An idle group takes no shares: leave that state before them, enter it after them.
    if let Some(idle) = idle.clone().filter(|_| !becomes_idle) {
        plan.push(idle);
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        plan.push(Setting::new("cpu.shares", shares, "cpu shares"));
    }
    // quota/period is checked against the parent at each write, burst against quota.
    let mut bandwidth = Vec::new();
    if let Some(period) = cpu.period().filter(|&period| period != 0) {
        bandwidth.push(Setting::new("cpu.cfs_period_us", period, "cpu period"));
    }
    if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
        bandwidth.push(Setting::new("cpu.cfs_quota_us", bound(quota, "-1", "cpu quota")?, "cpu quota"));
    }
    if let Some(burst) = cpu.burst() {
        bandwidth.push(Setting::new("cpu.cfs_burst_us", burst, "cpu burst"));
    }
    if !bandwidth.is_empty() {
        plan.steps.push(bandwidth);
    }
    let mut realtime = Vec::new();
    if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
        realtime.push(Setting::new("cpu.rt_period_us", period, "cpu realtime period"));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        realtime.push(Setting::new("cpu.rt_runtime_us", runtime, "cpu realtime runtime"));
    }
    if !realtime.is_empty() {
        plan.steps.push(realtime);
    }
    plan.steps.extend(idle.filter(|_| becomes_idle).map(|idle| vec![idle]));
    Ok(())
}

fn cpuset(plan: &mut Plan, cpu: &LinuxCpu) {
    if let Some(cpus) = cpu.cpus().as_ref().filter(|list| !list.is_empty()) {
        plan.push(Setting::new("cpuset.cpus", cpus, "cpuset cpus"));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|list| !list.is_empty()) {
        plan.push(Setting::new("cpuset.mems", mems, "cpuset memory nodes"));
    }
}

fn block_io(plan: &mut Plan, io: &LinuxBlockIo) -> Result<()> {
    // The file's name depends on the I/O scheduler: CFQ (gone since 5.0) had the first, BFQ has the second.
    let mut push = |file: &'static str, value: String, bfq: Option<&'static str>, limit: &'static str| {
        let mut setting = Setting::new(file, &value, limit);
        setting.instead = bfq.map(|file| (file, value));
        plan.push(setting);
    };
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        push("blkio.weight", weight.to_string(), Some("blkio.bfq.weight"), "block I/O weight");
    }
    if let Some(weight) = io.leaf_weight().filter(|&weight| weight != 0) {
        push("blkio.leaf_weight", weight.to_string(), None, "block I/O leaf weight");
    }
    for device in io.weight_device().iter().flatten() {
        let pair = device_pair(device.major(), device.minor(), "block I/O weight")?;
        if let Some(weight) = device.weight() {
            let limit = "block I/O weight of a device";
            push("blkio.weight_device", format!("{pair} {weight}"), Some("blkio.bfq.weight_device"), limit);
        }
        if let Some(weight) = device.leaf_weight() {
            let limit = "block I/O leaf weight of a device";
            push("blkio.leaf_weight_device", format!("{pair} {weight}"), None, limit);
        }
    }
    let mut throttle =
        |file: &'static str, devices: &Option<Vec<LinuxThrottleDevice>>, limit: &'static str| -> Result<()> {
            for device in devices.iter().flatten() {
                let pair = device_pair(device.major(), device.minor(), limit)?;
                push(file, format!("{pair} {}", device.rate()), None, limit);
            }
            Ok(())
        };
    throttle("blkio.throttle.read_bps_device", io.throttle_read_bps_device(), "device read rate")?;
    throttle("blkio.throttle.write_bps_device", io.throttle_write_bps_device(), "device write rate")?;
    throttle("blkio.throttle.read_iops_device", io.throttle_read_iops_device(), "device read operations")?;
    throttle("blkio.throttle.write_iops_device", io.throttle_write_iops_device(), "device write operations")
}

fn network(plan: &mut Plan, network: &LinuxNetwork) -> Result<()> {
    if let Some(class) = network.class_id().filter(|&class| class != 0) {
        plan.push(Setting::new("net_cls.classid", class, "network class id"));
    }
    for priority in network.priorities().iter().flatten() {
        let name = priority.name();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::new(Kind::Usage, format!("network priority: {name:?} is not an interface")));
        }
        let value = format!("{name} {}", priority.priority());
        plan.push(Setting::new("net_prio.ifpriomap", value, "network priority"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
