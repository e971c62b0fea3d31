//! The folder of one engine, and the search for what the engine and its containers left outside of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::host::leftovers;
use crate::process::{self, Process};

/// Places that these engines use whatever they are told, and that are not there on a machine without them.
/// An engine may make them; the test takes them away again.
const SHARED: [&str; 11] = [
    "/run/containerd",
    "/run/docker",
    "/run/runc",
    "/run/crun",
    "/run/tare",
    "/run/tare-oci",
    "/run/libpod",
    "/run/containers",
    "/run/netns",
    "/etc/docker",
    "/var/lib/containers",
];
/// How long a daemon may take to say that it is ready, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a short name: sockets lie in it, whose paths may have no more than 107 characters.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    before: BTreeSet<PathBuf>,
}

impl Scratch {
    /// A new one.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "it makes a folder, which a default should not")]
    pub fn new() -> Scratch {
        assert!(rustix::process::geteuid().is_root(), "these tests need root: they start engines");
        let folder = tempfile::Builder::new().prefix("tare-test-").tempdir_in("/var/tmp").expect("a folder");
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opening the folder");
        Scratch { folder, before: shared() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file or folder in it, as text.
    pub fn at(&self, name: &str) -> String {
        super::text(&self.path().join(name)).to_owned()
    }

    /// A new folder in it.
    #[track_caller]
    pub fn folder(&self, name: &str) -> String {
        fs::create_dir_all(self.path().join(name)).expect("a folder");
        self.at(name)
    }

    /// A new file in it.
    #[track_caller]
    pub fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.path().join(name), content).expect("a file");
        self.at(name)
    }

    /// The name by which everything of this engine is known: the parent cgroup, the namespace in containerd.
    pub fn name(&self) -> &str {
        self.path().file_name().and_then(|name| name.to_str()).expect("a plain name")
    }

    /// Starts a daemon; its log lies in the folder.
    #[track_caller]
    pub fn daemon(&self, program: &Path, words: &[&str], ready: impl Fn() -> bool) -> Daemon {
        let name = program.file_name().expect("a name").to_string_lossy().into_owned();
        let log = self.path().join(format!("{name}.log"));
        let file = File::create(&log).expect("a log");
        // In a session of its own, so that ^C at a test does not reach it before the test has cleared up.
        let mut command = Command::new("setsid");
        command.arg(program).args(words).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.folder("home"));
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("the same log")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
        let mut daemon = Daemon { child, log, name };
        let start = Instant::now();
        while !ready() {
            let ended = daemon.child.try_wait().expect("waiting for a child of our own");
            let late = start.elapsed() > PATIENCE;
            assert!(ended.is_none() && !late, "{} does not come up:\n{}", daemon.name, daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// What is still there of the engine's containers, after it was asked to remove them all; without what is
    /// the engine's `own`.
    pub fn left(&self, own: impl Fn(&str) -> bool) -> Vec<String> {
        let start = Instant::now();
        loop {
            let mut left = leftovers::look(self.path(), &BTreeSet::new());
            left.extend(self.containers_cgroups().iter().map(|path| format!("cgroup {}", path.display())));
            left.extend(self.members().iter().map(|process| format!("process {}", process.command())));
            let files = self.new_in_shared().into_iter().filter(|path| is_state(path));
            left.extend(files.map(|path| format!("file {}", path.display())));
            left.retain(|thing| !own(thing));
            if left.is_empty() || start.elapsed() > PATIENCE / 4 {
                return left;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// cgroups below the one that all containers of this engine are in.
    fn containers_cgroups(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for parent in self.parent_cgroups() {
            below(&parent, &mut all);
        }
        all
    }

    fn parent_cgroups(&self) -> Vec<PathBuf> {
        let top = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
        let all = hierarchies.chain([top.to_owned()]).map(|hierarchy| hierarchy.join(self.name()));
        all.filter(|folder| folder.is_dir()).collect()
    }

    /// Processes in such a cgroup.
    fn members(&self) -> Vec<Process> {
        let name = format!("/{}", self.name());
        let mut all = Process::all();
        all.retain(|process| process.is_alive() && process.file("cgroup").contains(&name));
        all
    }

    fn new_in_shared(&self) -> Vec<PathBuf> {
        shared().difference(&self.before).cloned().collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        leftovers::clear(self.path(), &BTreeSet::new());
        for folder in self.containers_cgroups() {
            // A frozen process does not even die.
            let _ = fs::write(folder.join("freezer.state"), "THAWED");
            let _ = fs::write(folder.join("cgroup.freeze"), "0");
        }
        for process in self.members() {
            process.kill();
        }
        let start = Instant::now();
        while !self.members().is_empty() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        // The deepest first.
        for folder in self.containers_cgroups().iter().rev().chain(&self.parent_cgroups()) {
            let _ = fs::remove_dir(folder);
        }
        for path in self.new_in_shared().iter().rev() {
            if fs::remove_file(path).is_err() {
                let _ = fs::remove_dir(path);
            }
        }
    }
}

/// A process of an engine that lives as long as this.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Daemon {
    /// The end of what it logged.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let id = self.child.id().cast_signed();
        let start = Instant::now();
        process::signal(id, Signal::TERM);
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                println!("{} does not end when asked to", self.name);
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Everything in the shared places.
fn shared() -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for place in SHARED {
        let place = Path::new(place);
        if place.exists() {
            all.insert(place.to_owned());
            let mut folders = vec![place.to_owned()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        folders.push(entry.path());
                    }
                    all.insert(entry.path());
                }
            }
        }
    }
    all
}

/// Is it the state of a container, or a socket? Empty folders, keys and caches are the engine's own affair.
fn is_state(path: &Path) -> bool {
    let own = ["/etc/docker", "/var/lib/containers/cache"];
    !path.is_dir() && !own.iter().any(|place| path.starts_with(place))
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            below(&entry.path(), found);
        }
    }
}
