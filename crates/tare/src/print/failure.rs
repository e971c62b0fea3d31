//! How a failure is told: `tare: what failed`, `hint: what to do`, and the exit code.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use rustix::io::Errno;
use tare_sys::{Error, Kind, Result};

use crate::print::terminal::{self, Paint};
use crate::words::help;
use crate::words::tree::{self, Spot};

/// Prints an error and its hint.
pub fn print(error: &Error) {
    let paint = Paint::stderr();
    let hint = error.hint_text().map(|hint| format!("{} {hint}\n", paint.helpful("hint:")));
    terminal::complain(&format!("{} {error}\n{}", paint.bad("tare:"), hint.unwrap_or_default()));
}

/// Prints what went well enough but not quite.
pub fn warn(warning: &str) {
    terminal::complain(&format!("{} {warning}\n", Paint::stderr().doubtful("warning:")));
}

/// The exit code of a command that is over; prints its error, if it has one.
pub fn report(answer: Result<u8>, spot: &dyn Fn() -> Spot, failed: u8) -> u8 {
    let error = match answer {
        Ok(code) => return code,
        Err(error) => error,
    };
    print(&error);
    if matches!(error.kind(), Kind::Usage | Kind::Option) && error.hint_text().is_none() {
        terminal::complain(&format!("\nSee '{} --help'.\n", spot().path));
    }
    code(error.kind(), failed)
}

/// Docker's codes: 125 an option is wrong, or `run` failed; 126 its command cannot be executed, 127 it is not there.
fn code(kind: Kind, failed: u8) -> u8 {
    match kind {
        Kind::Option => WRONG_OPTION,
        Kind::CommandNotExecutable if failed == 125 => 126,
        Kind::CommandNotFound if failed == 125 => 127,
        _ => failed,
    }
}

/// Docker's exit code for an option that cannot be read, whatever the command.
const WRONG_OPTION: u8 = 125;

/// Reports words that make no sense, and shows how to use the command. A wrong number of words is 1, even for `run`.
pub fn usage(error: &Error, spot: &Spot) -> u8 {
    print(error);
    terminal::complain(&format!("\nUsage:  {}\n\nSee '{} --help'.\n", help::usage_line(spot), spot.path));
    code(error.kind(), 1)
}

/// Reports what clap did not understand.
pub fn words(err: &clap::Error, spot: &Spot) -> u8 {
    let error = in_our_words(err, spot);
    match err.kind() {
        ErrorKind::InvalidSubcommand => {
            print(&error);
            terminal::complain(&format!("\nSee '{} --help'.\n", spot.path));
            1
        }
        _ => usage(&error.with_kind(Kind::Option), spot),
    }
}

/// clap's finding in the words of this house.
fn in_our_words(err: &clap::Error, spot: &Spot) -> Error {
    // Of several suggestions the last is the nearest.
    let text = |kind: ContextKind| match err.get(kind) {
        Some(ContextValue::String(text)) => Some(terminal::harmless(text)),
        Some(ContextValue::Strings(texts)) => texts.last().map(|text| terminal::harmless(text)),
        _ => None,
    };
    // `--memory <memory>`, `-q...`: the name is enough.
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let argument = argument.split([' ', '[', '=']).next().unwrap_or_default();
    let error = |what: String| Error::new(Kind::Usage, what);
    match err.kind() {
        ErrorKind::UnknownArgument => {
            let error = error(format!("unknown flag: {argument}"));
            if tree::GLOBAL.iter().any(|flag| argument.strip_prefix("--") == Some(flag.long)) {
                return error.hint(format!("{argument} goes before the command: tare {argument} …"));
            }
            match text(ContextKind::SuggestedArg) {
                Some(suggested) => error.hint(format!("did you mean {suggested}?")),
                None => error,
            }
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let error = error(format!("unknown command: {} {word}", spot.path));
            match text(ContextKind::SuggestedSubcommand) {
                Some(suggested) => error.hint(format!("did you mean '{} {suggested}'?", spot.path)),
                None => error,
            }
        }
        ErrorKind::InvalidUtf8 => error("an argument is not UTF-8 text".to_owned()),
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            let error = error(format!("flag needs a value: {argument}"));
            let flag =
                tree::flags(spot.target).iter().find(|flag| argument.strip_prefix("--") == Some(flag.long));
            match flag {
                Some(flag) => error.hint(format!("for example: {argument} {}", flag.example)),
                None => error,
            }
        }
        ErrorKind::TooManyValues => error(format!("too many values: {argument}")),
        _ => {
            let text = err.to_string();
            error(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    }
}

/// Does the same to each of several objects: a failure is told, and the next one gets its turn.
pub fn each(words: &[&str], mut act: impl FnMut(&str) -> Result<()>) -> u8 {
    let mut code = 0;
    for word in words {
        if let Err(error) = act(word) {
            print(&error);
            code = 1;
        }
    }
    code
}

/// Whether it failed only because the reader at the other end of a pipe went away.
pub fn is_deaf_reader(error: &Error) -> bool {
    error.errno() == Some(Errno::PIPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_dockers() {
        assert_eq!(code(Kind::CommandNotFound, 125), 127);
        assert_eq!(code(Kind::CommandNotExecutable, 125), 126);
        assert_eq!(code(Kind::Kernel, 125), 125);
        assert_eq!(code(Kind::CommandNotFound, 1), 1);
        assert_eq!((code(Kind::Option, 1), code(Kind::Usage, 1)), (125, 1));
    }

    #[test]
    fn what_clap_finds_is_told_in_our_words() {
        let table: [(&[&str], &str, Option<&str>); 7] = [
            (&["run", "--memroy=1", "host"], "unknown flag: --memroy", Some("did you mean --memory?")),
            (&["run", "-Z", "host"], "unknown flag: -Z", None),
            (&["run", "-m"], "flag needs a value: --memory", Some("for example: --memory 512m")),
            (
                &["ps", "--root"],
                "unknown flag: --root",
                Some("--root goes before the command: tare --root …"),
            ),
            (&["zzzz"], "unknown command: tare zzzz", None),
            (&["inspct"], "unknown command: tare inspct", Some("did you mean 'tare inspect'?")),
            (&["image", "zzzz"], "unknown command: tare image zzzz", None),
        ];
        for (words, what, hint) in table {
            let err = tree::parse_for_test(words).unwrap_err();
            let error = in_our_words(&err, &tree::find(words.iter().copied()));
            assert_eq!((error.to_string().as_str(), error.hint_text()), (what, hint), "{words:?}");
        }
    }

    #[test]
    fn later_objects_get_their_turn() {
        let mut seen = Vec::new();
        let code = each(&["a", "b", "c"], |word| {
            seen.push(word.to_owned());
            if word == "a" { Err(Error::new(Kind::NotFound, "no such container: a")) } else { Ok(()) }
        });
        assert_eq!((code, seen), (1, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
    }
}
