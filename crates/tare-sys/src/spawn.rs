//! Running a helper program, with exactly the arguments, variables and files that are given.
//!
//! Not `std::process::Command`: that inherits what is not said (the environment, open files, ignored signals),
//! and a hook must not (CVE-2025-23266).

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::process::{self, Child, Side};
use crate::signal;

/// A program to be run.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its path; no search.
    pub path: &'a CStr,
    /// Its arguments, with its name as the first.
    pub args: &'a [CString],
    /// Its whole environment.
    pub env: &'a [CString],
    /// Where it starts.
    pub folder: &'a CStr,
    /// stdin, stdout and stderr; it gets no other file.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// What the child was doing when it failed, as it sends it to its parent.
const STEPS: [&str; 4] = ["setpgid", "chdir", "dup2", "execve"];

/// Runs a program as a child that leads a process group of its own, with default signals. Returns when it has
/// been executed, or why it could not be.
///
/// The child allocates nothing, so that it works even where another thread of ours held the heap's lock.
pub fn spawn(program: &Program<'_>) -> Result<Child> {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(program.args), pointers(program.env));
    // Copies above 2, so that none of them is overwritten before it has been put in its place.
    let stdio = program
        .stdio
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3))
        .collect::<std::result::Result<Vec<_>, _>>()
        .doing(|| "fcntl(F_DUPFD_CLOEXEC, 3)")?;
    let (told, low) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")?;
    let tell = rustix::io::fcntl_dupfd_cloexec(&low, 3).doing(|| "fcntl(F_DUPFD_CLOEXEC, 3)")?;
    drop(low);
    match process::clone(0, None)? {
        Side::Child => {
            let (step, errno) = become_program(program, &argv, &envp, &stdio);
            let [a, b, c, d] = errno.raw_os_error().to_ne_bytes();
            let _ = rustix::io::write(&tell, &[step, a, b, c, d]);
            process::exit_now(127)
        }
        Side::Parent(child) => {
            drop((tell, stdio));
            let mut said = Vec::new();
            File::from(told).read_to_end(&mut said).doing(|| "read(pipe of the child)")?;
            let [step, a, b, c, d] = said[..] else { return Ok(child) };
            let _ = process::wait(child.pidfd.as_fd());
            let errno = Errno::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]));
            let object = if step == 1 { program.folder } else { program.path };
            let step = STEPS.get(usize::from(step)).unwrap_or(&"execve");
            Err(Error::syscall(format!("{step}({object:?})"), errno))
        }
    }
}

/// The child's part. Answers the failed step's number in [`STEPS`].
fn become_program(
    program: &Program<'_>,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    stdio: &[OwnedFd],
) -> (u8, Errno) {
    if let Err(errno) = rustix::process::setpgid(None, None) {
        return (0, errno);
    }
    // SAFETY: `folder` ends in NUL and outlives the call.
    if let Err(errno) = process::check(unsafe { libc::chdir(program.folder.as_ptr()) }.into()) {
        return (1, errno);
    }
    for (fd, target) in stdio.iter().zip(0 as RawFd..) {
        // SAFETY: the child replaces its own standard fds, which no value of this process owns.
        if let Err(errno) = process::check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into()) {
            return (2, errno);
        }
    }
    // "Ignored" survives exec, and Rust itself ignores SIGPIPE. All 64: asking which costs more than this.
    signal::reset(u64::MAX);
    let unblocked = signal::unblock_all();
    if let Err(errno) = unblocked.and_then(|()| process::close_on_exec_from(3)).map_err(|err| err.errno()) {
        return (3, errno.unwrap_or(Errno::IO));
    }
    // SAFETY: both arrays end in a null pointer; they and the strings outlive the call.
    unsafe { libc::execve(program.path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    (3, Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &CStr) -> Result<Child> {
        let null = File::open("/dev/null").unwrap();
        let args = [c"sh".to_owned(), c"-c".to_owned(), CString::new(script).unwrap()];
        let stdio = [null.as_fd(); 3];
        spawn(&Program { path: c"/bin/sh", args: &args, env: &[], folder, stdio })
    }

    #[test]
    fn it_has_no_files_but_its_three() {
        let _open = File::open("/").unwrap();
        // One by one: a listing would be a file of its own.
        let script = "n=3; while [ $n -lt 300 ]; do [ ! -e /proc/$$/fd/$n ] || exit 1; n=$((n+1)); done";
        let child = shell(script, c"/").unwrap();
        assert_eq!(process::wait(child.pidfd.as_fd()).unwrap(), process::Ended::Exited(0));
    }

    #[test]
    fn its_signals_are_neither_ignored_nor_blocked() {
        let script = "while read -r key value; do case $key in \
            SigIgn:|SigBlk:) test $((0x$value)) = 0 || exit 1;; esac; done < /proc/self/status";
        let child = shell(script, c"/").unwrap();
        assert_eq!(process::wait(child.pidfd.as_fd()).unwrap(), process::Ended::Exited(0));
    }

    #[test]
    fn says_what_could_not_be_done() {
        let err = shell("exit 0", c"/no/such/folder").unwrap_err();
        assert_eq!(err.to_string(), "chdir(\"/no/such/folder\"): ENOENT (No such file or directory)");
        let null = File::open("/dev/null").unwrap();
        let program =
            Program { path: c"/no/such", args: &[], env: &[], folder: c"/", stdio: [null.as_fd(); 3] };
        assert_eq!(spawn(&program).unwrap_err().errno(), Some(Errno::NOENT));
    }
}
