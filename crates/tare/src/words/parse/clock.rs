//! `--time-offset boottime=+3d,monotonic=-2h30m`.

use super::{Parsed, Scaled, scaled};

/// Units and their nanoseconds; longer names before those they begin with, so that `ms` is not `m`.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Offsets in nanoseconds of the clocks that were named.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub monotonic: Option<i64>,
    pub boottime: Option<i64>,
}

/// Offsets of the clocks named in a comma-separated list.
pub fn offsets(text: &str) -> Parsed<Offsets> {
    let mut offsets = Offsets::default();
    for part in text.split(',') {
        let (clock, offset) = part.split_once('=').ok_or_else(|| format!("{part:?} is not CLOCK=OFFSET"))?;
        match clock {
            "monotonic" => offsets.monotonic = Some(duration(offset)?),
            "boottime" => offsets.boottime = Some(duration(offset)?),
            "realtime" => {
                return Err("the wall clock has no namespace: all containers share the host's".to_owned());
            }
            _ => return Err(format!("{clock:?} is not a clock: there are monotonic and boottime")),
        }
    }
    Ok(offsets)
}

/// A length of time in nanoseconds: `+3d`, `-2h30m`, `1.5s`, `0`.
pub fn duration(text: &str) -> Parsed<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let wrong = || format!("{text:?} is not a length of time: numbers with ns, us, ms, s, m, h or d");
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(split);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(wrong)?;
        let Scaled { value, .. } = scaled(number, *factor).ok_or_else(wrong)??;
        total = total.checked_add(value).ok_or("it is too large")?;
        rest = &tail[unit.len()..];
    }
    Ok(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn durations() {
        let table = [
            ("+3d", 72 * HOUR),
            ("3d", 72 * HOUR),
            ("-2h30m", -5 * HOUR / 2),
            ("1.5s", 1_500_000_000),
            ("100ms", 100_000_000),
            ("1m1ms", 60_001_000_000),
            ("7us", 7_000),
            ("7µs", 7_000),
            ("9ns", 9),
            ("0.5ns", 0),
            ("0", 0),
            ("-0", 0),
        ];
        for (text, value) in table {
            assert_eq!(duration(text), Ok(value), "{text}");
        }
        for text in [
            "",
            "+",
            "-",
            "3",
            "d",
            "3x",
            "3d4",
            "--3d",
            "3 d",
            "1.2.3s",
            "1e3s",
            "106752d",
            "100000d100000d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn clocks() {
        let expected = Offsets { monotonic: Some(-5 * HOUR / 2), boottime: Some(72 * HOUR) };
        assert_eq!(offsets("boottime=+3d,monotonic=-2h30m"), Ok(expected));
        for text in ["", "boottime", "realtime=1s", "uptime=1s", "boottime=1s,", "=1s"] {
            assert!(offsets(text).is_err(), "{text}");
        }
    }
}
