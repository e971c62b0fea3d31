//! The words of an action.

use serde_json::{Number, Value};

use super::Failure;

/// One word.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// `if`, `len`, `true`
    Name(String),
    /// `.`
    Dot,
    /// `.Name`; `spaced`: after a space, so it begins an operand of its own.
    Field { name: String, spaced: bool },
    /// `$x`, without the dollar.
    Variable(String),
    /// A text or a number.
    Literal(Value),
    /// `(`
    Open,
    /// `)`; a field right after it belongs to it.
    Close,
    /// `|`
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

/// Splits what stands between `{{` and `}}`.
pub fn words(action: &str) -> Result<Vec<Word>, Failure> {
    let mut words = Vec::new();
    let mut rest = action;
    let mut spaced = true;
    while let Some(c) = rest.chars().next() {
        let (word, length) = match c {
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                spaced = true;
                continue;
            }
            '(' => (Word::Open, 1),
            ')' => (Word::Close, 1),
            '|' => (Word::Pipe, 1),
            ',' => (Word::Comma, 1),
            ':' if rest.starts_with(":=") => (Word::Declare, 2),
            '=' => (Word::Assign, 1),
            '"' => quoted(rest)?,
            '`' => {
                let end = rest[1..].find('`').ok_or("a text in back quotes does not end")?;
                (Word::Literal(Value::from(&rest[1..=end])), end + 2)
            }
            '\'' => character(rest)?,
            '$' => {
                let name = name_at(&rest[1..]);
                (Word::Variable(name.to_owned()), 1 + name.len())
            }
            '.' => match name_at(&rest[1..]) {
                name if name.starts_with(|c: char| c.is_ascii_digit()) => number(rest)?,
                "" => (Word::Dot, 1),
                name => (Word::Field { name: name.to_owned(), spaced }, 1 + name.len()),
            },
            '0'..='9' | '+' | '-' => number(rest)?,
            c if c.is_alphabetic() || c == '_' => {
                let name = name_at(rest);
                (Word::Name(name.to_owned()), name.len())
            }
            c => return Err(format!("unexpected {c:?} in {{{{{}}}}}", action.trim())),
        };
        words.push(word);
        rest = &rest[length..];
        spaced = false;
    }
    Ok(words)
}

fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// Length of a quoted text, its quotes included; `None` where it does not end.
pub fn quoted_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote != '`' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Result<(Word, usize), Failure> {
    let length = quoted_length(text, '"').ok_or("a text in quotes does not end")?;
    let inner = &text[1..length - 1];
    Ok((Word::Literal(Value::from(unescaped(inner)?)), length))
}

/// `'x'`, which in Go is a number.
fn character(text: &str) -> Result<(Word, usize), Failure> {
    let length = quoted_length(text, '\'').ok_or("a character in quotes does not end")?;
    let inner = unescaped(&text[1..length - 1])?;
    let mut chars = inner.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok((Word::Literal(Value::from(u32::from(c))), length)),
        _ => Err(format!("{} is not one character: a text stands in double quotes", &text[..length])),
    }
}

fn unescaped(text: &str) -> Result<String, Failure> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        let unknown = || format!("\"{text}\" has an escape that there is not");
        let code = |chars: &mut std::str::Chars<'_>, digits: usize| {
            let digits: String = chars.take(digits).collect();
            u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
        };
        let c = match chars.next().ok_or_else(unknown)? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            'x' => code(&mut chars, 2).ok_or_else(unknown)?,
            'u' => code(&mut chars, 4).ok_or_else(unknown)?,
            'U' => code(&mut chars, 8).ok_or_else(unknown)?,
            c @ ('\\' | '"' | '\'') => c,
            _ => return Err(unknown()),
        };
        plain.push(c);
    }
    Ok(plain)
}

fn number(text: &str) -> Result<(Word, usize), Failure> {
    let sign = usize::from(text.starts_with(['+', '-']));
    let end = text[sign..]
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'))
        .map_or(text.len(), |end| end + sign);
    let word = &text[..end];
    let plain = word.replace('_', "");
    let negative = plain.starts_with('-');
    let digits = plain.trim_start_matches(['+', '-']);
    let whole = match digits.get(..2) {
        Some("0x" | "0X") => i64::from_str_radix(&digits[2..], 16).ok(),
        Some("0o" | "0O") => i64::from_str_radix(&digits[2..], 8).ok(),
        Some("0b" | "0B") => i64::from_str_radix(&digits[2..], 2).ok(),
        _ => digits.parse().ok(),
    };
    let value = match whole {
        Some(number) => Some(Number::from(if negative { -number } else { number })),
        None => digits
            .parse::<f64>()
            .ok()
            .filter(|_| digits.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
            .and_then(|number| Number::from_f64(if negative { -number } else { number })),
    };
    let value = value.ok_or_else(|| format!("{word} is not a number"))?;
    Ok((Word::Literal(Value::Number(value)), end))
}
