//! Ending containers: `kill`, `stop`, `restart`, `rm`, and waiting for it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tare_sys::process;
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders, Status};
use crate::engine::{Engine, not_running};
use crate::events::Event;
use crate::{removal, sweep};

/// Seconds that `stop` waits where neither the caller nor the container says otherwise.
const STOP_TIMEOUT: u32 = 10;
/// How long a command waits for a monitor to finish its work after the container's death.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
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

    /// Removes it; with `force` even when it runs, with `volumes` also the volumes that were made for it and have no
    /// name.
    pub fn remove(&self, container: &str, force: bool, volumes: bool) -> Result<()> {
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
        if volumes {
            removal::mark_volumes(&folders);
        }
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

    /// Waits until a process that was told to end has ended, and that is written down.
    fn wait_until_gone(&self, pidfd: std::os::fd::BorrowedFd<'_>, folders: &Folders) -> Result<()> {
        ends_within(pidfd, PATIENCE)?;
        self.wait_until_settled(folders)
    }

    /// Waits until nobody is in charge: the monitor has written down the end and cleaned up.
    pub(crate) fn wait_until_settled(&self, folders: &Folders) -> Result<()> {
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
