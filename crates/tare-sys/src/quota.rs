//! Project quotas: a limit on the bytes of one folder and all below it, on ext4 and XFS (quotactl(2)).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::process::check;

/// `struct fsxattr` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct FileAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` (linux/fs.h).
const GET: libc::c_ulong = 0x801c_581f;
const SET: libc::c_ulong = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made below has the same project.
const INHERIT: u32 = 0x200;

/// `struct if_dqblk` (linux/quota.h); space in bytes, limits in blocks of 1024.
#[repr(C)]
#[derive(Default)]
struct Quota {
    hard: u64,
    soft: u64,
    space: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `Q_GETQUOTA` and `Q_SETQUOTA` of `PRJQUOTA` (linux/quota.h).
const GET_QUOTA: u32 = (0x0080_0007 << 8) | 2;
const SET_QUOTA: u32 = (0x0080_0008 << 8) | 2;
/// `QIF_BLIMITS`.
const LIMITS: u32 = 1;

/// The project numbers that we give out: above what people give out by hand in /etc/projects.
const FIRST: u32 = 0x4000_0000;
const LAST: u32 = 0x7fff_ffff;

/// Limits what will be made in the folder `path` to `bytes`, with a project number that nobody uses.
///
/// Errors: [`Kind::Unsupported`] where the file system has no project quotas, or they are not switched on.
pub fn limit(path: &Path, bytes: u64) -> Result<()> {
    let folder = File::open(path).doing(|| format!("open {}", path.display()))?;
    for _ in 0..16 {
        let mut random = [0; 4];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
            .doing(|| "getrandom()")?;
        let project = FIRST | (u32::from_ne_bytes(random) >> 2);
        let mut quota = Quota::default();
        match control(&folder, GET_QUOTA, project, &mut quota) {
            // Nobody has it, says XFS.
            Err(Errno::NOENT) => {}
            Err(errno) => {
                return Err(explain(errno)).doing(|| format!("quotactl_fd({}, Q_GETQUOTA)", path.display()));
            }
            Ok(()) if quota.hard != 0 || quota.inodes != 0 => continue,
            Ok(()) => {}
        }
        // The folder first: by it the limit is found again, should we be killed after this.
        set_project(&folder, project)
            .map_err(explain)
            .doing(|| format!("ioctl({}, FS_IOC_FSSETXATTR)", path.display()))?;
        return set_limit(&folder, project, bytes)
            .map_err(explain)
            .doing(|| format!("quotactl_fd({}, Q_SETQUOTA)", path.display()));
    }
    Err(Error::new(Kind::Exhausted, "find a project number for a disk quota: all that were tried are taken"))
}

/// Takes the limit of the folder `path` away, once nothing is in it any more. One that has none of its own, but perhaps that of
/// the folder where it lies, is left as it is.
pub fn forget(path: &Path) {
    let Ok(folder) = File::open(path) else { return };
    let above = File::open(path.join("..")).ok().and_then(|folder| attributes(&folder).ok());
    if let (Ok(own), Some(above)) = (attributes(&folder), above)
        && (FIRST..=LAST).contains(&own.project)
        && own.project != above.project
    {
        let _ = set_limit(&folder, own.project, 0);
    }
}

fn set_limit(folder: &File, project: u32, bytes: u64) -> Result<(), Errno> {
    let mut quota = Quota { hard: bytes.div_ceil(1024), valid: LIMITS, ..Quota::default() };
    control(folder, SET_QUOTA, project, &mut quota)
}

fn attributes(folder: &File) -> Result<FileAttributes, Errno> {
    let mut attributes = FileAttributes::default();
    // SAFETY: the ioctl writes a `struct fsxattr`, which `attributes` is and which outlives the call.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), GET as _, &raw mut attributes) }.into())?;
    Ok(attributes)
}

fn set_project(folder: &File, project: u32) -> Result<(), Errno> {
    let mut attributes = attributes(folder)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    // SAFETY: the ioctl reads a `struct fsxattr`, which `attributes` is and which outlives the call.
    check(unsafe { libc::ioctl(folder.as_raw_fd(), SET as _, &raw const attributes) }.into()).map(drop)
}

fn control(folder: &File, command: u32, project: u32, quota: &mut Quota) -> Result<(), Errno> {
    // SAFETY: both commands read or write one `struct if_dqblk`, which `quota` is and which outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, folder.as_raw_fd(), command, project, std::ptr::from_mut(quota))
    };
    check(result).map(drop)
}

fn explain(errno: Errno) -> Error {
    let err = Error::syscall("project quota", errno);
    match errno {
        Errno::SRCH | Errno::NOSYS | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL => {
            err.with_kind(Kind::Unsupported)
        }
        _ => err,
    }
}
