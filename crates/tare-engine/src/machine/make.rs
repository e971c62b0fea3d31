//! Making a user's machine.
//!
//! ```text
//! command ─▶ maker ─clone(user)─▶ holder                          maker ends; the holder is nobody's child
//!              │ id maps ──────────▶ ─clone(net)─▶ one that has the network and ends
//!              │                     its file ◀────┘
//!              │                     unshare(mounts), execute `tare-machine`
//!              ◀── ready, warnings ── pasta runs
//! ```

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tare_runtime::launch::{explain_clone, map_ids};
use tare_sys::channel::Channel;
use tare_sys::mount::Propagation;
use tare_sys::process::{self, Child, Side, namespace};
use tare_sys::{Context, Error, Kind, Result};

use super::subordinate::Maps;
use super::{NETWORK_FD, holder};
use crate::container::{Roots, Status};

/// What maker and holder say.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// The id maps are written.
    Mapped,
    /// The holder holds, and its network is there as far as it can be.
    Ready,
    /// All is done; the holder's pid, and what the user should know.
    Made(i32, Vec<String>),
    /// It could not be done.
    Failed(Error),
}

impl Word {
    pub fn send(&self, channel: &Channel) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|err| Error::new(Kind::Corrupt, err.to_string()))?;
        channel.send(&text, &[])
    }

    fn receive(channel: &Channel) -> Result<Word> {
        let mut buffer = vec![0; 16 * 1024];
        match channel.receive(&mut buffer)? {
            Some((length, _)) => serde_json::from_slice(&buffer[..length])
                .map_err(|err| Error::new(Kind::Corrupt, format!("a word of the machine's: {err}"))),
            None => {
                Err(Error::new(Kind::Kernel, "make the user's machine: its first process died on the way"))
            }
        }
    }
}

/// Makes it, or a new holder for one that has lost its own; the holder's pid. `warn` is told what the user
/// should know, once for the machine and not for each command.
pub fn make(roots: &Roots, warn: &dyn Fn(&str)) -> Result<i32> {
    let (ours, theirs) = Channel::pair()?;
    let child = match process::clone(0, None)? {
        Side::Child => {
            drop(ours);
            let word = match maker(roots) {
                Ok((pid, warnings)) => Word::Made(pid, warnings),
                Err(err) => Word::Failed(err),
            };
            let _ = word.send(&theirs);
            process::exit_now(0)
        }
        Side::Parent(child) => child,
    };
    drop(theirs);
    let word = Word::receive(&ours);
    let _ = process::wait(child.pidfd.as_fd());
    match word? {
        Word::Made(pid, warnings) => {
            warnings.iter().for_each(|warning| warn(warning));
            Ok(pid)
        }
        Word::Failed(err) => Err(err.context("make the user's machine")),
        word => Err(Error::new(Kind::Corrupt, format!("make the user's machine: unexpected {word:?}"))),
    }
}

fn maker(roots: &Roots) -> Result<(i32, Vec<String>)> {
    let (ours, theirs) = Channel::pair()?;
    let lost = Lost::find(roots);
    let first = if lost.is_some() { 0 } else { namespace::USER };
    let child = match process::clone(first, None).map_err(|err| explain(explain_clone(err)))? {
        Side::Child => {
            drop(ours);
            let Err(err) = hold(roots, &theirs, lost.as_ref());
            let _ = Word::Failed(explain(err)).send(&theirs);
            process::exit_now(1)
        }
        Side::Parent(child) => child,
    };
    drop(theirs);
    let mut warnings = Vec::new();
    if lost.is_none() {
        warnings.extend(map(&child).inspect_err(|_| {
            let _ = process::signal(child.pidfd.as_fd(), 9);
        })?);
    }
    Word::Mapped.send(&ours)?;
    match Word::receive(&ours)? {
        Word::Ready => Ok((child.pid.as_raw_nonzero().get(), warnings)),
        Word::Failed(err) => Err(err),
        word => Err(Error::new(Kind::Corrupt, format!("unexpected {word:?}"))),
    }
}

/// Writes the id maps: the user's subordinate ids where there are any and the host's programs can map them, else the
/// user's own id alone, with a word about it.
fn map(child: &Child) -> Result<Vec<String>> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let without = |why: String| {
        format!(
            "{why}: containers have one user id, root, and most images cannot be used; have root give you a range \
             (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 YOU) and install newuidmap (Debian: \
             uidmap), then end what runs and try again"
        )
    };
    let maps = Maps::of_user(uid, gid)?;
    let why = if maps.is_single() {
        "you have no subordinate ids (/etc/subuid, /etc/subgid)".to_owned()
    } else {
        match map_ids(child.pid, &maps.uids, &maps.gids) {
            Ok(()) => return Ok(Vec::new()),
            Err(err) => err.to_string(),
        }
    };
    let single = Maps::single(uid, gid)?;
    map_ids(child.pid, &single.uids, &single.gids)?;
    Ok(vec![without(why)])
}

/// The holder's first steps. Comes back only with why it cannot go on.
fn hold(roots: &Roots, channel: &Channel, lost: Option<&Lost>) -> Result<std::convert::Infallible> {
    if !matches!(Word::receive(channel)?, Word::Mapped) {
        return Err(Error::new(Kind::Corrupt, "the id maps were not written"));
    }
    if let Some(lost) = lost {
        process::enter(lost.user.as_fd(), namespace::USER)?;
    }
    let netns = match lost.and_then(|lost| lost.rest.as_ref()) {
        Some((mounts, network)) => {
            process::enter(mounts.as_fd(), namespace::MOUNT)?;
            network.try_clone().doing(|| "dup(network namespace)")?
        }
        None => {
            let network = new_network()?;
            process::unshare(namespace::MOUNT)?;
            // What the host mounts later is seen here as well, and nothing of ours is seen there.
            tare_sys::mount::set_propagation_of_all(Propagation::Slave)?;
            network
        }
    };
    rustix::process::setsid().doing(|| "setsid()")?;
    rustix::process::chdir("/").doing(|| "chdir(\"/\")")?;
    let null = crate::stdio::open_null()?;
    // Above those that are about to be replaced.
    let netns = rustix::io::fcntl_dupfd_cloexec(&netns, 10).doing(|| "fcntl(F_DUPFD_CLOEXEC)")?;
    let channel = rustix::io::fcntl_dupfd_cloexec(channel, 10).doing(|| "fcntl(F_DUPFD_CLOEXEC)")?;
    process::close_on_exec_from(3)?;
    (0..3).try_for_each(|target| process::dup_onto(null.as_fd(), target))?;
    process::dup_onto(netns.as_fd(), NETWORK_FD)?;
    process::dup_onto(channel.as_fd(), holder::CHANNEL_FD)?;
    // Executed anew, its memory belongs to the new user namespace, and so do its files below /proc.
    let words = crate::monitor::adopt::words(holder::NAME, roots, "");
    let errno = process::exec(crate::monitor::adopt::SELF, &words, &crate::monitor::adopt::environment());
    Err(Error::syscall("execve(our own binary, to hold the machine)", errno))
}

/// A new network namespace. We stay in the host's, so another process has to make it.
fn new_network() -> Result<File> {
    let (ours, theirs) = Channel::pair()?;
    let child = match process::clone(namespace::NET, None)? {
        Side::Child => {
            drop(ours);
            let word = match tare_sys::link::loopback_up() {
                Ok(()) => Word::Ready,
                Err(err) => Word::Failed(err),
            };
            let _ = word.send(&theirs);
            // Stays until the other side has opened it.
            let _ = theirs.receive(&mut [0; 8]);
            process::exit_now(0)
        }
        Side::Parent(child) => child,
    };
    drop(theirs);
    let opened = match Word::receive(&ours) {
        Ok(Word::Failed(err)) | Err(err) => Err(err),
        Ok(_) => {
            let path = format!("/proc/{}/ns/net", child.pid.as_raw_nonzero());
            File::open(&path).doing(|| format!("open({path:?})"))
        }
    };
    drop(ours);
    let _ = process::wait(child.pidfd.as_fd());
    opened
}

/// The namespaces of a machine whose holder was killed, while containers run in it.
struct Lost {
    user: File,
    /// Mounts and network; those a monitor has alone.
    rest: Option<(File, File)>,
}

impl Lost {
    fn find(roots: &Roots) -> Option<Lost> {
        let alive = roots.ids().ok()?.into_iter().filter_map(|id| {
            let status: Status = roots.folders(&id).status().ok()??;
            status.process().map(|_| status.pid)
        });
        let mut found = None;
        for pid in alive {
            let namespace = |pid: i32, name: &str| File::open(format!("/proc/{pid}/ns/{name}")).ok();
            let monitor: Option<i32> = parent(pid).filter(|parent| is_monitor(*parent));
            if let Some(monitor) = monitor {
                let [user, mounts, network] = ["user", "mnt", "net"].map(|name| namespace(monitor, name));
                if let (Some(user), Some(mounts), Some(network)) = (user, mounts, network) {
                    return Some(Lost { user, rest: Some((mounts, network)) });
                }
            }
            if found.is_none() {
                found = namespace(pid, "user").and_then(|user| {
                    // A container's own user namespace lies in the machine's.
                    let user = match process::namespace_parent(user.as_fd()) {
                        Ok(above) if !is_ours(&File::from(above.try_clone().ok()?)) => File::from(above),
                        _ => user,
                    };
                    Some(Lost { user, rest: None })
                });
            }
        }
        found
    }
}

/// Whether it is the user namespace that we are in.
fn is_ours(namespace: &File) -> bool {
    let inode = |meta: std::fs::Metadata| std::os::unix::fs::MetadataExt::ino(&meta);
    let own = std::fs::metadata(PathBuf::from("/proc/self/ns/user")).map(inode);
    matches!((namespace.metadata().map(inode), own), (Ok(one), Ok(other)) if one == other)
}

fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn is_monitor(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "tare-monitor")
}

/// Says what stands in the way of an ordinary user, on hosts that restrict namespaces.
fn explain(err: Error) -> Error {
    let is =
        |path: &str, value: &str| tare_sys::path::read_short(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return err.with_kind(Kind::Permission).hint_instead(
            "this host keeps user namespaces for root; have root allow them: sysctl \
             kernel.unprivileged_userns_clone=1",
        );
    }
    if is("/proc/sys/user/max_user_namespaces", "0") {
        return err.with_kind(Kind::Permission).hint_instead(
            "this host allows no user namespaces; have root allow them: sysctl user.max_user_namespaces=15000",
        );
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return err.with_kind(Kind::Permission).hint_instead(
            "AppArmor lets no program use user namespaces that has no profile; have root give tare one, or allow \
             them: sysctl kernel.apparmor_restrict_unprivileged_userns=0 (docs/rootless.md has the profile)",
        );
    }
    err
}
