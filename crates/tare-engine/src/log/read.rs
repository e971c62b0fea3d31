//! A reader's side: any number of them, at any time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tare_sys::time::Moment;
use tare_sys::{Context, Result};

use super::{Line, Stream, aged};
use crate::watch::Watch;

/// Bytes looked at together when lines are counted from the end.
const BLOCK: u64 = 64 * 1024;
/// Most files that a log can have.
pub const MOST_FILES: u32 = 100;

/// What part of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Go on as long as the container runs.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Put the attributes that the log driver was asked to keep before each line.
    pub details: bool,
    /// Only what was written since then.
    pub since: Option<Moment>,
    /// Only what was written until then.
    pub until: Option<Moment>,
}

type Reader = BufReader<File>;

/// Prints the log at `path`. `running` says whether more may come; it is asked only when following.
pub fn print(
    path: &Path,
    query: &LogQuery,
    running: &mut dyn FnMut() -> bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<()> {
    let what = || format!("read {}", path.display());
    let watch = path.parent().filter(|_| query.follow).map(|folder| Watch::new(&[folder]));
    let mut current: Option<Reader> = None;
    let mut first = true;
    let mut idle = Duration::from_millis(1);
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let more = query.follow && running();
        let mut files = newer(path, current.as_ref()).doing(what)?;
        if std::mem::take(&mut first)
            && let Some(tail) = query.tail
        {
            keep_tail(&mut files, tail).doing(what)?;
        }
        let mut printed = false;
        let mut over = false;
        for mut file in current.take().into_iter().chain(files) {
            let copied = copy(&mut file, query, out, err).doing(|| format!("print {}", path.display()))?;
            printed |= copied.lines > 0;
            over |= copied.after_end;
            current = Some(file);
        }
        let over = over || query.until.is_some_and(|until| Moment::now() > until);
        if !more || over {
            return Ok(());
        }
        // Files that come faster than they are read are gone before they are looked for: whoever has printed something
        // looks again at once.
        if printed {
            idle = Duration::from_millis(1);
            continue;
        }
        // Woken by what is written. That nobody is in charge any more wakes nobody, so that is asked for: often
        // after there was something, seldom later.
        idle = (idle * 2).min(Duration::from_secs(1));
        if let Some(watch) = &watch {
            watch.wait(idle);
        }
    }
}

/// The files that came after `current`, the oldest first; without one all there are.
fn newer(path: &Path, current: Option<&Reader>) -> std::io::Result<Vec<Reader>> {
    let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
    let known = current.map(|reader| identity(reader.get_ref())).transpose()?;
    let mut seen = Vec::new();
    let mut files = Vec::new();
    let mut missing = false;
    for age in 0..MOST_FILES {
        let file = match File::open(aged(path, age)) {
            Ok(file) => file,
            // Just before its first line; or the writer makes room for the next file, by a gap that goes from the oldest
            // to the first one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !missing => {
                missing = true;
                continue;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        missing = false;
        let identity = identity(&file)?;
        if known == Some(identity) {
            break;
        }
        // It may have aged while we looked: then it comes by twice.
        if !seen.contains(&identity) {
            seen.push(identity);
            files.push(BufReader::with_capacity(BLOCK as usize, file));
        }
    }
    files.reverse();
    Ok(files)
}

/// Leaves out all but the last lines.
fn keep_tail(files: &mut Vec<Reader>, tail: usize) -> std::io::Result<()> {
    let mut wanted = tail;
    for at in (0..files.len()).rev() {
        let (start, found) = tail_of(files[at].get_ref(), wanted)?;
        files[at].seek(SeekFrom::Start(start))?;
        wanted -= found;
        if wanted == 0 {
            files.drain(..at);
            return Ok(());
        }
    }
    Ok(())
}

/// Where the last `wanted` lines begin, and how many there are.
fn tail_of(file: &File, wanted: usize) -> std::io::Result<(u64, usize)> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata()?.len();
    if wanted == 0 {
        return Ok((length, 0));
    }
    let (mut end, mut ends) = (length, 0);
    let mut block = vec![0; BLOCK as usize];
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let block = &mut block[..(end - start) as usize];
        file.read_exact_at(block, start)?;
        for (at, byte) in block.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            // The end of the line before the first one wanted.
            if ends == wanted {
                return Ok((start + at as u64 + 1, wanted));
            }
            ends += 1;
        }
        end = start;
    }
    Ok((0, ends))
}

struct Copied {
    lines: usize,
    /// There was one after `until`.
    after_end: bool,
}

/// Copies the whole lines that are there; a line that is being written is left for the next time.
fn copy(
    reader: &mut Reader,
    query: &LogQuery,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<Copied> {
    let mut text = Vec::new();
    let mut copied = Copied { lines: 0, after_end: false };
    let mut last = Stream::Stdout;
    loop {
        text.clear();
        let length = reader.by_ref().read_until(b'\n', &mut text)?;
        if !text.ends_with(b"\n") {
            reader.seek_relative(-(length as i64))?;
            break;
        }
        copied.lines += 1;
        // A damaged line (power loss, full disk) must not hide those after it.
        let Ok(line) = serde_json::from_slice::<Line<'_>>(&text) else { continue };
        if query.since.is_some() || query.until.is_some() {
            let Some(time) = Moment::parse(&line.time) else { continue };
            if query.since.is_some_and(|since| time < since) {
                continue;
            }
            if query.until.is_some_and(|until| time > until) {
                copied.after_end = true;
                break;
            }
        }
        // Both may keep what they get, and may lead to the same place.
        if line.stream != last {
            out.flush()?;
            err.flush()?;
            last = line.stream;
        }
        let target: &mut dyn Write = if line.stream == Stream::Stdout { out } else { err };
        if query.timestamps {
            write!(target, "{} ", line.time)?;
        }
        if query.details {
            let attributes: Vec<_> = line.attrs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            write!(target, "{} ", attributes.join(","))?;
        }
        target.write_all(line.log.as_bytes())?;
    }
    out.flush()?;
    err.flush()?;
    Ok(copied)
}
