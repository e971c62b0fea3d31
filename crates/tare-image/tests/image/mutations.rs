//! The fuzz targets (`fuzz/`) on a few thousand inputs, with the compiler that everybody has. `TARE_SOAK_RUNS` says how
//! many for each target; `cargo xtask soak fuzz` uses libFuzzer where it is installed, and this where it is not.

#[path = "../../../../fuzz/src/harness.rs"]
mod harness;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Numbers that differ from run to run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % limit.max(1)
    }

    /// A few changes of the kinds that break parsers.
    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        const TOKENS: [&[u8]; 12] = [
            b"..",
            b"/",
            b"\0",
            b".wh.",
            b".wh..wh..opq",
            b"18446744073709551615",
            b"-1",
            b"\"",
            b"{",
            b"[",
            b"\xff",
            b"\n",
        ];
        for _ in 0..=self.below(4) {
            if input.is_empty() {
                return;
            }
            let at = self.below(input.len());
            match self.below(8) {
                0 => input[at] ^= 1 << self.below(8),
                1 => input[at] = self.0 as u8,
                2 => {
                    let end = (at + 1 + self.below(600)).min(input.len());
                    input.drain(at..end);
                }
                3 => {
                    let token = TOKENS[self.below(TOKENS.len())];
                    let end = (at + token.len()).min(input.len());
                    input[at..end].copy_from_slice(&token[..end - at]);
                }
                4 => {
                    let token = TOKENS[self.below(TOKENS.len())];
                    input.splice(at..at, token.iter().copied());
                }
                // Whole blocks: entries change their places, or come twice.
                5 => {
                    let from = self.below(input.len()) / 512 * 512;
                    let block = input[from..(from + 512).min(input.len())].to_vec();
                    let to = at / 512 * 512;
                    input.splice(to..to, block);
                }
                6 => {
                    let to = at / 512 * 512;
                    input.splice(to..to, other.iter().copied().take(1536));
                }
                _ => input.truncate(at),
            }
        }
    }
}

#[test]
#[ignore = "a part of `cargo xtask soak fuzz`"]
fn inputs_to_begin_from_are_written() {
    let corpus =
        std::path::PathBuf::from(std::env::var("TARE_FUZZ_CORPUS").expect("TARE_FUZZ_CORPUS names a folder"));
    for (name, _, seeds) in harness::TARGETS {
        let folder = corpus.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (number, seed) in seeds().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).expect("a file");
        }
    }
}

#[test]
fn whatever_strangers_send_is_taken_or_refused() {
    let soak = std::env::var("TARE_SOAK_RUNS").ok().and_then(|runs| runs.parse().ok());
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64) | 1;
    println!("chance: {seed}");
    let mut chance = Chance(seed);
    for (name, target, seeds) in harness::TARGETS {
        let seeds = seeds();
        seeds.iter().for_each(|seed| target(seed));
        target(b"");
        // Seconds in CI, whatever the machine.
        let (start, runs) = (Instant::now(), soak.unwrap_or(2000));
        let mut done = 0;
        while done < runs && (soak.is_some() || start.elapsed() < Duration::from_secs(2)) {
            let mut input = seeds[chance.below(seeds.len())].clone();
            let other = seeds[chance.below(seeds.len())].clone();
            chance.mutate(&mut input, &other);
            let result = std::panic::catch_unwind(|| target(&input));
            if let Err(panic) = result {
                let file = std::env::temp_dir().join(format!("tare-fuzz-{name}-{seed}-{done}"));
                std::fs::write(&file, &input).expect("keeping the input");
                eprintln!("{name}: the input is in {}", file.display());
                std::panic::resume_unwind(panic);
            }
            done += 1;
        }
        println!("{name}: {done} inputs");
    }
}
