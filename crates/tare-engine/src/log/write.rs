//! The monitor's side.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use tare_sys::time::Moment;

use super::journal::Journal;
use super::{Stream, aged};
use crate::policy::{Keep, Logging};

/// Longest piece of a line, bytes.
const PIECE: usize = 16 * 1024;
/// No line of the file is longer, bytes: each byte of a piece takes at most six, and attributes are small.
const LONGEST_LINE: u64 = 256 * 1024;

/// Writes the log. The file is made with the first output: a silent container has none.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    settings: Logging,
    /// `,"attrs":{…}`, or nothing.
    attributes: Vec<u8>,
    journal: Option<Journal>,
    file: Option<File>,
    /// Bytes in the file.
    size: u64,
    pending: [Vec<u8>; 2],
    /// Bytes of output that the disk did not take since it last took any.
    lost: u64,
}

impl Writer {
    /// A log at this path. `names` are fields for the journal: who writes.
    pub fn new(path: PathBuf, settings: Logging, names: &[(&str, &str)]) -> Writer {
        let mut attributes = Vec::new();
        if !settings.attributes.is_empty() {
            attributes.extend_from_slice(b",\"attrs\":");
            // Texts only: this cannot fail.
            let _ = serde_json::to_writer(&mut attributes, &settings.attributes);
        }
        let journal = (settings.keep == Keep::Journal).then(|| Journal::new(names, &settings.attributes));
        Writer {
            path,
            settings,
            attributes,
            journal,
            file: None,
            size: 0,
            pending: [Vec::new(), Vec::new()],
            lost: 0,
        }
    }

    /// Takes output as it comes; whole lines go to disk.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.settings.keep == Keep::Nothing {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        // The rest of a line that is whole now, or all there is; no copy is made of what is whole already.
        let rest = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(at) if pending.is_empty() => self.lines(stream, &bytes[..=at], &bytes[at + 1..]),
            _ => {
                pending.extend_from_slice(bytes);
                let whole = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let (whole, rest) = pending.split_at(whole);
                self.lines(stream, whole, rest)
            }
        };
        self.pending[stream as usize] = rest;
    }

    /// Whether a line waits for its end.
    pub fn has_rest(&self) -> bool {
        self.pending.iter().any(|pending| !pending.is_empty())
    }

    /// Writes what has no end of line yet; what comes later is one more piece of the same line.
    pub fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                let mut ready = Vec::with_capacity(pending.len() + 128);
                self.push(&mut ready, stream, &pending, &Moment::now().to_string());
                self.flush(&ready, pending.len());
            }
        }
    }

    /// Writes whole lines, and full pieces of the `rest`; answers what is left of that.
    fn lines(&mut self, stream: Stream, whole: &[u8], mut rest: &[u8]) -> Vec<u8> {
        if whole.is_empty() && rest.len() < PIECE {
            return rest.to_vec();
        }
        let time = Moment::now().to_string();
        let mut ready = Vec::with_capacity(whole.len() * 2 + 256);
        let mut output = 0;
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            let mut line = line;
            while line.len() > PIECE {
                let (piece, more) = line.split_at(piece_of(line));
                self.push(&mut ready, stream, piece, &time);
                line = more;
            }
            self.push(&mut ready, stream, line, &time);
            output += line.len();
            // Not much more goes into a file than was asked for.
            if self.size + ready.len() as u64 >= self.settings.most_bytes {
                self.flush(&ready, std::mem::take(&mut output));
                ready.clear();
            }
        }
        while rest.len() >= PIECE {
            let (piece, more) = rest.split_at(piece_of(rest));
            self.push(&mut ready, stream, piece, &time);
            rest = more;
        }
        self.flush(&ready, output);
        rest.to_vec()
    }

    fn push(&mut self, ready: &mut Vec<u8>, stream: Stream, bytes: &[u8], time: &str) {
        if let Some(journal) = &self.journal {
            journal.send(stream, bytes, time);
        }
        ready.extend_from_slice(b"{\"log\":\"");
        push_text(ready, bytes);
        ready.extend_from_slice(match stream {
            Stream::Stdout => b"\",\"stream\":\"stdout\"",
            Stream::Stderr => b"\",\"stream\":\"stderr\"",
        });
        ready.extend_from_slice(&self.attributes);
        ready.extend_from_slice(b",\"time\":\"");
        ready.extend_from_slice(time.as_bytes());
        ready.extend_from_slice(b"\"}\n");
    }

    fn flush(&mut self, ready: &[u8], output: usize) {
        if ready.is_empty() {
            return;
        }
        if self.size >= self.settings.most_bytes {
            self.next_file();
        }
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            self.file = options.read(true).append(true).create(true).mode(0o600).open(&self.path).ok();
            self.size = self.file.as_ref().and_then(|file| whole(file).ok()).unwrap_or(0);
        }
        let note = (self.lost > 0).then(|| {
            // The line before may have been cut in its middle.
            let text = format!("tare: {} bytes of output are lost: the disk was full\n", self.lost);
            let mut note = b"\n".to_vec();
            self.push(&mut note, Stream::Stderr, text.as_bytes(), &Moment::now().to_string());
            note
        });
        let written = self.file.as_mut().is_some_and(|file| {
            note.as_ref().is_none_or(|note| file.write_all(note).is_ok()) && file.write_all(ready).is_ok()
        });
        // The container matters more than its log: it is not held up, and what is lost is counted.
        if written {
            self.lost = 0;
            self.size += (ready.len() + note.map_or(0, |note| note.len())) as u64;
        } else {
            self.lost += output.max(1) as u64;
        }
    }

    /// Puts the file aside and begins another. Readers that have it open read it to its end.
    fn next_file(&mut self) {
        self.file = None;
        self.size = 0;
        let files = self.settings.most_files.max(1);
        if files == 1 {
            let _ = fs::remove_file(&self.path);
        }
        for age in (0..files - 1).rev() {
            let _ = fs::rename(aged(&self.path, age), aged(&self.path, age + 1));
        }
    }
}

/// How long the file is without a line that was cut off: a monitor that is killed while it writes one has not taken the
/// output out of its FIFO yet, so it is written again.
fn whole(file: &File) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    let mut last = *b"\n";
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last == *b"\n" {
        return Ok(length);
    }
    let mut tail = vec![0; length.min(LONGEST_LINE) as usize];
    let start = length - tail.len() as u64;
    file.read_exact_at(&mut tail, start)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(start, |at| start + at as u64 + 1);
    file.set_len(end)?;
    Ok(end)
}

/// How much of a long line goes into its next piece: not half a character.
fn piece_of(line: &[u8]) -> usize {
    let continues = |at: usize| line.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (PIECE - 3..=PIECE).rev().find(|at| !continues(*at)).unwrap_or(PIECE)
}

/// Bytes as the inside of a JSON text.
fn push_text(ready: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut done = 0;
        for (at, byte) in valid.iter().enumerate() {
            if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
                continue;
            }
            ready.extend_from_slice(&valid[done..at]);
            done = at + 1;
            match byte {
                b'\n' => ready.extend_from_slice(b"\\n"),
                b'\t' => ready.extend_from_slice(b"\\t"),
                b'\r' => ready.extend_from_slice(b"\\r"),
                b'"' | b'\\' => ready.extend_from_slice(&[b'\\', *byte]),
                _ => ready.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            }
        }
        ready.extend_from_slice(&valid[done..]);
        if !chunk.invalid().is_empty() {
            ready.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}
