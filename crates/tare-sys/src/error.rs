//! The one error type of the house.
//!
//! An error says what was tried and on what (`what`), why it failed (`cause`) and, where a person can act,
//! what to do (`hint`). It is written for the one who reads it at three in the morning:
//!
//! ```text
//! bind mount /srv/data to /data: open_tree("/srv/data"): ENOENT (No such file or directory)
//! hint: create the folder first, or use a named volume
//! ```

use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// `Result` with the house's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it was: decides exit codes and API status codes, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The caller asked for something that makes no sense (a bad flag, a bad number, a bad name).
    Usage,
    /// An option that there is not, or whose value cannot be read (exit code 125).
    Option,
    /// The named object does not exist.
    NotFound,
    /// The name is taken, or the object is in a state that forbids the operation.
    Conflict,
    /// The command is not in the container (exit code 127).
    CommandNotFound,
    /// The command is there but cannot be executed (exit code 126).
    CommandNotExecutable,
    /// The kernel or the file system said: not you.
    Permission,
    /// The kernel or the machine lacks something that is needed.
    Unsupported,
    /// Disk, memory, ids or another supply is used up.
    Exhausted,
    /// Input from outside (an archive, an image, a state file) is broken or hostile.
    Corrupt,
    /// Another machine does not answer, or answers that it cannot.
    Network,
    /// Anything else the kernel refused.
    Kernel,
}

/// What failed, why, and what to do about it. Opaque: read it by [`kind`](Error::kind) and `Display`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Error(Box<Inner>);

#[derive(Clone, Serialize, Deserialize)]
struct Inner {
    kind: Kind,
    /// Outermost first: what was tried, then what that needed, and so on.
    what: Vec<String>,
    errno: Option<i32>,
    hint: Option<String>,
}

impl Error {
    /// An error of our own finding: `what` names the operation, the object and the reason.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, what: vec![what.into()], errno: None, hint: None }))
    }

    /// A failed syscall; `call` is written as strace writes it, without the result: `openat2(3</x>, "y")`.
    pub fn syscall(call: impl Into<String>, errno: Errno) -> Error {
        let kind = match errno {
            Errno::NOENT | Errno::SRCH => Kind::NotFound,
            Errno::EXIST | Errno::BUSY => Kind::Conflict,
            Errno::PERM | Errno::ACCESS | Errno::ROFS => Kind::Permission,
            Errno::NOSYS | Errno::OPNOTSUPP => Kind::Unsupported,
            Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::AGAIN => {
                Kind::Exhausted
            }
            _ => Kind::Kernel,
        };
        let call = format!("{}: {}", call.into(), describe(errno));
        Error(Box::new(Inner { kind, what: vec![call], errno: Some(errno.raw_os_error()), hint: None }))
    }

    /// Says what the failed step was a part of; goes in front of what is there.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Error {
        self.0.what.insert(0, what.into());
        self
    }

    /// Says what a person can do. The innermost hint wins: it knows most.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Says what a person can do, where that is known better than by whoever spoke before.
    #[must_use]
    pub fn hint_instead(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Changes what sort of failure this counts as, where the caller knows better than the errno.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The errno behind it, where a syscall failed.
    pub fn errno(&self) -> Option<Errno> {
        self.0.errno.map(Errno::from_raw_os_error)
    }

    /// What to do about it, where that is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what.join(": "))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.0.kind)?;
        self.0.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for Error {}

/// Adds what was being done to a result that only knows an errno or a cause.
pub trait Context<T> {
    /// Wraps the failure; `what` is only computed on failure.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::syscall(what(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|err| match Errno::from_io_error(&err) {
            Some(errno) => Error::syscall(what(), errno),
            None => Error::new(Kind::Corrupt, format!("{}: {err}", what().into())),
        })
    }
}

impl<T> Context<T> for Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|err| err.context(what()))
    }
}

/// `ENOENT (No such file or directory)`.
fn describe(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match errno_name(errno) {
        Some(name) => format!("{name} ({text})"),
        None => text.to_owned(),
    }
}

/// The symbol of the errnos that this kind of work meets; the rest print as text alone.
fn errno_name(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::PERM => "EPERM",
        Errno::NOENT => "ENOENT",
        Errno::SRCH => "ESRCH",
        Errno::INTR => "EINTR",
        Errno::IO => "EIO",
        Errno::NXIO => "ENXIO",
        Errno::TOOBIG => "E2BIG",
        Errno::NOEXEC => "ENOEXEC",
        Errno::BADF => "EBADF",
        Errno::CHILD => "ECHILD",
        Errno::AGAIN => "EAGAIN",
        Errno::NOMEM => "ENOMEM",
        Errno::ACCESS => "EACCES",
        Errno::FAULT => "EFAULT",
        Errno::BUSY => "EBUSY",
        Errno::EXIST => "EEXIST",
        Errno::XDEV => "EXDEV",
        Errno::NODEV => "ENODEV",
        Errno::NOTDIR => "ENOTDIR",
        Errno::ISDIR => "EISDIR",
        Errno::INVAL => "EINVAL",
        Errno::NFILE => "ENFILE",
        Errno::MFILE => "EMFILE",
        Errno::NOTTY => "ENOTTY",
        Errno::TXTBSY => "ETXTBSY",
        Errno::FBIG => "EFBIG",
        Errno::NOSPC => "ENOSPC",
        Errno::SPIPE => "ESPIPE",
        Errno::ROFS => "EROFS",
        Errno::MLINK => "EMLINK",
        Errno::PIPE => "EPIPE",
        Errno::RANGE => "ERANGE",
        Errno::NAMETOOLONG => "ENAMETOOLONG",
        Errno::NOSYS => "ENOSYS",
        Errno::NOTEMPTY => "ENOTEMPTY",
        Errno::LOOP => "ELOOP",
        Errno::OVERFLOW => "EOVERFLOW",
        Errno::USERS => "EUSERS",
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::CONNRESET => "ECONNRESET",
        Errno::STALE => "ESTALE",
        Errno::DQUOT => "EDQUOT",
        Errno::TIMEDOUT => "ETIMEDOUT",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_operation_object_and_cause() {
        let err = Error::syscall("open_tree(\"/srv\")", Errno::NOENT).context("bind mount /srv to /data");
        assert_eq!(
            err.to_string(),
            "bind mount /srv to /data: open_tree(\"/srv\"): ENOENT (No such file or directory)"
        );
        assert_eq!(err.kind(), Kind::NotFound);
    }

    #[test]
    fn innermost_hint_wins() {
        let err = Error::new(Kind::Usage, "x").hint("inner").hint("outer");
        assert_eq!(err.hint_text(), Some("inner"));
    }
}
