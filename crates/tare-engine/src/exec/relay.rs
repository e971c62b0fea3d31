//! Between the caller's stdin, stdout and terminal and those of a process started by `exec`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tare_runtime::launch::Joined;
use tare_sys::process;
use tare_sys::signal::SignalFd;
use tare_sys::tty::{self, RawMode};
use tare_sys::{Context, Result};

use super::{ExecRequest, Outside, how_it_ended};
use crate::attach::Keys;

/// Bytes taken at once.
const CHUNK: usize = 16 * 1024;
const SIGWINCH: i32 = 28;
/// What asks a command to end: HUP, INT, QUIT, TERM. The process inside goes on, as under Docker.
const ENDING: [i32; 4] = [1, 2, 3, 15];

struct Relay {
    joined: Joined,
    /// Where input goes; `None`: it has ended.
    sink: Option<OwnedFd>,
    takes_input: bool,
    input: Vec<u8>,
    output: [Option<OwnedFd>; 2],
    keys: Keys,
    left: bool,
    signals: SignalFd,
}

/// Passes everything on until the process ends, the caller leaves, or the time is up; answers the exit code.
pub fn relay(
    mut joined: Joined,
    outside: Outside,
    request: &ExecRequest,
    deadline: Option<Instant>,
) -> Result<u8> {
    tare_sys::signal::block_all()?;
    let signals = SignalFd::new()?;
    let Outside { stdin, mut output, theirs } = outside;
    // Ours of their ends: the last one closes a pipe.
    drop(theirs);
    let (mut raw, mut sink) = (None, stdin);
    if let Some(terminal) = joined.running.terminal.take() {
        if request.stdin {
            let stdin = rustix::stdio::stdin();
            raw = rustix::termios::isatty(stdin).then(|| RawMode::enter(stdin)).transpose()?;
            sink = Some(terminal.try_clone().doing(|| "dup(terminal)")?);
        }
        output[0] = Some(terminal);
    }
    for file in output.iter().chain([&sink]).flatten() {
        rustix::fs::fcntl_setfl(file, OFlags::NONBLOCK).doing(|| "fcntl(O_NONBLOCK)")?;
    }
    let mut relay = Relay {
        joined,
        takes_input: sink.is_some(),
        sink,
        input: Vec::new(),
        output,
        keys: request.keys.clone(),
        left: false,
        signals,
    };
    let code = relay.work(request.tty, deadline)?;
    drop(raw);
    if relay.left {
        eprintln!("read escape sequence");
        relay.keep_terminal()?;
    }
    Ok(code)
}

impl Relay {
    fn work(&mut self, tty: bool, deadline: Option<Instant>) -> Result<u8> {
        loop {
            let timeout = deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
            });
            let stdin = rustix::stdio::stdin();
            let mut fds = vec![
                PollFd::new(&self.joined.told, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            let outputs = [
                add(&mut fds, self.output[0].as_ref().map(AsFd::as_fd), PollFlags::IN),
                add(&mut fds, self.output[1].as_ref().map(AsFd::as_fd), PollFlags::IN),
            ];
            let input =
                add(&mut fds, (self.takes_input && self.input.is_empty()).then_some(stdin), PollFlags::IN);
            let feed = add(
                &mut fds,
                self.sink.as_ref().map(AsFd::as_fd).filter(|_| !self.input.is_empty()),
                PollFlags::OUT,
            );
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(0) => {
                    // Its reaper takes the program with it.
                    process::signal(self.joined.running.child.pidfd.as_fd(), 9)?;
                    return Ok(128 + 9);
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).doing(|| "poll(exec)"),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let is = |slot: Option<usize>| slot.is_some_and(|at| ready[at]);
            if ready[1]
                && let Some(code) = self.take_signals(tty)?
            {
                return Ok(code);
            }
            for (at, slot) in outputs.into_iter().enumerate() {
                if is(slot) {
                    self.pass(at);
                }
            }
            if is(input) {
                self.read_input(tty);
                if self.left {
                    return Ok(0);
                }
            }
            if is(feed) {
                self.feed();
            }
            if ready[0] {
                let code = how_it_ended(&self.joined);
                for at in 0..2 {
                    while self.pass(at) {}
                }
                return Ok(code);
            }
        }
    }

    fn take_signals(&mut self, tty: bool) -> Result<Option<u8>> {
        while let Some(number) = self.signals.next()? {
            if number == SIGWINCH && tty {
                if let (Some(terminal), Some((columns, rows))) =
                    (&self.output[0], tty::size(rustix::stdio::stdin()))
                {
                    let _ = tty::set_size(terminal, columns, rows);
                }
            } else if ENDING.contains(&number) {
                return Ok(Some(128 + number as u8));
            }
        }
        Ok(None)
    }

    /// Passes one piece of output on; whether there was one.
    fn pass(&mut self, at: usize) -> bool {
        let Some(file) = &self.output[at] else { return false };
        let mut buffer = [0; CHUNK];
        match rustix::io::read(file, &mut buffer) {
            Ok(length @ 1..) => {
                let target = if at == 0 { rustix::stdio::stdout() } else { rustix::stdio::stderr() };
                if !write_all(target, &buffer[..length]) {
                    // Our reader is gone: so is theirs.
                    self.output[at] = None;
                }
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // A terminal whose other side is closed answers EIO: its end of file.
            Ok(_) | Err(_) => {
                self.output[at] = None;
                false
            }
        }
    }

    fn read_input(&mut self, tty: bool) {
        let mut buffer = vec![0; CHUNK];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(length @ 1..) => {
                buffer.truncate(length);
                self.left = tty && self.keys.find(&mut buffer);
                self.input = buffer;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                self.takes_input = false;
                if !tty {
                    self.sink = None;
                }
            }
        }
    }

    fn feed(&mut self) {
        let Some(sink) = &self.sink else { return };
        match rustix::io::write(sink, &self.input) {
            Ok(written) => drop(self.input.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.input.clear();
                self.takes_input = false;
                self.sink = None;
            }
        }
    }

    /// The caller has left: somebody has to hold the terminal, or it would hang up.
    fn keep_terminal(&mut self) -> Result<()> {
        if process::fork()?.is_some() {
            return Ok(());
        }
        let _ = rustix::process::setsid();
        if let Some(terminal) = &self.output[0] {
            let _ = rustix::fs::fcntl_setfl(terminal, OFlags::empty());
            if let Ok(null) = crate::stdio::open_null() {
                let _ = (0..3).try_for_each(|target| process::dup_onto(null.as_fd(), target));
            }
            let mut buffer = [0; CHUNK];
            while rustix::io::read(terminal, &mut buffer).is_ok_and(|length| length > 0) {}
        }
        process::exit_now(0)
    }
}

/// Adds a file, if there is one, and answers its place in the list.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, file: Option<BorrowedFd<'a>>, flags: PollFlags) -> Option<usize> {
    fds.push(PollFd::from_borrowed_fd(file?, flags));
    Some(fds.len() - 1)
}

fn write_all(target: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(target, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(target, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}
