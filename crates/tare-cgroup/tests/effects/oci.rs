//! What an OCI runtime needs: drivers, places, OOM events, full statistics, warnings; on whatever this host has.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tare_cgroup::{Cgroup, Driver, Entrance, Hierarchies, Location, OomWatch, Version};
use tare_sys::Kind;

use super::cage::{Cage, nothing, path_of, until, v1, v2};

fn host() -> Option<Hierarchies> {
    v1().or_else(v2)
}

fn limited(bytes: i64, pids: i64) -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(bytes).swap(bytes).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(pids).build().unwrap();
    LinuxResourcesBuilder::default().memory(memory).pids(pids).build().unwrap()
}

fn make(on: &Hierarchies, name: &str, resources: &LinuxResources) -> tare_sys::Result<Cgroup> {
    let path = path_of(name).display().to_string();
    Cgroup::create_for(on, &Driver::Cgroupfs, "id", Some(&path), resources, &HashMap::new(), false)
}

fn cage(on: Hierarchies, name: &str, resources: &LinuxResources) -> Cage {
    let cgroup = make(&on, name, resources).unwrap();
    Cage { on, path: path_of(name), cgroup }
}

#[test]
fn a_location_leads_back_to_the_cgroup() {
    let Some(on) = host() else { return };
    let cage = cage(on.clone(), "oci-at", &limited(64 << 20, 50));
    let location = cage.cgroup.location();
    assert_eq!((location.driver, location.path.as_str()), (Driver::Cgroupfs, cage.path.to_str().unwrap()));
    let text = serde_json::to_string(&location).unwrap();
    let again = Cgroup::at(&on, &serde_json::from_str::<Location>(&text).unwrap());
    let paths = again.paths();
    let file = match on.version() {
        Version::V1 => format!("{}/memory.limit_in_bytes", paths["memory"]),
        Version::V2 => format!("{}/memory.max", paths[""]),
    };
    assert_eq!(std::fs::read_to_string(file).unwrap().trim(), (64 << 20).to_string());
    let mut child = cage.run("exec sleep 100");
    until("it is there", || again.processes().unwrap().len() == 1);
    again.kill().unwrap();
    until("it ended", || child.ended());
    assert_eq!(again.end(), None);
    assert!(again.paths().is_empty());
    assert_eq!(again.end(), None, "twice does no harm");
}

#[test]
fn an_empty_cgroup_is_taken_and_a_busy_one_is_not() {
    let Some(on) = host() else { return };
    let cage = cage(on.clone(), "oci-taken", &limited(64 << 20, 50));
    let again = make(&on, "oci-taken", &nothing()).unwrap();
    assert_eq!(again.stats().unwrap().memory.unwrap().limit, Some(64 << 20), "its limits stay");
    let child = cage.run("exec sleep 100");
    cage.wait_for(1);
    let err = make(&on, "oci-taken", &nothing()).unwrap_err();
    assert!(err.kind() == Kind::Conflict && err.to_string().contains(&child.id().to_string()), "{err:?}");
    assert_eq!(cage.cgroup.processes().unwrap().len(), 1, "and is left as it was");
    cage.cgroup.kill().unwrap();
    child.finish();
    cage.cgroup.freeze().unwrap();
    let err = make(&on, "oci-taken", &nothing()).unwrap_err();
    assert!(err.kind() == Kind::Conflict && err.to_string().contains("frozen"), "{err:?}");
}

#[test]
fn frozen_is_known() {
    let Some(on) = host() else { return };
    let cage = cage(on, "oci-frozen", &nothing());
    assert!(!cage.cgroup.is_frozen().unwrap());
    cage.cgroup.freeze().unwrap();
    assert!(cage.cgroup.is_frozen().unwrap());
    cage.cgroup.thaw().unwrap();
    assert!(!cage.cgroup.is_frozen().unwrap());
    cage.cgroup.remove().unwrap();
    assert_eq!(cage.cgroup.is_frozen().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn without_a_cgroup_every_verb_says_so() {
    let on = Hierarchies::none().unwrap();
    let make = |driver| Cgroup::create_for(&on, &driver, "id", None, &nothing(), &HashMap::new(), false);
    let none = make(Driver::Disabled).unwrap();
    assert!(none.is_disabled() && none.paths().is_empty() && none.mounts().is_empty());
    assert!(matches!(none.entrance().unwrap(), Entrance::Disabled));
    none.entrance().unwrap().join().unwrap();
    none.remove().unwrap();
    assert!(!none.kill_if_frozen(rustix::process::getpid()).unwrap(), "nothing holds a process up");
    for err in [
        none.freeze().unwrap_err(),
        none.kill().unwrap_err(),
        none.update(&nothing()).unwrap_err(),
        none.oci_stats().unwrap_err(),
        none.watch_oom().unwrap_err(),
        none.processes().unwrap_err(),
    ] {
        assert!(err.kind() == Kind::Unsupported && err.to_string().contains("cgroups are disabled"), "{err}");
    }
    assert_eq!(none.location().driver, Driver::Disabled);
    assert!(Cgroup::at(&on, &none.location()).is_disabled());
}

fn wait(watch: &OomWatch, seconds: i64) -> bool {
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

#[test]
fn an_oom_kill_is_told_and_so_is_the_end() {
    let Some(on) = host().filter(|on| on.has("memory")) else { return };
    let cage = cage(on, "oci-oom", &limited(16 << 20, 50));
    let mut watch = cage.cgroup.watch_oom().unwrap();
    assert!(!watch.fired().unwrap() && !wait(&watch, 0), "nothing yet");
    // The shell lives on, so that the kill and the end are two events.
    let child = cage.run("(x=$(head -c 100M /dev/zero | tr '\\0' x)); sleep 100; :");
    let mut fired = false;
    while !fired && wait(&watch, 30) {
        fired = watch.fired().unwrap();
    }
    assert!(fired && !watch.gone());
    until("it was killed", || cage.cgroup.memory_events().unwrap().oom_kills == 1);
    cage.cgroup.kill().unwrap();
    child.finish();
    cage.cgroup.remove().unwrap();
    until("the end is told", || {
        wait(&watch, 1);
        !watch.fired().unwrap() && watch.gone()
    });
}

#[test]
fn statistics_are_full() {
    let Some(on) = host().filter(|on| on.has("memory")) else { return };
    let cage = cage(on, "oci-stats", &limited(64 << 20, 50));
    let child = cage.run("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 100; :");
    cage.wait_for(2);
    let stats = cage.cgroup.oci_stats().unwrap();
    assert!(stats.cpu.usage.total > 0 && stats.cpu.usage.user > 0, "{stats:?}");
    assert_eq!(stats.memory.usage.limit, 64 << 20);
    assert!(stats.memory.usage.usage > 0 && stats.memory.raw.len() > 10, "{stats:?}");
    assert_eq!((stats.pids.current, stats.pids.limit), (2, 50));
    if cage.on.version() == Version::V1 {
        assert!(!stats.cpu.usage.percpu.is_empty() && stats.memory.swap.limit == 64 << 20, "{stats:?}");
    } else {
        assert!(stats.memory.event_count.contains_key("oom_kill"), "{stats:?}");
    }
    serde_json::to_string(&stats).unwrap();
    cage.cgroup.kill().unwrap();
    child.finish();
    cage.cgroup.remove().unwrap();
    assert_eq!(cage.cgroup.oci_stats().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn what_is_busy_is_kept_by_removal_and_killed_at_the_end() {
    let Some(on) = host() else { return };
    let cage = cage(on, "oci-busy", &nothing());
    let mut child = cage.run("exec sleep 100");
    cage.wait_for(1);
    let err = cage.cgroup.remove().unwrap_err();
    assert!(err.to_string().contains(&child.id().to_string()) && err.hint_text().is_some(), "{err:?}");
    assert!(!child.ended(), "nothing was killed");
    std::thread::scope(|scope| {
        scope.spawn(|| child.finish());
        assert_eq!(cage.cgroup.end(), None);
    });
    assert!(cage.cgroup.paths().is_empty());
}

#[test]
fn a_frozen_one_that_was_killed_is_removed() {
    let Some(on) = host() else { return };
    let cage = cage(on, "oci-ice", &nothing());
    let child = cage.run("exec sleep 100");
    cage.wait_for(1);
    cage.cgroup.freeze().unwrap();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // On v1 it cannot die before somebody thaws it; the zombie must be reaped meanwhile.
    std::thread::scope(|scope| {
        scope.spawn(|| child.finish());
        cage.cgroup.remove().unwrap();
    });
}

#[test]
fn a_very_deep_nest_is_listed_killed_and_removed() {
    let Some(on) = host() else { return };
    let cage = cage(on, "oci-deep", &nothing());
    let dir = if cage.on.version() == Version::V1 { cage.dir("pids") } else { cage.dir(".") };
    // 60 levels of 200 letters are longer than any path may be.
    let script = format!(
        "cd {} && n=$(printf 'x%.0s' $(seq 200)) && for i in $(seq 60); do mkdir $n && cd -P ./$n || exit 1; done; \
         sleep 100 & echo $! > cgroup.procs; wait",
        dir.display()
    );
    let mut maker = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    until("the one at the bottom is seen", || cage.cgroup.processes().unwrap().len() == 1);
    cage.cgroup.kill().unwrap();
    let _ = maker.kill();
    let _ = maker.wait();
    cage.cgroup.remove().unwrap();
    assert!(!dir.exists());
}

#[test]
fn a_delegated_cgroup_is_divided_by_its_new_owner() {
    let Some(on) = host() else { return };
    if on.version() == Version::V1 {
        let cage = cage(on, "oci-delegate", &nothing());
        assert_eq!(cage.cgroup.delegate(1234, 1234).unwrap_err().kind(), Kind::Unsupported);
        return;
    }
    let cage = cage(on, "oci-delegate", &limited(64 << 20, 50));
    cage.cgroup.delegate(1234, 1234).unwrap();
    let dir = Path::new(&cage.cgroup.paths()[""]).to_owned();
    let as_user = |script: &str| {
        let args = ["--reuid=1234", "--regid=1234", "--clear-groups", "sh", "-c", script];
        Command::new("setpriv").args(args).current_dir(&dir).status().unwrap().success()
    };
    assert!(as_user("mkdir inner && echo +pids > cgroup.subtree_control"));
    assert!(!as_user("echo max > memory.max 2>/dev/null"), "its limits are not its own");
}

/// Run by root, it runs itself again as an ordinary user; in a VM it may be one to begin with.
#[test]
fn an_ordinary_user_gets_a_cgroup_or_a_reason() {
    if rustix::process::geteuid().is_root() {
        let output = Command::new("setpriv")
            .args(["--reuid=1234", "--regid=1234", "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "oci::an_ordinary_user_gets_a_cgroup_or_a_reason", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        // Where the binary lies in a private folder it cannot be run at all.
        assert!(output.status.success() || text.contains("Permission denied"), "{text}");
        return;
    }
    let Ok(on) = Hierarchies::discover() else { return };
    let make = |path: Option<&str>, resources: &LinuxResources, rootless| {
        Cgroup::create_for(
            &on,
            &Driver::Cgroupfs,
            "tare-test-user",
            path,
            resources,
            &HashMap::new(),
            rootless,
        )
    };
    let cgroup = make(None, &nothing(), true).unwrap();
    println!("without limits: {:?}", cgroup.location());
    let delegated = !cgroup.is_disabled();
    cgroup.remove().unwrap();
    for (path, resources, rootless) in [
        (Some("/tare-test-user/x"), limited(64 << 20, 50), true),
        (Some("/tare-test-user/x"), nothing(), true),
    ] {
        let err = make(path, &resources, rootless).unwrap_err();
        println!("{err:?}");
        assert!(err.kind() == Kind::Permission && err.hint_text().is_some(), "{err:?}");
        assert!(
            err.to_string().contains("/sys/fs/cgroup") && err.to_string().contains("not delegated"),
            "{err}"
        );
    }
    if delegated {
        let cgroup = make(None, &limited(64 << 20, 50), true).unwrap();
        let dir = cgroup.paths()[""].clone();
        assert_eq!(
            std::fs::read_to_string(format!("{dir}/memory.max")).unwrap().trim(),
            (64 << 20).to_string()
        );
        cgroup.remove().unwrap();
    } else {
        let err = make(None, &limited(64 << 20, 50), true).unwrap_err();
        assert_eq!(err.kind(), Kind::Permission, "{err:?}");
        assert_eq!(make(None, &nothing(), false).unwrap_err().kind(), Kind::Permission);
    }
}
