//! Who asks something of a monitor: told by the kernel, for whoever later wants to know who sent a signal.

use std::fs;
use std::os::fd::AsFd;

use tare_cgroup::Cgroup;
use tare_sys::channel::Channel;
use tare_sys::{process, rootless};

use super::Monitor;
use crate::container::State;
use crate::events::Event;

/// A monitor's own reason.
pub const HEALTH: &str = "tare, because its health check failed";
/// The same.
pub const TIMEOUT: &str = "tare, because its time to stop was up";

/// `tare stop (pid 77, uid 0), run by bash (33) for anna`; what cannot be seen is left out.
fn of(channel: &Channel) -> String {
    let Some((pid, uid)) = channel.peer() else { return "tare".to_owned() };
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let words = read("cmdline");
    let environment = read("environ");
    let user = environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"SUDO_USER="));
    let user = user.map(|user| String::from_utf8_lossy(user).into_owned());
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = parent.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
    // An ordinary user's ids are those of a machine in which everybody is root.
    let uid = if rootless::is_on() { String::new() } else { format!(", uid {uid}") };
    let run_by = crate::events::run_by(parent, user.as_deref());
    format!("{} (pid {pid}{uid}){run_by}", command(&words))
}

impl Monitor {
    /// Sends it a signal, and tells who wanted that.
    pub(super) fn signal(&mut self, number: i32, by: &str) {
        let Some(alive) = &self.alive else { return };
        let _ = process::signal(alive.pidfd.as_fd(), number);
        if number == 9 {
            self.expect_death();
        }
        let event = Event::container(&self.record, "kill").with("signal", number).with("by", by);
        crate::events::emit(&self.roots, &event);
        if self.status.state == State::Paused && number == 9 {
            // On cgroup v1 the frozen do not die.
            let _ = self.with_cgroup(Cgroup::thaw);
        }
    }

    /// Who asks; nobody who is connected: the monitor itself.
    pub(super) fn sender(&self, at: usize) -> String {
        self.clients.get(at).map_or_else(|| HEALTH.to_owned(), |client| of(client.channel()))
    }
}

/// A process's command, such as `tare stop`, of a whole command line: what comes after may be long, and secret.
pub fn command(words: &[u8]) -> String {
    let mut words = words.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy);
    let mut command = "tare".to_owned();
    if let Some(verb) = words.find(|word| !word.is_empty() && !word.starts_with('-')) {
        command = format!("{command} {verb}");
        if verb == "container"
            && let Some(verb) = words.next()
        {
            command = format!("{command} {verb}");
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_without_what_it_was_given() {
        for (words, told) in [
            ("tare\0stop\0-s\0TERM\0web\0", "tare stop"),
            ("/usr/bin/tare\0--debug\0kill\0web\0", "tare kill"),
            ("tare\0container\0rm\0-f\0web\0", "tare container rm"),
            ("tare\0run\0-e\0PASSWORD=x\0", "tare run"),
            ("tare\0", "tare"),
            ("", "tare"),
        ] {
            assert_eq!(command(words.as_bytes()), told, "{words:?}");
        }
    }
}
