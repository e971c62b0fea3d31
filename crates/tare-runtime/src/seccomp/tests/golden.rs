//! What the default profile answers, row by row: (ABI, syscalls, arguments) and the word for the kernel.

use oci_spec::runtime::{Capabilities, Capability};

use super::*;

const NONE: [u64; 6] = [0; 6];

/// A row stands for one check for each name.
type Row<'a> = (&'a [Abi], &'a [&'a str], [u64; 6], u32);

const BOTH: &[Abi] = &[Abi::X86_64, Abi::I386];
const LONG: &[Abi] = &[Abi::X86_64];
const SHORT: &[Abi] = &[Abi::I386];

fn check(capabilities: &Capabilities, options: &Options, rows: &[Row<'_>]) -> usize {
    let compiled = compile_for(Machine::X86_64, &default_profile(capabilities, options)).unwrap();
    assert_eq!(compiled.unknown, Vec::<String>::new());
    let mut count = 0;
    for (abis, names, args, expected) in rows {
        for abi in *abis {
            for name in *names {
                let actual = answer(&compiled, *abi, name, *args);
                assert_eq!(actual, *expected, "{abi:?} {name} {args:x?}: got {actual:#x}");
                count += 1;
            }
        }
    }
    count
}

fn first(value: u64) -> [u64; 6] {
    [value, 0, 0, 0, 0, 0]
}

fn second(value: u64) -> [u64; 6] {
    [3, value, 0, 0, 0, 0]
}

#[rustfmt::skip]
#[test]
fn default_container() {
    let rows: &[Row<'_>] = &[
        // Everyday work.
        (BOTH, &["read", "write", "open", "openat", "openat2", "close", "stat", "lstat", "statx", "poll", "brk"], NONE, ALLOW),
        (BOTH, &["fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "kill", "tgkill"], NONE, ALLOW),
        (BOTH, &["rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "signalfd4", "futex", "rseq"], NONE, ALLOW),
        (BOTH, &["getpid", "getuid", "setuid", "setgid", "setgroups", "setresuid", "setreuid", "capget", "capset"], NONE, ALLOW),
        (BOTH, &["bind", "connect", "listen", "accept4", "sendmsg", "recvmsg", "sendto", "recvfrom", "shutdown"], NONE, ALLOW),
        (BOTH, &["epoll_create1", "epoll_ctl", "epoll_wait", "eventfd2", "timerfd_create", "inotify_init1"], NONE, ALLOW),
        (BOTH, &["clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "adjtimex", "clock_adjtime"], NONE, ALLOW),
        (BOTH, &["ptrace", "process_vm_readv", "process_vm_writev", "seccomp", "prctl", "memfd_create"], NONE, ALLOW),
        (BOTH, &["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "name_to_handle_at"], NONE, ALLOW),
        (BOTH, &["statmount", "listmount", "mseal", "cachestat", "fchmodat2", "futex_waitv", "setxattrat", "getxattrat"], NONE, ALLOW),
        (BOTH, &["io_setup", "io_submit", "io_getevents", "copy_file_range", "splice", "tee", "sendfile"], NONE, ALLOW),
        (BOTH, &["chroot", "sync", "syncfs", "mlock", "mlockall", "madvise", "mremap", "pidfd_open", "pidfd_send_signal"], NONE, ALLOW),
        (BOTH, &["sched_setaffinity", "sched_setscheduler", "setpriority", "ioprio_set", "prlimit64", "modify_ldt"], NONE, ALLOW),
        (LONG, &["uretprobe", "uprobe", "arch_prctl", "newfstatat", "map_shadow_stack"], NONE, ALLOW),
        (SHORT, &["socketcall", "ipc", "_llseek", "mmap2", "waitpid", "clock_gettime64", "futex_time64", "set_thread_area"], NONE, ALLOW),
        (SHORT, &["chown32", "setuid32", "stat64", "fstatat64", "sigreturn", "ugetrlimit", "time", "utimensat_time64"], NONE, ALLOW),

        // Refused by name: wants a capability that is not there.
        (BOTH, &["mount", "umount2", "pivot_root", "unshare", "setns", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig"], NONE, EPERM),
        (BOTH, &["mount_setattr", "sethostname", "setdomainname", "quotactl", "quotactl_fd", "syslog", "bpf", "perf_event_open"], NONE, EPERM),
        (BOTH, &["init_module", "finit_module", "delete_module", "kexec_load", "reboot", "swapon", "swapoff", "acct"], NONE, EPERM),
        (BOTH, &["settimeofday", "clock_settime", "iopl", "ioperm", "vhangup", "userfaultfd", "open_by_handle_at"], NONE, EPERM),
        (BOTH, &["mbind", "set_mempolicy", "get_mempolicy", "migrate_pages", "move_pages", "kcmp", "pidfd_getfd"], NONE, EPERM),
        (BOTH, &["process_madvise", "fanotify_init", "lookup_dcookie", "lsm_set_self_attr", "sysfs", "ustat"], NONE, EPERM),
        (LONG, &["kexec_file_load"], NONE, EPERM),
        (SHORT, &["stime", "clock_settime64", "umount", "vm86", "vm86old", "bdflush"], NONE, EPERM),

        // As if they were not there.
        (BOTH, &["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"], NONE, ENOSYS),
        (BOTH, &["keyctl", "add_key", "request_key", "vmsplice", "uselib", "_sysctl", "nfsservctl", "create_module"], NONE, ENOSYS),
        (BOTH, &["open_tree_attr", "file_getattr", "file_setattr", "listns", "rseq_slice_yield"], NONE, ENOSYS),
        (LONG, &["epoll_ctl_old", "epoll_wait_old", "vserver", "tuxcall", "security"], NONE, ENOSYS),

        // clone(2): threads and children yes, namespaces no.
        (BOTH, &["clone"], first(0x003d_0f00), ALLOW),
        (BOTH, &["clone"], first(0x0120_0011), ALLOW),
        (BOTH, &["clone"], first(17), ALLOW),
        (BOTH, &["clone"], first(0x0002_0000), EPERM),
        (BOTH, &["clone"], first(0x0200_0000), EPERM),
        (BOTH, &["clone"], first(0x0400_0000), EPERM),
        (BOTH, &["clone"], first(0x0800_0000), EPERM),
        (BOTH, &["clone"], first(0x1000_0011), EPERM),
        (BOTH, &["clone"], first(0x2000_0000), EPERM),
        (BOTH, &["clone"], first(0x4000_0000), EPERM),
        (LONG, &["clone"], first(0xdead_beef_1000_0000), EPERM),

        // socket(2): int, so the high half is nobody's business.
        (BOTH, &["socket"], first(1), ALLOW),
        (BOTH, &["socket"], first(2), ALLOW),
        (BOTH, &["socket"], first(10), ALLOW),
        (BOTH, &["socket"], first(16), ALLOW),
        (LONG, &["socket"], first(0xffff_ffff_0000_0002), ALLOW),
        (BOTH, &["socket"], first(17), EPERM),
        (BOTH, &["socket"], first(0), EAFNOSUPPORT),
        (BOTH, &["socket"], first(3), EAFNOSUPPORT),
        (BOTH, &["socket"], first(4), EAFNOSUPPORT),
        (BOTH, &["socket"], first(9), EAFNOSUPPORT),
        (BOTH, &["socket"], first(15), EAFNOSUPPORT),
        (BOTH, &["socket"], first(18), EAFNOSUPPORT),
        (BOTH, &["socket"], first(21), EAFNOSUPPORT),
        (BOTH, &["socket"], first(29), EAFNOSUPPORT),
        (BOTH, &["socket"], first(30), EAFNOSUPPORT),
        (BOTH, &["socket"], first(33), EAFNOSUPPORT),
        (BOTH, &["socket"], first(38), EAFNOSUPPORT),
        (BOTH, &["socket"], first(40), EAFNOSUPPORT),
        (BOTH, &["socket"], first(44), EAFNOSUPPORT),
        (BOTH, &["socket"], first(0xffff_ffff), EAFNOSUPPORT),
        (LONG, &["socket"], first(0x1_0000_0026), EAFNOSUPPORT),
        (LONG, &["socket"], first(0x1_0000_0028), EAFNOSUPPORT),

        // setsockopt(2): all but TCP_ULP.
        (BOTH, &["setsockopt"], [3, 6, 31, 0, 0, 0], ENOENT),
        (BOTH, &["setsockopt"], [3, 6, 1, 0, 0, 0], ALLOW),
        (BOTH, &["setsockopt"], [3, 1, 31, 0, 0, 0], ALLOW),
        (BOTH, &["setsockopt"], [3, 282, 31, 0, 0, 0], ALLOW),
        (LONG, &["setsockopt"], [3, 1 << 32 | 6, 31, 0, 0, 0], ENOENT),
        (LONG, &["setsockopt"], [3, 6, 7 << 32 | 31, 0, 0, 0], ENOENT),
        (LONG, &["setsockopt"], [3, 7 << 32 | 6, 7 << 32 | 1, 0, 0, 0], ALLOW),

        // mknod(2): no devices.
        (BOTH, &["mknod"], [0, 0o100_644, 0, 0, 0, 0], ALLOW),
        (BOTH, &["mknod"], [0, 0o644, 0, 0, 0, 0], ALLOW),
        (BOTH, &["mknod"], [0, 0o010_600, 0, 0, 0, 0], ALLOW),
        (BOTH, &["mknod"], [0, 0o140_600, 0, 0, 0, 0], ALLOW),
        (BOTH, &["mknod"], [0, 0o020_000, 0, 0, 0, 0], ALLOW),
        (BOTH, &["mknod"], [0, 0o020_666, 0x103, 0, 0, 0], EPERM),
        (BOTH, &["mknod"], [0, 0o060_660, 0x800, 0, 0, 0], EPERM),
        (BOTH, &["mknod"], [0, 0o060_660, 0, 0, 0, 0], EPERM),
        (BOTH, &["mknodat"], [0, 0, 0o100_644, 0, 0, 0], ALLOW),
        (BOTH, &["mknodat"], [0, 0, 0o020_000, 0, 0, 0], ALLOW),
        (BOTH, &["mknodat"], [0, 0, 0o020_666, 0x103, 0, 0], EPERM),
        (LONG, &["mknodat"], [0, 0, 0o020_666, 1 << 32, 0, 0], ALLOW),

        // personality(2).
        (BOTH, &["personality"], first(0), ALLOW),
        (BOTH, &["personality"], first(8), ALLOW),
        (BOTH, &["personality"], first(0x2_0000), ALLOW),
        (BOTH, &["personality"], first(0x2_0008), ALLOW),
        (BOTH, &["personality"], first(0xffff_ffff), ALLOW),
        (BOTH, &["personality"], first(0x4_0000), EPERM),
        (BOTH, &["personality"], first(4), EPERM),
    ];
    assert!(check(&capabilities(), &Options::default(), rows) > 400);
}

#[rustfmt::skip]
#[test]
fn capabilities_open_what_they_should() {
    let rows: &[(Capability, &[&str])] = &[
        (Capability::DacReadSearch, &["open_by_handle_at"]),
        (Capability::SysAdmin, &["mount", "umount2", "unshare", "setns", "clone3", "bpf", "perf_event_open", "syslog", "fsopen", "open_tree_attr"]),
        (Capability::SysBoot, &["reboot"]),
        (Capability::SysModule, &["init_module", "finit_module", "delete_module"]),
        (Capability::SysPacct, &["acct"]),
        (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
        (Capability::SysRawio, &["iopl", "ioperm"]),
        (Capability::SysTime, &["settimeofday", "clock_settime"]),
        (Capability::SysTtyConfig, &["vhangup"]),
        (Capability::SysNice, &["mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node"]),
        (Capability::Syslog, &["syslog"]),
        (Capability::Bpf, &["bpf"]),
        (Capability::Perfmon, &["perf_event_open"]),
    ];
    for (capability, names) in rows {
        let mut capabilities = capabilities();
        let closed: &[Row<'_>] = &[(BOTH, names, NONE, if names.contains(&"open_tree_attr") { 0 } else { EPERM })];
        if closed[0].3 != 0 {
            check(&capabilities, &Options::default(), closed);
        }
        capabilities.insert(*capability);
        check(&capabilities, &Options::default(), &[(BOTH, names, NONE, ALLOW)]);
    }
    let with = |capability| capabilities().into_iter().chain([capability]).collect::<Capabilities>();
    let options = Options::default();
    check(&with(Capability::SysAdmin), &options, &[(BOTH, &["clone"], first(0x1000_0000), ALLOW), (BOTH, &["pivot_root"], NONE, EPERM)]);
    check(&with(Capability::NetRaw), &options, &[(BOTH, &["socket"], first(17), ALLOW), (BOTH, &["socket"], first(15), EAFNOSUPPORT)]);
    check(&with(Capability::NetAdmin), &options, &[
        (BOTH, &["socket"], first(15), ALLOW), (BOTH, &["socket"], first(44), ALLOW),
        (BOTH, &["socket"], first(17), EPERM), (BOTH, &["socket"], first(38), EAFNOSUPPORT),
    ]);
    check(&with(Capability::Mknod), &options, &[(BOTH, &["mknod"], second(0o060_660), ALLOW), (BOTH, &["mknodat"], [0, 0, 0o020_666, 0x103, 0, 0], ALLOW)]);
    let mut none = capabilities();
    none.remove(&Capability::SysChroot);
    check(&none, &options, &[(BOTH, &["chroot"], NONE, EPERM)]);
}

#[test]
fn options_lift_what_they_name() {
    let with = |options: Options, rows: &[Row<'_>]| check(&capabilities(), &options, rows);
    let plain = Options::default();
    with(Options { io_uring: true, ..plain }, &[(BOTH, &["io_uring_setup", "io_uring_enter"], NONE, ALLOW)]);
    with(Options { tcp_ulp: true, ..plain }, &[(BOTH, &["setsockopt"], [3, 6, 31, 0, 0, 0], ALLOW)]);
    let nested: &[Row<'_>] = &[
        (BOTH, &["clone"], first(0x1000_0000), ALLOW),
        (BOTH, &["clone3", "unshare", "setns", "mount", "pivot_root", "umount2", "sethostname"], NONE, ALLOW),
        (BOTH, &["bpf", "init_module", "kexec_load"], NONE, EPERM),
    ];
    with(Options { nested: true, ..plain }, nested);
    let lone: &[Row<'_>] = &[(LONG, &["read"], NONE, ALLOW), (SHORT, &["read", "exit"], NONE, ENOSYS)];
    with(Options { abi32: false, ..plain }, lone);
    with(plain, &[(&[Abi::X32], &["read", "execve", "exit", "ptrace"], NONE, ENOSYS)]);
}

#[test]
fn unassigned_numbers_are_not_there() {
    let compiled =
        compile_for(Machine::X86_64, &default_profile(&capabilities(), &Options::default())).unwrap();
    let x86_64 =
        [337, 400, 423, 467, 472, 511, 512, 547, 1000, 0x3fff_ffff, 0x4000_0000, 0x4000_0208, u32::MAX];
    for nr in x86_64 {
        assert_eq!(interpreter::run(&compiled.program, 0xc000_003e, nr, NONE), ENOSYS, "{nr}");
    }
    for nr in [222, 251, 387, 415, 467, 512, 0x4000_0003, u32::MAX] {
        assert_eq!(interpreter::run(&compiled.program, 0x4000_0003, nr, NONE), ENOSYS, "{nr}");
    }
    for arch in [0xc000_00b7, 0x4000_0028, 0, u32::MAX] {
        assert_eq!(interpreter::run(&compiled.program, arch, 0, NONE), ENOSYS, "{arch:#x}");
    }
}
