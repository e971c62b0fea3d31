//! Freeze and thaw: all processes of a container stop where they are, and go on as if nothing had been.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use tare_sys::{Context, Error, Kind, Result};

use crate::cgroup::Cgroup;
use crate::control;
use crate::hierarchy::Version;
use crate::members::{PATIENCE_WITH_PROCESSES, Patience};

impl Cgroup {
    /// Stops every process in the cgroup and below it; returns when all have stopped.
    ///
    /// v1: makes the directory in the `freezer` tree now and moves the processes into it.
    ///
    /// Errors: [`Kind::Unsupported`] without the freezer controller (v1), [`Kind::NotFound`] where there is no
    /// such cgroup, [`Kind::Conflict`] if some process does not stop within 10 s; then all are thawed again.
    /// Source: admin-guide/cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst "cgroup.freeze".
    pub fn freeze(&self) -> Result<()> {
        let relative = self.relative()?;
        let frozen = match self.on.version() {
            Version::V1 => self.freeze_v1(relative),
            Version::V2 => self.freeze_v2(relative),
        };
        let result = match frozen {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(Kind::Conflict, "some process does not stop")
                .hint("it hangs in the kernel (state D in ps), most often on storage that does not answer")),
            Err(err) => Err(err),
        };
        if result.is_err() {
            // Half frozen is worse than either; the first failure is the one to report.
            let _ = self.thaw();
        }
        result.doing(|| format!("freeze cgroup /{relative}"))
    }

    /// Lets all processes go on. What was never frozen, or does not exist, is no error.
    pub fn thaw(&self) -> Result<()> {
        let relative = self.relative()?;
        let (path, value) = match self.on.version() {
            Version::V1 => (format!("{}/freezer.state", self.on.dir("freezer", relative)), "THAWED"),
            Version::V2 => (format!("{relative}/cgroup.freeze"), "0"),
        };
        match control::write(self.on.root(), &path, value) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(errno) => {
                let call = format!("write({:?}, {value:?})", self.on.shown(&path));
                Err(Error::syscall(call, errno).context(format!("thaw cgroup /{relative}")))
            }
        }
    }

    /// Whether the cgroup is frozen: every process in it has stopped, or would.
    ///
    /// Errors: [`Kind::NotFound`] where there is no such cgroup (v1: in no tree). Without a freezer nothing is.
    pub fn is_frozen(&self) -> Result<bool> {
        let relative = self.relative()?;
        let (path, v1) = match self.on.version() {
            Version::V1 => (format!("{}/freezer.state", self.on.dir("freezer", relative)), true),
            Version::V2 => (format!("{relative}/cgroup.events"), false),
        };
        match control::read(self.on.root(), &path) {
            Ok(text) if v1 => Ok(text.trim() == "FROZEN"),
            Ok(text) => Ok(control::value_of(&text, "frozen") == Some(1)),
            // On v1 most containers were never in the freezer's tree.
            Err(Errno::NOENT | Errno::NODEV) if v1 && !self.paths().is_empty() => Ok(false),
            Err(errno) => Err(Error::syscall(format!("read({:?})", self.on.shown(&path)), errno)),
        }
    }

    /// Whether the cgroup is frozen; then this process of it is killed nevertheless: on v1, where the frozen do not die, it
    /// is taken out of the freezer's tree, with the signal waiting for it, so that it does nothing more. For a process of
    /// ours that was caught on its way into a container.
    ///
    /// Where it cannot be told it is not frozen: there is no such cgroup, or there are none at all.
    ///
    /// Errors: those of the move. Source: admin-guide/cgroup-v1/freezer-subsystem.rst.
    pub fn kill_if_frozen(&self, pid: Pid) -> Result<bool> {
        if !self.is_frozen().unwrap_or(false) {
            return Ok(false);
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        if self.on.version() == Version::V1 {
            let path = format!("{}/cgroup.procs", self.on.dir("freezer", ""));
            control::write(self.on.root(), &path, &pid.as_raw_nonzero().to_string())
                .doing(|| format!("write({:?}, \"{pid}\")", self.on.shown(&path)))?;
        }
        Ok(true)
    }

    fn freeze_v1(&self, relative: &str) -> Result<bool> {
        if self.on.mounted("freezer").is_none() {
            return Err(self.on.lacks("freezer", "pause"));
        }
        self.make_in("freezer")?;
        self.move_in("freezer")?;
        let path = format!("{}/freezer.state", self.on.dir("freezer", relative));
        let mut patience = Patience::new(PATIENCE_WITH_PROCESSES);
        loop {
            // Written again each time: that wakes those which could not stop at once.
            control::write(self.on.root(), &path, "FROZEN")
                .doing(|| format!("write({:?}, \"FROZEN\")", self.on.shown(&path)))?;
            let state =
                control::read(self.on.root(), &path).doing(|| format!("read({:?})", self.on.shown(&path)))?;
            if state.trim() == "FROZEN" {
                return Ok(true);
            }
            if !patience.wait() {
                return Ok(false);
            }
        }
    }

    fn freeze_v2(&self, relative: &str) -> Result<bool> {
        let root = self.on.root();
        let (freeze, events) = (format!("{relative}/cgroup.freeze"), format!("{relative}/cgroup.events"));
        let watch =
            rustix::fs::openat(root, events.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .doing(|| format!("open({:?})", self.on.shown(&events)))?;
        control::write(root, &freeze, "1").doing(|| format!("write({:?}, \"1\")", self.on.shown(&freeze)))?;
        let until = std::time::Instant::now() + PATIENCE_WITH_PROCESSES;
        loop {
            // Reading through the watched file arms it; what changes after that wakes the poll.
            let mut text = [0u8; 256];
            let count = rustix::io::pread(&watch, &mut text, 0)
                .doing(|| format!("read({:?})", self.on.shown(&events)))?;
            let text = String::from_utf8_lossy(&text[..count]);
            if control::value_of(&text, "frozen") == Some(1) {
                return Ok(true);
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().clamp(1, 100_000_000).into() };
            match poll(&mut [PollFd::new(&watch, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::syscall("poll(cgroup.events)", errno)),
            }
        }
    }
}
