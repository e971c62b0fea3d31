//! The kernel's part: runs classic BPF over `struct seccomp_data`.

use tare_sys::seccomp::Filter;

/// Runs `program` as the kernel would; panics where the kernel would have refused to load it.
pub fn run(program: &[Filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    count(program, arch, number, args).0
}

/// As [`run`]; says as well how many instructions that took.
pub fn count(program: &[Filter], arch: u32, number: u32, args: [u64; 6]) -> (u32, usize) {
    let data = |offset: u32| match offset {
        0 => number,
        4 => arch,
        8 | 12 => 0,
        16..64 if offset.is_multiple_of(4) => {
            let arg = args[usize::try_from((offset - 16) / 8).unwrap()];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
        _ => panic!("load from {offset}"),
    };
    let mut accumulator = 0;
    let mut at = 0;
    for steps in 1.. {
        let Filter { code, jt, jf, k } = program[at];
        let jump = |taken: bool| usize::from(if taken { jt } else { jf });
        at += 1;
        match code {
            0x20 => accumulator = data(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x45 => at += jump(accumulator & k != 0),
            0x06 => return (k, steps),
            _ => panic!("opcode {code:#x}"),
        }
    }
    unreachable!("jumps lead forward, so a program ends")
}
