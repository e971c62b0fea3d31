//! A tiny init as PID 1: passes signals on, reaps whatever is orphaned, ends as its child ends.

use std::os::fd::{AsFd, OwnedFd};

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

/// Runs `program`, which is to execute one, beside this process, which stays as the reaper of all that it leaves behind. It
/// writes to `tell` how the program ended, as two bytes: 0 and the status, or 1 and the signal.
pub fn watch_over(tell: &OwnedFd, program: &mut dyn FnMut()) -> Result<()> {
    let reaper = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(reaper)).doing(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    signal::block_all()?;
    let child = process::fork_in_place(&mut || {
        // A reaper that is killed takes the program with it, one that was killed before as well.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        if rustix::process::getppid() != Some(reaper) {
            process::exit_now(125);
        }
        let _ = rustix::process::setpgid(None, None);
        if rustix::termios::isatty(rustix::stdio::stdin()) {
            let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
        }
        if signal::unblock_all().is_ok() {
            program();
        }
    })?;
    let _ = rustix::thread::set_name(c"tare-reaper");
    // Our copies of its files would keep its pipes open.
    let _ = process::close_from_but(0, &[tell.as_fd()]);
    let ended = run(child);
    let word = match ended {
        Ended::Exited(status) => [0, status],
        Ended::Killed(signal) => [1, signal as u8],
    };
    let _ = rustix::io::write(tell, &word);
    let _ = process::close_from(0);
    while process::wait_for_any().is_ok() {}
    process::exit_now(i32::from(ended.code()))
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
