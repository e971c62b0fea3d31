//! A tiny init as PID 1: passes signals on, reaps whatever is orphaned, ends as its child ends.

use tare_sys::process::{self, Ended};
use tare_sys::{Context, Result, signal};

/// Splits: comes back in the new process, which is to be executed; the old one stays as init.
pub fn split() -> Result<()> {
    // Blocked before the child exists, so that no signal falls between.
    signal::block_all()?;
    match process::fork()? {
        None => {
            // A group of its own, in the foreground, so that Ctrl-C reaches it and not init twice.
            let _ = rustix::process::setpgid(None, None);
            if rustix::termios::isatty(rustix::stdio::stdin()) {
                let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
            }
            signal::unblock_all()
        }
        Some(child) => {
            // Nothing of the host's stays open in PID 1; and the launch channel must close when the child's
            // does, for that is how the parent learns that it was executed.
            let ended = process::close_from(3).map_or(Ended::Exited(125), |()| run(child));
            process::exit_now(i32::from(ended.code()))
        }
    }
}

fn run(main: rustix::process::Pid) -> Ended {
    let Ok(signals) = signal::SignalFd::new() else { return Ended::Exited(125) };
    loop {
        while let Ok(Some((pid, ended))) = process::reap_any() {
            if pid == main {
                return ended;
            }
        }
        match wait_for(&signals) {
            Ok(Some(number)) if number != 17 => {
                let _ = process::kill(main.as_raw_nonzero().get(), number);
            }
            Ok(_) => {}
            Err(_) => return Ended::Exited(125),
        }
    }
}

fn wait_for(signals: &signal::SignalFd) -> Result<Option<i32>> {
    let mut ready = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
    match rustix::event::poll(&mut ready, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => signals.next(),
        Err(errno) => Err(errno).doing(|| "poll(signals)"),
    }
}
