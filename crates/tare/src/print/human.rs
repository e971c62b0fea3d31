//! Times and sizes as a person says them, in Docker's words.

use tare_sys::time::in_words;

/// An address and a port: `0.0.0.0:80`, `[::]:80`.
pub fn socket(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// `3 minutes ago`, for a time in seconds since 1970.
pub fn ago(then: i64) -> String {
    format!("{} ago", in_words(jiff::Timestamp::now().as_second().saturating_sub(then)))
}

/// `2026-11-23 20:48:15 +0000 UTC` in local time, for a time in seconds since 1970.
pub fn moment(then: i64) -> String {
    match jiff::Timestamp::from_second(then) {
        Ok(time) => time
            .to_zoned_datetime(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S %z %Z")
            .to_string(),
        Err(_) => format!("{then} s after 1970"),
    }
}

/// `2026-11-23T20:48:15.123456789+00:00` in local time, for nanoseconds since 1970.
pub fn instant(nanos: i64) -> String {
    match jiff::Timestamp::from_nanosecond(nanos.into()) {
        Ok(time) => time
            .to_zoned_datetime(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
            .to_string(),
        Err(_) => format!("{nanos} ns after 1970"),
    }
}

/// `8.31MB`: three digits in powers of 1000, as images are listed.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut number = bytes as f64;
    for (i, unit) in UNITS.iter().enumerate() {
        // 999.5 would print as 1000: that is 1 of the next unit.
        if number < 999.5 || i + 1 == UNITS.len() {
            let digits = if number < 9.995 {
                2
            } else if number < 99.95 {
                1
            } else {
                0
            };
            let text = format!("{number:.digits$}");
            let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            return format!("{text}{unit}");
        }
        number /= 1000.0;
    }
    format!("{bytes}B")
}

/// `12.3MiB`: four digits in powers of 1024, as memory is shown.
pub fn binary(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1024.0, unit + 1);
    }
    let digits = match number {
        ..10.0 => 3,
        10.0..100.0 => 2,
        100.0..1000.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// `64 MiB`: powers of 1024, as limits are given; exact where it can be.
pub fn limit(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut unit, mut number) = ("bytes", bytes as f64);
    for next in UNITS {
        if number < 1024.0 {
            break;
        }
        (unit, number) = (next, number / 1024.0);
    }
    let text = format!("{number:.1}");
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// The first `length` characters, the last of them `…` where something was cut.
pub fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// The first 12 characters of an id, without `sha256:`.
pub fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let table = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_404_019, "4.4MB"),
            (8_310_000, "8.31MB"),
            (77_800_000, "77.8MB"),
            (999_600_000, "1GB"),
            (123_456_789_012, "123GB"),
            (u64::MAX, "18.4EB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn memory_has_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5KiB"),
            (12_897_485, "12.3MiB"),
            (2_087_354_368, "1.944GiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
    }

    #[test]
    fn limits_are_in_powers_of_1024() {
        for (bytes, text) in
            [(512, "512 bytes"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (1 << 10, "1 KiB")]
        {
            assert_eq!(limit(bytes), text);
        }
    }

    #[test]
    fn text_and_ids_are_cut() {
        assert_eq!(shortened("\"sleep 1000000000000000\"", 20), "\"sleep 100000000000…");
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("äöüäöüäöü"), "äöüäöü");
    }

    #[test]
    fn moments_say_their_zone() {
        if std::fs::read_link("/etc/localtime").is_err() && std::env::var_os("TZ").is_none() {
            assert_eq!(moment(0), "1970-01-01 00:00:00 +0000 UTC");
        }
        assert_eq!(moment(i64::MAX), "9223372036854775807 s after 1970");
    }
}
