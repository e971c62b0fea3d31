//! What a container has in its file system: `tare export`, `tare commit`, `tare diff`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};

use tare_engine::{CommitRequest, Engine};
use tare_sys::{Context, Error, Kind, Result};

use crate::print::terminal::{harmless, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static EXPORT: Verb = Verb {
    about: "Export a container's filesystem as a tar archive",
    operands: "[OPTIONS] CONTAINER",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[Flag::one("output", "file", "root.tar", "Write to a file, instead of STDOUT").short('o')],
    act: export,
    failed: 1,
};

pub static COMMIT: Verb = Verb {
    about: "Create a new image from a container's changes",
    operands: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    least: |_| 1,
    most: 2,
    words_end_options: false,
    flags: &[
        Flag::one("author", "string", "'Ann <ann@example.org>'", "Say who made the image").short('a'),
        Flag::many("change", "'CMD [\"sh\"]'", "Apply a Dockerfile instruction to the image").short('c'),
        Flag::one("message", "string", "'with curl'", "Set a message for the image's history").short('m'),
        Flag::switch("no-pause", "Do not pause the container meanwhile"),
        Flag::switch("pause", "Pause the container meanwhile (the default)").short('p'),
    ],
    act: commit,
    failed: 1,
};

pub static DIFF: Verb = Verb {
    about: "Inspect changes to files or directories on a container's filesystem",
    operands: "CONTAINER",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[],
    act: diff,
    failed: 1,
};

fn export(engine: &Engine, given: &Given) -> Result<u8> {
    let container = given.words()[0];
    let stdout = given.text("output").is_none_or(str::is_empty);
    if stdout && io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "the archive would go to the terminal")
            .hint("give a file with -o, or send it somewhere: tare export CONTAINER | tar -t"));
    }
    whole_file(given.text("output").unwrap_or_default(), |to| engine.export(container, to))?;
    Ok(0)
}

/// Lets `write` write a file, which gets its name when it is whole; no name: standard output.
pub fn whole_file(path: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    const BUFFER: usize = 1 << 20;
    if path.is_empty() {
        return write(&mut BufWriter::with_capacity(BUFFER, io::stdout().lock()));
    }
    // A device or a pipe is written to as it is: `-o /dev/null`.
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let file = File::options().write(true).open(path).doing(|| format!("open {path}"))?;
        return write(&mut BufWriter::with_capacity(BUFFER, file));
    }
    let unfinished = format!("{path}.unfinished-{}", std::process::id());
    let written = (|| {
        let file = File::create_new(&unfinished).doing(|| format!("make {unfinished}"))?;
        write(&mut BufWriter::with_capacity(BUFFER, file))?;
        std::fs::rename(&unfinished, path).doing(|| format!("rename {unfinished} to {path}"))
    })();
    if written.is_err() {
        // The failure is the one to report.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

fn commit(engine: &Engine, given: &Given) -> Result<u8> {
    let words = given.words();
    let asked = CommitRequest {
        name: words.get(1).map(|name| (*name).to_owned()),
        changes: given.strings("change"),
        author: given.text("author").unwrap_or_default().to_owned(),
        message: given.text("message").unwrap_or_default().to_owned(),
        running: given.on("no-pause")? || given.maybe("pause")? == Some(false),
    };
    let id = engine.commit(words[0], &asked)?;
    say(&format!("{id}\n"))?;
    Ok(0)
}

fn diff(engine: &Engine, given: &Given) -> Result<u8> {
    let changes = engine.changes(given.words()[0])?;
    say(&changes.iter().map(|change| format!("{}\n", harmless(&change.to_string()))).collect::<String>())?;
    Ok(0)
}
