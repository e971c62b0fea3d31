//! Terminals: raw mode that is always undone, sizes, and new pseudo-terminals.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, Winsize};

use crate::error::{Context, Result};

/// A terminal in raw mode until this is dropped.
#[derive(Debug)]
pub struct RawMode<Fd: AsFd> {
    terminal: Fd,
    before: Termios,
}

impl<Fd: AsFd> RawMode<Fd> {
    /// Switches it.
    pub fn enter(terminal: Fd) -> Result<RawMode<Fd>> {
        let before = rustix::termios::tcgetattr(&terminal).doing(|| "tcgetattr(terminal)")?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &raw)
            .doing(|| "tcsetattr(terminal, raw)")?;
        Ok(RawMode { terminal, before })
    }
}

impl<Fd: AsFd> Drop for RawMode<Fd> {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that went away meanwhile.
        let _ = rustix::termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Columns and rows of a terminal; `None` where it is none.
pub fn size(terminal: impl AsFd) -> Option<(u16, u16)> {
    rustix::termios::tcgetwinsize(terminal).ok().map(|size| (size.ws_col, size.ws_row))
}

/// Sets columns and rows; the foreground process group gets SIGWINCH.
pub fn set_size(terminal: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).doing(|| "ioctl(TIOCSWINSZ)")
}

/// A new pseudo-terminal of the devpts instance whose root `devpts` is: (ours, the container's).
///
/// The container's end comes from `TIOCGPTPEER`, not from a path that the image could have replaced
/// (CVE-2025-52565).
pub fn open_pair(devpts: impl AsFd) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours =
        rustix::fs::openat(devpts, "ptmx", flags, Mode::empty()).doing(|| "openat(devpts, \"ptmx\")")?;
    rustix::pty::unlockpt(&ours).doing(|| "ioctl(TIOCSPTLCK)")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).doing(|| "ioctl(TIOCGPTPEER)")?;
    Ok((ours, theirs))
}

/// Makes the terminal the controlling one of this session; the caller is its leader.
pub fn control(terminal: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).doing(|| "ioctl(TIOCSCTTY)")
}
