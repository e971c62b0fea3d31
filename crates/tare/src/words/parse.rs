//! Values of options: text in, values out, or the reason why not.
//!
//! Everything here is pure, and none of it panics, whatever it is given. A reason is the end of the sentence
//! `invalid value "x" for --memory: …`.

use std::net::IpAddr;

pub mod bandwidth;
pub mod clock;
pub mod device;
pub mod file;
pub mod mount;
pub mod network;
pub mod port;
pub mod when;

/// `Ok`, or the reason why the text will not do.
pub type Parsed<T> = Result<T, String>;

/// `true`, `false`, and the other spellings that Go programs accept.
pub fn boolean(text: &str) -> Parsed<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

/// A whole number from `least` to `most`.
pub fn number(least: i64, most: i64) -> impl Fn(&str) -> Parsed<i64> {
    move |text| match text.trim().parse::<i64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) if most == i64::MAX => Err(format!("the least is {least}")),
        Ok(_) => Err(format!("it must be from {least} to {most}")),
        Err(_) => Err("it is not a whole number".to_owned()),
    }
}

/// A decimal fraction times a whole factor.
struct Scaled {
    value: i64,
    /// Nothing was cut off.
    exact: bool,
}

/// `1.5` times `factor`, without the rounding of floating point.
fn scaled(text: &str, factor: u64) -> Option<Parsed<Scaled>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let too_large = || Some(Err("it is too large".to_owned()));
    // 19 digits are more than an i64 holds, and times any u64 they still fit a u128.
    let whole = whole.trim_start_matches('0');
    if whole.len() > 19 {
        return too_large();
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = fraction.trim_end_matches('0');
    let kept = &fraction[..fraction.len().min(18)];
    let tenths = 10_u128.pow(kept.len() as u32);
    let part: u128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    let factor = u128::from(factor);
    let Ok(value) = i64::try_from(whole * factor + part * factor / tenths) else {
        return too_large();
    };
    Some(Ok(Scaled { value, exact: kept.len() == fraction.len() && (part * factor).is_multiple_of(tenths) }))
}

/// A number of bytes: `512`, `64m`, `1.5g`, `2 GiB`; powers of 1024.
pub fn bytes(text: &str) -> Parsed<i64> {
    if text.starts_with('-') {
        return Err("it cannot be negative".to_owned());
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let power = match unit.trim_start_matches(' ').to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err("it is not a size: a number, then b, k, m, g, t or p".to_owned()),
    };
    match scaled(number, 1 << (10 * power)) {
        Some(scaled) => Ok(scaled?.value),
        None => Err("it is not a size: a number, then b, k, m, g, t or p".to_owned()),
    }
}

/// As [`bytes`], or `-1` for no limit.
pub fn bytes_or_unlimited(text: &str) -> Parsed<i64> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// A number of CPUs, in billionths.
pub fn cpus(text: &str) -> Parsed<i64> {
    match scaled(text, 1_000_000_000) {
        Some(Ok(Scaled { exact: false, .. })) => Err("it has more than 9 decimal places".to_owned()),
        Some(scaled) => Ok(scaled?.value),
        None => Err("it is not a number of CPUs".to_owned()),
    }
}

/// `KEY=value`; `what` names the key.
pub fn pair(what: &str) -> impl Fn(&str) -> Parsed<(String, String)> {
    move |text| match text.split_once('=') {
        Some(("", _)) => Err(format!("the {what} is empty")),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!("there is no = after the {what}")),
    }
}

/// A label: `KEY=value`, or `KEY` for an empty value.
pub fn label(text: &str) -> Parsed<(String, String)> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("the label has no name".to_owned()),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// An environment variable: `KEY=value`, or `KEY` for what `caller` has under that name. Where the caller has
/// none either, `KEY` alone goes on, which unsets the image's.
pub fn variable(caller: impl Fn(&str) -> Option<String>) -> impl Fn(&str) -> Parsed<String> {
    move |text| match text.split_once('=') {
        Some(("", _)) => Err("the variable has no name".to_owned()),
        Some(_) => Ok(text.to_owned()),
        None if text.is_empty() => Err("the variable has no name".to_owned()),
        None => Ok(caller(text).map_or_else(|| text.to_owned(), |value| format!("{text}={value}"))),
    }
}

/// One of a few words, or `container:NAME` if `joins`. Empty is the default and always allowed.
pub fn mode(words: &'static [&'static str], joins: bool) -> impl Fn(&str) -> Parsed<String> {
    move |text| match text.strip_prefix("container:") {
        _ if text.is_empty() || words.contains(&text) => Ok(text.to_owned()),
        Some("") if joins => Err("there is no container after container:".to_owned()),
        Some(_) if joins => Ok(text.to_owned()),
        _ => {
            let known = words.join(", ");
            Err(format!("it can be {known}{}", if joins { " or container:NAME" } else { "" }))
        }
    }
}

/// `HOST:ADDRESS` or `HOST=ADDRESS`, as `HOST:ADDRESS`; the address may be `host-gateway`.
pub fn extra_host(text: &str) -> Parsed<String> {
    let Some((host, address)) = text.split_once(['=', ':']).filter(|(host, _)| !host.is_empty()) else {
        return Err("it must be HOST:ADDRESS".to_owned());
    };
    // The engine knows what that is once the container has an address.
    if address == "host-gateway" {
        return Ok(format!("{host}:{address}"));
    }
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    ip(address).map(|address| format!("{host}:{address}"))
}

/// An IP address, version 4 or 6.
pub fn ip(text: &str) -> Parsed<String> {
    text.trim()
        .parse::<IpAddr>()
        .map(|ip| ip.to_string())
        .map_err(|_| format!("{text:?} is not an IP address"))
}

/// Checks that a path inside the container is absolute.
pub fn absolute(text: &str) -> Parsed<String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("it must begin with /".to_owned()) }
}

/// `stdin`, `stdout` or `stderr`.
pub fn stream(text: &str) -> Parsed<String> {
    match text.to_ascii_lowercase() {
        name if ["stdin", "stdout", "stderr"].contains(&name.as_str()) => Ok(name),
        _ => Err("it can be stdin, stdout or stderr".to_owned()),
    }
}

#[cfg(test)]
mod tests;
