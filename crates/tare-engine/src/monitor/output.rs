//! What the container writes, on its way to the log and to those who are attached.
//!
//! A piece is looked at (tee(2)), written down, and only then taken out of its FIFO. A monitor that is killed on the way
//! leaves it to its successor, which may write it once more, but loses none of it. A line that has no end yet waits in the
//! FIFO for the rest. As a FIFO that is not empty is always ready, what is waited for meanwhile is a change of it.
//!
//! A terminal can only be read: there, what has no end yet waits in the log's writer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::message::CHUNK;
use super::{FLUSH, Monitor};
use crate::container::{Folders, Record};
use crate::log::{Stream, Writer};
use crate::policy;

/// A pipe of our own, to look at what waits in a FIFO. It is made for the first output: the silent ones are spared it.
#[derive(Debug, Default)]
pub struct Glass(Option<(OwnedFd, OwnedFd)>);

impl Glass {
    fn pipe(&mut self) -> Option<&(OwnedFd, OwnedFd)> {
        if self.0.is_none() {
            self.0 = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok();
        }
        self.0.as_ref()
    }

    /// What waits in `fifo`, and whether it still waits there.
    fn look(&mut self, fifo: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<(usize, bool)> {
        let Some((near, far)) = self.pipe() else {
            // No more files can be opened. It is taken all the same.
            return Ok((rustix::io::read(fifo, buffer)?, false));
        };
        let length = rustix::pipe::tee(fifo, far, buffer.len(), SpliceFlags::NONBLOCK)?;
        let mut seen = 0;
        while seen < length {
            seen += rustix::io::read(near, &mut buffer[seen..length])?;
        }
        Ok((length, true))
    }
}

/// Takes out of `fifo` what was looked at.
fn discard(fifo: &OwnedFd, mut length: usize) {
    // All that a monitor has there is /dev/null.
    let null = rustix::stdio::stdout();
    while length > 0 {
        match rustix::pipe::splice(fifo, None, null, None, length, SpliceFlags::NONBLOCK) {
            Ok(gone @ 1..) => length -= gone.min(length),
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// How much of a piece can be taken: whole lines. One that is full and has no end of line is part of a long one.
fn whole_lines(piece: &[u8]) -> usize {
    match piece.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        None if piece.len() == CHUNK => CHUNK,
        None => 0,
    }
}

/// The beginning of a line that waits in a FIFO for its end.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// Bytes of it that those who are attached have seen.
    shown: usize,
    /// All that is in the FIFO.
    alone: bool,
    /// Ready when the FIFO changes (`EPOLLET`). It is made for the first of them.
    change: Option<OwnedFd>,
}

impl Unfinished {
    /// It is all there is.
    fn wait(&mut self, fifo: &OwnedFd) {
        if self.change.is_none() {
            self.change = epoll::create(CreateFlags::CLOEXEC).ok().filter(|change| {
                epoll::add(change, fifo, EventData::new_u64(0), EventFlags::IN | EventFlags::ET).is_ok()
            });
        }
        self.alone = self.change.is_some();
    }

    /// What to wait for, to hear of more in `fifo`.
    pub fn source<'a>(&'a self, fifo: &'a OwnedFd) -> BorrowedFd<'a> {
        self.change.as_ref().filter(|_| self.alone).map_or(fifo.as_fd(), AsFd::as_fd)
    }

    /// It will be looked at. What has changed until now is not told again.
    fn heard(&mut self) {
        self.alone = false;
        if let Some(change) = &self.change {
            let mut events = [std::mem::MaybeUninit::uninit(); 1];
            let _ = epoll::wait(change, &mut events, Some(&rustix::event::Timespec::default()));
        }
    }
}

impl Monitor {
    /// Passes on what there is: one piece of it, or `all` of it, unfinished lines too.
    pub(super) fn take_output(&mut self, stream: Stream, all: bool) {
        let mut buffer = [0; CHUNK];
        let unfinished = &mut self.unfinished[stream as usize];
        while let Some(file) = &self.output[stream as usize] {
            unfinished.heard();
            let seen = match self.terminal {
                None => self.glass.look(file, &mut buffer),
                Some(_) => rustix::io::read(file, &mut buffer).map(|length| (length, false)),
            };
            match seen {
                Ok((0, _)) => break,
                Ok((length, waits)) => {
                    let whole = whole_lines(&buffer[..length]);
                    let taken = if waits && (!all || length == CHUNK) { whole } else { length };
                    self.log.write(stream, &buffer[..taken]);
                    if waits {
                        discard(file, taken);
                    }
                    let fresh = &buffer[unfinished.shown.min(length)..length];
                    for client in self.clients.iter_mut().filter(|_| !fresh.is_empty()) {
                        client.pass(stream, fresh);
                    }
                    unfinished.shown = length - taken;
                    if length < CHUNK && taken < length {
                        unfinished.wait(file);
                    }
                    if !fresh.is_empty() && (self.log.has_rest() || unfinished.alone) {
                        self.times.flush = Some(Instant::now() + FLUSH);
                    }
                    if !all {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // A terminal whose other side is closed answers EIO: its end of file.
                Err(_) => break,
            }
        }
        self.output[stream as usize] = None;
        *unfinished = Unfinished::default();
    }

    /// Writes down the lines that have had their time to end.
    pub(super) fn flush_output(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.unfinished[stream as usize].alone {
                self.take_output(stream, true);
            }
        }
        self.log.finish();
    }
}

/// The log that was asked for. What makes no sense was refused when the container was made.
pub(super) fn log_of(folders: &Folders, record: &Record) -> Writer {
    let settings = policy::logging(&record.request, &record.id, &record.name).unwrap_or_default();
    let (short, tag) = (record.id.chars().take(12).collect::<String>(), settings.tag.clone());
    let names = [
        ("CONTAINER_ID", short.as_str()),
        ("CONTAINER_ID_FULL", &record.id),
        ("CONTAINER_NAME", &record.name),
        ("CONTAINER_TAG", &tag),
        ("IMAGE_NAME", record.request.image()),
        ("SYSLOG_IDENTIFIER", &tag),
    ];
    Writer::new(folders.log(), settings, &names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_off_waits_for_its_end() {
        assert_eq!(whole_lines(b"one\ntw"), 4);
        assert_eq!(whole_lines(b"one"), 0);
        assert_eq!(whole_lines(&[b'x'; CHUNK]), CHUNK);
    }

    #[test]
    fn more_of_an_unfinished_line_is_heard_of_and_what_is_there_is_not() {
        let (fifo, writer) = rustix::pipe::pipe().unwrap();
        let ready = |unfinished: &Unfinished| {
            let mut fds = [rustix::event::PollFd::new(&fifo, rustix::event::PollFlags::IN)];
            fds[0] = rustix::event::PollFd::from_borrowed_fd(
                unfinished.source(&fifo),
                rustix::event::PollFlags::IN,
            );
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
        };
        let mut unfinished = Unfinished::default();
        rustix::io::write(&writer, b"one").unwrap();
        for more in [b"two", b"six"] {
            unfinished.wait(&fifo);
            // That it was there already is told once.
            unfinished.heard();
            unfinished.wait(&fifo);
            assert!(!ready(&unfinished));
            rustix::io::write(&writer, more).unwrap();
            assert!(ready(&unfinished));
            unfinished.heard();
            assert!(ready(&unfinished), "the FIFO itself, which is not empty");
        }
    }

    #[test]
    fn what_was_looked_at_stays_until_it_is_taken_out() {
        let (fifo, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"one\ntwo\n").unwrap();
        let (mut glass, mut buffer) = (Glass::default(), [0; 64]);
        for _ in 0..2 {
            assert_eq!(glass.look(&fifo, &mut buffer), Ok((8, true)));
            assert_eq!(&buffer[..8], b"one\ntwo\n");
        }
        assert_eq!(rustix::io::read(&fifo, &mut buffer[..4]), Ok(4));
        assert_eq!(glass.look(&fifo, &mut buffer), Ok((4, true)));
        drop(writer);
        rustix::io::read(&fifo, &mut buffer).unwrap();
        assert_eq!(glass.look(&fifo, &mut buffer), Ok((0, true)), "nobody writes any more");
    }
}
