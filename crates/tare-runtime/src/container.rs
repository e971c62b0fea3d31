//! A container's life as the OCI runtime specification has it: created, started, killed, deleted, each by a
//! command of its own that finds the container in a folder.
//!
//! ```text
//! create ──▶ folder, cgroup, launch up to the program ──▶ start ──▶ the program
//!                │                                                   │ exec, pause, resume, update, kill
//!                └──────────── delete ◀──────────────────────────────┘
//! ```
//!
//! Each verb is a process of its own; what they know of each other is in the container's folder, which
//! `container/record.rs` draws.

mod checkpoint;
mod create;
mod exec;
mod record;
mod removal;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIntelRdt, LinuxResources, Spec};
use serde::{Deserialize, Serialize};
use tare_cgroup::{Cgroup, Hierarchies};
use tare_sys::channel::Channel;
use tare_sys::process::{self, Child};
use tare_sys::{Error, Kind, Result};

use crate::launch::{self, Agent};
use crate::notify::NotifySocket;
use crate::{hooks, rdt};
use record::{Folder, Record};

pub use checkpoint::{CgroupsMode, CheckpointOptions, CriuOptions, NetworkLock, RestoreOptions};

/// Where containers are kept, and who makes their cgroups.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The state root (`--root`); made when it is missing.
    pub root: PathBuf,
    /// The cgroup driver by name: `cgroupfs`, `systemd` or `disabled`.
    pub cgroup_manager: String,
    /// Go on where the host does not let us make a cgroup (`--rootless`).
    pub rootless: bool,
}

/// What `create` and `run` are told beside the spec.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The bundle's folder, absolute.
    pub bundle: PathBuf,
    /// A file to read instead of the bundle's `config.json`.
    pub config: Option<PathBuf>,
    /// Whom to send our side of the terminal.
    pub console_socket: Option<PathBuf>,
    /// Where to write the pid of the container's process.
    pub pid_file: Option<PathBuf>,
    /// Whom to send a pidfd of it.
    pub pidfd_socket: Option<PathBuf>,
    /// Move the root over `/` instead of pivot_root(2): for a host whose root is an initramfs.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Pass so many of our files on, from 3 upwards, beside those of `LISTEN_FDS`.
    pub preserve_fds: u32,
}

/// What `exec` is told beside the process.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// Whom to send our side of the terminal.
    pub console_socket: Option<PathBuf>,
    /// Where to write the pid of the process.
    pub pid_file: Option<PathBuf>,
    /// Whom to send a pidfd of it.
    pub pidfd_socket: Option<PathBuf>,
    /// Pass so many of our files on, from 3 upwards, beside those of `LISTEN_FDS`.
    pub preserve_fds: u32,
    /// cgroups below the container's, as `path` or, on v1, `controller[,controller]:path`.
    pub cgroups: Vec<String>,
    /// Start it in a paused container, where it waits for `resume`.
    pub ignore_paused: bool,
}

/// A process that runs in a container, seen by whoever started it. Its stdin, stdout and stderr are ours unless
/// it has a terminal.
#[derive(Debug)]
pub struct Started {
    /// Our child.
    pub child: Child,
    /// Our side of its terminal, where it has one and no console socket was given.
    pub terminal: Option<OwnedFd>,
    /// What was asked for and could not quite be given.
    pub warnings: Vec<String>,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// It waits for `start`.
    Created,
    /// Its process runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

/// What `state` prints: the specification's fields and runc's.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification that this follows.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Its process, as the host numbers it; 0 when it has ended.
    pub pid: i32,
    /// What it is doing.
    pub status: Status,
    /// Its bundle's folder.
    pub bundle: PathBuf,
    /// Its root file system.
    pub rootfs: PathBuf,
    /// When it was created (RFC 3339).
    pub created: String,
    /// The user who created it.
    pub owner: String,
    /// Its annotations.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
}

/// A container that was created before.
#[derive(Debug)]
pub struct Container {
    folder: Folder,
    /// `None` while `create` is at work, or where it died.
    record: Option<Record>,
}

impl Runtime {
    /// Finds a container.
    ///
    /// Errors: [`Kind::NotFound`], [`Kind::Usage`] for an id that cannot be one.
    pub fn container(&self, id: &str) -> Result<Container> {
        let folder = Folder::open(&self.root, id)?;
        let record = folder.record()?;
        Ok(Container { folder, record })
    }

    /// Ids of all containers, in order.
    pub fn ids(&self) -> Result<Vec<String>> {
        record::ids(&self.root)
    }

    /// Starts the program of a created container. When this comes back, it runs.
    ///
    /// Errors: [`Kind::Conflict`] where it has been started before; those of its hooks, of which a failed one
    /// kills it.
    pub fn start(&self, id: &str) -> Result<()> {
        let _lock = Folder::open(&self.root, id)?.lock()?;
        // Read now, not before: a `create` that was at work has written it meanwhile.
        let container = self.container(id)?;
        let record = container.record()?;
        let pidfd = match (container.status()?, record.pidfd()) {
            (Status::Created, Some(pidfd)) => pidfd,
            (Status::Stopped, _) => {
                return Err(Error::new(Kind::Conflict, "cannot start a container that has stopped")
                    .hint("delete it, and create it again"));
            }
            _ => {
                return Err(Error::new(Kind::Conflict, "cannot start an already running container"));
            }
        };
        let spec = container.spec()?;
        let socket = container.folder.start_socket();
        let channel = Channel::connect(&socket)?;
        let readiness = match container.folder.notify() {
            folder if std::env::var_os("NOTIFY_SOCKET").is_some() && folder.exists() => {
                Some(NotifySocket::create(&folder)?)
            }
            _ => None,
        };
        let agent = Agent {
            spec: &spec,
            id,
            bundle: &record.bundle,
            status: "creating",
            first: record.pid,
            pid: record.pid,
        };
        let started = launch::start(&channel, pidfd.as_fd(), agent);
        container.folder.forget_start();
        started?;
        container.after_start(&spec, record, pidfd.as_fd(), readiness)
    }
}

impl Container {
    fn record(&self) -> Result<&Record> {
        self.record.as_ref().ok_or_else(|| {
            Error::new(Kind::Conflict, format!("container {} is being created", self.folder.id()))
                .hint("if its `create` has died, delete --force removes what is left of it")
        })
    }

    /// What comes after the program runs: the last hooks, and word to whoever waits for its readiness.
    fn after_start(
        &self,
        spec: &Spec,
        record: &Record,
        pidfd: BorrowedFd<'_>,
        readiness: Option<NotifySocket>,
    ) -> Result<()> {
        let list = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_deref()).unwrap_or_default();
        let state = launch::hook_state(spec, &record.id, &record.bundle, "running", record.pid);
        if let Err(err) = hooks::run("poststart", list, &state, &record.bundle) {
            // runtime-spec 1.3: a failed poststart hook fails the container.
            process::signal(pidfd, 9)?;
            return Err(err);
        }
        match readiness.zip(std::env::var_os("NOTIFY_SOCKET")) {
            Some((socket, host)) => socket.forward(pidfd, record.pid, Path::new(&host)),
            None => Ok(()),
        }
    }

    /// What it is doing.
    pub fn state(&self) -> Result<State> {
        let status = self.status()?;
        let Some(record) = &self.record else {
            return Ok(State {
                oci_version: crate::spec::VERSION.to_owned(),
                id: self.folder.id().to_owned(),
                pid: 0,
                status,
                bundle: PathBuf::new(),
                rootfs: PathBuf::new(),
                created: tare_sys::time::NEVER.to_owned(),
                owner: String::new(),
                annotations: HashMap::new(),
            });
        };
        Ok(State {
            oci_version: record.oci_version.clone(),
            id: record.id.clone(),
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status,
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            owner: record::user_name(record.owner),
            annotations: record.annotations.clone(),
        })
    }

    /// Only what it is doing.
    pub fn status(&self) -> Result<Status> {
        let Some(record) = self.record.as_ref().filter(|record| record.pid != 0) else {
            return Ok(if self.folder.is_locked() { Status::Creating } else { Status::Stopped });
        };
        if record.pidfd().is_none() {
            return Ok(Status::Stopped);
        }
        // A `start` that was killed in the middle leaves the socket behind.
        if self.folder.start_socket().exists() && !has_executed(record.pid) {
            return Ok(Status::Created);
        }
        match self.cgroup()?.is_frozen() {
            Ok(true) => Ok(Status::Paused),
            _ => Ok(Status::Running),
        }
    }

    /// Its process, where that still lives.
    pub fn process(&self) -> Option<Child> {
        let record = self.record.as_ref()?;
        Some(Child { pid: rustix::process::Pid::from_raw(record.pid)?, pidfd: record.pidfd()? })
    }

    /// The specification it was created with.
    pub fn spec(&self) -> Result<Spec> {
        self.folder.spec()
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> Result<Cgroup> {
        let record = self.record()?;
        Ok(Cgroup::at(&Hierarchies::discover()?, &record.cgroup))
    }

    /// Sends a signal to its process, or to `all` of its processes. Where it shares the host's pid namespace,
    /// killing the first would leave the others behind, so `SIGKILL` always means all.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let status = self.status()?;
        let record = self.record()?;
        let alone = self.record.as_ref().is_some_and(|record| record.has_pid_namespace);
        if all || (signal == 9 && !alone) {
            if status == Status::Stopped && self.cgroup()?.processes()?.is_empty() {
                return Err(not_running());
            }
            removal::signal_all(&self.cgroup()?, signal)?;
        } else {
            let pidfd = record.pidfd().ok_or_else(not_running)?;
            process::signal(pidfd.as_fd(), signal)?;
        }
        if signal == 9 && status == Status::Paused {
            // On v1 a frozen process is not even killed.
            self.cgroup()?.thaw()?;
        }
        Ok(())
    }

    /// Freezes it.
    pub fn pause(&self) -> Result<()> {
        match self.status()? {
            Status::Running | Status::Created => self.cgroup()?.freeze(),
            other => Err(Error::new(
                Kind::Conflict,
                format!("container not running: it is {}, so it cannot be paused", other.word()),
            )),
        }
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        match self.status()? {
            Status::Paused => self.cgroup()?.thaw(),
            other => Err(Error::new(Kind::Conflict, format!("container not paused: it is {}", other.word()))),
        }
    }

    /// Changes its limits; what `resources` does not name stays as it is.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        match self.status()? {
            Status::Stopped | Status::Creating => Err(not_running()),
            _ => self.cgroup()?.update(resources),
        }
    }

    /// Changes its shares of cache and memory bandwidth, in the group of its spec or in one of its own.
    ///
    /// Errors: as those of `linux.intelRdt` at its creation.
    pub fn update_rdt(&self, l3_cache: Option<String>, memory_bandwidth: Option<String>) -> Result<()> {
        let _lock = self.folder.lock()?;
        let mut record = self.folder.record()?.ok_or_else(not_running)?;
        let process = self.process().ok_or_else(not_running)?;
        let spec = self.spec()?;
        let own = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let mut wanted = LinuxIntelRdt::default();
        wanted.set_clos_id(own.and_then(|own| own.clos_id().clone()));
        wanted.set_l3_cache_schema(l3_cache);
        wanted.set_mem_bw_schema(memory_bandwidth);
        let made = rdt::join(&wanted, &record.id, process.pid)?;
        if record.rdt.is_none() && made.is_some() {
            record.rdt = made;
            self.folder.write_record(&record)?;
        }
        Ok(())
    }

    /// The processes in it, as the host numbers them.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let pids = self.cgroup()?.processes()?;
        Ok(pids.into_iter().map(|pid| pid.as_raw_nonzero().get()).collect())
    }

    /// Removes what is left of it; `force` kills it first if it runs. Answers with what could not be removed.
    ///
    /// Errors: [`Kind::Conflict`] for one that runs, without `force`.
    pub fn delete(self, force: bool) -> Result<Vec<String>> {
        removal::delete(self, force)
    }
}

/// Whether a process that was cloned runs a program of its own by now.
fn has_executed(pid: i32) -> bool {
    /// `PF_FORKNOEXEC` of the kernel's linux/sched.h, in the ninth field (proc_pid_stat(5)).
    const ONLY_CLONED: u32 = 0x40;
    let stat = tare_sys::path::read_short(&format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is a name in parentheses, which may hold anything.
    let flags =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse().ok());
    flags.is_some_and(|flags: u32| flags & ONLY_CLONED == 0)
}

fn not_running() -> Error {
    Error::new(Kind::Conflict, "container not running")
}

impl Status {
    /// As `state` prints it.
    pub fn word(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}
