//! The pipe between the thread that inflates, the one that hashes and the one that writes files: buffers go round, so
//! memory is bounded by [`BUFFERS`] × [`CHUNK`] (1 MiB) and a little, and the faster side waits for the slower.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes in a buffer.
pub(crate) const CHUNK: usize = 128 << 10;
/// Buffers on their way.
const BUFFERS: usize = 8;

enum Message {
    Data(Vec<u8>),
    /// The sender came to its end; without this, the reader fails instead of taking a broken archive as whole.
    End,
}

/// The writing end.
pub(crate) struct PipeWriter {
    full: SyncSender<Message>,
    empty: Receiver<Vec<u8>>,
}

/// The reading end.
pub(crate) struct PipeReader {
    full: Receiver<Message>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

/// A new pipe.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (full_sender, full) = sync_channel(BUFFERS);
    let (empty_sender, empty) = channel();
    (
        PipeWriter { full: full_sender, empty },
        PipeReader { full, empty: empty_sender, current: Vec::new(), at: 0, ended: false },
    )
}

impl PipeWriter {
    /// A buffer of [`CHUNK`] bytes to fill, a used one where there is one.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.spare();
        buffer.resize(CHUNK, 0);
        buffer
    }

    /// A used buffer, where there is one.
    pub(crate) fn spare(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_default()
    }

    /// Sends a buffer; `false` where the reader is gone (it has an error to tell).
    #[must_use]
    pub(crate) fn send(&self, buffer: Vec<u8>) -> bool {
        self.full.send(Message::Data(buffer)).is_ok()
    }

    /// Says that this is all.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        self.full.send(Message::End).is_ok()
    }
}

impl PipeReader {
    /// The next buffer whole, in exchange for one that the writer can fill; `None` at the end, and where the bytes stopped
    /// coming.
    pub(crate) fn exchange(&mut self, spare: Vec<u8>) -> Option<Vec<u8>> {
        match self.full.recv() {
            Ok(Message::Data(next)) => {
                // The writer may have gone home already.
                let _ = self.empty.send(spare);
                Some(next)
            }
            Ok(Message::End) => {
                self.ended = true;
                None
            }
            Err(_) => None,
        }
    }

    /// Whether the writer came to its end.
    pub(crate) fn is_at_end(&self) -> bool {
        self.ended
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() && !self.ended {
            match self.full.recv() {
                Ok(Message::Data(next)) => {
                    let used = std::mem::replace(&mut self.current, next);
                    self.at = 0;
                    // The writer may have gone home already.
                    let _ = self.empty.send(used);
                }
                Ok(Message::End) => self.ended = true,
                Err(_) => return Err(io::Error::other("the bytes stopped coming")),
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.current.len());
    }
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let n = have.len().min(into.len());
        into[..n].copy_from_slice(&have[..n]);
        self.consume(n);
        Ok(n)
    }
}
