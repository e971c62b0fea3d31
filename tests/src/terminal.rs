//! A command under a terminal: what a person types, sees, and does to the window.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::command::Tare;
use crate::patience::stretched;
use crate::process;

/// How long a test waits for something to appear on the screen, or for the command to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with a command in it.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    /// Our own hold of the command's side: it keeps the screen readable, and shows the mode it was left in.
    slave: OwnedFd,
    child: Child,
    screen: Arc<Screen>,
    before: Modes,
}

/// The parts of a terminal's mode that raw mode changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Modes(String);

#[derive(Debug, Default)]
struct Screen {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: Vec<u8>,
    /// Everything before this has been matched by an `expect`.
    seen: usize,
    /// Nobody looks any more.
    over: bool,
}

impl Terminal {
    /// Starts the command in a new terminal of the given size.
    #[track_caller]
    pub fn start(command: Tare, rows: u16, columns: u16) -> Terminal {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .expect("opening the command's side of the terminal");
        resize(&master, rows, columns);
        let before = Modes::of(&slave);

        // setsid --ctty does what safe Rust cannot do between fork and exec: a session of its own, with this
        // terminal in control, so that ^C and window sizes reach the command as from a real one.
        let inner = command.into_command();
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg("--").arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let side = || Stdio::from(slave.try_clone().expect("another hold of the terminal"));
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("starting setsid");

        let screen = Arc::new(Screen::default());
        let (reader, shared) =
            (master.try_clone().expect("another hold of the terminal"), Arc::clone(&screen));
        thread::spawn(move || shared.fill(reader));
        Terminal { master, slave, child, screen, before }
    }

    /// The number of the command's process.
    pub fn id(&self) -> i32 {
        self.child.id().try_into().expect("process numbers are small")
    }

    /// Types text.
    pub fn types(&self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let written = rustix::io::write(&self.master, rest).expect("typing");
            rest = &rest[written..];
        }
    }

    /// Waits until the screen shows `text` after what was matched before; gives what came up to its end.
    #[track_caller]
    pub fn expect(&self, text: &str) -> String {
        let start = Instant::now();
        let mut state = self.screen.state.lock().expect("nobody panics while reading");
        loop {
            let fresh = String::from_utf8_lossy(&state.text[state.seen..]).into_owned();
            if let Some(at) = find(&state.text[state.seen..], text.as_bytes()) {
                let from = state.seen;
                state.seen = from + at + text.len();
                return String::from_utf8_lossy(&state.text[from..state.seen]).into_owned();
            }
            let left = stretched(PATIENCE).saturating_sub(start.elapsed());
            if left.is_zero() {
                drop(state);
                panic!("the screen does not show {text:?}, but {fresh:?}");
            }
            state = self.screen.changed.wait_timeout(state, left).expect("nobody panics while reading").0;
        }
    }

    /// Everything that has been on the screen.
    pub fn screen(&self) -> String {
        let state = self.screen.state.lock().expect("nobody panics while reading");
        String::from_utf8_lossy(&state.text).into_owned()
    }

    /// Gives the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    /// The mode now.
    pub fn modes(&self) -> Modes {
        Modes::of(&self.slave)
    }

    /// Waits for the command's end and gives its exit code; a death by signal n is 128 + n.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting for a child of our own") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(
                start.elapsed() < stretched(PATIENCE),
                "the command does not end; the screen: {:?}",
                self.screen()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The terminal is as it was before the command: whoever has to type `reset` is angry.
    #[track_caller]
    pub fn is_restored(&self) {
        assert_eq!(self.modes(), self.before, "the terminal was left in another mode");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(mut state) = self.screen.state.lock() {
            state.over = true;
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            process::signal(self.id(), rustix::process::Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Modes {
    fn of(fd: &OwnedFd) -> Modes {
        let modes = tcgetattr(fd).expect("the terminal's mode");
        Modes(format!(
            "{:?} {:?} {:?} {:?}",
            modes.input_modes, modes.output_modes, modes.control_modes, modes.local_modes
        ))
    }
}

impl Screen {
    /// Copies what appears to where tests can look, until the terminal or the test is over.
    fn fill(&self, master: OwnedFd) {
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut file = std::fs::File::from(master);
        let mut buffer = [0; 4096];
        loop {
            let mut ready = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
            let readable = poll(&mut ready, Some(&tick));
            if self.state.lock().map_or(true, |state| state.over) {
                return;
            }
            if !matches!(readable, Ok(1..)) {
                continue;
            }
            match file.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    if let Ok(mut state) = self.state.lock() {
                        state.text.extend_from_slice(&buffer[..length]);
                    }
                    self.changed.notify_all();
                }
            }
        }
    }
}

fn resize(master: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("setting the size of the window");
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tare {
        // A shell cannot trap what was ignored when it began, as it is in the background of another.
        let mut command = Command::new("env");
        command.args(["--default-signal", "sh", "-c", script]);
        Tare::of(command)
    }

    #[test]
    fn a_command_sees_a_terminal_of_the_size_that_it_has_now() {
        let mut terminal = Terminal::start(
            shell("stty size; trap 'stty size; exit 3' WINCH; echo on; while :; do sleep 0.1; done"),
            24,
            80,
        );
        terminal.expect("24 80");
        terminal.expect("on");
        terminal.resize(30, 100);
        terminal.expect("30 100");
        assert_eq!(terminal.wait(), 3);
        terminal.is_restored();
    }

    #[test]
    fn control_c_interrupts_and_a_changed_mode_is_noticed() {
        let mut terminal = Terminal::start(
            shell("trap 'exit 3' INT; stty -echo; echo on; while :; do sleep 0.1; done"),
            24,
            80,
        );
        terminal.expect("on");
        assert_ne!(terminal.modes(), terminal.before);
        terminal.types("\x03");
        assert_eq!(terminal.wait(), 3);
    }
}
