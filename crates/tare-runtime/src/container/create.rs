//! `create` and `run`: from a bundle to a container that is held before its program, or runs it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder, Process, Spec};
use tare_cgroup::{Cgroup, Driver, Hierarchies};
use tare_sys::channel::Channel;
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result};

use super::record::{Folder, Record};
use super::{Container, CreateOptions, Runtime, Started, removal};
use crate::launch::{Bundle, Hooked, Launch, Running, launch};
use crate::notify::NotifySocket;
use crate::rootfs::Rootfs;
use crate::seccomp::{self, Compiled};
use crate::user::UserRequest;
use crate::{annotations, descriptors, devices, exe, namespaces, pid_file, rdt, spec};

/// Where a container finds the socket for sd_notify(3), as under runc.
const NOTIFY_INSIDE: &str = "/run/notify";

impl Runtime {
    /// Creates a container: everything but its program runs.
    ///
    /// Errors: [`Kind::Usage`] for a spec without sense, [`Kind::Conflict`] for an id that is taken, and whatever
    /// keeps the container from being made; then nothing of it is left.
    pub fn create(&self, id: &str, options: &CreateOptions) -> Result<Started> {
        self.make(id, options, true)
    }

    /// Creates a container and starts it.
    ///
    /// Errors: as [`create`](Runtime::create), and those of its program and its hooks.
    pub fn run(&self, id: &str, options: &CreateOptions) -> Result<Started> {
        self.make(id, options, false)
    }

    /// The cgroup driver that the caller named.
    pub fn driver(&self) -> Result<Driver> {
        match self.cgroup_manager.as_str() {
            "cgroupfs" => Ok(Driver::Cgroupfs),
            "systemd" => Ok(Driver::Systemd { user: !rustix::process::geteuid().is_root() }),
            "disabled" => Ok(Driver::Disabled),
            other => Err(Error::new(Kind::Usage, format!("there is no cgroup manager {other:?}"))
                .hint("it is one of cgroupfs, systemd and disabled")),
        }
    }

    fn make(&self, id: &str, options: &CreateOptions, hold: bool) -> Result<Started> {
        let config = options.config.clone().unwrap_or_else(|| options.bundle.join("config.json"));
        let bytes = spec::read_file(&config)?;
        let mut spec = spec::parse(&bytes, &config)?;
        annotations::apply(&mut spec)?;
        exe::protect(&spec)?;
        let preserve_fds = preserve(&mut spec, options.preserve_fds)?;
        let (folder, lock) = Folder::make(&self.root, id)?;
        let new = New { runtime: self, folder: &folder, options, hold, preserve_fds };
        let made = new.make(&mut spec, &bytes);
        if made.is_err() {
            // The failure that got us here is the one to report.
            let container = Container { folder, record: None };
            drop(lock);
            undo(container);
        }
        made
    }
}

/// Takes away what a failed `create` has made.
fn undo(mut container: Container) {
    container.record = container.folder.record().ok().flatten();
    let _ = removal::delete(container, true);
}

/// How many files are passed on, from 3 upwards: those that the caller counts and, before them, the sockets of the
/// unit that started us, of which the program is told as sd_listen_fds(3) has it.
fn preserve(spec: &mut Spec, asked: u32) -> Result<u32> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let sockets = match (variable("LISTEN_PID"), variable("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    };
    if sockets > 0
        && let Some(process) = spec.process_mut()
    {
        let env = process.env_mut().get_or_insert_default();
        env.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()]);
    }
    let count = asked.saturating_add(sockets);
    for number in (3..).take(count as usize) {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
            return Err(Error::new(
                Kind::Usage,
                format!("preserve-fds {count}: there is no open file {number}"),
            )
            .hint("pass that many files on to the runtime, from 3 upwards"));
        }
    }
    Ok(count)
}

/// A container on its way.
struct New<'a> {
    runtime: &'a Runtime,
    folder: &'a Folder,
    options: &'a CreateOptions,
    hold: bool,
    preserve_fds: u32,
}

impl New<'_> {
    fn make(&self, spec: &mut Spec, config: &[u8]) -> Result<Started> {
        let id = self.folder.id();
        self.folder.keep("config.json", config)?;
        let notify = self.add_notify_folder(spec)?;
        let filter = match spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
            Some(profile) => Some(seccomp::compile(profile)?),
            None => None,
        };
        if let Some(filter) = &filter {
            self.folder.keep("filter", &filter.to_bytes())?;
        }
        let linux = spec.linux().as_ref();
        let resources = devices::with_defaults(linux.and_then(|linux| linux.resources().clone()))?;
        let annotations = spec.annotations().clone().unwrap_or_default();
        let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_deref()).and_then(Path::to_str);
        let hierarchies = Hierarchies::discover()?;
        let driver = self.runtime.driver()?;
        if let Some(location) = Cgroup::place_for(&hierarchies, &driver, id, cgroups_path)? {
            self.folder.announce_cgroup(&location)?;
        }
        let cgroup = Cgroup::create_for(
            &hierarchies,
            &driver,
            id,
            cgroups_path,
            &resources,
            &annotations,
            self.runtime.rootless,
        )?;
        let mut record = Record {
            oci_version: spec.version().clone(),
            id: id.to_owned(),
            pid: 0,
            began: 0,
            boot: process::boot_id(),
            bundle: self.options.bundle.clone(),
            rootfs: self.rootfs(spec),
            created: tare_sys::time::Moment::now().to_string(),
            owner: rustix::process::getuid().as_raw(),
            annotations,
            cgroup: cgroup.location(),
            has_pid_namespace: namespaces::listed(spec) & namespace::PID != 0,
            rdt: None,
        };
        self.folder.write_record(&record)?;
        let rdt = linux.and_then(|linux| linux.intel_rdt().as_ref());
        let socket = if self.hold { Some(Channel::listen(&self.folder.start_socket())?) } else { None };
        let readiness = match notify && !self.hold {
            true => Some(NotifySocket::create(&self.folder.notify())?),
            false => None,
        };
        let running = self.launch(spec, &cgroup, filter.as_ref(), socket.as_ref())?;
        let child = running.child;
        record.pid = child.pid.as_raw_nonzero().get();
        record.began = process::began(record.pid).unwrap_or(0);
        if let Some(rdt) = rdt {
            record.rdt = rdt::join(rdt, id, child.pid)?;
        }
        let finish = || -> Result<Option<OwnedFd>> {
            self.folder.write_record(&record)?;
            let terminal = send_terminal(running.terminal, self.options.console_socket.as_deref())?;
            let receiver = annotations::get(spec.annotations(), annotations::PIDFD_RECEIVER).map(Path::new);
            let socket = self.options.pidfd_socket.as_deref().or(receiver);
            tell_pid(self.options.pid_file.as_deref(), socket, child.pid, child.pidfd.as_fd())?;
            if !self.hold {
                let container =
                    Container { folder: Folder::open(&self.runtime.root, id)?, record: Some(record.clone()) };
                container.after_start(spec, &record, child.pidfd.as_fd(), readiness)?;
            }
            Ok(terminal)
        };
        match finish() {
            Ok(terminal) => Ok(Started { child, terminal, warnings: running.warnings }),
            Err(err) => {
                let _ = process::signal(child.pidfd.as_fd(), 9);
                let _ = process::wait(child.pidfd.as_fd());
                Err(err)
            }
        }
    }

    fn rootfs(&self, spec: &Spec) -> PathBuf {
        let path = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        self.options.bundle.join(path)
    }

    /// Gives the container a folder for the socket of sd_notify(3), where our caller waits for such word. Who
    /// starts it makes the socket.
    fn add_notify_folder(&self, spec: &mut Spec) -> Result<bool> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(false);
        }
        let folder = self.folder.notify();
        std::fs::create_dir(&folder).doing(|| format!("mkdir {}", folder.display()))?;
        let mount: Mount = MountBuilder::default()
            .destination(NOTIFY_INSIDE)
            .typ("bind")
            .source(folder)
            .options(["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned))
            .build()
            .map_err(|err| Error::new(Kind::Corrupt, format!("mount {NOTIFY_INSIDE}: {err}")))?;
        spec.mounts_mut().get_or_insert_default().push(mount);
        if let Some(process) = spec.process_mut() {
            let env = process.env_mut().get_or_insert_default();
            env.push(format!("NOTIFY_SOCKET={NOTIFY_INSIDE}/notify.sock"));
        }
        Ok(true)
    }

    /// The size of the caller's terminal, where the caller becomes the other side of the container's: given later, it
    /// would reach the process as a change of size, by SIGWINCH.
    fn callers_size(&self, process: &Process) -> Option<(u16, u16)> {
        let passed_on = process.terminal().unwrap_or_default() && self.options.console_socket.is_none();
        passed_on.then(|| tare_sys::tty::size(rustix::stdio::stdin())).flatten()
    }

    fn launch(
        &self,
        spec: &Spec,
        cgroup: &Cgroup,
        filter: Option<&Compiled>,
        hold: Option<&OwnedFd>,
    ) -> Result<Running> {
        let process =
            spec.process().as_ref().ok_or_else(|| Error::new(Kind::Usage, "the spec has no process"))?;
        let user = UserRequest::of(process, spec.annotations());
        let root = self.rootfs(spec);
        launch(&Launch {
            spec,
            rootfs: &Rootfs::Directory(root.clone()),
            user: &user,
            init: false,
            entrance: &cgroup.entrance()?,
            cgroup_mounts: &cgroup.mounts(),
            filter,
            stdio: None,
            terminal_size: self.callers_size(process),
            network: None,
            hooked: Some(Hooked { id: self.folder.id(), folder: &self.options.bundle, root: Some(&root) }),
            bundle: Some(&Bundle {
                id: self.folder.id(),
                path: &self.options.bundle,
                hold: hold.map(AsFd::as_fd),
                preserve_fds: self.preserve_fds,
                no_pivot: self.options.no_pivot,
                no_new_keyring: self.options.no_new_keyring,
                cgroup,
            }),
        })
    }
}

/// Sends our side of the terminal to whom the caller said; without such, it is the caller's.
pub fn send_terminal(terminal: Option<OwnedFd>, socket: Option<&Path>) -> Result<Option<OwnedFd>> {
    let (Some(terminal), Some(socket)) = (&terminal, socket) else { return Ok(terminal) };
    descriptors::send_fd(socket, terminal.as_fd(), b"/dev/ptmx")
        .doing(|| format!("send the terminal to the console socket {}", socket.display()))?;
    Ok(None)
}

/// Writes the pid file and sends the pidfd.
pub fn tell_pid(
    file: Option<&Path>,
    socket: Option<&Path>,
    pid: rustix::process::Pid,
    pidfd: BorrowedFd<'_>,
) -> Result<()> {
    if let Some(file) = file {
        pid_file::write(file, pid)?;
    }
    if let Some(socket) = socket {
        descriptors::send_fd(socket, pidfd, b"pidfd")
            .doing(|| format!("send the pidfd to {}", socket.display()))?;
    }
    Ok(())
}
