//! Seccomp: from an OCI profile to the BPF program that the kernel runs on each syscall.
//!
//! Own compiler: libseccomp needs 20 ms for Docker's profile and writes a thousand comparisons in a row; this one
//! needs a fraction of a millisecond and writes a search tree, which also loads faster. The result can be kept
//! as a file ([`Compiled::to_bytes`]).
//!
//! ```text
//! default_profile ─┐
//! config.json ─────┴▶ rules: names ─▶ ranges of numbers ─▶ emit: tree of jumps ─▶ Compiled ─▶ tare_sys::seccomp::load
//! ```
//!
//! It never loads anything itself, and it never opens the listener (`listenerPath`); that is the launch's work.

mod abi;
mod cache;
mod default;
mod emit;
mod multiplexer;
mod rules;
mod syscalls;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use tare_sys::Result;
use tare_sys::seccomp::{FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_WAIT_KILLABLE_RECV, Filter};

pub use abi::{Abi, Machine};
pub use default::{Options, default_profile};
pub use syscalls::{name, number};

/// A profile, ready for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The program.
    pub program: Vec<Filter>,
    /// Flags for `tare_sys::seccomp::load`, without the one for a listener.
    pub flags: u32,
    /// Names in the profile that are no syscall of any machine; they were ignored, as runc ignores them.
    pub unknown: Vec<String>,
    /// Some rule asks a listener: load with `tare_sys::seccomp::load_with_listener`. The loading process must
    /// not need any syscall with such a rule to hand the listener over.
    pub needs_listener: bool,
}

/// Compiles a profile for this machine.
pub fn compile(profile: &LinuxSeccomp) -> Result<Compiled> {
    compile_for(Machine::native()?, profile)
}

/// Compiles a profile for the given machine.
pub fn compile_for(machine: Machine, profile: &LinuxSeccomp) -> Result<Compiled> {
    let plan = rules::plan(machine, profile)?;
    let program = emit::program(&plan)?;
    let needs_listener =
        program.iter().any(|filter| filter.code == emit::RET && rules::Verdict(filter.k).notifies());
    let flags = profile.flags().iter().flatten().map(|flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
        // Says how to wait for a listener; the kernel refuses it where there is none.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if needs_listener => {
            FLAG_WAIT_KILLABLE_RECV
        }
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        // The loading process has one thread, so there is nobody to synchronise with.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
    });
    Ok(Compiled {
        program,
        flags: flags.fold(0, |all, flag| all | flag),
        unknown: plan.unknown,
        needs_listener,
    })
}

#[cfg(test)]
mod tests;
