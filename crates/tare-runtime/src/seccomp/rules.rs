//! From a profile's words to what each syscall number gets: the semantics, before any BPF.
//!
//! They are runc's and libseccomp's (`libcontainer/seccomp/seccomp_linux.go`, seccomp_rule_add(3)), observed
//! and tested against the library:
//!
//! - Rules of one syscall are alternatives. One without conditions beats all with conditions, wherever it
//!   stands; of several without, the first counts.
//! - Conditions of one rule must all hold, unless two speak of the same argument: then each is a rule of its own.
//! - A rule whose action is the default action is passed over.
//! - 32-bit ABIs compare the low halves of both sides.
//! - Where two conditional rules with different actions both match, the first in the profile counts (libseccomp
//!   goes by its own sorting there).
//!
//! And runc's answer for a syscall newer than the profile (`patchbpf/enosys_linux.go`): where the default refuses
//! (errno, trap, kill), every number above the newest that the profile names for the ABI gets ENOSYS, so that libc
//! falls back instead of reporting a refusal, or dying. Numbers of an ABI's own block (x32's 512 to 547, ARM's private
//! calls) say nothing of the profile's age and do not count, which in runc they do.
//!
//! Where we differ from both on purpose (`tests/against_libseccomp.rs` holds us to exactly this):
//!
//! - With an errno as default, ENOSYS as well for numbers below the newest that no kernel has assigned, and for ABIs
//!   that the profile does not list: there the library kills the thread, and a 32-bit program dies by a signal
//!   that says nothing. No kernel code is reached either way.
//! - A rule that repeats the conditions of an earlier one with another action is passed over; the library refuses
//!   it, and runc does not start.
//! - ABIs that this machine has no programs for are passed over; the library refuses those of other endianness.
//! - Conditions of rules for socket calls do not leak into i386's socketcall(2): see [`multiplexed`].

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use tare_sys::{Error, Kind, Result};

use super::abi::{Abi, Machine, X32_BIT};
use super::{multiplexer, syscalls};

/// What the filter answers: a `SECCOMP_RET_*` word with its data (`linux/seccomp.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict(pub(crate) u32);

impl Verdict {
    pub(crate) const KILL_THREAD: Verdict = Verdict(0);
    pub(crate) const ENOSYS: Verdict = Verdict(RET_ERRNO | 38);

    pub(crate) fn notifies(self) -> bool {
        self.0 & ACTION == RET_USER_NOTIF
    }

    /// Does the call not happen? Not so where a listener or tracer may let it happen.
    fn refuses(self) -> bool {
        self.is_stricter_than(Verdict(RET_USER_NOTIF))
    }

    fn is_errno(self) -> bool {
        self.0 & ACTION == RET_ERRNO
    }

    /// The kernel's order: of two actions the lower, taken as signed, wins (seccomp(2)).
    fn is_stricter_than(self, other: Verdict) -> bool {
        (self.0 & ACTION).cast_signed() < (other.0 & ACTION).cast_signed()
    }
}

/// `SECCOMP_RET_ACTION_FULL`.
const ACTION: u32 = 0xffff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const EPERM: u32 = 1;
/// The kernel cuts larger ones (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// `argument & mask  op  value`; the mask is all ones but for MASKED_EQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) arg: u8,
    pub(crate) op: Op,
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

impl Test {
    /// Is the mask empty, at least in the half that a 32-bit ABI compares? To the library, too, that is no condition.
    fn asks_nothing(self, wide: bool) -> bool {
        let seen = if wide { u64::MAX } else { u64::from(u32::MAX) };
        self.op == Op::Equal && self.mask & seen == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// If all tests hold, the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) tests: Vec<Test>,
    pub(crate) verdict: Verdict,
}

/// What a syscall number gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Always(Verdict),
    /// The first check that matches; the profile's default where none does.
    Checks {
        checks: Vec<Check>,
        wide: bool,
    },
}

/// From this syscall number to the next range's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u32,
    pub(crate) answer: Answer,
}

/// All numbers of one `seccomp_data.arch`, in order, without gaps, beginning at 0.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) audit_arch: u32,
    pub(crate) ranges: Vec<Range>,
}

/// The whole profile, resolved.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The machine's own ABI first.
    pub(crate) sections: Vec<Section>,
    pub(crate) default: Verdict,
    /// For an ABI that the profile does not list.
    pub(crate) foreign: Verdict,
    pub(crate) unknown: Vec<String>,
}

/// A name's rule under one ABI.
struct Entry {
    number: u32,
    /// Index into `checks`.
    check: usize,
    /// Set where the number is an i386 multiplexer's: only for this call of it.
    call: Option<Test>,
}

/// Resolves names, expands conditions, settles which rule counts for which number.
pub(crate) fn plan(machine: Machine, profile: &LinuxSeccomp) -> Result<Plan> {
    let default = verdict(profile.default_action(), profile.default_errno_ret())
        .map_err(|err| err.context("seccomp default action"))?;
    if default.notifies() {
        // As runc: with every syscall waiting for an answer nobody could hand over the listener.
        return Err(usage("seccomp default action: SCMP_ACT_NOTIFY cannot be the default".to_owned()));
    }
    let foreign = if default.is_errno() { Verdict::ENOSYS } else { Verdict::KILL_THREAD };

    let abis = abis(machine, profile);
    let mut entries: Vec<Vec<Entry>> = abis.iter().map(|_| Vec::with_capacity(512)).collect();
    let mut newest: Vec<Option<u32>> = vec![None; abis.len()];
    let mut checks = Vec::new();
    let mut unknown = Vec::new();
    for syscall in profile.syscalls().iter().flatten() {
        let verdict = verdict(syscall.action(), syscall.errno_ret()).map_err(|err| in_rule(err, syscall))?;
        let first = checks.len();
        if verdict != default {
            expand(syscall, verdict, &mut checks).map_err(|err| in_rule(err, syscall))?;
        }
        for name in syscall.names() {
            let Some(row) = syscalls::row(name) else {
                if !syscalls::known_anywhere(name) && !unknown.contains(name) {
                    unknown.push(name.clone());
                }
                continue;
            };
            for ((abi, entries), newest) in abis.iter().zip(&mut entries).zip(&mut newest) {
                if let Some(number) = row.number(*abi) {
                    entries.extend((first..checks.len()).map(|check| Entry { number, check, call: None }));
                    if in_common_range(*abi, number) {
                        *newest = (*newest).max(Some(number));
                    }
                }
                if *abi == Abi::I386
                    && let Some(number) = multiplexed(name, &checks, first, default, entries)
                {
                    *newest = (*newest).max(Some(number));
                }
            }
        }
    }

    let mut sections: Vec<Section> = Vec::with_capacity(2);
    for ((abi, mut entries), newest) in abis.iter().zip(entries).zip(newest) {
        entries.sort_by_key(|entry| (entry.number, entry.check));
        let ranges = ranges(*abi, &entries, &checks, default, newest);
        match sections.iter_mut().find(|section| section.audit_arch == abi.audit_arch()) {
            Some(section) => section.ranges.extend(ranges),
            None => sections.push(Section { audit_arch: abi.audit_arch(), ranges }),
        }
    }
    if machine == Machine::X86_64
        && let Some(section) = sections.first_mut()
    {
        close_x32(section, abis.contains(&Abi::X32), default, foreign);
    }
    sections.iter_mut().for_each(|section| merge(&mut section.ranges));
    Ok(Plan { sections, default, foreign, unknown })
}

/// The ABIs to write sections for: the machine's own first, x32 next to it, each once.
fn abis(machine: Machine, profile: &LinuxSeccomp) -> Vec<Abi> {
    let mut abis = vec![machine.main_abi()];
    for arch in profile.architectures().iter().flatten() {
        if let Some(abi) = machine.abi(*arch)
            && !abis.contains(&abi)
        {
            abis.push(abi);
        }
    }
    abis
}

/// One action of the profile as the kernel's return word.
pub(crate) fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Verdict> {
    let takes_errno = match action {
        LinuxSeccompAction::ScmpActErrno => Some((RET_ERRNO, MAX_ERRNO)),
        LinuxSeccompAction::ScmpActTrace => Some((RET_TRACE, 0xffff)),
        _ => None,
    };
    match (takes_errno, errno) {
        (Some((word, _)), None) => Ok(Verdict(word | EPERM)),
        (Some((word, most)), Some(errno)) if errno <= most => Ok(Verdict(word | errno)),
        (Some((_, most)), Some(errno)) => Err(usage(format!("errnoRet {errno} is above {most}"))),
        // The specification: an error where the action has no use for it.
        (None, Some(errno)) => Err(usage(format!("{action} takes no errnoRet (given: {errno})"))),
        (None, None) => Ok(Verdict(match action {
            LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
            LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
            LinuxSeccompAction::ScmpActNotify => RET_USER_NOTIF,
            LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
            LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
            // SCMP_ACT_KILL is the old name of KILL_THREAD.
            _ => Verdict::KILL_THREAD.0,
        })),
    }
}

/// A rule's conditions as checks: one, or one for each condition where an argument comes twice.
fn expand(syscall: &LinuxSyscall, verdict: Verdict, checks: &mut Vec<Check>) -> Result<()> {
    let args = syscall.args().as_deref().unwrap_or_default();
    let tests = args.iter().map(test).collect::<Result<Vec<Test>>>()?;
    let mut seen = 0u8;
    let mut twice = false;
    for test in &tests {
        twice |= seen & (1 << test.arg) != 0;
        seen |= 1 << test.arg;
    }
    if twice {
        checks.extend(tests.into_iter().map(|test| Check { tests: vec![test], verdict }));
    } else {
        checks.push(Check { tests, verdict });
    }
    Ok(())
}

fn test(arg: &LinuxSeccompArg) -> Result<Test> {
    let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
    let Some(index) = index else {
        return Err(usage(format!("argument index {} (a syscall has 0 to 5)", arg.index())));
    };
    let op = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq | LinuxSeccompOperator::ScmpCmpMaskedEq => Op::Equal,
        LinuxSeccompOperator::ScmpCmpNe => Op::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => Op::Less,
        LinuxSeccompOperator::ScmpCmpLe => Op::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpGt => Op::Greater,
        LinuxSeccompOperator::ScmpCmpGe => Op::GreaterOrEqual,
    };
    // MASKED_EQ: `value` is the mask, `valueTwo` what must be left, compared under the mask as well.
    let (mask, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0) & arg.value()),
        _ => (u64::MAX, arg.value()),
    };
    Ok(Test { arg: index, op, mask, value })
}

/// What a rule for `name` means for socketcall(2) and ipc(2), through which i386 reaches the same code.
///
/// libseccomp mirrors each rule and loses the condition on the first argument, for the real arguments lie behind
/// a pointer. That would widen a conditional "allow", so here only an unconditional rule is mirrored, or one that
/// is stricter than the default: never wider than the profile, and no way round it.
///
/// Answers with the multiplexer's number: whoever names a call knows the way to it, and for some there is no other.
fn multiplexed(
    name: &str,
    checks: &[Check],
    first: usize,
    default: Verdict,
    entries: &mut Vec<Entry>,
) -> Option<u32> {
    let (through, mask, call) = multiplexer::call(name)?;
    let number = syscalls::number(Abi::I386, through)?;
    for (check, rule) in checks.iter().enumerate().skip(first) {
        if rule.tests.is_empty() || rule.verdict.is_stricter_than(default) {
            entries.push(Entry {
                number,
                check,
                call: Some(Test { arg: 0, op: Op::Equal, mask, value: call }),
            });
        }
    }
    Some(number)
}

/// The numbers that grow with each kernel: not x32's own block (512 to 547), not ARM's private calls.
fn in_common_range(abi: Abi, number: u32) -> bool {
    number - abi.base() < 512
}

/// One ABI's numbers, from its base upward; `entries` are sorted by number and profile order.
fn ranges(
    abi: Abi,
    entries: &[Entry],
    checks: &[Check],
    default: Verdict,
    newest: Option<u32>,
) -> Vec<Range> {
    let mut assigned: Vec<u32> = syscalls::numbers(abi).collect();
    assigned.sort_unstable();
    assigned.dedup();
    let instead = |applies: bool| if applies && newest.is_some() { Verdict::ENOSYS } else { default };
    let (unassigned, newer) = (instead(default.is_errno()), instead(default.refuses()));
    let mut gap = unassigned;
    let mut ranges = vec![Range { first: abi.base(), answer: Answer::Always(gap) }];
    let mut entries = entries;
    for number in assigned {
        let own = entries.iter().take_while(|entry| entry.number == number).count();
        let (here, rest) = entries.split_at(own);
        entries = rest;
        let is_newer = in_common_range(abi, number) && Some(number) > newest;
        if Some(number) >= newest {
            gap = newer;
        }
        let answer = if here.is_empty() {
            Answer::Always(if is_newer { newer } else { default })
        } else {
            answer(abi, here, checks)
        };
        push(&mut ranges, number, answer);
        push(&mut ranges, number + 1, Answer::Always(gap));
    }
    ranges
}

/// Adds a range; an empty one before it goes, and one that continues its neighbour is not needed.
fn push(ranges: &mut Vec<Range>, first: u32, answer: Answer) {
    if ranges.last().is_some_and(|last| last.first == first) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.answer != answer || !matches!(answer, Answer::Always(_))) {
        ranges.push(Range { first, answer });
    }
}

/// Which of a number's rules count.
fn answer(abi: Abi, entries: &[Entry], checks: &[Check]) -> Answer {
    let rules = || entries.iter().filter_map(|entry| Some((entry, checks.get(entry.check)?)));
    let asks_nothing = |check: &Check| check.tests.iter().all(|test| test.asks_nothing(abi.wide()));
    let unconditional = rules().find(|(entry, check)| entry.call.is_none() && asks_nothing(check));
    if let Some((_, check)) = unconditional {
        return Answer::Always(check.verdict);
    }
    let checks = rules().map(|(entry, check)| match entry.call {
        None => check.clone(),
        Some(call) => Check { tests: vec![call], verdict: check.verdict },
    });
    Answer::Checks { checks: checks.collect(), wide: abi.wide() }
}

/// What x86-64's section says of numbers with x32's marker bit where x32 is not listed, and of -1.
///
/// -1 is how a tracer says "no syscall at all": no ABI's, so never foreign (seccomp_filter.rst).
fn close_x32(section: &mut Section, listed: bool, default: Verdict, foreign: Verdict) {
    if !listed {
        section.ranges.push(Range { first: X32_BIT, answer: Answer::Always(foreign) });
    }
    let nothing = if default.is_errno() { Verdict::ENOSYS } else { default };
    section.ranges.push(Range { first: u32::MAX, answer: Answer::Always(nothing) });
}

/// Joins neighbours that answer alike.
fn merge(ranges: &mut Vec<Range>) {
    ranges.dedup_by(|later, earlier| {
        later.answer == earlier.answer && matches!(later.answer, Answer::Always(_))
    });
}

fn usage(what: String) -> Error {
    Error::new(Kind::Usage, what)
}

fn in_rule(err: Error, syscall: &LinuxSyscall) -> Error {
    let first = syscall.names().first().map_or("", String::as_str);
    err.context(format!("seccomp rule for {first}"))
}
