//! Messages: a header of fixed fields, an array of optional ones, and a body.

use tare_sys::Result;

use super::MAX_MESSAGE;
use super::read::{Reader, broken};
use super::value::{Value, Writer, signature_of};

// Header fields, by the numbers of the standard.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Call,
    Reply,
    Error,
    Signal,
}

/// A method to call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// The bus name of the service.
    pub service: &'a str,
    /// The object.
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

/// A message that was received.
#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub sort: Sort,
    /// The serial number of the call that it answers; 0 for none.
    pub reply_to: u32,
    pub interface: String,
    pub member: String,
    /// The error's name.
    pub error: String,
    pub body: Vec<Value>,
}

/// A call as bytes.
pub(crate) fn encode(serial: u32, call: &Call<'_>, body: &[Value]) -> Vec<u8> {
    let mut content = Writer::default();
    body.iter().for_each(|value| content.value(value));

    let field = |code, value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
    let mut fields = vec![
        field(PATH, Value::Path(call.path.to_owned())),
        field(INTERFACE, Value::str(call.interface)),
        field(MEMBER, Value::str(call.member)),
        field(DESTINATION, Value::str(call.service)),
    ];
    if !body.is_empty() {
        fields.push(field(SIGNATURE, Value::Signature(signature_of(body))));
    }
    let mut message = Writer::default();
    // Little-endian, a method call, no flags, protocol version 1.
    message.bytes.extend([b'l', 1, 0, 1]);
    message.u32(content.bytes.len() as u32);
    message.u32(serial);
    message.value(&Value::Array("(yv)".to_owned(), fields));
    message.pad(8);
    message.bytes.extend(content.bytes);
    message.bytes
}

/// How long the message is that begins with `bytes`; `None` while there is too little of it to say.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.get(..16) else {
        return Ok(None);
    };
    let big_endian = match head[0] {
        b'l' => false,
        b'B' => true,
        _ => return Err(broken("it does not begin as one")),
    };
    let mut numbers = Reader::new(head, big_endian);
    let _start = numbers.u32()?;
    let (body, _serial, fields) = (numbers.u32()? as usize, numbers.u32()?, numbers.u32()? as usize);
    if body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(broken("longer than 1 MiB"));
    }
    Ok(Some((16 + fields).next_multiple_of(8) + body))
}

/// Reads a whole message.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message> {
    if length(bytes)? != Some(bytes.len()) {
        return Err(broken("it is not as long as it says"));
    }
    let big_endian = bytes[0] == b'B';
    let sort = match bytes[1] {
        1 => Sort::Call,
        2 => Sort::Reply,
        3 => Sort::Error,
        4 => Sort::Signal,
        _ => return Err(broken("an unknown sort of message")),
    };
    let mut head = Reader::new(bytes, big_endian);
    let header = head.values("uuua(yv)")?;
    head.pad(8)?;
    let mut message = Message {
        sort,
        reply_to: 0,
        interface: String::new(),
        member: String::new(),
        error: String::new(),
        body: Vec::new(),
    };
    let mut signature = String::new();
    let Some(Value::Array(_, fields)) = header.into_iter().nth(3) else {
        return Err(broken("no header fields"));
    };
    for field in fields {
        let Value::Struct(parts) = field else { continue };
        let [Value::Byte(code), Value::Variant(value)] = parts.as_slice() else { continue };
        match (code, value.as_ref()) {
            (&INTERFACE, Value::Str(name)) => message.interface = name.clone(),
            (&MEMBER, Value::Str(name)) => message.member = name.clone(),
            (&ERROR_NAME, Value::Str(name)) => message.error = name.clone(),
            (&REPLY_SERIAL, Value::Uint32(serial)) => message.reply_to = *serial,
            (&SIGNATURE, Value::Signature(text)) => signature = text.clone(),
            // The standard: an unknown field is ignored.
            _ => {}
        }
    }
    // The body begins at a multiple of 8, so its own alignment may count from there or from the start.
    message.body = head.values(&signature)?;
    match head.done() {
        true => Ok(message),
        false => Err(broken("more in it than its signature says")),
    }
}
