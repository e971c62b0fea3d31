//! A container's terminal is hung up when nobody has its other side open any more. So that this does not happen when a
//! monitor is killed, a process that does nothing else, its keeper, holds it as well, and hands it to the next monitor.
//!
//! ```text
//! tare-terminal STATE RUN ID      fd 0: the terminal
//! monitor ◀──terminal── tare-terminal      over the socket `terminal` in the run folder, which both keep open:
//!                                          a monitor that sees its end starts another
//! ```
//!
//! It ends with the container.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};
use tare_sys::channel::Channel;
use tare_sys::process;
use tare_sys::spawn::{self, Program};
use tare_sys::{Context, Error, Kind, Result};

use super::{Monitor, adopt};
use crate::container::{Folders, Roots, Status};
use crate::stdio;

/// The name that this program is called by to hold a terminal.
pub const NAME: &str = "tare-terminal";

/// A keeper's life, from its words on.
pub fn main(words: &[OsString]) -> Result<()> {
    let [_, state, run, id] = words else {
        return Err(Error::new(Kind::Usage, "a terminal's keeper is started by tare, not by hand"));
    };
    let stdin = rustix::stdio::stdin();
    let terminal = rustix::io::fcntl_dupfd_cloexec(stdin, 3).doing(|| "fcntl(F_DUPFD_CLOEXEC)")?;
    tare_sys::signal::block_all()?;
    let null = stdio::open_null()?;
    (0..3).try_for_each(|target| process::dup_onto(null.as_fd(), target))?;
    let roots = Roots { state: PathBuf::from(state), run: PathBuf::from(run) };
    let folders = roots.folders(&id.to_string_lossy());
    let container = folders.status()?.as_ref().and_then(Status::process);
    let container =
        container.ok_or_else(|| Error::new(Kind::Conflict, "hold a terminal: the container has ended"))?;
    let path = folders.terminal();
    let _ = std::fs::remove_file(&path);
    let socket = Channel::listen(&path)?;
    // As a monitor: who started us need not wait for our end.
    if process::fork()?.is_some() {
        process::exit_now(0);
    }
    rustix::process::setsid().doing(|| "setsid()")?;
    let _ = rustix::thread::set_name(c"tare-terminal");
    serve(&terminal, &container, &socket)
}

fn serve(terminal: &OwnedFd, container: &OwnedFd, socket: &OwnedFd) -> Result<()> {
    let mut monitors: Vec<Channel> = Vec::new();
    loop {
        let all = [container.as_fd(), socket.as_fd()].into_iter().chain(monitors.iter().map(AsFd::as_fd));
        let mut fds: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "poll(terminal)"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[0] {
            return Ok(());
        }
        // They say nothing: this is the end of one.
        let mut gone = ready[2..].iter();
        monitors.retain(|_| gone.next() != Some(&true));
        if ready[1]
            && let Ok(monitor) = Channel::accept(socket.as_fd())
            && monitor.send(b"terminal", &[terminal.as_fd()]).is_ok()
        {
            monitors.push(monitor);
        }
    }
}

/// The terminal from the one who holds it, and the connection.
pub fn take(folders: &Folders) -> Result<(OwnedFd, Channel)> {
    let keeper = Channel::connect(&folders.terminal())?;
    let mut buffer = [0; 16];
    let files = keeper.receive(&mut buffer)?.map(|(_, files)| files).unwrap_or_default();
    let terminal = files.into_iter().next();
    let terminal =
        terminal.ok_or_else(|| Error::new(Kind::Kernel, "take the terminal: its keeper is gone"))?;
    Ok((terminal, keeper))
}

fn hold(roots: &Roots, folders: &Folders, terminal: BorrowedFd<'_>) -> Result<Channel> {
    let null = stdio::open_null()?;
    let (args, env) = (adopt::words(NAME, roots, &folders.id), adopt::environment());
    let stdio = [terminal, null.as_fd(), null.as_fd()];
    let child = spawn::spawn(&Program { path: adopt::SELF, args: &args, env: &env, folder: c"/", stdio })?;
    process::wait(child.pidfd.as_fd())?;
    take(folders).map(|(_, keeper)| keeper)
}

impl Monitor {
    /// Has somebody else hold the terminal, if there is one. Without a keeper it is held by us alone.
    pub(super) fn hold_terminal(&mut self) {
        if let (Some(terminal), Some(_), None) = (&self.terminal, &self.alive, &self.keeper) {
            self.keeper = hold(&self.roots, &self.folders, terminal.as_fd()).ok();
        }
    }

    /// The keeper is gone. One of a life that has just ended is not missed.
    pub(super) fn keeper_is_gone(&mut self) {
        if self.keeper.take().is_some() {
            self.hold_terminal();
        }
    }
}
