//! A second reading of a profile, straight from its words, slow and obvious: what the compiler is held against.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

use super::*;

/// What the profile says of one syscall.
pub fn evaluate(machine: Machine, profile: &LinuxSeccomp, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let default = word(profile.default_action(), profile.default_errno_ret());
    let errno = default & 0xffff_0000 == ERRNO;
    let refuses = !matches!(default & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000);
    let newer = if refuses { ENOSYS } else { default };
    let nothing = if errno { ENOSYS } else { default };
    let foreign = if errno { ENOSYS } else { KILL_THREAD };
    let (abi, native) = match (machine, arch) {
        (Machine::X86_64, 0xc000_003e) if nr == u32::MAX => return nothing,
        (Machine::X86_64, 0xc000_003e) if nr >= 0x4000_0000 => (Abi::X32, false),
        (Machine::X86_64, 0xc000_003e) => (Abi::X86_64, true),
        (Machine::X86_64, 0x4000_0003) => (Abi::I386, false),
        (Machine::Aarch64, 0xc000_00b7) => (Abi::Aarch64, true),
        (Machine::Aarch64, 0x4000_0028) => (Abi::Arm, false),
        _ => return foreign,
    };
    let listed = profile.architectures().iter().flatten().any(|arch| machine.abi(*arch) == Some(abi));
    if !native && !listed {
        return foreign;
    }

    let mut conditional = None;
    for rule in profile.syscalls().iter().flatten() {
        let action = word(rule.action(), rule.errno_ret());
        if action == default {
            continue;
        }
        let conditions = rule.args().clone().unwrap_or_default();
        for name in rule.names() {
            let hit = if number(abi, name) == Some(nr) {
                let twice = |arg: &LinuxSeccompArg| {
                    conditions.iter().filter(|other| other.index() == arg.index()).count() > 1
                };
                if conditions.iter().any(twice) {
                    if conditions.iter().any(|arg| asks_nothing(arg, abi)) {
                        return action;
                    }
                    conditions.iter().any(|arg| holds(arg, abi, args))
                } else {
                    if conditions.iter().all(|arg| asks_nothing(arg, abi)) {
                        return action;
                    }
                    conditions.iter().all(|arg| holds(arg, abi, args))
                }
            } else if abi == Abi::I386 {
                let stricter = (action & 0xffff_0000).cast_signed() < (default & 0xffff_0000).cast_signed();
                (conditions.is_empty() || stricter) && multiplexed(name, nr, args[0] as u32)
            } else {
                false
            };
            if hit {
                conditional = conditional.or(Some(action));
            }
        }
    }
    if let Some(action) = conditional {
        return action;
    }

    let base = if abi == Abi::X32 { 0x4000_0000 } else { 0 };
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let through = |name: &str| {
        multiplexer::call(name).filter(|_| abi == Abi::I386).and_then(|(through, ..)| number(abi, through))
    };
    let numbers = names.flat_map(|name| number(abi, name).into_iter().chain(through(name)));
    let newest = numbers.filter(|number| number - base < 512).max();
    match newest {
        None => default,
        Some(newest) if nr > newest && (name(abi, nr).is_none() || nr - base < 512) => newer,
        Some(_) if name(abi, nr).is_none() => nothing,
        Some(_) => default,
    }
}

fn multiplexed(name: &str, nr: u32, call: u32) -> bool {
    match multiplexer::call(name) {
        Some(("socketcall", _, number)) => nr == 102 && u64::from(call) == number,
        Some((_, _, number)) => nr == 117 && u64::from(call & 0xffff) == number,
        None => false,
    }
}

/// What an ABI compares of a value.
fn cut(abi: Abi, value: u64) -> u64 {
    if matches!(abi, Abi::X86_64 | Abi::Aarch64) { value } else { value & 0xffff_ffff }
}

fn asks_nothing(arg: &LinuxSeccompArg, abi: Abi) -> bool {
    arg.op() == LinuxSeccompOperator::ScmpCmpMaskedEq && cut(abi, arg.value()) == 0
}

fn holds(arg: &LinuxSeccompArg, abi: Abi, args: [u64; 6]) -> bool {
    let cut = |value| cut(abi, value);
    let actual = cut(args[arg.index()]);
    let value = cut(arg.value());
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => actual != value,
        LinuxSeccompOperator::ScmpCmpLt => actual < value,
        LinuxSeccompOperator::ScmpCmpLe => actual <= value,
        LinuxSeccompOperator::ScmpCmpEq => actual == value,
        LinuxSeccompOperator::ScmpCmpGe => actual >= value,
        LinuxSeccompOperator::ScmpCmpGt => actual > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => actual & value == cut(arg.value_two().unwrap_or(0)) & value,
    }
}

pub fn word(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    // The library's own reading of the actions.
    action.as_u32(errno)
}
