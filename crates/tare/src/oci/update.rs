//! `update`: other limits for a container, from a file, from options, or from both.

use std::io::Read;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use tare_sys::{Context, Error, Kind, Result};

use super::Call;
use crate::words::flag::{Flag, Given};
use crate::words::parse;

const fn number(long: &'static str, value: &'static str, example: &'static str, help: &'static str) -> Flag {
    Flag::one(long, value, example, help)
}

pub static UPDATE: [Flag; 19] = [
    number("blkio-weight", "int", "500", "Share of the disks, from 10 to 1000"),
    number("cpu-burst", "int", "10000", "Microseconds of unused quota that can be saved up"),
    number("cpu-idle", "int", "1", "1: run only when nothing else wants to (SCHED_IDLE)"),
    number("cpu-period", "int", "100000", "Period of the cpu quota in microseconds"),
    number("cpu-quota", "int", "50000", "Microseconds of cpu time in a period; -1 for no limit"),
    number("cpu-rt-period", "int", "1000000", "Period of the realtime quota in microseconds"),
    number("cpu-rt-runtime", "int", "950000", "Microseconds of realtime in a period"),
    number("cpu-share", "int", "1024", "Share of the cpus beside other containers"),
    number("cpuset-cpus", "list", "0-2,4", "Cpus to run on"),
    number("cpuset-mems", "list", "0", "Memory nodes to use"),
    number("kernel-memory", "bytes", "64m", "Without effect: Linux has no such limit any more"),
    number("kernel-memory-tcp", "bytes", "64m", "Without effect: Linux has no such limit any more"),
    number("l3-cache-schema", "string", "L3:0=ff", "Intel RDT: part of the L3 cache"),
    number("mem-bw-schema", "string", "MB:0=50", "Intel RDT: part of the memory bandwidth"),
    number("memory", "bytes", "512m", "Most memory; -1 for no limit"),
    number("memory-reservation", "bytes", "256m", "Memory to fall back to when the host runs short"),
    number("memory-swap", "bytes", "1g", "Most memory and swap together; -1 for no limit"),
    number("pids-limit", "int", "100", "Most processes and threads; -1 for no limit"),
    Flag::one(
        "resources",
        "file",
        "/run/resources.json",
        "Read limits from this file, or from standard input (-); options change them",
    )
    .short('r'),
];

pub fn update(call: &Call) -> Result<u8> {
    let mut resources = match call.given.text("resources") {
        Some(file) => read(file)?,
        None => LinuxResources::default(),
    };
    change(&call.given, &mut resources)?;
    for gone in ["kernel-memory", "kernel-memory-tcp"] {
        if call.given.value(gone, parse::bytes_or_unlimited)?.is_some() {
            call.warn(&[format!("--{gone} is ignored: Linux 5.16 took the limit away")]);
        }
    }
    let container = call.container()?;
    let schema = |flag: &str| call.given.text(flag).filter(|text| !text.is_empty()).map(str::to_owned);
    let (cache, bandwidth) = (schema("l3-cache-schema"), schema("mem-bw-schema"));
    if cache.is_some() || bandwidth.is_some() {
        container.update_rdt(cache, bandwidth)?;
    }
    container.update(&resources)?;
    Ok(0)
}

fn read(file: &str) -> Result<LinuxResources> {
    let mut bytes = Vec::new();
    if file == "-" {
        std::io::stdin().read_to_end(&mut bytes).doing(|| "read limits from standard input")?;
    } else {
        bytes = std::fs::read(file).doing(|| format!("read limits from {file}"))?;
    }
    let mut resources: LinuxResources = serde_json::from_slice(&bytes)
        .map_err(|err| Error::new(Kind::Corrupt, format!("read limits from {file}: {err}")))?;
    drop_zeros(&mut resources);
    Ok(resources)
}

/// Callers of runc write 0 for what shall stay as it is.
fn drop_zeros(resources: &mut LinuxResources) {
    if let Some(cpu) = resources.cpu_mut() {
        let unsigned = |value: Option<u64>| value.filter(|value| *value != 0);
        let (shares, period, rt_period) =
            (unsigned(cpu.shares()), unsigned(cpu.period()), unsigned(cpu.realtime_period()));
        let quota = cpu.quota().filter(|value| *value != 0);
        cpu.set_shares(shares).set_period(period).set_realtime_period(rt_period).set_quota(quota);
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (cpus, mems) = (text(cpu.cpus()), text(cpu.mems()));
        cpu.set_cpus(cpus).set_mems(mems);
    }
    if let Some(memory) = resources.memory_mut() {
        let signed = |value: Option<i64>| value.filter(|value| *value != 0);
        let (limit, reservation, swap) =
            (signed(memory.limit()), signed(memory.reservation()), signed(memory.swap()));
        memory.set_limit(limit).set_reservation(reservation).set_swap(swap);
    }
    if let Some(io) = resources.block_io_mut() {
        let weight = io.weight().filter(|weight| *weight != 0);
        io.set_weight(weight);
    }
}

fn change(given: &Given, resources: &mut LinuxResources) -> Result<()> {
    let signed = |long: &str, least: i64| given.value(long, parse::number(least, i64::MAX));
    let unsigned = |long: &str| -> Result<Option<u64>> {
        Ok(signed(long, 0)?.and_then(|value| u64::try_from(value).ok()))
    };
    let bytes = |long: &str| given.value(long, parse::bytes_or_unlimited);
    let text = |long: &str| given.text(long).filter(|text| !text.is_empty()).map(str::to_owned);

    let cpu = resources.cpu_mut().get_or_insert_with(LinuxCpu::default);
    set(cpu, LinuxCpu::set_burst, unsigned("cpu-burst")?);
    set(cpu, LinuxCpu::set_idle, signed("cpu-idle", 0)?);
    set(cpu, LinuxCpu::set_period, unsigned("cpu-period")?);
    set(cpu, LinuxCpu::set_quota, signed("cpu-quota", -1)?);
    set(cpu, LinuxCpu::set_realtime_period, unsigned("cpu-rt-period")?);
    set(cpu, LinuxCpu::set_realtime_runtime, signed("cpu-rt-runtime", -1)?);
    set(cpu, LinuxCpu::set_shares, unsigned("cpu-share")?);
    set(cpu, LinuxCpu::set_cpus, text("cpuset-cpus"));
    set(cpu, LinuxCpu::set_mems, text("cpuset-mems"));

    let memory = resources.memory_mut().get_or_insert_with(LinuxMemory::default);
    set(memory, LinuxMemory::set_limit, bytes("memory")?);
    set(memory, LinuxMemory::set_reservation, bytes("memory-reservation")?);
    set(memory, LinuxMemory::set_swap, bytes("memory-swap")?);

    if let Some(limit) = signed("pids-limit", -1)? {
        resources.pids_mut().get_or_insert_with(LinuxPids::default).set_limit(limit);
    }
    if let Some(weight) = given.value("blkio-weight", parse::number(10, 1000))? {
        let io = resources.block_io_mut().get_or_insert_with(LinuxBlockIo::default);
        io.set_weight(u16::try_from(weight).ok());
    }
    Ok(())
}

/// Sets a field of a part only where there is a value.
fn set<P, V>(part: &mut P, set: fn(&mut P, Option<V>) -> &mut P, value: Option<V>) {
    if value.is_some() {
        set(part, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::words;

    fn changed(typed: &[&str], mut resources: LinuxResources) -> Result<LinuxResources> {
        let typed: Vec<String> = typed.iter().map(|word| (*word).to_owned()).collect();
        let sorted = words::sort(&typed, &UPDATE, false)?;
        change(&Given::new(&sorted, &UPDATE), &mut resources).map(|()| resources)
    }

    #[test]
    fn options_change_what_they_name_and_nothing_else() {
        let mut given: LinuxResources = serde_json::from_str(
            r#"{"memory":{"limit":0,"swap":-1},"cpu":{"shares":0,"quota":-1,"cpus":""},"blockIO":{"weight":0},"pids":{"limit":5}}"#,
        )
        .unwrap();
        drop_zeros(&mut given);
        let words =
            ["x", "--memory", "64m", "--memory-reservation=-1", "-cpu-share", "512", "--blkio-weight=10"];
        let all = changed(&words, given).unwrap();
        let (memory, cpu) = (all.memory().as_ref().unwrap(), all.cpu().as_ref().unwrap());
        assert_eq!(
            (memory.limit(), memory.reservation(), memory.swap()),
            (Some(64 << 20), Some(-1), Some(-1))
        );
        assert_eq!((cpu.shares(), cpu.quota(), cpu.period(), cpu.cpus()), (Some(512), Some(-1), None, &None));
        assert_eq!(all.pids().as_ref().map(LinuxPids::limit), Some(5));
        assert_eq!(all.block_io().as_ref().and_then(LinuxBlockIo::weight), Some(10));
    }

    #[test]
    fn nonsense_is_refused() {
        for typed in [
            ["--memory", "5x"],
            ["--memory", "-2"],
            ["--pids-limit", "many"],
            ["--blkio-weight", "1"],
            ["--cpu-quota", "-2"],
            ["--cpu-period", "-1"],
            ["--cpu-share", "1.5"],
        ] {
            assert!(changed(&typed, LinuxResources::default()).is_err(), "{typed:?}");
        }
    }
}
