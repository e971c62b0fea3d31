//! What the container writes, on its way to the log and to those who are attached.
//!
//! A piece is looked at (tee(2)), written down, and only then taken out of its FIFO. A monitor that is killed on the way
//! leaves it to its successor, which may write it once more, but loses none of it. A line that has no end yet waits in the
//! FIFO for the rest. As a FIFO that is not empty is always ready, what is waited for meanwhile is a signal that there is
//! more (and no edge of epoll(7): there is none when a long write fills the FIFO and waits for room).
//!
//! A terminal can only be read: there, what has no end yet waits in the log's writer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};
use tare_sys::signal::{self, SignalFd};

use super::message::CHUNK;
use super::{FLUSH, Monitor};
use crate::container::{Folders, Record};
use crate::log::{Stream, Writer};
use crate::{policy, stdio};

/// What it takes to look at what waits in a FIFO and to hear of more. It is made for the first output: the silent ones are
/// spared it.
#[derive(Debug, Default)]
pub struct Glass {
    /// A pipe of our own.
    pipe: Option<(OwnedFd, OwnedFd)>,
    more: Option<SignalFd>,
}

impl Glass {
    fn pipe(&mut self) -> Option<&(OwnedFd, OwnedFd)> {
        if self.pipe.is_none() {
            self.pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok();
        }
        self.pipe.as_ref()
    }

    /// Ready when there is more in a FIFO that has nothing but the beginning of a line.
    pub fn more(&self, unfinished: &[Unfinished; 2]) -> Option<BorrowedFd<'_>> {
        let waits = unfinished.iter().any(|unfinished| unfinished.alone);
        self.more.as_ref().filter(|_| waits).map(AsFd::as_fd)
    }

    /// From now on more is told than the beginnings of lines that are `alone`.
    fn wait(&mut self, fifos: &[Option<OwnedFd>; 2], unfinished: &mut [Unfinished; 2]) {
        if self.more.is_none() {
            self.more = SignalFd::only(signal::INPUT).ok();
        }
        for (fifo, unfinished) in fifos.iter().zip(unfinished.iter_mut()) {
            if let (Some(fifo), true, false) = (fifo, unfinished.alone, unfinished.told) {
                // Where nothing tells of more, it is looked at again when its time to end is over.
                unfinished.told = signal::tell_of_input(fifo.as_fd()).is_ok();
            }
        }
        // One signal is for both: of what it has told until now, either is asked.
        self.forget();
        for (fifo, unfinished) in fifos.iter().zip(unfinished.iter_mut()) {
            if let (Some(fifo), true) = (fifo, unfinished.alone) {
                let there = rustix::io::ioctl_fionread(fifo);
                unfinished.alone = there.is_ok_and(|there| there == unfinished.shown as u64);
            }
        }
    }

    /// What was told until now is no news.
    fn forget(&self) {
        if let Some(more) = &self.more {
            while let Ok(Some(_)) = more.next() {}
        }
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
    pub alone: bool,
    /// What comes into the FIFO is told.
    told: bool,
}

impl Monitor {
    /// Passes on what there is: one piece of it, or `all` of it, unfinished lines too. What is written meanwhile may have
    /// no end.
    pub(super) fn take_output(&mut self, stream: Stream, all: bool) {
        let mut buffer = [0; CHUNK];
        let at = stream as usize;
        let mut left = self.output[at].as_ref().map_or(0, stdio::at_most);
        while let Some(file) = &self.output[at] {
            self.unfinished[at].alone = false;
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
                    let fresh = &buffer[self.unfinished[at].shown.min(length)..length];
                    for client in self.clients.iter_mut().filter(|_| !fresh.is_empty()) {
                        client.pass(stream, fresh);
                    }
                    self.unfinished[at].shown = length - taken;
                    if length < CHUNK && taken < length {
                        self.unfinished[at].alone = true;
                        self.glass.wait(&self.output, &mut self.unfinished);
                    }
                    let waits = self.log.has_rest() || self.unfinished[at].alone;
                    if waits && (self.times.flush.is_none() || !fresh.is_empty()) {
                        self.times.flush = Some(Instant::now() + FLUSH);
                    }
                    left = left.saturating_sub(taken);
                    if !all || left == 0 {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // A terminal whose other side is closed answers EIO: its end of file.
                Err(_) => break,
            }
        }
        self.output[at] = None;
        self.unfinished[at] = Unfinished::default();
    }

    /// There is more than the beginning of a line.
    pub(super) fn more_output(&mut self) {
        self.glass.forget();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.unfinished[stream as usize].alone {
                self.take_output(stream, false);
            }
        }
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
