//! Requests in, decisions out.

use std::path::Path;

use oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};

use super::*;
use crate::request::HostConfig;

fn request(host: HostConfig) -> CreateRequest {
    CreateRequest {
        config: Config { image: "host".into(), cmd: Some(vec!["true".into()]), ..Config::default() },
        host_config: host,
        ..CreateRequest::default()
    }
}

fn facts() -> Facts {
    Facts {
        id: "0123456789abcdef".into(),
        has_pids: true,
        has_swap: true,
        cpus: 2,
        files: "/run/tare/containers/x".into(),
        ..Facts::default()
    }
}

fn decide(host: HostConfig) -> Spec {
    let mut plan = plan(&request(host), &ImageSays::default(), &facts()).unwrap();
    let map = vec![(0, 0x7000_0000, crate::range::SIZE)];
    plan.map_ids([map.clone(), map]).unwrap();
    plan.spec
}

fn refuse(host: HostConfig) -> Error {
    plan(&request(host), &ImageSays::default(), &facts()).unwrap_err()
}

fn bounding(spec: &Spec) -> Vec<Capability> {
    let capabilities = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert!(capabilities.inheritable().as_ref().unwrap().is_empty(), "CVE-2022-24769");
    assert!(capabilities.ambient().as_ref().unwrap().is_empty());
    capabilities.bounding().clone().unwrap().into_iter().collect()
}

#[test]
fn the_default_has_all_eight_namespaces_and_dockers_boundary() {
    let spec = decide(HostConfig::default());
    let linux = spec.linux().as_ref().unwrap();
    let mut kinds: Vec<_> =
        linux.namespaces().as_ref().unwrap().iter().map(|n| n.typ().to_string()).collect();
    kinds.sort();
    assert_eq!(kinds, ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]);
    assert_eq!(bounding(&spec).len(), 14);
    assert!(linux.seccomp().is_some());
    let masked = linux.masked_paths().as_ref().unwrap();
    for path in
        ["/proc/kcore", "/proc/keys", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap"]
    {
        assert!(masked.iter().any(|m| m == path), "{path}");
    }
    assert_eq!(linux.readonly_paths().as_ref().unwrap().len(), 5);
    let limits = linux.resources().as_ref().unwrap();
    assert_eq!(limits.pids().as_ref().unwrap().limit(), PIDS_LIMIT);
    assert!(!limits.devices().as_ref().unwrap()[0].allow(), "devices: nothing, then a list");
}

#[test]
fn sharing_with_the_host_means_the_hosts_user_namespace() {
    for host in [
        HostConfig { pid_mode: "host".into(), ..HostConfig::default() },
        HostConfig { network_mode: "host".into(), ..HostConfig::default() },
        HostConfig { ipc_mode: "host".into(), ..HostConfig::default() },
        HostConfig { privileged: true, ..HostConfig::default() },
        HostConfig { userns_mode: "host".into(), ..HostConfig::default() },
    ] {
        assert_eq!(sharing(&host).unwrap().user, Share::Host, "{host:?}");
        if host.userns_mode.is_empty() {
            let insists = HostConfig { userns_mode: "private".into(), ..host };
            assert_eq!(sharing(&insists).unwrap_err().kind(), Kind::Usage);
        }
    }
    assert_eq!(
        sharing(&HostConfig { uts_mode: "host".into(), ..HostConfig::default() }).unwrap().user,
        Share::Private
    );
}

#[test]
fn a_container_has_one_user_namespace() {
    let one = HostConfig {
        network_mode: "container:a".into(),
        pid_mode: "container:a".into(),
        ..HostConfig::default()
    };
    assert_eq!(sharing(&one).unwrap().user, Share::Container("a".into()));
    for bad in [
        HostConfig {
            network_mode: "container:a".into(),
            pid_mode: "container:b".into(),
            ..HostConfig::default()
        },
        HostConfig { network_mode: "container:a".into(), pid_mode: "host".into(), ..HostConfig::default() },
        HostConfig { network_mode: "container:".into(), ..HostConfig::default() },
        HostConfig { uts_mode: "container:a".into(), ..HostConfig::default() },
        HostConfig { pid_mode: "nonsense".into(), ..HostConfig::default() },
    ] {
        assert_eq!(sharing(&bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
    }
    let mut facts = facts();
    facts.joined = vec![("user", "/proc/7/ns/user".into()), ("net", "/proc/7/ns/net".into())];
    let only_net = HostConfig { network_mode: "container:a".into(), ..HostConfig::default() };
    let spec = plan(&request(only_net), &ImageSays::default(), &facts).unwrap().spec;
    let list = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let path = |kind| list.iter().find(|n| n.typ() == kind).unwrap().path().clone();
    assert_eq!(path(LinuxNamespaceType::Network).as_deref(), Some(Path::new("/proc/7/ns/net")));
    assert_eq!(path(LinuxNamespaceType::Pid), None);
}

#[test]
fn capabilities_are_added_and_dropped_as_under_docker() {
    let with = |add: &[&str], drop: &[&str]| {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        bounding(&decide(HostConfig { cap_add: words(add), cap_drop: words(drop), ..HostConfig::default() }))
    };
    assert_eq!(with(&["NET_ADMIN"], &[]).len(), 15);
    assert_eq!(with(&["cap_net_admin"], &["all"]), [Capability::NetAdmin]);
    assert_eq!(with(&["ALL"], &[]).len(), 41);
    assert_eq!(with(&["ALL"], &["SYS_ADMIN"]).len(), 40);
    assert_eq!(with(&[], &["CHOWN", "CAP_KILL"]).len(), 12);
    assert_eq!(
        refuse(HostConfig { cap_add: vec!["FLY".into()], ..HostConfig::default() }).kind(),
        Kind::Usage
    );
}

#[test]
fn privileged_lifts_what_docker_lifts() {
    let spec = decide(HostConfig { privileged: true, ..HostConfig::default() });
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(bounding(&spec).len(), 41);
    assert!(linux.seccomp().is_none());
    assert!(linux.masked_paths().as_ref().unwrap().is_empty());
    assert!(linux.resources().as_ref().unwrap().devices().as_ref().unwrap()[0].allow());
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    for bad in [
        HostConfig { memory_swap: 5, ..HostConfig::default() },
        HostConfig { memory: 10, memory_swap: 5, ..HostConfig::default() },
        HostConfig { memory: 10, memory_reservation: 20, ..HostConfig::default() },
        HostConfig { memory: -1, ..HostConfig::default() },
        HostConfig { nano_cpus: 3_000_000_000, ..HostConfig::default() },
        HostConfig { nano_cpus: 1_000_000_000, cpu_quota: 1, ..HostConfig::default() },
        HostConfig { blkio_weight: 5, ..HostConfig::default() },
        HostConfig { memory_swappiness: Some(101), ..HostConfig::default() },
        HostConfig { oom_score_adj: 1001, ..HostConfig::default() },
        HostConfig { device_cgroup_rules: vec!["c 1 r".into()], ..HostConfig::default() },
        HostConfig { security_opt: vec!["nonsense".into()], ..HostConfig::default() },
        HostConfig {
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 9, hard: 5 }],
            ..HostConfig::default()
        },
    ] {
        assert_eq!(refuse(bad.clone()).kind(), Kind::Usage, "{bad:?}");
    }
}

#[test]
fn memory_brings_as_much_swap_where_there_is_any() {
    let spec = decide(HostConfig { memory: 64 << 20, ..HostConfig::default() });
    let memory = spec.linux().as_ref().unwrap().resources().as_ref().unwrap().memory().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
}

#[test]
fn mounts_are_checked_and_ordered() {
    let spec =
        decide(HostConfig { binds: vec!["/a:/x/y/z".into(), "/b:/x:ro,z".into()], ..HostConfig::default() });
    let own: Vec<_> = spec.mounts().as_ref().unwrap().iter().rev().take(2).rev().collect();
    assert_eq!(own[0].destination(), Path::new("/x"), "the shallow one first");
    let options = own[0].options().as_ref().unwrap();
    assert!(options.contains(&"rro".to_owned()) && options.contains(&"ridmap".to_owned()), "{options:?}");
    for bad in ["/a:relative", "/a:/x/../y", "/a:/proc", "/a:/x:fly", "/a:/", "/a:/x:ro:z"] {
        let host = HostConfig { binds: vec![bad.into()], ..HostConfig::default() };
        assert_eq!(refuse(host).kind(), Kind::Usage, "{bad}");
    }
    let twice = HostConfig { binds: vec!["/a:/x".into(), "/b:/x/".into()], ..HostConfig::default() };
    assert_eq!(refuse(twice).kind(), Kind::Usage);
}

#[test]
fn command_and_environment_follow_dockers_rules() {
    let image = ImageSays {
        env: vec!["A=image".into(), "B=image".into()],
        entrypoint: Some(vec!["entry".into()]),
        cmd: Some(vec!["cmd".into()]),
        ..ImageSays::default()
    };
    let config = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>| Config {
        entrypoint: entrypoint.map(|list| list.iter().map(|w| (*w).to_owned()).collect()),
        cmd: cmd.map(|list| list.iter().map(|w| (*w).to_owned()).collect()),
        ..Config::default()
    };
    assert_eq!(command(&config(None, None), &image), ["entry", "cmd"]);
    assert_eq!(command(&config(None, Some(&["mine"])), &image), ["entry", "mine"]);
    assert_eq!(command(&config(Some(&["other"]), None), &image), ["other"]);
    assert!(command(&config(Some(&[]), None), &image).is_empty());
    let mine =
        Config { env: vec!["A=mine".into(), "B".into(), "PATH=/p".into()], tty: true, ..Config::default() };
    let env = environment(&mine, &image, "h", &[]);
    assert_eq!(env, ["PATH=/p", "HOSTNAME=h", "TERM=xterm", "A=mine"]);
}

#[test]
fn weights_of_devices_and_real_time_are_handed_on_or_refused() {
    let weight = |path: &str| HostConfig {
        blkio_weight_device: vec![crate::request::WeightDevice { path: path.into(), weight: 500 }],
        ..HostConfig::default()
    };
    let facts = Facts { block_devices: vec![("/dev/sda".into(), 8, 0)], ..facts() };
    let spec = plan(&request(weight("/dev/sda")), &ImageSays::default(), &facts).unwrap().spec;
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let weights = resources.block_io().as_ref().unwrap().weight_device().clone().unwrap();
    assert_eq!((weights[0].major(), weights[0].minor(), weights[0].weight()), (8, 0, Some(500)));
    assert!(plan(&request(weight("/dev/null")), &ImageSays::default(), &facts).is_err());

    let real_time = |period, runtime| HostConfig {
        cpu_rt_period: period,
        cpu_rt_runtime: runtime,
        ..HostConfig::default()
    };
    let spec = decide(real_time(1_000_000, 950_000));
    let cpu = spec.linux().as_ref().unwrap().resources().as_ref().unwrap().cpu().clone().unwrap();
    assert_eq!((cpu.realtime_period(), cpu.realtime_runtime()), (Some(1_000_000), Some(950_000)));
    refuse(real_time(1_000, 2_000));
}
