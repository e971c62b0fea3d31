//! A cgroup's life on v1: make, join, list, freeze, kill, remove, sweep.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tare_cgroup::{Cgroup, Entrance, children};
use tare_sys::Kind;

use super::cage::{Cage, nothing, path_of, until, v1};

#[test]
fn whoever_joins_is_in_every_tree() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "join", &nothing());
    let (output, status) = cage.run("cat /proc/self/cgroup").finish();
    for tree in ["memory", "pids", "devices"] {
        assert!(output.contains(&format!("{tree}:{}\n", cage.path.display())), "{tree}: {status}: {output}");
    }
    assert!(output.contains("freezer:/\n"), "nobody asked for that: {output}");
}

#[test]
fn a_child_in_a_new_user_namespace_joins_by_its_parents_files() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "userns", &nothing());
    let Entrance::V1(files) = cage.cgroup.entrance().unwrap() else { panic!("v1 has tasks files") };
    assert_eq!(files.len(), 3, "memory, pids, devices");
    // Three files, three standard streams; `kill -STOP` shows that it has joined.
    let mut files = files.into_iter().map(Stdio::from);
    let mut next = || files.next().unwrap();
    let mut child = Command::new("unshare")
        .args(["-U", "sh", "-c", "echo 0 >&0; echo 0 >&1; echo 0 >&2; kill -STOP $$; :"])
        .stdin(next())
        .stdout(next())
        .stderr(next())
        .spawn()
        .unwrap();
    let in_tree = |tree| cage.read(tree, "tasks") == child.id().to_string();
    until("it is in all three", || ["memory", "pids", "devices"].into_iter().all(in_tree));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn kill_empties_the_cgroup_and_what_is_below() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "kill", &nothing());
    let inner = cage.dir("pids").join("inner");
    std::fs::create_dir(&inner).unwrap();
    let script =
        format!("setsid sleep 100 & (echo 0 > {}/tasks; exec sleep 100) & sleep 100; :", inner.display());
    let child = cage.run(&script);
    until("the inner one is there", || {
        std::fs::read_to_string(inner.join("cgroup.procs")).unwrap().lines().count() == 1
    });
    cage.wait_for(4);
    assert!(
        cage.cgroup.processes().unwrap().iter().any(|pid| pid.as_raw_nonzero().get() as u32 == child.id())
    );
    cage.cgroup.kill().unwrap();
    assert!(cage.cgroup.processes().unwrap().is_empty());
    assert!(child.finish().1.contains("signal: 9"));
    cage.cgroup.remove().unwrap();
    assert!(!inner.exists());
}

#[test]
fn kill_is_faster_than_forks() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "bomb", &nothing());
    // Each generation starts the next and ends: a list of processes is old before it is read.
    let child = cage.run("f() { (f) & }; for i in 1 2 3 4; do f; done; wait; sleep 100");
    until("it runs", || cage.cgroup.stats().unwrap().pids.unwrap().current > 1);
    cage.cgroup.kill().unwrap();
    assert!(cage.cgroup.processes().unwrap().is_empty());
    child.finish();
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "freeze", &nothing());
    assert!(!cage.dir("freezer").exists(), "made when it is needed");
    let child = cage.run("while :; do :; done");
    cage.wait_for(1);
    let used = || {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", child.id())).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    // Another command than the one that made it, as `pause` is.
    let other = Cgroup::open(&cage.on, &cage.path);
    other.freeze().unwrap();
    let before = used();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(used(), before, "a frozen process does not run");
    other.thaw().unwrap();
    until("it runs again", || used() > before);

    other.freeze().unwrap();
    other.kill().unwrap();
    assert!(child.finish().1.contains("signal: 9"));
    // The handle that made it knows nothing of the freezer tree, and removes it all the same.
    cage.cgroup.remove().unwrap();
    assert!(!cage.dir("freezer").exists());
}

#[test]
fn one_of_the_frozen_dies_while_the_others_stay_frozen() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "killone", &nothing());
    let (stays, goes) = (cage.run("exec sleep 100"), cage.run("exec sleep 100"));
    cage.wait_for(2);
    let pid = |number: u32| rustix::process::Pid::from_raw(number.try_into().unwrap()).unwrap();
    let other = Cgroup::open(&cage.on, &cage.path);
    assert!(!other.kill_if_frozen(pid(goes.id())).unwrap(), "it is not frozen");
    other.freeze().unwrap();
    assert!(other.kill_if_frozen(pid(goes.id())).unwrap());
    assert!(goes.finish().1.contains("signal: 9"));
    assert!(other.is_frozen().unwrap());
    other.kill().unwrap();
    assert!(stays.finish().1.contains("signal: 9"));
    cage.cgroup.remove().unwrap();
}

#[test]
fn remove_waits_for_the_dying_and_names_the_living() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "remove", &nothing());
    let mut child = cage.run("exec sleep 100");
    cage.wait_for(1);
    let start = Instant::now();
    let err = cage.cgroup.remove().unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(err.kind(), Kind::Conflict);
    assert!(err.to_string().contains(&child.id().to_string()), "{err}");

    assert!(!child.ended());
    cage.cgroup.kill().unwrap();
    cage.cgroup.remove().unwrap();
    cage.cgroup.remove().unwrap();
    assert_eq!(cage.cgroup.memory_events().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(cage.cgroup.stats().unwrap_err().kind(), Kind::NotFound);
    assert!(Cgroup::open(&cage.on, &cage.path).entrance().is_err());
    assert!(cage.cgroup.processes().unwrap().is_empty());
    cage.cgroup.kill().unwrap();
    cage.cgroup.thaw().unwrap();
}

#[test]
fn a_left_over_name_is_taken_anew_but_a_live_one_is_not() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on.clone(), "again", &nothing());
    std::fs::write(cage.dir("pids").join("pids.max"), "7").unwrap();
    drop(Cgroup::create(&on, &cage.path, &nothing()).unwrap());
    assert_eq!(cage.read("pids", "pids.max"), "max", "an old limit must not live on");

    let child = cage.run("exec sleep 100");
    cage.wait_for(1);
    let err = Cgroup::create(&on, &cage.path, &nothing()).unwrap_err();
    assert_eq!(err.kind(), Kind::Conflict);
    assert_eq!(cage.cgroup.processes().unwrap().len(), 1, "the live one is not disturbed");
    drop(child);
}

#[test]
fn children_are_those_of_all_trees() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on.clone(), "sweep", &nothing());
    assert!(children(&on, &cage.path).unwrap().is_empty());
    let inner = Cgroup::create(&on, &cage.path.join("b"), &nothing()).unwrap();
    std::fs::create_dir_all(cage.dir("cpu").join("a")).unwrap();
    assert_eq!(children(&on, &cage.path).unwrap(), ["a", "b"]);
    inner.remove().unwrap();
    assert_eq!(children(&on, &cage.path).unwrap(), ["a"]);
    assert!(children(&on, Path::new("/tare-test-never-made")).unwrap().is_empty());
}

#[test]
fn the_root_is_never_a_container() {
    let Some(on) = v1() else { return };
    for path in ["/", "/..", "/a/..", ""] {
        let root = Cgroup::open(&on, Path::new(path));
        assert_eq!(root.kill().unwrap_err().kind(), Kind::Usage);
        assert_eq!(root.remove().unwrap_err().kind(), Kind::Usage);
        assert_eq!(root.freeze().unwrap_err().kind(), Kind::Usage);
        assert_eq!(root.processes().unwrap_err().kind(), Kind::Usage);
        assert_eq!(root.entrance().unwrap_err().kind(), Kind::Usage);
        assert_eq!(root.update(&nothing()).unwrap_err().kind(), Kind::Usage);
        assert!(Cgroup::create(&on, Path::new(path), &nothing()).is_err());
    }
    assert_eq!(path_of("x").components().count(), 2);
}
