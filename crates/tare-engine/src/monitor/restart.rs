//! Restart policies, with Docker's back-off.

use std::time::{Duration, Instant};

use tare_sys::time::Moment;

use super::{Asked, LISTEN, Monitor};
use crate::container::{Lock, State, Status};
use crate::engine::Engine;
use crate::events::Event;
use crate::request::RestartPolicy;
use crate::stdio::Stdin;

/// The first wait; each one after a short life is twice the one before.
const FIRST: u32 = 100;
/// The longest wait.
const LONGEST: u32 = 60_000;
/// After a life of so many seconds the waits begin anew.
const LONG_LIFE: i64 = 10;

/// How long a restart waits for somebody who is changing what the container is to be, and how often it looks.
const OTHERS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(2);

impl Monitor {
    /// Starts it again: `restart`, or a restart policy.
    pub(super) fn begin_again(&mut self) {
        self.times.restart = None;
        // Who changes its networks or ports at this moment sees it run, or is seen here.
        let Some(alone) = self.alone() else { return };
        let engine = Engine::new(self.roots.clone());
        let prepared = self.folders.record().and_then(|record| {
            self.record = record;
            let (plan, shared, hierarchies) = engine.decide(&self.record, &self.folders)?;
            engine.prepare(&self.record, &self.folders, plan, shared, hierarchies)
        });
        let stdin = Stdin::of(&self.record, None);
        let begun = prepared.and_then(|prepared| self.begin(prepared, stdin, None));
        // Also for a child that has it open.
        alone.iter().for_each(Lock::release);
        let asked = self.asked.take();
        match begun {
            Ok(_) => {
                self.small = false;
                self.times.listen = Some(Instant::now() + LISTEN);
                for client in &mut self.clients {
                    client.done(&Ok(()));
                }
                if asked.is_some() {
                    crate::events::emit(&self.roots, &Event::container(&self.record, "restart"));
                }
            }
            Err(err) => {
                crate::start::cannot_start(&self.roots, &self.record, &self.folders, &err);
                for client in &mut self.clients {
                    client.done(&Err(err.clone()));
                }
                self.leave(false);
            }
        }
    }

    /// Keeps others from changing what the container is to be while it begins again. `None`: somebody is at it, and it
    /// begins a little later. One who takes too long (a stopped command) keeps no container down.
    fn alone(&mut self) -> Option<Option<Lock>> {
        let now = Instant::now();
        let until = *self.others.get_or_insert(now + OTHERS);
        match self.folders.try_change() {
            Ok(None) if now < until => {
                self.times.restart = Some(now + LOOK);
                None
            }
            lock => {
                self.others = None;
                Some(lock.ok().flatten())
            }
        }
    }
}

/// Whether and when a container that has just ended is to be started again; notes it in its status.
pub fn after(
    policy: &RestartPolicy,
    status: &mut Status,
    asked: Option<&Asked>,
    now: Instant,
) -> Option<Instant> {
    match asked {
        Some(Asked::Restart) => return Some(now),
        Some(Asked::Stop) => return None,
        None if status.stopped => return None,
        None => {}
    }
    let failed = status.exit_code != Some(0);
    let count = i64::from(status.restart_count);
    let wanted = match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => failed && (policy.maximum_retry_count == 0 || count < policy.maximum_retry_count),
        _ => false,
    };
    if !wanted {
        return None;
    }
    let seconds = |text: &str| Moment::parse(text).map_or(0, Moment::seconds);
    let long = seconds(&status.finished) - seconds(&status.started) >= LONG_LIFE;
    status.restart_delay = match status.restart_delay {
        0 => FIRST,
        _ if long => FIRST,
        delay => (delay * 2).min(LONGEST),
    };
    status.restart_count += 1;
    status.state = State::Restarting;
    Some(now + Duration::from_millis(status.restart_delay.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, most: i64) -> RestartPolicy {
        RestartPolicy { name: name.into(), maximum_retry_count: most }
    }

    fn ended(code: Option<u8>) -> Status {
        let at = "2026-01-01T00:00:00Z".to_owned();
        Status {
            state: State::Exited,
            exit_code: code,
            started: at.clone(),
            finished: at,
            ..Status::created()
        }
    }

    #[test]
    fn policies_are_dockers() {
        let table: [(&str, i64, Option<u8>, u32, bool); 9] = [
            ("", 0, Some(1), 0, false),
            ("no", 0, Some(1), 0, false),
            ("always", 0, Some(0), 7, true),
            ("unless-stopped", 0, Some(0), 7, true),
            ("on-failure", 0, Some(0), 0, false),
            ("on-failure", 0, Some(1), 99, true),
            ("on-failure", 0, None, 0, true),
            ("on-failure", 3, Some(1), 2, true),
            ("on-failure", 3, Some(1), 3, false),
        ];
        for (name, most, code, count, wanted) in table {
            let mut status = Status { restart_count: count, ..ended(code) };
            let when = after(&policy(name, most), &mut status, None, Instant::now());
            assert_eq!(when.is_some(), wanted, "{name}:{most} {code:?} {count}");
            let state = if wanted { State::Restarting } else { State::Exited };
            assert_eq!((status.state, status.restart_count), (state, count + u32::from(wanted)));
        }
        let mut stopped = Status { stopped: true, ..ended(Some(1)) };
        assert!(after(&policy("always", 0), &mut stopped, None, Instant::now()).is_none());
    }

    #[test]
    fn the_waits_double_up_to_a_minute_and_begin_anew_after_a_long_life() {
        let (policy, now) = (policy("always", 0), Instant::now());
        let mut status = ended(Some(1));
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push((after(&policy, &mut status, None, now).unwrap() - now).as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        status.finished = "2026-01-01T00:00:10Z".to_owned();
        assert_eq!((after(&policy, &mut status, None, now).unwrap() - now).as_millis(), 100);
    }
}
