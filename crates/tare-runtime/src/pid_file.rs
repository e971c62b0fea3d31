//! The file that says which process a container is (`--pid-file`).

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use tare_sys::{Context, Error, Kind, Result};

/// Writes the number, without a line end as runc does, so that a reader sees the whole of it or no file: into
/// another file beside it first, then by rename(2).
pub fn write(path: &Path, pid: Pid) -> Result<()> {
    let what = || format!("write the pid file {}", path.display());
    let name = path
        .file_name()
        .ok_or_else(|| Error::new(Kind::Usage, format!("{}: it is not the name of a file", what())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    // Ours alone, in case two write at once.
    hidden.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(hidden);
    // A rest of a process that had our number and was killed half way.
    let _ = rustix::fs::unlink(&beside);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(&beside, flags, Mode::from_raw_mode(0o644)).doing(what).map_err(|err| match err
            .kind()
        {
            Kind::NotFound => err.hint("its folder has to be there already"),
            _ => err,
        })?;
    let written = rustix::io::write(&file, pid.as_raw_nonzero().to_string().as_bytes())
        .and_then(|_| rustix::fs::rename(&beside, path))
        .doing(what);
    if written.is_err() {
        let _ = rustix::fs::unlink(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_just_the_number_and_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::fs::write(&path, "old and longer").unwrap();
        write(&path, Pid::from_raw(4711).unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"4711");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_there_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("pid"), folder.path().join("other"));
        std::fs::write(&other, "untouched").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        write(&path, Pid::from_raw(1).unwrap()).unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"untouched");
    }

    #[test]
    fn failures_leave_nothing_and_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let err = write(&folder.path().join("no/pid"), Pid::from_raw(1).unwrap()).unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound);
        std::fs::create_dir_all(folder.path().join("pid/full")).unwrap();
        assert!(write(&folder.path().join("pid"), Pid::from_raw(1).unwrap()).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(write(Path::new("/"), Pid::from_raw(1).unwrap()).unwrap_err().kind(), Kind::Usage);
    }
}
