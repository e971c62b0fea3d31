//! A compiled profile as bytes, for a cache file.
//!
//! ```text
//! "tareSECC" | version u32 | flags u32 | listener u32 | instructions u32 | unknown u32
//!            | instructions: code u16, jt u8, jf u8, k u32 | unknown names: length u32, UTF-8 | FNV-1a u64
//! ```
//!
//! All little-endian. Reading it checks what the kernel would check, and more: nothing but what the compiler
//! writes is taken. The checksum finds accidents (a torn or mixed-up file), not forgery: the folder that such a
//! file lies in must be as safe as the configuration.

use tare_sys::seccomp::{FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_WAIT_KILLABLE_RECV, Filter, MAX_LEN};
use tare_sys::{Error, Kind, Result};

use super::Compiled;
use super::emit::{AND, JEQ, JGE, JGT, JSET, JUMP, LOAD, RET};

const MAGIC: &[u8; 8] = b"tareSECC";
/// To be raised with the format, and with each change of what the compiler or the tables make of a profile.
const VERSION: u32 = 2;
/// Bounds for reading; a real profile has no unknown names to speak of.
const MAX_UNKNOWN: usize = 4096;
const MAX_NAME: usize = 4096;
/// `sizeof(struct seccomp_data)`.
const DATA: u32 = 64;

impl Compiled {
    /// The form for a cache file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40 + 8 * self.program.len());
        out.extend_from_slice(MAGIC);
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let unknown: Vec<&String> =
            self.unknown.iter().filter(|name| name.len() <= MAX_NAME).take(MAX_UNKNOWN).collect();
        let head = [
            VERSION,
            self.flags,
            u32::from(self.needs_listener),
            count(self.program.len()),
            count(unknown.len()),
        ];
        head.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        for filter in &self.program {
            out.extend_from_slice(&filter.code.to_le_bytes());
            out.extend_from_slice(&[filter.jt, filter.jf]);
            out.extend_from_slice(&filter.k.to_le_bytes());
        }
        for name in unknown {
            out.extend_from_slice(&count(name.len()).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads what [`Compiled::to_bytes`] wrote. [`Kind::Corrupt`] where it is not that, or of another version:
    /// compile afresh then.
    pub fn from_bytes(bytes: &[u8]) -> Result<Compiled> {
        let (bytes, sum) =
            bytes.split_last_chunk::<8>().ok_or_else(|| corrupt("shorter than its checksum"))?;
        if checksum(bytes) != u64::from_le_bytes(*sum) {
            return Err(corrupt("checksum does not match"));
        }
        let mut input = Input(bytes);
        if input.take(MAGIC.len())? != MAGIC {
            return Err(corrupt("does not begin as one"));
        }
        if input.word()? != VERSION {
            return Err(corrupt("of another version"));
        }
        let flags = input.word()?;
        let needs_listener = input.word()? != 0;
        let len = input.count(MAX_LEN)?;
        let names = input.count(MAX_UNKNOWN)?;
        let program = (0..len).map(|_| input.filter()).collect::<Result<Vec<Filter>>>()?;
        let unknown = (0..names).map(|_| input.name()).collect::<Result<Vec<String>>>()?;
        if !input.0.is_empty() {
            return Err(corrupt("goes on after its end"));
        }
        if flags & !(FLAG_LOG | FLAG_SPEC_ALLOW | FLAG_WAIT_KILLABLE_RECV) != 0 {
            return Err(corrupt("has unknown flags"));
        }
        if !is_sound(&program) {
            return Err(corrupt("holds no sound program"));
        }
        Ok(Compiled { program, flags, unknown, needs_listener })
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| corrupt("ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn word(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.chunk()?))
    }

    fn count(&mut self, most: usize) -> Result<usize> {
        let count = usize::try_from(self.word()?).ok().filter(|count| *count <= most);
        count.ok_or_else(|| corrupt("has a count out of bounds"))
    }

    fn filter(&mut self) -> Result<Filter> {
        let [code0, code1, jt, jf, k @ ..] = self.chunk::<8>()?;
        Ok(Filter { code: u16::from_le_bytes([code0, code1]), jt, jf, k: u32::from_le_bytes(k) })
    }

    fn name(&mut self) -> Result<String> {
        let len = self.count(MAX_NAME)?;
        let name =
            std::str::from_utf8(self.take(len)?).map_err(|_| corrupt("has a name that is not UTF-8"))?;
        Ok(name.to_owned())
    }
}

/// Only opcodes of ours, only forward jumps that stay inside, only aligned loads of `seccomp_data`, a `ret` last
/// (what `bpf_check_classic` and `seccomp_check_filter` ask).
fn is_sound(program: &[Filter]) -> bool {
    let fits = |at: usize, skip: u32| {
        usize::try_from(skip).is_ok_and(|skip| at.saturating_add(1).saturating_add(skip) < program.len())
    };
    let sound = |(at, filter): (usize, &Filter)| match filter.code {
        LOAD => filter.k < DATA && filter.k.is_multiple_of(4) && fits(at, 0),
        AND => fits(at, 0),
        JUMP => fits(at, filter.k),
        JEQ | JGT | JGE | JSET => fits(at, filter.jt.into()) && fits(at, filter.jf.into()),
        RET => true,
        _ => false,
    };
    program.last().is_some_and(|last| last.code == RET) && program.iter().enumerate().all(sound)
}

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn corrupt(why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("compiled seccomp profile {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Compiled {
        let ret = |k| Filter { code: RET, jt: 0, jf: 0, k };
        Compiled {
            program: vec![
                Filter { code: LOAD, jt: 0, jf: 0, k: 4 },
                Filter { code: JEQ, jt: 0, jf: 1, k: 7 },
                ret(1),
                ret(2),
            ],
            flags: FLAG_LOG,
            unknown: vec!["frobnicate".to_owned()],
            needs_listener: true,
        }
    }

    #[test]
    fn comes_back_as_it_went() {
        assert_eq!(Compiled::from_bytes(&sample().to_bytes()).unwrap(), sample());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_found() {
        let bytes = sample().to_bytes();
        for len in 0..bytes.len() {
            assert_eq!(Compiled::from_bytes(&bytes[..len]).unwrap_err().kind(), Kind::Corrupt);
        }
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(Compiled::from_bytes(&broken).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn unsound_programs_are_refused_whatever_the_checksum() {
        let bad = [
            Filter { code: JUMP, jt: 0, jf: 0, k: u32::MAX },
            Filter { code: JEQ, jt: 255, jf: 0, k: 0 },
            Filter { code: LOAD, jt: 0, jf: 0, k: 64 },
            Filter { code: LOAD, jt: 0, jf: 0, k: 2 },
            Filter { code: 0x16, jt: 0, jf: 0, k: 0 },
        ];
        for filter in bad {
            let mut compiled = sample();
            compiled.program[0] = filter;
            assert!(Compiled::from_bytes(&compiled.to_bytes()).is_err(), "{filter:?}");
        }
        assert!(Compiled::from_bytes(&Compiled { program: vec![], ..sample() }.to_bytes()).is_err());
    }
}
