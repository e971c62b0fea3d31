//! Executing from another mount of the same file, without executing anew.
//!
//! `/proc/PID/exe` leads to the file that a process executes *by the mount that it was found on*. A process that
//! must not lend out a writable way to its file therefore has to come from a read-only mount of it. Executing
//! again from there costs a whole second start (0.9 ms on a virtual machine, half of it the C library asking the
//! processor for its features, which traps). The kernel lets a process change this link in place, once nothing of
//! the old file is mapped any more; so what is mapped is mapped again, page for page the same, from the new one.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use linux_raw_sys::prctl::prctl_mm_map;
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};

/// A part of our program in memory, whole pages.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    length: usize,
    /// Where it begins in the file.
    offset: i64,
    flags: u32,
}

/// What our program consists of.
#[derive(Default)]
struct Program {
    loaded: Vec<Part>,
    /// Written while the program was loaded, read-only since.
    sealed: Option<Part>,
}

/// Lets this process go on from `file`, which must be the file that it executes, opened on another mount.
///
/// Only for a process with one thread. Errors: where the kernel does not allow it (it takes
/// `CONFIG_CHECKPOINT_RESTORE`, and CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE), the process is as it was but for the
/// names of its mappings. Source: prctl(2), `PR_SET_MM_MAP`; `replace_mm_exe_file()` in the kernel's kernel/fork.c.
pub fn move_to(file: BorrowedFd<'_>) -> Result<()> {
    let program = Program::ours()?;
    let map = memory_map(file)?;
    for part in &program.loaded {
        if part.flags & libc::PF_W == 0 { map_again(file, part) } else { detach(part) }
            .doing(|| format!("map {} bytes of our own program anew", part.length))?;
    }
    if let Some(part) = program.sealed {
        // SAFETY: whole pages of ours, which nothing writes to after the start.
        let result = unsafe { libc::mprotect(part.start as *mut c_void, part.length, libc::PROT_READ) };
        checked(result == 0).doing(|| "mprotect(our own program)")?;
    }
    // SAFETY: the kernel reads a struct of the length we give, and checks every address in it.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            ptr::from_ref(&map) as usize,
            size_of::<prctl_mm_map>(),
            0,
        )
    };
    checked(result == 0).doing(|| "prctl(PR_SET_MM_MAP)")
}

impl Program {
    fn ours() -> Result<Program> {
        let mut program = Program::default();
        // SAFETY: the callback has the type that is asked for, and its argument outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(note), ptr::from_mut(&mut program).cast()) };
        match program.loaded.is_empty() {
            true => Err(Error::new(Kind::Unsupported, "our own program has no headers in memory")),
            false => Ok(program),
        }
    }
}

/// Notes the parts of the first object, which is the program itself (dl_iterate_phdr(3)).
unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> i32 {
    // SAFETY: `data` is what `ours` gave: a `Program` that nobody else uses now.
    let program = unsafe { &mut *data.cast::<Program>() };
    // SAFETY: the C library gives a valid struct for the time of the call, with that many headers.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    let page = rustix::param::page_size();
    for header in headers {
        let start = base + header.p_vaddr as usize;
        let down = start / page * page;
        // What a relocation made read-only ends on a page, what is loaded is rounded up to one.
        let part = |end: usize| Part {
            start: down,
            length: end - down,
            offset: header.p_offset as i64 - (start - down) as i64,
            flags: header.p_flags,
        };
        match header.p_type {
            libc::PT_LOAD if header.p_filesz > 0 => {
                program.loaded.push(part((start + header.p_filesz as usize).next_multiple_of(page)));
            }
            libc::PT_GNU_RELRO => {
                let end = (start + header.p_memsz as usize) / page * page;
                program.sealed = (end > down).then(|| part(end));
            }
            _ => {}
        }
    }
    1
}

/// Maps an unchanged part again, over itself.
fn map_again(file: BorrowedFd<'_>, part: &Part) -> Result<(), Errno> {
    let mut protection = 0;
    for (flag, allows) in [(libc::PF_R, libc::PROT_READ), (libc::PF_X, libc::PROT_EXEC)] {
        protection |= if part.flags & flag != 0 { allows } else { 0 };
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let place = part.start as *mut c_void;
    // SAFETY: the same bytes of the same file take the place of themselves, in one step of the kernel's.
    let result = unsafe { libc::mmap(place, part.length, protection, flags, file.as_raw_fd(), part.offset) };
    checked(result == place)
}

/// Puts a copy without a file in the place of a part that has been written to.
fn detach(part: &Part) -> Result<(), Errno> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory, wherever the kernel finds room.
    let copy = unsafe { libc::mmap(ptr::null_mut(), part.length, protection, flags, -1, 0) };
    checked(copy != libc::MAP_FAILED)?;
    let copy = NonNull::new(copy).ok_or(Errno::NOMEM)?;
    let place = part.start as *mut c_void;
    // SAFETY: both are `length` bytes of mapped memory that do not overlap. Between the copy and the move nothing
    // is written to the part: there is one thread, and these two calls write to the stack alone.
    let result = unsafe {
        ptr::copy_nonoverlapping(place.cast::<u8>(), copy.as_ptr().cast::<u8>(), part.length);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(copy.as_ptr(), part.length, part.length, flags, place)
    };
    checked(result == place)
}

/// What the kernel holds true of our memory, to be told the same again, and the new file.
fn memory_map(file: BorrowedFd<'_>) -> Result<prctl_mm_map> {
    let stat = std::fs::read_to_string("/proc/self/stat").doing(|| "read /proc/self/stat")?;
    // The second field is our name in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
    let fields: Vec<u64> = rest.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    // proc_pid_stat(5) counts from 1.
    let field = |number: usize| match fields.get(number - 3) {
        None | Some(0) => {
            Err(Error::new(Kind::Unsupported, format!("/proc/self/stat does not tell field {number}")))
        }
        Some(address) => Ok(*address),
    };
    Ok(prctl_mm_map {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        // SAFETY: with 0 it changes nothing.
        brk: unsafe { libc::sbrk(0) } as u64,
        start_stack: field(28)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        // As it is.
        auxv: ptr::null_mut(),
        auxv_size: 0,
        exe_fd: file.as_raw_fd() as u32,
    })
}

fn checked(worked: bool) -> Result<(), Errno> {
    if worked {
        return Ok(());
    }
    Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
}
