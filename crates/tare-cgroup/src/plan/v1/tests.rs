//! Tables: resources in, v1 files and values out.

use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxHugepageLimitBuilder,
    LinuxInterfacePriorityBuilder, LinuxMemoryBuilder, LinuxNetworkBuilder, LinuxPidsBuilder,
    LinuxRdmaBuilder, LinuxResourcesBuilder, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

use super::super::lines;
use super::*;

const M: i64 = 1 << 20;

fn planned(resources: LinuxResourcesBuilder) -> Plan {
    plan(&resources.build().unwrap(), Purpose::Create).unwrap()
}

fn error(resources: LinuxResourcesBuilder) -> Error {
    plan(&resources.build().unwrap(), Purpose::Create).unwrap_err()
}

fn resources() -> LinuxResourcesBuilder {
    LinuxResourcesBuilder::default()
}

#[test]
fn nothing_asked_nothing_written() {
    assert!(lines(&planned(resources())).is_empty());
    let zeros = LinuxMemoryBuilder::default().limit(0).swap(0).reservation(0).disable_oom_killer(false);
    assert!(lines(&planned(resources().memory(zeros.build().unwrap()))).is_empty());
}

#[test]
fn memory_and_its_swap_belong_together() {
    let memory = LinuxMemoryBuilder::default()
        .limit(64 * M)
        .swap(128 * M)
        .reservation(32 * M)
        .swappiness(0u64)
        .disable_oom_killer(true)
        .check_before_update(true);
    let plan = planned(resources().memory(memory.build().unwrap()));
    assert_eq!(
        lines(&plan),
        [
            "memory.limit_in_bytes = 67108864",
            "memory.memsw.limit_in_bytes = 134217728",
            "memory.soft_limit_in_bytes = 33554432",
            "memory.swappiness = 0",
            "memory.oom_control = 1",
        ]
    );
    assert_eq!(plan.steps[0].len(), 2, "so that apply can turn them round");
    assert_eq!(plan.memory_ceiling, Some(67_108_864));
}

#[test]
fn lifting_the_memory_limit_lifts_the_one_with_swap() {
    let memory = LinuxMemoryBuilder::default().limit(-1).build().unwrap();
    let plan = planned(resources().memory(memory));
    assert_eq!(lines(&plan), ["memory.limit_in_bytes = -1", "memory.memsw.limit_in_bytes = -1"]);
    assert!(plan.steps[0][1].optional);
}

#[test]
fn memory_values_without_sense_are_refused() {
    let builder = LinuxMemoryBuilder::default;
    for bad in [
        builder().limit(-5),
        builder().limit(2 * M).swap(M),
        builder().swappiness(101u64),
        builder().swap(-2),
    ] {
        assert_eq!(error(resources().memory(bad.build().unwrap())).kind(), Kind::Usage);
    }
}

#[test]
fn cpu_time_and_sets() {
    let cpu = LinuxCpuBuilder::default()
        .shares(512u64)
        .period(50_000u64)
        .quota(25_000)
        .burst(1000u64)
        .realtime_period(1_000_000u64)
        .realtime_runtime(10_000)
        .cpus("0-1")
        .mems("0");
    let plan = planned(resources().cpu(cpu.build().unwrap()));
    assert_eq!(
        lines(&plan),
        [
            "cpuset.cpus = 0-1",
            "cpuset.mems = 0",
            "cpu.shares = 512",
            "cpu.cfs_period_us = 50000",
            "cpu.cfs_quota_us = 25000",
            "cpu.cfs_burst_us = 1000",
            "cpu.rt_period_us = 1000000",
            "cpu.rt_runtime_us = 10000",
        ]
    );
    let controllers: Vec<_> = plan.controllers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(controllers, ["cpuset", "cpu"]);
}

#[test]
fn idle_goes_before_shares_when_it_ends_and_after_them_when_it_begins() {
    let cpu = |idle| LinuxCpuBuilder::default().shares(512u64).idle(idle).build().unwrap();
    assert_eq!(lines(&planned(resources().cpu(cpu(0)))), ["cpu.idle = 0", "cpu.shares = 512"]);
    assert_eq!(lines(&planned(resources().cpu(cpu(1)))), ["cpu.shares = 512", "cpu.idle = 1"]);
}

#[test]
fn block_io() {
    let rate = |rate: u64| {
        vec![LinuxThrottleDeviceBuilder::default().major(254).minor(0).rate(rate).build().unwrap()]
    };
    let weights = LinuxWeightDeviceBuilder::default().major(8).minor(16).weight(300u16).leaf_weight(20u16);
    let io = LinuxBlockIoBuilder::default()
        .weight(500u16)
        .leaf_weight(100u16)
        .weight_device(vec![weights.build().unwrap()])
        .throttle_read_bps_device(rate(1))
        .throttle_write_bps_device(rate(2))
        .throttle_read_iops_device(rate(3))
        .throttle_write_iops_device(rate(4));
    let plan = planned(resources().block_io(io.build().unwrap()));
    assert_eq!(
        lines(&plan),
        [
            "blkio.weight = 500",
            "blkio.leaf_weight = 100",
            "blkio.weight_device = 8:16 300",
            "blkio.leaf_weight_device = 8:16 20",
            "blkio.throttle.read_bps_device = 254:0 1",
            "blkio.throttle.write_bps_device = 254:0 2",
            "blkio.throttle.read_iops_device = 254:0 3",
            "blkio.throttle.write_iops_device = 254:0 4",
        ]
    );
    assert_eq!(plan.steps[0][0].instead, Some(("blkio.bfq.weight", "500".to_owned())));
    assert_eq!(plan.steps[1][0].instead, None);

    let odd = LinuxThrottleDeviceBuilder::default().major(-1).minor(0).rate(5u64).build().unwrap();
    let io = LinuxBlockIoBuilder::default().throttle_read_bps_device(vec![odd]).build().unwrap();
    assert_eq!(error(resources().block_io(io)).kind(), Kind::Usage);
}

#[test]
fn the_rest() {
    let page = LinuxHugepageLimitBuilder::default().page_size("2MB").limit(4 * M).build().unwrap();
    let eth = LinuxInterfacePriorityBuilder::default().name("eth0").priority(5u32).build().unwrap();
    let network =
        LinuxNetworkBuilder::default().class_id(0x10_0001u32).priorities(vec![eth]).build().unwrap();
    let rdma = LinuxRdmaBuilder::default().hca_handles(3u32).hca_objects(9u32).build().unwrap();
    let plan = planned(
        resources()
            .pids(LinuxPidsBuilder::default().limit(-1).build().unwrap())
            .hugepage_limits(vec![page])
            .network(network)
            .rdma([("mlx5_1".to_owned(), rdma)]),
    );
    assert_eq!(
        lines(&plan),
        [
            "pids.max = max",
            "hugetlb.2MB.limit_in_bytes = 4194304",
            "hugetlb.2MB.rsvd.limit_in_bytes = 4194304",
            "net_cls.classid = 1048577",
            "net_prio.ifpriomap = eth0 5",
            "rdma.max = mlx5_1 hca_handle=3 hca_object=9",
        ]
    );
}

#[test]
fn device_rules_come_last_and_start_from_nothing() {
    let null = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(oci_spec::runtime::LinuxDeviceType::C)
        .major(1)
        .minor(3)
        .access("rwm");
    let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm");
    let pids = LinuxPidsBuilder::default().limit(9).build().unwrap();
    let plan = planned(resources().pids(pids).devices(vec![deny.build().unwrap(), null.build().unwrap()]));
    assert_eq!(lines(&plan), ["pids.max = 9", "devices.deny = a", "devices.allow = c 1:3 rwm"]);
}

#[test]
fn v2_files_are_not_for_v1() {
    let err = error(resources().unified([("memory.high".to_owned(), "5".to_owned())]));
    assert_eq!(err.kind(), Kind::Unsupported);
    assert!(err.hint_text().is_some());
}
