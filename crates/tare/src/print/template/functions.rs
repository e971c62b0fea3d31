//! The functions: those of Go's templates, and those that Docker adds.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::evaluate::{MOST_BYTES, Worth};
use super::{Failure, printf};

const NAMES: [&str; 27] = [
    "and", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper", "urlquery",
    "call",
];

/// The function of that name.
pub fn known(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|known| *known == name)
}

/// Whether Go takes it for true: what is not zero and not empty.
pub fn truth(worth: &Worth<'_>) -> bool {
    match worth.as_deref() {
        None | Some(Value::Null) => false,
        Some(Value::Bool(on)) => *on,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
    }
}

/// A value as Go prints it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key}:{}", plain(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Calls one. In a heading, functions that change a text give it back as it is.
pub fn call<'a>(name: &str, arguments: Vec<Worth<'a>>, heading: bool) -> Result<Worth<'a>, Failure> {
    let counts = match name {
        "json" | "len" | "lower" | "not" | "title" | "upper" => 1..=1,
        "join" | "split" | "truncate" | "ne" | "lt" | "le" | "gt" | "ge" => 2..=2,
        "pad" => 3..=3,
        "eq" => 2..=usize::MAX,
        "index" | "printf" => 1..=usize::MAX,
        "slice" => 1..=4,
        _ => 0..=usize::MAX,
    };
    if !counts.contains(&arguments.len()) {
        let (count, least) = (arguments.len(), counts.start());
        return Err(format!("wrong number of args for {name}: want {least} got {count}"));
    }
    if heading && matches!(name, "json" | "lower" | "upper" | "title" | "truncate" | "split" | "join" | "pad")
    {
        return Ok(arguments.into_iter().next().flatten());
    }
    match name {
        "index" => return index(arguments),
        "slice" => return slice(&arguments).map(own),
        _ => {}
    }
    let values: Vec<&Value> =
        arguments.iter().map(|worth| worth.as_deref().unwrap_or(&Value::Null)).collect();
    let first = values.first().copied().unwrap_or(&Value::Null);
    Ok(own(match name {
        "json" => Value::from(json(first)),
        "len" => Value::from(length(first)?),
        "lower" => Value::from(text(name, first)?.to_lowercase()),
        "upper" => Value::from(text(name, first)?.to_uppercase()),
        "title" => Value::from(title(text(name, first)?)),
        "not" => Value::Bool(!truth(&arguments[0])),
        "join" => Value::from(join(first, text(name, values[1])?)?),
        "split" => Value::from(split(text(name, first)?, text(name, values[1])?)),
        "truncate" => Value::from(truncated(text(name, first)?, whole(name, values[1])?)),
        "pad" => Value::from(padded(text(name, first)?, whole(name, values[1])?, whole(name, values[2])?)?),
        "eq" => Value::Bool(equal_to_any(first, &values[1..])?),
        "ne" => Value::Bool(!equal(first, values[1])?),
        "lt" => Value::Bool(order(first, values[1])? == Ordering::Less),
        "le" => Value::Bool(order(first, values[1])? != Ordering::Greater),
        "gt" => Value::Bool(order(first, values[1])? == Ordering::Greater),
        "ge" => Value::Bool(order(first, values[1])? != Ordering::Less),
        "print" => Value::from(printf::print(&values)),
        "println" => {
            Value::from(values.iter().map(|value| plain(value)).collect::<Vec<_>>().join(" ") + "\n")
        }
        "printf" => Value::from(printf::printf(text(name, first)?, &values[1..])?),
        "html" | "js" => Value::from(escaped(&printf::print(&values), name)),
        "urlquery" => Value::from(url_escaped(&printf::print(&values))),
        "call" => return Err("call of something that is not a function".to_owned()),
        _ => return Err(format!("function {name:?} not defined")),
    }))
}

fn own<'a>(value: Value) -> Worth<'a> {
    Some(Cow::Owned(value))
}

fn text<'v>(function: &str, value: &'v Value) -> Result<&'v str, Failure> {
    value.as_str().ok_or_else(|| format!("{function}: {} is not a text", plain(value)))
}

fn whole(function: &str, value: &Value) -> Result<usize, Failure> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| format!("{function}: {} is not a whole number", plain(value)))
}

/// Without the field that carries labels for `.Label`.
fn json(value: &Value) -> String {
    match value {
        Value::Object(fields) if matches!(fields.get("Label"), Some(Value::Object(_))) => {
            let fields: Map<_, _> = fields.clone().into_iter().filter(|(key, _)| key != "Label").collect();
            Value::Object(fields).to_string()
        }
        value => value.to_string(),
    }
}

fn length(value: &Value) -> Result<usize, Failure> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(list) => Ok(list.len()),
        Value::Object(map) => Ok(map.len()),
        // An empty list that came as nothing at all.
        Value::Null => Ok(0),
        value => Err(format!("len of {}, which has no length", plain(value))),
    }
}

fn index<'a>(arguments: Vec<Worth<'a>>) -> Result<Worth<'a>, Failure> {
    let mut arguments = arguments.into_iter();
    let mut of = arguments.next().flatten();
    for key in arguments {
        let key = key.map_or(Value::Null, Cow::into_owned);
        of = match of {
            None => return Err("index of untyped nil".to_owned()),
            Some(Cow::Borrowed(value)) => one_of(value, &key)?.map(Cow::Borrowed).or_else(|| absent(value)),
            Some(Cow::Owned(value)) => {
                one_of(&value, &key)?.cloned().map(Cow::Owned).or_else(|| absent(&value))
            }
        };
    }
    Ok(of)
}

fn one_of<'v>(value: &'v Value, key: &Value) -> Result<Option<&'v Value>, Failure> {
    match (value, key) {
        (Value::Array(list), Value::Number(at)) => {
            let item = at.as_u64().and_then(|at| list.get(usize::try_from(at).ok()?));
            item.map(Some).ok_or_else(|| format!("error calling index: index out of range: {at}"))
        }
        (Value::Object(map), Value::String(key)) => Ok(map.get(key)),
        (Value::Null, Value::String(_)) => Ok(None),
        (Value::Null, _) => Err(format!("error calling index: index out of range: {}", plain(key))),
        _ => Err(format!("error calling index: can't index {} with {}", plain(value), plain(key))),
    }
}

/// What Go has for a key that is not there: the empty value of its kind.
fn absent<'a>(of: &Value) -> Worth<'a> {
    let texts = of.as_object().is_none_or(|map| map.values().all(Value::is_string));
    own(if texts { Value::from("") } else { Value::Null })
}

fn slice(arguments: &[Worth<'_>]) -> Result<Value, Failure> {
    let of = arguments.first().and_then(|worth| worth.as_deref()).ok_or("slice of untyped nil")?;
    let length = match of {
        Value::String(_) if arguments.len() > 3 => return Err("cannot 3-index slice a string".to_owned()),
        Value::String(_) | Value::Array(_) => length(of)?,
        value => return Err(format!("error calling slice: can't slice {}", plain(value))),
    };
    let mut bounds = [0, length];
    for (bound, given) in bounds.iter_mut().zip(&arguments[1..]) {
        *bound = whole("slice", given.as_deref().unwrap_or(&Value::Null))?;
    }
    let [from, to] = bounds;
    if from > to || to > length {
        return Err(format!("error calling slice: index out of range: {}", from.max(to)));
    }
    match of {
        // Docker cuts bytes; what is left of a cut character is made visible.
        Value::String(text) => {
            Ok(Value::from(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()))
        }
        Value::Array(list) => Ok(Value::from(list[from..to].to_vec())),
        _ => Ok(Value::Null),
    }
}

fn join(list: &Value, separator: &str) -> Result<String, Failure> {
    let parts: Vec<String> = match list {
        Value::Null => Vec::new(),
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::Object(map) => map.values().map(plain).collect(),
        value => return Err(format!("join: {} is not a list", plain(value))),
    };
    let total: usize = parts.iter().map(|part| part.len() + separator.len()).sum();
    if total > MOST_BYTES { Err("it prints too much".to_owned()) } else { Ok(parts.join(separator)) }
}

fn split(text: &str, separator: &str) -> Vec<String> {
    if separator.is_empty() {
        return text.chars().map(String::from).collect();
    }
    text.split(separator).map(str::to_owned).collect()
}

/// Each word with a capital, as Go's strings.Title.
fn title(text: &str) -> String {
    let mut after = ' ';
    let mut titled = String::with_capacity(text.len());
    for c in text.chars() {
        let begins = !(after.is_alphanumeric() || after == '_' || after == '\'');
        if begins {
            titled.extend(c.to_uppercase())
        } else {
            titled.push(c)
        }
        after = c;
    }
    titled
}

fn truncated(text: &str, most: usize) -> String {
    match text.as_bytes().get(..most) {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => text.to_owned(),
    }
}

fn padded(text: &str, before: usize, after: usize) -> Result<String, Failure> {
    if before.saturating_add(after) > 10_000 {
        return Err("pad: that is too wide".to_owned());
    }
    Ok(match text {
        "" => String::new(),
        text => format!("{}{text}{}", " ".repeat(before), " ".repeat(after)),
    })
}

fn equal_to_any(first: &Value, others: &[&Value]) -> Result<bool, Failure> {
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(a: &Value, b: &Value) -> Result<bool, Failure> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => Ok(a == b),
        (Value::Number(_), Value::Number(_)) => Ok(order(a, b)? == Ordering::Equal),
        (Value::Bool(_), Value::Bool(_)) | (Value::String(_), Value::String(_)) => Ok(a == b),
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            Err("non-comparable types: a list or a map".to_owned())
        }
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, Failure> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => Ok(x.cmp(&y)),
            _ => Ok(x.as_f64().partial_cmp(&y.as_f64()).unwrap_or(Ordering::Equal)),
        },
        (Value::String(_), _) | (_, Value::String(_)) => Err("incompatible types for comparison".to_owned()),
        _ => Err("invalid type for comparison".to_owned()),
    }
}

fn escaped(text: &str, how: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match (c, how) {
            ('&', "html") => safe += "&amp;",
            ('<', "html") => safe += "&lt;",
            ('>', "html") => safe += "&gt;",
            ('"', "html") => safe += "&#34;",
            ('\'', "html") => safe += "&#39;",
            ('\\' | '\'' | '"', "js") => safe.extend(['\\', c]),
            ('<' | '>' | '&' | '=', "js") => safe += &format!("\\u{:04X}", u32::from(c)),
            (c, _) => safe.push(c),
        }
    }
    safe
}

fn url_escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        b' ' => "+".to_owned(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
