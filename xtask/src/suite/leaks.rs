//! The leak check: what the machine has after the tests that it did not have before.
//!
//! A container engine that forgets a mount or a cgroup on one run in a thousand brings a server down in a
//! month, so whatever is new after the suite fails it. Kernels take a moment to undo a network namespace, and
//! a test's last process a moment to end: a thing counts as left when it is there in every look over five
//! seconds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::suite::summary::Outcome;
use crate::workspace::program;

/// How long things may take to go.
const PATIENCE: Duration = Duration::from_secs(5);

/// What there is at one moment, each thing as one line that a person can act on.
#[derive(Debug, Default)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at everything that a container is made of.
    pub fn take(binary: &Path) -> Snapshot {
        let mut things = BTreeSet::new();
        things.extend(mounts());
        things.extend(cgroups());
        things.extend(links());
        things.extend(network_namespaces());
        things.extend(firewall());
        things.extend(processes(binary));
        things.extend(folders());
        Snapshot(things)
    }
}

/// Compares with now; waits for what is on its way out.
pub fn check(before: &Snapshot, binary: &Path) -> Result<Outcome> {
    let start = Instant::now();
    let mut left: Option<BTreeSet<String>> = None;
    loop {
        remove_empty_parents();
        let now = Snapshot::take(binary);
        let fresh: BTreeSet<String> = now.0.difference(&before.0).cloned().collect();
        let still = match left {
            Some(earlier) => earlier.intersection(&fresh).cloned().collect(),
            None => fresh,
        };
        if still.is_empty() {
            println!("nothing is left: no mount, cgroup, link, namespace, rule, process or folder");
            return Ok(Outcome::Passed);
        }
        if start.elapsed() > PATIENCE {
            for thing in &still {
                println!("left behind: {thing}");
            }
            return Ok(Outcome::Failed(format!("left behind: {} (listed above)", still.len())));
        }
        left = Some(still);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The folder of named namespaces is mounted by the first `ip netns add` of a boot, and stays (ip-netns(8)).
    text.lines()
        .map(mount)
        .filter(|mount| !mount.starts_with("/run/netns ("))
        .map(|mount| format!("mount {mount}"))
        .collect()
}

/// A line of mountinfo without its numbers, which another mount may get next time.
fn mount(line: &str) -> String {
    let (place, filesystem) = line.split_once(" - ").unwrap_or((line, ""));
    let mount_point = place.split(' ').nth(4).unwrap_or(place);
    format!("{mount_point} ({filesystem})")
}

/// Every cgroup that has our name in its path, under every hierarchy.
fn cgroups() -> Vec<String> {
    cgroup_folders().iter().map(|folder| format!("cgroup {}", folder.display())).collect()
}

fn cgroup_folders() -> Vec<PathBuf> {
    let mut found = Vec::new();
    ours_below(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

fn ours_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            // A parent is listed before its children, so an empty one can be told from a used one.
            if path.to_string_lossy().contains("tare") {
                found.push(path.clone());
            }
            ours_below(&path, found);
        }
    }
}

/// The engine keeps its parent cgroup for the next container; an empty one is not a leak, but it goes.
fn remove_empty_parents() {
    for folder in cgroup_folders().iter().rev() {
        if folder.file_name().is_some_and(|name| name == "tare") {
            // The kernel refuses to remove one that is in use, which is the check.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn links() -> Vec<String> {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    names.map(|entry| format!("network link {}", entry.file_name().to_string_lossy())).collect()
}

/// Network namespaces that a process lives in; those kept by a mount are in the list of mounts.
fn network_namespaces() -> Vec<String> {
    let mut namespaces = BTreeSet::new();
    for process in Process::all() {
        if let Ok(link) = fs::read_link(process.folder.join("ns/net")) {
            namespaces.insert(format!("network namespace {}", link.display()));
        }
    }
    namespaces.into_iter().collect()
}

fn firewall() -> Vec<String> {
    let Some(nft) = program("nft") else { return Vec::new() };
    // Stateless: counters go up by themselves.
    let Ok(out) = Command::new(nft).args(["-s", "list", "ruleset"]).output() else { return Vec::new() };
    let mut table = "";
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut rules = Vec::new();
    for line in text.lines() {
        if line.starts_with("table ") {
            table = line.trim_end_matches(" {");
        }
        if !matches!(line.trim(), "" | "}") {
            rules.push(format!("nft {table}: {}", line.trim()));
        }
    }
    rules
}

/// Processes of our binary, and those in a cgroup of ours whatever they run.
fn processes(binary: &Path) -> Vec<String> {
    let ours = |process: &Process| {
        let program = process.program();
        let cgroup = fs::read_to_string(process.folder.join("cgroup")).unwrap_or_default();
        program.starts_with(&*binary.to_string_lossy())
            || program.starts_with("/memfd:") && program.contains("tare")
            || cgroup.lines().any(|line| line.contains("/tare"))
    };
    let found = Process::all().into_iter().filter(ours);
    found.map(|process| format!("process {} ({})", process.id, process.command())).collect()
}

/// State of tests, and of the engine where a test forgot to name its own roots.
fn folders() -> Vec<String> {
    let mut found: Vec<String> = ["/var/lib/tare", "/run/tare"]
        .iter()
        .filter(|folder| Path::new(folder).exists())
        .map(|folder| format!("folder {folder}"))
        .collect();
    for entry in fs::read_dir("/var/tmp").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("tare-") {
            found.push(format!("folder {}", entry.path().display()));
        }
    }
    found
}

struct Process {
    id: u32,
    folder: PathBuf,
}

impl Process {
    fn all() -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let id = entry.file_name().to_str()?.parse().ok()?;
                Some(Process { id, folder: entry.path() })
            })
            .collect()
    }

    fn program(&self) -> String {
        fs::read_link(self.folder.join("exe")).map(|path| path.display().to_string()).unwrap_or_default()
    }

    fn command(&self) -> String {
        let bytes = fs::read(self.folder.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        if line.is_empty() { self.program() } else { line.trim().chars().take(120).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_its_place_and_filesystem_not_its_number() {
        let one = "36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let two = "99 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount(one), mount(two));
        assert_eq!(mount(one), "/mnt (ext3 /dev/root rw,errors=continue)");
    }

    #[test]
    fn a_machine_at_rest_has_no_leak() {
        let binary = Path::new("/nowhere/tare");
        let before = Snapshot::take(binary);
        assert!(before.0.iter().any(|thing| thing.starts_with("mount / ")), "{before:?}");
        assert!(before.0.iter().any(|thing| thing == "network link lo"), "{before:?}");
    }
}
