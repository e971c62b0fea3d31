//! Asking a person at the terminal.

use std::io::{self, BufRead, Read};

use tare_sys::tty::RawMode;
use tare_sys::{Context, Error, Kind, Result};

use crate::print::terminal::complain;

/// Asks for a line.
///
/// Errors: those of reading.
pub fn line(question: &str) -> Result<String> {
    Ok(answer(question)?.unwrap_or_default())
}

/// Shows a warning and asks whether to go on; only `y` or `yes` is a yes, as with Docker.
///
/// Errors: [`Kind::Usage`] where nobody is there to answer; those of reading.
pub fn confirm(warning: &str) -> Result<bool> {
    match answer(&format!("{warning}\nAre you sure you want to continue? [y/N] "))? {
        Some(answer) => Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes")),
        None => {
            Err(Error::new(Kind::Usage, "nobody is there to say yes")
                .hint("use --force to do it without asking"))
        }
    }
}

/// The line that is answered; `None` at the end of the input.
fn answer(question: &str) -> Result<Option<String>> {
    complain(question);
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer).doing(|| "read the answer")?;
    Ok((read > 0).then(|| answer.trim().to_owned()))
}

/// Asks for what nobody else should see: nothing of it is shown.
///
/// Errors: [`Kind::Conflict`] after Ctrl-C; those of reading.
pub fn secret(question: &str) -> Result<String> {
    let answer = {
        // Before the question: who sees it may begin to type. Ctrl-C comes as a character, so that it cannot leave a
        // terminal behind that shows nothing.
        let _raw = RawMode::enter(io::stdin())?;
        complain(question);
        typed(io::stdin().lock().bytes())
    };
    complain("\n");
    answer
}

/// A line from keys as they are hit.
fn typed(keys: impl Iterator<Item = io::Result<u8>>) -> Result<String> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;
    const BACKSPACE: [u8; 2] = [8, 127];
    let mut line = Vec::new();
    for key in keys {
        match key.doing(|| "read the answer")? {
            b'\r' | b'\n' | CTRL_D => break,
            CTRL_C => return Err(Error::new(Kind::Conflict, "stopped by Ctrl-C")),
            CTRL_U => line.clear(),
            key if BACKSPACE.contains(&key) => {
                // A character may have several bytes; those after its first begin with the bits 10.
                while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            key => line.push(key),
        }
    }
    String::from_utf8(line).map_err(|_| Error::new(Kind::Usage, "what was typed is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<String> {
        typed(text.bytes().map(Ok))
    }

    #[test]
    fn keys_that_take_back_do() {
        assert_eq!(keys("pass:wörd\rmore").unwrap(), "pass:wörd");
        assert_eq!(keys("aé\x7f\x7f\x7fb\x08c\n").unwrap(), "c");
        assert_eq!(keys("wrong\x15right\x04").unwrap(), "right");
        assert_eq!(keys("secret\x03").unwrap_err().kind(), Kind::Conflict);
    }
}
