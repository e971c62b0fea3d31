//! An ordinary user of the machine, with tare: the one who runs the tests, or, where that is root, one made up for one test.
//!
//! The made-up one is known to nobody else: each of their commands runs in a mount namespace where `/etc` has a line for
//! them, so the real machine's users stay as they are. Their ids are no other test's, so all that is theirs is told by
//! its owner.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::command::{Outcome, Tare};
use crate::patience::stretched;
use crate::process::Process;
use crate::{busybox, host};

/// Subordinate ids of a made-up user.
const COUNT: u32 = 65_536;

/// A user, with folders of their own.
#[derive(Debug)]
pub struct User {
    folder: TempDir,
    uid: u32,
    /// First of the subordinate ids.
    first: u32,
    made_up: bool,
    /// A program that the user's machine does not have.
    missing: Option<&'static str>,
}

impl User {
    /// A user with subordinate ids, and no container yet.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "it makes folders, which a default should not")]
    pub fn new() -> User {
        User::with(true)
    }

    /// A user to whom nobody gave subordinate ids; `None` where the user is not made up for the test.
    #[track_caller]
    pub fn without_subordinate_ids() -> Option<User> {
        rustix::process::geteuid().is_root().then(|| User::with(false))
    }

    /// The same user, where a program is not installed.
    pub fn without(mut self, program: &'static str) -> User {
        self.missing = Some(program);
        self
    }

    #[track_caller]
    fn with(subordinate: bool) -> User {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        crate::machine::own_network();
        let folder = tempfile::Builder::new().prefix("tare-user-").tempdir_in("/var/tmp").expect("a folder");
        let made_up = rustix::process::geteuid().is_root();
        let number = std::process::id() % 400 * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        let uid = if made_up { 2_190_000_000 + number } else { rustix::process::geteuid().as_raw() };
        let user = User { folder, uid, first: 2_200_000_000 + number * COUNT, made_up, missing: None };
        for name in ["home", "run", "etc", "work", "bin"] {
            let path = user.path(name);
            fs::create_dir(&path).expect("a folder in the folder");
            if made_up && name != "etc" {
                std::os::unix::fs::chown(&path, Some(uid), Some(uid)).expect("giving the folder away");
            }
        }
        fs::set_permissions(user.path("run"), fs::Permissions::from_mode(0o700)).expect("closing the folder");
        if made_up {
            fs::set_permissions(user.folder.path(), fs::Permissions::from_mode(0o755)).expect("opening it");
            user.write_etc(subordinate);
            fs::write(user.path("nothing"), "").expect("a file that nobody can execute");
            let tun = rustix::fs::makedev(10, 200);
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, user.path("tun"), kind, mode, tun).expect("a node");
            fs::set_permissions(user.path("tun"), fs::Permissions::from_mode(0o666))
                .expect("opening the node");
        }
        user
    }

    /// The lines of `/etc` that make a user.
    fn write_etc(&self, subordinate: bool) {
        let home = self.path("home");
        let line = |file: &str, line: String| {
            let text = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
            fs::write(self.path("etc").join(file), format!("{text}{line}\n")).expect("a file of /etc");
        };
        line("passwd", format!("tare-user:x:{0}:{0}::{1}:/bin/sh", self.uid, home.display()));
        line("group", format!("tare-user:x:{}:", self.uid));
        let range = if subordinate { format!("tare-user:{}:{COUNT}", self.first) } else { String::new() };
        line("subuid", range.clone());
        line("subgid", range);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The user's id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether the user was made up for the test: then root runs it, and can make other hosts.
    pub fn is_made_up(&self) -> bool {
        self.made_up
    }

    /// A folder of the user's.
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// The folder of what lasts.
    pub fn root(&self) -> PathBuf {
        self.path("home/state")
    }

    /// The folder of what runs.
    pub fn run_root(&self) -> PathBuf {
        self.path("run/tare")
    }

    /// A call of tare by the user.
    pub fn tare<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Tare {
        self.command(self.binary()).args(words)
    }

    /// A call of any program by the user.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Tare {
        let mut command = if self.made_up {
            let mut command = Command::new("unshare");
            // One mount over all of /etc: mounts on single files in it are another matter for the image `host`.
            let script = "set -e
                mount -t overlay -o lowerdir=$1/etc:/etc overlay /etc
                mount --bind $1/tun /dev/net/tun
                [ ! -e $1/bin/tare ] || mount --bind $2 $1/bin/tare
                if [ -n \"$4\" ]; then mount --bind $1/nothing $(command -v $4); fi
                uid=$3; shift 4
                exec setpriv --reuid $uid --regid $uid --clear-groups \"$@\"";
            command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
            command.arg(self.folder.path()).arg(host::binary()).arg(self.uid.to_string());
            command.arg(self.missing.unwrap_or_default()).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.env("TARE_ROOT", self.root()).env("TARE_RUN_ROOT", self.run_root());
        if self.made_up {
            command.env("HOME", self.path("home")).env("USER", "tare-user");
            command.env("XDG_RUNTIME_DIR", self.path("run"));
            // sbin is where Debian has some of the programs that are looked for.
            command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        }
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:1").env_remove(name.to_lowercase());
        }
        command.current_dir("/");
        Tare::of(command)
    }

    /// Our binary, at a place that the user can reach.
    fn binary(&self) -> PathBuf {
        if !self.made_up {
            return host::binary().to_owned();
        }
        let place = self.path("bin/tare");
        if !place.exists() {
            fs::write(&place, "").expect("a place for the binary");
        }
        place
    }

    /// `tare run --rm FLAGS busybox sh -c SCRIPT`.
    #[track_caller]
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome {
        self.busybox();
        self.tare(["run", "--rm"]).args(flags).args(["busybox", "sh", "-c", script]).run()
    }

    /// `tare run -d FLAGS busybox sh -c SCRIPT`; gives the id.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], script: &str) -> String {
        self.busybox();
        self.tare(["run", "-d"]).args(flags).args(["busybox", "sh", "-c", script]).run().ok()
    }

    /// Imports the busybox image, once.
    #[track_caller]
    pub fn busybox(&self) {
        let mark = self.path("imported");
        if !mark.exists() {
            let archive = fs::read(busybox::cached_archive()).expect("the archive of busybox");
            self.tare(["import", "-", "busybox"]).stdin(archive).run().ok();
            fs::write(mark, "").expect("a mark");
        }
    }

    /// The process that holds the user's machine, by its file.
    pub fn holder(&self) -> Option<i32> {
        let text = fs::read_to_string(self.run_root().join("machine")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    /// Processes of the user's that stand in the way of the end of the test: all of a made-up one, of others those that
    /// name the test's folder.
    pub fn processes(&self) -> Vec<Process> {
        let own = |process: &Process| {
            if !self.made_up {
                return process.file("cmdline").contains(&*self.folder.path().to_string_lossy());
            }
            let uid = fs::metadata(format!("/proc/{}", process.id)).map(|meta| meta.uid());
            uid.is_ok_and(|uid| uid == self.uid || (self.first..self.first + COUNT).contains(&uid))
                // What is not dumpable belongs to root by its folder.
                || process.file("status").lines().any(|line| {
                    line.starts_with("Uid:") && line.split_whitespace().nth(1) == Some(&self.uid.to_string())
                })
        };
        Process::all()
            .into_iter()
            .filter(|process| process.id.cast_unsigned() != std::process::id())
            .filter(|process| own(process))
            .filter(Process::is_alive)
            .collect()
    }

    /// Names of the user's processes, other than those that hold the machine: its holder, and pasta, which is another name of
    /// passt.
    pub fn running(&self) -> BTreeSet<String> {
        let all = self.processes().into_iter().map(|process| process.file("comm").trim().to_owned());
        all.filter(|name| name != "tare-machine" && !name.starts_with("pas")).collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let removed = if self.run_root().exists() && !failed {
            let listed = self.tare(["ps", "-a", "-q"]).run().stdout();
            let names: Vec<&str> = listed.split_whitespace().collect();
            (!names.is_empty()).then(|| self.tare(["rm", "-f"]).args(&names).run())
        } else {
            None
        };
        let start = std::time::Instant::now();
        while !self.running().is_empty() && !failed && start.elapsed() < stretched(Duration::from_secs(5)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = self.running();
        for process in self.processes() {
            process.kill();
        }
        let start = std::time::Instant::now();
        while !self.processes().is_empty() && start.elapsed() < stretched(Duration::from_secs(5)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if failed {
            return;
        }
        if let Some(removed) = removed {
            assert_eq!(removed.code(), 0, "`tare rm -f` at the end of the test: {removed:#?}");
        }
        assert!(left.is_empty(), "the user's containers left behind: {left:#?}");
    }
}
