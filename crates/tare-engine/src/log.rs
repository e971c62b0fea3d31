//! A container's output on disk: Docker's json-file, one object a line.
//!
//! ```text
//! <state>/containers/<id>/log.json      {"log":"hello\n","stream":"stdout","time":"2026-11-23T20:35:33.123456789Z"}
//!                         log.json.1    what was in it before it had grown to its limit
//!                         log.json.2    and before that; by default 10 MB each, three in all
//! ```
//!
//! A line longer than 16 KiB is written in pieces, of which only the last ends in `\n`. Bytes that are not
//! UTF-8 become U+FFFD, as under Docker. With the driver `journald` each line goes to the journal as well, and
//! with `none` nothing is kept.
//!
//! The monitor writes (`write.rs`, `journal.rs`) and never waits for a reader; readers follow the files
//! (`read.rs`), as many as there are, across the change from one file to the next.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tare_sys::{Error, Kind, Result};

use crate::engine::Engine;
use crate::policy::{self, Keep, Logging};

mod journal;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use read::LogQuery;
use read::print;
pub use write::Writer;

/// Which stream a piece of output came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    log: Cow<'a, str>,
    stream: Stream,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    time: Cow<'a, str>,
}

impl Engine {
    /// Prints a container's output.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Unsupported`] where none is kept.
    pub fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<()> {
        let folders = self.find(container)?;
        let record = folders.record()?;
        if policy::logging(&record.request, &record.id, &record.name)?.keep == Keep::Nothing {
            return Err(Error::new(
                Kind::Unsupported,
                format!("logs of {container}: its log driver is none"),
            )
            .hint("start it without --log-driver none"));
        }
        // The monitor holds the lock until the last line is written.
        let mut running = || matches!(folders.lock(), Ok(None));
        print(&folders.log(), query, &mut running, out, err)
    }
}

/// Whether there is what these settings need.
///
/// Errors: [`Kind::Unsupported`].
pub fn check(settings: &Logging) -> Result<()> {
    if settings.keep == Keep::Journal && !Path::new(journal::SOCKET).exists() {
        return Err(Error::new(
            Kind::Unsupported,
            "log driver journald: there is no journal on this machine",
        )
        .hint(format!("start systemd-journald, which listens at {}, or use json-file", journal::SOCKET)));
    }
    Ok(())
}

/// The file that was the current one `age` changes ago.
fn aged(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}
