//! A command that is connected to the monitor, and what it has asked for.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use tare_cgroup::Cgroup;
use tare_sys::channel::Channel;
use tare_sys::{Error, Kind, Result};

use super::message::{self, Exit, Message, Order};
use super::{Asked, Monitor};
use crate::container::State;
use crate::events::Event;
use crate::log::Stream;

/// Milliseconds that `stop` waits where neither the caller nor the container says otherwise.
const STOP_TIMEOUT: u64 = 10_000;
/// Longest order, bytes.
const LONGEST: usize = 4096;

/// A connected command.
pub struct Client {
    channel: Channel,
    /// It started the container and stays in the foreground: output waits for it, and none is left out.
    pub starter: bool,
    /// The outputs that it wants.
    pub wants: [bool; 2],
    /// It wants to know how the container ends.
    pub waits: bool,
    /// It waits for the end of an order that takes time.
    ordered: bool,
    queue: VecDeque<Vec<u8>>,
    skipped: u64,
    closing: bool,
    pub gone: bool,
}

impl Client {
    pub fn new(channel: Channel) -> Client {
        Client {
            channel,
            starter: false,
            wants: [false, false],
            waits: false,
            ordered: false,
            queue: VecDeque::new(),
            skipped: 0,
            closing: false,
            gone: false,
        }
    }

    /// Tells it something, when it can be told.
    pub fn tell(&mut self, message: &Message, files: &[BorrowedFd<'_>]) {
        if files.is_empty() {
            self.queue.push_back(message.encode());
            self.flush();
        } else if self.channel.offer(&message.encode(), files).is_err() {
            // A command that was killed is no reason to stop, and one that reads nothing none to wait.
            self.gone = true;
        }
    }

    /// Passes output on.
    pub fn pass(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.wants[stream as usize] {
            return;
        }
        if self.starter || (self.queue.is_empty() && self.skipped == 0) {
            self.queue.push_back(message::output(stream, bytes));
            self.flush();
            if !self.starter && !self.queue.is_empty() {
                self.queue.clear();
                self.skipped = bytes.len() as u64;
            }
        } else {
            self.skipped += bytes.len() as u64;
        }
    }

    /// Sends what waits, as far as it goes.
    pub fn flush(&mut self) {
        if self.skipped > 0 {
            match self.channel.offer(&Message::Skipped(self.skipped).encode(), &[]) {
                Ok(()) => self.skipped = 0,
                Err(Errno::AGAIN) => return,
                Err(_) => self.gone = true,
            }
        }
        while let Some(next) = self.queue.front() {
            match self.channel.offer(next, &[]) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        self.gone |= self.closing && self.queue.is_empty();
    }

    /// Whether there is more to send than it has taken.
    pub fn has_more(&self) -> bool {
        !self.queue.is_empty() || self.skipped > 0
    }

    /// Whether output has to wait for it.
    pub fn holds_up(&self) -> bool {
        self.starter && !self.queue.is_empty()
    }

    /// The container has ended; `for_good`: as somebody has ordered.
    pub fn ended(&mut self, exit: Exit, for_good: bool) {
        if self.waits {
            self.tell(&Message::Ended(exit), &[]);
            self.waits = false;
            self.wants = [false, false];
            self.starter = false;
        }
        if for_good {
            self.done(&Ok(()));
        }
    }

    /// The order that it waits for has been carried out, or cannot be.
    pub fn done(&mut self, result: &Result<()>) {
        if std::mem::take(&mut self.ordered) {
            match result {
                Ok(()) => self.tell(&Message::Done, &[]),
                Err(err) => self.tell(&Message::Failed(err.clone()), &[]),
            }
        }
    }

    /// The monitor leaves: what has been said still gets through.
    pub fn close_when_told(&mut self) {
        self.done(&Ok(()));
        self.closing = true;
        self.flush();
    }

    /// The connection.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    pub fn is_done(&self) -> bool {
        self.gone || (self.queue.is_empty() && self.skipped == 0)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Monitor {
    /// A client has something to say, can take more, or is gone.
    pub(super) fn hear(&mut self, at: usize, events: PollFlags) {
        let Some(client) = self.clients.get_mut(at) else { return };
        if events.contains(PollFlags::OUT) {
            client.flush();
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let mut buffer = [0; LONGEST];
        let order = match client.channel.receive(&mut buffer) {
            Ok(Some((length, _))) => serde_json::from_slice::<Order>(&buffer[..length]),
            Ok(None) | Err(_) => {
                client.gone = true;
                return;
            }
        };
        if self.over {
            // It has just ended for good, and nothing of it is ours any more. Who asks hears the end of the connection.
            return;
        }
        let Ok(order) = order else {
            client.tell(
                &Message::Failed(
                    Error::new(Kind::Unsupported, "the monitor does not know this order")
                        .hint("it is of another version of tare: stop and start the container"),
                ),
                &[],
            );
            return;
        };
        let result = self.obey(at, order);
        if let Some(client) = self.clients.get_mut(at) {
            match result {
                Ok(true) => client.tell(&Message::Done, &[]),
                // It is told when the time comes.
                Ok(false) => {}
                Err(err) => client.tell(&Message::Failed(err), &[]),
            }
        }
    }

    /// Carries out an order; `true`: it is done, `false`: the answer comes later.
    fn obey(&mut self, at: usize, order: Order) -> Result<bool> {
        match order {
            Order::Attach(wants) => {
                // It stays where it is: more of the table's clients may have to be heard in this turn.
                let Some(client) = self.clients.get_mut(at) else { return Ok(false) };
                self.times.take = None;
                client.wants = wants;
                client.waits = true;
                let Some(alive) = &self.alive else { return Err(not_running()) };
                client.tell(&Message::Started(Vec::new()), &alive.ways_in(self.terminal.as_ref()));
                Ok(false)
            }
            Order::Wait => {
                if let Some(client) = self.clients.get_mut(at) {
                    client.waits = true;
                }
                Ok(false)
            }
            Order::Kill(signal) => {
                if self.alive.is_none() {
                    return Err(not_running());
                }
                let ends = signal == 9 || signal == self.record.stop_signal;
                if ends {
                    self.intend_stop();
                }
                let sender = self.sender(at);
                self.signal(signal, &sender);
                if ends && signal != 9 && self.status.state == State::Paused {
                    // Frozen it could not obey.
                    self.freeze(false)?;
                }
                if let (9, Some(client)) = (signal, self.clients.get_mut(at)) {
                    // Done with its end.
                    client.ordered = true;
                }
                Ok(signal != 9)
            }
            Order::Stop(signal, timeout) => self.ask_to_end(at, Asked::Stop, signal, timeout),
            Order::Restart(signal, timeout) => self.ask_to_end(at, Asked::Restart, signal, timeout),
            Order::Pause => self.freeze(true),
            Order::Unpause => self.freeze(false),
            Order::Reread => {
                self.record = self.folders.record()?;
                Ok(true)
            }
            Order::Republish => {
                if self.alive.is_none() {
                    return Err(not_running());
                }
                self.republish().map(|()| true)
            }
        }
    }

    /// From here on no restart policy brings it back, whoever is killed next.
    fn intend_stop(&mut self) {
        if !std::mem::replace(&mut self.status.stopped, true) {
            self.note();
        }
    }

    pub(super) fn ask_to_end(
        &mut self,
        at: usize,
        asked: Asked,
        signal: Option<i32>,
        timeout: Option<u64>,
    ) -> Result<bool> {
        if let Some(client) = self.clients.get_mut(at) {
            client.ordered = true;
        }
        let restarts = matches!(asked, Asked::Restart);
        self.asked = Some(asked);
        if self.alive.is_none() {
            // Between two lives.
            if restarts {
                self.begin_again();
            } else {
                self.intend_stop();
                self.status.state = State::Exited;
                self.note();
                self.times.restart = None;
                self.leave(false);
            }
            return Ok(false);
        }
        if !restarts {
            self.intend_stop();
        }
        let own = self.record.request.config.stop_timeout.map(|seconds| u64::from(seconds) * 1000);
        let timeout = Duration::from_millis(timeout.or(own).unwrap_or(STOP_TIMEOUT));
        let signal = signal.unwrap_or(self.record.stop_signal);
        let sender = self.sender(at);
        self.send_to_stop(signal, &sender);
        if self.status.state == State::Paused {
            // Frozen it could not obey.
            self.freeze(false)?;
        }
        // One that was killed is not killed again.
        self.times.kill = (signal != 9).then(|| Instant::now() + timeout);
        Ok(false)
    }

    fn freeze(&mut self, freeze: bool) -> Result<bool> {
        let (from, to, word) = match freeze {
            true => (State::Running, State::Paused, "paused"),
            false => (State::Paused, State::Running, "not paused"),
        };
        if self.alive.is_none() {
            return Err(not_running());
        }
        if self.status.state != from {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "the container {} is {}",
                    self.record.name,
                    match freeze {
                        true => "already paused",
                        false => word,
                    }
                ),
            ));
        }
        self.with_cgroup(if freeze { Cgroup::freeze } else { Cgroup::thaw })?;
        self.status.state = to;
        self.note();
        self.pause_checks(freeze);
        let event = if freeze { "pause" } else { "unpause" };
        crate::events::emit(&self.roots, &Event::container(&self.record, event));
        Ok(true)
    }
}

fn not_running() -> Error {
    Error::new(Kind::Conflict, "the container is not running").hint("`tare ps` lists those that are")
}
