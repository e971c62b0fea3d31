//! The default profile: Docker's (`moby/profiles`, `seccomp/default.json`, August 2026), never weaker, and tighter
//! where that breaks nothing.
//!
//! | what | Docker | here | why |
//! |---|---|---|---|
//! | x32 | allowed | ENOSYS | nothing ships for it, and it doubles the numbers to guard |
//! | io_uring | EPERM | ENOSYS | databases fall back on "not there", some give up on "forbidden" |
//! | keyctl, add_key, request_key | EPERM | ENOSYS | runtimes and Kerberos inside a container fall back |
//! | socket families | deny-list | UNIX, INET, INET6, NETLINK; more by capability | autoloads no obscure module |
//! | other families | EPERM | EAFNOSUPPORT | what the kernel says without the module; libraries expect it |
//! | setsockopt TCP_ULP | allowed | ENOENT | kTLS and espintcp are rich in holes; TLS libraries fall back |
//! | mknod without CAP_MKNOD | kernel refuses devices | refused here as well | a second fence, same answer |
//! | vmsplice | allowed | ENOSYS | writes into the page cache have come through it; users fall back |
//! | syscalls that Linux has dropped | EPERM | ENOSYS | what the kernel says |
//! | uprobe | unknown | allowed | a probed program would die; does nothing unless probed, like uretprobe |
//! | open_tree_attr with CAP_SYS_ADMIN | unknown | allowed | is open_tree and mount_setattr, both allowed then |
//!
//! Kept though others drop it: modify_ldt (Wine), netlink's protocols (logins need audit's), personality's five
//! values, i386's socketcall(2): it hides the family behind a pointer, so with `abi32` a program can reach the
//! families above through it. Docker blocked it in May 2026 and had to allow it again: i386's libc has no other way.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// What to lift from, or leave out of, the default profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// 32-bit programs run (i386 on x86-64, ARM on aarch64).
    pub abi32: bool,
    /// io_uring is there.
    pub io_uring: bool,
    /// setsockopt(TCP_ULP) reaches the kernel: kTLS.
    pub tcp_ulp: bool,
    /// Namespaces, mounts and pivot_root are allowed without CAP_SYS_ADMIN, for an engine or sandbox inside a
    /// container. Opens most of the kernel's recent holes.
    pub nested: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { abi32: true, io_uring: false, tcp_ulp: false, nested: false }
    }
}

// asm-generic/errno.h, errno-base.h
const ENOENT: u32 = 2;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Arguments of C's type `int` and `unsigned`: the kernel looks at the low half only, and so must we.
const INT: u64 = 0xffff_ffff;

/// The profile for a container with these capabilities (its bounding set).
pub fn default_profile(capabilities: &Capabilities, options: &Options) -> LinuxSeccomp {
    let has = |capability| capabilities.contains(&capability);
    let admin = has(Capability::SysAdmin);
    let mut syscalls = vec![allow(ALWAYS)];
    for (capability, names) in BY_CAPABILITY {
        if has(*capability) {
            syscalls.push(allow(names));
        }
    }
    if options.nested {
        syscalls.push(allow(NESTED));
    }
    if options.io_uring {
        syscalls.push(allow(IO_URING));
    } else {
        syscalls.push(errno(IO_URING, ENOSYS, vec![]));
    }
    syscalls.push(errno(NOT_HERE, ENOSYS, vec![]));
    if !admin && !options.nested {
        syscalls.push(allow_if("clone", vec![masked(0, NAMESPACES, 0)]));
        // Its flags lie behind a pointer; glibc falls back to clone on ENOSYS.
        syscalls.push(errno(&["clone3"], ENOSYS, vec![]));
    }
    for persona in PERSONAS {
        syscalls.push(allow_if("personality", vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, *persona)]));
    }
    sockets(capabilities, &mut syscalls);
    if options.tcp_ulp {
        syscalls.push(allow(&["setsockopt"]));
    } else {
        tcp_ulp(&mut syscalls);
    }
    if has(Capability::Mknod) {
        syscalls.push(allow(&["mknod", "mknodat"]));
    } else {
        plain_nodes("mknod", 1, &mut syscalls);
        plain_nodes("mknodat", 2, &mut syscalls);
    }

    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(EPERM));
    profile.set_architectures(Some(architectures(options.abi32)));
    profile.set_syscalls(Some(syscalls));
    profile
}

fn architectures(abi32: bool) -> Vec<Arch> {
    let (own, small) = if cfg!(target_arch = "x86_64") {
        (Arch::ScmpArchX86_64, Some(Arch::ScmpArchX86))
    } else if cfg!(target_arch = "aarch64") {
        (Arch::ScmpArchAarch64, Some(Arch::ScmpArchArm))
    } else {
        (Arch::ScmpArchNative, None)
    };
    std::iter::once(own).chain(small.filter(|_| abi32)).collect()
}

/// socket(2): an allow-list of families, and the kernel's own word for all others.
fn sockets(capabilities: &Capabilities, syscalls: &mut Vec<LinuxSyscall>) {
    let asked = FAMILIES
        .iter()
        .filter(|(capability, _)| capability.is_none_or(|capability| capabilities.contains(&capability)));
    for (_, families) in asked {
        for family in *families {
            syscalls.push(allow_if("socket", vec![masked(0, INT, *family)]));
        }
    }
    // AF_PACKET without CAP_NET_RAW keeps the kernel's EPERM, which is the default action.
    let around = [
        arg(0, LinuxSeccompOperator::ScmpCmpLt, AF_PACKET),
        arg(0, LinuxSeccompOperator::ScmpCmpGt, AF_PACKET),
    ];
    for side in around {
        syscalls.push(errno(&["socket"], EAFNOSUPPORT, vec![side]));
    }
}

/// setsockopt(2): all but (SOL_TCP, TCP_ULP).
fn tcp_ulp(syscalls: &mut Vec<LinuxSyscall>) {
    const SOL_TCP: u64 = 6;
    const TCP_ULP: u64 = 31;
    syscalls.push(errno(&["setsockopt"], ENOENT, vec![masked(1, INT, SOL_TCP), masked(2, INT, TCP_ULP)]));
    syscalls.push(allow_if("setsockopt", vec![arg(1, LinuxSeccompOperator::ScmpCmpNe, SOL_TCP)]));
    syscalls.push(allow_if("setsockopt", vec![arg(2, LinuxSeccompOperator::ScmpCmpNe, TCP_ULP)]));
}

/// mknod(2) of what is no device: files, pipes, sockets, and the 0:0 node that overlayfs takes for a whiteout.
fn plain_nodes(name: &str, mode: usize, syscalls: &mut Vec<LinuxSyscall>) {
    const S_IFMT: u64 = 0o170_000;
    const S_IFCHR: u64 = 0o020_000;
    for kind in [0, 0o100_000, 0o010_000, 0o140_000] {
        syscalls.push(allow_if(name, vec![masked(mode, S_IFMT, kind)]));
    }
    syscalls.push(allow_if(name, vec![masked(mode, S_IFMT, S_IFCHR), masked(mode + 1, INT, 0)]));
}

fn allow(names: &[&str]) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    syscall.set_action(LinuxSeccompAction::ScmpActAllow);
    syscall
}

fn allow_if(name: &str, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut syscall = allow(&[name]);
    syscall.set_args(Some(args));
    syscall
}

fn errno(names: &[&str], errno: u32, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut syscall = allow(names);
    syscall.set_action(LinuxSeccompAction::ScmpActErrno);
    syscall.set_errno_ret(Some(errno));
    syscall.set_args(Some(args).filter(|args| !args.is_empty()));
    syscall
}

fn arg(index: usize, op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    build(LinuxSeccompArgBuilder::default().index(index).op(op).value(value))
}

/// `argument & mask == value`
fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    let op = LinuxSeccompOperator::ScmpCmpMaskedEq;
    build(LinuxSeccompArgBuilder::default().index(index).op(op).value(mask).value_two(value))
}

fn build(arg: LinuxSeccompArgBuilder) -> LinuxSeccompArg {
    arg.build().expect("every field has a default, so the builder cannot fail")
}

/// The `CLONE_NEW*` flags of clone(2): NS, CGROUP, UTS, IPC, USER, PID, NET.
const NAMESPACES: u64 = 0x7e02_0000;

/// personality(2): Linux, BSD, UNAME26, both; and "tell me".
const PERSONAS: &[u64] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const AF_PACKET: u64 = 17;

/// Socket families (`linux/socket.h`), and the capability that says one means to use them.
const FAMILIES: &[(Option<Capability>, &[u64])] = &[
    // AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
    (None, &[1, 2, 10, 16]),
    (Some(Capability::NetRaw), &[AF_PACKET]),
    // AF_KEY (IPsec), AF_PPPOX (VPN clients), AF_CAN, AF_BLUETOOTH, AF_XDP: who administers networks may mean them.
    (Some(Capability::NetAdmin), &[15, 24, 29, 31, 44]),
];

const IO_URING: &[&str] = &["io_uring_enter", "io_uring_register", "io_uring_setup"];

/// Answered as if this kernel had no such thing: see the table at the head.
#[rustfmt::skip]
const NOT_HERE: &[&str] = &[
    "add_key", "keyctl", "request_key", "vmsplice",
    // Gone from Linux, or never there.
    "_sysctl", "afs_syscall", "break", "create_module", "epoll_ctl_old", "epoll_wait_old", "ftime", "get_kernel_syms",
    "getpmsg", "gtty", "idle", "lock", "mpx", "nfsservctl", "prof", "profil", "putpmsg", "query_module", "security",
    "stty", "tuxcall", "ulimit", "uselib", "vserver",
];

/// What `nested` opens.
#[rustfmt::skip]
const NESTED: &[&str] = &[
    "chroot", "clone", "clone3", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
    "open_tree", "open_tree_attr", "pivot_root", "setdomainname", "sethostname", "setns", "umount", "umount2",
    "unshare",
];

/// Allowed with a capability. The kernel asks for it anyway; without it nobody gets near the code.
#[rustfmt::skip]
const BY_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::SysAdmin, &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount",
        "open_tree", "open_tree_attr", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname",
        "setns", "syslog", "umount", "umount2", "unshare",
    ]),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Allowed to everyone, whatever the arguments. Names that an ABI lacks are passed over there.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "arm_fadvise64_64",
    "arm_sync_file_range", "bind", "breakpoint", "brk", "cacheflush", "cachestat", "capget", "capset", "chdir",
    "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
    "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range",
    "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl",
    "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group",
    "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr",
    "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs",
    "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue", "futex_time64", "futex_wait",
    "futex_waitv", "futex_wake", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd", "getdents",
    "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
    "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid",
    "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt",
    "gettid", "gettimeofday", "getuid", "getuid32", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init",
    "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents",
    "io_pgetevents_time64", "io_setup", "io_submit", "ioctl", "ioprio_get", "ioprio_set", "ipc", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32", "lgetxattr",
    "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek",
    "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret",
    "mincore", "mkdir", "mkdirat", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "modify_ldt", "mprotect",
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
    "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync",
    "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "open", "openat", "openat2",
    "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll",
    "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease",
    "process_vm_readv", "process_vm_writev", "pselect6", "pselect6_time64", "ptrace", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recv", "recvfrom", "recvmmsg",
    "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat",
    "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select",
    "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg",
    "sendmsg", "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "set_tls", "setfsgid",
    "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer", "setpgid",
    "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",
    "setreuid32", "setrlimit", "setsid", "setuid", "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt",
    "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall",
    "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat",
    "sync", "sync_file_range", "sync_file_range2", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create",
    "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
    "tkill", "truncate", "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uprobe", "uretprobe",
    "utime", "utimensat", "utimensat_time64", "utimes", "vfork", "wait4", "waitid", "waitpid", "write", "writev",
];
