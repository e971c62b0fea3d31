//! The command's side of a running container: passes stdin, output, signals and window sizes, until it ends.
//!
//! stdin goes straight into the container's pipe or terminal; output comes from the monitor, which also keeps
//! the log. Nothing here blocks but poll(2), so a reader of our output who is slow, or a container that does
//! not read, cannot hold up a signal.

mod keys;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use tare_sys::channel::Channel;
use tare_sys::process;
use tare_sys::signal::SignalFd;
use tare_sys::tty::{self, RawMode};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Roots, Status};
use crate::engine::{Engine, not_running};
use crate::log::Stream;
use crate::monitor::message::{Exit, Message, Order};
use crate::start::Attach;
use crate::stdio;

pub use keys::Keys;

/// Milliseconds that a container has to end by itself once nobody reads its output.
const PIPE_GRACE: u64 = 500;
/// Bytes of stdin taken at once.
const CHUNK: usize = 16 * 1024;
/// What a pipe takes without blocking once poll(2) says that it can be written to (PIPE_BUF, pipe(7)).
const SAFE_WRITE: usize = 4096;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;
const SIGWINCH: i32 = 28;
/// Never passed on: PIPE, CHLD, CONT, TSTP, TTIN, TTOU, URG are about the command itself.
const OWN_SIGNALS: [i32; 7] = [13, 17, 18, 20, 21, 22, 23];

/// A container that the caller is attached to.
#[derive(Debug)]
pub struct Attachment {
    pub(crate) roots: Roots,
    pub(crate) id: String,
    /// It was started by this command, which stands for it in a pipeline.
    pub(crate) starter: bool,
    /// What leaves its terminal.
    pub(crate) keys: Keys,
    /// To the monitor.
    pub(crate) channel: Channel,
    /// The container's PID 1.
    pub(crate) pidfd: OwnedFd,
    /// Where the caller's stdin goes.
    pub(crate) stdin: Sink,
    /// Our side of the container's terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// Which of the container's outputs are shown: stdout, stderr.
    pub(crate) show: [bool; 2],
    /// What was asked for and could not quite be given.
    pub warnings: Vec<String>,
    /// The caller's terminal, in raw mode since before the start: what is typed ahead is echoed once.
    pub(crate) raw: Option<RawMode<BorrowedFd<'static>>>,
}

/// Where stdin goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Nowhere, or it has ended.
    None,
    /// Into this pipe, which closes when stdin ends.
    Pipe(OwnedFd),
    /// Into the terminal.
    Terminal,
}

struct Relay {
    with: Attachment,
    signals: SignalFd,
    pass_signals: bool,
    /// Read from the caller, not yet taken by the container.
    input: Vec<u8>,
    /// Nothing more comes from the caller.
    input_ended: bool,
    /// Come from the container, not yet written.
    output: Option<(Stream, Vec<u8>)>,
    /// It has ended like this; what is left is output.
    ended: Option<Exit>,
    interrupts: u32,
    /// The keys that leave were typed.
    left: bool,
    buffer: Vec<u8>,
}

impl Attachment {
    /// Passes everything on until the container ends; `None`: the caller left by the keys for that. With
    /// `pass_signals`, signals of the caller go to the container; without, those that ask to end do end this function,
    /// and the container goes on.
    pub fn relay(self, pass_signals: bool) -> Result<Option<Exit>> {
        tare_sys::signal::block_all()?;
        let signals = SignalFd::new()?;
        if let (Some(terminal), Some(_)) = (&self.terminal, &self.raw) {
            // It may have changed since the start.
            follow_size(terminal);
        }
        if let Sink::Pipe(pipe) = &self.stdin {
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).doing(|| "fcntl(stdin pipe, O_NONBLOCK)")?;
        }
        let mut relay = Relay {
            input_ended: matches!(self.stdin, Sink::None),
            with: self,
            signals,
            pass_signals,
            input: Vec::new(),
            output: None,
            ended: None,
            interrupts: 0,
            left: false,
            buffer: Message::buffer(),
        };
        loop {
            if let (Some(exit), None) = (relay.ended, &relay.output) {
                return Ok(Some(exit));
            }
            if let Some(exit) = relay.turn()? {
                return Ok(Some(exit));
            }
            if relay.left {
                return Ok(None);
            }
        }
    }
}

impl Relay {
    /// Waits for what can be done next and does it; `Some` when the caller wants to leave.
    fn turn(&mut self) -> Result<Option<Exit>> {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut add = |fd, flags| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            fds.len() - 1
        };
        // Output that waits is written before more is taken: the monitor's socket holds the rest.
        let channel = (self.output.is_none() && self.ended.is_none())
            .then(|| add(self.with.channel.as_fd(), PollFlags::IN));
        let output = self.output.as_ref().map(|(stream, _)| add(target(*stream), PollFlags::OUT));
        let input = (!self.input_ended && self.input.is_empty()).then(|| add(stdin, PollFlags::IN));
        let sink = self.sink().filter(|_| !self.input.is_empty()).map(|fd| add(fd, PollFlags::OUT));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno).doing(|| "poll(attachment)"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is = |slot: Option<usize>| slot.is_some_and(|at| ready[at]);
        if ready[0]
            && let Some(exit) = self.take_signals()?
        {
            return Ok(Some(exit));
        }
        if is(channel) {
            self.take_message()?;
        }
        if is(output) {
            self.write_output();
        }
        if is(input) {
            self.read_input();
        }
        if is(sink) {
            self.feed();
        }
        Ok(None)
    }

    fn sink(&self) -> Option<BorrowedFd<'_>> {
        match &self.with.stdin {
            Sink::None => None,
            Sink::Pipe(pipe) => Some(pipe.as_fd()),
            Sink::Terminal => self.with.terminal.as_ref().map(AsFd::as_fd),
        }
    }

    fn take_signals(&mut self) -> Result<Option<Exit>> {
        while let Some(number) = self.signals.next()? {
            match number {
                SIGWINCH => {
                    if let Some(terminal) = &self.with.terminal {
                        follow_size(terminal);
                    }
                }
                number if OWN_SIGNALS.contains(&number) => {}
                number => {
                    let asks_to_end = matches!(number, SIGHUP | SIGINT | SIGQUIT | SIGTERM);
                    if matches!(number, SIGINT | SIGTERM) {
                        self.interrupts += 1;
                    }
                    // Who asks three times is let go, as by Docker's command; the container decides for itself.
                    if (asks_to_end && !self.pass_signals) || self.interrupts >= 3 {
                        return Ok(Some(Exit {
                            code: 128 + number as u8,
                            unknown: false,
                            oom_killed: false,
                            memory_limit: 0,
                        }));
                    }
                    // By way of the monitor, who then knows that an end was asked for.
                    if self.pass_signals && Order::Kill(number).send(&self.with.channel).is_err() {
                        process::signal(self.with.pidfd.as_fd(), number)?;
                    }
                }
            }
        }
        Ok(None)
    }

    fn take_message(&mut self) -> Result<()> {
        match Message::receive(&self.with.channel, &mut self.buffer)? {
            Some((Message::Output(stream, bytes), _)) => {
                if self.with.show[stream as usize] {
                    self.output = Some((stream, bytes));
                }
            }
            Some((Message::Ended(exit), _)) => self.ended = Some(exit),
            Some((Message::Skipped(bytes), _)) => {
                let line = format!("\r\n[tare: {bytes} bytes were left out here; `tare logs` has them]\r\n");
                self.output = Some((Stream::Stderr, line.into_bytes()));
            }
            // It ended with its monitor, and the next one waits to start it again: that is another life than ours.
            Some((Message::Failed(err), _)) if err.kind() == Kind::Conflict => self.nobody_saw_its_end()?,
            Some(_) => {}
            None => self.find_the_new_monitor()?,
        }
        Ok(())
    }

    /// The monitor was killed: another one takes over.
    fn find_the_new_monitor(&mut self) -> Result<()> {
        let engine = Engine::new(self.with.roots.clone());
        let folders = self.with.roots.folders(&self.with.id);
        let show = self.with.show;
        match engine.connect(&folders) {
            Ok(channel) => {
                // One that is killed as well has a successor too: that is seen when nothing can be received.
                let _ = Order::Attach(show).send(&channel);
                self.with.channel = channel;
            }
            Err(err) if err.kind() == Kind::Conflict => self.nobody_saw_its_end()?,
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// What is written down has to do.
    fn nobody_saw_its_end(&mut self) -> Result<()> {
        let folders = self.with.roots.folders(&self.with.id);
        self.ended = Some(Exit::written(folders.status()?.as_ref()));
        Ok(())
    }

    fn write_output(&mut self) {
        let Some((stream, mut bytes)) = self.output.take() else { return };
        let target = target(stream);
        match write_some(target, &mut bytes) {
            Ok(()) if bytes.is_empty() => {}
            Ok(()) => self.output = Some((stream, bytes)),
            // Our reader is gone. In a pipeline (`tare run … | head`) the container shall go as any writer into that
            // pipe would, or it would write for ever. As PID 1 it does not die of the signal.
            Err(_) => {
                self.with.show[stream as usize] = false;
                if self.with.starter && self.pass_signals && stream == Stream::Stdout && is_pipe(target) {
                    let _ = Order::Stop(Some(SIGPIPE), Some(PIPE_GRACE)).send(&self.with.channel);
                }
            }
        }
    }

    fn read_input(&mut self) {
        let mut buffer = vec![0; CHUNK];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(length @ 1..) => {
                buffer.truncate(length);
                if matches!(self.with.stdin, Sink::Terminal) {
                    self.left = self.with.keys.find(&mut buffer);
                }
                self.input = buffer;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // End of file, or a terminal that is gone.
            Ok(_) | Err(_) => {
                self.input_ended = true;
                self.close_sink();
            }
        }
    }

    fn feed(&mut self) {
        let Some(sink) = self.sink() else { return };
        match rustix::io::write(sink, &self.input) {
            Ok(written) => drop(self.input.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The container closed its stdin: nobody wants the rest.
            Err(_) => {
                self.input.clear();
                self.input_ended = true;
                self.close_sink();
            }
        }
    }

    /// Closing the pipe is the container's end of file. A terminal has none: Ctrl-D is a character.
    fn close_sink(&mut self) {
        if matches!(self.with.stdin, Sink::Pipe(_)) {
            self.with.stdin = Sink::None;
        }
    }
}

/// Writes as much as does not block once poll(2) says that `target` can be written to; what is left stays in `bytes`.
pub(crate) fn write_some(target: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> rustix::io::Result<()> {
    let blocks = rustix::fs::fstat(target)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile);
    let length = if blocks { bytes.len().min(SAFE_WRITE) } else { bytes.len() };
    match rustix::io::write(target, &bytes[..length]) {
        Ok(written) => drop(bytes.drain(..written)),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(errno) => return Err(errno),
    }
    Ok(())
}

fn target(stream: Stream) -> BorrowedFd<'static> {
    match stream {
        Stream::Stdout => rustix::stdio::stdout(),
        Stream::Stderr => rustix::stdio::stderr(),
    }
}

fn is_pipe(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

fn follow_size(terminal: &OwnedFd) {
    if let Some((columns, rows)) = tty::size(rustix::stdio::stdin()) {
        // A terminal that is just closing has no use for it.
        let _ = tty::set_size(terminal, columns, rows);
    }
}

impl Engine {
    /// Attaches to a container that runs.
    pub fn attach(&self, container: &str, attach: Attach) -> Result<Attachment> {
        let folders = self.find(container)?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_none() {
            return Err(not_running(container));
        }
        let order = Order::Attach([attach.stdout, attach.stderr]);
        let (channel, _, mut files) =
            self.ask(&folders, &order).map_err(|err| err.context(format!("attach to {container}")))?;
        let terminal = if files.len() > 1 { files.pop() } else { None };
        let pidfd = files.pop().ok_or_else(|| Error::new(Kind::Corrupt, "attach: no pidfd"))?;
        let mut raw = None;
        let stdin = match &terminal {
            _ if !attach.stdin => Sink::None,
            Some(_) => {
                let stdin = rustix::stdio::stdin();
                if rustix::termios::isatty(stdin) {
                    raw = Some(RawMode::enter(stdin)?);
                }
                Sink::Terminal
            }
            None => stdio::stdin_writer(&folders).map_or(Sink::None, Sink::Pipe),
        };
        self.emit(&crate::events::Event::container(&folders.record()?, "attach"));
        Ok(Attachment {
            roots: self.roots.clone(),
            id: folders.id,
            starter: false,
            keys: attach.keys,
            channel,
            pidfd,
            stdin,
            terminal,
            show: [attach.stdout, attach.stderr],
            warnings: Vec::new(),
            raw,
        })
    }
}
