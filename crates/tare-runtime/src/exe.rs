//! Our own binary, out of the container's reach.
//!
//! A process of ours in a container is a copy of the host's binary until it executes its program, and the program
//! can be `/proc/self/exe` itself. Root inside that is root outside could write to the file (CVE-2019-5736). So
//! where root is the same, the command first moves to a read-only mount of its file that nobody else sees: in
//! place, or, where the kernel does not allow that, by executing itself again. Where the container has ids of its
//! own, the file's owner is none of them and nothing is to be done.
//!
//! What this does not stop is a kernel that lets the page cache of a readable file be written to (CVE-2022-0847,
//! CVE-2026-31431); only a copy would, at a millisecond a start.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use tare_sys::mount::{Change, Detached, attr};
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result};

/// The file that this process executes.
const SELF: &str = "/proc/self/exe";

/// Makes this program unreachable for the container of a spec, if need be.
pub fn protect(spec: &Spec) -> Result<()> {
    let own_ids = crate::namespaces::listed(spec) & namespace::USER != 0;
    if own_ids {
        let stat = rustix::fs::stat(SELF).doing(|| format!("stat({SELF:?})"))?;
        if !maps(spec, stat.st_uid, stat.st_gid) && stat.st_mode & 0o002 == 0 {
            return Ok(());
        }
    }
    make_read_only()
}

/// Goes on from a read-only place. Call it before anything is made, for it may execute this program again; it comes
/// back at once where there is nothing to do, which is also how it comes back the second time.
pub fn make_read_only() -> Result<()> {
    let file = rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({SELF:?})"))?;
    let there = rustix::fs::fstatvfs(&file).doing(|| "fstatvfs(our own binary)")?;
    if there.f_flag.contains(StatVfsMountFlags::RDONLY) || is_sealed() {
        return Ok(());
    }
    let sealed = match Detached::clone_fd(&file, false) {
        Ok(copy) => {
            copy.change(&Change { set: attr::RDONLY, ..Change::default() })?;
            let copy = OwnedFd::from(copy);
            let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
            let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .doing(|| format!("open({path:?})"))?;
            match tare_sys::exe::move_to(file.as_fd()) {
                Ok(()) => return Ok(()),
                Err(_) => copy,
            }
        }
        // Who may not mount copies it, and whose file lies in other mounts than ours.
        Err(err) if matches!(err.errno(), Some(Errno::PERM | Errno::INVAL)) => process::sealed_copy(SELF)?,
        Err(err) => return Err(err.context("make our own binary read-only")),
    };
    let args: Vec<CString> = strings(std::env::args_os())?;
    let env = strings(std::env::vars_os().map(|(name, value)| {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        pair
    }))?;
    let errno = process::exec_file(&sealed, &args, &env);
    Err(Error::syscall("execveat(our own binary, read-only)", errno))
}

fn strings(words: impl Iterator<Item = std::ffi::OsString>) -> Result<Vec<CString>> {
    words
        .map(|word| {
            CString::new(word.into_vec())
                .map_err(|err| Error::new(Kind::Usage, format!("an argument of ours: {err}")))
        })
        .collect()
}

/// Whether root of the container may act for the owner of the file.
fn maps(spec: &Spec, uid: u32, gid: u32) -> bool {
    let has = |maps: Option<&[LinuxIdMapping]>, id: u32| match maps {
        // A joined namespace whose maps the spec does not give: nobody knows.
        None | Some([]) => true,
        Some(maps) => {
            maps.iter().any(|map| (map.host_id()..map.host_id().saturating_add(map.size())).contains(&id))
        }
    };
    let linux = spec.linux().as_ref();
    has(linux.and_then(|linux| linux.uid_mappings().as_deref()), uid)
        || has(linux.and_then(|linux| linux.gid_mappings().as_deref()), gid)
}

fn is_sealed() -> bool {
    rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::fs::fcntl_get_seals)
        .is_ok_and(|seals| seals.contains(rustix::fs::SealFlags::WRITE))
}
