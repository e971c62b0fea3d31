//! What is not random: Docker's profile, the tables of numbers, and what a filter costs.

use super::*;

/// Docker's default profile for a container with the default capabilities, on kernels since 4.8: its list of names
/// (`tests/docker.rs`) and its rules with conditions. What is too new for the library is left out, as runc leaves it
/// out; then it is newer than the profile to both.
fn docker(known: &[String]) -> LinuxSeccomp {
    let names = docker::ALLOWED.split_whitespace().filter(|name| known.iter().any(|known| known == name));
    let mut rules = vec![serde_json::json!({"names": names.collect::<Vec<_>>(), "action": "SCMP_ACT_ALLOW"})];
    let mut allow = |name: &str, op: &str, value: u64, two: u64| {
        let args = serde_json::json!([{"index": 0, "value": value, "valueTwo": two, "op": op}]);
        rules.push(serde_json::json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args}));
    };
    allow("socket", "SCMP_CMP_LT", 38, 0);
    allow("socket", "SCMP_CMP_EQ", 39, 0);
    allow("socket", "SCMP_CMP_GT", 40, 0);
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        allow("personality", "SCMP_CMP_EQ", persona, 0);
    }
    allow("clone", "SCMP_CMP_MASKED_EQ", 0x7e02_0000, 0);
    rules.push(serde_json::json!({"names": ["chroot"], "action": "SCMP_ACT_ALLOW"}));
    rules.push(serde_json::json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    rules.push(serde_json::json!({"names": [REAL], "action": "SCMP_ACT_ALLOW"}));
    profile(serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "syscalls": rules,
    }))
}

/// A pair of Docker's profile; `optimize` as in [`Request`].
fn dockers(machine: Machine, optimize: u32, check: impl FnOnce(&Pair<'_>)) {
    let mut library = Library::start();
    let profile = docker(&pool(&mut library));
    let names: Vec<&str> =
        profile.syscalls().iter().flatten().flat_map(|rule| rule.names()).map(String::as_str).collect();
    let names = Names::ask(&mut library, &names);
    check(&Pair::compile(&mut library, &names, machine, &profile, optimize).expect("a program"));
}

#[test]
fn dockers_profile() {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for optimize in [1, 2] {
            dockers(machine, optimize, |pair| {
                for seed in 1..20u64 {
                    let asked = check(pair, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    asked.unwrap_or_else(|err| panic!("{machine:?}: {err}"));
                }
            });
        }
    }
}

/// Each syscall of the container pays for its way through the filter, but for those that the kernel sees to be
/// allowed whatever their arguments (`seccomp_cache_prepare`, Linux 5.11). The measures are the library's tree (2),
/// which runc asks for above 32 rules, and its list (1), which is crun's.
#[test]
fn a_syscall_costs_fewer_instructions_than_in_the_librarys_filters() {
    for (machine, abi, optimize) in [
        (Machine::X86_64, Abi::X86_64, 1),
        (Machine::X86_64, Abi::X86_64, 2),
        (Machine::Aarch64, Abi::Aarch64, 1),
        (Machine::Aarch64, Abi::Aarch64, 2),
    ] {
        dockers(machine, optimize, |pair| {
            let cost = |program: &[Filter], nr| interpreter::count(program, abi.audit_arch(), nr, [0; 6]).1;
            let mut sum = [0, 0];
            for nr in syscalls::numbers(abi) {
                sum = [sum[0] + cost(&pair.ours, nr), sum[1] + cost(&pair.theirs, nr)];
            }
            for name in ["read", "write", "futex", "openat", "clone"] {
                let nr = number(abi, name).expect("everybody has it");
                let [ours, theirs] = [&pair.ours, &pair.theirs].map(|program| cost(program, nr));
                println!("{machine:?} {name}: {ours} instructions, libseccomp ({optimize}) {theirs}");
                assert!(ours <= 14, "{machine:?} {name}: {ours}");
            }
            let len = [pair.ours.len(), pair.theirs.len()];
            println!("{machine:?} all syscalls ({optimize}): {sum:?} instructions, in programs of {len:?}");
            assert!(sum[0] < sum[1], "{machine:?}: {sum:?}");
            assert!(len[0] < len[1], "{machine:?}: {len:?}");
        });
    }
}

/// Not in Debian's library, which knows Linux 6.7 without x86-64's and x32's latest.
fn is_too_new(abi: Abi, number: u32) -> bool {
    let number = number & !0x4000_0000;
    let x86_64 = matches!(abi, Abi::X86_64 | Abi::X32) && [335, 336].contains(&number);
    (457..512).contains(&number) || x86_64 || (abi == Abi::X32 && number == 453)
}

#[test]
fn tables_are_the_librarys() {
    let mut library = Library::start();
    for abi in ALL {
        let theirs = library.numbers(abi);
        for number in syscalls::numbers(abi).filter(|number| !is_too_new(abi, *number)) {
            assert_eq!(theirs.get(&number).map(String::as_str), name(abi, number), "{abi:?} {number:#x}");
        }
        // The library takes x32's names for numbers without the marker bit as well.
        for (nr, name) in theirs.iter().filter(|(nr, _)| abi != Abi::X32 || **nr >= 0x4000_0000) {
            assert_eq!(number(abi, name), Some(*nr), "{abi:?} {name}");
        }
    }
}
