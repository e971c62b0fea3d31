//! A cgroup's control files: one read or one write each, relative to the fd of the mount.
//!
//! cgroupfs holds no symbolic links below a hierarchy's root and our paths hold no `..`
//! ([`Cgroup`](crate::Cgroup) sees to that), so plain `openat` is as safe here as `openat2`, and one open
//! fewer than going by directory fds.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Opens the control file `path` for writing.
pub(crate) fn open_write(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(root, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Writes `value` in one write(2): the kernel takes a control file's value whole or not at all.
pub(crate) fn write(root: BorrowedFd<'_>, path: &str, value: &str) -> Result<(), Errno> {
    write_fd(&open_write(root, path)?, value)
}

/// As [`write()`], into an open file.
pub(crate) fn write_fd(file: &OwnedFd, value: &str) -> Result<(), Errno> {
    loop {
        match rustix::io::write(file, value.as_bytes()) {
            Err(Errno::INTR) => continue,
            result => return result.map(drop),
        }
    }
}

/// Reads a whole control file. Bytes that are not UTF-8 come back replaced: the kernel writes ASCII.
pub(crate) fn read(root: BorrowedFd<'_>, path: &str) -> Result<String, Errno> {
    let file = rustix::fs::openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    let mut piece = [0u8; 4096];
    loop {
        match rustix::io::read(&file, &mut piece[..]) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(count) => text.extend_from_slice(&piece[..count]),
        }
    }
}

/// The value after `key ` in a file of `key value` lines; `None` where there is no such line or number.
pub(crate) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(key)).then(|| words.next()?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_key_and_only_that_key() {
        let text = "oom 4\noom_kill 7\nbroken\n";
        assert_eq!(value_of(text, "oom_kill"), Some(7));
        assert_eq!(value_of(text, "oom"), Some(4));
        assert_eq!(value_of(text, "broken"), None);
        assert_eq!(value_of(text, "absent"), None);
    }
}
