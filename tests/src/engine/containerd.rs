//! A containerd of one's own, driven by `ctr` with the runtime shim of runc, version 2.

use std::path::PathBuf;
use std::process::Command;

use crate::command::{Outcome, Tare};
use crate::engine::archive::{self, IMAGE};
use crate::engine::scratch::{Daemon, Scratch};
use crate::engine::{program, runtime};

/// The daemon and its folder. Fields go in this order: the daemon ends before the folder is cleared.
#[derive(Debug)]
pub struct Containerd {
    _daemon: Daemon,
    runtime: PathBuf,
    /// Its folder.
    pub scratch: Scratch,
}

/// Parts that need devices or a network, and are of no use to these tests.
const DISABLED: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]"#;

/// Starts the daemon in the folder.
#[track_caller]
pub fn daemon(scratch: &Scratch) -> Daemon {
    let (root, state, socket) = (scratch.at("croot"), scratch.at("cstate"), scratch.at("c.sock"));
    let config = format!(
        "version = 2\nroot = \"{root}\"\nstate = \"{state}\"\ndisabled_plugins = {DISABLED}\n\
         [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n"
    );
    let config = scratch.file("containerd.toml", &config);
    let binary = program("containerd").expect("containerd is installed");
    scratch.daemon(&binary, &["--config", &config], || {
        let out = Command::new("ctr").args(["--address", &socket, "version"]).output();
        out.is_ok_and(|out| out.status.success())
    })
}

impl Containerd {
    /// Starts one and loads the image.
    #[track_caller]
    pub fn start() -> Containerd {
        let runtime = runtime();
        let scratch = Scratch::new();
        let daemon = daemon(&scratch);
        let containerd = Containerd { _daemon: daemon, runtime, scratch };
        let file = containerd.scratch.path().join("busybox.tar");
        archive::write(&containerd.scratch.path().join("image"), &file).expect("an image");
        containerd.ctr(&["image", "import"]).arg(&file).run().ok();
        containerd
    }

    /// A call of `ctr`. Its namespace gives the parent cgroup its name.
    pub fn ctr(&self, words: &[&str]) -> Tare {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.scratch.at("c.sock"), "--namespace", self.scratch.name()]);
        command.args(words);
        Tare::of(command)
    }

    /// `ctr run FLAGS busybox NAME WORDS`, not yet started.
    pub fn run(&self, flags: &[&str], name: &str, words: &[&str]) -> Tare {
        let runtime = self.runtime.to_str().expect("a plain path");
        let (root, fifos) = (self.scratch.at("runc"), self.scratch.at("fifo"));
        self.ctr(&["run", "--runc-binary", runtime, "--runc-root", &root, "--fifo-dir", &fifos])
            .args(flags)
            .args([IMAGE, name])
            .args(words)
    }

    /// `ctr run --rm FLAGS busybox NAME sh -c SCRIPT` to its end.
    #[track_caller]
    pub fn sh(&self, flags: &[&str], name: &str, script: &str) -> Outcome {
        self.run(&[&["--rm"], flags].concat(), name, &["sh", "-c", script]).run()
    }

    /// `ctr run --detach`.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], name: &str, script: &str) -> Task<'_> {
        self.run(&[&["--detach", "--null-io"], flags].concat(), name, &["sh", "-c", script]).run().ok();
        Task { containerd: self, name: name.to_owned() }
    }

    /// What is left of the containers; none is there any more.
    pub fn left(&self) -> Vec<String> {
        // The daemon itself names the folder in its command line.
        let daemon = |thing: &str| thing.starts_with("process ") && thing.contains("containerd --config");
        let mut left = self.scratch.left(daemon);
        let listed = self.ctr(&["containers", "ls", "-q"]).run().stdout();
        left.extend(listed.lines().map(|name| format!("container {name}")));
        left
    }
}

/// A container with a process in it.
#[derive(Debug)]
pub struct Task<'a> {
    containerd: &'a Containerd,
    name: String,
}

impl Task<'_> {
    /// `ctr tasks exec FLAGS NAME WORDS`, not yet started.
    pub fn exec(&self, flags: &[&str], words: &[&str]) -> Tare {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let id = format!("exec-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let fifos = self.containerd.scratch.at("fifo");
        self.containerd
            .ctr(&["tasks", "exec", "--exec-id", &id, "--fifo-dir", &fifos])
            .args(flags)
            .arg(&self.name)
            .args(words)
    }

    /// `ctr tasks VERB WORDS NAME` to its end.
    #[track_caller]
    pub fn does(&self, words: &[&str]) -> Outcome {
        self.containerd.ctr(&["tasks"]).args(words).arg(&self.name).run()
    }

    /// RUNNING, PAUSED, STOPPED; empty if there is no such task.
    #[track_caller]
    pub fn status(&self) -> String {
        self.row().2
    }

    /// The number of its first process on the host.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.row().1
    }

    #[track_caller]
    fn row(&self) -> (String, i32, String) {
        let table = self.containerd.ctr(&["tasks", "ls"]).run().ok();
        let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = row.into_iter().find(|row| row.first() == Some(&&*self.name)).unwrap_or_default();
        match row[..] {
            [name, pid, status] => (name.to_owned(), pid.parse().expect("a number"), status.to_owned()),
            _ => (String::new(), 0, String::new()),
        }
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        for words in [&["tasks", "kill", "-s", "KILL"][..], &["tasks", "rm", "-f"], &["containers", "rm"]] {
            // The search for leftovers tells whether it worked.
            let _ = self.containerd.ctr(words).arg(&self.name).into_command().output();
        }
    }
}
