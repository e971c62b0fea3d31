//! `start`: everything between a container on disk and its running process.
//!
//! ```text
//! run:    Created ──────────────────────────────▶ prepare ──▶ Job ──▶ monitor::spawn
//! start:  folders ──▶ lock, record, facts, plan ──▶ prepare ──▶ Job ──▶ monitor::spawn
//! monitor, restarting: folders ──▶ record, facts, plan ──▶ prepare ──▶ Job
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use tare_cgroup::Hierarchies;
use tare_runtime::rootfs::Rootfs;
use tare_runtime::seccomp;
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::attach::{Attachment, Keys, Sink};
use crate::container::{Folders, Lock, Record, Roots, State, Status};
use crate::create::Created;
use crate::engine::{Engine, need_root, not_running};
use crate::monitor::message::Message;
use crate::monitor::{self, Job};
use crate::network::Joined;
use crate::policy::{self, ImageSays, Plan, Share};
use crate::range::Range;
use crate::stdio::{self, Stdin};
use crate::warm::Pool;
use crate::{facts, files, host_image, links, removal};

/// What of the container the caller wants to have.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    /// Pass our stdin on.
    pub stdin: bool,
    /// Show its stdout.
    pub stdout: bool,
    /// Show its stderr.
    pub stderr: bool,
    /// Keys that leave a terminal.
    pub keys: Keys,
}

/// A container that was started.
pub enum Started {
    /// On its own; with what the caller should know.
    Detached(Vec<String>),
    /// With the caller attached.
    Attached(Attachment),
}

/// What a container needs to be launched, beside what is in its record.
pub struct Prepared {
    /// What was decided.
    pub plan: Plan,
    /// Where `/` comes from.
    pub rootfs: Rootfs,
    /// The compiled filter.
    pub filter: Option<seccomp::Compiled>,
    /// The cgroup hierarchies of this host.
    pub hierarchies: Hierarchies,
    /// Host id of its root; `None`: it shares the host's user namespace.
    pub base: Option<u32>,
    /// What it holds on networks.
    pub joined: Joined,
}

impl Engine {
    /// Starts a container that was just made. One that cannot be started stays, with the reason, as under Docker; with
    /// `--rm` nothing of it is left.
    pub fn start(&self, created: Created, attach: Attach) -> Result<Started> {
        let Created { record, plan, hierarchies, folders, lock, shared, .. } = created;
        let decided = match record.request.host_config.links.is_empty() {
            true => Ok((plan, shared, hierarchies)),
            // What links bring is known once it has a name.
            false => self.decide(&record, &folders),
        };
        let prepared = match decided.and_then(|(plan, shared, hierarchies)| {
            self.prepare(&record, &folders, plan, shared, hierarchies)
        }) {
            Ok(prepared) => prepared,
            Err(err) => {
                cannot_start(&self.roots, &record, &folders, &err);
                return Err(err);
            }
        };
        self.launch(record, folders, lock, prepared, attach)
    }

    /// Starts a container that was made before, or has ended. One that runs is no error: `None`.
    pub fn start_again(&self, container: &str, attach: Attach) -> Result<Option<Started>> {
        need_root()?;
        let folders = self.find(container)?;
        let what = || format!("start {container}");
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_some() {
            // It would go on standing still.
            return match status.state {
                State::Paused => Err(Error::new(Kind::Conflict, format!("{}: it is paused", what()))
                    .hint(format!("let it go on: tare unpause {container}"))),
                _ => Ok(None),
            };
        }
        let runs = || folders.status().is_ok_and(|status| status.is_some_and(|s| s.process().is_some()));
        let lock = loop {
            // A monitor that is just cleaning up gets the time for it, and so does another who starts it.
            self.wait_until_settled(&folders, runs)?;
            if runs() {
                return Ok(None);
            }
            match folders.lock_or_make() {
                // The other was quicker.
                Err(err) if err.kind() == Kind::Conflict => {}
                lock => break lock.doing(what)?,
            }
        };
        let record = folders.record()?;
        let prepared = self.decide(&record, &folders).and_then(|(plan, shared, hierarchies)| {
            self.prepare(&record, &folders, plan, shared, hierarchies)
        });
        match prepared {
            Ok(prepared) => self.launch(record, folders, lock, prepared, attach).map(Some),
            Err(err) => {
                cannot_start(&self.roots, &record, &folders, &err);
                Err(err)
            }
        }
    }

    /// Decides anew, from what was asked for and what the host is like now.
    pub(crate) fn decide(
        &self,
        record: &Record,
        folders: &Folders,
    ) -> Result<(Plan, Option<u32>, Hierarchies)> {
        let sharing = policy::sharing(&record.request.host_config)?;
        if record.request.host_config.auto_remove {
            forget_the_life_before(folders);
        }
        let hierarchies = Hierarchies::discover()?;
        let mut facts = facts::gather(&record.request, &hierarchies)?;
        facts::add_cdi(&record.request, &mut facts)?;
        links::add(&self.roots, record, &mut facts)?;
        facts.id.clone_from(&record.id);
        facts.files.clone_from(&folders.run);
        facts.mounts.clone_from(&record.mounts);
        let shared = self.find_shared(&sharing, &mut facts)?;
        if matches!(sharing.user, Share::Host) || rootless::is_on() {
            tare_runtime::exe::make_read_only()?;
        }
        let plan = policy::plan(&record.request, &ImageSays::of(&record.image), &facts)?;
        Ok((plan, shared, hierarchies))
    }

    /// Claims and writes what a running container needs. On failure what it claimed is given back.
    pub(crate) fn prepare(
        &self,
        record: &Record,
        folders: &Folders,
        mut plan: Plan,
        shared: Option<u32>,
        hierarchies: Hierarchies,
    ) -> Result<Prepared> {
        let sharing = policy::sharing(&record.request.host_config)?;
        crate::machine::check_network(&record.request.host_config.network_mode)?;
        let pool = Pool::for_container(&self.roots, record, &sharing)?;
        let mut made = pool.as_ref().and_then(|pool| pool.take(&record.id));
        let range = match (&sharing.user, shared) {
            (Share::Private, _) => Some(match &made {
                Some(made) => made.range.clone(),
                None => Range::claim(&self.roots.run, &record.id, seed(&record.id))?,
            }),
            (Share::Container(_), Some(base)) => Some(Range::join(&self.roots.run, base, &record.id)?),
            _ => None,
        };
        let base = range.as_ref().map(|range| range.base);
        let mut joined = Joined::default();
        let mut rest = || {
            if let Some(range) = &range {
                plan.map_ids(range.maps()?)?;
            }
            if let Some(made) = &made {
                plan.enter(&made.namespaces);
            }
            let profile = plan.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
            let filter = profile.map(seccomp::compile).transpose();
            let filter = filter.map_err(|err| err.context("compile the seccomp profile"))?;
            let rootfs = self.rootfs(record, folders)?;
            let warm = pool.is_some().then_some(made.is_some());
            joined = crate::network::claim(&self.roots, record, made.take().map(|made| made.connection))?;
            joined.warm = warm;
            let place = crate::network::place(&self.roots, record, &joined)?;
            write_files(record, folders, base, &place)?;
            Ok((rootfs, filter))
        };
        match rest() {
            Ok((rootfs, filter)) => Ok(Prepared { plan, rootfs, filter, hierarchies, base, joined }),
            Err(err) => {
                let _ = joined.leave(&self.roots);
                if let Some(range) = range {
                    range.release(&record.id);
                }
                Err(err)
            }
        }
    }

    fn launch(
        &self,
        record: Record,
        folders: Folders,
        lock: Lock,
        prepared: Prepared,
        attach: Attach,
    ) -> Result<Started> {
        let attached = attach.stdin || attach.stdout || attach.stderr;
        let tty = record.request.config.tty;
        let (stdin_reader, stdin_writer) = match record.request.config.open_stdin && attach.stdin && !tty {
            true => stdio::stdin_once(&folders).map(|(reader, writer)| (Some(reader), Some(writer)))?,
            false => (None, None),
        };
        let terminal_size = tty.then(|| tare_sys::tty::size(rustix::stdio::stdin())).flatten();
        let (id, roots) = (folders.id.clone(), self.roots.clone());
        let job = Job {
            stdin: Stdin::of(&record, stdin_reader),
            roots: self.roots.clone(),
            folders,
            record,
            prepared,
            lock,
            terminal_size,
            wants: [attach.stdout, attach.stderr],
            attached,
        };
        let stdin = rustix::stdio::stdin();
        let raw = if attached && tty && attach.stdin && rustix::termios::isatty(stdin) {
            Some(tare_sys::tty::RawMode::enter(stdin)?)
        } else {
            None
        };
        let (channel, stdin_writer) = monitor::spawn(job, stdin_writer)?;
        let (message, mut files) = Message::receive(&channel, &mut Message::buffer())?.ok_or_else(|| {
            Error::new(Kind::Kernel, "start the container: its monitor was killed on the way")
                .hint("try again; what was left half done has been, or will be, cleaned up")
        })?;
        let warnings = match message {
            Message::Started(warnings) => warnings,
            Message::Failed(err) => return Err(err),
            other => {
                return Err(Error::new(Kind::Corrupt, format!("start the container: unexpected {other:?}")));
            }
        };
        if !attached {
            return Ok(Started::Detached(warnings));
        }
        let terminal = if files.len() > 1 { files.pop() } else { None };
        let pidfd = files.pop().ok_or_else(|| Error::new(Kind::Corrupt, "start the container: no pidfd"))?;
        let stdin = match (stdin_writer, &terminal) {
            (Some(pipe), _) => Sink::Pipe(pipe),
            (None, Some(_)) if attach.stdin => Sink::Terminal,
            _ => Sink::None,
        };
        Ok(Started::Attached(Attachment {
            roots,
            id,
            starter: true,
            keys: attach.keys,
            channel,
            pidfd,
            stdin,
            terminal,
            show: [attach.stdout, attach.stderr],
            warnings,
            raw,
        }))
    }

    /// Finds the other container whose namespaces are shared: writes their paths into the facts, and answers
    /// the base of its id range.
    pub(crate) fn find_shared(
        &self,
        sharing: &policy::Sharing,
        facts: &mut policy::Facts,
    ) -> Result<Option<u32>> {
        let Share::Container(other) = &sharing.user else { return Ok(None) };
        let what = || format!("share namespaces with the container {other}");
        let folders = self.find(other).doing(what)?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_none() {
            return Err(not_running(other).context(what()));
        }
        let namespace = |name: &str| PathBuf::from(format!("/proc/{}/ns/{name}", status.pid));
        for (share, name) in [(&sharing.network, "net"), (&sharing.ipc, "ipc"), (&sharing.pid, "pid")] {
            if matches!(share, Share::Container(_)) {
                facts.joined.push((name, namespace(name)));
            }
        }
        if status.base.is_some() {
            facts.joined.push(("user", namespace("user")));
        }
        Ok(status.base)
    }

    pub(crate) fn rootfs(&self, record: &Record, folders: &Folders) -> Result<Rootfs> {
        let host = &record.request.host_config;
        if !host.rootfs.is_empty() {
            return Ok(Rootfs::Directory(PathBuf::from(&host.rootfs)));
        }
        if record.image_id.is_empty() {
            return Ok(Rootfs::Host { veil: host_image::veil(Path::new("/"))? });
        }
        let images = self.images()?;
        if !host.storage_opt.is_empty() {
            crate::storage::mount(folders)?;
        }
        Ok(Rootfs::Layers {
            lower: std::iter::once(images.mount_points())
                .chain(record.layers.iter().map(|layer| images.layer_path(layer)))
                .collect(),
            upper: folders.writable_layer(),
            volatile: host.auto_remove,
        })
    }
}

/// An overlay that is not synchronised (`volatile`) refuses to be mounted once more, since the machine may have broken down in
/// between (filesystems/overlayfs.rst, "Volatile mount"). Then a container that is to be removed after its end is gone.
fn forget_the_life_before(folders: &Folders) {
    let _ = fs::remove_dir_all(folders.writable_layer().join("work/work/incompat"));
}

/// The error and its hint, as [`Status::error`] has them.
fn told(err: &Error) -> String {
    err.hint_text().map_or_else(|| err.to_string(), |hint| format!("{err}\nhint: {hint}"))
}

/// A start has failed: the container stays as it was before, with the reason; one with `--rm` goes.
pub(crate) fn cannot_start(roots: &Roots, record: &Record, folders: &Folders, err: &Error) {
    if record.request.host_config.auto_remove {
        return removal::undo(roots, record);
    }
    failed(folders, err);
    removal::delete_run_folder(folders);
}

/// Writes down that a container could not be started, and why.
fn failed(folders: &Folders, err: &Error) {
    let status = folders.status().ok().flatten().unwrap_or_else(Status::created);
    let code = match err.kind() {
        Kind::CommandNotFound => 127,
        Kind::CommandNotExecutable => 126,
        _ => 128,
    };
    let state = if status.state == State::Created { State::Created } else { State::Exited };
    let status = Status { state, pid: 0, base: None, exit_code: Some(code), error: told(err), ..status };
    // A full disk loses the reason; the caller is told it in any case.
    let _ = folders.note_status(&status);
}

/// Where the search for a free id range begins: ids are random.
fn seed(id: &str) -> u32 {
    id.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

fn write_files(record: &Record, folders: &Folders, base: Option<u32>, place: &files::Place) -> Result<()> {
    let request = &record.request;
    let hostname = policy::hostname(request, &record.id);
    let host_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let config = &request.config;
    for (name, text) in [
        ("hosts", files::hosts(&hostname, &config.domainname, &request.host_config.extra_hosts, place)),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", files::resolv_conf(&host_resolv, &request.host_config, place.served)),
    ] {
        let path = folders.run.join(name);
        write_owned(&path, &text, base).map_err(crate::container::explain_full)?;
    }
    Ok(())
}

/// Makes the run folder a bundle, for hooks: they look for the root where `config.json` says.
pub(crate) fn write_bundle(folders: &Folders, spec: &Spec, base: Option<u32>) -> Result<()> {
    let mut spec = spec.clone();
    if let Some(root) = spec.root_mut() {
        root.set_path(folders.run.join("rootfs"));
    }
    crate::container::make_folder(&folders.run.join("rootfs"), 0o755)?;
    if base.is_some() {
        // Half of the hooks run as the container's root, who has to get here. What is secret here says so itself.
        for folder in folders.run.ancestors().skip(1).take(2) {
            let what = || format!("chmod {}", folder.display());
            let mode = fs::metadata(folder).doing(what)?.permissions().mode() | 0o011;
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).doing(what)?;
        }
    }
    let text = serde_json::to_string(&spec)
        .map_err(|err| Error::new(Kind::Corrupt, format!("write the spec for hooks: {err}")))?;
    write_owned(&folders.run.join("config.json"), &text, base).map_err(crate::container::explain_full)
}

/// A file that the container's root owns.
fn write_owned(path: &Path, text: &str, base: Option<u32>) -> Result<()> {
    use rustix::fs::{Gid, Mode, OFlags, Uid};
    let what = || format!("write {}", path.display());
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).doing(what)?;
    let id = base.unwrap_or(0);
    rustix::fs::fchown(&file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id))).doing(what)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).doing(what)?;
    fs::File::from(file).write_all(text.as_bytes()).doing(what)
}
