//! A bundle as engines make them, and the OCI runtime called on it by its own command line.
//!
//! The runtime under test is `$TARE_OCI`, or `tare-oci` beside the binary. `TARE_OCI=/usr/sbin/runc` runs the same
//! tests on runc, which shows whether a test asks for what runtimes do or only for what ours does.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{Outcome, Tare};
use crate::host::leftovers;
use crate::process::eventually;

/// A bundle with a busybox root, a state root, and the id of a container. Dropping it deletes the container and
/// checks that nothing of it is left on the machine.
#[derive(Debug)]
pub struct Bundle {
    folder: TempDir,
    id: String,
}

impl Bundle {
    /// A bundle whose process does nothing for long. Its config is the one that the runtime's `spec` writes, without
    /// a terminal.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "it makes folders, which a default should not")]
    pub fn new() -> Bundle {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let folder = tempfile::Builder::new().prefix("tare-oci-").tempdir_in("/var/tmp").expect("a folder");
        // All of one length: what is left of a container is searched for by names that have its id in them.
        let id = format!("oci-{}-{:05}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bundle = Bundle { folder, id };
        for name in ["bundle/rootfs", "files"] {
            fs::create_dir_all(bundle.folder.path().join(name)).expect("a folder in the folder");
        }
        crate::busybox::tree(&bundle.rootfs()).expect("a busybox root");
        bundle.oci(["spec", "--bundle"]).arg(bundle.path()).run().ok();
        bundle.config(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(["sleep", "600"]);
            // On some hosts root may not raise limits, so what is not needed is not asked for.
            config["process"]["rlimits"] = json!([]);
            config["root"]["readonly"] = json!(false);
        });
        bundle
    }

    /// A bundle whose process is this script.
    #[track_caller]
    pub fn sh(script: &str) -> Bundle {
        let bundle = Bundle::new();
        bundle.config(|config| config["process"]["args"] = json!(["sh", "-c", script]));
        bundle
    }

    /// The bundle's folder.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    /// Its root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// The state root.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A path for a file of the test's own.
    pub fn work(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Changes config.json.
    #[track_caller]
    pub fn config(&self, change: impl FnOnce(&mut Value)) {
        let file = self.path().join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&file).expect("config.json")).expect("JSON");
        change(&mut config);
        fs::write(&file, config.to_string()).expect("writing config.json");
    }

    /// A call of the runtime with these words after `--root`, in the bundle's folder.
    pub fn oci<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Tare {
        self.call(&[], words)
    }

    /// A call with global options of the caller's.
    pub fn call<W: AsRef<OsStr>>(&self, global: &[&str], words: impl IntoIterator<Item = W>) -> Tare {
        let mut command = Command::new(runtime());
        command.arg("--root").arg(self.root()).args(global).args(words).current_dir(self.path());
        Tare::of(command)
    }

    /// A call by way of a shell that ends in `exec "$@"`: for open files and the environment.
    pub fn by_shell<W: AsRef<OsStr>>(&self, script: &str, words: impl IntoIterator<Item = W>) -> Tare {
        let inner = self.oci(words).into_command();
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(self.path());
        Tare::of(command)
    }

    /// A call whose process stays behind with standard streams of its own: none of ours.
    #[track_caller]
    pub fn apart(&self, call: Tare) -> Outcome {
        // The shell ends, the container keeps the files; a pipe of ours would look as if the call had not ended.
        let inner = call.into_command();
        let errors = self.work("stderr");
        let status = copy(&inner)
            .stdin(Stdio::null())
            .stdout(File::create(self.work("stdout")).expect("a file"))
            .stderr(File::create(&errors).expect("a file"))
            .status()
            .expect("starting the runtime");
        let mut report = Command::new("sh");
        report.args(["-c", "cat \"$1\" >&2; exit $2", "sh"]).arg(&errors);
        report.arg(status.code().unwrap_or(255).to_string());
        Tare::of(report).run()
    }

    /// What the last container [apart](Bundle::apart) has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.work("stdout")).unwrap_or_default()
    }

    /// `run --detach`.
    #[track_caller]
    pub fn detached(&self, flags: &[&str]) {
        self.apart(self.oci(["run", "--detach"]).args(flags).arg(&self.id)).ok();
    }

    /// `create`.
    #[track_caller]
    pub fn created(&self, flags: &[&str]) {
        self.apart(self.oci(["create"]).args(flags).arg(&self.id)).ok();
    }

    /// `VERB ID WORDS`.
    pub fn verb(&self, verb: &str, words: &[&str]) -> Tare {
        self.oci([verb, &self.id]).args(words)
    }

    /// `exec ID sh -c SCRIPT`.
    #[track_caller]
    pub fn exec(&self, flags: &[&str], script: &str) -> Outcome {
        self.oci(["exec"]).args(flags).args([&self.id, "sh", "-c", script]).run()
    }

    /// `state`, read.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.verb("state", &[]).run().ok()).expect("state prints JSON")
    }

    /// `created`, `running`, `paused`, `stopped`.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    /// Waits for a status.
    #[track_caller]
    pub fn becomes(&self, status: &str) {
        eventually(&format!("the container is {status}"), || self.status() == status);
    }

    /// Is there such a container?
    pub fn exists(&self) -> bool {
        self.verb("state", &[]).run().code() == 0
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let ids = BTreeSet::from([self.id.clone()]);
        if std::thread::panicking() {
            // The test has failed; that is the news. Only clear up.
            leftovers::clear(self.folder.path(), &ids);
            let _ = self.oci(["delete", "--force", &self.id]).run();
            leftovers::clear(self.folder.path(), &ids);
            return;
        }
        self.oci(["delete", "--force", &self.id]).run().ok();
        let listed = self.oci(["list", "--quiet"]).run().ok();
        let left = leftovers::find(self.folder.path(), &ids);
        leftovers::clear(self.folder.path(), &ids);
        assert!(left.is_empty(), "the container left behind: {left:#?}");
        assert_eq!(listed, "", "the container is listed after it was deleted");
        let names: Vec<_> = fs::read_dir(self.root()).into_iter().flatten().flatten().collect();
        let names: Vec<_> =
            names.iter().map(fs::DirEntry::file_name).filter(|name| *name == *self.id).collect();
        assert!(names.is_empty(), "left in the state root: {names:?}");
    }
}

/// The runtime under test.
pub fn runtime() -> &'static Path {
    static RUNTIME: OnceLock<PathBuf> = OnceLock::new();
    RUNTIME.get_or_init(|| match std::env::var_os("TARE_OCI") {
        Some(runtime) => PathBuf::from(runtime),
        None => crate::host::binary().with_file_name("tare-oci"),
    })
}

/// Whether it is ours: a test of what only ours promises has nothing to ask another.
pub fn is_ours() -> bool {
    runtime().file_name() == Some("tare-oci".as_ref())
}

/// A socket where a runtime sends a terminal, or another file.
#[derive(Debug)]
pub struct Receiver {
    listener: UnixListener,
    /// What to name on the command line.
    pub path: PathBuf,
}

impl Receiver {
    /// Listens at a new path in the bundle's own files.
    pub fn new(bundle: &Bundle, name: &str) -> Receiver {
        let path = bundle.work(name);
        Receiver { listener: UnixListener::bind(&path).expect("listening"), path }
    }

    /// The path as text.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("a path of our own is text")
    }

    /// What came: the message and its file. The sender must have sent it already.
    #[track_caller]
    pub fn receive(&self) -> (Vec<u8>, OwnedFd) {
        self.listener.set_nonblocking(true).expect("not waiting");
        let (connection, _) = self.listener.accept().expect("the runtime should have connected");
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let received = rustix::net::recvmsg(&connection, slices, &mut control, RecvFlags::CMSG_CLOEXEC);
        let length = received.expect("a message").bytes;
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        assert_eq!(files.len(), 1, "one file should have come");
        (bytes[..length].to_vec(), files.remove(0))
    }
}

/// The same call once more, for streams of another kind.
fn copy(call: &Command) -> Command {
    let mut command = Command::new(call.get_program());
    command.args(call.get_args());
    for (name, value) in call.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = call.get_current_dir() {
        command.current_dir(folder);
    }
    command
}
