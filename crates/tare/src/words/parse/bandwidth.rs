//! `--net-rate in=10mbit,out=2mbit`, `--net-delay 50ms`, `--net-loss 1%`.

use super::{Parsed, Scaled, clock, scaled};

/// Bits a second, each way; `None`: not said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// What the container gets.
    pub incoming: Option<u64>,
    /// What it sends.
    pub outgoing: Option<u64>,
}

/// The rates in a comma-separated list, or one for both ways. `0` lifts a limit.
pub fn rates(text: &str) -> Parsed<Rates> {
    let mut rates = Rates::default();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("in", rate)) => rates.incoming = Some(bits(rate)?),
            Some(("out", rate)) => rates.outgoing = Some(bits(rate)?),
            Some((way, _)) => return Err(format!("{way:?} is not a way: there are in and out")),
            None if part == text => {
                let both = Some(bits(part)?);
                rates = Rates { incoming: both, outgoing: both };
            }
            None => return Err(format!("{part:?} is neither in=RATE nor out=RATE")),
        }
    }
    Ok(rates)
}

/// Bits a second: `10mbit`, `1.5gbit`, `64kbit`; powers of 1000, as links are sold.
fn bits(text: &str) -> Parsed<u64> {
    let wrong = || format!("{text:?} is not a rate: a number, then bit, kbit, mbit or gbit");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" if number == "0" => 1,
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let Scaled { value, .. } = scaled(number, factor).ok_or_else(wrong)??;
    match u64::try_from(value) {
        Ok(0) => Ok(0),
        Ok(bits @ ..8_000) => {
            Err(format!("{bits} bit/s is less than anything can work with: the least is 8kbit"))
        }
        Ok(bits) => Ok(bits),
        Err(_) => Err(wrong()),
    }
}

/// A delay in microseconds, up to an hour.
pub fn delay(text: &str) -> Parsed<u64> {
    const HOUR: i64 = 3_600_000_000_000;
    match clock::duration(text)? {
        time @ 0..=HOUR => Ok(time as u64 / 1_000),
        _ => Err("it must be from 0 to 1h".to_owned()),
    }
}

/// A share of all packets, in millionths: `1%`, `0.5%`.
pub fn loss(text: &str) -> Parsed<u32> {
    let wrong = || "it is not a percentage from 0% to 100%".to_owned();
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    match scaled(number, 10_000).ok_or_else(wrong)??.value {
        millionths @ 0..=1_000_000 => Ok(millionths as u32),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_both_ways() {
        let of = |incoming, outgoing| Ok(Rates { incoming, outgoing });
        assert_eq!(rates("in=10mbit,out=2mbit"), of(Some(10_000_000), Some(2_000_000)));
        assert_eq!(rates("out=1.5gbit"), of(None, Some(1_500_000_000)));
        assert_eq!(rates("64Kbit"), of(Some(64_000), Some(64_000)));
        assert_eq!(rates("in=0"), of(Some(0), None));
        for wrong in [
            "",
            "10",
            "10m",
            "in",
            "in=",
            "up=1mbit",
            "in=1mbit,2mbit",
            "1mbit,2mbit",
            "-1mbit",
            "1 mbyte",
            "1bit",
        ] {
            assert!(rates(wrong).is_err(), "{wrong}");
        }
        assert!(rates("99999999999999999999gbit").is_err());
    }

    #[test]
    fn delays_and_losses() {
        assert_eq!((delay("50ms"), delay("0"), delay("1.5s")), (Ok(50_000), Ok(0), Ok(1_500_000)));
        assert_eq!((loss("1%"), loss("0.05%"), loss("100%")), (Ok(10_000), Ok(500), Ok(1_000_000)));
        for wrong in ["50", "-1ms", "2h", "x"] {
            assert!(delay(wrong).is_err(), "{wrong}");
        }
        for wrong in ["1", "101%", "-1%", "%", "x%"] {
            assert!(loss(wrong).is_err(), "{wrong}");
        }
    }
}
