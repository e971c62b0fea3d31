//! What runc makes of a profile: which calls of libseccomp, and what it puts before the library's program.
//!
//! After `libcontainer/seccomp/seccomp_linux.go` and `patchbpf/enosys_linux.go` of runc 1.2 and later (crun makes the
//! same calls, and has nothing like the second file).

use std::collections::HashMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator};

use super::libseccomp::Library;
use super::naive::word;
use super::*;

/// One seccomp_rule_add(3): arguments as (index, operator, value, second value).
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub action: u32,
    pub conditions: Vec<(usize, &'static str, u64, u64)>,
}

/// The calls for a profile. A rule that says what the default says is left out, for the library does not take it;
/// conditions of which two are about one argument become a call each, for it does not take those either.
pub fn calls(profile: &LinuxSeccomp) -> Vec<Call> {
    let default = word(profile.default_action(), profile.default_errno_ret());
    let mut calls = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = word(rule.action(), rule.errno_ret());
        if action == default {
            continue;
        }
        let conditions: Vec<_> = rule.args().iter().flatten().map(condition).collect();
        let twice = (0..6).any(|index| conditions.iter().filter(|(arg, ..)| *arg == index).count() > 1);
        for name in rule.names() {
            let call = |conditions| Call { name: name.clone(), action, conditions };
            if twice {
                calls.extend(conditions.iter().map(|condition| call(vec![*condition])));
            } else {
                calls.push(call(conditions.clone()));
            }
        }
    }
    calls
}

fn condition(arg: &LinuxSeccompArg) -> (usize, &'static str, u64, u64) {
    let operator = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => "NE",
        LinuxSeccompOperator::ScmpCmpLt => "LT",
        LinuxSeccompOperator::ScmpCmpLe => "LE",
        LinuxSeccompOperator::ScmpCmpEq => "EQ",
        LinuxSeccompOperator::ScmpCmpGe => "GE",
        LinuxSeccompOperator::ScmpCmpGt => "GT",
        LinuxSeccompOperator::ScmpCmpMaskedEq => "MASKED_EQ",
    };
    (arg.index(), operator, arg.value(), arg.value_two().unwrap_or(0))
}

/// The library's look-up by name, for each ABI.
pub struct Names(HashMap<(&'static str, String), i64>);

impl Names {
    pub fn ask(library: &mut Library, names: &[&str]) -> Names {
        let mut all = HashMap::new();
        for abi in [Abi::X86_64, Abi::I386, Abi::X32, Abi::Aarch64, Abi::Arm] {
            let found = library.resolve(abi, names);
            all.extend(found.into_iter().map(|(name, number)| ((libseccomp::word(abi), name), number)));
        }
        Names(all)
    }

    /// The highest number under this ABI that the profile names, as runc finds it: 0 is "none".
    pub fn newest(&self, profile: &LinuxSeccomp, abi: Abi) -> Option<u32> {
        let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
        let numbers = names.filter_map(|name| self.0.get(&(libseccomp::word(abi), name.clone())));
        numbers.filter_map(|number| u32::try_from(*number).ok()).max().filter(|newest| *newest != 0)
    }
}

/// Does runc put ENOSYS before the filter? Not where the default lets calls through, or a tracer decide.
pub fn has_stub(default: u32) -> bool {
    !matches!(default & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000)
}

impl Call {
    /// Is there nothing to compare? An empty mask is no condition to the library; 32-bit ABIs see its low half.
    pub fn asks_nothing(&self, abi: Abi) -> bool {
        let seen = if matches!(abi, Abi::X86_64 | Abi::Aarch64) { u64::MAX } else { 0xffff_ffff };
        self.conditions.iter().all(|(_, operator, mask, _)| *operator == "MASKED_EQ" && mask & seen == 0)
    }
}
