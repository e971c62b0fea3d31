//! `tare import`: an image from the tar of a root file system.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::time::{Duration, Instant};

use tare_engine::{Engine, ImportRequest, is_address};
use tare_sys::{Context, Error, Kind, Result};

use crate::print::human;
use crate::print::terminal::{complain, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

/// How often the line moves.
const BEAT: Duration = Duration::from_millis(100);

pub static IMPORT: Verb = Verb {
    about: "Make an image from a tar archive of a root file system",
    operands: "[OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]",
    least: |_| 1,
    most: 2,
    words_end_options: false,
    flags: &[
        Flag::many("change", "'CMD [\"sh\"]'", "Apply a Dockerfile instruction to the image").short('c'),
        Flag::one("message", "string", "'from mmdebstrap'", "Set a message for the image's history")
            .short('m'),
        Flag::one("platform", "string", "linux/arm64", "Say what the image is for, if not for this machine"),
    ],
    act: import,
    failed: 1,
};

fn import(engine: &Engine, given: &Given) -> Result<u8> {
    let words = given.words();
    let source = words[0];
    let asked = ImportRequest {
        name: words.get(1).map(|name| (*name).to_owned()),
        changes: given.strings("change"),
        message: given.text("message").unwrap_or_default().to_owned(),
        platform: given.text("platform").map(str::to_owned),
    };
    let mut progress = Progress::new(io::stderr().is_terminal());
    let id = engine.import_image(archive(engine, source)?, &asked, &mut |bytes| {
        if let Some(line) = progress.line(bytes, Instant::now()) {
            complain(&line);
        }
    });
    progress.clear();
    let id = id.doing(|| format!("import {}", if source == "-" { "standard input" } else { source }))?;
    say(&format!("{id}\n"))?;
    Ok(0)
}

/// The archive to read: stdin for `-`, what is at an address, or a file.
fn archive(engine: &Engine, source: &str) -> Result<Box<dyn Read>> {
    if source == "-" {
        if io::stdin().is_terminal() {
            return Err(Error::new(Kind::Usage, "the archive would come from the terminal")
                .hint("for example: tare import - debian < debian.tar"));
        }
        return Ok(Box::new(io::stdin().lock()));
    }
    match is_address(source) {
        true => engine.download(source),
        false => file(source),
    }
}

fn file(source: &str) -> Result<Box<dyn Read>> {
    let open = File::open(source).and_then(|file| Ok((file.metadata()?.is_dir(), file)));
    match open.doing(|| format!("open the archive {source}"))? {
        (true, _) => Err(Error::new(Kind::Usage, format!("{source} is a folder, not a tar archive"))
            .hint(format!("tar -C {source} -c . | tare import - NAME, or run it with --rootfs {source}"))),
        (false, file) => Ok(Box::new(file)),
    }
}

/// One line on a terminal that says how far it is; nothing elsewhere.
struct Progress {
    shown: bool,
    began: Instant,
    last: Option<Instant>,
}

impl Progress {
    fn new(shown: bool) -> Progress {
        Progress { shown, began: Instant::now(), last: None }
    }

    /// The line for `bytes` read so far, if it is time for another.
    fn line(&mut self, bytes: u64, now: Instant) -> Option<String> {
        if !self.shown || self.last.is_some_and(|last| now.duration_since(last) < BEAT) {
            return None;
        }
        self.last = Some(now);
        let seconds = now.duration_since(self.began).as_secs_f64().max(0.001);
        let rate = human::size((bytes as f64 / seconds) as u64);
        Some(format!("\r\x1b[KImporting  {}  {rate}/s", human::size(bytes)))
    }

    fn clear(&self) {
        if self.last.is_some() {
            complain("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_moves_ten_times_a_second_and_only_on_a_terminal() {
        let mut progress = Progress::new(true);
        let at = |milliseconds| progress.began + Duration::from_millis(milliseconds);
        let (first, soon, later) = (at(1000), at(1050), at(2000));
        assert_eq!(progress.line(5_000_000, first).as_deref(), Some("\r\x1b[KImporting  5MB  5MB/s"));
        assert_eq!(progress.line(5_100_000, soon), None);
        assert_eq!(progress.line(8_000_000, later).as_deref(), Some("\r\x1b[KImporting  8MB  4MB/s"));
        assert_eq!(Progress::new(false).line(1, first), None);
    }

    #[test]
    fn what_is_no_archive_is_refused_with_the_way_out() {
        let error = file("/").err().unwrap();
        assert!(error.hint_text().is_some_and(|text| text.starts_with("tar -C / -c .")), "{error:?}");
        assert_eq!(file("/nowhere").err().unwrap().kind(), Kind::NotFound);
    }
}
