//! Processes: clone3, pidfds, exec, sessions.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::error::{Context, Error, Kind, Result};

/// Namespaces (clone(2)).
pub mod namespace {
    /// Time.
    pub const TIME: u64 = 0x80;
    /// Mount.
    pub const MOUNT: u64 = 0x2_0000;
    /// cgroup.
    pub const CGROUP: u64 = 0x200_0000;
    /// Host name.
    pub const UTS: u64 = 0x400_0000;
    /// System V IPC and POSIX message queues.
    pub const IPC: u64 = 0x800_0000;
    /// User and group ids, capabilities.
    pub const USER: u64 = 0x1000_0000;
    /// Process ids.
    pub const PID: u64 = 0x2000_0000;
    /// Network.
    pub const NET: u64 = 0x4000_0000;
    /// All eight.
    pub const ALL: u64 = TIME | MOUNT | CGROUP | UTS | IPC | USER | PID | NET;
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Turns the result of `libc::syscall` into an errno.
pub(crate) fn check(result: libc::c_long) -> std::result::Result<libc::c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
}

/// `struct clone_args` up to and with `cgroup` (clone3(2), Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a [`clone`] we are on.
#[derive(Debug)]
pub enum Side {
    /// In the new process.
    Child,
    /// In the old one.
    Parent(Child),
}

/// A child process, held by pidfd so that its number cannot be mistaken for another's.
#[derive(Debug)]
pub struct Child {
    /// Its pid, as this process sees it.
    pub pid: Pid,
    /// Refers to exactly this process for as long as it is open.
    pub pidfd: OwnedFd,
}

/// Forks, with new namespaces and, on cgroup v2, right into a cgroup.
///
/// Only for a single-threaded process, like fork(2): the child goes on with a copy of this thread alone, and
/// a lock that another thread held would stay locked in it for ever.
pub fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    clone_with(namespaces & namespace::ALL, cgroup)
}

/// As [`clone`], but the new process is a sibling: our parent's child. For one that enters namespaces first
/// and then makes the real child there.
pub fn clone_sibling(namespaces: u64) -> Result<Side> {
    clone_with((namespaces & namespace::ALL) | CLONE_PARENT, None)
}

fn clone_with(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        // A sibling's exit signal is its parent's affair (clone3(2): must be 0 with CLONE_PARENT).
        exit_signal: if flags & CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets a copy of the address space, so nothing is shared that the two
    // could race on; `args` and `pidfd` live past the call, and the size says which fields are there.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    let pid = check(result).doing(|| format!("clone3(flags={:#x})", args.flags))?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Side::Child),
        Some(pid) => {
            // SAFETY: CLONE_PIDFD made the kernel store a new fd there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(Child { pid, pidfd }))
        }
    }
}

/// Forks in the plainest way, with clone(2): for a process whose system call filter answers ENOSYS to clone3.
/// `None` in the child. The same promise as for [`clone`]: one thread.
pub fn fork() -> Result<Option<Pid>> {
    // SAFETY: without CLONE_VM nothing is shared; no stack and no pointers are passed.
    let result = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    Ok(Pid::from_raw(check(result).doing(|| "clone(SIGCHLD)")? as i32))
}

/// Bytes of stack for a child that executes a program, or says why it could not.
const STACK: usize = 256 << 10;

/// Runs `child` as a new process in our own memory, and waits until that has executed a program or has ended (vfork(2)):
/// nothing of our memory is copied for one that is about to leave it. With clone(2), and the same promise, as [`fork`].
///
/// What the child changes in memory stays changed. One that comes back from `child` ends with status 125.
pub fn fork_in_place(child: &mut dyn FnMut()) -> Result<Pid> {
    extern "C" fn begin(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the pointer below, whose owner stands still.
        unsafe { (*child.cast::<&mut dyn FnMut()>())() };
        exit_now(125)
    }
    let mut child = child;
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    // SAFETY: `top` is the end of what was allocated. The stack is the child's alone, and it and `child` outlive its use of
    // them, since CLONE_VFORK holds us here until it has left our memory; nobody else uses that, with one thread.
    let result = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(begin, top.cast(), flags, (&raw mut child).cast())
    };
    let pid = check(result.into()).doing(|| "clone(CLONE_VM, CLONE_VFORK)")?;
    Pid::from_raw(pid as i32).ok_or_else(|| Error::new(Kind::Kernel, "clone(2) gave no number"))
}

/// Whether this process leads its session. The leader may be outside of our pid namespace, and its number is 0 then
/// (pid_namespaces(7)), which rustix has no pid for.
pub fn leads_session() -> bool {
    // SAFETY: neither has a pointer, and getsid(2) of oneself cannot fail.
    unsafe { libc::getsid(0) == libc::getpid() }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It called exit(2) with this status.
    Exited(u8),
    /// This signal killed it.
    Killed(i32),
}

impl Ended {
    /// The shell's one number for it: the status, or 128 + the signal.
    pub fn code(self) -> u8 {
        match self {
            Ended::Exited(status) => status,
            Ended::Killed(signal) => 128u8.saturating_add(signal as u8),
        }
    }
}

/// Waits for a child to end, and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Ended> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Exited(code as u8),
                    (None, signal) => Ended::Killed(signal.unwrap_or(libc::SIGKILL)),
                });
            }
            Ok(None) | Err(Errno::INTR) => continue,
            Err(errno) => return Err(Error::syscall("waitid(P_PIDFD)", errno)),
        }
    }
}

/// How a process has ended that somebody else reaped, by a pidfd that was opened before; `None`: it has not been
/// reaped yet (`PIDFD_GET_INFO`, Linux 6.15; `ENOTTY` or `EINVAL` before).
pub fn ended(pidfd: BorrowedFd<'_>) -> Result<Option<Ended>> {
    /// The first version of the kernel's `struct pidfd_info` (linux/pidfd.h).
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const GET_INFO: libc::c_ulong = 0xC040_FF0B;
    const EXIT: u64 = 1 << 3;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the number says that the structure has 64 bytes, and it has; it outlives the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    check(result.into()).doing(|| "ioctl(pidfd, PIDFD_GET_INFO)")?;
    if info.mask & EXIT == 0 {
        return Ok(None);
    }
    Ok(Some(if libc::WIFSIGNALED(info.exit_code) {
        Ended::Killed(libc::WTERMSIG(info.exit_code))
    } else {
        Ended::Exited(libc::WEXITSTATUS(info.exit_code) as u8)
    }))
}

/// Waits for any child to end, and reaps it; an error once there is none.
pub fn wait_for_any() -> Result<()> {
    loop {
        // SAFETY: the status pointer may be null (waitpid(2)).
        match check(unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }.into()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::syscall("waitpid(-1)", errno)),
        }
    }
}

/// Reaps any child that has ended; `None` when none has. For an init.
pub fn reap_any() -> Result<Option<(Pid, Ended)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match check(pid.into()) {
        Ok(0) | Err(Errno::CHILD | Errno::INTR) => Ok(None),
        Ok(_) => {
            let ended = if libc::WIFSIGNALED(status) {
                Ended::Killed(libc::WTERMSIG(status))
            } else {
                Ended::Exited(libc::WEXITSTATUS(status) as u8)
            };
            Ok(Pid::from_raw(pid).map(|pid| (pid, ended)))
        }
        Err(errno) => Err(Error::syscall("waitpid(-1, WNOHANG)", errno)),
    }
}

/// Sends a signal by number through a pidfd; a process that is gone is no error.
pub fn signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<()> {
    // SAFETY: the siginfo pointer may be null (pidfd_send_signal(2)).
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    match check(result) {
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::syscall(format!("pidfd_send_signal({number})"), errno)),
    }
}

/// Sends a signal to a pid of this pid namespace (`-1`: to all that one may signal); gone is no error.
pub fn kill(pid: i32, number: i32) -> Result<()> {
    // SAFETY: kill(2) takes no pointers.
    match check(unsafe { libc::kill(pid, number) }.into()) {
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::syscall(format!("kill({pid}, {number})"), errno)),
    }
}

/// Replaces this process's program. Returns only on failure.
pub fn exec(program: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in a null pointer and, like the strings they point to, outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// As [`exec`], for a program that is an open file (execveat(2)).
pub fn exec_file(program: impl std::os::fd::AsFd, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in a null pointer and, like the strings they point to, outlive the call; the path is
    // empty and ends in NUL.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// A copy of a file in memory that nobody can change any more (memfd_create(2), F_ADD_SEALS).
pub fn sealed_copy(path: &str) -> Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let what = || format!("copy {path} into sealed memory");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("tare", flags).doing(what)?;
    let mut from = std::fs::File::open(path).doing(what)?;
    let mut to = std::fs::File::from(copy);
    std::io::copy(&mut from, &mut to).doing(what)?;
    rustix::fs::fcntl_add_seals(
        &to,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )
    .doing(what)?;
    // What is open for writing cannot be executed.
    rustix::fs::open(
        format!("/proc/self/fd/{}", to.as_raw_fd()),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .doing(what)
}

/// Moves this process into new namespaces. Not for [`namespace::USER`] or [`namespace::PID`], whose entering
/// has an order that [`clone`] keeps.
pub fn unshare(namespaces: u64) -> Result<()> {
    // SAFETY: unshare(2) takes no pointers; without CLONE_FILES it does not touch the fd table.
    let result = unsafe { libc::unshare((namespaces & namespace::ALL) as libc::c_int) };
    check(result.into()).doing(|| format!("unshare({namespaces:#x})"))?;
    Ok(())
}

/// Moves this process into the namespaces of a process (by pidfd), or into the one that an fd of
/// `/proc/PID/ns/*` stands for.
pub fn enter(fd: BorrowedFd<'_>, namespaces: u64) -> Result<()> {
    // SAFETY: setns(2) takes no pointers.
    let result = unsafe { libc::setns(fd.as_raw_fd(), namespaces as libc::c_int) };
    check(result.into()).doing(|| format!("setns({}, {namespaces:#x})", crate::path::fd_name(fd)))?;
    Ok(())
}

/// The user namespace around this one (`NS_GET_PARENT`, ioctl_nsfs(2)).
///
/// Errors: `EPERM` where that lies outside of ours, or there is none.
pub fn namespace_parent(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: the request takes no argument.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT as _) };
    let fd = check(result.into()).doing(|| "ioctl(user namespace, NS_GET_PARENT)")?;
    // SAFETY: the kernel has just made it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Closes, at the next exec, every fd from `first` on.
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now, so no owner of an fd is cheated.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    };
    check(result).doing(|| format!("close_range({first}, ~0, CLOSE_RANGE_CLOEXEC)"))?;
    Ok(())
}

/// Makes `fd` the process's fd `target` as well, to be kept over exec.
pub fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    if fd.as_raw_fd() == target {
        // dup2 onto itself would leave O_CLOEXEC on.
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
            .doing(|| format!("fcntl({target}, F_SETFD)"));
    }
    // SAFETY: `target` is one of the standard fds, which the caller means to replace and no value owns.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    check(result.into()).doing(|| format!("dup2({}, {target})", fd.as_raw_fd()))?;
    Ok(())
}

/// When a process began, in clock ticks after boot: with its number, this names it for good. `None` when it is
/// gone, or has ended and waits to be reaped (proc_pid_stat(5)).
pub fn began(pid: i32) -> Option<u64> {
    state_and_beginning(pid).filter(|(state, _)| !matches!(state, 'Z' | 'X')).map(|(_, began)| began)
}

/// As [`began`], of one that has ended and waits to be reaped as well.
pub fn began_or_ended(pid: i32) -> Option<u64> {
    state_and_beginning(pid).map(|(_, began)| began)
}

fn state_and_beginning(pid: i32) -> Option<(char, u64)> {
    let stat = crate::path::read_short(&format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name, in brackets, and may hold anything: begin after the last bracket.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// How a process ended that waits to be reaped; `None` where it does not (proc_pid_stat(5), field 52).
pub fn zombie(pid: i32) -> Option<Ended> {
    let stat = crate::path::read_short(&format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    let status: i32 = fields.nth(48)?.parse().ok()?;
    Some(if libc::WIFSIGNALED(status) {
        Ended::Killed(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status) as u8)
    })
}

/// The kernel's name for this boot.
pub fn boot_id() -> String {
    crate::path::read_short("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Gives this process its own session keyring, so that it does not share the host's (keyrings(7)). A kernel
/// without keyrings, or a filter that denies them, leaves nothing to separate.
pub fn new_session_keyring(name: &CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: `name` ends in NUL and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    match check(result) {
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        // A quota that is used up must not stop a container; its old keyring is then the only loss.
        Err(Errno::DQUOT) => Ok(()),
        Err(errno) => Err(Error::syscall("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", errno)),
    }
}

/// Runs `work` with the file-system ids of `uid`:`gid`, keeping all capabilities.
///
/// Overlayfs makes its work folder with the ids of the mounter; over an idmapped upper folder these have to
/// be ids that the map knows, or it falls back to read-only.
pub fn with_fs_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    use rustix::thread::CapabilitiesSecureBits as Bits;
    let before = rustix::thread::capabilities_secure_bits().doing(|| "prctl(PR_GET_SECUREBITS)")?;
    // Without this bit, setfsuid away from 0 would drop the capabilities for file access.
    rustix::thread::set_capabilities_secure_bits(before | Bits::NO_SETUID_FIXUP)
        .doing(|| "prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)")?;
    // SAFETY: neither call takes a pointer or fails; they return the id before.
    let (old_gid, old_uid) = unsafe { (libc::setfsgid(gid), libc::setfsuid(uid)) };
    let result = work();
    // SAFETY: as above.
    unsafe { (libc::setfsuid(old_uid as u32), libc::setfsgid(old_gid as u32)) };
    rustix::thread::set_capabilities_secure_bits(before).doing(|| "prctl(PR_SET_SECUREBITS)")?;
    result
}

/// Closes every fd from `first` on, now: for a process that forked, needs nothing of what it inherited, and
/// ends by [`exit_now`], so that no value that owned one of them is used or dropped again.
pub fn close_from(first: RawFd) -> Result<()> {
    // SAFETY: the caller's promise above; close_range(2) takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    check(result).doing(|| format!("close_range({first}, ~0)"))?;
    Ok(())
}

/// As [`close_from`], but for a few that stay; for a process that goes on to use those alone.
pub fn close_from_but(first: RawFd, kept: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(|fd| fd.as_raw_fd()).filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut next = first;
    for fd in kept {
        if fd > next {
            // SAFETY: the promise of `close_from`; close_range(2) takes no pointers.
            let result = unsafe { libc::syscall(libc::SYS_close_range, next, fd - 1, 0) };
            check(result).doing(|| format!("close_range({next}, {})", fd - 1))?;
        }
        next = fd + 1;
    }
    close_from(next)
}

/// The files from `first` on that this program was started with. To be asked before it opens any itself, and once.
pub fn inherited(first: RawFd) -> Result<Vec<OwnedFd>> {
    let entries = std::fs::read_dir("/proc/self/fd").doing(|| "list /proc/self/fd")?;
    let numbers: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The listing's own file is closed by now.
    let is_open = |fd: &RawFd| {
        // SAFETY: F_SETFD takes no pointer; the number need not be open.
        *fd >= first && check(unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into()).is_ok()
    };
    // SAFETY: open, and by the caller's promise no value of this program owns them.
    Ok(numbers.into_iter().filter(is_open).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

/// Ends the process at once, without unwinding or flushing what the parent buffered.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) does not return.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_in_place_uses_our_memory_until_it_leaves() {
        let how = |pid| match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Ok(Some((_, status))) => status.exit_status(),
            other => panic!("{other:?}"),
        };
        let mut said = Vec::new();
        let ends = fork_in_place(&mut || {
            said.push(7);
            exit_now(3)
        });
        assert_eq!((how(ends.unwrap()), &said[..]), (Some(3), &[7][..]));
        let args = [c"sh".to_owned(), c"-c".to_owned(), c"exit 4".to_owned()];
        let executes = fork_in_place(&mut || {
            let _ = exec(c"/bin/sh", &args, &[]);
        });
        assert_eq!(how(executes.unwrap()), Some(4));
        let comes_back = fork_in_place(&mut || said.push(8));
        assert_eq!((how(comes_back.unwrap()), said), (Some(125), vec![7, 8]));
    }
}
