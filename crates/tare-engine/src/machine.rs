//! An ordinary user's own machine: one user namespace in which the user is root, with mounts and a network of its own.
//!
//! Every command of that user enters it before the engine begins, and from there on works as it does for root:
//! bridges, rules, overlays, other owners' files. One process, the holder, keeps it while anybody is in it.
//!
//! ```text
//! command ─▶ enter ─▶ machine: holder, alive? ──yes──▶ setns ─▶ execute ourselves again ─▶ engine
//!                        │ no                            ▲
//!                        └─▶ make: clone(user) ─▶ id maps ─▶ network, mounts ─▶ holder: see `holder`
//!
//! <run>/machine          who holds it (pid, beginning); flock(2)ed, shared, by all who are in it
//! <run>/machine.lock     flock(2)ed while one is made
//! <run>/machine.sock     where the holder is asked for sockets of the host's network
//! <run>/pasta.log        what pasta(1) said
//! ```
//!
//! A holder that was killed loses nothing that runs: the next command makes a new one in the namespaces of a container's
//! monitor, or else of a container.

mod holder;
mod make;
mod pasta;
mod subordinate;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Pid;
use tare_sys::mount::{Change, Detached, attr};
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::container::Roots;
use crate::monitor::adopt;

pub use holder::{NAME as HOLDER, main as holder_main};

/// The variable that tells a command that it is inside already.
const MARK: &str = "TARE_MACHINE";
/// Its value where the command has kept the host's network, for a container that is to have that.
const HOSTS_NETWORK: &str = "host-network";
/// The file with who holds the machine.
const FILE: &str = "machine";
/// The holder's number of the file that stands for the machine's network.
const NETWORK_FD: i32 = 3;

/// Which network the command is to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The machine's own.
    Own,
    /// The host's, for a container with `--network host`.
    Host,
}

/// For an ordinary user: goes on in the user's machine, by executing this program again there. For root, and who is
/// there already (see [`recognize`]), it does nothing. `warn` is told what the user should know of a machine that was just
/// made.
pub fn enter(roots: &Roots, network: impl FnOnce() -> Network, warn: &dyn Fn(&str)) -> Result<()> {
    if !rootless::is_outside() {
        return Ok(());
    }
    let folder = std::env::current_dir().ok();
    make_run_folder(&roots.run)?;
    let (machine, doors) = Machine::find_or_make(roots, warn)?;
    let network = network();
    doors.enter(network).map_err(|err| err.context("enter the user's machine"))?;
    // To enter a mount namespace is to be at its root.
    if let Some(folder) = folder {
        let _ = std::env::set_current_dir(folder);
    }
    let mark = if network == Network::Host { HOSTS_NETWORK } else { "own" };
    let env = adopt::environment()
        .into_iter()
        .filter(|pair| !pair.to_bytes().starts_with(MARK.as_bytes()))
        .chain(std::ffi::CString::new(format!("{MARK}={mark}")))
        .collect::<Vec<_>>();
    let args: Vec<_> = std::env::args_os()
        .filter_map(|word| std::ffi::CString::new(std::os::unix::ffi::OsStringExt::into_vec(word)).ok())
        .collect();
    // Kept over the exec, and by the monitors that come from it: whoever has it open is in the machine.
    machine.keep_over_exec()?;
    let errno = match own_binary() {
        Some(file) => process::exec_file(&file, &args, &env),
        None => process::exec(adopt::SELF, &args, &env),
    };
    Err(Error::syscall("execve(our own binary, in the user's machine)", errno))
}

/// For a command that starts containers of either network, where an ordinary user has one with the host's: goes on in each, by
/// a process of its own, and answers the higher exit code. `None`: one network is enough, and the caller is to [`enter`].
pub fn enter_each(roots: &Roots, warn: &dyn Fn(&str)) -> Result<Option<u8>> {
    if !rootless::is_outside() {
        return Ok(None);
    }
    let ids = roots.ids()?;
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    if network_of(roots, &ids) == Network::Own {
        return Ok(None);
    }
    let mut highest = 0;
    for network in [Network::Own, Network::Host] {
        let Some(child) = process::fork()? else {
            return enter(roots, || network, warn).map(|()| None);
        };
        let child = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty())
            .doing(|| "pidfd_open(our own child)")?;
        highest = highest.max(process::wait(child.as_fd())?.code());
    }
    Ok(Some(highest))
}

/// Our own binary as it is seen in this machine, at a read-only place. Root of a container here can be the owner of the
/// file, and must not be able to write to it: see [`tare_runtime::exe`].
fn own_binary() -> Option<OwnedFd> {
    let exe = "/proc/self/exe";
    let path = fs::read_link(exe).ok()?;
    let here = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let (here_is, is) = (rustix::fs::fstat(&here).ok()?, rustix::fs::stat(exe).ok()?);
    if (here_is.st_dev, here_is.st_ino) != (is.st_dev, is.st_ino) {
        return None;
    }
    let copy = Detached::clone_fd(&here, false).ok()?;
    copy.change(&Change { set: attr::RDONLY, ..Change::default() }).ok()?;
    Some(copy.into())
}

/// Marks the machine as used for as long as this process lives: for a monitor that was executed.
pub fn stay(run: &Path) {
    if !rootless::is_on() {
        return;
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(run.join(FILE), flags, Mode::empty()) {
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        std::mem::forget(file);
    }
}

/// The network that a command has to be in that starts these containers.
pub fn network_of(roots: &Roots, names: &[&str]) -> Network {
    let mode = |name: &&str| -> Option<String> {
        let record = roots.folders(&roots.find(name).ok()?).record().ok()?;
        Some(record.request.host_config.network_mode)
    };
    match names.iter().filter_map(mode).any(|mode| mode == "host") {
        true => Network::Host,
        false => Network::Own,
    }
}

/// Refuses a container whose network this command is not in.
pub fn check_network(mode: &str) -> Result<()> {
    match (rootless::is_on(), is_in_hosts_network(), mode) {
        (true, false, "host") => Err(Error::new(
            Kind::Unsupported,
            "give the container the host's network: this command is in your machine's, with other containers",
        )
        .hint("start it by a command of its own: tare start NAME")),
        (true, true, mode) if !matches!(mode, "host" | "none") => Err(Error::new(
            Kind::Unsupported,
            format!("give the container the network {mode:?}: this command has kept the host's"),
        )
        .hint("start it by a command of its own: tare start NAME")),
        _ => Ok(()),
    }
}

/// What keeps the machine from the host's network, if this is one and anything does.
pub fn obstacle(run: &Path) -> Option<String> {
    if !rootless::is_on() {
        return None;
    }
    let err = pasta::problem(run)?;
    let hint = err.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
    Some(format!("containers on a network reach each other, but nothing outside: {err}{hint}"))
}

/// Finds out whether this process is in a user's machine; to be asked by each program of ours that an entered command
/// executes. Costs root one geteuid(2).
pub fn recognize() {
    // The mark alone says nothing: root's environment may have it as well.
    if std::env::var_os(MARK).is_some() && !is_initial("/proc/self/uid_map") {
        rootless::set();
    } else if !rustix::process::geteuid().is_root() {
        rootless::set_outside();
    }
}

/// Whether this process has kept the host's network: then it may not touch the machine's.
pub fn is_in_hosts_network() -> bool {
    rootless::is_on() && std::env::var_os(MARK).is_some_and(|mark| mark == HOSTS_NETWORK)
}

/// The initial user namespace maps all ids to themselves (user_namespaces(7)).
fn is_initial(file: &str) -> bool {
    tare_sys::path::read_short(file).is_ok_and(|text| text.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// The ids that the machine has, as id maps: `(first, count)`.
pub fn ids(file: &str) -> Result<Vec<(u32, u32)>> {
    let text = tare_sys::path::read_short(file)?;
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.nth(1)?.ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Where an ordinary user's things are kept (XDG Base Directory Specification).
pub fn default_roots() -> Roots {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let uid = rustix::process::geteuid().as_raw();
    let state = folder("XDG_DATA_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from(format!("/var/tmp/tare-{uid}")));
    let session = || Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|path| path.is_dir());
    let run = match folder("XDG_RUNTIME_DIR").or_else(session) {
        Some(run) => run.join("tare"),
        None => PathBuf::from(format!("/tmp/tare-{uid}")),
    };
    Roots { state: state.join("tare"), run }
}

/// Makes the run folder, and makes sure that it is the user's alone: it may lie in a folder where all may write.
fn make_run_folder(run: &Path) -> Result<()> {
    let what = || format!("make {}", run.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(run).doing(what)?;
    let meta = fs::symlink_metadata(run).doing(what)?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(Error::new(
            Kind::Permission,
            format!("use {}: it is not a folder that you alone can write to", run.display()),
        )
        .hint("log in so that XDG_RUNTIME_DIR is set, or give another folder with --run-root"));
    }
    Ok(())
}

/// The machine of one run folder, open and marked as used.
struct Machine {
    file: OwnedFd,
}

/// The ways into it.
struct Doors {
    /// The process that holds it, in its user and mount namespaces.
    holder: OwnedFd,
    network: File,
}

impl Machine {
    fn find_or_make(roots: &Roots, warn: &dyn Fn(&str)) -> Result<(Machine, Doors)> {
        let path = roots.run.join(FILE);
        let what = || format!("open {}", path.display());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).doing(what)?;
        let machine = Machine { file };
        rustix::fs::flock(&machine.file, FlockOperation::LockShared).doing(|| "flock(machine)")?;
        if let Some(doors) = machine.doors() {
            return Ok((machine, doors));
        }
        let making = rustix::fs::open(roots.run.join("machine.lock"), flags, Mode::RUSR | Mode::WUSR)
            .doing(|| "open machine.lock")?;
        rustix::fs::flock(&making, FlockOperation::LockExclusive).doing(|| "flock(machine.lock)")?;
        if let Some(doors) = machine.doors() {
            return Ok((machine, doors));
        }
        let pid = make::make(roots, warn)?;
        machine.write(pid)?;
        let doors = machine.doors().ok_or_else(|| {
            Error::new(Kind::Kernel, "make the user's machine: the process that holds it was killed")
                .hint("try again")
        })?;
        Ok((machine, doors))
    }

    /// The ways into it; `None`: nobody holds it any more, or its holder is just dying.
    fn doors(&self) -> Option<Doors> {
        let mut text = [0; 64];
        let length = rustix::io::pread(&self.file, &mut text[..], 0).ok()?;
        let text = str::from_utf8(&text[..length]).ok()?;
        let mut words = text.split_whitespace();
        let (pid, began) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let holder =
            rustix::process::pidfd_open(Pid::from_raw(pid)?, rustix::process::PidfdFlags::empty()).ok()?;
        // Opened as who we are on the host; from inside, the holder may be out of reach.
        let network = File::open(format!("/proc/{pid}/fd/{NETWORK_FD}")).ok()?;
        (process::began(pid) == Some(began)).then_some(Doors { holder, network })
    }

    fn write(&self, pid: i32) -> Result<()> {
        let text = format!("{pid} {}\n", process::began(pid).unwrap_or(0));
        rustix::fs::ftruncate(&self.file, 0).doing(|| "truncate(machine)")?;
        rustix::io::pwrite(&self.file, text.as_bytes(), 0).map(drop).doing(|| "write(machine)")
    }

    fn keep_over_exec(&self) -> Result<()> {
        rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::empty()).doing(|| "fcntl(machine, F_SETFD)")
    }
}

impl Doors {
    fn enter(&self, network: Network) -> Result<()> {
        process::enter(self.holder.as_fd(), namespace::USER | namespace::MOUNT)?;
        match network {
            Network::Own => process::enter(self.network.as_fd(), namespace::NET),
            Network::Host => Ok(()),
        }
    }
}

/// Reads a small file of the user's own, or nothing.
fn read_or_nothing(path: &Path) -> String {
    let mut text = String::new();
    let _ = File::open(path).and_then(|file| file.take(1 << 20).read_to_string(&mut text));
    text
}
