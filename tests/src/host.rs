//! A machine of one's own, as far as tare's state goes: throw-away state roots, and a look at what is left.

pub(crate) mod leftovers;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::busybox;
use crate::command::{Outcome, Tare};
use crate::debian;
use crate::patience::stretched;
use crate::process::Process;

/// State roots for one test. Dropping it checks that nothing of its containers is left on the machine.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
    /// Every container id that this test has met, for the search for leftovers.
    ids: Mutex<BTreeSet<String>>,
}

impl Host {
    /// Fresh, empty state roots.
    ///
    /// They are under /var/tmp because the upper folder of an overlay needs a file system that can be one, and
    /// /tmp is memory on many machines.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "it makes folders, which a default should not")]
    pub fn new() -> Host {
        assert!(rustix::process::geteuid().is_root(), "these tests need root: they make real containers");
        crate::machine::own_network();
        let folder = tempfile::Builder::new().prefix("tare-test-").tempdir_in("/var/tmp").expect("a folder");
        for name in ["root", "run", "work"] {
            fs::create_dir(folder.path().join(name)).expect("a folder in the folder");
        }
        // Users other than root have to pass through, in the tests where they call tare.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opening the folder");
        Host { folder, ids: Mutex::default() }
    }

    /// The persistent state root.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// The runtime state root.
    pub fn run_root(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// A folder for the test's own files: bind sources, archives.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// A new folder in [`work`](Host::work).
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.work().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A new file in [`work`](Host::work).
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.work().join(name);
        fs::write(&file, content).expect("a file");
        file
    }

    /// A call of the binary with these words.
    pub fn tare<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Tare {
        self.wrapped(&[], words)
    }

    /// The same, called by another program (`unshare -m sh -c …`, `setpriv …`) that ends in executing it.
    pub fn wrapped<W: AsRef<OsStr>>(&self, wrapper: &[&str], words: impl IntoIterator<Item = W>) -> Tare {
        let mut line =
            wrapper.iter().map(OsStr::new).chain([binary().as_os_str()]).collect::<Vec<_>>().into_iter();
        let mut command = Command::new(line.next().expect("at least the binary"));
        command.args(line).args(words);
        command.env("TARE_ROOT", self.root()).env("TARE_RUN_ROOT", self.run_root());
        // No logins and settings but the host's own, and a way out that leads nowhere: a name that is not here is as
        // unknown on a machine with a network as on one without.
        command.env("DOCKER_CONFIG", self.work()).env("REGISTRY_AUTH_FILE", self.work().join("auth.json"));
        command.env("XDG_CONFIG_HOME", self.work()).env("XDG_RUNTIME_DIR", self.work());
        command.env("TARE_REGISTRIES", self.work().join("registries.toml"));
        command.env("TARE_CDI_DIRS", self.work().join("cdi"));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:1").env_remove(name.to_lowercase());
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        Tare::of(command)
    }

    /// `tare run --rm FLAGS busybox sh -c SCRIPT`; imports busybox if this host has not yet.
    #[track_caller]
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome {
        self.busybox();
        self.tare(["run", "--rm"]).args(flags).args(["busybox", "sh", "-c", script]).run()
    }

    /// `tare run -d FLAGS busybox sh -c SCRIPT`; gives the id.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], script: &str) -> String {
        self.busybox();
        let id = self.tare(["run", "-d"]).args(flags).args(["busybox", "sh", "-c", script]).run().ok();
        assert!(is_id(&id), "`tare run -d` should print the whole id, not {id:?}");
        self.ids.lock().expect("no panic while held").insert(id.clone());
        id
    }

    /// Imports the busybox image, once.
    #[track_caller]
    pub fn busybox(&self) -> &'static str {
        self.imported("busybox", busybox::cached_archive)
    }

    /// Imports a Debian minbase image, once.
    #[track_caller]
    pub fn debian(&self) -> &'static str {
        self.imported("debian", debian::archive)
    }

    #[track_caller]
    fn imported(&self, name: &'static str, archive: fn() -> PathBuf) -> &'static str {
        let mark = self.folder.path().join(format!("imported-{name}"));
        if !mark.exists() {
            self.tare(["image", "import"]).arg(archive()).arg(name).run().ok();
            fs::write(mark, "").expect("a mark");
        }
        name
    }

    /// `tare inspect NAME`, the one object of its array.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.tare(["inspect", name]).run().ok();
        let value: Value = serde_json::from_str(&text).expect("inspect prints JSON");
        value.get(0).cloned().unwrap_or_else(|| panic!("inspect prints an array with one object, not {text}"))
    }

    /// The container's state by `inspect`: `running`, `exited`…
    #[track_caller]
    pub fn status(&self, name: &str) -> String {
        self.inspect(name)["State"]["Status"].as_str().expect("State.Status").to_owned()
    }

    /// The number of the container's first process, on the host.
    #[track_caller]
    pub fn pid(&self, name: &str) -> i32 {
        let pid = self.inspect(name)["State"]["Pid"].as_i64().expect("State.Pid");
        i32::try_from(pid).expect("process numbers are small")
    }

    /// The monitor of a container that started it, or was executed again: its first process's parent.
    #[track_caller]
    pub fn monitor(&self, name: &str) -> Process {
        let status = Process::by_id(self.pid(name)).expect("it runs").file("status");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
        let parent = Process::by_id(parent.trim().parse().expect("a number")).expect("the parent runs");
        assert!(self.is_ours(&parent), "{} only reaps what a killed one has left", parent.command());
        parent
    }

    /// Ids of all containers, running or not.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        let text = self.tare(["ps", "-a", "-q", "--no-trunc"]).run().ok();
        text.lines().map(str::to_owned).collect()
    }

    /// The processes of the binary that work on this host's roots: commands, monitors, probes.
    pub fn processes(&self) -> Vec<Process> {
        Process::all().into_iter().filter(|process| self.is_ours(process)).filter(Process::is_alive).collect()
    }

    fn is_ours(&self, process: &Process) -> bool {
        let mark = format!("TARE_ROOT={}", self.root().display());
        process.file("environ").split('\0').any(|word| word == mark)
    }

    /// Does something, and fails if files that it made stay under the state roots.
    ///
    /// The roots are used once before, so that folders which every first command makes do not count.
    #[track_caller]
    pub fn leaves_no_trace<T>(&self, work: impl FnOnce() -> T) -> T {
        self.sh(&[], "true").ok();
        let before = self.listing();
        let result = work();
        // A monitor tells the exit code first and clears up then, so it gets a moment.
        let start = Instant::now();
        loop {
            let after = self.listing();
            let fresh: Vec<_> = after.difference(&before).collect();
            if fresh.is_empty() {
                return result;
            }
            let limit = stretched(Duration::from_secs(10));
            assert!(start.elapsed() < limit, "left behind in the state roots: {fresh:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every path under the state roots. What lies in a trash folder is on its way out and does not count.
    pub fn listing(&self) -> BTreeSet<PathBuf> {
        let mut paths = BTreeSet::new();
        for root in [self.root(), self.run_root()] {
            walk(&root, usize::MAX, &mut |path| {
                if !path.components().any(|part| part.as_os_str() == "trash") {
                    paths.insert(path.to_owned());
                }
            });
        }
        paths
    }

    /// Notes the ids that are in the state roots now: after a crash nobody else can tell them.
    pub fn note_ids(&self) {
        let mut ids = self.ids.lock().expect("no panic while held");
        for root in [self.root(), self.run_root()] {
            // Not the whole depth: image content has names like ids too, and there is a lot of it.
            walk(&root, 4, &mut |path| {
                if let Some(name) = path.file_name().and_then(OsStr::to_str).filter(|name| is_id(name)) {
                    ids.insert(name.to_owned());
                }
            });
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.note_ids();
        let ids = std::mem::take(&mut *self.ids.lock().expect("no panic while held"));
        if std::thread::panicking() {
            // The test has failed; that is the news. Only clear up.
            leftovers::clear(self.folder.path(), &ids);
            return;
        }
        // What a test still has running it may leave to us, but it goes the way that a user would take.
        let listed = self.tare(["ps", "-a", "-q", "--no-trunc"]).run();
        let names: Vec<&str> =
            listed.bytes().split(|b| *b == b'\n').filter_map(|l| str::from_utf8(l).ok()).collect();
        let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
        let removed = (!names.is_empty()).then(|| self.tare(["rm", "-f"]).args(&names).run());
        let left = leftovers::find(self.folder.path(), &ids);
        leftovers::clear(self.folder.path(), &ids);
        assert_eq!(listed.code(), 0, "`tare ps` at the end of the test: {listed:#?}");
        if let Some(removed) = removed {
            assert_eq!(removed.code(), 0, "`tare rm -f` at the end of the test: {removed:#?}");
        }
        assert!(left.is_empty(), "the test's containers left behind: {left:#?}");
    }
}

/// The binary under test.
pub fn binary() -> &'static Path {
    static BINARY: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("TARE_BIN") {
        Some(binary) => PathBuf::from(binary),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bin/tare"),
    })
}

/// 64 hexadecimal digits.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        visit(&path);
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, depth - 1, visit);
        }
    }
}
