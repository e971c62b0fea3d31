//! From the resolved plan to classic BPF: balanced trees over ranges of syscall numbers, argument checks at the
//! leaves.
//!
//! ```text
//!   load arch ─ jeq x86_64 ─▶ load nr ─ tree of jge/jeq ─▶ ret | load argument, compare … ret
//!             └ jeq i386   ─▶ load nr ─ tree …
//!             └ ret foreign
//! ```
//!
//! The program is built backwards, last instruction first: jumps only lead forward, so wherever one is written its
//! targets stand already and distances are known. A conditional jump reaches 255 instructions; for a target
//! further away a stepping stone is put right behind it: the same `ret` again, or an unconditional jump.

use tare_sys::seccomp::{Filter, MAX_LEN};
use tare_sys::{Error, Kind, Result};

use super::rules::{Answer, Check, Op, Plan, Range, Test, Verdict};

// Opcodes, `linux/bpf_common.h`.
pub(crate) const LOAD: u16 = 0x20;
pub(crate) const AND: u16 = 0x54;
pub(crate) const JUMP: u16 = 0x05;
pub(crate) const JEQ: u16 = 0x15;
pub(crate) const JGT: u16 = 0x25;
pub(crate) const JGE: u16 = 0x35;
pub(crate) const JSET: u16 = 0x45;
pub(crate) const RET: u16 = 0x06;

// Offsets in `struct seccomp_data` (`linux/seccomp.h`); both machines are little-endian.
const NR: u32 = 0;
const ARCH: u32 = 4;

fn low_half(arg: u8) -> u32 {
    16 + 8 * u32::from(arg)
}

fn high_half(arg: u8) -> u32 {
    low_half(arg) + 4
}

/// From this distance on a target gets a stepping stone: 255, less the two that one jump may need.
const FAR: usize = 250;
/// So many single numbers are tested one after the other rather than by splitting further.
const SINGLES: usize = 4;

/// Writes the whole program.
pub(crate) fn program(plan: &Plan) -> Result<Vec<Filter>> {
    let mut code = Code { reversed: Vec::with_capacity(512), rets: Vec::new() };
    let mut entries = Vec::new();
    for section in plan.sections.iter().rev() {
        let tree = code.tree(&section.ranges, None, plan.default);
        code.load(NR, tree);
        entries.push((section.audit_arch, code.here()));
    }
    let mut dispatch = Dest::Ret(plan.foreign);
    for (audit_arch, entry) in entries {
        dispatch = code.branch(JEQ, audit_arch, entry, dispatch);
    }
    code.load(ARCH, dispatch);
    let mut program = code.reversed;
    if program.len() > MAX_LEN {
        let what =
            format!("seccomp profile needs {} instructions, the kernel takes {MAX_LEN}", program.len());
        return Err(Error::new(Kind::Usage, what).hint("fewer rules with conditions make it smaller"));
    }
    program.reverse();
    Ok(program)
}

/// Where control goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dest {
    Ret(Verdict),
    /// The instruction at this place of `reversed`.
    At(usize),
}

struct Code {
    /// Last instruction first.
    reversed: Vec<Filter>,
    /// The `ret` written last for each verdict.
    rets: Vec<(Verdict, usize)>,
}

impl Code {
    fn put(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Dest {
        self.reversed.push(Filter { code, jt, jf, k });
        self.here()
    }

    /// The instruction just written.
    fn here(&self) -> Dest {
        Dest::At(self.reversed.len().saturating_sub(1))
    }

    /// How many instructions the next one skips to get to `place`.
    fn distance(&self, place: usize) -> usize {
        self.reversed.len() - 1 - place
    }

    /// A place that a conditional jump can reach from here.
    fn near(&mut self, dest: Dest) -> usize {
        match dest {
            Dest::At(place) if self.distance(place) < FAR => place,
            Dest::At(place) => {
                let skip = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
                self.put(JUMP, 0, 0, skip);
                self.reversed.len() - 1
            }
            Dest::Ret(verdict) => {
                let known = self.rets.iter().position(|(known, _)| *known == verdict);
                let place = known.and_then(|index| self.rets.get(index)).map(|(_, place)| *place);
                if let Some(place) = place.filter(|place| self.distance(*place) < FAR) {
                    return place;
                }
                self.put(RET, 0, 0, verdict.0);
                let place = self.reversed.len() - 1;
                match known.and_then(|index| self.rets.get_mut(index)) {
                    Some(entry) => entry.1 = place,
                    None => self.rets.push((verdict, place)),
                }
                place
            }
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Dest, no: Dest) -> Dest {
        let yes = self.near(yes);
        let no = self.near(no);
        // Both are below FAR + 2, since `near` writes one instruction at most.
        let skip = |place| u8::try_from(self.distance(place)).unwrap_or(u8::MAX);
        let (jt, jf) = (skip(yes), skip(no));
        self.put(code, jt, jf, k)
    }

    /// Makes sure that the instruction just written is `dest`, for one that falls through to it.
    fn follow(&mut self, dest: Dest) {
        match dest {
            Dest::At(place) if place + 1 == self.reversed.len() => {}
            Dest::At(place) => {
                let skip = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
                self.put(JUMP, 0, 0, skip);
            }
            Dest::Ret(verdict) => {
                self.put(RET, 0, 0, verdict.0);
            }
        }
    }

    /// Loads a word of `seccomp_data`, then goes on at `next`.
    fn load(&mut self, offset: u32, next: Dest) -> Dest {
        self.follow(next);
        self.put(LOAD, 0, 0, offset)
    }

    /// Masks the word just loaded, then goes on at `next`.
    fn and(&mut self, mask: u32, next: Dest) -> Dest {
        if mask == u32::MAX {
            return next;
        }
        self.follow(next);
        self.put(AND, 0, 0, mask)
    }

    /// Finds the range that the loaded number is in. `end` is where the last one ends.
    fn tree(&mut self, ranges: &[Range], end: Option<u32>, default: Verdict) -> Dest {
        if let Some((common, singles)) = mostly_one(ranges, end) {
            let mut dest = self.answer(common, default);
            for single in singles.into_iter().rev() {
                let own = self.answer(&single.answer, default);
                dest = self.branch(JEQ, single.first, own, dest);
            }
            return dest;
        }
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let Some(middle) = right.first().map(|range| range.first) else { return Dest::Ret(default) };
        let upper = self.tree(right, end, default);
        let lower = self.tree(left, Some(middle), default);
        self.branch(JGE, middle, upper, lower)
    }

    fn answer(&mut self, answer: &Answer, default: Verdict) -> Dest {
        match answer {
            Answer::Always(verdict) => Dest::Ret(*verdict),
            Answer::Checks { checks, wide } => self.checks(checks, *wide, default),
        }
    }

    /// Tries checks in turn. Neighbours that compare the same bits share the load.
    fn checks(&mut self, checks: &[Check], wide: bool, default: Verdict) -> Dest {
        let mut next = Dest::Ret(default);
        let mut rest = checks;
        while let Some((last, before)) = rest.split_last() {
            let shared = simple(last, wide);
            let alike = before.iter().rev().take_while(|check| {
                shared.is_some()
                    && simple(check, wide).map(|test| test.reads) == shared.map(|test| test.reads)
            });
            let (before, group) = rest.split_at(rest.len() - 1 - alike.count());
            next = match shared {
                Some(shared) if group.len() > 1 => self.group(group, wide, shared.reads, next),
                _ => self.all_of(last, wide, next),
            };
            rest = before;
        }
        next
    }

    /// One check: every test must hold.
    fn all_of(&mut self, check: &Check, wide: bool, fail: Dest) -> Dest {
        check
            .tests
            .iter()
            .rev()
            .fold(Dest::Ret(check.verdict), |held, test| self.test(test, wide, held, fail))
    }

    /// Several checks of one test each on the same bits: loaded once.
    fn group(&mut self, group: &[Check], wide: bool, reads: Reads, fail: Dest) -> Dest {
        let mut next = fail;
        for check in group.iter().rev() {
            if let Some(simple) = simple(check, wide) {
                next = self.compare(simple.op, simple.low, Dest::Ret(check.verdict), next);
            }
        }
        next = self.and(reads.mask, next);
        next = self.load(low_half(reads.arg), next);
        if let Some(high) = reads.high {
            next = self.branch(JEQ, high, next, fail);
            next = self.load(high_half(reads.arg), next);
        }
        next
    }

    /// Compares the loaded word.
    fn compare(&mut self, op: Op, value: u32, yes: Dest, no: Dest) -> Dest {
        match op {
            Op::Equal => self.branch(JEQ, value, yes, no),
            Op::NotEqual => self.branch(JEQ, value, no, yes),
            Op::Greater => self.branch(JGT, value, yes, no),
            Op::GreaterOrEqual => self.branch(JGE, value, yes, no),
            Op::Less => self.branch(JGE, value, no, yes),
            Op::LessOrEqual => self.branch(JGT, value, no, yes),
        }
    }

    /// One test in full: high half, then low half.
    fn test(&mut self, test: &Test, wide: bool, yes: Dest, no: Dest) -> Dest {
        let (mask_high, mask_low) = halves(test.mask);
        let (high, low) = halves(test.value);
        let low = self.low(test, mask_low, low, yes, no);
        if !wide || mask_high == 0 {
            return low;
        }
        let next = match test.op {
            Op::Equal if high == 0 && mask_high != u32::MAX => self.branch(JSET, mask_high, no, low),
            Op::Equal => {
                let compare = self.branch(JEQ, high, low, no);
                self.and(mask_high, compare)
            }
            Op::NotEqual => self.branch(JEQ, high, low, yes),
            Op::Greater | Op::GreaterOrEqual => {
                let same = self.branch(JEQ, high, low, no);
                self.branch(JGT, high, yes, same)
            }
            Op::Less | Op::LessOrEqual => {
                let same = self.branch(JEQ, high, low, yes);
                self.branch(JGT, high, no, same)
            }
        };
        self.load(high_half(test.arg), next)
    }

    fn low(&mut self, test: &Test, mask: u32, value: u32, yes: Dest, no: Dest) -> Dest {
        let next = if test.op == Op::Equal && mask == 0 {
            return yes;
        } else if test.op == Op::Equal && value == 0 && mask != u32::MAX {
            self.branch(JSET, mask, no, yes)
        } else {
            let compare = self.compare(test.op, value, yes, no);
            self.and(mask, compare)
        };
        self.load(low_half(test.arg), next)
    }
}

/// Which bits a test reads, and what the high half must be for it to hold at all.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Reads {
    arg: u8,
    high: Option<u32>,
    mask: u32,
}

/// A test that comes down to one comparison of the low half.
#[derive(Clone, Copy)]
struct Simple {
    reads: Reads,
    op: Op,
    low: u32,
}

fn simple(check: &Check, wide: bool) -> Option<Simple> {
    let [test] = check.tests.as_slice() else { return None };
    let (mask_high, mask) = halves(test.mask);
    let (value_high, low) = halves(test.value);
    let high = match test.op {
        _ if !wide || mask_high == 0 => None,
        Op::Equal if mask_high == u32::MAX => Some(value_high),
        Op::Less | Op::LessOrEqual if value_high == 0 => Some(0),
        _ => return None,
    };
    Some(Simple { reads: Reads { arg: test.arg, high, mask }, op: test.op, low })
}

fn halves(value: u64) -> (u32, u32) {
    // Both casts cut on purpose.
    ((value >> 32) as u32, value as u32)
}

/// Do all ranges answer alike but for a few single numbers? Then these, and the common answer.
fn mostly_one(ranges: &[Range], end: Option<u32>) -> Option<(&Answer, Vec<&Range>)> {
    let ends = ranges.iter().skip(1).map(|range| Some(range.first)).chain([end]);
    let is_single = |range: &Range, end: Option<u32>| {
        end.map_or(range.first == u32::MAX, |end| range.first.checked_add(1) == Some(end))
    };
    let mut common: Option<&Answer> = None;
    let mut singles = Vec::new();
    for (range, end) in ranges.iter().zip(ends) {
        match common {
            Some(answer) if *answer == range.answer => {}
            _ if is_single(range, end) && singles.len() < SINGLES => singles.push(range),
            None => common = Some(&range.answer),
            Some(_) => return None,
        }
    }
    match (common, ranges) {
        (Some(common), _) => Some((common, singles)),
        (None, [only]) => Some((&only.answer, Vec::new())),
        (None, _) => None,
    }
}
