//! `checkpoint` and `restore`: a running container saved to files, and made of them again, by CRIU.
//!
//! ```text
//! checkpoint ──▶ criu: freezes, saves, kills ──▶ images/   (--leave-running: lets go on)
//!                                                   │
//! restore ──▶ folder, cgroup ──▶ criu: makes, lets go on
//! ```
//!
//! criu (criu(8)) is a program of its own, 3.11 or newer, and runs as root. What it writes is its own affair; beside
//! it lies `descriptors.json` (`checkpoint/external.rs`). Whoever can change the files decides what the restored
//! processes may do: their capabilities and filters come from there, not from `config.json`.

mod cgroup_tree;
mod criu;
mod external;
mod restore;
mod wire;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tare_sys::process::namespace;
use tare_sys::{Context, Error, Kind, Result};

use super::{Container, Status};
use criu::{Criu, Moment, Request, Setup};
use wire::Message;

/// Fields of `criu_opts`, those that this module sets.
mod field {
    pub const IMAGES_DIR_FD: u32 = 1;
    pub const PID: u32 = 2;
    pub const LEAVE_RUNNING: u32 = 3;
    pub const EXT_UNIX_SK: u32 = 4;
    pub const TCP_ESTABLISHED: u32 = 5;
    pub const EVASIVE_DEVICES: u32 = 6;
    pub const SHELL_JOB: u32 = 7;
    pub const FILE_LOCKS: u32 = 8;
    pub const LOG_LEVEL: u32 = 9;
    pub const LOG_FILE: u32 = 10;
    pub const PAGE_SERVER: u32 = 11;
    pub const NOTIFY_SCRIPTS: u32 = 12;
    pub const ROOT: u32 = 13;
    pub const PARENT_IMG: u32 = 14;
    pub const TRACK_MEM: u32 = 15;
    pub const AUTO_DEDUP: u32 = 16;
    pub const WORK_DIR_FD: u32 = 17;
    pub const LINK_REMAP: u32 = 18;
    pub const CG_ROOT: u32 = 25;
    pub const RST_SIBLING: u32 = 26;
    pub const MANAGE_CGROUPS_MODE: u32 = 34;
    pub const EMPTY_NS: u32 = 38;
    pub const FREEZE_CGROUP: u32 = 44;
    pub const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub const LAZY_PAGES: u32 = 48;
    pub const ORPHAN_PTS_MASTER: u32 = 50;
    pub const TCP_CLOSE: u32 = 52;
    pub const LSM_PROFILE: u32 = 53;
    pub const LSM_MOUNT_CONTEXT: u32 = 63;
    pub const NETWORK_LOCK: u32 = 64;
}

/// What is done about cgroups (`criu_cg_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Nothing is saved; what is restored is in the new container's cgroup, and in none below it.
    Ignore = 0,
    /// Those below the container's are made where they are missing, and only these get their limits.
    #[default]
    Soft = 3,
    /// All get their limits back as they were.
    Full = 4,
    /// As `Full`; and none may be there already.
    Strict = 5,
}

/// How packets are held back while connections are saved (`criu_network_lock_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLock {
    /// By iptables(8).
    Iptables = 1,
    /// By nftables.
    Nftables = 2,
    /// Not at all: somebody else does.
    Skip = 3,
}

/// What `checkpoint` and `restore` are both told.
#[derive(Clone, Debug, Default)]
pub struct CriuOptions {
    /// The folder of the saved files, absolute.
    pub images: PathBuf,
    /// The folder of criu's logs, absolute; else that of the saved files.
    pub work: Option<PathBuf>,
    /// Open TCP connections are saved and restored.
    pub tcp_established: bool,
    /// They are closed.
    pub tcp_close: bool,
    /// Those that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Unix sockets may have their other end outside.
    pub ext_unix_sk: bool,
    /// Its session may be another's, and its terminal the caller's.
    pub shell_job: bool,
    /// File locks are saved and restored.
    pub file_locks: bool,
    /// What of earlier images is not needed any more is punched out of them.
    pub auto_dedup: bool,
    /// Memory is fetched when it is used.
    pub lazy_pages: bool,
    /// What is done about cgroups.
    pub cgroups: CgroupsMode,
    /// How packets are held back; `None`: as criu is configured.
    pub network_lock: Option<NetworkLock>,
}

/// What only `checkpoint` is told.
#[derive(Debug, Default)]
pub struct CheckpointOptions {
    /// What `restore` is told as well.
    pub criu: CriuOptions,
    /// Images to which these add, relative to these.
    pub parent: Option<PathBuf>,
    /// The container goes on.
    pub leave_running: bool,
    /// Memory alone is saved, and the container goes on.
    pub pre_dump: bool,
    /// Open files without a name get one.
    pub link_remap: bool,
    /// Address and port of the server that memory goes to; with `lazy_pages`, at which it is fetched.
    pub page_server: Option<(String, u16)>,
    /// Gets a zero byte when memory can be fetched.
    pub status: Option<File>,
}

/// What only `restore` is told.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// What `checkpoint` is told as well.
    pub criu: CriuOptions,
    /// The bundle's folder, absolute.
    pub bundle: PathBuf,
    /// Whom to send our side of the terminal.
    pub console_socket: Option<PathBuf>,
    /// Where to write the pid of the container's process.
    pub pid_file: Option<PathBuf>,
    /// Another profile of the security module: `apparmor:NAME` or `selinux:LABEL`.
    pub lsm_profile: Option<String>,
    /// Another SELinux context for its mounts.
    pub lsm_mount_context: Option<String>,
}

impl Container {
    /// Saves it, and ends and deletes it unless it shall go on. Answers with what could not be removed.
    ///
    /// Errors: [`Kind::Conflict`] for one that does not run, [`Kind::Unsupported`] without criu, and whatever criu
    /// cannot save; then the container goes on.
    pub fn checkpoint(self, options: &CheckpointOptions) -> Result<Vec<String>> {
        needs_root("checkpoint a container")?;
        let lock = self.folder.lock()?;
        let status = self.status()?;
        if !matches!(status, Status::Running | Status::Paused) {
            let what = format!("container cannot be checkpointed in {} state", status.word());
            return Err(Error::new(Kind::Conflict, what));
        }
        let images = Images::make(&options.criu, "dump.log")?;
        let message = self.dump_options(options, &images)?;
        let request = if options.pre_dump { Request::PreDump } else { Request::Dump };
        let mut status_file = options.status.as_ref();
        let at = &mut |moment: Moment<'_>| match status_file.take_if(|_| moment.name == "status-ready") {
            Some(mut file) => file.write_all(&[0]).doing(|| "write to --status-fd"),
            None => Ok(()),
        };
        Criu::start(&Setup::default())?.perform(request, &message, &images.log, at)?;
        drop(lock);
        match options.leave_running || options.pre_dump {
            true => Ok(Vec::new()),
            false => self.delete(true),
        }
    }

    fn dump_options(&self, options: &CheckpointOptions, images: &Images) -> Result<Message> {
        let record = self.record()?;
        let (spec, cgroup) = (self.spec()?, self.cgroup()?);
        let mut message = images
            .options(Message::default(), &options.criu)
            .number(field::PID, u64::from(record.pid.unsigned_abs()))
            .bytes(field::ROOT, record.rootfs.as_os_str().as_encoded_bytes())
            .switch(field::LEAVE_RUNNING, options.leave_running)
            .switch(field::LINK_REMAP, options.link_remap);
        if let Some(parent) = &options.parent {
            check_parent(&options.criu.images, parent)?;
            message = message.bytes(field::PARENT_IMG, parent.as_os_str().as_encoded_bytes());
        }
        if options.pre_dump || options.parent.is_some() {
            message = message.switch(field::TRACK_MEM, true);
        }
        if let Some((address, port)) = &options.page_server {
            let server = Message::default().bytes(1, address).number(2, u64::from(*port));
            message = message.bytes(field::PAGE_SERVER, server);
        }
        // By the freezer nothing can fork away while criu looks; where there is none, it stops one after another.
        let paths = cgroup.paths();
        if let Some(path) = paths.get("freezer").or(paths.get("")) {
            message = message.bytes(field::FREEZE_CGROUP, path);
        }
        message = external::dump_namespaces(message, &spec)?;
        if !options.pre_dump {
            let notify = self.folder.notify();
            message = external::dump_mounts(message, record.pid, &spec, &record.bundle, &cgroup, &notify)?;
            message = external::dump_streams(message, record.pid, &options.criu.images)?;
        }
        Ok(message)
    }
}

/// Open folders of images and of logs.
struct Images {
    images: File,
    work: Option<File>,
    /// Where the log will be.
    log: PathBuf,
    name: &'static str,
}

impl Images {
    /// Makes the folders where they are missing.
    fn make(options: &CriuOptions, log: &'static str) -> Result<Images> {
        make_folder(&options.images)?;
        Images::open(options, log)
    }

    fn open(options: &CriuOptions, log: &'static str) -> Result<Images> {
        let open = |path: &Path| File::open(path).doing(|| format!("open({path:?})"));
        let images =
            open(&options.images).map_err(|err| err.hint("--image-path is the folder of the saved files"))?;
        if let Some(work) = &options.work {
            make_folder(work)?;
        }
        let work = options.work.as_deref().map(open).transpose()?;
        let folder = options.work.as_ref().unwrap_or(&options.images);
        Ok(Images { images, work, log: folder.join(log), name: log })
    }

    /// Adds the options that a dump and a restore have in common. criu opens the folders by way of our `/proc`, so this has
    /// to live as long as it works.
    fn options(&self, message: Message, options: &CriuOptions) -> Message {
        let fd = |file: &File| u64::from(file.as_raw_fd().unsigned_abs());
        let mut message = message
            .number(field::IMAGES_DIR_FD, fd(&self.images))
            .number(field::LOG_LEVEL, 4)
            .bytes(field::LOG_FILE, self.name)
            .switch(field::NOTIFY_SCRIPTS, true)
            .switch(field::ORPHAN_PTS_MASTER, true)
            // Whoever made the interfaces makes them again, in a hook or beforehand.
            .number(field::EMPTY_NS, namespace::NET)
            .number(field::MANAGE_CGROUPS_MODE, options.cgroups as u64)
            .switch(field::TCP_ESTABLISHED, options.tcp_established)
            .switch(field::TCP_CLOSE, options.tcp_close)
            .switch(field::TCP_SKIP_IN_FLIGHT, options.tcp_skip_in_flight)
            .switch(field::EXT_UNIX_SK, options.ext_unix_sk)
            .switch(field::SHELL_JOB, options.shell_job)
            .switch(field::FILE_LOCKS, options.file_locks)
            .switch(field::AUTO_DEDUP, options.auto_dedup)
            .switch(field::LAZY_PAGES, options.lazy_pages);
        if let Some(work) = &self.work {
            message = message.number(field::WORK_DIR_FD, fd(work));
        }
        if let Some(lock) = options.network_lock {
            message = message.number(field::NETWORK_LOCK, lock as u64);
        }
        message
    }
}

fn make_folder(path: &Path) -> Result<()> {
    let make = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    make.doing(|| format!("make the folder {}", path.display()))
}

/// criu writes the parent's path into the images as it is, and says little of one that is wrong.
fn check_parent(images: &Path, parent: &Path) -> Result<()> {
    if parent.is_absolute() {
        let what = format!("invalid --parent-path {}: it must be relative", parent.display());
        return Err(
            Error::new(Kind::Usage, what).hint("for example ../before: it is relative to --image-path")
        );
    }
    let whole = images.join(parent);
    match rustix::fs::stat(&whole).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode)) {
        Ok(rustix::fs::FileType::Directory) => Ok(()),
        result => {
            let errno = result.err().unwrap_or(Errno::NOTDIR);
            Err(Error::syscall(format!("stat({whole:?})"), errno).context("invalid --parent-path"))
        }
    }
}

fn needs_root(what: &str) -> Result<()> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Error::new(Kind::Permission, format!("{what}: criu needs root"))
            .hint("containers of ordinary users cannot be saved")),
    }
}
