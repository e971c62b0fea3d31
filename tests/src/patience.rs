//! How long a test waits: longer on a machine that is slow and says so.
//!
//! An emulated machine takes many times as long for everything. Time limits are there to end what hangs, so
//! stretching them makes no test weaker.

use std::sync::OnceLock;
use std::time::Duration;

/// The variable that tells by how much; `cargo xtask vm` sets it in its guests.
pub const SLOWNESS: &str = "TARE_TEST_SLOWNESS";

/// A time limit that fits a quick machine, stretched for this one.
pub fn stretched(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| match std::env::var(SLOWNESS) {
        Ok(text) => {
            factor(&text).unwrap_or_else(|| panic!("{SLOWNESS}={text:?} is no number from 1 to 1000"))
        }
        Err(_) => 1,
    });
    limit * *factor
}

fn factor(text: &str) -> Option<u32> {
    text.parse().ok().filter(|factor| (1..=1000).contains(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_a_whole_number_that_makes_no_limit_shorter() {
        assert_eq!(factor("20"), Some(20));
        assert_eq!(factor("0"), None);
        assert_eq!(factor("fast"), None);
    }
}
