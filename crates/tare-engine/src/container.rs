//! A container on disk: two folders, one for what must last and one for what ends with the boot.
//!
//! ```text
//! <state>/containers/<id>/          0700
//!     container.json                what was asked for, and from which image; rewritten by `rename` and `update` alone, who flock(2) the folder
//!     status.json                   what became of it; there since it was created for good, or first started
//!     log.json                      its output, one JSON object a line (Docker's json-file)
//!     health.json                   how its health check last went, once it has ended
//!     volumes.json                  the anonymous volumes that were made for it, if any
//!     rw/upper  rw/work             its writable layer, with true ids on disk
//! <state>/names/<name> -> <id>      a link: made exclusively, so a name has one owner
//! <state>/trash/<id>                being removed
//! <run>/containers/<id>/            0711, flock(2)ed by whoever is in charge of the container
//!     hosts hostname resolv.conf    bind-mounted into it
//!     stdin stdout stderr           FIFOs, of one without a terminal
//!     networks.json                 the networks that it was brought to since, for its name server
//!     health.json                   how its health check goes, if it has one: see `health`
//!     filter                        its compiled system call filter, since the first exec into it
//!     control                       its monitor's socket
//!     terminal                      the socket of the one who holds its terminal, if it has one
//! ```
//!
//! Locking: the process that makes a container locks its run folder; the monitor inherits the lock by fork
//! and keeps it until all is cleaned up. A folder that is not locked has nobody in charge: see
//! [`sweep`](crate::sweep). Nothing here is fsynced on the start path; a container that was never
//! acknowledged, or was to be thrown away, may be lost with the power.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tare_image::ImageConfig;
use tare_sys::{Context, Error, Kind, Result};

use crate::policy::MountPoint;
use crate::request::CreateRequest;
use tare_sys::time::Moment;

/// Where everything is kept.
#[derive(Clone, Debug)]
pub struct Roots {
    /// What must last, `/var/lib/tare`.
    pub state: PathBuf,
    /// What ends with the boot, `/run/tare`.
    pub run: PathBuf,
}

/// What became of a container, in its folder.
const STATUS: &str = "status.json";

/// `container.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: String,
    /// What was asked for.
    pub request: CreateRequest,
    /// `sha256:…` of the image; empty for `host` and `--rootfs`.
    pub image_id: String,
    /// Layers, the lowest first.
    pub layers: Vec<String>,
    /// The command as it was put together from the request and the image.
    pub command: Vec<String>,
    /// The cgroup, within each hierarchy.
    pub cgroup: PathBuf,
    /// The unit of the user's systemd that it is, for an ordinary user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_unit: Option<String>,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// What the image said about running it.
    pub image: ImageConfig,
    /// Its volumes, and what it took over from other containers.
    #[serde(default)]
    pub mounts: Vec<MountPoint>,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended and will be started again.
    Restarting,
    /// Its process has ended.
    Exited,
}

/// `status.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Pid of its PID 1 on the host; 0 when it does not run.
    pub pid: i32,
    /// When that process began, in clock ticks since boot (proc_pid_stat(5), field 22), so that another process
    /// with the same pid is not taken for it.
    pub pid_began: u64,
    /// Host id of its root while it runs; `None`: it shares the host's user namespace.
    pub base: Option<u32>,
    /// The boot that it ran in.
    pub boot: String,
    /// When it was started.
    pub started: String,
    /// When it ended.
    pub finished: String,
    /// Its exit code; `None` where nobody saw it end.
    pub exit_code: Option<u8>,
    /// The kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// Why it could not be started; after `\nhint: ` what to do about it.
    pub error: String,
    /// Somebody asked it to stop: then no restart policy starts it again.
    pub stopped: bool,
    /// How often a restart policy has started it again.
    pub restart_count: u32,
    /// The last wait before that, milliseconds.
    pub restart_delay: u32,
    /// The most memory that it ever had, in bytes; 0: not known.
    pub memory_peak: u64,
}

/// The folders of one container.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The container.
    pub id: String,
    /// What must last.
    pub state: PathBuf,
    /// What ends with the boot.
    pub run: PathBuf,
}

/// The lock on a container's run folder. Held for as long as any process has it open.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Roots {
    /// The folders of this container.
    pub fn folders(&self, id: &str) -> Folders {
        Folders {
            id: id.to_owned(),
            state: self.state.join("containers").join(id),
            run: self.run.join("containers").join(id),
        }
    }

    /// All ids, in no order.
    pub fn ids(&self) -> Result<Vec<String>> {
        let folder = self.state.join("containers");
        let entries = match fs::read_dir(&folder) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.doing(|| format!("list {}", folder.display()))?,
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// The id that a name, a full id or the beginning of one stands for.
    pub fn find(&self, word: &str) -> Result<String> {
        // Only what could be a name is looked for on disk.
        if let (Ok(()), Ok(id)) =
            (crate::name::check(word), fs::read_link(self.state.join("names").join(word)))
        {
            return Ok(id.to_string_lossy().into_owned());
        }
        let hex = !word.is_empty() && word.chars().all(|c| c.is_ascii_hexdigit());
        let mut matches = if hex { self.ids()? } else { Vec::new() };
        matches.retain(|id| id.starts_with(word));
        match matches.len() {
            1 => Ok(matches.remove(0)),
            0 => Err(Error::new(Kind::NotFound, format!("no such container: {word}"))
                .hint("`tare ps --all` lists the containers")),
            n => Err(Error::new(Kind::Usage, format!("{word} is the beginning of {n} container ids"))
                .hint("write more of it")),
        }
    }

    /// Gives the name to the container; [`Kind::Conflict`] where another has it.
    pub fn claim_name(&self, name: &str, id: &str) -> Result<()> {
        let names = self.state.join("names");
        let link = names.join(name);
        for _ in 0..2 {
            match std::os::unix::fs::symlink(id, &link) {
                Err(err) if err.kind() == ErrorKind::NotFound => make_folder(&names, 0o700)?,
                Err(err) if err.kind() == ErrorKind::AlreadyExists => {
                    let owner =
                        fs::read_link(&link).map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
                    let short: String = owner.chars().take(12).collect();
                    return Err(Error::new(
                        Kind::Conflict,
                        format!("the name {name:?} is in use by the container {short}"),
                    )
                    .hint(format!("remove that one (`tare rm {name}`), or choose another name")));
                }
                result => return result.doing(|| format!("symlink {}", link.display())),
            }
        }
        Err(Error::new(Kind::Kernel, format!("make {}: it vanished again", names.display())))
    }

    /// Takes the name back, if it is this container's.
    pub fn release_name(&self, name: &str, id: &str) {
        let names = self.state.join("names");
        let link = names.join(name);
        // One after the other: of two who take back the same one, the second may find another container's there.
        let alone = File::open(&names);
        let _ = alone.as_ref().map(|names| rustix::fs::flock(names, FlockOperation::LockExclusive));
        if fs::read_link(&link).is_ok_and(|owner| owner.as_os_str() == id) {
            let _ = fs::remove_file(link);
        }
    }
}

impl Folders {
    /// Makes and locks them.
    pub fn make(&self) -> Result<Lock> {
        let lock = self.lock_or_make()?;
        make_folder(&self.state, 0o700)?;
        Ok(lock)
    }

    /// Locks the run folder; `None` while somebody is in charge, [`Kind::NotFound`] where there is none.
    pub fn lock(&self) -> Result<Option<Lock>> {
        let what = || format!("lock {}", self.run.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.run, flags, Mode::empty()).doing(what)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(fd))),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno).doing(what),
        }
    }

    /// Whether somebody is in charge of it: it runs, begins, ends, or is about to be started again.
    pub fn has_somebody(&self) -> bool {
        matches!(self.lock(), Ok(None))
    }

    /// Locks the run folder of a container that nobody else is in charge of, making it first where a reboot
    /// took it. A sweep may find the new folder before we have locked it, and remove it: then once more.
    pub fn lock_or_make(&self) -> Result<Lock> {
        for _ in 0..100 {
            make_folder(&self.run, 0o711)?;
            match self.lock() {
                Ok(Some(lock)) if lock.is_on(&self.run) => return Ok(lock),
                Ok(Some(_)) => {}
                Err(err) if err.kind() == Kind::NotFound => {}
                Ok(None) => std::thread::sleep(std::time::Duration::from_millis(1)),
                Err(err) => return Err(err),
            }
        }
        Err(Error::new(Kind::Conflict, format!("lock {}: another tare holds it", self.run.display()))
            .hint("try again"))
    }

    /// Where its writable layer is.
    pub fn writable_layer(&self) -> PathBuf {
        self.state.join("rw")
    }

    /// Makes the folders of the writable layer, which may have at most `size` bytes, if that is not 0.
    pub fn make_writable_layer(&self, size: u64) -> Result<()> {
        let rw = self.writable_layer();
        make_folder(&rw, 0o711)?;
        crate::storage::limit(self, size)?;
        make_folder(&rw.join("upper"), 0o755)?;
        make_folder(&rw.join("work"), 0o700)
    }

    /// Reads `container.json`.
    pub fn record(&self) -> Result<Record> {
        read_json(&self.state.join("container.json"))?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("no such container: {}", self.id))
                .hint("`tare ps --all` lists the containers")
        })
    }

    /// To be held while `container.json` is changed: one after the other, each reads what the one before has written.
    pub fn change(&self) -> Result<Lock> {
        let what = || format!("lock {}", self.state.display());
        let folder = File::open(&self.state).doing(what)?;
        rustix::fs::flock(&folder, FlockOperation::LockExclusive).doing(what)?;
        Ok(Lock(folder.into()))
    }

    /// The same; `None` where somebody is at it.
    pub fn try_change(&self) -> Result<Option<Lock>> {
        let what = || format!("lock {}", self.state.display());
        let folder = File::open(&self.state).doing(what)?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            locked => locked.doing(what).map(|()| Some(Lock(folder.into()))),
        }
    }

    /// Writes `container.json`.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        write_json(&self.state, "container.json", record)
    }

    /// Reads `status.json`; `None` before the first start.
    pub fn status(&self) -> Result<Option<Status>> {
        read_json(&self.state.join(STATUS))
    }

    /// Whether there is a `status.json`, whatever it says.
    pub fn has_status(&self) -> bool {
        self.state.join(STATUS).exists()
    }

    /// Writes `status.json`.
    pub fn write_status(&self, status: &Status) -> Result<()> {
        write_json(&self.state, STATUS, status)
    }

    /// The same, where what has become of the container must not be lost: over what was there if the disk is full.
    pub fn note_status(&self, status: &Status) -> Result<()> {
        self.write_status(status).or_else(|err| match err.errno() {
            Some(Errno::NOSPC | Errno::DQUOT) => overwrite_json(&self.state.join(STATUS), status),
            _ => Err(err),
        })
    }

    /// The socket of its monitor.
    pub fn control(&self) -> PathBuf {
        self.run.join("control")
    }

    /// The socket of the one who holds its terminal.
    pub fn terminal(&self) -> PathBuf {
        self.run.join("terminal")
    }

    /// Where its output is kept.
    pub fn log(&self) -> PathBuf {
        self.state.join("log.json")
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Restarting => "restarting",
            State::Exited => "exited",
        })
    }
}

impl Status {
    /// For people, as Docker puts it.
    pub fn in_words(&self, now: Moment) -> String {
        let since = |text: &str| {
            let then = Moment::parse(text).unwrap_or(now);
            tare_sys::time::in_words(now.seconds().saturating_sub(then.seconds()))
        };
        let words = match (self.state, self.exit_code) {
            (State::Created, _) => "Created".to_owned(),
            (State::Running, _) => format!("Up {}", since(&self.started)),
            (State::Paused, _) => format!("Up {} (Paused)", since(&self.started)),
            (State::Restarting, code) => {
                format!("Restarting ({}) {} ago", code.unwrap_or(255), since(&self.finished))
            }
            (State::Exited, Some(code)) => format!("Exited ({code}) {} ago", since(&self.finished)),
            (State::Exited, None) => format!("Exited (unknown) {} ago", since(&self.finished)),
        };
        match crate::why::short(self) {
            Some(why) => format!("{words} ({why})"),
            None => words,
        }
    }

    /// Whether it is said to have a process; [`process`](Status::process) looks.
    pub fn runs(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }

    /// Whether a restart policy is about to start it again.
    pub fn restarts(&self) -> bool {
        self.state == State::Restarting && self.boot == tare_sys::process::boot_id()
    }

    /// Of a container that was never started.
    pub fn created() -> Status {
        Status {
            state: State::Created,
            pid: 0,
            pid_began: 0,
            base: None,
            boot: String::new(),
            started: tare_sys::time::NEVER.to_owned(),
            finished: tare_sys::time::NEVER.to_owned(),
            exit_code: Some(0),
            oom_killed: false,
            error: String::new(),
            stopped: false,
            restart_count: 0,
            restart_delay: 0,
            memory_peak: 0,
        }
    }

    /// A pidfd of its process, if that very process is alive.
    pub fn process(&self) -> Option<OwnedFd> {
        self.held(tare_sys::process::began)
    }

    /// The same, also of one that has ended and waits to be reaped: how it ended can still be told.
    pub fn remains(&self) -> Option<OwnedFd> {
        self.held(tare_sys::process::began_or_ended)
    }

    fn held(&self, began: fn(i32) -> Option<u64>) -> Option<OwnedFd> {
        if !self.runs() || self.boot != tare_sys::process::boot_id() {
            return None;
        }
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        // Looked at after the pidfd is open: now the number cannot change hands any more.
        (began(self.pid) == Some(self.pid_began)).then_some(pidfd)
    }
}

/// Makes a folder and its parents with this mode, whatever the umask.
pub fn make_folder(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(err) if err.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(err) if err.kind() == ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            // Traversable by nobody but root: a layer may hold set-user-id files (CVE-2021-41091).
            make_folder(parent, 0o700)?;
            return make_folder(path, mode);
        }
        Err(err) => {
            return Err(err).doing(|| format!("mkdir {}", path.display())).map_err(|err| match err.kind() {
                Kind::Permission => err.hint("tare needs root for this; try sudo"),
                _ => err,
            });
        }
    }
    Ok(())
}

/// Reads a small JSON file; `None` where there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(err) if matches!(err.kind(), ErrorKind::NotFound) => return Ok(None),
        file => file
            .and_then(|mut file| file.read_to_end(&mut text))
            .doing(|| format!("read {}", path.display()))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|err| {
        Error::new(Kind::Corrupt, format!("read {}: {err}", path.display()))
            .hint("the file is damaged; `tare rm --force` removes the container with it")
    })
}

/// Writes a small JSON file: whoever reads it meanwhile finds the old one or the new one.
pub fn write_json<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<()> {
    let (path, temporary) = (folder.join(name), folder.join(format!(".{name}")));
    let what = || format!("write {}", path.display());
    let mut text =
        serde_json::to_vec(value).map_err(|err| Error::new(Kind::Corrupt, format!("{}: {err}", what())))?;
    text.push(b'\n');
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .doing(what)?;
    file.write_all(&text).doing(what).map_err(explain_full)?;
    fs::rename(&temporary, &path).doing(what)
}

/// Writes a JSON file in its old place, for which a full disk needs no more room. Whoever reads it meanwhile may find neither
/// the old one nor the new one.
fn overwrite_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let what = || format!("write over {}", path.display());
    let mut text =
        serde_json::to_vec(value).map_err(|err| Error::new(Kind::Corrupt, format!("{}: {err}", what())))?;
    let file = fs::OpenOptions::new().write(true).open(path).doing(what)?;
    let metadata = file.metadata().doing(what)?;
    // At once, and as long as the old one: white space is no part of it.
    text.resize(text.len().max(metadata.len() as usize), b'\n');
    if text.len() as u64 > metadata.blocks() * 512 {
        return Err(Error::new(Kind::Exhausted, format!("{}: it has no room for more", what())));
    }
    file.write_all_at(&text, 0).doing(what)
}

/// Says what a full disk means for the caller.
pub fn explain_full(err: Error) -> Error {
    match err.errno() {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            err.with_kind(Kind::Exhausted).hint("the disk is full: remove containers or images")
        }
        _ => err,
    }
}

impl Default for Status {
    fn default() -> Status {
        Status::created()
    }
}

impl From<OwnedFd> for Lock {
    /// A lock that came to this process over an exec.
    fn from(fd: OwnedFd) -> Lock {
        Lock(fd)
    }
}

impl Lock {
    /// Lets go of it, for all who have it open.
    pub fn release(&self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }

    /// Whether the path still leads to the folder that is locked.
    fn is_on(&self, path: &Path) -> bool {
        match (rustix::fs::fstat(&self.0), rustix::fs::stat(path)) {
            (Ok(held), Ok(there)) => (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino),
            _ => false,
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(dir: &Path) -> Roots {
        Roots { state: dir.join("state"), run: dir.join("run") }
    }

    #[test]
    fn a_name_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        roots.claim_name("web", "aaa").unwrap();
        assert_eq!(roots.claim_name("web", "bbb").unwrap_err().kind(), Kind::Conflict);
        roots.release_name("web", "bbb");
        assert_eq!(roots.find("web").unwrap(), "aaa");
        roots.release_name("web", "aaa");
        roots.claim_name("web", "bbb").unwrap();
    }

    #[test]
    fn a_name_that_two_take_back_at_once_can_be_anothers_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let roots = &roots(dir.path());
        for _ in 0..2000 {
            roots.claim_name("web", "old").unwrap();
            std::thread::scope(|scope| {
                (0..2).for_each(|_| drop(scope.spawn(|| roots.release_name("web", "old"))));
                while roots.claim_name("web", "new").is_err() {}
            });
            assert_eq!(roots.find("web").unwrap(), "new");
            roots.release_name("web", "new");
        }
    }

    #[test]
    fn short_ids_have_to_be_clear() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        for id in ["abc1", "abc2", "def0"] {
            roots.folders(id).make().unwrap();
        }
        assert_eq!(roots.find("d").unwrap(), "def0");
        assert_eq!(roots.find("abc").unwrap_err().kind(), Kind::Usage);
        assert_eq!(roots.find("ff").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(roots.find("").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_lock_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let folders = roots(dir.path()).folders("abc");
        let lock = folders.make().unwrap();
        assert!(folders.lock().unwrap().is_none());
        drop(lock);
        assert!(folders.lock().unwrap().is_some());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let folders = roots(dir.path()).folders("abc");
        let _lock = folders.make().unwrap();
        fs::write(folders.state.join("status.json"), "{\"State\":\"run").unwrap();
        assert_eq!(folders.status().unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn our_own_process_is_recognised_and_a_reused_pid_is_not() {
        let pid = std::process::id() as i32;
        let mut status =
            Status { state: State::Running, pid, boot: tare_sys::process::boot_id(), ..Status::created() };
        assert!(status.process().is_none(), "began at another time");
        status.pid_began = tare_sys::process::began(pid).unwrap();
        assert!(status.process().is_some());
        status.boot = "another".into();
        assert!(status.process().is_none());
    }
}
