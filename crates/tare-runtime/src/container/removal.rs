//! Taking a container away: whatever it still has, in an order in which nothing is forgotten.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::PidfdFlags;
use tare_cgroup::Cgroup;
use tare_sys::process;
use tare_sys::{Context, Error, Kind, Result};

use super::{Container, Status};
use crate::{hooks, launch, rdt};

/// How long a killed process may take to end before it is reported, in milliseconds.
const PATIENCE: i64 = 10_000;

/// Sends a signal to every process of a cgroup.
pub fn signal_all(cgroup: &Cgroup, signal: i32) -> Result<()> {
    if signal == 9 {
        return cgroup.kill();
    }
    for pid in cgroup.processes()? {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => process::signal(pidfd.as_fd(), signal)?,
            Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno).doing(|| format!("pidfd_open({})", pid.as_raw_nonzero())),
        }
    }
    Ok(())
}

/// Removes the container. Answers with what could not be removed and is no reason to keep the rest.
pub fn delete(container: Container, force: bool) -> Result<Vec<String>> {
    let status = container.status()?;
    match status {
        Status::Stopped => {}
        // It has not begun, so nothing is lost.
        Status::Created => {}
        _ if force => {}
        other => {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "cannot delete container {} that is not stopped: {}",
                    container.folder.id(),
                    other.word()
                ),
            )
            .hint("kill it first, or delete --force"));
        }
    }
    if status == Status::Creating {
        // Whoever creates it holds the lock, and dies or finishes.
        let _ = container.folder.lock();
    }
    let _lock = match container.folder.lock() {
        // Somebody else deleted it meanwhile: a `run` whose container was killed by our own caller, say.
        Err(err) if err.kind() == Kind::NotFound => return Ok(Vec::new()),
        lock => lock?,
    };
    let Some(record) = container.folder.record()? else {
        // Its `create` died early, or failed: nothing runs, but a cgroup may be there in some of the trees.
        if let Some(location) = container.folder.announced_cgroup() {
            Cgroup::at(&tare_cgroup::Hierarchies::discover()?, &location).remove_if_empty();
        }
        return container.folder.remove().map(|()| Vec::new());
    };
    let cgroup = Cgroup::at(&tare_cgroup::Hierarchies::discover()?, &record.cgroup);
    if let Some(pidfd) = record.pidfd() {
        process::signal(pidfd.as_fd(), 9)?;
        if status == Status::Paused {
            cgroup.thaw()?;
        }
        wait_for_end(pidfd.as_fd(), record.pid)?;
    }
    let mut left = Vec::new();
    // With those that its first process left behind: it shared a pid namespace, or died half made.
    left.extend(cgroup.end());
    if let Some(group) = &record.rdt
        && let Err(err) = rdt::remove(group)
    {
        left.push(err.to_string());
    }
    let spec = container.folder.spec();
    container.folder.remove()?;
    if let Ok(spec) = spec {
        let list = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref()).unwrap_or_default();
        let state = launch::hook_state(&spec, &record.id, &record.bundle, "stopped", 0);
        for hook in list {
            // runtime-spec, runtime.md: a failed poststop hook is a warning, and the next one runs.
            if let Err(err) = hooks::run("poststop", std::slice::from_ref(hook), &state, &record.bundle) {
                left.push(err.to_string());
            }
        }
    }
    Ok(left)
}

fn wait_for_end(pidfd: std::os::fd::BorrowedFd<'_>, pid: i32) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: PATIENCE / 1000, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                return Err(Error::new(
                    Kind::Conflict,
                    format!("process {pid} was killed and does not end within {} s", PATIENCE / 1000),
                )
                .hint("it hangs in the kernel (state D in ps), most often on storage that does not answer"));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).doing(|| format!("poll(pidfd of {pid})")),
        }
    }
}
