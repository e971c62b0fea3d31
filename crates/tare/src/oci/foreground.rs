//! Standing between a container's process and whoever called: signals, the terminal, the exit code.
//!
//! Without a terminal the process has our own stdin, stdout and stderr, and only signals pass through here.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tare_runtime::container::Started;
use tare_sys::process::{self, Child, Ended};
use tare_sys::signal::{self, SignalFd};
use tare_sys::tty::{self, RawMode};
use tare_sys::{Context, Result};

/// Bytes taken at once.
const CHUNK: usize = 16 * 1024;
/// What a terminal takes for end of file (`VEOF`, termios(3)) unless its process chose another.
const END_OF_FILE: u8 = 4;

/// How long to leave a terminal alone that nobody has open.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

const SIGPIPE: i32 = 13;
const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;

/// Ready to wait for a process that is not started yet.
pub struct Foreground {
    signals: SignalFd,
}

/// Gets ready, so that no signal is lost, however soon the process ends. With `adopts`, processes that lose their
/// parent come to us (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub fn prepare(adopts: bool) -> Result<Foreground> {
    if adopts {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .doing(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    }
    // Where a caller ignored SIGCHLD, the kernel would reap our children, and their exit codes with them.
    signal::reset(1 << (SIGCHLD - 1));
    signal::block_all()?;
    Ok(Foreground { signals: SignalFd::new()? })
}

struct Relay {
    signals: SignalFd,
    child: Child,
    terminal: Option<Terminal>,
    ended: Option<Ended>,
}

/// What a terminal is passed between.
#[derive(Clone, Copy)]
enum Side {
    Theirs,
    Stdin,
    Stdout,
}

/// The process's terminal and ours.
struct Terminal {
    /// Our side of the process's.
    theirs: OwnedFd,
    /// Nothing more comes from the caller.
    input_ended: bool,
    /// Read from the caller, not yet taken by the process.
    input: VecDeque<u8>,
    /// Come from the process, not yet written; `None` when nobody reads it any more.
    output: Option<VecDeque<u8>>,
    /// Nobody has the process's side open now.
    hung_up: bool,
    /// What gives the caller's terminal its mode back.
    _raw: Option<RawMode<BorrowedFd<'static>>>,
}

impl Foreground {
    /// Passes everything on until the process ends.
    pub fn relay(self, started: Started) -> Result<Ended> {
        let terminal = started.terminal.map(Terminal::new).transpose()?;
        let mut relay = Relay { signals: self.signals, child: started.child, terminal, ended: None };
        loop {
            if let Some(ended) = relay.ended {
                relay.finish();
                return Ok(ended);
            }
            relay.turn()?;
        }
    }
}

impl Relay {
    /// Waits for what can be done next, and does it.
    fn turn(&mut self) -> Result<()> {
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.child.pidfd, PollFlags::IN)];
        let wanted = self.terminal.as_ref().map(Terminal::wanted).unwrap_or_default();
        for (side, flags) in &wanted {
            let terminal = self.terminal.as_ref().map(|terminal| terminal.theirs.as_fd());
            let fd = match side {
                Side::Theirs => terminal.unwrap_or(rustix::stdio::stdin()),
                Side::Stdin => rustix::stdio::stdin(),
                Side::Stdout => rustix::stdio::stdout(),
            };
            fds.push(PollFd::from_borrowed_fd(fd, *flags));
        }
        let hung_up = self.terminal.as_ref().is_some_and(|terminal| terminal.hung_up);
        match rustix::event::poll(&mut fds, hung_up.then_some(&LOOK_AGAIN)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno).doing(|| "poll(the container's process)"),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        if !ready[0].is_empty() {
            self.take_signals()?;
        }
        if !ready[1].is_empty() {
            self.reap()?;
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.hung_up = false;
            for ((side, _), ready) in wanted.iter().zip(&ready[2..]) {
                terminal.pass(*side, *ready);
            }
            if hung_up {
                terminal.read_output();
            }
        }
        Ok(())
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Some(number) = self.signals.next()? {
            match (number, &self.terminal) {
                (SIGCHLD, _) => self.reap()?,
                (SIGWINCH, Some(terminal)) => terminal.follow_size(),
                // Ours: what we write has no reader any more.
                (SIGPIPE, Some(_)) => {}
                (number, _) => process::signal(self.child.pidfd.as_fd(), number)?,
            }
        }
        Ok(())
    }

    /// Takes the exit codes of all children that have ended: the process's, and those of adopted ones.
    fn reap(&mut self) -> Result<()> {
        while let Some((pid, ended)) = process::reap_any()? {
            if pid == self.child.pid {
                self.ended = Some(ended);
            }
        }
        Ok(())
    }

    /// Writes what the process has said until its end. Others that hold its terminal open do not count.
    fn finish(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        loop {
            while terminal.output_waits() {
                terminal.write_output();
            }
            if !terminal.read_output() {
                return;
            }
        }
    }
}

impl Terminal {
    fn new(theirs: OwnedFd) -> Result<Terminal> {
        rustix::fs::fcntl_setfl(&theirs, OFlags::RDWR | OFlags::NONBLOCK)
            .doing(|| "fcntl(terminal, O_NONBLOCK)")?;
        let stdin = rustix::stdio::stdin();
        let raw = rustix::termios::isatty(stdin).then(|| RawMode::enter(stdin)).transpose()?;
        let terminal = Terminal {
            theirs,
            input_ended: false,
            input: VecDeque::new(),
            output: Some(VecDeque::new()),
            hung_up: false,
            _raw: raw,
        };
        terminal.follow_size();
        Ok(terminal)
    }

    fn follow_size(&self) {
        if let Some((columns, rows)) = tty::size(rustix::stdio::stdin()) {
            // A terminal that is just closing has no use for it.
            let _ = tty::set_size(&self.theirs, columns, rows);
        }
    }

    fn output_waits(&self) -> bool {
        self.output.as_ref().is_some_and(|output| !output.is_empty())
    }

    /// What to wait for. Nobody is read from before the last bytes have been taken, so a side that does not read
    /// holds up the other side alone. What is not waited for is left out: poll(2) would report its end for ever.
    fn wanted(&self) -> Vec<(Side, PollFlags)> {
        let mut wanted = Vec::new();
        let mut theirs = PollFlags::empty();
        theirs.set(PollFlags::IN, !self.output_waits());
        theirs.set(PollFlags::OUT, !self.input.is_empty());
        if !theirs.is_empty() && !self.hung_up {
            wanted.push((Side::Theirs, theirs));
        }
        if self.output_waits() {
            wanted.push((Side::Stdout, PollFlags::OUT));
        }
        if !self.input_ended && self.input.is_empty() {
            wanted.push((Side::Stdin, PollFlags::IN));
        }
        wanted
    }

    /// Does what poll(2) said can be done without waiting.
    fn pass(&mut self, side: Side, ready: PollFlags) {
        let over = PollFlags::HUP | PollFlags::ERR;
        match side {
            Side::Theirs => {
                if ready.intersects(PollFlags::OUT) {
                    self.write_input();
                }
                if ready.intersects(PollFlags::IN | over) && !self.output_waits() {
                    self.read_output();
                }
            }
            Side::Stdout if ready.intersects(PollFlags::OUT | over) => self.write_output(),
            Side::Stdin if ready.intersects(PollFlags::IN | over) => self.read_input(),
            _ => {}
        }
    }

    fn read_input(&mut self) {
        let mut buffer = [0; CHUNK];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(length @ 1..) => self.input.extend(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal has no half that could be closed: the process is told as a person would tell it.
            Ok(_) | Err(_) => {
                self.input_ended = true;
                self.input.push_back(END_OF_FILE);
            }
        }
    }

    fn write_input(&mut self) {
        match rustix::io::write(&self.theirs, self.input.as_slices().0) {
            Ok(written) => drop(self.input.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.input.clear();
                self.input_ended = true;
            }
        }
    }

    /// Reads what the process has said; false if there is nothing more, now or ever.
    fn read_output(&mut self) -> bool {
        let mut buffer = [0; CHUNK];
        match rustix::io::read(&self.theirs, &mut buffer) {
            Ok(length @ 1..) => {
                if let Some(output) = &mut self.output {
                    output.extend(&buffer[..length]);
                }
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // EIO: nobody has the other side open (pty(7)). An init that reopens its console comes back.
            Ok(_) | Err(_) => {
                self.hung_up = true;
                false
            }
        }
    }

    fn write_output(&mut self) {
        let Some(output) = &mut self.output else { return };
        match rustix::io::write(rustix::stdio::stdout(), output.as_slices().0) {
            Ok(written) => drop(output.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Our reader is gone. The process goes on, as under any terminal whose window nobody looks at.
            Err(_) => self.output = None,
        }
    }
}
