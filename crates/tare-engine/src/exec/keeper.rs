//! The parent of what `exec -d` runs: a fork of the command, outside the container, that stays and waits for it.
//!
//! ```text
//! command ──fork──▶ keeper (tare-exec) ──join──▶ reaper (inside) ──▶ program
//!    ▲                 │
//!    └─ started, error ┘
//! ```
//!
//! An orphan is left to the host's process 1, and where that reaps nothing (a development container whose process 1 is
//! `sleep infinity`), its container could not end: a pid namespace ends when the last of its processes has been waited for.
//! The command of an `exec` in the foreground waits itself: a keeper would cost each a sixth of its time. Where that is
//! killed, or leaves something behind, [`obstacle`](crate::obstacle) tells what became of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tare_runtime::launch::Joined;
use tare_sys::channel::Channel;
use tare_sys::process::{self, Child, Ended, Side};
use tare_sys::{Context, Error, Kind, Result};

use super::word;
use crate::monitor::message::Message;

/// Does `start` in a keeper, which has `ended` done when the program has ended, with its exit code.
pub fn start(start: &dyn Fn() -> Result<Joined>, ended: &dyn Fn(u8)) -> Result<()> {
    let (ours, theirs) = Channel::pair()?;
    let keeper = match process::clone(0, None).doing(|| "fork the keeper of the process")? {
        Side::Parent(keeper) => keeper,
        Side::Child => {
            drop(ours);
            keep(start, ended, theirs)
        }
    };
    drop(theirs);
    let failed = match Message::receive(&ours, &mut Message::buffer())? {
        Some((Message::Done, _)) => return Ok(()),
        Some((Message::Failed(err), _)) => err,
        Some((other, _)) => Error::new(Kind::Corrupt, format!("exec: unexpected {other:?}")),
        None => Error::new(Kind::Kernel, "exec: its keeper was killed on the way"),
    };
    let _ = process::wait(keeper.pidfd.as_fd());
    Err(failed)
}

fn keep(start: &dyn Fn() -> Result<Joined>, ended: &dyn Fn(u8), command: Channel) -> ! {
    // What a terminal sends to its processes is not for us.
    let _ = rustix::process::setsid();
    let _ = tare_sys::signal::block_all();
    let Joined { running, told } = match start() {
        Ok(joined) => joined,
        Err(err) => {
            let _ = command.send(&Message::Failed(err).encode(), &[]);
            process::exit_now(1)
        }
    };
    let _ = rustix::thread::set_name(c"tare-exec");
    // It may have been killed: what it has started goes on.
    let _ = command.send(&Message::Done.encode(), &[]);
    let (child, terminal) = (running.child, running.terminal);
    // Whatever else is open here is the command's, and somebody waits for its end.
    let kept: Vec<_> = [&child.pidfd, &told].into_iter().chain(&terminal).map(AsFd::as_fd).collect();
    let _ = process::close_from_but(0, &kept);
    follow(&child, told.as_fd(), terminal.as_ref(), ended);
    let _ = process::wait(child.pidfd.as_fd());
    process::exit_now(0)
}

/// Reads the terminal, which would hang up without us, until the reaper has ended. It is not yet reaped then, so its container
/// has not ended: of the two the program is said to have ended first.
fn follow(child: &Child, told: BorrowedFd<'_>, terminal: Option<&OwnedFd>, ended: &dyn Fn(u8)) {
    let (mut told, mut terminal) = (Some(told), terminal);
    loop {
        let others = [told, terminal.map(AsFd::as_fd)];
        let mut fds = vec![PollFd::new(&child.pidfd, PollFlags::IN)];
        fds.extend(others.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let over = ready.next() == Some(true);
        if told.is_some()
            && (ready.next() == Some(true) || over)
            && let Some(told) = told.take()
        {
            ended(word(told).unwrap_or(Ended::Killed(9)).code());
        }
        if over {
            return;
        }
        if ready.next() == Some(true)
            && let Some(file) = terminal
            && !matches!(rustix::io::read(file, &mut [0; 4096]), Ok(1..) | Err(Errno::AGAIN | Errno::INTR))
        {
            terminal = None;
        }
    }
}
