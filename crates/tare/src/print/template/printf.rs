//! `print` and `printf`, after Go's fmt.

use serde_json::Value;

use super::Failure;
use super::functions::plain;

/// Widest field, and most digits.
const WIDEST: usize = 10_000;

/// One after the other, with a space between two of which neither is a text.
pub fn print(values: &[&Value]) -> String {
    let mut text = String::new();
    for (at, value) in values.iter().enumerate() {
        if at > 0 && !value.is_string() && !values[at - 1].is_string() {
            text.push(' ');
        }
        text += &plain(value);
    }
    text
}

/// How a value is to be written.
#[derive(Default)]
struct Directive {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

/// `printf FORMAT VALUES`. What does not fit is said in the text, as Go does.
pub fn printf(format: &str, values: &[&Value]) -> Result<String, Failure> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = Directive::default();
        while let Some(flag) = chars.next_if(|c| "-+# 0".contains(*c)) {
            match flag {
                '-' => directive.minus = true,
                '+' => directive.plus = true,
                '#' => directive.sharp = true,
                ' ' => directive.space = true,
                _ => directive.zero = true,
            }
        }
        let mut number = |values: &mut std::slice::Iter<'_, &Value>| -> Result<Option<usize>, Failure> {
            if chars.next_if_eq(&'*').is_some() {
                let width = values.next().and_then(|value| value.as_u64()).unwrap_or(0);
                return usize::try_from(width)
                    .ok()
                    .filter(|width| *width <= WIDEST)
                    .map(Some)
                    .ok_or_else(too_wide);
            }
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            if digits.is_empty() {
                return Ok(None);
            }
            digits.parse().ok().filter(|width| *width <= WIDEST).map(Some).ok_or_else(too_wide)
        };
        directive.width = number(&mut values)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            let mut precision = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                precision.push(digit);
            }
            let precision = if precision.is_empty() { Some(0) } else { precision.parse().ok() };
            directive.precision = Some(precision.filter(|digits| *digits <= WIDEST).ok_or_else(too_wide)?);
        }
        match chars.next() {
            None => text += "%!(NOVERB)",
            Some('%') => text.push('%'),
            Some(verb) => match values.next() {
                None => text += &format!("%!{verb}(MISSING)"),
                Some(value) => text += &written(verb, value, &directive),
            },
        }
        if text.len() > super::evaluate::MOST_BYTES {
            return Err("it prints too much".to_owned());
        }
    }
    let extra: Vec<String> = values.map(|value| format!("{}={}", kind(value), plain(value))).collect();
    if !extra.is_empty() {
        text += &format!("%!(EXTRA {})", extra.join(", "));
    }
    Ok(text)
}

fn too_wide() -> Failure {
    "printf: that is too wide".to_owned()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn written(verb: char, value: &Value, directive: &Directive) -> String {
    let bad = || format!("%!{verb}({}={})", kind(value), plain(value));
    let cut = |text: String| match directive.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    };
    let text = match (verb, value) {
        ('v', Value::Number(number)) if number.is_f64() || directive.precision.is_some() => {
            return filled(signed(plain(value), directive), directive, directive.zero);
        }
        ('v', Value::Number(_)) => return filled(signed(plain(value), directive), directive, directive.zero),
        ('v', Value::String(text)) if directive.sharp => format!("{text:?}"),
        ('v', value) => plain(value),
        ('T', value) => kind(value).to_owned(),
        ('t', Value::Bool(on)) => on.to_string(),
        ('s', Value::String(text)) => cut(text.clone()),
        ('s', Value::Array(_) | Value::Object(_)) => plain(value),
        ('q', Value::String(text)) => quoted(&cut(text.clone())),
        ('q', Value::Array(list)) => {
            let parts: Vec<_> = list.iter().map(|value| written('q', value, &Directive::default())).collect();
            format!("[{}]", parts.join(" "))
        }
        ('x' | 'X', Value::String(text)) => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        ('d' | 'x' | 'X' | 'o' | 'b' | 'c' | 'U' | 'q', Value::Number(number)) => {
            let Some(number) = number.as_i64() else { return bad() };
            let magnitude = number.unsigned_abs();
            let digits = match verb {
                'd' => magnitude.to_string(),
                'x' if directive.sharp => format!("{magnitude:#x}"),
                'x' => format!("{magnitude:x}"),
                'X' => format!("{magnitude:X}"),
                'o' => format!("{magnitude:o}"),
                'b' => format!("{magnitude:b}"),
                _ => {
                    let c = u32::try_from(magnitude).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
                    let text = match verb {
                        'c' => c.to_string(),
                        'q' => format!("'{c}'"),
                        _ => format!("U+{magnitude:04X}"),
                    };
                    return filled(text, directive, false);
                }
            };
            let digits = match directive.precision {
                Some(least) if digits.len() < least => {
                    format!("{}{digits}", "0".repeat(least - digits.len()))
                }
                _ => digits,
            };
            let text = if number < 0 { format!("-{digits}") } else { digits };
            return filled(signed(text, directive), directive, directive.zero);
        }
        ('f' | 'F' | 'e' | 'E' | 'g' | 'G', Value::Number(number)) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(0.0);
            let digits = directive.precision;
            let text = match verb {
                'f' | 'F' => format!("{number:.*}", digits.unwrap_or(6)),
                'e' | 'E' => exponent(number, digits.unwrap_or(6)),
                _ => number.to_string(),
            };
            let text = if verb.is_uppercase() { text.to_uppercase() } else { text };
            return filled(signed(text, directive), directive, directive.zero);
        }
        _ => return bad(),
    };
    filled(text, directive, false)
}

/// Go writes two digits of exponent at least: `1.5e+06`.
fn exponent(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

fn signed(text: String, directive: &Directive) -> String {
    match () {
        () if text.starts_with('-') => text,
        () if directive.plus => format!("+{text}"),
        () if directive.space => format!(" {text}"),
        () => text,
    }
}

fn filled(text: String, directive: &Directive, zeros: bool) -> String {
    let missing = directive.width.saturating_sub(text.chars().count());
    match () {
        () if missing == 0 => text,
        () if directive.minus => text + &" ".repeat(missing),
        () if zeros => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+', ' '])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        () => " ".repeat(missing) + &text,
    }
}

/// In double quotes, with Go's escapes.
fn quoted(text: &str) -> String {
    let mut safe = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => safe.extend(['\\', c]),
            '\n' => safe += "\\n",
            '\t' => safe += "\\t",
            '\r' => safe += "\\r",
            c if c.is_control() && u32::from(c) < 0x80 => safe += &format!("\\x{:02x}", u32::from(c)),
            c => safe.push(c),
        }
    }
    safe.push('"');
    safe
}
