//! The end of a container: what is written down, who is told, what is undone. And one that does not come.

use std::time::{Duration, Instant};

use tare_cgroup::{Cgroup, MemoryEvents};
use tare_sys::process::Ended;
use tare_sys::time::Moment;

use super::message::Exit;
use super::{Asked, Monitor, Times, adopt, restart};
use crate::container::State;
use crate::events::Event;
use crate::log::Stream;
use crate::{name_server, network, obstacle, removal};

/// How long a container has to die of SIGKILL until those who wait for that are told what holds it up, as long as Docker's.
const DYING: Duration = Duration::from_secs(10);

impl Monitor {
    /// Its process has ended: writes that down, tells all who wait, and starts it again or cleans up.
    pub(super) fn end(&mut self) {
        let Some(alive) = self.alive.take() else { return };
        self.keeper = None;
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.take_output(stream, true);
        }
        self.log.finish();
        let ended = adopt::how_it_ended(&alive.pidfd, self.status.pid);
        // First of all, because a user's systemd takes the cgroup away by itself; and only after a failure: a container that
        // ended well was not killed.
        let failed = ended.map_or(255, Ended::code) != 0;
        let events = if failed { self.with_cgroup(Cgroup::memory_events).ok() } else { None };
        // Before anybody hears of the end: the next one may want the same port or address.
        // Its sockets hold the network namespace.
        self.names = None;
        self.proxy = None;
        self.ports.clear();
        if self.small || name_server::was_told(&self.roots, &self.record.id) {
            // Since its start it may have been put on others, or taken off.
            self.joined.connections = network::connections(&self.roots, &self.record.id);
        }
        let left = self.joined.leave(&self.roots);
        let exit = self.learn(ended, events);
        network::tell_end(&self.roots, &left, &self.record);
        self.end_checking();
        self.times = Times { listen: self.times.listen, ..Times::default() };
        let again = restart::after(
            &self.record.request.host_config.restart_policy,
            &mut self.status,
            self.asked.as_ref(),
            Instant::now(),
        );
        let removed = again.is_none() && self.record.request.host_config.auto_remove;
        if again.is_none() {
            crate::volume::unmount_unused(&self.roots, &self.record.id, &self.record.mounts);
        }
        if removed {
            removal::to_trash(&self.roots, &self.record);
            // Who hears of the end finds its volumes gone.
            removal::release_volumes(&self.roots, &self.record);
        } else {
            self.note();
        }
        for client in &mut self.clients {
            client.ended(exit, again.is_none());
        }
        // From here on nobody waits for more than the cleaning up.
        drop(alive);
        self.undo_start();
        self.look_after_pool();
        match again {
            Some(when) => {
                self.times.restart = Some(when);
                self.terminal = None;
                if matches!(self.asked, Some(Asked::Restart)) {
                    self.begin_again();
                }
            }
            None => self.leave(removed),
        }
    }

    fn undo_start(&self) {
        let _ = self.with_cgroup(|cgroup| {
            cgroup.remove().or_else(|_| {
                // Processes that do not die with PID 1: it shared the pid namespace of another.
                let _ = cgroup.kill();
                cgroup.remove()
            })
        });
        removal::release_range(&self.roots, &self.record.id, &self.status);
    }

    /// Nothing is left to be in charge of.
    pub(super) fn leave(&mut self, removed: bool) {
        self.over = true;
        self.times = Times::default();
        self.listener = None;
        self.output = [None, None];
        if removed {
            removal::delete_trash(&self.roots, &self.record.id);
        } else if !self.lost {
            removal::delete_run_folder(&self.folders);
        }
        // By a run folder that is left a sweep sees that it has to find out what it can.
        self.lock.release();
        for client in &mut self.clients {
            client.close_when_told();
        }
    }

    /// How it ended, as it is told and written down.
    fn learn(&mut self, ended: Option<Ended>, events: Option<MemoryEvents>) -> Exit {
        let code = ended.map_or(255, Ended::code);
        let exit = Exit {
            code,
            unknown: ended.is_none(),
            oom_killed: events.as_ref().is_some_and(|events| events.oom_kills > 0),
            memory_limit: self.record.request.host_config.memory.max(0) as u64,
        };
        if exit.oom_killed {
            crate::events::emit(&self.roots, &Event::container(&self.record, "oom"));
        }
        let event = Event::container(&self.record, "die").with("exitCode", code);
        crate::events::emit(&self.roots, &event.with("execDuration", self.lived().as_secs()));
        self.status.state = State::Exited;
        self.status.pid = 0;
        self.status.finished = Moment::now().to_string();
        self.status.exit_code = ended.map(Ended::code);
        self.status.oom_killed = exit.oom_killed;
        self.status.memory_peak = events.and_then(|events| events.peak).unwrap_or(0);
        self.status.error = match ended {
            Some(_) => String::new(),
            None => "its monitor was killed, so nobody saw how it ended".to_owned(),
        };
        exit
    }

    pub(super) fn lived(&self) -> Duration {
        let began = Moment::parse(&self.status.started).map_or(0, |moment| moment.0);
        Duration::from_nanos(u64::try_from(Moment::now().0.saturating_sub(began)).unwrap_or(0))
    }

    /// It was sent SIGKILL: that is seldom all, but where it is not, nobody shall wait in vain.
    pub(super) fn expect_death(&mut self) {
        self.times.death.get_or_insert_with(|| Instant::now() + DYING);
    }

    /// It should be dead. Whoever has ordered that hears why it is not; when it is, it is cleaned up as ever.
    pub(super) fn look_at_death(&mut self) {
        if self.alive.is_none() {
            return;
        }
        let err = obstacle::to_death(&self.record.name, self.status.pid);
        for client in &mut self.clients {
            client.done(&Err(err.clone()));
        }
    }
}
