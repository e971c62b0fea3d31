//! The verbs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tare_cgroup::Hierarchies;
use tare_image::{ImageStore, Reference};
use tare_runtime::rootfs::Rootfs;
use tare_runtime::seccomp;
use tare_sys::process;
use tare_sys::{Context, Error, Kind, Result};

use crate::attach::{Attachment, Sink};
use crate::container::{Folders, Lock, Record, Roots, State, Status, make_folder};
use crate::events::Event;
use crate::facts;
use crate::log::LogQuery;
use crate::monitor::{self, Job, Message};
use crate::policy::{self, ImageSays, Plan, Share};
use crate::range::Range;
use crate::request::CreateRequest;
use crate::{files, host_image, inspect, name, removal, sweep};
use tare_sys::time::Moment;

/// Seconds that `stop` waits where neither the caller nor the container says otherwise.
const STOP_TIMEOUT: u32 = 10;
/// How long a command waits for a monitor to finish its work after the container's death.
const PATIENCE: Duration = Duration::from_secs(10);

/// The engine: two folders and the verbs on them.
#[derive(Debug)]
pub struct Engine {
    roots: Roots,
}

/// A container that was made and not started yet.
pub struct Created {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the caller should know.
    pub warnings: Vec<String>,
    record: Record,
    plan: Plan,
    rootfs: Rootfs,
    hierarchies: Hierarchies,
    folders: Folders,
    lock: Lock,
}

/// What of the container the caller wants to have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attach {
    /// Pass our stdin on.
    pub stdin: bool,
    /// Show its stdout.
    pub stdout: bool,
    /// Show its stderr.
    pub stderr: bool,
    /// It has a terminal.
    pub tty: bool,
}

/// A container that was started.
pub enum Started {
    /// On its own; with what the caller should know.
    Detached(Vec<String>),
    /// With the caller attached.
    Attached(Attachment),
}

/// A line of `ps`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Image, as the caller wrote it.
    pub image: String,
    /// Command line.
    pub command: String,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// What it is doing, in Docker's word: `created`, `running`, `exited`.
    pub state: String,
    /// The same for people: `Up 3 minutes`, `Exited (137) 2 hours ago`.
    pub status: String,
    /// Exit code; `None` where it runs, or nobody saw it end.
    pub exit_code: Option<u8>,
    /// Killed for want of memory.
    pub oom_killed: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A line of `image ls`.
#[derive(Clone, Debug)]
pub struct ImageSummary {
    /// `sha256:…`.
    pub id: String,
    /// Repository, as people write it; empty for an image without a name.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// Bytes unpacked.
    pub size: u64,
}

impl Engine {
    /// An engine on these folders. Touches nothing yet.
    pub fn new(roots: Roots) -> Engine {
        Engine { roots }
    }

    /// Where everything is kept.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The image store.
    pub fn images(&self) -> Result<ImageStore> {
        ImageStore::open(&self.roots.state.join("images"))
    }

    /// Makes a container: checks the request, claims a name and an id range, writes it down. On failure
    /// nothing is left.
    pub fn create(&self, request: CreateRequest) -> Result<Created> {
        if !request.name.is_empty() {
            name::check(&request.name)?;
        }
        need_root()?;
        let image = self.find_image(&request)?;
        let sharing = policy::sharing(&request.host_config)?;
        let hierarchies = Hierarchies::discover()?;
        let random = random()?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut facts = facts::gather(&request, &hierarchies)?;
        facts.id = id.clone();
        let folders = self.roots.folders(&id);
        facts.files = folders.run.clone();
        let shared = self.find_shared(&sharing, &mut facts)?;
        if matches!(sharing.user, Share::Host) {
            tare_runtime::exe::make_read_only()?;
        }

        let lock = folders.make().map_err(crate::container::explain_full)?;
        // From here on there is something to undo.
        let mut undo = Undo { roots: &self.roots, id: id.clone(), name: None, range: None, armed: true };
        let range = match (&sharing.user, shared) {
            (Share::Private, _) => Some(Range::claim(
                &self.roots.run,
                &id,
                u32::from_le_bytes([random[4], random[5], random[6], random[7]]),
            )?),
            (Share::Container(_), Some(base)) => Some(Range::join(&self.roots.run, base, &id)?),
            _ => None,
        };
        facts.base = range.as_ref().map(|range| range.base);
        undo.range = range;
        let plan = policy::plan(&request, &image.says, &facts)?;
        let name = self.claim_name(&request.name, &id, &random)?;
        undo.name = Some(name.clone());
        let parent = match request.host_config.cgroup_parent.as_str() {
            "" => Path::new("/tare"),
            parent => Path::new(parent),
        };
        let stop_signal =
            request.config.stop_signal.as_deref().or(image.stop_signal.as_deref()).unwrap_or("SIGTERM");
        let record = Record {
            name: name.clone(),
            created: Moment::now().to_string(),
            image_id: image.id,
            layers: image.layers,
            command: policy::command(&request.config, &image.says),
            base: facts.base,
            cgroup: Path::new("/").join(parent).join(&id),
            stop_signal: tare_sys::signal::number(stop_signal).ok_or_else(|| {
                Error::new(Kind::Usage, format!("--stop-signal {stop_signal}: there is no such signal"))
                    .hint("use a name such as SIGTERM, or a number")
            })?,
            id: id.clone(),
            request,
        };
        let rootfs = self.rootfs(&record, &folders)?;
        self.write_files(&record, &folders)?;
        folders.write_record(&record).map_err(crate::container::explain_full)?;
        undo.armed = false;
        self.emit(&Event::container(&record, "create"));
        Ok(Created {
            id,
            name,
            warnings: plan.warnings.clone(),
            record,
            plan,
            rootfs,
            hierarchies,
            folders,
            lock,
        })
    }

    /// Starts it. On failure nothing of the container is left.
    pub fn start(&self, created: Created, attach: Attach) -> Result<Started> {
        let attached = attach.stdin || attach.stdout || attach.stderr;
        let Created { record, plan, rootfs, hierarchies, folders, lock, .. } = created;
        let filter = match plan.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
            Some(profile) => match seccomp::compile(profile) {
                Ok(filter) => Some(filter),
                Err(err) => {
                    removal::discard(&self.roots, &record);
                    return Err(err.context("compile the seccomp profile"));
                }
            },
            None => None,
        };
        let (mut stdin_reader, mut stdin_writer) = (None, None);
        if record.request.config.open_stdin && !attach.tty {
            let (reader, writer) =
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")?;
            (stdin_reader, stdin_writer) = (Some(reader), Some(writer));
        }
        // A detached container with -i keeps its stdin open, so that somebody can attach to it later.
        let kept_stdin = if attach.stdin { None } else { stdin_writer.take() };
        let size = attach.tty.then(|| tare_sys::tty::size(rustix::stdio::stdin())).flatten();
        let job = Job {
            roots: self.roots.clone(),
            folders,
            record,
            plan,
            rootfs,
            filter,
            hierarchies,
            lock,
            stdin: stdin_reader,
            kept_stdin,
            terminal_size: size,
            attached,
        };
        let stdin = rustix::stdio::stdin();
        let raw = if attached && attach.tty && rustix::termios::isatty(stdin) {
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
            channel,
            pidfd,
            stdin,
            terminal,
            show: [attach.stdout, attach.stderr],
            warnings,
            raw,
        }))
    }

    /// The containers, the newest first; only those that run unless `all`.
    pub fn list(&self, all: bool) -> Result<Vec<Summary>> {
        sweep::sweep(&self.roots)?;
        let mut list = Vec::new();
        for id in self.roots.ids()? {
            let folders = self.roots.folders(&id);
            // One that is just being made or removed is not there yet, or no more.
            let (Ok(record), Ok(status)) = (folders.record(), folders.status()) else { continue };
            let status = status.unwrap_or_else(Status::created);
            if !all && status.state != State::Running {
                continue;
            }
            let seconds = |text: &str| Moment::parse(text).map_or(0, Moment::seconds);
            list.push(Summary {
                name: record.name,
                image: record.request.image().to_owned(),
                command: quoted(&record.command),
                created: seconds(&record.created),
                state: status.state.to_string(),
                status: status.in_words(Moment::now()),
                exit_code: status.exit_code.filter(|_| status.state == State::Exited),
                oom_killed: status.oom_killed,
                labels: record.request.config.labels,
                id,
            });
        }
        list.sort_by_key(|summary| std::cmp::Reverse(summary.created));
        Ok(list)
    }

    /// Everything about a container, in Docker's shape.
    pub fn inspect(&self, container: &str) -> Result<serde_json::Value> {
        let folders = self.find(container)?;
        inspect::container(&self.roots, &folders)
    }

    /// Sends a signal to its PID 1.
    pub fn kill(&self, container: &str, signal: i32) -> Result<()> {
        let folders = self.find(container)?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        let pidfd = status.process().ok_or_else(|| not_running(container))?;
        process::signal(pidfd.as_fd(), signal)?;
        self.emit(&Event::container(&folders.record()?, "kill").with("signal", signal));
        if signal == 9 {
            self.wait_until_gone(pidfd.as_fd(), &folders)?;
        }
        Ok(())
    }

    /// Asks it to stop, and kills it after `timeout` seconds. One that has ended is no error.
    pub fn stop(&self, container: &str, signal: Option<i32>, timeout: Option<u32>) -> Result<()> {
        let folders = self.find(container)?;
        let record = folders.record()?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        let Some(pidfd) = status.process() else { return Ok(()) };
        let signal = signal.unwrap_or(record.stop_signal);
        process::signal(pidfd.as_fd(), signal)?;
        self.emit(&Event::container(&record, "kill").with("signal", signal));
        let timeout = timeout.or(record.request.config.stop_timeout).unwrap_or(STOP_TIMEOUT);
        if !ends_within(pidfd.as_fd(), Duration::from_secs(timeout.into()))? {
            process::signal(pidfd.as_fd(), 9)?;
            self.emit(&Event::container(&record, "kill").with("signal", 9));
        }
        self.wait_until_gone(pidfd.as_fd(), &folders)?;
        self.emit(&Event::container(&record, "stop"));
        Ok(())
    }

    /// Removes it; with `force` even when it runs.
    pub fn remove(&self, container: &str, force: bool) -> Result<()> {
        let folders = match self.find(container) {
            // It is not there, which is what was wanted: many a script begins with `rm -f`.
            Err(err) if force && err.kind() == Kind::NotFound => return Ok(()),
            found => found?,
        };
        let process = folders.status().ok().flatten().and_then(|status| status.process());
        if let Some(pidfd) = process {
            if !force {
                return Err(Error::new(Kind::Conflict, format!("remove {container}: it is running"))
                    .hint(format!("stop it first (`tare stop {container}`), or use --force")));
            }
            process::signal(pidfd.as_fd(), 9)?;
            self.wait_until_gone(pidfd.as_fd(), &folders)?;
        }
        self.wait_until_settled(&folders)?;
        let _lock = folders.lock_or_make().doing(|| format!("remove {container}"))?;
        match folders.record() {
            Ok(record) => removal::discard(&self.roots, &record),
            // Removed by its monitor meanwhile, or damaged: either way its folder goes.
            Err(_) => {
                removal::move_folder(&self.roots, &folders.id);
                removal::empty(&self.roots, &folders.id);
            }
        }
        Ok(())
    }

    /// Prints its output.
    pub fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<()> {
        let folders = self.find(container)?;
        // The monitor holds the lock until the last line is written.
        let mut running = || matches!(folders.lock(), Ok(None));
        crate::log::print(&folders.log(), query, &mut running, out, err)
    }

    /// About the host and the engine, in Docker's words.
    pub fn info(&self) -> Result<serde_json::Value> {
        let containers = self.list(true)?;
        let images = self.images()?.list()?.len();
        Ok(facts::info(&self.roots, &containers, images))
    }

    /// Imports a root file system archive as an image; answers its id.
    pub fn import_image(
        &self,
        archive: Box<dyn Read>,
        name: &str,
        changes: &[String],
        message: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<String> {
        if name == host_image::NAME || name == "host:latest" {
            return Err(Error::new(Kind::Usage, "the name \"host\" is the built-in image")
                .hint("choose another name"));
        }
        need_root()?;
        make_folder(&self.roots.state, 0o700)?;
        let reference = Reference::parse(name)?;
        let id = crate::image::import(&self.images()?, archive, &reference, changes, message, progress)?;
        self.emit(&Event::image("import", &id, &reference.to_string()));
        Ok(id)
    }

    /// The images.
    pub fn list_images(&self) -> Result<Vec<ImageSummary>> {
        crate::image::list(&self.images()?)
    }

    /// Takes a name away, and the image with its last name; answers what was done, a line each.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Vec<String>> {
        sweep::sweep(&self.roots)?;
        let store = self.images()?;
        let id = store.resolve(name)?.image_id;
        let lines = crate::image::remove(&store, &self.roots, name, force)?;
        for line in &lines {
            match line.split_once(": ") {
                Some(("Untagged", name)) => self.emit(&Event::image("untag", &id, name)),
                Some(("Deleted", deleted)) if deleted == id => self.emit(&Event::image("delete", &id, &id)),
                _ => {}
            }
        }
        Ok(lines)
    }

    fn find(&self, container: &str) -> Result<Folders> {
        sweep::sweep(&self.roots)?;
        Ok(self.roots.folders(&self.roots.find(container)?))
    }

    /// Waits until a process that was told to end has ended, and that is written down.
    fn wait_until_gone(&self, pidfd: std::os::fd::BorrowedFd<'_>, folders: &Folders) -> Result<()> {
        ends_within(pidfd, PATIENCE)?;
        self.wait_until_settled(folders)
    }

    /// Waits until nobody is in charge: the monitor has written down the end and cleaned up.
    fn wait_until_settled(&self, folders: &Folders) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match folders.lock() {
                Ok(None) => {}
                Ok(Some(_)) => break,
                // Removed by its monitor.
                Err(err) if err.kind() == Kind::NotFound => break,
                Err(err) => return Err(err),
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    Kind::Kernel,
                    format!("wait for the monitor of {}: it does not finish", folders.id),
                )
                .hint(
                    "a process in an uninterruptible wait (a dead disk or network file system) holds it up",
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        sweep::sweep(&self.roots)
    }

    fn claim_name(&self, asked: &str, id: &str, random: &[u8; 32]) -> Result<String> {
        if !asked.is_empty() {
            return match self.roots.claim_name(asked, id) {
                Err(err) if err.kind() == Kind::Conflict => {
                    // Its owner may be one that was killed half way.
                    sweep::sweep(&self.roots)?;
                    self.roots.claim_name(asked, id)
                }
                result => result,
            }
            .map(|()| asked.to_owned());
        }
        for attempt in 0.. {
            let start = 8 + (attempt as usize * 4) % 24;
            let name = name::make_up(
                [random[start], random[start + 1], random[start + 2], random[start + 3]],
                attempt,
            );
            match self.roots.claim_name(&name, id) {
                Err(err) if err.kind() == Kind::Conflict && attempt < 5 => continue,
                // Every made-up name is taken: the id is a name as well.
                Err(err) if err.kind() == Kind::Conflict => break,
                result => return result.map(|()| name),
            }
        }
        let name: String = id.chars().take(12).collect();
        self.roots.claim_name(&name, id).map(|()| name)
    }

    fn find_image(&self, request: &CreateRequest) -> Result<Found> {
        let config = &request.config;
        let shell = Some(vec!["/bin/sh".to_owned()]);
        if !request.host_config.rootfs.is_empty() {
            let folder = &request.host_config.rootfs;
            if !Path::new(folder).is_dir() {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("use {folder} as the root file system: no such folder"),
                ));
            }
            return Ok(Found { says: ImageSays { cmd: shell, ..ImageSays::default() }, ..Found::default() });
        }
        if config.image == host_image::NAME {
            return Ok(Found { says: ImageSays { cmd: shell, ..ImageSays::default() }, ..Found::default() });
        }
        let record = self.images()?.resolve(&config.image)?;
        let list = |list: Vec<String>| (!list.is_empty()).then_some(list);
        let image = record.config;
        Ok(Found {
            id: record.image_id,
            layers: record.layers,
            stop_signal: (!image.stop_signal.is_empty()).then_some(image.stop_signal),
            says: ImageSays {
                env: image.env,
                entrypoint: list(image.entrypoint),
                cmd: list(image.cmd),
                user: image.user,
                working_dir: image.working_dir,
            },
        })
    }

    /// Finds the other container whose namespaces are shared: writes their paths into the facts, and answers
    /// the base of its id range.
    fn find_shared(&self, sharing: &policy::Sharing, facts: &mut policy::Facts) -> Result<Option<u32>> {
        let Share::Container(other) = &sharing.user else { return Ok(None) };
        let what = || format!("share namespaces with the container {other}");
        let folders = self.find(other).doing(what)?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_none() {
            return Err(not_running(other).context(what()));
        }
        let base = folders.record()?.base;
        let namespace = |name: &str| PathBuf::from(format!("/proc/{}/ns/{name}", status.pid));
        for (share, name) in [(&sharing.network, "net"), (&sharing.ipc, "ipc"), (&sharing.pid, "pid")] {
            if matches!(share, Share::Container(_)) {
                facts.joined.push((name, namespace(name)));
            }
        }
        if base.is_some() {
            facts.joined.push(("user", namespace("user")));
        }
        Ok(base)
    }

    fn rootfs(&self, record: &Record, folders: &Folders) -> Result<Rootfs> {
        let host = &record.request.host_config;
        if !host.rootfs.is_empty() {
            return Ok(Rootfs::Directory(PathBuf::from(&host.rootfs)));
        }
        if record.image_id.is_empty() {
            return Ok(Rootfs::Host { veil: host_image::veil(Path::new("/"))? });
        }
        let images = self.images()?;
        Ok(Rootfs::Layers {
            lower: std::iter::once(images.mount_points())
                .chain(record.layers.iter().map(|layer| images.layer_path(layer)))
                .collect(),
            upper: folders.make_writable_layer()?,
            volatile: host.auto_remove,
        })
    }

    fn write_files(&self, record: &Record, folders: &Folders) -> Result<()> {
        let request = &record.request;
        let hostname = policy::hostname(request, &record.id);
        let host_resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let config = &request.config;
        for (name, text) in [
            ("hosts", files::hosts(&hostname, &config.domainname, &request.host_config.extra_hosts)),
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", files::resolv_conf(&host_resolv, &request.host_config)),
        ] {
            let path = folders.run.join(name);
            write_owned(&path, &text, record.base).map_err(crate::container::explain_full)?;
        }
        Ok(())
    }
}

/// What is known of an image.
#[derive(Default)]
struct Found {
    id: String,
    layers: Vec<String>,
    stop_signal: Option<String>,
    says: ImageSays,
}

/// Takes back what `create` claimed, unless it came to its end.
struct Undo<'a> {
    roots: &'a Roots,
    id: String,
    name: Option<String>,
    range: Option<Range>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(name) = &self.name {
            self.roots.release_name(name, &self.id);
        }
        if let Some(range) = &self.range {
            range.release(&self.id);
        }
        removal::move_folder(self.roots, &self.id);
        removal::empty(self.roots, &self.id);
    }
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
    std::fs::File::from(file).write_all(text.as_bytes()).doing(what)
}

/// A command on one line, as Docker shows it: a word with a space in it in quotes.
fn quoted(command: &[String]) -> String {
    let words =
        command.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { word.clone() });
    words.collect::<Vec<_>>().join(" ")
}

fn not_running(container: &str) -> Error {
    Error::new(Kind::Conflict, format!("the container {container} is not running"))
        .hint("`tare ps` lists those that are")
}

pub(crate) fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(Kind::Permission, "make a container: tare needs root for this")
        .hint("run the command with sudo"))
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).doing(|| "getrandom()")?;
    Ok(bytes)
}

fn ends_within(pidfd: std::os::fd::BorrowedFd<'_>, time: Duration) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno).doing(|| "poll(pidfd)"),
        }
    }
}
