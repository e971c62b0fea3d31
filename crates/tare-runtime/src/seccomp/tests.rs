//! The compiler against a naive reading of the profile, against libseccomp, and against the kernel.

mod against_libseccomp;
mod docker;
mod equivalence;
mod golden;
mod interpreter;
#[cfg(target_arch = "x86_64")]
mod kernel;
mod libseccomp;
mod naive;
mod runc;

use std::collections::HashSet;

use oci_spec::runtime::LinuxSeccomp;
use tare_sys::Kind;
use tare_sys::seccomp::{FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_WAIT_KILLABLE_RECV};

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL_THREAD: u32 = 0;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = ERRNO | 1;
const ENOENT: u32 = ERRNO | 2;
const ENOSYS: u32 = ERRNO | 38;
const EAFNOSUPPORT: u32 = ERRNO | 97;

/// A profile from its JSON.
fn profile(json: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

/// What a compiled filter answers on x86-64 to a syscall by name.
fn answer(compiled: &Compiled, abi: Abi, syscall: &str, args: [u64; 6]) -> u32 {
    let number = number(abi, syscall).unwrap_or_else(|| panic!("{abi:?} has no {syscall}"));
    interpreter::run(&compiled.program, abi.audit_arch(), number, args)
}

#[test]
fn all_nine_actions() {
    let actions = [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
        ("SCMP_ACT_TRAP", 0x0003_0000),
        ("SCMP_ACT_ERRNO", EPERM),
        ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", ALLOW),
    ];
    for (action, word) in actions {
        let profile = profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5,
            "syscalls": [{"names": ["getpid"], "action": action}],
        }));
        let compiled = compile_for(Machine::X86_64, &profile).unwrap();
        assert_eq!(answer(&compiled, Abi::X86_64, "getpid", [0; 6]), word, "{action}");
        assert_eq!(answer(&compiled, Abi::X86_64, "getppid", [0; 6]), ENOSYS, "newer than getpid");
        assert_eq!(answer(&compiled, Abi::X86_64, "read", [0; 6]), ERRNO | 5);
        assert_eq!(compiled.needs_listener, action == "SCMP_ACT_NOTIFY");
    }
}

#[test]
fn flags_are_those_asked_for() {
    let of = |flags: &[&str], action: &str| {
        let profile = profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW", "flags": flags,
            "syscalls": [{"names": ["getpid"], "action": action}],
        }));
        compile_for(Machine::X86_64, &profile).unwrap().flags
    };
    assert_eq!(of(&[], "SCMP_ACT_ERRNO"), 0);
    assert_eq!(of(&["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"], "SCMP_ACT_ERRNO"), FLAG_LOG);
    assert_eq!(of(&["SECCOMP_FILTER_FLAG_SPEC_ALLOW"], "SCMP_ACT_ERRNO"), FLAG_SPEC_ALLOW);
    assert_eq!(of(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], "SCMP_ACT_ERRNO"), 0);
    assert_eq!(of(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], "SCMP_ACT_NOTIFY"), FLAG_WAIT_KILLABLE_RECV);
}

#[test]
fn unknown_names_are_reported_once_and_foreign_ones_not() {
    let profile = profile(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "raed", "riscv_hwprobe", "set_tls"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["raed"], "action": "SCMP_ACT_LOG"},
        ],
    }));
    assert_eq!(compile_for(Machine::X86_64, &profile).unwrap().unknown, ["raed"]);
}

#[test]
fn senseless_profiles_are_refused_by_name() {
    let bad = [
        (serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "cannot be the default"),
        (serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}), "takes no errnoRet"),
        (serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}), "above 4095"),
        (
            serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}
            ]}),
            "seccomp rule for ioctl: argument index 6",
        ),
    ];
    for (json, part) in bad {
        let err = compile_for(Machine::X86_64, &profile(json)).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage);
        assert!(err.to_string().contains(part), "{err}");
    }
}

#[test]
fn foreign_abis() {
    let with = |action: &str| {
        let profile =
            profile(serde_json::json!({"defaultAction": action, "architectures": ["SCMP_ARCH_X86_64"]}));
        compile_for(Machine::X86_64, &profile).unwrap()
    };
    for (action, foreign) in [("SCMP_ACT_ERRNO", ENOSYS), ("SCMP_ACT_ALLOW", 0), ("SCMP_ACT_KILL_PROCESS", 0)]
    {
        for abi in [Abi::I386, Abi::X32] {
            assert_eq!(answer(&with(action), abi, "read", [0; 6]), foreign, "{action} {abi:?}");
        }
    }
    // A tracer's "no syscall" is nobody's ABI.
    assert_eq!(interpreter::run(&with("SCMP_ACT_ALLOW").program, 0xc000_003e, u32::MAX, [0; 6]), ALLOW);
}

#[test]
fn what_is_newer_than_the_profile_is_not_there_unless_it_may_happen() {
    let refusing = ["ERRNO", "TRAP", "KILL", "KILL_THREAD", "KILL_PROCESS"];
    for action in refusing.into_iter().chain(["TRACE", "LOG", "ALLOW"]) {
        let profile = profile(serde_json::json!({
            "defaultAction": format!("SCMP_ACT_{action}"),
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            // Also those that say what the default says show what the author knew.
            "syscalls": [{"names": ["close_range"], "action": format!("SCMP_ACT_{action}")}],
        }));
        let default = naive::word(profile.default_action(), None);
        let newer = if refusing.contains(&action) { ENOSYS } else { default };
        let compiled = compile_for(Machine::X86_64, &profile).unwrap();
        for abi in [Abi::X86_64, Abi::I386, Abi::X32] {
            for (name, expected) in [("close_range", default), ("read", default), ("openat2", newer)] {
                assert_eq!(answer(&compiled, abi, name, [0; 6]), expected, "{action} {abi:?} {name}");
            }
            for nr in [500, 511, 600, 0x3fff_ffff] {
                let nr = if abi == Abi::X32 { nr | 0x4000_0000 } else { nr };
                let actual = interpreter::run(&compiled.program, abi.audit_arch(), nr, [0; 6]);
                assert_eq!(actual, newer, "{action} {abi:?} {nr:#x}");
            }
        }
        // x32's own block is not newer, nor is a hole in the table of x86-64 where calls die, not fail.
        assert_eq!(answer(&compiled, Abi::X32, "ioctl", [0; 6]), default, "{action}");
        let hole = interpreter::run(&compiled.program, Abi::X86_64.audit_arch(), 400, [0; 6]);
        assert_eq!(hole, if action == "ERRNO" { ENOSYS } else { default }, "{action}");
    }
}

#[test]
fn an_empty_mask_is_no_condition() {
    let profile = profile(serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
            {"names": ["ioctl"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 1, "value": 0xffff_0000_0000_0000u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
            ]},
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO"},
        ],
    }));
    let compiled = compile_for(Machine::X86_64, &profile).unwrap();
    // i386 has no upper half.
    assert_eq!(answer(&compiled, Abi::X86_64, "ioctl", [0; 6]), EPERM);
    assert_eq!(answer(&compiled, Abi::I386, "ioctl", [0; 6]), 0x7ffc_0000);
}

#[test]
fn too_many_conditions_are_an_error_not_a_broken_filter() {
    let rule = |value: u64| {
        serde_json::json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 1, "value": value << 32 | value, "op": "SCMP_CMP_GT"}, {"index": 2, "value": value, "op": "SCMP_CMP_EQ"},
        ]})
    };
    let rules = |count: u64| {
        let rules: Vec<_> = (0..count).map(rule).collect();
        profile(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}))
    };
    let err = compile_for(Machine::X86_64, &rules(2000)).unwrap_err();
    assert!(err.to_string().contains("instructions"), "{err}");

    // Leaves longer than a conditional jump's reach.
    let long = compile_for(Machine::X86_64, &rules(300)).unwrap();
    assert!(long.program.len() > 2000);
    assert_eq!(answer(&long, Abi::X86_64, "ioctl", [0, 299 << 32 | 300, 299, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&long, Abi::X86_64, "ioctl", [0, 299 << 32 | 299, 299, 0, 0, 0]), EPERM);
    assert_eq!(answer(&long, Abi::X86_64, "execve", [0; 6]), ENOSYS);
    assert_eq!(Compiled::from_bytes(&long.to_bytes()).unwrap(), long);
}

#[test]
fn multiplexed_calls_follow_the_direct_ones() {
    let compiled = |default: &str, rules: serde_json::Value| {
        let profile = profile(serde_json::json!({
            "defaultAction": default, "architectures": ["SCMP_ARCH_X86"], "syscalls": rules,
        }));
        compile_for(Machine::X86_64, &profile).unwrap()
    };
    let call =
        |compiled: &Compiled, call: u64| answer(compiled, Abi::I386, "socketcall", [call, 0, 0, 0, 0, 0]);
    let unix = serde_json::json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);

    let plain = compiled(
        "SCMP_ACT_ERRNO",
        serde_json::json!([{"names": ["socket", "shmat"], "action": "SCMP_ACT_ALLOW"}]),
    );
    assert_eq!([call(&plain, 1), call(&plain, 2)], [ALLOW, EPERM]);
    assert_eq!(answer(&plain, Abi::I386, "ipc", [1 << 16 | 21, 0, 0, 0, 0, 0]), ALLOW);

    // i386 has no semop(2) but through ipc(2), which is not newer than a profile that names it.
    let rule = serde_json::json!([{"names": ["getpid", "semop"], "action": "SCMP_ACT_ALLOW"}]);
    let other = [2, 0, 0, 0, 0, 0];
    assert_eq!(answer(&compiled("SCMP_ACT_ERRNO", rule), Abi::I386, "ipc", other), EPERM);

    // A condition that cannot be seen never widens …
    let rule = serde_json::json!([{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": unix}]);
    assert_eq!(call(&compiled("SCMP_ACT_ERRNO", rule), 1), EPERM);
    // … and cannot be walked round.
    let rule = serde_json::json!([{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": unix}]);
    assert_eq!(call(&compiled("SCMP_ACT_ALLOW", rule), 1), EPERM);
}

/// The default capabilities of a container.
fn capabilities() -> HashSet<oci_spec::runtime::Capability> {
    use oci_spec::runtime::Capability as C;
    HashSet::from([
        C::Chown,
        C::DacOverride,
        C::Fowner,
        C::Fsetid,
        C::Kill,
        C::NetBindService,
        C::Setfcap,
        C::Setgid,
        C::Setpcap,
        C::Setuid,
        C::SysChroot,
    ])
}
