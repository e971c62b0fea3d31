//! Limits in, properties out, for both versions; and annotations.

use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
};

use super::*;
use crate::systemd::target;

fn shown(list: &[Property]) -> Vec<String> {
    let value = |value: &Value| match value {
        Value::Uint64(INFINITY) => "infinity".to_owned(),
        Value::Uint64(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::Str(text) => text.clone(),
        Value::Array(_, values) if values.is_empty() => "[]".to_owned(),
        other => format!("{other:?}"),
    };
    list.iter().map(|(name, own)| format!("{name}={}", value(own))).collect()
}

fn of(resources: &LinuxResources, version: Version) -> Vec<String> {
    shown(&limits(resources, version, 252, None).unwrap())
}

fn resources() -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(64 << 20).swap(96 << 20).reservation(1 << 20);
    let cpu = LinuxCpuBuilder::default().shares(512u64).quota(25_000).period(50_000u64);
    LinuxResourcesBuilder::default()
        .memory(memory.build().unwrap())
        .cpu(cpu.build().unwrap())
        .pids(LinuxPidsBuilder::default().limit(16).build().unwrap())
        .block_io(LinuxBlockIoBuilder::default().weight(500u16).build().unwrap())
        .build()
        .unwrap()
}

#[test]
fn limits_become_properties_of_v2() {
    assert_eq!(
        of(&resources(), Version::V2),
        [
            "MemoryMax=67108864",
            "MemoryLow=1048576",
            "MemorySwapMax=33554432",
            "TasksMax=16",
            "CPUWeight=59",
            "CPUQuotaPeriodUSec=50000",
            "CPUQuotaPerSecUSec=500000",
            "IOWeight=4950",
        ]
    );
}

#[test]
fn limits_become_properties_of_v1() {
    assert_eq!(
        of(&resources(), Version::V1),
        [
            "MemoryLimit=67108864",
            "TasksMax=16",
            "CPUShares=512",
            "CPUQuotaPeriodUSec=50000",
            "CPUQuotaPerSecUSec=500000",
            "BlockIOWeight=500",
        ]
    );
}

#[test]
fn minus_one_and_nothing() {
    let memory = LinuxMemoryBuilder::default().limit(-1).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(-1).build().unwrap();
    let cpu = LinuxCpuBuilder::default().quota(-1).build().unwrap();
    let all = LinuxResourcesBuilder::default().memory(memory).pids(pids).cpu(cpu).build().unwrap();
    assert_eq!(
        of(&all, Version::V2),
        ["MemoryMax=infinity", "MemorySwapMax=infinity", "TasksMax=infinity", "CPUQuotaPerSecUSec=infinity",]
    );
    let nothing = LinuxResourcesBuilder::default().build().unwrap();
    assert!(of(&nothing, Version::V2).is_empty() && of(&nothing, Version::V1).is_empty());
}

#[test]
fn an_old_systemd_is_told_less_and_a_lone_period_keeps_the_quota() {
    let cpu = LinuxCpuBuilder::default().period(20_000u64).cpus("0-1").mems("0").idle(1).build().unwrap();
    let all = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
    let old = limits(&all, Version::V2, 239, Some(5_001)).unwrap();
    // 25.005 % of a cpu, rounded up to whole percents.
    assert_eq!(shown(&old), ["CPUQuotaPerSecUSec=260000"]);
    let new = limits(&all, Version::V2, 252, Some(-1)).unwrap();
    let names: Vec<&str> = new.iter().map(|(name, _)| name.as_str()).collect();
    let expected =
        ["CPUWeight", "CPUQuotaPeriodUSec", "CPUQuotaPerSecUSec", "AllowedCPUs", "AllowedMemoryNodes"];
    assert_eq!(names, expected);
    assert_eq!(new[3].1, Value::bytes(&[3]));
}

#[test]
fn cpus_become_bits() {
    assert_eq!(bits("0-2,9").unwrap(), [7, 2]);
    assert_eq!(bits(" 1 ,3\n").unwrap(), [10]);
    for bad in ["", ",", "x", "3-1", "-1", "1-", "9999999999", "8192", "0-8192"] {
        assert_eq!(bits(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
    }
}

#[test]
fn files_named_by_hand_become_properties_too() {
    let pairs = [
        ("memory.high", "1000"),
        ("memory.max", "max"),
        ("pids.max", "5"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "7"),
        ("memory.oom.group", "1"),
        ("cpuset.cpus", "1"),
    ];
    let unified: HashMap<String, String> = pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let all = LinuxResourcesBuilder::default().unified(unified).build().unwrap();
    let list = of(&all, Version::V2);
    for expected in [
        "MemoryHigh=1000",
        "MemoryMax=infinity",
        "TasksMax=5",
        "CPUWeight=7",
        "CPUQuotaPerSecUSec=500000",
        "CPUQuotaPeriodUSec=100000",
    ] {
        assert!(list.iter().any(|own| own == expected), "{expected}: {list:?}");
    }
    assert_eq!(list.len(), 7);
    let bad = HashMap::from([("memory.high".to_owned(), "much".to_owned())]);
    let all = LinuxResourcesBuilder::default().unified(bad).build().unwrap();
    assert!(limits(&all, Version::V2, 252, None).is_err());
}

fn rule(allow: bool, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(LinuxDeviceType::C).access(access);
    if let Some(major) = major {
        rule = rule.major(major);
    }
    if let Some(minor) = minor {
        rule = rule.minor(minor);
    }
    rule.build().unwrap()
}

fn device_lines(rules: &[LinuxDeviceCgroup], version: Version) -> Vec<String> {
    let rules = device::parse(rules).unwrap();
    let mut all = Vec::new();
    devices(&mut all, &rules, version, 252);
    let entry = |value: &Value| match value {
        Value::Struct(pair) => match pair.as_slice() {
            [Value::Str(path), Value::Str(access)] => format!("{path} {access}"),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let mut lines = Vec::new();
    for (name, value) in &all {
        match value {
            Value::Array(_, values) => lines.extend(values.iter().map(entry)),
            Value::Str(text) => lines.push(format!("{name}={text}")),
            other => panic!("{other:?}"),
        }
    }
    lines
}

#[test]
fn devices_become_a_list_of_what_is_allowed() {
    let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap();
    let allow = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build().unwrap();
    let rules = [
        deny.clone(),
        rule(true, None, None, "m"),
        rule(true, Some(1), Some(3), "rw"),
        rule(true, Some(136), None, "rwm"),
    ];
    let expected = ["DevicePolicy=strict", "char-* m", "/dev/char/1:3 rwm", "char-136 rwm"];
    assert_eq!(device_lines(&rules, Version::V2), expected);
    assert_eq!(device_lines(std::slice::from_ref(&deny), Version::V2), ["DevicePolicy=strict"]);
    assert_eq!(device_lines(std::slice::from_ref(&allow), Version::V2), ["DevicePolicy=auto"]);
    // Beyond a list: left to our program.
    assert_eq!(
        device_lines(&[allow.clone(), rule(false, Some(1), Some(3), "w")], Version::V2),
        ["DevicePolicy=auto"]
    );
    let open = [allow, rule(false, Some(1), Some(3), "w")];
    assert_eq!(device_lines(&open, Version::V1), ["DevicePolicy=strict", "char-* rwm", "block-* rwm"]);
    assert_eq!(device_lines(&[deny, rule(true, None, Some(3), "w")], Version::V2), ["DevicePolicy=auto"]);
}

fn annotation(name: &str, value: &str) -> Result<Vec<Property>> {
    annotated(&HashMap::from([(name.to_owned(), value.to_owned()), ("org.other".to_owned(), "x".to_owned())]))
}

#[test]
fn annotations_become_properties() {
    let one = |name: &str, value: &str| annotation(&format!("org.systemd.property.{name}"), value);
    let is = |name: &str, text: &str, real: &str, value: Value| {
        assert_eq!(one(name, text).unwrap(), [(real.to_owned(), value)], "{name} {text}");
    };
    is("TimeoutStopUSec", "uint64 123456789", "TimeoutStopUSec", Value::Uint64(123_456_789));
    is("CollectMode", "'inactive-or-failed'", "CollectMode", Value::str("inactive-or-failed"));
    is("TimeoutStopSec", "5", "TimeoutStopUSec", Value::Uint64(5_000_000));
    is("TimeoutStopSec", "0.5", "TimeoutStopUSec", Value::Uint64(500_000));
    is("After", "['a.service']", "After", Value::strings(["a.service"]));
    // Not a duration: no lower case letter before it.
    is("USec", "1", "USec", Value::Int32(1));
    assert!(annotation("org.systemd.propertyX", "x").unwrap().is_empty());
    for (name, value) in [
        ("", "1"),
        ("X", "1"),
        ("A.b", "1"),
        ("Ä12", "1"),
        ("Good", "nonsense"),
        ("TimeoutStopSec", "-1"),
        ("TimeoutStopSec", "'x'"),
        ("TimeoutStopSec", "uint64 18446744073709551615"),
        ("TimeoutStopSec", "nan"),
    ] {
        let err = one(name, value).unwrap_err();
        assert!(err.kind() == Kind::Usage && err.to_string().contains("org.systemd.property"), "{err}");
    }
}

#[test]
fn a_scope_starts_with_its_process_and_a_slice_without() {
    let scope = target(Some("a-b.slice:p:n"), "id", false).unwrap();
    let list = start(&scope, "id", 77, Version::V2);
    assert!(list.contains(&("Slice".into(), Value::str("a-b.slice"))));
    assert!(list.contains(&("Delegate".into(), Value::Bool(true))));
    assert!(list.contains(&("PIDs".into(), Value::Array("u".into(), vec![Value::Uint32(77)]))));
    assert!(list.contains(&("IOAccounting".into(), Value::Bool(true))));
    assert!(list.contains(&("DefaultDependencies".into(), Value::Bool(false))));
    let v1 = start(&scope, "id", 77, Version::V1);
    assert!(v1.contains(&("BlockIOAccounting".into(), Value::Bool(true))));
    let list = start_of_slice(&scope, "id", Version::V2);
    assert!(list.iter().all(|(name, _)| name != "PIDs" && name != "Delegate" && name != "Slice"));
}
