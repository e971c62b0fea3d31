//! The compiler against libseccomp, called as runc calls it: random profiles, each asked over numbers, ABIs and
//! arguments, and Docker's own.
//!
//! Ours must answer as runc's filter does (the library's program behind runc's ENOSYS stub), word for word, but
//! for what [`expected`] lists, each with its reason and with what ours must say instead.
//!
//! The library is the judge of what one rule means. Of several rules for one syscall it makes mistakes (see
//! [`Pair::is_mishap`]), so there each rule is compiled alone as well, and they count as the alternatives that they are.

mod random;
mod whole;

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::{TestCaseError, prop_assert_eq};
use tare_sys::seccomp::Filter;

use super::libseccomp::{Library, Request};
use super::runc::{Call, Names};
use super::*;

/// But for plain x86-64 the library (2.5.4) forgets to load the number when the rule that it puts first is for a name that only
/// another ABI has, and then answers for the architecture's number. It puts first what comes last without conditions: in these tests this one, which is real.
const REAL: &str = "exit_group";

const ALL: [Abi; 5] = [Abi::X86_64, Abi::I386, Abi::X32, Abi::Aarch64, Abi::Arm];

/// A profile compiled by both.
struct Pair<'a> {
    machine: Machine,
    profile: &'a LinuxSeccomp,
    names: &'a Names,
    ours: Vec<Filter>,
    theirs: Vec<Filter>,
    /// runc's calls, each with the library's program for it alone where it has conditions.
    calls: Vec<(Call, Vec<Filter>)>,
    /// Names that have a rule which the library did not take beside the others.
    refused: BTreeSet<String>,
    default: u32,
    /// The ABIs that the profile is for.
    listed: Vec<Abi>,
}

impl<'a> Pair<'a> {
    fn compile(
        library: &mut Library,
        names: &'a Names,
        machine: Machine,
        profile: &'a LinuxSeccomp,
        optimize: u32,
    ) -> Option<Pair<'a>> {
        let compiled = compile_for(machine, profile).unwrap();
        assert!(Compiled::from_bytes(&compiled.to_bytes()).is_ok(), "the kernel would not load it");
        let mut listed = vec![machine.main_abi()];
        // The library would take another machine's ABI as well, of which this kernel runs no program.
        listed.extend(profile.architectures().iter().flatten().filter_map(|arch| machine.abi(*arch)));
        let default = naive::word(profile.default_action(), profile.default_errno_ret());
        let calls = runc::calls(profile);
        let request = Request { default, arches: &listed, optimize, calls: &calls };
        let (theirs, refused) = library.compile(&request)?;
        let mut alone = |call: Call| {
            if call.conditions.is_empty() {
                return Some((call, Vec::new()));
            }
            let real = Call { name: REAL.to_owned(), action: call.action, conditions: Vec::new() };
            let calls = &[call.clone(), real];
            let (program, _) = library.compile(&Request { default, arches: &listed, optimize: 1, calls })?;
            Some((call, program))
        };
        let refused = refused.iter().map(|index| calls[*index].name.clone()).collect();
        let calls = calls.into_iter().map(&mut alone).collect::<Option<_>>()?;
        Some(Pair {
            machine,
            profile,
            names,
            ours: compiled.program,
            theirs,
            calls,
            refused,
            default,
            listed,
        })
    }

    /// Asks both; an error where they differ and should not, or do not and should.
    fn check(&self, arch: u32, nr: u32, args: [u64; 6]) -> Result<(), TestCaseError> {
        let ours = interpreter::run(&self.ours, arch, nr, args);
        let theirs = interpreter::run(&self.theirs, arch, nr, args);
        let (expected, why) = expected(self, arch, nr, args, theirs);
        prop_assert_eq!(
            ours,
            expected,
            "{:?} arch {:#x} nr {:#x} ({:?}) args {:x?}: ours {:#x}, libseccomp {:#x}, wanted {:#x} ({})",
            self.machine,
            arch,
            nr,
            self.abi(arch, nr).and_then(|abi| name(abi, nr)),
            args,
            ours,
            theirs,
            expected,
            why
        );
        Ok(())
    }

    /// Whose number is it, if the profile is for that ABI?
    fn abi(&self, arch: u32, nr: u32) -> Option<Abi> {
        let x32 = arch == Abi::X32.audit_arch() && nr >= 0x4000_0000;
        let is = |abi: &&Abi| abi.audit_arch() == arch && (**abi == Abi::X32) == x32;
        self.listed.iter().find(is).copied()
    }

    /// The highest number of this ABI that the profile names, but for numbers outside the table that all ABIs
    /// share: x32's own (512 to 547) and ARM's private calls say nothing of the age of a profile.
    fn newest(&self, abi: Abi) -> Option<u32> {
        let names = self.profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
        let through = |name: &str| {
            multiplexer::call(name)
                .filter(|_| abi == Abi::I386)
                .and_then(|(through, ..)| number(abi, through))
        };
        let numbers = names.flat_map(|name| number(abi, name).into_iter().chain(through(name)));
        numbers.filter(|nr| in_common_table(abi, *nr)).max()
    }
}

fn in_common_table(abi: Abi, nr: u32) -> bool {
    nr - if abi == Abi::X32 { 0x4000_0000 } else { 0 } < 512
}

impl Pair<'_> {
    /// May the library's program answer otherwise than its programs for the rules one by one? So it does
    ///
    /// - where it has refused a rule (then runc would not start the container): one that compares as an earlier one
    ///   does, or begins as that does, and has another action; socket calls with conditions look alike on i386;
    /// - and by mistake (2.5.4), with several rules of which one asks for more or less or unequal. With `>= 1` and
    ///   `< 2^32` of the same argument it goes on, after it has loaded the low half for the one, to compare that as if
    ///   it were the high half for the other; with `a0 != 0` and `a0 != 1 && a1 != 0` one that holds is lost.
    fn is_mishap(&self, abi: Abi, nr: u32) -> bool {
        let here =
            || self.calls.iter().map(|(call, _)| call).filter(|call| number(abi, &call.name) == Some(nr));
        let mut operators = here().flat_map(|call| &call.conditions).map(|(_, operator, ..)| *operator);
        (here().count() > 1 && operators.any(|operator| !operator.ends_with("EQ")))
            || here().any(|call| self.refused.contains(&call.name))
    }
}

/// What ours must answer, given what the library's program does, and why.
fn expected(pair: &Pair<'_>, arch: u32, nr: u32, args: [u64; 6], theirs: u32) -> (u32, &'static str) {
    let with_errno = pair.default & 0xffff_0000 == ERRNO;
    if pair.machine == Machine::X86_64 && arch == Abi::X86_64.audit_arch() && nr == u32::MAX {
        let answer = if with_errno { ENOSYS } else { pair.default };
        return (
            answer,
            "-1 is no ABI's call and no newer one: runc's answer hangs on whether x32 is listed",
        );
    }
    let Some(abi) = pair.abi(arch, nr) else {
        // The library's own action for these is to kill the thread. A 32-bit program that cannot be run on this
        // machine says so, instead of dying by a signal.
        return if with_errno { (ENOSYS, "ENOSYS for foreign ABIs") } else { (theirs, "same: foreign ABI") };
    };
    if abi == Abi::I386 && [102, 117].contains(&nr) {
        return multiplexed(pair, nr, args, theirs);
    }
    let here = || pair.calls.iter().filter(|(call, _)| number(abi, &call.name) == Some(nr));
    if let Some((always, _)) = here().find(|(call, _)| call.asks_nothing(abi)) {
        assert!(
            theirs == always.action || pair.refused.contains(&always.name),
            "libseccomp answers {theirs:#x}"
        );
        return (always.action, "the first rule without conditions beats all others");
    }
    let holds = |program: &[Filter]| interpreter::run(program, arch, nr, args) != pair.default;
    let matching: Vec<u32> = here().filter(|(_, alone)| holds(alone)).map(|(call, _)| call.action).collect();
    if let Some(first) = matching.first() {
        // With different actions the library goes by the order that its tree has fallen into. A profile's author
        // can see the order of the profile, so that counts here.
        assert!(matching.contains(&theirs) || pair.is_mishap(abi, nr), "libseccomp answers {theirs:#x}");
        return (*first, "the first rule that holds");
    }
    if here().count() > 0 {
        assert!(theirs == pair.default || pair.is_mishap(abi, nr), "libseccomp answers {theirs:#x}");
        return (pair.default, "no rule holds");
    }
    with_stub(pair, abi, nr, theirs)
}

/// ENOSYS for what is newer than the profile, for a number that no rule speaks of.
fn with_stub(pair: &Pair<'_>, abi: Abi, nr: u32, theirs: u32) -> (u32, &'static str) {
    let stub = runc::has_stub(pair.default);
    let runcs_newest = pair.names.newest(pair.profile, abi);
    let runcs = if stub && runcs_newest.is_some_and(|newest| nr > newest) { ENOSYS } else { theirs };
    let newest = pair.newest(abi);
    let unassigned = name(abi, nr).is_none();
    if !stub || newest.is_none() {
        assert!(runcs == theirs || newest.is_none());
        (theirs, "no stub")
    } else if unassigned && pair.default & 0xffff_0000 == ERRNO {
        (ENOSYS, "no kernel has it, so its absence is no secret")
    } else if Some(nr) > newest && (unassigned || in_common_table(abi, nr)) {
        assert!(
            runcs == ENOSYS || runcs_newest != newest,
            "runc says the same but for numbers of the ABI's own"
        );
        (ENOSYS, "newer than the profile")
    } else {
        // runc takes i386's socket calls for socketcall(2), 102, and whatever is above that for newer.
        let why = runcs == theirs || runcs_newest != newest || !in_common_table(abi, nr);
        assert!(why, "runc says {runcs:#x}");
        (theirs, "not newer")
    }
}

/// i386's socketcall(2) and ipc(2), through which a program reaches what the profile names otherwise.
///
/// The library mirrors each rule for the call behind, with its condition on the first argument lost and the others
/// compared with what they do not mean. That makes "allow socket(AF_UNIX)" an "allow socketcall(SYS_SOCKET)" for all
/// families. Here a rule with conditions is mirrored only where it is stricter than the default, and then
/// for all arguments. Rules for the multiplexers themselves count as any rule does.
fn multiplexed(pair: &Pair<'_>, nr: u32, args: [u64; 6], theirs: u32) -> (u32, &'static str) {
    let own = ["socketcall", "ipc"];
    let with_conditions =
        |call: &Call| !call.conditions.is_empty() && multiplexer::call(&call.name).is_some();
    if pair.calls.iter().any(|(call, _)| own.contains(&call.name.as_str()))
        || pair.calls.iter().any(|(call, _)| with_conditions(call))
    {
        let naive = naive::evaluate(pair.machine, pair.profile, Abi::I386.audit_arch(), nr, args);
        return (naive, "conditions that cannot be seen");
    }
    let ruled = pair.calls.iter().any(|(call, _)| multiplexer::call(&call.name).is_some());
    if ruled && theirs != pair.default {
        (theirs, "same: multiplexer")
    } else {
        with_stub(pair, Abi::I386, nr, theirs)
    }
}

/// Pseudo-random numbers (xorshift64*): which arguments are asked must hang on the case alone.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % sides
    }
}

/// Arguments around what the conditions of these calls compare with: the values themselves, one to each side, with
/// the halves changed apart, with a bit more or less.
fn arguments(calls: &[&Call], dice: &mut Dice) -> [u64; 6] {
    let mut args = [0; 6];
    for (index, arg) in args.iter_mut().enumerate() {
        let conditions = calls.iter().flat_map(|call| &call.conditions).filter(|(at, ..)| *at == index);
        let mut own: Vec<u64> =
            conditions.flat_map(|(_, _, value, second)| [*value, *second, value & second]).collect();
        own.push(0);
        let value = own[dice.throw(own.len())];
        *arg = match dice.throw(12) {
            0..=3 => value,
            4 => value.wrapping_add(1),
            5 => value.wrapping_sub(1),
            6 => value ^ 1 << dice.throw(64),
            7 => value.wrapping_add(1 << 32),
            8 => value.wrapping_sub(1 << 32),
            9 => value.rotate_left(32),
            10 => value & 0xffff_ffff | (dice.throw(4) as u64) << 32,
            _ => (dice.throw(1 << 31) as u64) << 33 | dice.throw(1 << 31) as u64,
        };
    }
    args
}

/// Every number worth asking: all assigned ones with room above, each ABI's own block, the edges.
fn numbers_to_ask() -> impl Iterator<Item = u32> {
    let edges =
        [548, 1000, 0x0e_ffff, 0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xc000_0001, u32::MAX - 1, u32::MAX];
    (0..480).chain(510..550).chain(0x0f_0000..0x0f_0008).chain(edges)
}

fn check(pair: &Pair<'_>, seed: u64) -> Result<usize, TestCaseError> {
    let mut asked = 0;
    let mut dice = Dice(seed | 1);
    let arches: BTreeSet<u32> = ALL.iter().map(|abi| abi.audit_arch()).chain([0, u32::MAX]).collect();
    for arch in arches {
        let x32 = numbers_to_ask().filter(|nr| *nr < 600 && arch == 0xc000_003e).map(|nr| nr | 0x4000_0000);
        for nr in numbers_to_ask().chain(x32) {
            let abi = pair.abi(arch, nr);
            let is_here = |call: &&Call| abi.is_some_and(|abi| number(abi, &call.name) == Some(nr));
            let here: Vec<&Call> = pair.calls.iter().map(|(call, _)| call).filter(is_here).collect();
            let times = if here.iter().all(|call| call.conditions.is_empty()) { 1 } else { 64 };
            for _ in 0..times {
                let mut args = arguments(&here, &mut dice);
                if abi == Some(Abi::I386) && [102, 117].contains(&nr) {
                    args[0] = dice.throw(27) as u64;
                }
                pair.check(arch, nr, args)?;
                asked += 1;
            }
        }
    }
    Ok(asked)
}

/// Names that both know, with the same numbers.
fn pool(library: &mut Library) -> Vec<String> {
    let all: BTreeSet<&str> =
        ALL.iter().flat_map(|abi| syscalls::numbers(*abi).filter_map(|nr| name(*abi, nr))).collect();
    let mut pool: BTreeSet<&str> = all.clone();
    for abi in ALL {
        let theirs = library.numbers(abi);
        pool.retain(|name| match number(abi, name) {
            Some(number) => theirs.get(&number).is_some_and(|their| their == name),
            None => !theirs.values().any(|their| their == name),
        });
    }
    pool.remove(REAL);
    pool.into_iter().map(str::to_owned).collect()
}
