//! Taking over a container that runs: by a monitor that was executed again to be small, or in the place of one that was
//! killed.
//!
//! ```text
//! tare-monitor STATE RUN ID      fd 0: the lock on the run folder; 1: the terminal, if there is one; 2: the control socket
//! ```
//!
//! All else is found on disk: the process in `status.json`, the output in the FIFOs, which the container holds open.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use tare_network::names::Sockets;
use tare_sys::process::{self, Ended};
use tare_sys::spawn::{self, Program};
use tare_sys::{Context, Error, Kind, Result};

use super::listener::Listener;
use super::{Alive, Monitor, terminal};
use crate::container::{Lock, Roots, State};
use crate::log::Stream;
use crate::stdio;

/// The name that this program is called by to be a monitor.
pub const NAME: &str = "tare-monitor";
/// Our own program, whatever has become of its file.
pub(crate) const SELF: &std::ffi::CStr = c"/proc/self/exe";
/// How long output waits for those who were attached to the monitor before: enough on a busy machine too, since what is
/// read without them they never see.
const GRACE: Duration = Duration::from_secs(1);
/// How long the one who reaps a container that is not our child may take.
const REAPING: Duration = Duration::from_secs(2);

pub(crate) fn words(name: &str, roots: &Roots, id: &str) -> Vec<CString> {
    let path = |path: &PathBuf| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let [name, id] = [name, id].map(|word| CString::new(word).unwrap_or_default());
    vec![name, path(&roots.state), path(&roots.run), id]
}

pub(crate) fn environment() -> Vec<CString> {
    let pairs = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    });
    pairs.flatten().collect()
}

/// Executes this monitor again. Comes back only if that did not work.
pub fn execute_again(
    roots: &Roots,
    id: &str,
    lock: BorrowedFd<'_>,
    terminal: Option<BorrowedFd<'_>>,
    control: Option<BorrowedFd<'_>>,
) {
    let files = [Some(lock), terminal, control];
    for (file, target) in files.into_iter().zip(0..) {
        if let Some(file) = file
            && process::dup_onto(file, target).is_err()
        {
            return;
        }
    }
    process::exec(SELF, &words(NAME, roots, id), &environment());
}

/// Starts a new monitor for a container that runs and has none; the lock goes over to it.
pub fn start(roots: &Roots, id: &str, lock: &Lock) -> Result<()> {
    let null = stdio::open_null()?;
    let (args, env) = (words(NAME, roots, id), environment());
    let stdio = [lock.as_fd(), null.as_fd(), null.as_fd()];
    let child = spawn::spawn(&Program { path: SELF, args: &args, env: &env, folder: c"/", stdio })?;
    // It forks once more, so that nobody has to wait for it but init.
    process::wait(child.pidfd.as_fd()).map(drop)
}

/// A monitor's life, from its words on.
pub fn main(words: &[OsString]) -> Result<()> {
    let [_, state, run, id] = words else {
        return Err(Error::new(Kind::Usage, "a monitor is started by tare, not by hand"));
    };
    // Whatever else is open holds a port, or is the name server's: see `make_small`.
    let mut ports = process::inherited(3)?;
    let names = Sockets::among(&mut ports);
    let above =
        |file: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(file, 3).doing(|| "fcntl(F_DUPFD_CLOEXEC)");
    let lock = Lock::from(above(rustix::stdio::stdin())?);
    let terminal = above(rustix::stdio::stdout())?;
    let terminal = rustix::termios::isatty(&terminal).then_some(terminal);
    let control = above(rustix::stdio::stderr())?;
    let kind = rustix::fs::fstat(&control).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let control = (kind == Ok(FileType::Socket)).then_some(control);
    tare_sys::signal::block_all()?;
    let _ = rustix::thread::set_name(c"tare-monitor");
    let null = stdio::open_null()?;
    (0..3).try_for_each(|target| process::dup_onto(null.as_fd(), target))?;

    let roots = Roots { state: PathBuf::from(state), run: PathBuf::from(run) };
    crate::machine::stay(&roots.run);
    let folders = roots.folders(&id.to_string_lossy());
    let record = folders.record()?;
    let mut monitor = Monitor::of(roots, folders, record, lock);
    monitor.small = true;
    monitor.ports = ports;
    monitor.take_over(terminal, control, names)?;
    // A monitor that was executed again leads its session already. Another one has all open by now: from here on the
    // container may end, and who started us may go on.
    if !process::leads_session() {
        if process::fork()?.is_some() {
            process::exit_now(0);
        }
        rustix::process::setsid().doing(|| "setsid()")?;
    }
    monitor.watch();
    Ok(())
}

impl Monitor {
    fn take_over(
        &mut self,
        terminal: Option<OwnedFd>,
        control: Option<OwnedFd>,
        names: Option<Sockets>,
    ) -> Result<()> {
        match control {
            Some(control) => self.listener = Some(Listener::of(control)),
            None => {
                self.listen();
                self.times.take = Some(Instant::now() + GRACE);
            }
        }
        if self.status.state == State::Restarting {
            let delay = Duration::from_millis(self.status.restart_delay.into());
            self.times.restart = Some(Instant::now() + delay);
            return Ok(());
        }
        // First of all: what is in a FIFO goes with the last one who has it open.
        if !self.record.request.config.tty {
            for stream in [Stream::Stdout, Stream::Stderr] {
                self.output[stream as usize] = stdio::reader(&self.folders, stream).ok();
            }
        }
        let pidfd = self
            .status
            .remains()
            .ok_or_else(|| Error::new(Kind::Conflict, "take over the container: it has just ended"))?;
        self.proxy = crate::network::ports::reopen_proxy(&self.roots, &self.record.id, &self.ports);
        self.names = crate::network::reopen_names(&self.roots, &self.record, self.status.pid, names);
        self.watch_firewall();
        // As in a launch: an exit code that does not wait for the teardown.
        let namespace = |name: &str| {
            let path = format!("/proc/{}/ns/{name}", self.status.pid);
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
        };
        let held = ["mnt", "net", "ipc"].into_iter().filter_map(namespace).collect();
        self.alive = Some(Alive { pidfd, held });
        self.go_on_checking();
        if self.record.request.config.tty {
            let (held, keeper) =
                terminal::take(&self.folders).map_or((None, None), |(t, h)| (Some(t), Some(h)));
            self.keeper = keeper;
            if let Some(terminal) = terminal.or(held) {
                self.take_terminal(terminal)?;
            }
        }
        Ok(())
    }
}

/// How a process ended that was our child, or that another reaps; `None`: nobody can tell.
pub fn how_it_ended(pidfd: &OwnedFd, pid: i32) -> Option<Ended> {
    if let Ok(ended) = process::wait(pidfd.as_fd()) {
        return Some(ended);
    }
    let deadline = Instant::now() + REAPING;
    loop {
        // While it waits to be reaped, its number is still its own.
        let waits = process::zombie(pid);
        match process::ended(pidfd.as_fd()) {
            Ok(Some(ended)) => return Some(ended),
            _ if waits.is_some() => return waits,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) | Err(_) => return None,
        }
    }
}
