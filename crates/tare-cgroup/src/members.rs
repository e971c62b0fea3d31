//! The processes in a cgroup and in the cgroups below it: list, move, kill.

use std::collections::BTreeSet;
use std::num::NonZeroI32;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use tare_sys::{Context, Error, Kind, Result};

use crate::cgroup::Cgroup;
use crate::control;
use crate::hierarchy::Version;
use crate::tree::walk;

/// How long to wait for what the kernel does soon, as for the last of the dead to be no longer counted.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for processes to stop or to die: one may be held by the kernel while it reads from a busy disk, or
/// while it gives back the memory of a large database.
pub(crate) const PATIENCE_WITH_PROCESSES: Duration = Duration::from_secs(10);
/// pidfds held at a time: well below the usual limit of 1024 open files.
const BATCH: usize = 256;

/// Waits in growing steps until a deadline.
pub(crate) struct Patience {
    until: Instant,
    step: Duration,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience { until: Instant::now() + limit, step: Duration::from_millis(1) }
    }

    /// Sleeps a little; `false` once the time is up.
    pub(crate) fn wait(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        std::thread::sleep(self.step);
        self.step = (self.step * 2).min(Duration::from_millis(20));
        true
    }
}

/// The processes in one cgroup; none if it is gone.
fn listed(dir: BorrowedFd<'_>, shown: &str) -> Result<Vec<NonZeroI32>> {
    let mut text = control::read(dir, "cgroup.procs");
    if text == Err(Errno::OPNOTSUPP) {
        // A threaded v2 cgroup names threads only; the first thread of a process stands for it.
        text = control::read(dir, "cgroup.threads");
    }
    match text {
        // A process outside our pid namespace is listed as 0, and is not ours to handle.
        Ok(text) => Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect()),
        Err(Errno::NOENT | Errno::NODEV) => Ok(Vec::new()),
        Err(errno) => Err(Error::syscall(format!("read cgroup.procs in or below {shown}"), errno)),
    }
}

impl Cgroup {
    /// Every process in the cgroup and below it, in ascending order; none if the cgroup does not exist.
    ///
    /// On v1 a process counts that is in it in any tree. Zombies do not count.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        Ok(self.members(&self.dirs()?)?.into_iter().filter_map(|pid| Pid::from_raw(pid.get())).collect())
    }

    pub(crate) fn members(&self, dirs: &[String]) -> Result<BTreeSet<NonZeroI32>> {
        let mut found = BTreeSet::new();
        for dir in dirs {
            walk(&self.on, dir, |place| {
                found.extend(listed(place.dir, &self.on.shown(dir))?);
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// v1: moves every process of the cgroup into its directory in this tree too.
    ///
    /// A process may fork while it is being moved, so this goes on until none is left outside.
    pub(crate) fn move_in(&self, controller: &'static str) -> Result<()> {
        let dir = self.on.dir(controller, self.relative()?);
        let path = format!("{dir}/cgroup.procs");
        let file = control::open_write(self.on.root(), &path)
            .doing(|| format!("open({:?}, O_WRONLY)", self.on.shown(&path)))?;
        let mut patience = Patience::new(PATIENCE);
        loop {
            let inside = self.members(std::slice::from_ref(&dir))?;
            let all = self.members(&self.dirs()?)?;
            let outside: Vec<&NonZeroI32> = all.difference(&inside).collect();
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match control::write_fd(&file, &pid.to_string()) {
                    // It ended meanwhile, or is ending.
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => {
                        let call = format!("write({:?}, \"{pid}\")", self.on.shown(&path));
                        return Err(Error::syscall(call, errno));
                    }
                }
            }
            if !patience.wait() {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "move the processes of /{} to {}: they fork faster",
                        self.relative()?,
                        self.on.shown(&dir)
                    ),
                )
                .hint("set a pids limit on the container, then try again"));
            }
        }
    }

    /// Sends SIGKILL to every process in the cgroup and below it, frozen ones too. A cgroup that does not
    /// exist is no error.
    ///
    /// v2: one write, in which the kernel leaves no fork behind (Linux 5.14); the processes die soon after.
    /// Otherwise: signals until the cgroup is empty, at most 10 s. A signal goes only to a process that is seen
    /// in the cgroup after a handle on it was taken, never to a stranger with a reused number.
    ///
    /// Errors: [`Kind::Kernel`] if processes are left after 10 s.
    pub fn kill(&self) -> Result<()> {
        let relative = self.relative()?;
        if self.on.version() == Version::V2 {
            let path = format!("{relative}/cgroup.kill");
            match control::write(self.on.root(), &path, "1") {
                Ok(()) => return Ok(()),
                // Gone, or a kernel before 5.14, or a threaded cgroup: the loop sorts that out.
                Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    return Err(Error::syscall(format!("write({:?}, \"1\")", self.on.shown(&path)), errno));
                }
            }
        }
        let mut patience = Patience::new(PATIENCE_WITH_PROCESSES);
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            for batch in left.chunks(BATCH) {
                self.signal(batch)?;
            }
            // A process that is frozen on v1 dies only once it is thawed, and then before it runs again.
            self.thaw()?;
            if !patience.wait() {
                return Err(Error::new(
                    Kind::Kernel,
                    format!("kill cgroup /{relative}: {} still live", numbers(&self.processes()?)),
                )
                .hint(
                    "they hang in the kernel (state D in ps), most often on storage that does not answer",
                ));
            }
        }
    }

    fn signal(&self, pids: &[Pid]) -> Result<()> {
        let held: Vec<_> = pids
            .iter()
            .filter_map(|&pid| Some((pid, rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?)))
            .collect();
        let still = self.members(&self.dirs()?)?;
        for (pid, fd) in held.iter().filter(|(pid, _)| still.contains(&pid.as_raw_nonzero())) {
            match rustix::process::pidfd_send_signal(fd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    let call = format!("pidfd_send_signal({}, SIGKILL)", pid.as_raw_nonzero());
                    return Err(Error::syscall(call, errno));
                }
            }
        }
        Ok(())
    }
}

/// `processes 12, 13 and 4 more`.
pub(crate) fn numbers(pids: &[Pid]) -> String {
    let shown: Vec<String> = pids.iter().take(8).map(|pid| pid.as_raw_nonzero().to_string()).collect();
    match pids.len().saturating_sub(shown.len()) {
        0 => format!("processes {}", shown.join(", ")),
        more => format!("processes {} and {more} more", shown.join(", ")),
    }
}
