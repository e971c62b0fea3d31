//! A stop signal that is not lost.
//!
//! A program that has just been started has no handlers yet, and the kernel drops what is sent to a PID 1 without one, also
//! what was pending when it is unblocked: asked to stop so early, it would live on until it is killed. So it is looked at
//! again until it has taken the signal.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tare_sys::process;
use tare_sys::signal::{Reception, reception};

use super::Monitor;

/// How long to wait before it is looked at again: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// A stop signal on its way.
#[derive(Debug, Default)]
pub struct Repeat {
    signal: i32,
    /// The last one came while it was blocked, and has been kept for all that was seen since.
    kept: bool,
    wait: Duration,
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It has it.
    Done,
    /// Send it, and that is all.
    SendLast,
    /// Send it, and look again.
    Send,
    /// Look again.
    Look,
}

impl Repeat {
    /// For a signal that is sent now; `None` where it is not lost.
    fn of(signal: i32, found: Option<Reception>) -> Option<Repeat> {
        let kept = match found? {
            Reception::Caught => return None,
            Reception::Blocked { .. } => true,
            Reception::Open => false,
        };
        // Nobody blocks or drops SIGKILL.
        (signal != 9).then_some(Repeat { signal, kept, wait: FIRST_LOOK })
    }

    fn next(&mut self, found: Option<Reception>) -> Next {
        let Some(found) = found else { return Next::Done };
        match found {
            Reception::Caught => Next::SendLast,
            Reception::Blocked { pending: true } => Next::Look,
            // It was asked for, as by sigwait(3).
            Reception::Blocked { pending: false } if self.kept => Next::Done,
            Reception::Blocked { pending: false } => {
                self.kept = true;
                Next::Send
            }
            Reception::Open => {
                self.kept = false;
                Next::Look
            }
        }
    }
}

impl Monitor {
    /// Sends a stop signal until it is taken, or the container has ended.
    pub(super) fn send_to_stop(&mut self, signal: i32, by: &str) {
        let repeat = Repeat::of(signal, reception(self.status.pid, signal));
        self.signal(signal, by);
        self.times.repeat = repeat.is_some().then(|| Instant::now() + FIRST_LOOK);
        self.repeat = repeat.unwrap_or_default();
    }

    /// Looks whether it was taken.
    pub(super) fn look_at_stop(&mut self) {
        let signal = self.repeat.signal;
        let next = self.repeat.next(reception(self.status.pid, signal));
        if let (Next::SendLast | Next::Send, Some(alive)) = (&next, &self.alive) {
            let _ = process::signal(alive.pidfd.as_fd(), signal);
        }
        if matches!(next, Next::Send | Next::Look) {
            self.times.repeat = Some(Instant::now() + self.repeat.wait);
            self.repeat.wait = (self.repeat.wait * 2).min(LONGEST_LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: Option<Reception> = Some(Reception::Blocked { pending: true });
    const BLOCKED: Option<Reception> = Some(Reception::Blocked { pending: false });
    const OPEN: Option<Reception> = Some(Reception::Open);
    const CAUGHT: Option<Reception> = Some(Reception::Caught);

    #[test]
    fn who_has_a_handler_or_asks_for_it_gets_it_once() {
        assert!(Repeat::of(15, CAUGHT).is_none() && Repeat::of(9, OPEN).is_none());
        let mut asks = Repeat::of(15, BLOCKED).unwrap();
        assert_eq!(
            [PENDING, PENDING, BLOCKED].map(|found| asks.next(found)),
            [Next::Look, Next::Look, Next::Done]
        );
    }

    #[test]
    fn what_was_dropped_is_sent_once_it_is_kept_or_caught() {
        let mut drops = Repeat::of(15, OPEN).unwrap();
        assert_eq!(
            [OPEN, OPEN, CAUGHT].map(|found| drops.next(found)),
            [Next::Look, Next::Look, Next::SendLast]
        );
        let mut unblocks = Repeat::of(15, BLOCKED).unwrap();
        let seen = [PENDING, OPEN, BLOCKED, PENDING, BLOCKED].map(|found| unblocks.next(found));
        assert_eq!(seen, [Next::Look, Next::Look, Next::Send, Next::Look, Next::Done]);
        assert_eq!(unblocks.next(None), Next::Done);
    }
}
