//! Golden bytes, hostile replies, and a bus of our own that hangs, closes and lies.

use std::os::unix::net::UnixListener;
use std::thread;

use proptest::prelude::*;

use super::value::Writer;
use super::*;

const HELLO: Call<'static> = Call {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "Hello",
};

/// What `dbus-send` and sd-bus send for Hello, field for field as the standard lays it out.
#[test]
fn a_call_is_the_bytes_of_the_standard() {
    let mut golden = Vec::new();
    golden.extend(b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x6d\x00\x00\x00");
    golden.extend(b"\x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00");
    golden.extend(b"\x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00");
    golden.extend(b"\x03\x01s\x00\x05\x00\x00\x00Hello\x00\x00\x00");
    golden.extend(b"\x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00");
    assert_eq!(message::encode(1, &HELLO, &[]), golden);
    assert_eq!(message::length(&golden).unwrap(), Some(golden.len()));
}

#[test]
fn values_are_aligned_as_the_standard_says() {
    let mut writer = Writer::default();
    writer.value(&Value::Byte(7));
    writer.value(&Value::Uint64(1));
    writer.value(&Value::strings(["ab"]));
    // The padding to 8 before the first struct is not counted in the array's length.
    writer.value(&Value::Array("(sv)".into(), vec![]));
    let golden = b"\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\
                   \x07\0\0\0\x02\0\0\0ab\0\0\
                   \0\0\0\0";
    assert_eq!(writer.bytes, golden);
    let mut writer = Writer::default();
    writer.value(&Value::Variant(Box::new(Value::Bool(true))));
    assert_eq!(writer.bytes, b"\x01b\0\0\x01\0\0\0");
}

fn samples() -> Vec<Value> {
    vec![
        Value::Byte(1),
        Value::Bool(true),
        Value::Int16(-2),
        Value::Uint16(3),
        Value::Int32(-4),
        Value::Uint32(5),
        Value::Int64(-6),
        Value::Uint64(u64::MAX),
        Value::Double(0.5),
        Value::str("text"),
        Value::Path("/a/b".into()),
        Value::Signature("a{sv}".into()),
        Value::strings(["x", ""]),
        Value::bytes(&[1, 2, 3]),
        Value::Array(
            "(sv)".into(),
            vec![Value::Struct(vec![
                Value::str("k"),
                Value::Variant(Box::new(Value::Array("(ss)".into(), vec![]))),
            ])],
        ),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let call = message::encode(9, &HELLO, &samples());
    let message = message::decode(&call).unwrap();
    assert_eq!((message.sort, message.member.as_str()), (Sort::Call, "Hello"));
    assert_eq!(message.body, samples());
    // And no piece of it is taken for the whole, nor does it panic.
    for end in 0..call.len() {
        assert!(message::decode(&call[..end]).is_err(), "{end}");
    }
}

/// A reply to call 1 with this signature and body.
fn reply(signature: &str, body: &[u8]) -> Vec<u8> {
    let field = |code, value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
    let fields = vec![field(5, Value::Uint32(1)), field(8, Value::Signature(signature.into()))];
    let mut writer = Writer::default();
    writer.bytes.extend([b'l', 2, 0, 1]);
    writer.u32(body.len() as u32);
    writer.u32(1);
    writer.value(&Value::Array("(yv)".into(), fields));
    writer.pad(8);
    writer.bytes.extend(body);
    writer.bytes
}

#[test]
fn hostile_messages_are_refused() {
    let nested = "a".repeat(200) + "y";
    let structs = "(".repeat(100) + "y" + &")".repeat(100);
    for (signature, body) in [
        ("s", &b"\xff\xff\xff\xff"[..]),
        ("s", b"\x02\0\0\0ab"),
        ("s", b"\x02\0\0\0abX"),
        ("s", b"\x01\0\0\0\xff\0"),
        ("ay", b"\xff\xff\xff\x7f"),
        ("a()", b"\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("at", b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("a", b"\0\0\0\0"),
        ("(", b"\0"),
        ("()", b""),
        ("b", b"\x02\0\0\0"),
        ("v", b"\x02yy\0\0\0"),
        ("v", b"\x00\0"),
        ("y", b"\0\0"),
        ("", b"\0"),
        (&nested, b"\0\0\0\0"),
        (&structs, b"\0"),
    ] {
        assert!(message::decode(&reply(signature, body)).is_err(), "{signature} {body:?}");
    }
    // A variant in a variant in a variant…
    let bottomless = b"\x01v\0".repeat(500);
    assert!(message::decode(&reply("v", &bottomless)).is_err());
    assert!(message::length(b"l\x02\0\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0").is_err());
    assert!(message::length(b"X\x02\0\x01\0\0\0\0\0\0\0\0\0\0\0\0").is_err());
    assert!(message::decode(&reply("y", b"\x05")).is_ok());
}

#[test]
fn big_endian_is_read() {
    let bytes = b"B\x02\0\x01\0\0\0\x04\0\0\0\x01\0\0\0\x0f\
                  \x05\x01u\0\0\0\0\x01\x08\x01g\0\x01u\0\0\
                  \0\0\x01\0";
    let message = message::decode(bytes).unwrap();
    assert_eq!((message.reply_to, message.body), (1, vec![Value::Uint32(256)]));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = message::length(&bytes);
        let _ = message::decode(&bytes);
    }

    #[test]
    fn no_body_makes_it_panic(signature in "[ybnqiuxtdsogvah(){}]{0,12}", body in proptest::collection::vec(0u8..9, 0..64)) {
        let _ = message::decode(&reply(&signature, &body));
    }

    #[test]
    fn no_changed_byte_makes_it_panic(at in 0usize..400, byte in any::<u8>()) {
        let mut call = message::encode(9, &HELLO, &samples());
        let at = at % call.len();
        call[at] = byte;
        let _ = message::length(&call);
        let _ = message::decode(&call);
    }
}

/// A bus that says `script` after the authentication, and then is silent or closes.
fn bus(script: &'static [u8], close: bool, patience: Duration) -> Result<Bus> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let _folder = folder;
        let (mut peer, _) = listener.accept().unwrap();
        let mut word = [0; 64];
        let _ = peer.read(&mut word);
        let _ = peer.write_all(script);
        while !close && peer.read(&mut word).is_ok_and(|count| count > 0) {}
    });
    Bus::connect(&Address::Path(path.to_str().unwrap().to_owned()), patience)
}

#[test]
fn every_wait_has_an_end() {
    let patience = Duration::from_millis(200);
    let start = Instant::now();
    let err = bus(b"", false, patience).unwrap_err();
    assert_eq!(err.errno(), Some(Errno::TIMEDOUT), "{err:?}");
    let mut silent = bus(b"DATA\r\nOK 123\r\n", false, patience).unwrap();
    let err = silent.call(&HELLO, &[]).unwrap_err();
    assert_eq!(err.errno(), Some(Errno::TIMEDOUT), "{err:?}");
    assert!(err.to_string().contains("Hello") && err.hint_text().is_some(), "{err:?}");
    let err = silent.signal().unwrap_err();
    assert_eq!(err.errno(), Some(Errno::TIMEDOUT), "{err:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_bus_that_refuses_closes_or_babbles_is_an_error() {
    let patience = Duration::from_secs(5);
    let err = bus(b"REJECTED EXTERNAL\r\n", false, patience).unwrap_err();
    assert_eq!(err.kind(), Kind::Permission);
    assert!(bus(b"OK 1", true, patience).is_err());
    static ENDLESS: [u8; MAX_LINE * 2] = [b'x'; MAX_LINE * 2];
    assert_eq!(bus(&ENDLESS, false, patience).unwrap_err().kind(), Kind::Corrupt);
    let mut babbling = bus(b"OK 1\r\nnonsense that is no message at all", false, patience).unwrap();
    assert_eq!(babbling.call(&HELLO, &[]).unwrap_err().kind(), Kind::Corrupt);
    let absent = Address::Path("/nowhere/bus".into());
    assert_eq!(Bus::connect(&absent, patience).unwrap_err().kind(), Kind::NotFound);
}
