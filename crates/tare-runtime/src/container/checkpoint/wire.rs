//! Protocol buffers, as far as `criu swrk` speaks them: numbers, switches, text, and messages within messages.
//!
//! A message is a row of fields; each begins with its number and its type, three bits of it, as a number of seven
//! bits a byte (protobuf.dev, "Encoding"). Which field is what, CRIU's `images/rpc.proto` says. That is all there is
//! to it, so no library and no compiler for such files is needed.

use tare_sys::{Error, Kind, Result};

/// A number in seven-bit groups.
const NUMBER: u64 = 0;
/// Bytes, after their length.
const BYTES: u64 = 2;

/// A message in the making.
#[derive(Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds a number, or a value of an enumeration.
    pub fn number(mut self, field: u32, value: u64) -> Message {
        self.put(u64::from(field) << 3 | NUMBER);
        self.put(value);
        self
    }

    /// Adds a switch, if it is on: none are on without being said.
    pub fn switch(self, field: u32, on: bool) -> Message {
        if on { self.number(field, 1) } else { self }
    }

    /// Adds text, a path, or another message.
    pub fn bytes(mut self, field: u32, bytes: impl AsRef<[u8]>) -> Message {
        let bytes = bytes.as_ref();
        self.put(u64::from(field) << 3 | BYTES);
        self.put(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// One field of a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number; a negative one fills all 64 bits.
    Number(u64),
    /// Text, or another message.
    Bytes(&'a [u8]),
}

/// Takes a message apart: the number of each field, and what is in it.
pub fn fields(mut rest: &[u8]) -> Result<Vec<(u32, Value<'_>)>> {
    let broken = || Error::new(Kind::Corrupt, "a message of criu's makes no sense");
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = take_number(&mut rest).ok_or_else(broken)?;
        let field = u32::try_from(key >> 3).map_err(|_| broken())?;
        let value = match key & 7 {
            NUMBER => Value::Number(take_number(&mut rest).ok_or_else(broken)?),
            BYTES => {
                let length = take_number(&mut rest).and_then(|length| usize::try_from(length).ok());
                let (bytes, after) =
                    length.and_then(|length| rest.split_at_checked(length)).ok_or_else(broken)?;
                rest = after;
                Value::Bytes(bytes)
            }
            _ => return Err(broken()),
        };
        fields.push((field, value));
    }
    Ok(fields)
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_standard() {
        // The examples of protobuf.dev, "Encoding".
        assert_eq!(Message::default().number(1, 150).as_ref(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().bytes(2, "testing").as_ref(), b"\x12\x07testing");
        let inner = Message::default().number(1, 150);
        assert_eq!(Message::default().bytes(3, inner).as_ref(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().switch(3, true).switch(4, false).as_ref(), [0x18, 0x01]);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let minus_one = i64::from(-1_i32) as u64;
        let message = Message::default().number(7, minus_one).bytes(64, "x").number(1, 0);
        let read = fields(message.as_ref()).unwrap();
        assert_eq!(read, [(7, Value::Number(u64::MAX)), (64, Value::Bytes(b"x")), (1, Value::Number(0))]);
    }

    #[test]
    fn a_broken_message_is_an_error() {
        for bytes in [&[0x08][..], &[0x80], &[0x12, 5, b'x'], &[0x0d, 0, 0, 0, 0], &[0xff; 11], &[0x12, 0xff]]
        {
            assert_eq!(fields(bytes).unwrap_err().kind(), Kind::Corrupt, "{bytes:?}");
        }
    }
}
