//! Signals: names, masks, and reading them from an fd.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::process::check;

/// The classic signals by name, without `SIG` (signal(7), x86 and Arm).
const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The number of a signal written as `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3` or `RTMAX-1`.
pub fn number(name: &str) -> Option<i32> {
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse::<u8>().ok()?.into() };
        return (RTMIN + offset <= RTMAX).then_some(RTMIN + offset);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset: i32 =
            if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse::<u8>().ok()?.into() };
        return (RTMAX - offset >= RTMIN).then_some(RTMAX - offset);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The name of a signal, `SIGTERM`; a number where it has none.
pub fn name(number: i32) -> String {
    match NAMES.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => format!("SIG{name}"),
        None => number.to_string(),
    }
}

fn full_set() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is a valid one, and sigfillset only writes to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        set
    }
}

/// Blocks every signal that can be blocked, so that none is lost before there is an fd to read them from.
pub fn block_all() -> Result<()> {
    let set = full_set();
    // SAFETY: `set` outlives the call; the old mask is not asked for.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    check(result.into()).doing(|| "sigprocmask(all)")?;
    Ok(())
}

/// Unblocks every signal: what a new program should start with.
pub fn unblock_all() -> Result<()> {
    // SAFETY: an all-zero sigset_t is the empty set; it outlives the call.
    let result = unsafe {
        let set: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    check(result.into()).doing(|| "sigprocmask(none)")?;
    Ok(())
}

/// The signals that this process ignores, as a set: bit n - 1 for signal n.
///
/// Handlers do not survive exec, but *ignored* does, and so comes down to us from callers (nohup, a shell's
/// background jobs, Python) and from Rust's own ignored SIGPIPE.
pub fn ignored() -> u64 {
    let status = crate::path::read_short("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// How a process takes a signal that is sent to it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// By a handler.
    Caught,
    /// Not before it unblocks it or asks for it (sigwait(3), signalfd(2)).
    Blocked {
        /// There is one already.
        pending: bool,
    },
    /// By the default action, or not at all. The first process of a pid namespace has no default action: what is sent to it
    /// is lost (pid_namespaces(7)), and so is what was pending when it is unblocked.
    Open,
}

/// How the process with this number takes a signal, 1 to 64 (proc_pid_status(5)); `None` where there is no such process.
pub fn reception(pid: i32, signal: i32) -> Option<Reception> {
    let status = crate::path::read_short(&format!("/proc/{pid}/status")).ok()?;
    let has = |key: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let at = u32::try_from(signal - 1);
        at.is_ok_and(|at| mask.and_then(|mask| mask.checked_shr(at)).is_some_and(|mask| mask & 1 == 1))
    };
    // While it waits in sigwait(3), what it waits for is not shown as blocked.
    let waits = || {
        let place = crate::path::read_short(&format!("/proc/{pid}/wchan"));
        place.is_ok_and(|place| place.contains("sigtimedwait"))
    };
    Some(match has("SigCgt:") {
        true => Reception::Caught,
        false if has("SigBlk:") || waits() => {
            Reception::Blocked { pending: has("SigPnd:") || has("ShdPnd:") }
        }
        false => Reception::Open,
    })
}

/// Gives the signals of a set their default action again, as a new program should find them.
pub fn reset(set: u64) {
    /// The kernel's own `struct sigaction` (rt_sigaction(2)): libc's call refuses the two signals that it keeps
    /// for itself, and those can be ignored like any other.
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let default = Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    for number in (1..=64).filter(|number| set & (1 << (number - 1)) != 0) {
        // SAFETY: `default` has the kernel's layout and outlives the call; the old action is not asked for.
        // SIG_DFL installs no code of ours.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                &raw const default,
                std::ptr::null_mut::<Action>(),
                8usize,
            )
        };
    }
}

/// The signal that tells of input: see [`tell_of_input`].
pub const INPUT: i32 = libc::SIGIO;

/// From now on this process gets [`INPUT`] when more has come into a pipe or FIFO, also while a long write to it waits for
/// room, of which no edge of epoll(7) tells (fcntl(2): `O_ASYNC`, `F_SETOWN`).
pub fn tell_of_input(pipe: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: neither has a pointer, and the number is our own.
    let result = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETOWN, libc::getpid()) };
    check(result.into()).doing(|| "fcntl(F_SETOWN)")?;
    let flags = rustix::fs::fcntl_getfl(pipe).doing(|| "fcntl(F_GETFL)")?;
    rustix::fs::fcntl_setfl(pipe, flags | OFlags::ASYNC).doing(|| "fcntl(F_SETFL, O_ASYNC)")
}

/// Signals as a file: signalfd(2), for signals that [`block_all`] blocked.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Opens it for all of them, non-blocking.
    pub fn new() -> Result<SignalFd> {
        SignalFd::of(full_set())
    }

    /// The same for one of them.
    pub fn only(number: i32) -> Result<SignalFd> {
        // SAFETY: an all-zero sigset_t is the empty set, and sigaddset only writes to it; it refuses what is no signal.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut set, number);
            set
        };
        SignalFd::of(set)
    }

    fn of(set: libc::sigset_t) -> Result<SignalFd> {
        // SAFETY: `set` outlives the call; -1 asks for a new fd, which we then own.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        check(fd.into()).doing(|| "signalfd()")?;
        // SAFETY: the call made this fd and nobody else knows it.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that has come in, by number; `None` when there is none.
    pub fn next(&self) -> Result<Option<i32>> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut info[..]) {
            // ssi_signo is the first field, a u32 in the host's byte order (signalfd(2)).
            Ok(n) if n >= 4 => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(Error::syscall("read(signalfd)", errno)),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("TERM", Some(15)),
            ("sigkill", Some(9)),
            ("15", Some(15)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("NOPE", None),
            ("RTMIN+99", None),
            ("", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
        assert_eq!(name(15), "SIGTERM");
        assert_eq!(name(40), "40");
    }
}
