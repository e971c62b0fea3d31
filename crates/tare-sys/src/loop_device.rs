//! Loop devices: a file as a block device (loop(4)).

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::process::check;

/// `LOOP_CTL_GET_FREE`, `LOOP_CONFIGURE` and `LO_FLAGS_AUTOCLEAR` (linux/loop.h).
const GET_FREE: libc::c_ulong = 0x4C82;
const CONFIGURE: libc::c_ulong = 0x4C0A;
const AUTOCLEAR: u32 = 4;

/// `struct loop_config` (linux/loop.h), with `struct loop_info64` in its middle.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A device that stands for a file. It goes by itself when nobody has it open or mounted any more.
#[derive(Debug)]
pub struct LoopDevice {
    /// `/dev/loop7`.
    pub path: String,
    #[expect(dead_code, reason = "held, not read")]
    device: File,
}

/// Gives the file a device.
pub fn attach(file: &Path) -> Result<LoopDevice> {
    let open = |path: &Path| {
        OpenOptions::new().read(true).write(true).open(path).doing(|| format!("open {}", path.display()))
    };
    let (backing, control) = (open(file)?, open(Path::new("/dev/loop-control"))?);
    for _ in 0..100 {
        // SAFETY: the ioctl takes no argument.
        let number = check(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) }.into())
            .doing(|| "ioctl(/dev/loop-control, LOOP_CTL_GET_FREE)")?;
        let path = format!("/dev/loop{number}");
        let device = open(Path::new(&path))?;
        let config = Config {
            fd: backing.as_raw_fd() as u32,
            block_size: 0,
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: AUTOCLEAR,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
            reserved: [0; 8],
        };
        // SAFETY: the ioctl reads a `struct loop_config`, which `config` is and which outlives the call.
        match check(unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) }.into()) {
            Ok(_) => return Ok(LoopDevice { path, device }),
            // Somebody else took it between our two calls.
            Err(Errno::BUSY) => continue,
            Err(errno) => return Err(errno).doing(|| format!("ioctl({path}, LOOP_CONFIGURE)")),
        }
    }
    Err(Errno::BUSY).doing(|| "find a free loop device")
}
