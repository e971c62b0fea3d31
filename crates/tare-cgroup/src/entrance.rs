//! The way in: what a container's first process needs to be in the cgroup before it is anything else.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result};

use crate::cgroup::Cgroup;
use crate::control;
use crate::hierarchy::Version;

/// Open files by which a process gets into a cgroup. All are close-on-exec.
///
/// The kernel checks the rights of whoever opened them, so a child in a new user namespace can use what its
/// parent opened on the host.
#[derive(Debug)]
pub enum Entrance {
    /// The cgroup's directory (`O_PATH`), for `clone3(CLONE_INTO_CGROUP)`: the child is born inside.
    V2(OwnedFd),
    /// The `tasks` file of each tree, `cpu` last, for [`join`](Entrance::join).
    V1(Vec<OwnedFd>),
}

impl Cgroup {
    /// Opens the way in. On v1, of a cgroup that was [`open`](Cgroup::open)ed, in every tree where it exists.
    ///
    /// Errors: [`Kind::NotFound`] where the cgroup exists in no tree.
    pub fn entrance(&self) -> Result<Entrance> {
        let root = self.on.root();
        let mut files = Vec::new();
        for dir in self.dirs()? {
            if self.on.version() == Version::V2 {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(root, dir.as_str(), flags, Mode::empty());
                return opened
                    .map(Entrance::V2)
                    .doing(|| format!("open({:?}, O_PATH|O_DIRECTORY)", self.on.shown(&dir)));
            }
            let path = format!("{dir}/tasks");
            match control::open_write(root, &path) {
                Ok(file) => files.push(file),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    return Err(Error::syscall(format!("open({:?}, O_WRONLY)", self.on.shown(&path)), errno));
                }
            }
        }
        match files.is_empty() {
            true => Err(Error::new(Kind::NotFound, format!("cgroup /{}: in no hierarchy", self.relative()?))),
            false => Ok(Entrance::V1(files)),
        }
    }
}

impl Entrance {
    /// Moves the calling thread in; called by the child while that thread is all it has. Each v1 tree costs
    /// one write of about 60 µs: a thread that moves itself needs no grace period of the kernel's, a process
    /// named by its number does (11 ms and more).
    ///
    /// On v2 this is for a process that was not born inside. It moves the whole process, costs a grace period,
    /// and needs the caller's own rights to the directory.
    ///
    /// Errors: `EINVAL` from `cpu` for a realtime process on kernels with `RT_GROUP_SCHED`; `EAGAIN` from
    /// `pids` never: the limit stops forks, not arrivals. Source: cgroups(7).
    pub fn join(&self) -> Result<()> {
        match self {
            Entrance::V2(dir) => control::write(dir.as_fd(), "cgroup.procs", "0")
                .doing(|| format!("write({}/cgroup.procs, \"0\")", tare_sys::path::fd_name(dir))),
            Entrance::V1(files) => files.iter().try_for_each(|file| {
                control::write_fd(file, "0").map_err(|errno| {
                    let err =
                        Error::syscall(format!("write({}, \"0\")", tare_sys::path::fd_name(file)), errno)
                            .context("join cgroup");
                    match errno {
                        Errno::INVAL => err.hint(
                            "a realtime process cannot join a cpu cgroup without realtime time: start tare \
                             with the normal scheduling policy (chrt -o 0)",
                        ),
                        Errno::NOSPC => err.hint("the cpuset has no cpus or no memory nodes"),
                        _ => err,
                    }
                })
            }),
        }
    }
}
