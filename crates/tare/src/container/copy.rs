//! `tare cp`: files into and out of containers.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use tare_engine::{Copied, CopyOptions, Engine};
use tare_sys::{Context, Error, Kind, Result};

use crate::print::terminal::complain;
use crate::print::{failure, human};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static COPY: Verb = Verb {
    about: "Copy files or folders between a container and this machine",
    operands: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        tare cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    least: |_| 2,
    most: 2,
    words_end_options: false,
    flags: &[
        Flag::switch("archive", "Keep owners as they are at the source").short('a'),
        Flag::switch("follow-link", "Copy what a link as the source leads to").short('L'),
        Flag::switch("quiet", "Do not say what was copied").short('q'),
    ],
    act: copy,
    failed: 1,
};

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Container(&'a str, &'a str),
    Host(&'a str),
    Stream,
}

impl<'a> Side<'a> {
    /// `CONTAINER:PATH`, unless what is before the colon cannot be a name: `./a:b` and `/a:b` are paths.
    fn of(word: &'a str) -> Side<'a> {
        if word == "-" {
            return Side::Stream;
        }
        match word.split_once(':') {
            Some((name, path))
                if !name.is_empty() && !name.starts_with(['.', '/']) && !name.contains('/') =>
            {
                Side::Container(name, path)
            }
            _ => Side::Host(word),
        }
    }
}

fn copy(engine: &Engine, given: &Given) -> Result<u8> {
    let [from, to] = given.words()[..] else {
        return Err(Error::new(Kind::Usage, "cp takes a source and a destination"));
    };
    let options = CopyOptions { follow_link: given.on("follow-link")?, archive: given.on("archive")? };
    let usage = |what: &str| {
        Error::new(Kind::Usage, what)
            .hint("one side is CONTAINER:PATH, the other a path of this machine or -")
    };
    let (copied, quiet) = match (Side::of(from), Side::of(to)) {
        (Side::Container(container, path), Side::Host(to)) => {
            (engine.copy_from(container, required(path)?, Path::new(to), options)?, false)
        }
        (Side::Host(from), Side::Container(container, path)) => {
            (engine.copy_to(container, Path::new(from), required(path)?, options)?, false)
        }
        (Side::Container(container, path), Side::Stream) => {
            if io::stdout().is_terminal() {
                return Err(usage("the archive is not written to a terminal"));
            }
            let mut out = io::stdout().lock();
            let copied = engine.archive(container, required(path)?, options, &mut out)?;
            out.flush().doing(|| "write to standard output")?;
            (copied, true)
        }
        (Side::Stream, Side::Container(container, path)) => {
            (engine.extract(container, required(path)?, &mut io::stdin().lock())?, true)
        }
        (Side::Container(..), Side::Container(..)) => {
            return Err(usage("copying between containers is not supported"));
        }
        _ => return Err(usage("must specify at least one container source")),
    };
    // As Docker: nobody looks at a file or a pipe.
    let silent = given.maybe("quiet")?.unwrap_or(!io::stdout().is_terminal());
    report(&copied, quiet || silent, to);
    Ok(0)
}

fn required(path: &str) -> Result<&str> {
    if path.is_empty() {
        return Err(
            Error::new(Kind::Usage, "there is no path after the container's name").hint("CONTAINER:/path")
        );
    }
    Ok(path)
}

fn report(copied: &Copied, quiet: bool, to: &str) {
    if copied.left_out > 0 {
        failure::warn(&format!("{} devices or sockets were left out", copied.left_out));
    }
    if !quiet {
        complain(&format!("Successfully copied {} to {to}\n", human::size(copied.bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        for (word, side) in [
            ("web:/etc", Side::Container("web", "/etc")),
            ("web:a:b", Side::Container("web", "a:b")),
            ("./a:b", Side::Host("./a:b")),
            ("/a:b", Side::Host("/a:b")),
            ("dir/a:b", Side::Host("dir/a:b")),
            (":x", Side::Host(":x")),
            ("file", Side::Host("file")),
            ("-", Side::Stream),
        ] {
            assert_eq!(Side::of(word), side, "{word}");
        }
    }
}
