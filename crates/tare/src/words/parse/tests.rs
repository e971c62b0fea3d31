use super::*;

#[test]
fn sizes() {
    let table = [
        ("512", 512),
        ("0", 0),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("1.5g", 3 << 29),
        (".5k", 512),
        ("5.k", 5120),
        ("1.1k", 1126),
        ("100b", 100),
        ("1t", 1 << 40),
        ("7p", 7 << 50),
        ("0000000000000000000000000000000001k", 1024),
        ("0.00000000000000000000000000000001", 0),
        ("9223372036854775807", i64::MAX),
    ];
    for (text, value) in table {
        assert_eq!(bytes(text), Ok(value), "{text}");
    }
    for text in [
        "", "m", "abc", "64x", "64mm", "64bb", "64ib", "6 4m", "1.2.3m", "1e3", "+1", "٣m", "64m ", ".",
        "0x1",
    ] {
        assert!(bytes(text).unwrap_err().starts_with("it is not a size"), "{text}");
    }
    for text in ["9223372036854775808", "8192p", "99999999999999999999999999", "9007199254740993k"] {
        assert_eq!(bytes(text), Err("it is too large".to_owned()), "{text}");
    }
    assert_eq!(bytes("-1"), Err("it cannot be negative".to_owned()));
    assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
    assert!(bytes_or_unlimited("-2").is_err());
}

#[test]
fn processors() {
    let table = [("1.5", 1_500_000_000), ("0.000000001", 1), ("2", 2_000_000_000), (".5", 500_000_000)];
    for (text, value) in table {
        assert_eq!(cpus(text), Ok(value), "{text}");
    }
    assert_eq!(cpus("1.0000000001"), Err("it has more than 9 decimal places".to_owned()));
    assert_eq!(cpus("1.0000000000000000000000"), Ok(1_000_000_000));
    for text in ["", "-1", "two", "1e3", "99999999999"] {
        assert!(cpus(text).is_err(), "{text}");
    }
}

#[test]
fn numbers_and_switches() {
    assert_eq!(number(-1000, 1000)("-1000"), Ok(-1000));
    assert_eq!(number(-1000, 1000)("1001"), Err("it must be from -1000 to 1000".to_owned()));
    assert_eq!(number(-1, i64::MAX)("-2"), Err("the least is -1".to_owned()));
    assert_eq!(number(0, 9)("x"), Err("it is not a whole number".to_owned()));
    assert_eq!((boolean("T"), boolean("0")), (Ok(true), Ok(false)));
    assert!(boolean("yes").is_err());
}

#[test]
fn variables_and_labels() {
    let caller = |name: &str| (name == "HOME").then(|| "/root".to_owned());
    let table = [("A=b=c", "A=b=c"), ("A=", "A="), ("HOME", "HOME=/root"), ("GONE", "GONE")];
    for (text, value) in table {
        assert_eq!(variable(caller)(text), Ok(value.to_owned()));
    }
    assert!(variable(caller)("=x").is_err() && variable(caller)("").is_err());
    assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
    assert_eq!(label("a"), Ok(("a".to_owned(), String::new())));
    assert!(label("=b").is_err() && label("").is_err());
    assert_eq!(pair("sysctl")("a"), Err("there is no = after the sysctl".to_owned()));
    assert_eq!(pair("sysctl")("=a"), Err("the sysctl is empty".to_owned()));
}

#[test]
fn namespaces() {
    let parse = mode(&["private", "host"], true);
    for text in ["", "private", "host", "container:web"] {
        assert_eq!(parse(text), Ok(text.to_owned()));
    }
    assert_eq!(parse("shared"), Err("it can be private, host or container:NAME".to_owned()));
    assert_eq!(parse("container:"), Err("there is no container after container:".to_owned()));
    assert_eq!(mode(&["host"], false)("container:web"), Err("it can be host".to_owned()));
}

#[test]
fn hosts_and_streams() {
    let table = [
        ("db:10.0.0.1", "db:10.0.0.1"),
        ("db=10.0.0.1", "db:10.0.0.1"),
        ("db:::1", "db:::1"),
        ("db=[fe80::1]", "db:fe80::1"),
    ];
    for (text, value) in table {
        assert_eq!(extra_host(text), Ok(value.to_owned()), "{text}");
    }
    for text in ["", "db", ":10.0.0.1", "db:", "db:example"] {
        assert!(extra_host(text).is_err(), "{text}");
    }
    assert_eq!(ip("1.1.1.1"), Ok("1.1.1.1".to_owned()));
    assert_eq!(stream("STDIN"), Ok("stdin".to_owned()));
    assert!(stream("stdlog").is_err());
}

/// The parsers see whatever a shell passes on.
#[test]
fn nothing_panics() {
    let odd = [
        "",
        "=",
        ":",
        "::",
        ":::",
        ",",
        "\"",
        "\"\"",
        "\u{feff}",
        "ä",
        "=ä=ä",
        "/ä:/ö:ü",
        "\0",
        "-",
        "+",
        ".",
    ];
    for left in odd {
        for right in odd {
            let text = format!("{left}{right}");
            let _ = (boolean(&text), bytes(&text), cpus(&text), label(&text), extra_host(&text), ip(&text));
            let _ = (pair("x")(&text), mode(&["x"], true)(&text), number(0, 1)(&text), stream(&text));
            let _ = (device::device(&text), device::ulimit(&text), device::rule(&text));
            let _ = (device::byte_rate(&text), device::operation_rate(&text), clock::offsets(&text));
            let _ = (mount::mount(&text), mount::volume(&text), mount::tmpfs(&text));
            let _ = (file::variables(text.as_bytes(), |_| None), file::labels(text.as_bytes()));
        }
    }
}
