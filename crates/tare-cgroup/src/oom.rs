//! Being told when the OOM killer strikes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, epoll};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::{Context, Error, Result};

use crate::cgroup::Cgroup;
use crate::control;
use crate::hierarchy::{Hierarchies, Version};

/// Tells when processes of a cgroup are killed for want of memory, and when the cgroup has come to its end.
///
/// Wait for its fd ([`AsFd`]) to become readable (`POLLIN`), then ask [`fired`](OomWatch::fired), then
/// [`gone`](OomWatch::gone).
#[derive(Debug)]
pub struct OomWatch {
    /// v1: an eventfd; v2: an epoll of two files.
    wake: OwnedFd,
    source: Source,
    gone: bool,
}

#[derive(Debug)]
enum Source {
    /// The kernel writes to the eventfd before it chooses whom to kill, and when the cgroup goes.
    V1 { on: Hierarchies, file: String },
    /// `memory.events` and `cgroup.events` wake through these very files, until they are read again.
    V2 { memory: OwnedFd, life: OwnedFd, kills: u64, lived: bool },
}

impl Cgroup {
    /// Watches for OOM kills from now on. On v2 those of the container's own cgroups below count too.
    ///
    /// Errors: [`Kind::NotFound`](tare_sys::Kind::NotFound) if the cgroup is gone;
    /// [`Kind::Unsupported`](tare_sys::Kind::Unsupported) without the memory controller.
    /// Source: admin-guide/cgroup-v1/memory.rst section 10, cgroup-v2.rst `memory.events`.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let relative = self.relative()?;
        let watch = match self.on.version() {
            Version::V1 => self.watch_v1(relative),
            Version::V2 => self.watch_v2(relative),
        };
        watch.doing(|| format!("watch cgroup /{relative} for OOM kills"))
    }

    fn watch_v1(&self, relative: &str) -> Result<OomWatch> {
        if self.on.mounted("memory").is_none() {
            return Err(self.on.lacks("memory", "OOM events"));
        }
        let dir = self.on.dir("memory", relative);
        let oom_control = format!("{dir}/memory.oom_control");
        let file = self.open_read(&oom_control)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags).doing(|| "eventfd2()")?;
        let event_control = format!("{dir}/cgroup.event_control");
        let order = format!("{} {}", wake.as_raw_fd(), file.as_raw_fd());
        control::write(self.on.root(), &event_control, &order)
            .doing(|| format!("write({:?}, {order:?})", self.on.shown(&event_control)))?;
        let source = Source::V1 { on: self.on.clone(), file: oom_control };
        Ok(OomWatch { wake, source, gone: false })
    }

    fn watch_v2(&self, relative: &str) -> Result<OomWatch> {
        let life = self.open_read(&format!("{relative}/cgroup.events"))?;
        let memory = match self.open_read(&format!("{relative}/memory.events")) {
            Err(err) if err.errno() == Some(Errno::NOENT) => {
                return Err(self.on.lacks("memory", "OOM events"));
            }
            opened => opened?,
        };
        let wake = epoll::create(epoll::CreateFlags::CLOEXEC).doing(|| "epoll_create1()")?;
        for file in [&memory, &life] {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&wake, file, data, epoll::EventFlags::PRI).doing(|| "epoll_ctl(EPOLL_CTL_ADD)")?;
        }
        let source = Source::V2 { memory, life, kills: 0, lived: false };
        let mut watch = OomWatch { wake, source, gone: false };
        // What was killed before counts as told.
        watch.fired()?;
        Ok(watch)
    }

    fn open_read(&self, path: &str) -> Result<OwnedFd> {
        rustix::fs::openat(self.on.root(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open({:?})", self.on.shown(path)))
    }
}

impl OomWatch {
    /// Whether processes ran out of memory since the last call. Never waits, and takes the wake-up away, so that
    /// the next poll waits for the next event.
    ///
    /// v2 counts kills; v1 tells of each time that the limit left no way out, a moment before the kill.
    ///
    /// Errors: those of reading the files. A cgroup that is gone is none.
    pub fn fired(&mut self) -> Result<bool> {
        match &mut self.source {
            Source::V1 { on, file } => {
                let mut count = [0u8; 8];
                match rustix::io::read(&self.wake, &mut count) {
                    Ok(_) => {}
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                    Err(errno) => return Err(Error::syscall("read(eventfd)", errno)),
                }
                self.gone = rustix::fs::statat(on.root(), file.as_str(), AtFlags::empty()).is_err();
                Ok(!self.gone)
            }
            Source::V2 { memory, life, kills, lived } => {
                let populated = again(life)?.and_then(|text| control::value_of(&text, "populated"));
                *lived |= populated == Some(1);
                // Before its first process it is not populated either.
                self.gone = populated.is_none() || (*lived && populated == Some(0));
                let now = again(memory)?.and_then(|text| control::value_of(&text, "oom_kill"));
                let fired = now.is_some_and(|now| now > *kills);
                *kills = now.unwrap_or(*kills);
                Ok(fired)
            }
        }
    }

    /// Whether the last [`fired`](OomWatch::fired) found that the cgroup was removed, or on v2 that its last process
    /// has ended: nothing more will come, and the fd may stay readable.
    pub fn gone(&self) -> bool {
        self.gone
    }
}

/// Reads an open control file from its beginning; `None` if its cgroup is gone.
fn again(file: &OwnedFd) -> Result<Option<String>> {
    let mut text = [0u8; 4096];
    match rustix::io::pread(file, &mut text, 0) {
        Ok(count) => Ok(Some(String::from_utf8_lossy(&text[..count]).into_owned())),
        Err(Errno::NODEV | Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::syscall(format!("read({})", tare_sys::path::fd_name(file)), errno)),
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
