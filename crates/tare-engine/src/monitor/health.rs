//! When a container's health is looked at, and what follows. The looking itself is another process's: see
//! [`probe`](crate::exec::probe).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use tare_sys::process::{self, Ended};
use tare_sys::spawn::{self, Program};
use tare_sys::time::Moment;

use super::{Asked, Monitor, adopt, sender};
use crate::container::State;
use crate::events::Event;
use crate::exec::probe;
use crate::health::{self, Health, Word};
use crate::stdio;

/// A check that is under way.
pub struct Probe {
    pidfd: OwnedFd,
    /// The container has ended meanwhile: what comes of it means nothing.
    void: bool,
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Monitor {
    /// The container has been started.
    pub(super) fn begin_checking(&mut self) {
        self.health = health::check(&self.record).map(|_| Word::Starting);
        if self.health.is_some() {
            Health::starting().note(&self.folders);
            self.plan_check();
        }
    }

    /// A container that runs has been taken over.
    pub(super) fn go_on_checking(&mut self) {
        let Some(check) = health::check(&self.record) else { return };
        let known = Health::of(&self.folders, &self.record).unwrap_or_else(Health::starting);
        self.health = Some(known.status);
        if self.status.state != State::Running {
            return;
        }
        let pause = check.pause(known.status, self.lived());
        let passed = match known.last() {
            Some(last) => Duration::from_nanos(u64::try_from(Moment::now().0 - last.0).unwrap_or(0)),
            None => self.lived(),
        };
        self.times.probe = Some(Instant::now() + pause.saturating_sub(passed));
    }

    /// It has been frozen, or thawed.
    pub(super) fn pause_checks(&mut self, frozen: bool) {
        self.times.probe = None;
        if !frozen && self.probe.is_none() {
            self.plan_check();
        }
    }

    /// It has ended. Nobody waits for a check that is under way.
    pub(super) fn end_checking(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.void = true;
            let _ = process::signal(probe.pidfd.as_fd(), 9);
        }
        if self.health.take().is_some()
            && let Some(known) = Health::of(&self.folders, &self.record)
        {
            known.keep(&self.folders);
        }
    }

    fn plan_check(&mut self) {
        let (Some(word), Some(check)) = (self.health, health::check(&self.record)) else { return };
        self.times.probe = Instant::now().checked_add(check.pause(word, self.lived()));
    }

    /// It is time to look.
    pub(super) fn check(&mut self) {
        if self.alive.is_none() || self.status.state != State::Running {
            return;
        }
        // One of a life before this one may still be on its way out.
        if self.probe.is_none() {
            let words = adopt::words(probe::NAME, &self.roots, &self.record.id);
            let env = adopt::environment();
            let started = stdio::open_null().and_then(|null| {
                let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
                spawn::spawn(&Program { path: adopt::SELF, args: &words, env: &env, folder: c"/", stdio })
            });
            if let Ok(child) = started {
                self.probe = Some(Probe { pidfd: child.pidfd, void: false });
                return;
            }
        }
        self.plan_check();
    }

    /// The looking has come to an end.
    pub(super) fn checked(&mut self) {
        let Some(Probe { pidfd, void }) = self.probe.take() else { return };
        let word = match process::wait(pidfd.as_fd()) {
            Ok(Ended::Exited(code)) => Word::of_code(code),
            _ => None,
        };
        if void || self.alive.is_none() {
            return;
        }
        if let Some(word) = word {
            if self.health.replace(word) != Some(word) {
                let event = Event::container(&self.record, format!("health_status: {word}"));
                crate::events::emit(&self.roots, &event);
            }
            if word == Word::Unhealthy && self.asked.is_none() {
                self.act_on_failure();
            }
        }
        if self.status.state == State::Running {
            self.plan_check();
        }
    }

    fn act_on_failure(&mut self) {
        // No client waits for it; what cannot be done is tried again after the next check.
        let asks = |monitor: &mut Monitor, asked| drop(monitor.ask_to_end(usize::MAX, asked, None, None));
        match self.record.request.config.healthcheck_on_failure_action.as_str() {
            // A restart policy may start it again.
            "kill" => self.signal(9, sender::HEALTH),
            "restart" => asks(self, Asked::Restart),
            "stop" => asks(self, Asked::Stop),
            _ => {}
        }
    }
}
