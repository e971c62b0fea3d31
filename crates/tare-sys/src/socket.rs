//! Socket options that the library of our choice does not have.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Context, Result};
use crate::process::check;

/// Lets a socket be bound to an address that is not the host's own (`IP_TRANSPARENT`, ip(7); `IPV6_TRANSPARENT`).
pub fn set_transparent(socket: BorrowedFd<'_>, v6: bool) -> Result<()> {
    let (level, option) = match v6 {
        false => (libc::SOL_IP, libc::IP_TRANSPARENT),
        true => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which `on` is and which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result.into()).doing(|| "setsockopt(IP_TRANSPARENT)").map(drop)
}
