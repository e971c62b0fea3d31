//! The command line of an engine that has Docker's verbs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use serde_json::Value;

use crate::command::{Outcome, Tare};
use crate::process::{self, eventually};

/// How an engine is called: `docker -H …`, `podman --root …`.
#[derive(Debug)]
pub struct Client {
    program: PathBuf,
    words: Vec<String>,
    env: Vec<(&'static str, String)>,
    folder: Option<PathBuf>,
    /// What every container gets: the cgroup by which leftovers are known, no network.
    every: Vec<String>,
    removal: &'static [&'static str],
    init: &'static [&'static str],
    next: Mutex<u32>,
}

impl Client {
    /// A client with the words that stand before the verb.
    pub fn new(program: PathBuf, words: Vec<String>, env: Vec<(&'static str, String)>) -> Client {
        Client {
            program,
            words,
            env,
            folder: None,
            every: Vec::new(),
            removal: &["rm", "-f", "-v"],
            init: &["--init"],
            next: Mutex::new(0),
        }
    }

    /// Flags for every `run` and `create`.
    pub fn with_flags(mut self, flags: Vec<String>) -> Client {
        self.every = flags;
        self
    }

    /// The folder that it is called from.
    pub fn called_from(mut self, folder: &Path) -> Client {
        self.folder = Some(folder.to_owned());
        self
    }

    /// How a running container is removed at once, and without a word.
    pub fn with_removal(mut self, words: &'static [&'static str]) -> Client {
        self.removal = words;
        self
    }

    /// The flags that give a container an init.
    pub fn with_init(mut self, flags: &'static [&'static str]) -> Client {
        self.init = flags;
        self
    }

    /// The flags that give a container an init.
    pub fn init(&self) -> &'static [&'static str] {
        self.init
    }

    /// One call.
    pub fn call<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Tare {
        let mut command = Command::new(&self.program);
        command.args(&self.words).args(words);
        // The engine's own folders, and none that the caller has for another.
        for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST", "CONTAINERS_CONF", "LISTEN_FDS"] {
            command.env_remove(name);
        }
        for (name, value) in &self.env {
            command.env(name, value);
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Tare::of(command)
    }

    /// `run --rm FLAGS busybox WORDS`, not yet started.
    pub fn run(&self, flags: &[&str], words: &[&str]) -> Tare {
        // A container has one network: that of the flags, if they name one.
        let named = flags.contains(&"--network");
        let every = self.every.iter().filter(|flag| !(named && flag.starts_with("--network")));
        self.call(["run", "--rm"]).args(every).args(flags).arg("busybox").args(words)
    }

    /// `run FLAGS busybox WORDS`, not yet started: the container stays.
    pub fn run_and_keep(&self, flags: &[&str], words: &[&str]) -> Tare {
        self.call(["run"]).args(&self.every).args(flags).arg("busybox").args(words)
    }

    /// `create FLAGS busybox WORDS`, not yet started.
    pub fn create(&self, flags: &[&str], words: &[&str]) -> Tare {
        self.call(["create"]).args(&self.every).args(flags).arg("busybox").args(words)
    }

    /// `run --rm FLAGS busybox sh -c SCRIPT` to its end.
    #[track_caller]
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome {
        self.run(flags, &["sh", "-c", script]).run()
    }

    /// `run -d FLAGS busybox sh -c SCRIPT`; removed when dropped.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], script: &str) -> Container<'_> {
        self.background(flags, &["sh", "-c", script])
    }

    /// `run -d FLAGS busybox WORDS`; removed when dropped.
    #[track_caller]
    pub fn background(&self, flags: &[&str], words: &[&str]) -> Container<'_> {
        let name = self.name();
        self.call(["run", "-d", "--name", &name])
            .args(&self.every)
            .args(flags)
            .arg("busybox")
            .args(words)
            .run()
            .ok();
        Container { client: self, name }
    }

    /// A container by its name, to be removed when dropped.
    pub fn container(&self, name: String) -> Container<'_> {
        Container { client: self, name }
    }

    /// A name that no other container of this test has.
    pub fn name(&self) -> String {
        let mut next = self.next.lock().expect("no panic while held");
        *next += 1;
        format!("tare-box-{next}")
    }
}

/// A container that a test still has use for.
#[derive(Debug)]
pub struct Container<'a> {
    client: &'a Client,
    /// What the engine calls it.
    pub name: String,
}

impl Container<'_> {
    /// `VERB WORDS NAME` to its end: `kill -s HUP NAME`.
    #[track_caller]
    pub fn does(&self, words: &[&str]) -> Outcome {
        self.client.call(words).arg(&self.name).run()
    }

    /// `exec FLAGS NAME WORDS`, not yet started.
    pub fn exec(&self, flags: &[&str], words: &[&str]) -> Tare {
        self.client.call(["exec"]).args(flags).arg(&self.name).args(words)
    }

    /// `exec FLAGS NAME sh -c SCRIPT` to its end.
    #[track_caller]
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome {
        self.exec(flags, &["sh", "-c", script]).run()
    }

    /// What `logs` gives.
    #[track_caller]
    pub fn logs(&self) -> String {
        self.does(&["logs"]).stdout()
    }

    /// Waits until the log has the text.
    #[track_caller]
    pub fn says(&self, text: &str) {
        eventually(&format!("{} says {text:?}", self.name), || self.logs().contains(text));
    }

    /// Waits for its end and gives the exit code.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        self.does(&["wait"]).ok().parse().expect("`wait` prints a number")
    }

    /// The object of `inspect`.
    #[track_caller]
    pub fn inspect(&self) -> Value {
        let value: Value = serde_json::from_str(&self.does(&["inspect"]).ok()).expect("JSON");
        value.get(0).cloned().expect("an array with one object")
    }

    /// A part of it: `/State/ExitCode`.
    #[track_caller]
    pub fn fact(&self, pointer: &str) -> Value {
        let object = self.inspect();
        object.pointer(pointer).cloned().unwrap_or_else(|| panic!("no {pointer} in {object:#}"))
    }

    /// Is it running?
    #[track_caller]
    pub fn runs(&self) -> bool {
        self.fact("/State/Running") == true
    }

    /// Its first process, on the host.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.fact("/State/Pid").as_i64().expect("a number")).expect("process numbers are small")
    }

    /// A signal to its first process that the engine does not know of.
    #[track_caller]
    pub fn signal_behind_the_back(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// A file in the container's /proc/PID/root, on the host.
    #[track_caller]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join("root").join(path.trim_start_matches('/'))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut command = self.client.call(self.client.removal).arg(&self.name).into_command();
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        // The engine's own end finds what this could not remove.
        let _ = command.status();
    }
}
