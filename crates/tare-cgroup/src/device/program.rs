//! The BPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`) that enforces device rules on cgroup v2.
//!
//! The kernel calls it with `struct bpf_cgroup_dev_ctx` in r1: `u32 access_type` (access bits << 16 | sort),
//! `u32 major`, `u32 minor`; r0 = 1 allows. The rules are walked from the last to the first, and r2 holds the
//! access bits that are still undecided: an allowing rule takes its bits out of it, a denying rule ends the
//! walk if it has one of them. Source: bpf(2), Documentation/bpf/standardization/instruction-set.rst.

use super::{ALL, Rule};

/// r2: undecided access bits; r3: sort; r4: major; r5: minor.
const R0: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const SORT: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Opcodes: class | operation | source. JMP32 compares 32 bits, so that a number above 2^31 is not taken for a
// negative one and widened.
const LOAD_W: u8 = 0x61;
const MOV64_K: u8 = 0xb7;
const MOV64_X: u8 = 0xbf;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const JNE32_K: u8 = 0x56;
const JSET32_K: u8 = 0x46;
const JA: u8 = 0x05;
const EXIT: u8 = 0x95;

/// One `struct bpf_insn`.
#[derive(Clone, Copy, Debug)]
struct Insn {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: u32,
}

impl Insn {
    /// The eight bytes in memory order; the two registers share a byte, in the order of the machine's bits.
    fn word(self) -> u64 {
        let registers =
            if cfg!(target_endian = "little") { self.from << 4 | self.to } else { self.to << 4 | self.from };
        let [a, b] = self.offset.to_ne_bytes();
        let [c, d, e, f] = self.value.to_ne_bytes();
        u64::from_ne_bytes([self.code, registers, a, b, c, d, e, f])
    }
}

#[derive(Default)]
struct Assembler {
    code: Vec<Insn>,
    /// Jumps that go to the end of the rule, once it is known.
    to_next: Vec<usize>,
}

impl Assembler {
    fn emit(&mut self, code: u8, to: u8, from: u8, offset: i16, value: u32) {
        self.code.push(Insn { code, to, from, offset, value });
    }

    fn jump_to_next(&mut self, code: u8, register: u8, value: u32) {
        self.to_next.push(self.code.len());
        self.emit(code, register, 0, 0, value);
    }

    fn end_of_rule(&mut self) {
        for at in self.to_next.drain(..) {
            // A rule has at most eleven instructions.
            self.code[at].offset = (self.code.len() - at - 1) as i16;
        }
    }

    fn answer(&mut self, allow: bool) {
        self.emit(MOV64_K, R0, 0, 0, u32::from(allow));
        self.emit(EXIT, 0, 0, 0, 0);
    }

    /// Loads again what the rule has compared. The values are the same, but the verifier forgets that it knows
    /// them; else it would walk the rest of the program once for each rule that matched in part, and refuse
    /// a program of 700 rules as too long.
    fn forget(&mut self, rule: &Rule) {
        if rule.sort.is_some() {
            self.emit(LOAD_W, SORT, CONTEXT, 0, 0);
            self.emit(AND32_K, SORT, 0, 0, 0xffff);
        }
        if rule.major.is_some() {
            self.emit(LOAD_W, MAJOR, CONTEXT, 4, 0);
        }
        if rule.minor.is_some() {
            self.emit(LOAD_W, MINOR, CONTEXT, 8, 0);
        }
    }

    fn rule(&mut self, rule: &Rule) {
        if let Some(sort) = rule.sort {
            self.jump_to_next(JNE32_K, SORT, sort as u32);
        }
        if let Some(major) = rule.major {
            self.jump_to_next(JNE32_K, MAJOR, major);
        }
        if let Some(minor) = rule.minor {
            self.jump_to_next(JNE32_K, MINOR, minor);
        }
        match (rule.allow, rule.access) {
            (allow, ALL) => self.answer(allow),
            (true, access) => {
                self.emit(AND32_K, ACCESS, 0, 0, u32::from(!access & ALL));
                self.emit(JNE32_K, ACCESS, 0, 2, 0);
                self.answer(true);
                self.forget(rule);
            }
            (false, access) => {
                self.emit(JSET32_K, ACCESS, 0, 1, u32::from(access));
                self.emit(JA, 0, 0, 2, 0);
                self.answer(false);
                self.forget(rule);
            }
        }
        self.end_of_rule();
    }
}

/// The program for `rules`, as the words that `tare_sys::bpf::prog_load` takes.
pub(crate) fn program(rules: &[Rule]) -> Vec<u64> {
    let mut asm = Assembler::default();
    asm.emit(LOAD_W, ACCESS, CONTEXT, 0, 0);
    asm.emit(MOV64_X, SORT, ACCESS, 0, 0);
    asm.emit(AND32_K, SORT, 0, 0, 0xffff);
    asm.emit(RSH32_K, ACCESS, 0, 0, 16);
    asm.emit(LOAD_W, MAJOR, CONTEXT, 4, 0);
    asm.emit(LOAD_W, MINOR, CONTEXT, 8, 0);
    // What stands before a total rule can never be reached, and the verifier refuses unreachable code.
    let mut ended = false;
    for rule in rules.iter().rev() {
        asm.rule(rule);
        if rule.is_total() {
            ended = true;
            break;
        }
    }
    if !ended {
        asm.answer(false);
    }
    asm.code.into_iter().map(Insn::word).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decide, every_request, rule_lists};
    use super::super::{Sort, WRITE};
    use super::*;

    /// Runs a program over one request, knowing only the instructions used above.
    fn run(program: &[u64], sort: Sort, major: u32, minor: u32, access: u8) -> bool {
        let context = [u32::from(access) << 16 | sort as u32, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        for _ in 0..10_000 {
            let [code, both, a, b, c, d, e, f] = program[at].to_ne_bytes();
            let (to, from) = ((both & 15) as usize, (both >> 4) as usize);
            let offset = i16::from_ne_bytes([a, b]);
            let value = u32::from_ne_bytes([c, d, e, f]);
            let low = registers[to] as u32;
            let mut jump = false;
            match code {
                LOAD_W => registers[to] = u64::from(context[offset as usize / 4]),
                MOV64_K => registers[to] = i64::from(value as i32) as u64,
                MOV64_X => registers[to] = registers[from],
                AND32_K => registers[to] = u64::from(low & value),
                RSH32_K => registers[to] = u64::from(low >> value),
                JNE32_K => jump = low != value,
                JSET32_K => jump = low & value != 0,
                JA => jump = true,
                EXIT => return registers[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
            at += 1;
            if jump {
                at = at.checked_add_signed(isize::from(offset)).unwrap();
            }
        }
        panic!("the program does not end");
    }

    #[test]
    fn decides_as_the_rules_say_for_every_request() {
        for rules in rule_lists() {
            let program = program(&rules);
            for (sort, major, minor, access) in every_request() {
                assert_eq!(
                    run(&program, sort, major, minor, access),
                    decide(&rules, sort, major, minor, access),
                    "{rules:?}: {sort:?} {major}:{minor} {access}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_reached_behind_a_total_rule() {
        let total = Rule { allow: false, sort: None, major: None, minor: None, access: ALL };
        let narrow = Rule { allow: true, sort: None, major: Some(1), minor: None, access: WRITE };
        assert_eq!(program(&[narrow, narrow, total]), program(&[total]));
    }
}
