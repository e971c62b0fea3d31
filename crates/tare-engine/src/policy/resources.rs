//! Limits: the request's numbers in the spec's words.

use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};
use tare_sys::{Error, Kind, Result};

use super::{Facts, PIDS_LIMIT, devices, spec_error};
use crate::request::{HostConfig, ThrottleDevice};

/// CFS period in microseconds, the kernel's default.
const PERIOD: u64 = 100_000;

fn usage(what: String, hint: &str) -> Error {
    Error::new(Kind::Usage, what).hint(hint)
}

/// All limits of a container, and its device rules.
pub fn resources(host: &HostConfig, facts: &Facts, warnings: &mut Vec<String>) -> Result<LinuxResources> {
    let mut resources =
        LinuxResourcesBuilder::default().devices(devices::rules(host, facts)?).build().map_err(spec_error)?;
    resources.set_memory(memory(host, facts)?);
    resources.set_cpu(cpu(host, facts)?);
    resources.set_block_io(block_io(host, facts)?);
    let pids = match host.pids_limit {
        Some(limit) if limit > 0 => Some(limit),
        Some(_) => None,
        None if facts.has_pids => Some(PIDS_LIMIT),
        None if facts.rootless => None,
        None => {
            warnings.push(format!(
                "this host has no pids controller: the default limit of {PIDS_LIMIT} processes is not in force"
            ));
            None
        }
    };
    if let Some(limit) = pids {
        resources.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build().map_err(spec_error)?));
    }
    Ok(resources)
}

/// What has to be written for these limits to become those: no more than what differs, and for what is no longer
/// limited that it is not.
pub fn change(from: &HostConfig, to: &HostConfig, facts: &Facts) -> Result<LinuxResources> {
    if to.memory_swap > 0 && to.memory > to.memory_swap && from.memory_swap == to.memory_swap {
        return Err(usage(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time".into(),
            "give --memory-swap as well: it is memory plus swap, or -1",
        ));
    }
    let (before, mut after) =
        (resources(from, facts, &mut Vec::new())?, resources(to, facts, &mut Vec::new())?);
    after.set_devices(None);
    let lifted = |before: Option<i64>, after: Option<i64>| match (before, after) {
        (Some(_), None) => Some(-1),
        (_, after) => after,
    };
    if before.memory() == after.memory() {
        after.set_memory(None);
    } else {
        let old = before.memory().unwrap_or_default();
        let new = after.memory_mut().get_or_insert_with(Default::default);
        let (limit, reservation) =
            (lifted(old.limit(), new.limit()), lifted(old.reservation(), new.reservation()));
        new.set_limit(limit);
        new.set_reservation(reservation);
    }
    if before.cpu() == after.cpu() {
        after.set_cpu(None);
    } else {
        let old = before.cpu().clone().unwrap_or_default();
        let new = after.cpu_mut().get_or_insert_with(Default::default);
        let quota = lifted(old.quota(), new.quota());
        new.set_quota(quota);
        if old.shares().is_some() && new.shares().is_none() {
            new.set_shares(Some(1024));
        }
    }
    if before.pids() == after.pids() {
        after.set_pids(None);
    } else if after.pids().is_none() {
        after.set_pids(Some(LinuxPidsBuilder::default().limit(-1).build().map_err(spec_error)?));
    }
    if before.block_io() == after.block_io() {
        after.set_block_io(None);
    } else if let Some(io) = after.block_io_mut() {
        // Rates of devices are not among what is updated.
        *io =
            LinuxBlockIoBuilder::default().weight(io.weight().unwrap_or(500)).build().map_err(spec_error)?;
    }
    Ok(after)
}

fn memory(host: &HostConfig, facts: &Facts) -> Result<Option<oci_spec::runtime::LinuxMemory>> {
    let HostConfig { memory, memory_swap, memory_reservation, .. } = *host;
    if memory < 0 || memory_reservation < 0 || memory_swap < -1 {
        return Err(usage("a memory limit below zero".into(), "use a size such as 64m or 1g"));
    }
    if memory_swap > 0 && memory == 0 {
        return Err(usage(
            "--memory-swap without --memory".into(),
            "it is the sum of both: give --memory as well",
        ));
    }
    if memory_swap > 0 && memory_swap < memory {
        return Err(usage(
            format!("--memory-swap {memory_swap} is less than --memory {memory}"),
            "it is memory plus swap: make it at least as large as --memory",
        ));
    }
    if memory > 0 && memory_reservation > memory {
        return Err(usage(
            format!("--memory-reservation {memory_reservation} is more than --memory {memory}"),
            "the reservation is the softer, lower limit",
        ));
    }
    if host.memory_swappiness.is_some_and(|swappiness| !(0..=100).contains(&swappiness)) {
        return Err(usage("--memory-swappiness out of range".into(), "use a number from 0 to 100"));
    }
    let mut limits = LinuxMemoryBuilder::default().build().map_err(spec_error)?;
    let mut any = false;
    if memory > 0 {
        limits.set_limit(Some(memory));
        any = true;
    }
    // Docker's default: as much swap again. A host without swap has nothing to limit.
    let swap = match memory_swap {
        0 if memory > 0 && facts.has_swap => Some(memory.saturating_mul(2)),
        0 => None,
        asked => Some(asked),
    };
    if let Some(swap) = swap {
        limits.set_swap(Some(swap));
        any = true;
    }
    if memory_reservation > 0 {
        limits.set_reservation(Some(memory_reservation));
        any = true;
    }
    if let Some(swappiness) = host.memory_swappiness {
        limits.set_swappiness(Some(swappiness as u64));
        any = true;
    }
    if host.oom_kill_disable {
        limits.set_disable_oom_killer(Some(true));
        any = true;
    }
    Ok(any.then_some(limits))
}

fn cpu(host: &HostConfig, facts: &Facts) -> Result<Option<oci_spec::runtime::LinuxCpu>> {
    let mut limits = LinuxCpuBuilder::default().build().map_err(spec_error)?;
    let mut any = false;
    if host.nano_cpus != 0 {
        let most = i64::from(facts.cpus.max(1)) * 1_000_000_000;
        if !(10_000_000..=most).contains(&host.nano_cpus) {
            return Err(usage(
                format!("--cpus {}: out of range", host.nano_cpus as f64 / 1e9),
                &format!("this host has {} CPUs: use a number from 0.01 to that", facts.cpus),
            ));
        }
        if host.cpu_quota != 0 || host.cpu_period != 0 {
            return Err(usage(
                "--cpus together with --cpu-quota or --cpu-period".into(),
                "--cpus is a quota over a period: use one or the other",
            ));
        }
        limits.set_period(Some(PERIOD));
        limits.set_quota(Some(host.nano_cpus / (1_000_000_000 / PERIOD as i64)));
        any = true;
    }
    if host.cpu_quota != 0 {
        limits.set_quota(Some(host.cpu_quota));
        any = true;
    }
    if host.cpu_period != 0 {
        limits.set_period(Some(u64::try_from(host.cpu_period).map_err(|_| {
            usage(format!("--cpu-period {}", host.cpu_period), "use 1000 to 1000000 microseconds")
        })?));
        any = true;
    }
    if host.cpu_rt_period != 0 {
        limits.set_realtime_period(Some(u64::try_from(host.cpu_rt_period).map_err(|_| {
            usage(format!("--cpu-rt-period {}", host.cpu_rt_period), "use a number of microseconds")
        })?));
        any = true;
    }
    if host.cpu_rt_runtime != 0 {
        if host.cpu_rt_period != 0 && host.cpu_rt_runtime > host.cpu_rt_period {
            return Err(usage(
                "--cpu-rt-runtime is more than --cpu-rt-period".into(),
                "the runtime is a part of the period",
            ));
        }
        limits.set_realtime_runtime(Some(host.cpu_rt_runtime));
        any = true;
    }
    if host.cpu_shares != 0 {
        let shares = u64::try_from(host.cpu_shares).map_err(|_| {
            usage(format!("--cpu-shares {}", host.cpu_shares), "use a number from 2 to 262144")
        })?;
        // As Docker and the kernel: the range has ends, and what lies beyond is taken as the end.
        limits.set_shares(Some(shares.clamp(2, 262_144)));
        any = true;
    }
    if !host.cpuset_cpus.is_empty() {
        limits.set_cpus(Some(host.cpuset_cpus.clone()));
        any = true;
    }
    if !host.cpuset_mems.is_empty() {
        limits.set_mems(Some(host.cpuset_mems.clone()));
        any = true;
    }
    Ok(any.then_some(limits))
}

fn block_io(host: &HostConfig, facts: &Facts) -> Result<Option<oci_spec::runtime::LinuxBlockIo>> {
    let mut limits = LinuxBlockIoBuilder::default().build().map_err(spec_error)?;
    let mut any = false;
    if host.blkio_weight != 0 {
        if !(10..=1000).contains(&host.blkio_weight) {
            return Err(usage(
                format!("--blkio-weight {}: out of range", host.blkio_weight),
                "use a number from 10 to 1000",
            ));
        }
        limits.set_weight(Some(host.blkio_weight));
        any = true;
    }
    let numbers = |path: &str| {
        let found = facts.block_devices.iter().find(|(known, ..)| known == path);
        found.map(|(_, major, minor)| (*major as i64, *minor as i64)).ok_or_else(|| {
            usage(format!("limit {path}: not a block device"), "name a whole disk, such as /dev/sda")
        })
    };
    let weights = host
        .blkio_weight_device
        .iter()
        .map(|device| {
            let (major, minor) = numbers(&device.path)?;
            LinuxWeightDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .weight(device.weight)
                .build()
                .map_err(spec_error)
        })
        .collect::<Result<Vec<_>>>()?;
    if !weights.is_empty() {
        limits.set_weight_device(Some(weights));
        any = true;
    }
    let throttle = |list: &[ThrottleDevice]| -> Result<Option<Vec<LinuxThrottleDevice>>> {
        list.iter()
            .map(|device| {
                let (major, minor) = numbers(&device.path)?;
                LinuxThrottleDeviceBuilder::default()
                    .major(major)
                    .minor(minor)
                    .rate(device.rate)
                    .build()
                    .map_err(spec_error)
            })
            .collect::<Result<Vec<_>>>()
            .map(|list| (!list.is_empty()).then_some(list))
    };
    let lists = [
        throttle(&host.blkio_device_read_bps)?,
        throttle(&host.blkio_device_write_bps)?,
        throttle(&host.blkio_device_read_iops)?,
        throttle(&host.blkio_device_write_iops)?,
    ];
    any |= lists.iter().any(Option::is_some);
    let [read_bps, write_bps, read_iops, write_iops] = lists;
    limits.set_throttle_read_bps_device(read_bps);
    limits.set_throttle_write_bps_device(write_bps);
    limits.set_throttle_read_iops_device(read_iops);
    limits.set_throttle_write_iops_device(write_iops);
    Ok(any.then_some(limits))
}
