//! Moments as Docker's commands take them: a time of day, seconds since 1970, or how long ago.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Parsed, clock};

/// A moment in nanoseconds since 1970: `2026-11-24T10:00:00Z`, `2026-11-24T10:00:00`, `2026-11-24` (both in local
/// time), `1795468533.25`, or `1h30m` ago.
pub fn moment(text: &str) -> Parsed<i128> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_nanosecond());
    }
    if let Some(nanos) = seconds(text) {
        return Ok(nanos);
    }
    if let Ok(ago) = clock::duration(text) {
        return Ok(Timestamp::now().as_nanosecond() - i128::from(ago));
    }
    let local =
        text.parse::<DateTime>().ok().and_then(|time| time.to_zoned_datetime(TimeZone::system()).ok());
    match local {
        Some(time) => Ok(time.timestamp().as_nanosecond()),
        None => {
            Err("it is no time: write 2026-11-24T10:00:00, seconds since 1970, or 10m for ten minutes ago"
                .to_owned())
        }
    }
}

/// `1795468533`, `1795468533.25`.
fn seconds(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 12 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some(whole.parse::<i128>().ok()? * 1_000_000_000 + nanos.parse::<i128>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_in_all_spellings() {
        assert_eq!(moment("1795468533"), Ok(1_795_468_533_000_000_000));
        assert_eq!(moment("1795468533.25"), Ok(1_795_468_533_250_000_000));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000_000_000));
        assert_eq!(moment("1970-01-01T01:00:00.5+01:00"), Ok(500_000_000));
        let hour_ago = Timestamp::now().as_nanosecond() - 3_600_000_000_000;
        assert!((moment("1h").unwrap() - hour_ago).abs() < 60_000_000_000);
        assert!(moment("2026-11-24").is_ok() && moment("2026-11-24T10:00:00").is_ok());
        assert!(moment("2026-11-24T10:00").is_ok());
    }

    #[test]
    fn nonsense_is_no_time() {
        for text in ["", "soon", "1x", "-", "..", "1..2h", "99999999999999999999h", "é", "2026-13-01", "1h µ"]
        {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
