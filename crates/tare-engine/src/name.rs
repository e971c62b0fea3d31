//! Container names: what is allowed, and made-up ones.

use tare_sys::{Error, Kind, Result};

const ADJECTIVES: [&str; 48] = [
    "able", "amber", "bold", "brave", "brisk", "calm", "clear", "clever", "cosy", "deft", "eager", "early",
    "fair", "fleet", "fond", "frank", "gentle", "glad", "golden", "grand", "handy", "happy", "hardy",
    "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "merry", "mild", "neat", "nimble",
    "noble", "patient", "plain", "polite", "quick", "quiet", "ready", "sharp", "silver", "sober", "steady",
    "swift", "warm", "witty",
];

const SURNAMES: [&str; 48] = [
    "allen",
    "babbage",
    "backus",
    "bartik",
    "boole",
    "borg",
    "cerf",
    "clarke",
    "codd",
    "conway",
    "cray",
    "curie",
    "dijkstra",
    "easley",
    "einstein",
    "engelbart",
    "euler",
    "faraday",
    "feinler",
    "galois",
    "gauss",
    "goldberg",
    "hamilton",
    "hamming",
    "hoare",
    "holberton",
    "hopper",
    "jackson",
    "johnson",
    "kay",
    "kernighan",
    "knuth",
    "lamarr",
    "lamport",
    "liskov",
    "lovelace",
    "mccarthy",
    "meitner",
    "mclean",
    "noether",
    "perlman",
    "ritchie",
    "shannon",
    "thompson",
    "torvalds",
    "turing",
    "wilkes",
    "wirth",
];

/// A name made up from random bytes, `steady_lovelace`; `attempt` over 0 adds a number.
pub fn make_up(random: [u8; 4], attempt: u32) -> String {
    let adjective = ADJECTIVES[usize::from(random[0]) % ADJECTIVES.len()];
    let surname = SURNAMES[usize::from(random[1]) % SURNAMES.len()];
    match attempt {
        0 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{}", u16::from_le_bytes([random[2], random[3]]) % 1000),
    }
}

/// Checks a name that somebody chose: Docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn check(name: &str) -> Result<()> {
    let good = name.len() > 1
        && name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if good {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("{name:?} is not a name for a container"))
        .hint("use two to 128 letters, digits, '_', '.' and '-', beginning with a letter or digit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_good_names() {
        for n in 0..=255u8 {
            assert!(check(&make_up([n, n.wrapping_mul(7), n, n], u32::from(n % 2))).is_ok());
        }
    }

    #[test]
    fn bad_names() {
        for bad in ["", "a", "-a", ".x", "a/b", "a b", "ä1", "a\n", "../x"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
