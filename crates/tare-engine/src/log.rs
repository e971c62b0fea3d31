//! A container's output on disk: Docker's json-file, one object a line.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-11-23T20:35:33.123456789Z"}
//! ```
//!
//! A line longer than 16 KiB is written in pieces, of which only the last ends in `\n`. Bytes that are not
//! UTF-8 become U+FFFD, as under Docker.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tare_sys::{Context, Result};

use tare_sys::time::Moment;

/// Longest piece of a line, bytes.
const PIECE: usize = 16 * 1024;

/// Which stream a piece of output came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    log: std::borrow::Cow<'a, str>,
    stream: Stream,
    time: String,
}

/// Writes the log. The file is made with the first output: a silent container has none.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: Option<File>,
    pending: [Vec<u8>; 2],
    /// The disk refused; nothing more is tried, for the container matters more than its log.
    broken: bool,
}

impl Writer {
    /// A log at this path.
    pub fn new(path: PathBuf) -> Writer {
        Writer { path, file: None, pending: [Vec::new(), Vec::new()], broken: false }
    }

    /// Takes output as it comes; whole lines go to disk.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.broken {
            return;
        }
        let pending = &mut self.pending[stream as usize];
        pending.extend_from_slice(bytes);
        let mut ready = Vec::new();
        let mut done = 0;
        loop {
            let rest = &pending[done..];
            let end = match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) if at < PIECE => at + 1,
                _ if rest.len() >= PIECE => PIECE,
                _ => break,
            };
            push(&mut ready, stream, &rest[..end]);
            done += end;
        }
        pending.drain(..done);
        self.flush(&ready);
    }

    /// Whether a line waits for its end.
    pub fn has_rest(&self) -> bool {
        self.pending.iter().any(|pending| !pending.is_empty())
    }

    /// Writes what has no end of line yet; what comes later is one more piece of the same line.
    pub fn finish(&mut self) {
        let mut ready = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                push(&mut ready, stream, &pending);
            }
        }
        self.flush(&ready);
    }

    fn flush(&mut self, ready: &[u8]) {
        if ready.is_empty() || self.broken {
            return;
        }
        if self.file.is_none() {
            self.file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).ok();
        }
        self.broken = self.file.as_mut().is_none_or(|file| file.write_all(ready).is_err());
    }
}

fn push(ready: &mut Vec<u8>, stream: Stream, bytes: &[u8]) {
    let line = Line { log: String::from_utf8_lossy(bytes), stream, time: Moment::now().to_string() };
    // Only strings and an enum: this cannot fail.
    if serde_json::to_writer(&mut *ready, &line).is_ok() {
        ready.push(b'\n');
    }
}

/// What part of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Go on as long as the container runs.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// Put the time before each line.
    pub timestamps: bool,
}

/// Prints the log at `path`. `running` says whether more may come; it is asked only when following.
pub fn print(
    path: &Path,
    query: &LogQuery,
    running: &mut dyn FnMut() -> bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<()> {
    let mut reader: Option<BufReader<File>> = None;
    let mut first = true;
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let more = query.follow && running();
        if reader.is_none() {
            reader = match File::open(path) {
                Ok(file) => Some(BufReader::new(file)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).doing(|| format!("read {}", path.display())),
            };
        }
        if let Some(reader) = &mut reader {
            if std::mem::take(&mut first)
                && let Some(tail) = query.tail
            {
                skip_to_tail(reader, tail).doing(|| format!("read {}", path.display()))?;
            }
            copy(reader, query, out, err).doing(|| format!("print {}", path.display()))?;
        }
        if !more {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn skip_to_tail(reader: &mut BufReader<File>, tail: usize) -> std::io::Result<()> {
    let mut starts = std::collections::VecDeque::new();
    let (mut at, mut line) = (0u64, Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        starts.push_back(at);
        if starts.len() > tail {
            starts.pop_front();
        }
        at += length as u64;
    }
    reader.seek(SeekFrom::Start(starts.front().copied().unwrap_or(at)))?;
    Ok(())
}

/// Copies the whole lines that are there; a line that is being written is left for the next time.
fn copy(
    reader: &mut BufReader<File>,
    query: &LogQuery,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<()> {
    let mut text = Vec::new();
    loop {
        text.clear();
        let length = reader.read_until(b'\n', &mut text)?;
        if !text.ends_with(b"\n") {
            reader.seek_relative(-(length as i64))?;
            break;
        }
        // A damaged line (power loss) must not hide those after it.
        let Ok(line) = serde_json::from_slice::<Line<'_>>(&text) else { continue };
        let target: &mut dyn Write = if line.stream == Stream::Stdout { out } else { err };
        if query.timestamps {
            write!(target, "{} ", line.time)?;
        }
        target.write_all(line.log.as_bytes())?;
    }
    out.flush()?;
    err.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path, query: &LogQuery) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        print(path, query, &mut || false, &mut out, &mut err).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn streams_pieces_and_unfinished_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        assert_eq!(read(&path, &LogQuery::default()), (String::new(), String::new()), "no file yet");
        let mut log = Writer::new(path.clone());
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\xff\n");
        log.write(Stream::Stdout, b"o\n");
        let long = "x".repeat(40_000);
        log.write(Stream::Stdout, long.as_bytes());
        log.finish();
        let (out, err) = read(&path, &LogQuery::default());
        assert_eq!(out, format!("one\ntwo\n{long}"));
        assert_eq!(err, "err\u{fffd}\n");
        let tail = LogQuery { tail: Some(3), ..LogQuery::default() };
        assert_eq!(read(&path, &tail).0, long, "a long line has three pieces");
        assert_eq!(read(&path, &LogQuery { tail: Some(0), ..LogQuery::default() }).0, "");
    }

    #[test]
    fn a_damaged_line_hides_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let mut log = Writer::new(path.clone());
        log.write(Stream::Stdout, b"a\n");
        drop(log);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\0\0\0{\n").unwrap();
        let mut log = Writer::new(path.clone());
        log.write(Stream::Stdout, b"b\n");
        assert_eq!(read(&path, &LogQuery::default()).0, "a\nb\n");
    }
}
