//! What one test's containers left on the machine: processes, mounts, cgroups.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::patience::stretched;
use crate::process::Process;

/// How long the last things may take to go by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is left, waiting a little for what is on its way out.
pub fn find(roots: &Path, ids: &BTreeSet<String>) -> Vec<String> {
    let start = Instant::now();
    loop {
        let left = look(roots, ids);
        if left.is_empty() || start.elapsed() > stretched(PATIENCE) {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Takes away what is left, as well as can be, so that one failed test does not fail the next.
pub fn clear(roots: &Path, ids: &BTreeSet<String>) {
    // What is frozen does not die, in the older version of cgroups.
    for folder in cgroups(ids) {
        let state = folder.join("freezer.state");
        if state.exists() {
            let _ = fs::write(state, "THAWED");
        }
    }
    for process in processes(roots, ids) {
        process.kill();
    }
    let start = Instant::now();
    while !processes(roots, ids).is_empty() && start.elapsed() < stretched(PATIENCE) {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Last mounted, first unmounted.
    for place in mounts(roots).iter().rev() {
        let _ = Command::new("umount").args(["-l", "--"]).arg(place).status();
    }
    // The dead leave their cgroup a moment after they are said to be dead.
    let start = Instant::now();
    loop {
        let folders = cgroups(ids);
        for folder in folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
        if folders.is_empty() || start.elapsed() > stretched(PATIENCE) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What is left now.
pub fn look(roots: &Path, ids: &BTreeSet<String>) -> Vec<String> {
    let processes = processes(roots, ids).into_iter().map(|process| format!("process {}", process.command()));
    let mounts = mounts(roots).into_iter().map(|place| format!("mount {place}"));
    let cgroups = cgroups(ids).into_iter().map(|folder| format!("cgroup {}", folder.display()));
    processes.chain(mounts).chain(cgroups).collect()
}

/// Processes that were started for these roots: ours by their words or environment, the container's by the
/// file system that they stand on or the cgroup that they are in.
fn processes(roots: &Path, ids: &BTreeSet<String>) -> Vec<Process> {
    let roots = roots.to_string_lossy();
    let us = Process::by_id(std::process::id().cast_signed());
    let our_mounts = us.map(|us| us.link("ns/mnt")).unwrap_or_default();
    Process::all()
        .into_iter()
        .filter(|process| process.id.cast_unsigned() != std::process::id())
        .filter(|process| {
            process.file("cmdline").contains(&*roots)
                || process.file("environ").contains(&format!("TARE_ROOT={roots}"))
                || process.link("ns/mnt") != our_mounts && stands_on(process, &roots)
                || ids.iter().any(|id| process.file("cgroup").contains(id))
        })
        .filter(Process::is_alive)
        .collect()
}

/// Is the root file system of the process made from something below `roots`?
///
/// Only its root counts: a container of another test may see our mounts in passing, by the `host` image.
fn stands_on(process: &Process, roots: &str) -> bool {
    let text = process.file("mountinfo");
    text.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(roots))
}

/// Mount points of the host's own tree that have something to do with the roots.
fn mounts(roots: &Path) -> Vec<String> {
    let roots = roots.to_string_lossy();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = text.lines().filter(|line| line.contains(&*roots));
    ours.filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// cgroups that carry the id of one of the containers, in any hierarchy.
fn cgroups(ids: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if !ids.is_empty() {
        search(Path::new("/sys/fs/cgroup"), ids, &mut found);
    }
    found
}

fn search(folder: &Path, ids: &BTreeSet<String>, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| name.contains(id.as_str())) {
                found.push(entry.path());
            }
            search(&entry.path(), ids, found);
        }
    }
}
