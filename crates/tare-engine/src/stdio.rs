//! What a container without a terminal reads from and writes to: FIFOs in its run folder.
//!
//! ```text
//! <run>/containers/<id>/stdin  stdout  stderr
//! ```
//!
//! The container holds its outputs open for reading as well. So when its monitor is killed, nothing breaks: what it
//! writes waits in the FIFO (64 KiB, then the writer waits) until a new monitor opens it. A stdin that nobody is to end
//! is held open for writing by the container as well; one that ends with its writer is not.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use tare_sys::{Context, Result};

use crate::container::{Folders, Record};
use crate::log::Stream;

/// What a pipe holds unless it was made larger (pipe(7)).
const CAPACITY: usize = 64 * 1024;

/// What a container reads from.
#[derive(Debug)]
pub enum Stdin {
    /// Nothing.
    Null,
    /// What any number of writers write, one after the other; it has no end.
    Kept,
    /// What one writer writes; it ends with that.
    Once(OwnedFd),
}

impl Stdin {
    /// What this container's is to be; `reader`: where somebody is there to write, and to end it.
    pub fn of(record: &Record, reader: Option<OwnedFd>) -> Stdin {
        match reader {
            Some(reader) => Stdin::Once(reader),
            None if record.request.config.open_stdin => Stdin::Kept,
            None => Stdin::Null,
        }
    }
}

/// `/dev/null`, for both ways.
pub fn open_null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open(\"/dev/null\")")
}

fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// Makes one, or finds it.
fn make(folders: &Folders, name: &str) -> Result<()> {
    let path = folders.run.join(name);
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).doing(|| format!("mknod {}", path.display())),
    }
}

/// Opens one that is there.
fn fifo(folders: &Folders, name: &str, flags: OFlags) -> Result<OwnedFd> {
    let path = folders.run.join(name);
    rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open the FIFO {}", path.display()))
}

/// One that the container holds open for both ways.
fn held(folders: &Folders, name: &str, base: Option<u32>) -> Result<OwnedFd> {
    make(folders, name)?;
    give(fifo(folders, name, OFlags::RDWR)?, base)
}

/// Our ends of the outputs, and the container's three files.
pub fn open(folders: &Folders, base: Option<u32>, stdin: Stdin) -> Result<([OwnedFd; 2], [OwnedFd; 3])> {
    let stdin = match stdin {
        Stdin::Null => open_null()?,
        Stdin::Kept => held(folders, "stdin", base)?,
        Stdin::Once(reader) => give(reader, base)?,
    };
    let out = held(folders, "stdout", base)?;
    let err = held(folders, "stderr", base)?;
    let ours = [reader(folders, Stream::Stdout)?, reader(folders, Stream::Stderr)?];
    Ok((ours, [stdin, out, err]))
}

/// Our end of an output.
pub fn reader(folders: &Folders, stream: Stream) -> Result<OwnedFd> {
    fifo(folders, name(stream), OFlags::RDONLY | OFlags::NONBLOCK)
}

/// How many bytes there are to take from a pipe or a terminal whose writer has ended, at most. Another writer may go on
/// without end. Of a terminal some may still be on the way from its other side.
pub fn at_most(file: &OwnedFd) -> usize {
    let there = rustix::io::ioctl_fionread(file).unwrap_or(0);
    usize::try_from(there).unwrap_or(usize::MAX).max(CAPACITY)
}

/// Both ends of a stdin that ends with its writer.
pub fn stdin_once(folders: &Folders) -> Result<(OwnedFd, OwnedFd)> {
    // Open for both ways first, so that neither of the others waits.
    make(folders, "stdin")?;
    let _both = fifo(folders, "stdin", OFlags::RDWR)?;
    Ok((fifo(folders, "stdin", OFlags::RDONLY)?, fifo(folders, "stdin", OFlags::WRONLY)?))
}

/// Another end to write to its stdin by; an error where it does not read.
pub fn stdin_writer(folders: &Folders) -> Result<OwnedFd> {
    fifo(folders, "stdin", OFlags::WRONLY | OFlags::NONBLOCK)
}

/// The container's root gets its FIFOs, so that it can hand them to its user: `echo > /dev/stdout` opens them again.
pub fn give(file: OwnedFd, base: Option<u32>) -> Result<OwnedFd> {
    if let Some(base) = base {
        let (uid, gid) = (Uid::from_raw(base), Gid::from_raw(base));
        rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid)).doing(|| "fchown(FIFO)")?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_large_pipe_is_counted() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(at_most(&reader), CAPACITY);
        rustix::pipe::fcntl_setpipe_size(&writer, 4 * CAPACITY).unwrap();
        assert_eq!(rustix::io::write(&writer, &vec![0; 3 * CAPACITY]), Ok(3 * CAPACITY));
        assert_eq!(at_most(&reader), 3 * CAPACITY);
    }
}
