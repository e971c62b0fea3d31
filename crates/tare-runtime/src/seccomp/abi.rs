//! Machines and the syscall ABIs that their kernels serve.

use oci_spec::runtime::Arch;
use tare_sys::{Error, Kind, Result};

/// A machine that the compiler has syscall tables for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86: also runs i386 and, where the kernel has it, x32 programs.
    X86_64,
    /// 64-bit ARM: also runs 32-bit ARM programs, where the CPU can.
    Aarch64,
}

impl Machine {
    /// The machine that this program was built for.
    pub fn native() -> Result<Machine> {
        if cfg!(target_arch = "x86_64") {
            Ok(Machine::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Ok(Machine::Aarch64)
        } else {
            let what = format!("seccomp: no syscall table for {}", std::env::consts::ARCH);
            Err(Error::new(Kind::Unsupported, what))
        }
    }

    /// The ABI of the machine's own programs. Always part of a filter, listed or not, as in libseccomp.
    pub(crate) fn main_abi(self) -> Abi {
        match self {
            Machine::X86_64 => Abi::X86_64,
            Machine::Aarch64 => Abi::Aarch64,
        }
    }

    /// What an entry of the profile's `architectures` means here; `None` where this machine cannot run it.
    pub(crate) fn abi(self, arch: Arch) -> Option<Abi> {
        match (self, arch) {
            (_, Arch::ScmpArchNative) => Some(self.main_abi()),
            (Machine::X86_64, Arch::ScmpArchX86_64) => Some(Abi::X86_64),
            (Machine::X86_64, Arch::ScmpArchX86) => Some(Abi::I386),
            (Machine::X86_64, Arch::ScmpArchX32) => Some(Abi::X32),
            (Machine::Aarch64, Arch::ScmpArchAarch64) => Some(Abi::Aarch64),
            (Machine::Aarch64, Arch::ScmpArchArm) => Some(Abi::Arm),
            _ => None,
        }
    }
}

/// A syscall ABI: decides which number means which syscall, and how wide the arguments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    I386,
    /// x86-64 with 32-bit pointers; numbers carry a marker bit.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, EABI.
    Arm,
}

/// x32's marker in `seccomp_data.nr`: `__X32_SYSCALL_BIT` (`asm/unistd.h`).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// `seccomp_data.arch`: `AUDIT_ARCH_*` of `linux/audit.h`. x32 has none of its own.
    pub fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Are arguments compared in all their 64 bits? libseccomp compares the low 32 for 32-bit ABIs, x32 included.
    pub(crate) fn wide(self) -> bool {
        matches!(self, Abi::X86_64 | Abi::Aarch64)
    }

    /// Where the numbers begin.
    pub(crate) fn base(self) -> u32 {
        if self == Abi::X32 { X32_BIT } else { 0 }
    }

    /// The column in the syscall table.
    pub(crate) fn column(self) -> usize {
        match self {
            Abi::X86_64 => 0,
            Abi::I386 => 1,
            Abi::X32 => 2,
            Abi::Aarch64 => 3,
            Abi::Arm => 4,
        }
    }
}
