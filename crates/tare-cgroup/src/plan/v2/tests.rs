//! Tables: resources in, v2 files and values out.

use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxNetworkBuilder,
    LinuxPidsBuilder, LinuxResourcesBuilder, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

use super::super::lines;
use super::*;

const M: i64 = 1 << 20;

fn planned(resources: LinuxResourcesBuilder) -> Plan {
    plan(&resources.build().unwrap()).unwrap()
}

fn error(resources: LinuxResourcesBuilder) -> Error {
    plan(&resources.build().unwrap()).unwrap_err()
}

fn resources() -> LinuxResourcesBuilder {
    LinuxResourcesBuilder::default()
}

fn memory(builder: LinuxMemoryBuilder) -> LinuxResourcesBuilder {
    resources().memory(builder.build().unwrap())
}

fn cpu(builder: LinuxCpuBuilder) -> LinuxResourcesBuilder {
    resources().cpu(builder.build().unwrap())
}

#[test]
fn swap_is_what_is_left_above_the_memory_limit() {
    let builder = LinuxMemoryBuilder::default;
    let table: [(LinuxMemoryBuilder, &[&str]); 7] = [
        (builder().limit(64 * M), &["memory.max = 67108864"]),
        (builder().limit(64 * M).swap(96 * M), &["memory.swap.max = 33554432", "memory.max = 67108864"]),
        (builder().limit(64 * M).swap(64 * M), &["memory.swap.max = 0", "memory.max = 67108864"]),
        (builder().limit(64 * M).swap(-1), &["memory.swap.max = max", "memory.max = 67108864"]),
        (builder().swap(-1), &["memory.swap.max = max"]),
        (builder().limit(-1), &["memory.swap.max = max", "memory.max = max"]),
        (builder().limit(0).swap(0).reservation(32 * M), &["memory.low = 33554432"]),
    ];
    for (given, expected) in table {
        assert_eq!(lines(&planned(memory(given))), expected);
    }
}

#[test]
fn what_v2_memory_cannot_do_is_refused() {
    let builder = LinuxMemoryBuilder::default;
    assert_eq!(error(memory(builder().swap(64 * M))).kind(), Kind::Usage);
    assert_eq!(error(memory(builder().limit(64 * M).swap(32 * M))).kind(), Kind::Usage);
    assert_eq!(error(memory(builder().limit(-1).swap(32 * M))).kind(), Kind::Usage);
    assert_eq!(error(memory(builder().limit(-7))).kind(), Kind::Usage);
    assert_eq!(error(memory(builder().disable_oom_killer(true))).kind(), Kind::Unsupported);
    assert_eq!(error(memory(builder().swappiness(10u64))).kind(), Kind::Unsupported);
    assert!(lines(&planned(memory(builder().disable_oom_killer(false).swappiness(u64::MAX)))).is_empty());
}

#[test]
fn shares_become_weight_by_the_parabola() {
    let table = [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 2),
        (102, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (3072, 240),
        (262_143, 10_000),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ];
    for (shares, weight) in table {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    let mut before = 0;
    for shares in 2..=262_144 {
        let weight = weight_of_shares(shares);
        assert!((1..=10_000).contains(&weight) && weight >= before, "{shares}");
        before = weight;
    }
}

#[test]
fn cpu_time_and_sets() {
    let builder = LinuxCpuBuilder::default;
    let table: [(LinuxCpuBuilder, &[&str]); 7] = [
        (builder().shares(1024u64), &["cpu.weight = 100"]),
        (builder().quota(50_000), &["cpu.max = 50000"]),
        (builder().quota(50_000).period(100_000u64), &["cpu.max = 50000 100000"]),
        (builder().quota(-1), &["cpu.max = max"]),
        (builder().period(20_000u64).burst(9u64), &["cpu.max = 20000", "cpu.max.burst = 9"]),
        (builder().idle(1).shares(2u64), &["cpu.weight = 1", "cpu.idle = 1"]),
        (builder().cpus("0-3").mems("0"), &["cpuset.cpus = 0-3", "cpuset.mems = 0"]),
    ];
    for (given, expected) in table {
        assert_eq!(lines(&planned(cpu(given))), expected);
    }
    assert!(planned(cpu(builder().period(20_000u64))).steps[0][0].keep_first_word, "the quota stays");
    assert_eq!(error(cpu(builder().realtime_runtime(5))).kind(), Kind::Unsupported);
}

#[test]
fn block_io() {
    let rate = |major, rate: u64| {
        LinuxThrottleDeviceBuilder::default().major(major).minor(0).rate(rate).build().unwrap()
    };
    let weights = LinuxWeightDeviceBuilder::default().major(8).minor(0).weight(10u16).build().unwrap();
    let io = LinuxBlockIoBuilder::default()
        .weight(1000u16)
        .weight_device(vec![weights])
        .throttle_read_bps_device(vec![rate(254, 1), rate(8, 7)])
        .throttle_write_bps_device(vec![rate(254, 2)])
        .throttle_write_iops_device(vec![rate(254, 0)]);
    let plan = planned(resources().block_io(io.build().unwrap()));
    assert_eq!(
        lines(&plan),
        [
            "io.bfq.weight = 1000",
            "io.bfq.weight = 8:0 10",
            "io.max = 8:0 rbps=7",
            "io.max = 254:0 rbps=1 wbps=2 wiops=max",
        ]
    );
    assert_eq!(plan.steps[0][0].instead, Some(("io.weight", "default 10000".to_owned())));
    assert_eq!(plan.steps[1][0].instead, Some(("io.weight", "8:0 1".to_owned())));

    let io = LinuxBlockIoBuilder::default().leaf_weight(100u16).build().unwrap();
    assert_eq!(error(resources().block_io(io)).kind(), Kind::Unsupported);
}

#[test]
fn pids_huge_pages_and_network() {
    let page = LinuxHugepageLimitBuilder::default().page_size("1GB").limit(-1).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(0).build().unwrap();
    let plan = planned(resources().pids(pids).hugepage_limits(vec![page]));
    assert_eq!(lines(&plan), ["pids.max = 1", "hugetlb.1GB.max = max", "hugetlb.1GB.rsvd.max = max"]);

    let network = LinuxNetworkBuilder::default().class_id(7u32).build().unwrap();
    assert_eq!(error(resources().network(network)).kind(), Kind::Unsupported);
}

#[test]
fn unified_files_are_taken_as_they_are_but_stay_files() {
    let map = |file: &str, value: &str| resources().unified([(file.to_owned(), value.to_owned())]);
    let two = map("io.max", "8:0 rbps=1\n254:0 rbps=2\n");
    assert_eq!(lines(&planned(two)), ["io.max = 8:0 rbps=1", "io.max = 254:0 rbps=2"]);
    let plan = planned(map("misc.max", "res_a 1"));
    assert_eq!(plan.controllers().first().map(|(name, _)| *name), Some("misc"));

    let long_way =
        ["memory/../x.y", "/etc/passwd", "..", ".", "memory", "memory.", ".max", "a..b", "", "a.b\n"];
    for bad in long_way.into_iter().chain(NOT_RESOURCES) {
        assert_eq!(error(map(bad, "1")).kind(), Kind::Usage, "{bad:?}");
    }
}
