//! Whether this process is root of no more than an ordinary user's machine.
//!
//! Such a root may do nearly all that root may, in namespaces of its own. What differs is asked for here: attributes named
//! `trusted.*` and device nodes are not for it, mounts of the host's cannot be idmapped, and cgroups are what the
//! user has been given. It is a fact about the process, as its user id is, and it never changes once it was found out.

use std::sync::atomic::{AtomicBool, Ordering};

static ROOTLESS: AtomicBool = AtomicBool::new(false);
static OUTSIDE: AtomicBool = AtomicBool::new(false);

/// Says that it is so. For who has entered the machine, before anything else is done there.
pub fn set() {
    ROOTLESS.store(true, Ordering::Relaxed);
}

/// Says that this is an ordinary user who has not entered a machine.
pub fn set_outside() {
    OUTSIDE.store(true, Ordering::Relaxed);
}

/// Whether this is an ordinary user who has not entered a machine.
pub fn is_outside() -> bool {
    OUTSIDE.load(Ordering::Relaxed)
}

/// Whether it is so.
pub fn is_on() -> bool {
    ROOTLESS.load(Ordering::Relaxed)
}

/// The attribute by which overlayfs knows a folder that hides those below it: without privilege it is one that users
/// may set (kernel: Documentation/filesystems/overlayfs.rst, "userxattr").
pub fn opaque_attribute() -> &'static str {
    if is_on() || !rustix::process::geteuid().is_root() {
        "user.overlay.opaque"
    } else {
        "trusted.overlay.opaque"
    }
}

/// Whether the machine has no id but root's: the user has no subordinate ones. Files then belong to root, whoever's they
/// are to be.
pub fn has_one_id() -> bool {
    is_on()
        && ["/proc/self/uid_map", "/proc/self/gid_map"].iter().any(|map| {
            crate::path::read_short(map)
                .is_ok_and(|text| text.split_whitespace().nth(2) == Some("1") && text.lines().count() == 1)
        })
}
