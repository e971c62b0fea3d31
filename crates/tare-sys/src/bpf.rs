//! `bpf(2)`, as far as a cgroup device program needs it: load, attach, list, detach.
//!
//! The numbers are the kernel's `include/uapi/linux/bpf.h`. Programs come in as the raw 64-bit words that the
//! kernel reads; who writes them is none of this module's business.

use std::ffi::{CStr, c_int, c_long};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};

const PROG_LOAD: c_int = 5;
const PROG_ATTACH: c_int = 8;
const PROG_DETACH: c_int = 9;
const PROG_GET_FD_BY_ID: c_int = 13;
const PROG_QUERY: c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

/// Programs that one cgroup can hold of one type (`BPF_CGROUP_MAX_PROGS` in the kernel).
const MAX_ATTACHED: usize = 64;
/// Bytes of verifier log asked for when a program is refused: the end of it says why.
const LOG_BYTES: usize = 64 * 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

/// `union bpf_attr`. `room` is longer than the kernel's (under 200 bytes): some commands write into fields
/// that are newer than ours, and the kernel takes a longer attr as long as its tail is zero.
#[repr(C)]
#[derive(Clone, Copy)]
union Attr {
    room: [u64; 32],
    load: Load,
    attach: Attach,
    query: Query,
    prog_id: u32,
}

impl Attr {
    fn zeroed() -> Attr {
        Attr { room: [0; 32] }
    }
}

/// # Safety
/// Every pointer in `attr` must be valid for the length that `attr` gives beside it, for the whole call.
unsafe fn bpf(command: c_int, attr: &mut Attr) -> Result<c_int, Errno> {
    // SAFETY: `attr` is longer than any bpf_attr the kernel knows, so the kernel's reads and writes stay
    // inside it; the pointers in it are the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, c_long::from(command), std::ptr::from_mut(attr), size_of::<Attr>())
    };
    match result {
        0.. => Ok(result as c_int),
        _ => {
            let raw = std::io::Error::last_os_error().raw_os_error();
            Err(raw.map_or(Errno::IO, Errno::from_raw_os_error))
        }
    }
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program.
///
/// `insns` are `struct bpf_insn` as 64-bit words in memory order (1 to 1,000,000 of them), `name` is shown by
/// `bpftool prog` (at most 15 bytes of letters, digits, `_` and `.`; what is longer is cut).
///
/// Errors: `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN` in the initial user namespace; a program that the
/// verifier refuses comes back with the end of the verifier's log. Source: bpf(2).
pub fn prog_load(insns: &[u64], license: &CStr, name: &str) -> Result<OwnedFd> {
    let mut load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(insns.len()).unwrap_or(u32::MAX),
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; 16],
    };
    for (to, from) in load.prog_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }

    let attempt = |load: Load| -> Result<OwnedFd, Errno> {
        let mut attr = Attr::zeroed();
        attr.load = load;
        // The verifier gives up with EAGAIN when a signal comes in; bpf(2) says to try again.
        for _ in 0..16 {
            // SAFETY: `insns`, `license` and the log buffer (if any) outlive the call.
            match unsafe { bpf(PROG_LOAD, &mut attr) } {
                Err(Errno::AGAIN) => continue,
                // SAFETY: BPF_PROG_LOAD returned a new fd (close-on-exec) that nobody else knows.
                result => return result.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }),
            }
        }
        Err(Errno::AGAIN)
    };

    // The log costs time, so it is asked for only once the program has been refused.
    let errno = match attempt(load) {
        Ok(program) => return Ok(program),
        Err(errno) => errno,
    };
    let call = format!("bpf(BPF_PROG_LOAD, CGROUP_DEVICE, {} instructions)", insns.len());
    if errno == Errno::PERM {
        return Err(Error::syscall(call, errno)
            .hint("loading a BPF program takes CAP_BPF or CAP_SYS_ADMIN in the first user namespace"));
    }
    let mut log = vec![0u8; LOG_BYTES];
    load.log_level = 1;
    load.log_size = LOG_BYTES as u32;
    load.log_buf = log.as_mut_ptr() as u64;
    match attempt(load) {
        Ok(program) => Ok(program),
        Err(errno) => {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let text = String::from_utf8_lossy(&log[..end]);
            let last: Vec<&str> = text.lines().rev().filter(|line| !line.is_empty()).take(8).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            Err(Error::syscall(format!("{call}: verifier: {}", last.join(" | ")), errno))
        }
    }
}

/// Attaches a loaded program to the cgroup v2 directory `cgroup`, beside what
/// is there (`BPF_F_ALLOW_MULTI`: all programs, and those of the ancestors, must
/// say yes), or in the place of `replace`, with no moment in between (`BPF_F_REPLACE`).
///
/// Errors: `EPERM` without `CAP_NET_ADMIN`/`CAP_SYS_ADMIN` or where an ancestor forbids more programs.
pub fn prog_attach(cgroup: impl AsFd, program: impl AsFd, replace: Option<&OwnedFd>) -> Result<()> {
    let mut attr = Attr::zeroed();
    attr.attach = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: if replace.is_some() { F_ALLOW_MULTI | F_REPLACE } else { F_ALLOW_MULTI },
        replace_bpf_fd: replace.map_or(0, number),
    };
    // SAFETY: the attr holds no pointers.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop).doing(|| "bpf(BPF_PROG_ATTACH, CGROUP_DEVICE)")
}

/// Takes a program off the cgroup again. Errors: `ENOENT` where it is not attached.
pub fn prog_detach(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let mut attr = Attr::zeroed();
    attr.attach = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: the attr holds no pointers.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop).doing(|| "bpf(BPF_PROG_DETACH, CGROUP_DEVICE)")
}

/// The device programs attached to this very cgroup (not its ancestors), oldest first, as fds.
///
/// Errors: `EPERM` without `CAP_NET_ADMIN`/`CAP_SYS_ADMIN`; a program that goes away meanwhile is left out.
pub fn attached(cgroup: impl AsFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; MAX_ATTACHED];
    let mut attr = Attr::zeroed();
    attr.query = Query {
        target_fd: number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_ATTACHED as u32,
    };
    // SAFETY: `prog_ids` points at `prog_cnt` writable words that outlive the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }.doing(|| "bpf(BPF_PROG_QUERY, CGROUP_DEVICE)")?;
    // SAFETY: every byte of the union is initialised, and any bytes make a valid Query.
    let count = unsafe { attr.query.prog_cnt } as usize;

    let mut programs = Vec::new();
    for &id in ids.iter().take(count) {
        let mut attr = Attr::zeroed();
        attr.prog_id = id;
        // SAFETY: the attr holds no pointers.
        match unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) } {
            // SAFETY: the kernel returned a new fd that nobody else knows.
            Ok(raw) => programs.push(unsafe { OwnedFd::from_raw_fd(raw) }),
            Err(Errno::NOENT) => {}
            Err(errno) => {
                return Err(Error::syscall(format!("bpf(BPF_PROG_GET_FD_BY_ID, {id})"), errno));
            }
        }
    }
    Ok(programs)
}

/// The fd as bpf_attr wants it. An fd is never negative.
fn number(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

/// Says whether this kernel has `bpf(2)` with cgroup device programs for us, without attaching anything.
///
/// Errors: [`Kind::Unsupported`] where the kernel was built without it, [`Kind::Permission`] where we may not.
pub fn device_programs_supported() -> Result<()> {
    // r0 = 1; exit
    let allow_all = [word(0xb7, 0, 1), word(0x95, 0, 0)];
    prog_load(&allow_all, c"GPL", "tare_probe").map(drop).map_err(|err| match err.errno() {
        Some(Errno::INVAL | Errno::NOSYS) => err.with_kind(Kind::Unsupported),
        _ => err,
    })
}

/// One `struct bpf_insn` without a source register, as the word that the kernel reads from memory.
fn word(code: u8, registers: u8, imm: i32) -> u64 {
    let [a, b, c, d] = imm.to_ne_bytes();
    u64::from_ne_bytes([code, registers, 0, 0, a, b, c, d])
}
