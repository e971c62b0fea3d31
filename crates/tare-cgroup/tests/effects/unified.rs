//! The v2 verbs, on a v2 tree that may have no controllers (a hybrid host).

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};
use tare_cgroup::{Cgroup, Entrance, Hierarchies, children};
use tare_sys::Kind;

use super::cage::{Cage, nothing, path_of, until, v2};

#[test]
fn join_list_and_kill() {
    let Some(on) = v2() else { return };
    let cage = Cage::new(on, "v2-kill", &nothing());
    assert!(matches!(cage.cgroup.entrance().unwrap(), Entrance::V2(_)));
    let child = cage.run("setsid sleep 100 & sleep 100; :");
    cage.wait_for(3);
    cage.cgroup.kill().unwrap();
    assert!(child.finish().1.contains("signal: 9"));
    cage.wait_for(0);
    let stats = cage.cgroup.stats().unwrap();
    assert!(stats.cpu.is_some_and(|cpu| cpu.usage > 0), "{stats:?}");
    cage.cgroup.remove().unwrap();
    assert_eq!(cage.cgroup.stats().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(cage.cgroup.memory_events().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn freeze_and_thaw() {
    let Some(on) = v2() else { return };
    let cage = Cage::new(on, "v2-freeze", &nothing());
    let child = cage.run("while :; do :; done");
    cage.wait_for(1);
    let used = || cage.cgroup.stats().unwrap().cpu.unwrap().usage;
    until("it runs", || used() > 20_000_000);
    cage.cgroup.freeze().unwrap();
    let before = used();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(used(), before);
    cage.cgroup.thaw().unwrap();
    until("it runs again", || used() > before);
    cage.cgroup.freeze().unwrap();
    cage.cgroup.kill().unwrap();
    assert!(child.finish().1.contains("signal: 9"));
}

#[test]
fn nested_cgroups_go_from_the_bottom_up() {
    let Some(on) = v2() else { return };
    let cage = Cage::new(on.clone(), "v2-nest", &nothing());
    for name in ["a", "a/b", "a/b/c", "d"] {
        let made = Cgroup::create(&on, &cage.path.join(name), &nothing()).unwrap();
        assert!(made.processes().unwrap().is_empty());
    }
    assert_eq!(children(&on, &cage.path).unwrap(), ["a", "d"]);
    cage.cgroup.remove().unwrap();
    assert!(children(&on, &cage.path).unwrap().is_empty());
}

#[test]
fn a_limit_without_its_controller_is_named_and_undone() {
    let Some(on) = v2() else { return };
    if on.has("memory") {
        return println!("skipped: this v2 tree has a memory controller");
    }
    assert!(on.has("devices") && on.has("freezer"));
    let memory = LinuxMemoryBuilder::default().limit(1 << 26).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    let path = path_of("v2-lacks");
    let err = Cgroup::create(&on, &path, &resources).unwrap_err();
    assert_eq!(err.kind(), Kind::Unsupported);
    assert!(err.to_string().contains("memory limit") && err.to_string().contains("\"memory\""), "{err}");
    assert!(err.hint_text().unwrap().contains("cgroup.controllers"), "{err:?}");
    let root = PathBuf::from("/sys/fs/cgroup/unified");
    assert!(!root.join(path.strip_prefix("/").unwrap()).exists());
}

/// A v2 tree whose controllers are really there: a VM, or a host without v1.
fn with_controllers() -> Option<Hierarchies> {
    let on = v2()?;
    let all = ["memory", "pids", "cpu"].into_iter().all(|controller| on.has(controller));
    if !all {
        println!("skipped: this v2 tree has no controllers");
    }
    all.then_some(on)
}

#[test]
fn limits_hold_and_are_counted() {
    let Some(on) = with_controllers() else { return };
    let memory = |limit| LinuxMemoryBuilder::default().limit(limit).swap(limit).build().unwrap();
    let cpu = LinuxCpuBuilder::default().shares(512u64).quota(50_000).period(100_000u64).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(16).build().unwrap();
    let resources =
        LinuxResourcesBuilder::default().memory(memory(24 << 20)).cpu(cpu).pids(pids).build().unwrap();
    // Two deep, so that controllers must be handed down twice.
    let outer = Cage::new(on.clone(), "v2-outer", &nothing());
    let path = outer.path.join("inner");
    let cgroup = Cgroup::create(&on, &path, &resources).unwrap();
    let cage = Cage { on, path, cgroup };
    assert_eq!(cage.read(".", "memory.max"), (24 << 20).to_string());
    assert_eq!(cage.read(".", "cpu.max"), "50000 100000");
    assert_eq!(cage.read(".", "cpu.weight"), "59");

    let (output, status) = cage.run("x=$(head -c 100M /dev/zero | tr '\\0' x); echo survived").finish();
    assert!(status.contains("signal: 9"), "{status}: {output}");
    let events = cage.cgroup.memory_events().unwrap();
    assert!(events.oom_kills >= 1 && events.limit == Some(24 << 20), "{events:?}");
    let stats = cage.cgroup.stats().unwrap();
    assert_eq!(stats.pids.unwrap().limit, Some(16));
    assert!(stats.cpu.unwrap().throttling.is_some());

    let period = LinuxCpuBuilder::default().period(20_000u64).build().unwrap();
    cage.cgroup.update(&LinuxResourcesBuilder::default().cpu(period).build().unwrap()).unwrap();
    assert_eq!(cage.read(".", "cpu.max"), "50000 20000", "the quota stays");
    cage.cgroup.update(&LinuxResourcesBuilder::default().memory(memory(-1)).build().unwrap()).unwrap();
    assert_eq!(cage.cgroup.memory_events().unwrap().limit, None);
}

#[test]
fn a_parent_with_processes_is_named() {
    let Some(on) = with_controllers() else { return };
    let outer = Cage::new(on.clone(), "v2-busy", &nothing());
    let child = outer.run("exec sleep 100");
    outer.wait_for(1);
    let memory = LinuxMemoryBuilder::default().limit(24 << 20).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    let err = Cgroup::create(&on, &outer.path.join("inner"), &resources).unwrap_err();
    assert_eq!(err.kind(), Kind::Conflict);
    assert!(err.to_string().contains("memory limit"), "{err}");
    assert!(err.hint_text().unwrap().contains("processes of its own"), "{err:?}");
    assert!(children(&on, &outer.path).unwrap().is_empty());
    drop(child);
}

#[test]
fn limits_hold_for_neighbours_that_start_at_once() {
    let Some(on) = v2() else { return };
    if !on.has("pids") || !on.has("memory") {
        println!("skipped: v2 has no controllers here");
        return;
    }
    // Each round begins with a parent that hands nothing down yet; all of them want to be the one that changes it.
    for round in 0..50 {
        let parent = path_of(&format!("v2-rush-{round}"));
        let limits = LinuxResourcesBuilder::default()
            .pids(LinuxPidsBuilder::default().limit(100).build().unwrap())
            .memory(LinuxMemoryBuilder::default().limit(64 << 20).build().unwrap())
            .build()
            .unwrap();
        let start = std::sync::Barrier::new(8);
        let failed: Vec<String> = std::thread::scope(|scope| {
            let make = |number: usize| {
                let (on, path, limits, start) = (&on, parent.join(number.to_string()), &limits, &start);
                scope.spawn(move || {
                    start.wait();
                    Cgroup::create(on, &path, limits).err().map(|err| format!("{err:#}"))
                })
            };
            let threads: Vec<_> = (0..8).map(make).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        Cgroup::open(&on, &parent).remove().unwrap();
        assert!(failed.is_empty(), "round {round}: {failed:#?}");
    }
}
