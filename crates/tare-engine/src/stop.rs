//! The verbs on a container that runs: `kill`, `stop`, `restart`, `pause`, `unpause`, `wait`; and `rm`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tare_sys::process;
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders, Status};
use crate::engine::{Engine, not_running};
use crate::events::Event;
use crate::monitor::message::{Exit, Message, Order};
use crate::start::Attach;
use crate::{obstacle, removal, sweep};

/// How long a command waits for a monitor to finish its work after the container's death.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Sends a signal to its PID 1.
    pub fn kill(&self, container: &str, signal: i32) -> Result<()> {
        let folders = self.find(container)?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_none() {
            return Err(not_running(container));
        }
        match self.order(&folders, &Order::Kill(signal)) {
            // It has just ended, of this as like as not, and its monitor was killed over it.
            Err(err) if signal == 9 && err.kind() == Kind::Conflict => Ok(()),
            result => result.map_err(|err| named(err, container)),
        }
    }

    /// Asks it to stop, and kills it after `timeout` seconds. One that has ended is no error.
    pub fn stop(&self, container: &str, signal: Option<i32>, timeout: Option<u32>) -> Result<()> {
        let folders = self.find(container)?;
        let record = folders.record()?;
        if !is_up(&folders)? {
            return Ok(());
        }
        match self.order(&folders, &Order::Stop(signal, timeout.map(milliseconds))) {
            // It has just ended by itself.
            Err(err) if err.kind() == Kind::Conflict => {}
            result => result.doing(|| format!("stop {container}"))?,
        }
        self.emit(&Event::container(&record, "stop").by("stop"));
        Ok(())
    }

    /// Stops it and starts it again; one that does not run is started.
    pub fn restart(&self, container: &str, signal: Option<i32>, timeout: Option<u32>) -> Result<()> {
        let folders = self.find(container)?;
        if is_up(&folders)? {
            match self.order(&folders, &Order::Restart(signal, timeout.map(milliseconds))) {
                // It has just ended by itself.
                Err(err) if err.kind() == Kind::Conflict => {}
                result => return result.doing(|| format!("restart {container}")),
            }
        }
        self.start_again(container, Attach::default())?;
        self.emit(&Event::container(&folders.record()?, "restart").by("restart"));
        Ok(())
    }

    /// Freezes all its processes.
    pub fn pause(&self, container: &str) -> Result<()> {
        self.order(&self.find(container)?, &Order::Pause).map_err(|err| named(err, container))
    }

    /// Lets them go on.
    pub fn unpause(&self, container: &str) -> Result<()> {
        self.order(&self.find(container)?, &Order::Unpause).map_err(|err| named(err, container))
    }

    /// Waits until it does not run, and tells how it ended.
    pub fn wait(&self, container: &str) -> Result<Exit> {
        let folders = self.find(container)?;
        loop {
            if folders.has_somebody() {
                match self.connect(&folders) {
                    Ok(channel) => {
                        // One that is dying lets us in, and then says nothing.
                        let _ = Order::Wait.send(&channel);
                        while let Some((message, _)) = Message::receive(&channel, &mut Message::buffer())? {
                            if let Message::Ended(exit) = message {
                                return Ok(exit);
                            }
                        }
                    }
                    Err(err) if err.kind() == Kind::Conflict => {}
                    Err(err) => return Err(err.context(format!("wait for {container}"))),
                }
                // The monitor was killed, or ended just now: look again.
                sweep::sweep(&self.roots)?;
                continue;
            }
            let status = folders.status()?;
            if status.as_ref().is_some_and(|status| status.process().is_some()) {
                // Its monitor was killed just now.
                sweep::sweep(&self.roots)?;
                continue;
            }
            return Ok(Exit::written(status.as_ref()));
        }
    }

    /// Removes it; with `force` even when it runs, with `volumes` also the volumes that were made for it and have no
    /// name.
    pub fn remove(&self, container: &str, force: bool, volumes: bool) -> Result<()> {
        let folders = self.find(container)?;
        let status = folders.status().ok().flatten();
        let process = status.as_ref().and_then(Status::process);
        let pid = status.as_ref().map_or(0, |status| status.pid);
        let restarts = status.is_some_and(|status| status.restarts());
        if process.is_some() || restarts || (force && folders.has_somebody()) {
            if !force {
                let doing = if restarts { "restarting" } else { "running" };
                return Err(Error::new(Kind::Conflict, format!("remove {container}: it is {doing}"))
                    .hint(format!("stop it first (`tare stop {container}`), or use --force")));
            }
            let ordered = match folders.record() {
                // Nor does another monitor take over one whose record is damaged.
                Err(err) if !folders.has_somebody() => Err(err),
                _ => self.order(&folders, &Order::Stop(Some(9), Some(0))),
            };
            if let (Err(_), Some(pidfd)) = (ordered, process) {
                // A monitor that cannot be talked to does not keep it alive.
                process::signal(pidfd.as_fd(), 9)?;
                // One that answers has waited already.
                let patience = if folders.has_somebody() { Duration::ZERO } else { PATIENCE };
                if !ends_within(pidfd.as_fd(), patience)? {
                    let name = folders.record().map_or_else(|_| container.to_owned(), |record| record.name);
                    return Err(obstacle::to_death(&name, pid).context(format!("remove {container}")));
                }
            }
        }
        self.wait_until_settled(&folders, || false)?;
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

    /// Waits until nobody is in charge: the monitor has written down the end and cleaned up. Or until there is `enough`.
    pub(crate) fn wait_until_settled(&self, folders: &Folders, enough: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match folders.lock() {
                Ok(None) if enough() => return Ok(()),
                Ok(None) => {}
                Ok(Some(_)) => break,
                // Removed by its monitor, last of all.
                Err(err) if err.kind() == Kind::NotFound => return Ok(()),
                Err(err) => return Err(err),
            }
            if Instant::now() > deadline {
                return Err(obstacle::in_charge(folders));
            }
            std::thread::sleep(Duration::from_micros(250));
        }
        // Its monitor was killed before it had cleaned up.
        sweep::sweep(&self.roots)
    }
}

/// Whether it runs, is about to, or somebody is in charge of it. Of one whose monitor is just being killed the status
/// alone says so.
fn is_up(folders: &Folders) -> Result<bool> {
    let status = folders.status()?.unwrap_or_else(Status::created);
    Ok(status.runs() || status.restarts() || folders.has_somebody())
}

fn milliseconds(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

/// The monitor does not know by which name its container was called.
fn named(err: Error, container: &str) -> Error {
    err.context(container.to_owned())
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
