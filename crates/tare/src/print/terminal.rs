//! What is known about the terminal, and writing to it.

use std::io::{self, IsTerminal, Write};

use tare_sys::{Context, Result};

/// Writes to standard output. A reader that has seen enough (`tare ps | head -1`) is no failure.
pub fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.doing(|| "write to standard output"),
    }
}

/// Writes to standard error; if even that fails there is nobody left to tell.
pub fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Columns to wrap help at: the terminal's, or 80.
pub fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80).max(40)
}

/// How a stream may be coloured.
#[derive(Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub const NONE: Paint = Paint(false);

    /// Colours only for a person who did not ask for none (<https://no-color.org>).
    pub fn stderr() -> Paint {
        Paint(Paint::may(io::stderr().is_terminal()))
    }

    /// As [`stderr`](Paint::stderr), for standard output.
    pub fn stdout() -> Paint {
        Paint(Paint::may(io::stdout().is_terminal()))
    }

    /// No colours.
    #[cfg(test)]
    pub fn none() -> Paint {
        Paint(false)
    }

    fn may(is_terminal: bool) -> bool {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        is_terminal && !unwanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// For what it is about.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// For what went wrong.
    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// For what may go wrong.
    pub fn doubtful(self, text: &str) -> String {
        self.with("1;33", text)
    }

    /// For what has been done of something.
    pub fn lively(self, text: &str) -> String {
        self.with("36", text)
    }

    /// For what is not there yet.
    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    /// For what to do about it.
    pub fn helpful(self, text: &str) -> String {
        self.with("1;36", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Text from outside, made harmless for a terminal: control characters become `?`.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
