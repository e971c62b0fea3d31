//! Wall-clock times as Docker writes them: RFC 3339 in UTC, with nanoseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i128);

/// What Docker prints for "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Moment(since.as_nanos() as i128)
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000) as i64
    }

    /// Reads what [`Display`](std::fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Moment> {
        let (date, rest) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.splitn(3, '-').map(str::parse::<i64>);
        let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
        let (time, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
        let mut time = time.splitn(3, ':').map(str::parse::<i64>);
        let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
        let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
        Some(Moment(i128::from(seconds) * 1_000_000_000 + digits.parse::<i128>().ok()?))
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, nanos) = (self.seconds(), self.0.rem_euclid(1_000_000_000));
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }
}

/// A span of time in Docker's words: `3 seconds`, `About a minute`, `2 weeks`.
pub fn in_words(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3_600 => format!("{minutes} minutes"),
        3_600..7_200 => "About an hour".to_owned(),
        7_200..172_800 => format!("{hours} hours"),
        172_800..1_209_600 => format!("{} days", hours / 24),
        1_209_600..5_184_000 => format!("{} weeks", hours / 24 / 7),
        5_184_000..63_072_000 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Days since 1970 of a date of the Gregorian calendar, by counting whole years from March, whose months
/// have a regular pattern of lengths.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// The inverse.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_both_ways() {
        for (seconds, text) in [
            (0i64, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_795_468_533, "2026-11-23T21:15:33.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            let moment = Moment(i128::from(seconds) * 1_000_000_000);
            assert_eq!(moment.to_string(), text);
            assert_eq!(Moment::parse(text), Some(moment));
        }
        assert_eq!(Moment::parse("2026-11-23T20:35:33.5Z").unwrap().0 % 1_000_000_000, 500_000_000);
        for bad in ["", "2026", "2026-11-23T20:35Z", "xZ", "2026-11-23T20:35:33.xZ"] {
            assert_eq!(Moment::parse(bad), None, "{bad}");
        }
    }
}
