//! Between the caller's stdin, stdout and terminal and those of a process started by `exec`.
//!
//! As in [`attach`](crate::attach) nothing here blocks but poll(2): a slow reader holds up no signal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tare_runtime::launch::Joined;
use tare_sys::process;
use tare_sys::signal::SignalFd;
use tare_sys::tty::{self, RawMode};
use tare_sys::{Context, Result};

use super::{ExecRequest, Outside, how_it_ended};
use crate::attach::{Keys, write_some};
use crate::stdio;

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
    /// Come from the process, not yet written: from which output, and what.
    piece: Option<(usize, Vec<u8>)>,
    /// It has ended with this code; what is left is output.
    ended: Option<u8>,
    /// How many bytes of each output are taken after that, at most: what it leaves behind may write without end.
    rest: [usize; 2],
    keys: Keys,
    left: bool,
    signals: SignalFd,
}

/// Passes everything on until the process ends or the caller leaves; answers the exit code.
pub fn relay(mut joined: Joined, outside: Outside, request: &ExecRequest) -> Result<u8> {
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
        piece: None,
        ended: None,
        rest: [0, 0],
        keys: request.keys.clone(),
        left: false,
        signals,
    };
    let code = relay.work(request.tty)?;
    drop(raw);
    if relay.left {
        eprintln!("read escape sequence");
        if let Some(terminal) = &relay.output[0] {
            keep_terminal(terminal)?;
        }
    }
    Ok(code)
}

impl Relay {
    fn work(&mut self, tty: bool) -> Result<u8> {
        loop {
            self.take_rest();
            if let (Some(code), None) = (self.ended, &self.piece) {
                return Ok(code);
            }
            let runs = self.ended.is_none();
            let stdin = rustix::stdio::stdin();
            let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
            let told = add(&mut fds, runs.then_some(self.joined.told.as_fd()), PollFlags::IN);
            // Output that waits is written before more is taken: the pipe holds the rest.
            let takes = runs && self.piece.is_none();
            let outputs = self
                .output
                .each_ref()
                .map(|file| add(&mut fds, file.as_ref().filter(|_| takes).map(AsFd::as_fd), PollFlags::IN));
            let target = add(&mut fds, self.piece.as_ref().map(|(at, _)| target(*at)), PollFlags::OUT);
            let takes_input = runs && self.takes_input && self.input.is_empty();
            let input = add(&mut fds, takes_input.then_some(stdin), PollFlags::IN);
            let sink = self.sink.as_ref().filter(|_| runs && !self.input.is_empty());
            let feed = add(&mut fds, sink.map(AsFd::as_fd), PollFlags::OUT);
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).doing(|| "poll(exec)"),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let is = |slot: Option<usize>| slot.is_some_and(|at| ready[at]);
            if ready[0]
                && let Some(code) = self.take_signals(tty)?
            {
                return Ok(code);
            }
            if is(target) {
                self.write_output();
            }
            for (at, slot) in outputs.into_iter().enumerate() {
                if is(slot) && self.piece.is_none() {
                    self.take(at);
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
            if is(told) {
                self.ended = Some(how_it_ended(&self.joined));
                self.rest = self.output.each_ref().map(|file| file.as_ref().map_or(0, stdio::at_most));
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

    /// Takes the next piece of what a process that has ended has left.
    fn take_rest(&mut self) {
        for at in 0..2 {
            while self.piece.is_none() && self.rest[at] > 0 {
                let taken = self.take(at);
                self.rest[at] = if taken == 0 { 0 } else { self.rest[at].saturating_sub(taken) };
            }
        }
    }

    /// Takes one piece of output; how many bytes there were.
    fn take(&mut self, at: usize) -> usize {
        let Some(file) = &self.output[at] else { return 0 };
        let mut buffer = vec![0; CHUNK];
        match rustix::io::retry_on_intr(|| rustix::io::read(file, &mut buffer[..])) {
            Ok(length @ 1..) => {
                buffer.truncate(length);
                self.piece = Some((at, buffer));
                length
            }
            Err(Errno::AGAIN) => 0,
            // A terminal whose other side is closed answers EIO: its end of file.
            Ok(_) | Err(_) => {
                self.output[at] = None;
                0
            }
        }
    }

    fn write_output(&mut self) {
        let Some((at, mut bytes)) = self.piece.take() else { return };
        match write_some(target(at), &mut bytes) {
            Ok(()) if bytes.is_empty() => {}
            Ok(()) => self.piece = Some((at, bytes)),
            // Our reader is gone: so is theirs.
            Err(_) => self.output[at] = None,
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
}

/// The caller has left: somebody has to hold the terminal, or it would hang up.
fn keep_terminal(terminal: &OwnedFd) -> Result<()> {
    if process::fork()?.is_some() {
        return Ok(());
    }
    let _ = rustix::process::setsid();
    let _ = rustix::fs::fcntl_setfl(terminal, OFlags::empty());
    if let Ok(null) = stdio::open_null() {
        let _ = (0..3).try_for_each(|target| process::dup_onto(null.as_fd(), target));
    }
    let mut buffer = [0; CHUNK];
    while rustix::io::read(terminal, &mut buffer).is_ok_and(|length| length > 0) {}
    process::exit_now(0)
}

fn target(at: usize) -> BorrowedFd<'static> {
    if at == 0 { rustix::stdio::stdout() } else { rustix::stdio::stderr() }
}

/// Adds a file, if there is one, and answers its place in the list.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, file: Option<BorrowedFd<'a>>, flags: PollFlags) -> Option<usize> {
    fds.push(PollFd::from_borrowed_fd(file?, flags));
    Some(fds.len() - 1)
}
