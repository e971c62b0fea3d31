//! Values, their types' signatures, and how they are written.

/// A D-Bus value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Str(String),
    /// An object path.
    Path(String),
    /// A type's signature.
    Signature(String),
    /// The signature of the elements (there may be none), and they.
    Array(String, Vec<Value>),
    /// Also a dictionary's entry, which is laid out in the same way.
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(crate) fn str(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    pub(crate) fn strings<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Value {
        Value::Array("s".to_owned(), texts.into_iter().map(Value::str).collect())
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Value {
        Value::Array("y".to_owned(), bytes.iter().copied().map(Value::Byte).collect())
    }

    /// The type, as the standard writes it.
    pub(crate) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::Int16(_) => "n".into(),
            Value::Uint16(_) => "q".into(),
            Value::Int32(_) => "i".into(),
            Value::Uint32(_) => "u".into(),
            Value::Int64(_) => "x".into(),
            Value::Uint64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Str(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", signature_of(fields)),
            Value::Variant(_) => "v".into(),
        }
    }
}

/// The signature of several values in a row, such as a message's body.
pub(crate) fn signature_of(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// What a value of a type is aligned to, by the first letter of its signature.
pub(crate) fn alignment(letter: u8) -> usize {
    match letter {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' | b'h' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// Writes values little-endian, aligned from the writer's beginning.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.pad(4);
        self.bytes.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        // Nobody hands us 4 GiB of text; the bus would refuse it.
        self.u32(text.len() as u32);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.bytes.push(signature.len() as u8);
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(number) => self.bytes.push(*number),
            Value::Bool(yes) => self.u32(u32::from(*yes)),
            Value::Int16(number) => self.number(number.to_le_bytes()),
            Value::Uint16(number) => self.number(number.to_le_bytes()),
            Value::Int32(number) => self.number(number.to_le_bytes()),
            Value::Uint32(number) => self.number(number.to_le_bytes()),
            Value::Int64(number) => self.number(number.to_le_bytes()),
            Value::Uint64(number) => self.number(number.to_le_bytes()),
            Value::Double(number) => self.number(number.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => self.text(text),
            Value::Signature(text) => self.signature(text),
            Value::Array(element, values) => {
                self.u32(0);
                let length_at = self.bytes.len() - 4;
                // The padding before the first element does not count as part of the array.
                self.pad(alignment(element.bytes().next().unwrap_or(b'y')));
                let start = self.bytes.len();
                values.iter().for_each(|value| self.value(value));
                let length = (self.bytes.len() - start) as u32;
                self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => {
                self.pad(8);
                fields.iter().for_each(|field| self.value(field));
            }
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
        }
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.pad(N);
        self.bytes.extend(bytes);
    }
}
