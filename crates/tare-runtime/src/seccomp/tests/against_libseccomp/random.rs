//! Random profiles: all actions, operators and ABIs, several rules for one syscall, names that an ABI lacks.
//!
//! `TARE_SECCOMP_CASES` is how many of them each test tries (default 256). What fails is printed as the smallest
//! profile that does.

use std::cell::{Cell, RefCell};
use std::fmt;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::TestRunner;

use super::*;

/// A rule of a random profile.
#[derive(Clone, Debug)]
struct Rule {
    names: Vec<String>,
    action: (&'static str, Option<u32>),
    args: Vec<(usize, &'static str, u64, u64)>,
}

/// A random profile, and where the arguments to ask about begin.
#[derive(Clone)]
struct Case {
    default: (&'static str, Option<u32>),
    arches: Vec<&'static str>,
    rules: Vec<Rule>,
    seed: u64,
}

impl Case {
    fn other_action(&self) -> (&'static str, Option<u32>) {
        if self.default.0 == "ALLOW" { ("LOG", None) } else { ("ALLOW", None) }
    }

    fn json(&self) -> serde_json::Value {
        let rule = |rule: &Rule| {
            let args = rule.args.iter().map(|(index, op, value, two)| {
                serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")})
            });
            serde_json::json!({
                "names": rule.names, "action": format!("SCMP_ACT_{}", rule.action.0),
                "errnoRet": rule.action.1, "args": args.collect::<Vec<_>>(),
            })
        };
        serde_json::json!({
            "defaultAction": format!("SCMP_ACT_{}", self.default.0), "defaultErrnoRet": self.default.1,
            "architectures": self.arches.iter().map(|arch| format!("SCMP_ARCH_{arch}")).collect::<Vec<_>>(),
            "syscalls": self.rules.iter().map(rule).collect::<Vec<_>>(),
        })
    }
}

/// What is printed when one fails: a profile to be pasted.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (arguments from {:#x})", self.json(), self.seed)
    }
}

/// Values at which comparisons tip over, in either half.
fn values() -> impl Strategy<Value = u64> {
    let half = || select(vec![0u64, 1, 2, 3, 7, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff]);
    prop_oneof![
        3 => 0..8u64,
        3 => (half(), half()).prop_map(|(high, low)| high << 32 | low),
        1 => any::<u64>(),
        1 => any::<u32>().prop_map(u64::from),
        1 => (0..64u32).prop_map(|bit| 1 << bit),
    ]
}

/// The library takes no 4095, the highest that the kernel has room for (`MAX_ERRNO`); ours does.
fn errnos() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![2 => Just(None), 3 => (0..134u32).prop_map(Some), 1 => select(vec![38, 4094]).prop_map(Some)]
}

fn actions() -> impl Strategy<Value = (&'static str, Option<u32>)> {
    let plain = vec!["ALLOW", "ALLOW", "LOG", "TRAP", "KILL", "KILL_THREAD", "KILL_PROCESS"];
    prop_oneof![
        4 => select(plain).prop_map(|action| (action, None)),
        3 => errnos().prop_map(|errno| ("ERRNO", errno)),
        1 => prop_oneof![Just(None), (0..0x1_0000u32).prop_map(Some)].prop_map(|errno| ("TRACE", errno)),
    ]
}

/// `pool` has all names; a few come often, so that one syscall has several rules.
fn rules(pool: Vec<String>) -> impl Strategy<Value = Vec<Rule>> {
    let few: Vec<String> =
        ["read", "ioctl", "clone", "socket", "personality", "_llseek"].map(str::to_owned).into();
    let names = prop_oneof![4 => subsequence(few, 1..3), 2 => prop::collection::vec(select(pool), 1..6)];
    let actions = prop_oneof![8 => actions(), 1 => Just(("NOTIFY", None))];
    let op = select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ", "MASKED_EQ"]);
    let index = prop_oneof![2 => 0..2usize, 1 => 0..6usize];
    let args = prop::collection::vec((index, op, values(), values()), 0..4);
    let rule = (names, actions, args).prop_map(|(names, action, args)| Rule { names, action, args });
    prop::collection::vec(rule, 0..9)
}

fn profiles(pool: Vec<String>, arches: &[&'static str]) -> impl Strategy<Value = Case> {
    let count = arches.len();
    (actions(), subsequence(arches.to_vec(), 0..=count), rules(pool), any::<u64>().no_shrink())
        .prop_map(|(default, arches, rules, seed)| Case { default, arches, rules, seed })
}

fn random_profiles(machine: Machine, arches: &[&'static str]) {
    let cases =
        std::env::var("TARE_SECCOMP_CASES").ok().map_or(256, |cases| cases.parse().expect("a number"));
    let mut library = Library::start();
    let pool = pool(&mut library);
    assert!(pool.len() > 400, "{}", pool.len());
    let names: Vec<&str> = pool.iter().map(String::as_str).chain([REAL]).collect();
    let names = Names::ask(&mut library, &names);
    let library = RefCell::new(library);
    let (asked, hangs) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&profiles(pool, arches), |case| {
        let mut case = case;
        case.rules.push(Rule { names: vec![REAL.to_owned()], action: case.other_action(), args: vec![] });
        let profile = profile(case.json());
        let Some(pair) = Pair::compile(&mut library.borrow_mut(), &names, machine, &profile, 1) else {
            hangs.set(hangs.get() + 1);
            return Ok(());
        };
        asked.set(asked.get() + check(&pair, case.seed)?);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    println!("{} answers compared; libseccomp hung {} times", asked.get(), hangs.get());
    assert!(hangs.get() <= 2 + cases / 50, "libseccomp hung {} times", hangs.get());
}

#[test]
fn random_profiles_on_x86_64() {
    random_profiles(Machine::X86_64, &["X86_64", "X86", "X32"]);
}

#[test]
fn random_profiles_on_aarch64() {
    random_profiles(Machine::Aarch64, &["AARCH64", "ARM"]);
}
