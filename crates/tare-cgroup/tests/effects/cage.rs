//! A test's cgroup, and shell commands that run in it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxResources, LinuxResourcesBuilder};
use tare_cgroup::{Cgroup, Hierarchies, Version};

/// How a test process tells itself, run again, to join a cgroup and become a command.
const JOIN: &str = "TARE_CGROUP_TEST_JOIN";

pub struct Cage {
    pub on: Hierarchies,
    pub path: PathBuf,
    pub cgroup: Cgroup,
}

/// The host's v1 trees; `None` (with the reason printed) where the test cannot run.
pub fn v1() -> Option<Hierarchies> {
    let found = root().then(Hierarchies::discover)?;
    match found {
        Ok(on) if on.version() == Version::V1 => Some(on),
        other => {
            println!("skipped: no cgroup v1 here: {other:?}");
            None
        }
    }
}

/// A v2 tree, with or without controllers.
pub fn v2() -> Option<Hierarchies> {
    for place in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        if root()
            && let Ok(on) = Hierarchies::at(Path::new(place))
            && on.version() == Version::V2
        {
            return Some(on);
        }
    }
    println!("skipped: no cgroup v2 here, or not root");
    None
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

pub fn nothing() -> LinuxResources {
    LinuxResourcesBuilder::default().build().unwrap()
}

/// A name nobody else uses.
pub fn path_of(name: &str) -> PathBuf {
    format!("/tare-test-{}-{name}", std::process::id()).into()
}

impl Cage {
    pub fn new(on: Hierarchies, name: &str, resources: &LinuxResources) -> Cage {
        let path = path_of(name);
        let cgroup = Cgroup::create(&on, &path, resources).unwrap();
        Cage { on, path, cgroup }
    }

    /// Starts `sh -c script` inside: this test binary, run again, joins and then becomes the shell.
    pub fn run(&self, script: &str) -> Running {
        let place = match self.on.version() {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cage::becomes_a_command", "--nocapture", "--test-threads=1"])
            .env(JOIN, format!("{place}:{}:{script}", self.path.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        Running(Some(child))
    }

    pub fn dir(&self, controller: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(controller).join(self.path.strip_prefix("/").unwrap())
    }

    pub fn read(&self, controller: &str, file: &str) -> String {
        std::fs::read_to_string(self.dir(controller).join(file)).unwrap().trim().to_owned()
    }

    /// Waits until `count` processes are inside.
    pub fn wait_for(&self, count: usize) {
        until("the processes are there", || self.cgroup.processes().unwrap().len() == count);
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let all = Cgroup::open(&self.on, &self.path);
        let cleaned = all.kill().and_then(|()| all.remove());
        if !std::thread::panicking() {
            cleaned.unwrap();
        }
    }
}

/// A child that does not outlive the test.
pub struct Running(Option<Child>);

impl Running {
    pub fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Waits for the end; returns what it printed, and its status as text.
    pub fn finish(mut self) -> (String, String) {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.to_string())
    }

    pub fn ended(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for `condition`, at most 10 s, or 3 minutes in the test VM, which is 15 to 30 times slower.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = if std::env::var_os("TARE_TEST_SLOWNESS").is_some() { 180 } else { 10 };
    let deadline = Instant::now() + Duration::from_secs(patience);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// No test by itself: what [`Cage::run`] runs. The thread that joins is the one that becomes the command, so
/// it does not matter that the test harness has another.
#[test]
fn becomes_a_command() {
    let Ok(order) = std::env::var(JOIN) else {
        return;
    };
    let mut parts = order.splitn(3, ':');
    let mut next = || parts.next().unwrap();
    let on = if next() == "v1" { v1() } else { v2() }.unwrap();
    let cgroup = Cgroup::open(&on, Path::new(next()));
    cgroup.entrance().unwrap().join().unwrap();
    let error = Command::new("sh").args(["-c", next()]).env_remove(JOIN).exec();
    panic!("exec sh: {error}");
}
