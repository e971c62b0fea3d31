//! Reads values out of bytes that a stranger sent. Nothing here panics, and nothing is allocated that the
//! message does not itself hold the bytes for.

use tare_sys::{Error, Kind, Result};

use super::value::{Value, alignment};

/// Arrays, structs and variants within each other, all together (the standard: 32 + 32, and 64 with variants).
const MAX_DEPTH: u32 = 32;

pub(crate) fn broken(why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("broken D-Bus message: {why}"))
}

/// A place in a message; alignment counts from its beginning.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], big_endian: bool) -> Reader<'a> {
        Reader { bytes, at: 0, big_endian }
    }

    pub(crate) fn done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(crate) fn pad(&mut self, to: usize) -> Result<()> {
        let at = self.at.next_multiple_of(to);
        self.take(at - self.at).map(drop)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| broken("it ends too soon"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.pad(N)?;
        let mut bytes: [u8; N] = self.take(N)?.try_into().map_err(|_| broken("it ends too soon"))?;
        if self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = self.take(length)?;
        if self.take(1)? != [0] {
            return Err(broken("a text without end"));
        }
        String::from_utf8(text.to_vec()).map_err(|_| broken("a text that is not UTF-8"))
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.take(1)?[0];
        self.text(length.into())
    }

    /// All values that `signature` names.
    pub(crate) fn values(&mut self, signature: &str) -> Result<Vec<Value>> {
        self.row(signature.as_bytes(), 0)
    }

    fn row(&mut self, mut signature: &[u8], depth: u32) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = signature.split_at(first_type(signature, depth)?);
            values.push(self.value(first, depth)?);
            signature = rest;
        }
        Ok(values)
    }

    /// One value of the one complete type `signature`.
    fn value(&mut self, signature: &[u8], depth: u32) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(broken("too deep"));
        }
        let (&letter, inner) = signature.split_first().ok_or_else(|| broken("no type"))?;
        Ok(match letter {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(broken("a boolean that is neither")),
            },
            b'n' => Value::Int16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::Uint16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::Int32(i32::from_le_bytes(self.number()?)),
            // A file descriptor is a number into a list that we never ask for.
            b'u' | b'h' => Value::Uint32(self.u32()?),
            b'x' => Value::Int64(i64::from_le_bytes(self.number()?)),
            b't' => Value::Uint64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            b's' | b'o' => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if letter == b's' { Value::Str(text) } else { Value::Path(text) }
            }
            b'g' => Value::Signature(self.signature()?),
            b'v' => {
                let signature = self.signature()?;
                if first_type(signature.as_bytes(), depth)? != signature.len() {
                    return Err(broken("a variant of several types"));
                }
                Value::Variant(Box::new(self.value(signature.as_bytes(), depth + 1)?))
            }
            b'a' => {
                let length = self.u32()? as usize;
                self.pad(alignment(inner[0]))?;
                let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
                let end = end.ok_or_else(|| broken("an array longer than its message"))?;
                let mut values = Vec::new();
                // Every type has at least one byte, so this ends.
                while self.at < end {
                    values.push(self.value(inner, depth + 1)?);
                }
                if self.at != end {
                    return Err(broken("an array that ends within an element"));
                }
                Value::Array(String::from_utf8_lossy(inner).into_owned(), values)
            }
            b'(' | b'{' => {
                self.pad(8)?;
                let fields = inner.get(..inner.len().saturating_sub(1)).unwrap_or_default();
                Value::Struct(self.row(fields, depth + 1)?)
            }
            _ => return Err(broken("an unknown type")),
        })
    }
}

/// The length of the first complete type of a signature. Checks that one too, down to the last letter.
fn first_type(signature: &[u8], depth: u32) -> Result<usize> {
    if depth > MAX_DEPTH {
        return Err(broken("a type too deep"));
    }
    match signature.first() {
        Some(
            b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v' | b'h',
        ) => Ok(1),
        Some(b'a') => Ok(1 + first_type(&signature[1..], depth + 1)?),
        Some(open @ (b'(' | b'{')) => {
            let close = if *open == b'(' { b')' } else { b'}' };
            let mut at = 1;
            while signature.get(at).is_some_and(|&letter| letter != close) {
                at += first_type(&signature[at..], depth + 1)?;
            }
            match signature.get(at) {
                Some(_) if at > 1 => Ok(at + 1),
                _ => Err(broken("a type without fields or end")),
            }
        }
        _ => Err(broken("an unknown type")),
    }
}
