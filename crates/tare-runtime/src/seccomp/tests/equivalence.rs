//! Compiled program against naive evaluation: every number, every ABI, random arguments, random profiles.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::*;

const ARCHES: [(Machine, u32); 6] = [
    (Machine::X86_64, 0xc000_003e),
    (Machine::X86_64, 0x4000_0003),
    (Machine::X86_64, 0xc000_00b7),
    (Machine::Aarch64, 0xc000_00b7),
    (Machine::Aarch64, 0x4000_0028),
    (Machine::Aarch64, 0x4000_0003),
];

/// Every number worth asking: all assigned ones with room above, x32's, ARM's private ones, the edges.
fn numbers_to_ask() -> impl Iterator<Item = u32> {
    let edges = [0x0e_ffff, 0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xc000_0001, u32::MAX - 1, u32::MAX];
    (0..600).chain(0x4000_0000..0x4000_0258).chain(0x0f_0000..0x0f_0008).chain(edges)
}

/// Values at which comparisons tip over.
fn values() -> impl Strategy<Value = u64> {
    let edges =
        vec![0, 1, 2, 3, 5, 6, 17, 31, 38, 40, 0x7e02_0000, 0xffff_fffe, 0xffff_ffff, 1 << 32, (1 << 32) | 6];
    let high = vec![0xffff_ffff_0000_0000, u64::MAX, u64::MAX - 1, 6 << 32, 0x8000_0000_0000_0000];
    prop_oneof![6 => select(edges), 2 => select(high), 1 => any::<u64>()]
}

fn syscall_args() -> impl Strategy<Value = [u64; 6]> {
    prop::array::uniform6(values())
}

/// A profile's own values, one off to each side, and with a bit set above, mixed with `args`.
fn near(profile: &LinuxSeccomp, args: [u64; 6], pick: &[Index; 6]) -> [u64; 6] {
    let conditions = profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    let conditions: Vec<LinuxSeccompArg> = conditions.copied().collect();
    let mut mixed = args;
    for (index, (arg, pick)) in mixed.iter_mut().zip(pick).enumerate() {
        let own: Vec<u64> = conditions
            .iter()
            .filter(|condition| condition.index() == index)
            .flat_map(|condition| [condition.value(), condition.value_two().unwrap_or(7)])
            .flat_map(|value| [value, value.wrapping_add(1), value.wrapping_sub(1), value | 1 << 40])
            .collect();
        if !own.is_empty() && pick.index(3) > 0 {
            *arg = own[pick.index(own.len())];
        }
    }
    mixed
}

fn check(profile: &LinuxSeccomp, args: [u64; 6]) {
    for (machine, arch) in ARCHES {
        let compiled = compile_for(machine, profile).unwrap();
        assert!(Compiled::from_bytes(&compiled.to_bytes()).is_ok(), "the kernel would not load it");
        for nr in numbers_to_ask() {
            let naive = naive::evaluate(machine, profile, arch, nr, args);
            let actual = interpreter::run(&compiled.program, arch, nr, args);
            assert_eq!(actual, naive, "{machine:?} {arch:#x} nr {nr:#x} args {args:x?} in {profile:?}");
        }
    }
}

fn rule() -> impl Strategy<Value = serde_json::Value> {
    let pool = vec![
        "read",
        "write",
        "socket",
        "socketcall",
        "bind",
        "ipc",
        "shmat",
        "semop",
        "clone",
        "clone3",
        "ioctl",
        "personality",
        "setsockopt",
        "getpid",
        "mknod",
        "execve",
        "set_tls",
        "uretprobe",
        "mseal",
        "listns",
        "no_such",
    ];
    let names = subsequence(pool, 1..5);
    let actions = prop_oneof![
        3 => Just(("SCMP_ACT_ALLOW", None)),
        1 => Just(("SCMP_ACT_ERRNO", None)),
        2 => (0..200u32).prop_map(|errno| ("SCMP_ACT_ERRNO", Some(errno))),
        1 => Just(("SCMP_ACT_KILL_PROCESS", None)),
        1 => Just(("SCMP_ACT_NOTIFY", None)),
        1 => Just(("SCMP_ACT_TRAP", None)),
    ];
    let ops = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let arg = (0..6usize, values(), values(), select(ops.to_vec())).prop_map(|(index, value, two, op)| {
        serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")})
    });
    (names, actions, prop::collection::vec(arg, 0..4)).prop_map(|(names, (action, errno), args)| {
        serde_json::json!({"names": names, "action": action, "errnoRet": errno, "args": args})
    })
}

fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
    let arches = vec!["X86_64", "X86", "X32", "AARCH64", "ARM", "S390X"];
    let default = select(vec!["ALLOW", "ERRNO", "KILL", "LOG", "TRACE"]);
    (default, subsequence(arches, 0..6), prop::collection::vec(rule(), 0..12)).prop_map(
        |(default, arches, rules)| {
            let arches: Vec<String> = arches.iter().map(|arch| format!("SCMP_ARCH_{arch}")).collect();
            profile(serde_json::json!({
                "defaultAction": format!("SCMP_ACT_{default}"), "architectures": arches, "syscalls": rules,
            }))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_profiles(profile in profiles(), args in syscall_args(), pick in any::<[Index; 6]>()) {
        check(&profile, near(&profile, args, &pick));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn default_profile(
        args in syscall_args(),
        pick in any::<[Index; 6]>(),
        abi32 in any::<bool>(),
        tcp_ulp in any::<bool>(),
        nested in any::<bool>(),
    ) {
        let options = Options { abi32, tcp_ulp, nested, io_uring: tcp_ulp };
        let profile = super::default_profile(&capabilities(), &options);
        check(&profile, near(&profile, args, &pick));
    }
}

/// Conditions on one argument, crowded: what shares loads and high halves in the program.
fn crowded() -> impl Strategy<Value = (LinuxSeccomp, Vec<u64>)> {
    let value = || {
        let halves = vec![0u64, 1, 5, 6, 7, 0xffff_ffff];
        (select(vec![0u64, 1, 2, 0xffff_ffff]), select(halves)).prop_map(|(high, low)| high << 32 | low)
    };
    let op = select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]);
    let rule = (value(), value(), op, 0..200u32).prop_map(|(value, two, op, errno)| {
        let arg =
            serde_json::json!({"index": 1, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")});
        serde_json::json!({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": [arg]})
    });
    let rules = prop::collection::vec(rule, 1..7).prop_map(|rules| {
        profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": rules,
        }))
    });
    (rules, prop::collection::vec(value(), 24))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conditions_that_share_a_load((profile, values) in crowded()) {
        let compiled = compile_for(Machine::X86_64, &profile).unwrap();
        for value in values {
            for (abi, nr) in [(Abi::X86_64, 16), (Abi::I386, 54)] {
                let args = [0, value, 0, 0, 0, 0];
                let naive = naive::evaluate(Machine::X86_64, &profile, abi.audit_arch(), nr, args);
                let actual = interpreter::run(&compiled.program, abi.audit_arch(), nr, args);
                prop_assert_eq!(actual, naive, "{:?} {:x} in {:?}", abi, value, profile);
            }
        }
    }
}
