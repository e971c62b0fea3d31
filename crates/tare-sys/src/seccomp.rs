//! seccomp(2): hands a classic BPF program to the kernel as this thread's syscall filter.
//!
//! Sources: seccomp(2), `Documentation/userspace-api/seccomp_filter.rst`, `linux/filter.h`, `linux/seccomp.h`.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter` (`linux/filter.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Operation: class, size and mode.
    pub code: u16,
    /// How many instructions to skip where a comparison holds.
    pub jt: u8,
    /// How many to skip where it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// The longest program the kernel takes: `BPF_MAXINSNS` (`linux/bpf_common.h`).
pub const MAX_LEN: usize = 4096;

/// Every action but "allow" is logged: `SECCOMP_FILTER_FLAG_LOG`.
pub const FLAG_LOG: u32 = 1 << 1;
/// No mitigation of speculative store bypass: `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// Answer with a listener's descriptor; what [`load_with_listener`] adds: `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// One that waits for the listener's answer can be interrupted by fatal signals only:
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19; wants a listener).
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: u32 = 1;
/// `SECCOMP_GET_ACTION_AVAIL`.
const GET_ACTION_AVAIL: u32 = 2;

/// Filters this thread's syscalls, and those of all it starts, for ever. Wants no_new_privs or CAP_SYS_ADMIN.
/// Allocates nothing unless it fails.
pub fn load(program: &[Filter], flags: u32) -> Result<()> {
    set_filter(program, flags & !FLAG_NEW_LISTENER).map(drop)
}

/// As [`load`], for a program that asks a listener: answers with the descriptor to listen on
/// (seccomp_unotify(2)). It is close-on-exec.
pub fn load_with_listener(program: &[Filter], flags: u32) -> Result<OwnedFd> {
    let fd = set_filter(program, flags | FLAG_NEW_LISTENER)?;
    // SAFETY: with NEW_LISTENER the kernel answers with a fresh descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Does this kernel know all these flags? Changes nothing: the program handed over is a null pointer.
pub fn supports_flags(flags: u32) -> bool {
    // SAFETY: a null program is refused (EFAULT) before anything is set; unknown flags are refused first (EINVAL).
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, std::ptr::null::<libc::sock_fprog>())
    };
    answer == -1 && last_errno() == Errno::FAULT
}

/// Does this kernel know this action (`SECCOMP_RET_*` without data)?
pub fn supports_action(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 from a pointer that is valid for the call.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0u32, &raw const action) == 0 }
}

fn set_filter(program: &[Filter], flags: u32) -> Result<i32> {
    let len = u16::try_from(program.len()).ok().filter(|len| usize::from(*len) <= MAX_LEN);
    let Some(len) = len else {
        let what = format!("seccomp filter has {} instructions, the kernel takes {MAX_LEN}", program.len());
        return Err(Error::new(Kind::Usage, what));
    };
    let header = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `header` names `len` instructions of sock_filter's layout, all alive during the call; the kernel
    // copies them and checks them itself.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const header) };
    if answer >= 0 {
        return i32::try_from(answer)
            .map_err(|_| Error::new(Kind::Kernel, format!("seccomp(2) answered {answer}, no descriptor")));
    }
    let errno = last_errno();
    let call = format!("seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, {{len={len}}})");
    let err = Error::syscall(call, errno);
    Err(match errno {
        Errno::ACCESS => err.hint("a filter wants no_new_privs, or CAP_SYS_ADMIN in the own user namespace"),
        Errno::INVAL => {
            err.with_kind(Kind::Unsupported).hint("the kernel may lack CONFIG_SECCOMP_FILTER or a flag")
        }
        _ => err,
    })
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_has_the_kernels_layout() {
        assert_eq!(size_of::<Filter>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<Filter>(), align_of::<libc::sock_filter>());
    }

    #[test]
    fn kernel_is_asked_without_change() {
        assert!(supports_flags(FLAG_LOG));
        assert!(!supports_flags(1 << 30));
        assert!(supports_action(libc::SECCOMP_RET_ALLOW));
        assert!(!supports_action(0x1234_0000));
    }

    #[test]
    fn too_long_is_refused() {
        let ret = Filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
        assert_eq!(load(&vec![ret; MAX_LEN + 1], 0).unwrap_err().kind(), Kind::Usage);
    }
}
