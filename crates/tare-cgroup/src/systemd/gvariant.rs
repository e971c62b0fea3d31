//! Values in GVariant's text format, in which annotations give unit properties: `uint64 5`, `'a'`, `@as []`.
//!
//! Dictionaries and maybe types are left out: no unit property has one.
//! Source: docs.gtk.org/glib/gvariant-text-format.html.

use tare_sys::{Error, Kind, Result};

use crate::dbus::Value;

/// Lists within lists.
const MAX_DEPTH: u32 = 16;

/// Reads one value. A number without a type is an int32, as GLib has it.
///
/// Errors: [`Kind::Usage`], saying at which byte.
pub(crate) fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser { text, at: 0 };
    let term = parser.term(0)?;
    parser.spaces();
    if parser.at < text.len() {
        return Err(parser.refused("something after the value"));
    }
    term.value(None).map_err(|why| parser.refused(&why))
}

/// A value whose type may still depend on what stands around it.
#[derive(Debug, PartialEq)]
enum Term {
    Integer(i128),
    Double(f64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Term>),
    Tuple(Vec<Term>),
    Variant(Box<Term>),
    /// With its type in front.
    Typed(String, Box<Term>),
}

/// The words for types, and their signatures.
const TYPES: [(&str, &str); 11] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
];

impl Term {
    /// The value, of the type that is wanted if there is one.
    fn value(&self, wanted: Option<&str>) -> Result<Value, String> {
        let fits = |own: &str| match wanted {
            Some(wanted) if wanted != own => Err(format!("{wanted:?} is wanted, not {own:?}")),
            _ => Ok(()),
        };
        match self {
            Term::Integer(number) => integer(*number, wanted.unwrap_or("i")),
            Term::Double(number) => fits("d").map(|()| Value::Double(*number)),
            Term::Bool(yes) => fits("b").map(|()| Value::Bool(*yes)),
            Term::Text(text) => match wanted {
                Some("o") => Ok(Value::Path(text.clone())),
                _ => fits("s").map(|()| Value::Str(text.clone())),
            },
            Term::Bytes(bytes) => fits("ay").map(|()| Value::bytes(bytes)),
            Term::List(terms) => {
                let element = match wanted {
                    Some(wanted) => {
                        wanted.strip_prefix('a').ok_or_else(|| format!("{wanted:?} is no list"))?.to_owned()
                    }
                    None => self.element(terms)?,
                };
                let values: Result<Vec<Value>, String> =
                    terms.iter().map(|term| term.value(Some(&element))).collect();
                Ok(Value::Array(element, values?))
            }
            Term::Tuple(terms) => {
                let types = match wanted {
                    Some(wanted) => fields(wanted, terms.len())?.into_iter().map(Some).collect(),
                    None => vec![None; terms.len()],
                };
                let values: Result<Vec<Value>, String> =
                    terms.iter().zip(types).map(|(term, own)| term.value(own)).collect();
                Ok(Value::Struct(values?))
            }
            Term::Variant(inner) => {
                fits("v")?;
                Ok(Value::Variant(Box::new(inner.value(None)?)))
            }
            Term::Typed(own, inner) => {
                fits(own)?;
                inner.value(Some(own))
            }
        }
    }

    /// What a list without a type is a list of: whatever the first element with a type of its own is.
    fn element(&self, terms: &[Term]) -> Result<String, String> {
        let typed = terms.iter().find(|term| matches!(term, Term::Typed(..))).or(terms.first());
        let first = typed.ok_or("an empty list needs a type: @as []")?;
        Ok(first.value(None)?.signature())
    }
}

fn integer(number: i128, wanted: &str) -> Result<Value, String> {
    let out = |_| format!("{number} is out of range for type {wanted:?}");
    Ok(match wanted {
        "y" => Value::Byte(number.try_into().map_err(out)?),
        "n" => Value::Int16(number.try_into().map_err(out)?),
        "q" => Value::Uint16(number.try_into().map_err(out)?),
        "i" => Value::Int32(number.try_into().map_err(out)?),
        "u" => Value::Uint32(number.try_into().map_err(out)?),
        "x" => Value::Int64(number.try_into().map_err(out)?),
        "t" => Value::Uint64(number.try_into().map_err(out)?),
        "d" => Value::Double(number as f64),
        other => return Err(format!("{number} is a number, and type {other:?} is wanted")),
    })
}

/// The types of a tuple's fields.
fn fields(signature: &str, count: usize) -> Result<Vec<&str>, String> {
    let no = || format!("{count} values in brackets are no {signature:?}");
    let mut rest = signature.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(no)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (first, after) = rest.split_at(complete(rest.as_bytes(), 0).ok_or_else(no)?);
        found.push(first);
        rest = after;
    }
    if found.len() == count { Ok(found) } else { Err(no()) }
}

/// The length of the first complete type; `None` where there is none.
fn complete(signature: &[u8], depth: u32) -> Option<usize> {
    match signature.first()? {
        _ if depth > MAX_DEPTH => None,
        b'a' => Some(1 + complete(&signature[1..], depth + 1)?),
        b'(' => {
            let mut at = 1;
            while *signature.get(at)? != b')' {
                at += complete(&signature[at..], depth + 1)?;
            }
            (at > 1).then_some(at + 1)
        }
        letter => b"ybnqiuxtdsov".contains(letter).then_some(1),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn refused(&self, why: &str) -> Error {
        Error::new(Kind::Usage, format!("value {:?}: {why} (at byte {})", self.text, self.at))
            .hint("write it in GVariant's text format, for example uint64 5, true, 'text' or ['a', 'b']")
    }

    fn spaces(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn word(&mut self, part: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&part) {
            self.next();
        }
        self.text[start..self.at].to_owned()
    }

    fn term(&mut self, depth: u32) -> Result<Term> {
        if depth > MAX_DEPTH {
            return Err(self.refused("too deep"));
        }
        self.spaces();
        match self.peek() {
            Some('@') => {
                self.next();
                let signature = self.word(|c| !c.is_whitespace());
                if complete(signature.as_bytes(), 0) != Some(signature.len()) {
                    return Err(self.refused(&format!("{signature:?} is not a type")));
                }
                Ok(Term::Typed(signature, Box::new(self.term(depth + 1)?)))
            }
            Some('\'' | '"') => self.quoted().map(Term::Text),
            Some('b') if self.text[self.at + 1..].starts_with(['\'', '"']) => {
                self.next();
                let mut bytes = self.quoted()?.into_bytes();
                // A byte string ends in NUL.
                bytes.push(0);
                Ok(Term::Bytes(bytes))
            }
            Some('[') => self.several(']', depth).map(Term::List),
            Some('(') => self.several(')', depth).map(Term::Tuple),
            Some('<') => {
                self.next();
                let inner = self.term(depth + 1)?;
                self.spaces();
                match self.next() {
                    Some('>') => Ok(Term::Variant(Box::new(inner))),
                    _ => Err(self.refused("'>' is missing")),
                }
            }
            Some(first) if first.is_ascii_digit() || "+-.".contains(first) => self.number(),
            Some(first) if first.is_ascii_alphabetic() => {
                let word = self.word(|c| c.is_ascii_alphanumeric());
                match (word.as_str(), TYPES.iter().find(|(name, _)| *name == word)) {
                    ("true", _) => Ok(Term::Bool(true)),
                    ("false", _) => Ok(Term::Bool(false)),
                    ("inf", _) => Ok(Term::Double(f64::INFINITY)),
                    ("nan", _) => Ok(Term::Double(f64::NAN)),
                    (_, Some((_, signature))) => {
                        Ok(Term::Typed((*signature).to_owned(), Box::new(self.term(depth + 1)?)))
                    }
                    _ => Err(self.refused(&format!("{word:?} is not a type"))),
                }
            }
            _ => Err(self.refused("a value is missing")),
        }
    }

    /// What stands between brackets, separated by commas; one may follow the last.
    fn several(&mut self, close: char, depth: u32) -> Result<Vec<Term>> {
        self.next();
        let mut terms = Vec::new();
        loop {
            self.spaces();
            if self.peek() == Some(close) {
                self.next();
                return Ok(terms);
            }
            terms.push(self.term(depth + 1)?);
            self.spaces();
            match self.peek() {
                Some(',') => drop(self.next()),
                Some(other) if other == close => {}
                _ => return Err(self.refused(&format!("',' or '{close}' is missing"))),
            }
        }
    }

    fn number(&mut self) -> Result<Term> {
        let word = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let (sign, digits) = match word.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, word.strip_prefix('+').unwrap_or(&word)),
        };
        let whole = if let Some(hex) = digits.strip_prefix("0x") {
            i128::from_str_radix(hex, 16).ok()
        } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
            i128::from_str_radix(digits, 8).ok()
        } else {
            digits.parse().ok()
        };
        // A second sign would have parsed too.
        let whole = whole.filter(|number: &i128| {
            *number >= 0 && !digits.starts_with(['+', '-']) && !digits.contains("x-")
        });
        match (whole, word.parse::<f64>()) {
            (Some(number), _) => Ok(Term::Integer(sign * number)),
            (None, Ok(number)) if digits.contains(['.', 'e', 'E']) || word.ends_with("inf") => {
                Ok(Term::Double(number))
            }
            _ => Err(self.refused(&format!("{word:?} is not a number"))),
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => return Err(self.refused("a quote is not closed")),
                next if next == quote => return Ok(text),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some('a') => text.push('\x07'),
                    Some('b') => text.push('\x08'),
                    Some('f') => text.push('\x0c'),
                    Some('v') => text.push('\x0b'),
                    Some('\n') => {}
                    Some(kind @ ('u' | 'U')) => {
                        let length = if kind == 'u' { 4 } else { 8 };
                        let digits: String = (0..length).filter_map(|_| self.next()).collect();
                        let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                        text.push(code.ok_or_else(|| self.refused("not a character"))?);
                    }
                    Some(other) => text.push(other),
                    None => return Err(self.refused("a quote is not closed")),
                },
                Some('\0') => return Err(self.refused("a NUL")),
                Some(other) => text.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_runc_documents() {
        let pair = |a: &str, b: &str| Value::Struct(vec![Value::str(a), Value::str(b)]);
        for (text, value) in [
            ("uint64 123456789", Value::Uint64(123_456_789)),
            ("'inactive-or-failed'", Value::str("inactive-or-failed")),
            ("5", Value::Int32(5)),
            ("-5", Value::Int32(-5)),
            ("uint32 0x10", Value::Uint32(16)),
            ("int64 010", Value::Int64(8)),
            ("0.5", Value::Double(0.5)),
            ("double 3", Value::Double(3.0)),
            ("byte 255", Value::Byte(255)),
            (" true ", Value::Bool(true)),
            ("boolean false", Value::Bool(false)),
            ("\"it's \\\"so\\\" \\u00e4\"", Value::str("it's \"so\" \u{e4}")),
            ("['a.service', 'b.service']", Value::strings(["a.service", "b.service"])),
            ("@as []", Value::Array("s".into(), vec![])),
            ("[1, uint64 2]", Value::Array("t".into(), vec![Value::Uint64(1), Value::Uint64(2)])),
            ("@a(ss) [('a', 'b'),]", Value::Array("(ss)".into(), vec![pair("a", "b")])),
            ("[('a', 'b')]", Value::Array("(ss)".into(), vec![pair("a", "b")])),
            ("@ay [1, 2]", Value::bytes(&[1, 2])),
            ("b'x'", Value::bytes(b"x\0")),
            ("<'x'>", Value::Variant(Box::new(Value::str("x")))),
        ] {
            assert_eq!(parse(text).unwrap(), value, "{text}");
        }
        for bad in [
            "",
            "x",
            "[]",
            "['a', 1]",
            "uint32 -1",
            "byte 256",
            "2147483648",
            "'a",
            "uint64",
            "uint64 'a'",
            "@ []",
            "@as",
            "@zz 1",
            "@a(s) [('a', 'b')]",
            "1 2",
            "--1",
            "+-1",
            "0x",
            "[1",
            "(1",
            "<1",
            "\"\\u12\"",
            "5s",
            "'a\\",
            "b",
            "@as 'x'",
            "0x-1",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        assert!(parse(&"[".repeat(10_000)).is_err());
        assert!(parse(&"uint64 ".repeat(10_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-+ a-z0-9@()\\[\\]<>',\"\\\\.xä]{0,40}") {
            let _ = parse(&text);
        }
    }
}
