//! i386's two multiplexers: socketcall(2) and ipc(2) lead to the same code as the direct calls.
//!
//! Call numbers from `linux/net.h` (`SYS_*`) and `linux/ipc.h`. glibc for i386 still goes through them, since
//! the direct calls came only with Linux 4.3 and 5.1.

/// The multiplexer that also reaches `name`; which bits of its first argument name the call, and by what number.
pub(crate) fn call(name: &str) -> Option<(&'static str, u64, u64)> {
    let find =
        |calls: &[(&str, u64)]| calls.iter().find(|(call, _)| *call == name).map(|(_, number)| *number);
    let socket = find(SOCKETCALL).map(|number| ("socketcall", u64::from(u32::MAX), number));
    // ipc(2) keeps a version in the upper half of the word.
    socket.or_else(|| find(IPC).map(|number| ("ipc", 0xffff, number)))
}

const SOCKETCALL: &[(&str, u64)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

const IPC: &[(&str, u64)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
