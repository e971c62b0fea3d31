//! How a failure is told to the engines above.
//!
//! They learn the reason from words, so some words are an interface. This is the one place that knows them:
//!
//! | who asks | words | what they make of it |
//! |---|---|---|
//! | Docker (`daemon/errors.go`) | the command and `executable file not found`, `no such file or directory` | exit code 127 |
//! | Docker | `permission denied`, `is a directory` | exit code 126 |
//! | Podman (`oci_util.go`) | `permission denied`, `operation not permitted` | 126 |
//! | Podman | `executable file not found in`, `no such file or directory` | 127 |
//! | containerd (`pkg/process/utils.go`) | `os: process already finished`, `container not running`, `no such process`, `does not exist` | the container has ended, or is gone |
//!
//! Those of the last row the runtime writes itself; the others are added where they are missing.

use serde_json::Value;
use tare_sys::{Error, Kind};

use super::log::{Fields, Level, Log};
use crate::print::terminal::{self, Paint};

/// Prints an error for people and writes it to the log for engines.
pub fn tell(log: Option<&Log>, error: &Error, formatted: bool) {
    let message = message(error);
    if let Some(log) = log {
        // On standard error one of the two is enough.
        if !log.is_stderr() || formatted {
            log.write(Level::Error, &message, fields(error));
        }
        if log.is_stderr() && formatted {
            return;
        }
    }
    let paint = Paint::stderr();
    let hint = error.hint_text().map(|hint| format!("{} {hint}\n", paint.helpful("hint:")));
    terminal::complain(&format!("{} {message}\n{}", paint.bad("tare-oci:"), hint.unwrap_or_default()));
}

/// The error's text, with the words that its kind stands for.
pub fn message(error: &Error) -> String {
    let text = error.to_string();
    let (known, words): (&[&str], &str) = match error.kind() {
        Kind::CommandNotFound => (
            &["executable file not found", "no such file or directory"],
            "executable file not found in $PATH",
        ),
        Kind::CommandNotExecutable => (
            &[
                "permission denied",
                "is a directory",
                "operation not permitted",
                "not a directory",
                "exec format",
            ],
            "permission denied",
        ),
        _ => return text,
    };
    let lower = text.to_lowercase();
    if known.iter().any(|words| lower.contains(words)) { text } else { format!("{text}: {words}") }
}

/// The parts of an error for programs: `step` (what was being done), `call` (what the kernel was asked), `object`
/// (what it was about), `cause` (what it said) and `fix` (what a person can do).
fn fields(error: &Error) -> Fields {
    let mut fields = Fields::new();
    let parts = serde_json::to_value(error).unwrap_or_default();
    let what: Vec<&str> = parts["what"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut set = |name: &str, value: &str| {
        fields.insert(name.to_owned(), Value::from(value));
    };
    if let [step, _, ..] = what[..] {
        set("step", step);
    }
    // A syscall is written as strace writes it: `openat("/x"): ENOENT (No such file or directory)`.
    if let (Some(last), Some(_)) = (what.last(), error.errno())
        && let Some((call, cause)) = last.rsplit_once(": ")
    {
        set("call", call);
        set("cause", cause);
        if let Some(object) = call.split('"').nth(1) {
            set("object", object);
        }
    }
    if let Some(hint) = error.hint_text() {
        set("fix", hint);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn decisive_words_are_there_once() {
        let table = [
            (Kind::CommandNotFound, "exec: \"x\": executable file not found in $PATH", ""),
            (Kind::CommandNotFound, "exec: \"/x\": ENOENT (No such file or directory)", ""),
            (Kind::CommandNotFound, "exec: \"x\"", ": executable file not found in $PATH"),
            (Kind::CommandNotExecutable, "exec: \"/\": is a directory", ""),
            (Kind::CommandNotExecutable, "exec: \"/x\"", ": permission denied"),
            (Kind::Kernel, "x", ""),
        ];
        for (kind, text, added) in table {
            assert_eq!(message(&Error::new(kind, text)), format!("{text}{added}"));
        }
    }

    #[test]
    fn an_error_comes_in_parts() {
        let error = Error::syscall("open_tree(3</x>, \"data\")", Errno::NOENT).context("bind mount /data");
        let fields = fields(&error.hint("create it"));
        let get = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(get("step"), "bind mount /data");
        assert_eq!(get("call"), "open_tree(3</x>, \"data\")");
        assert_eq!((get("object").as_str(), get("fix").as_str()), ("data", "create it"));
        assert_eq!(get("cause"), "ENOENT (No such file or directory)");
    }
}
