//! Where a bus is: the part of the standard's "server addresses" that names a unix socket.

use std::fmt;

/// A unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// In the file system.
    Path(String),
    /// In Linux's abstract namespace, without the leading NUL.
    Abstract(String),
}

impl Address {
    /// The first unix socket of a list such as `unix:path=/run/user/1000/bus,guid=…;tcp:…`.
    pub(crate) fn parse(list: &str) -> Option<Address> {
        list.split(';').find_map(|address| {
            let (transport, keys) = address.split_once(':')?;
            if transport != "unix" {
                return None;
            }
            keys.split(',').find_map(|pair| match pair.split_once('=')? {
                ("path", value) => Some(Address::Path(unescape(value)?)),
                ("abstract", value) => Some(Address::Abstract(unescape(value)?)),
                _ => None,
            })
        })
    }
}

/// `%2f` is `/`. None where the escape is broken or the result is no text.
fn unescape(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains('\0'))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Path(path) => f.write_str(path),
            Address::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_first_unix_socket() {
        let path = |text: &str| Some(Address::Path(text.to_owned()));
        assert_eq!(Address::parse("unix:path=/run/user/0/bus"), path("/run/user/0/bus"));
        assert_eq!(Address::parse("tcp:host=x;unix:guid=1,path=/a%20b"), path("/a b"));
        assert_eq!(Address::parse("unix:abstract=x"), Some(Address::Abstract("x".into())));
        for bad in [
            "",
            "unix",
            "unix:",
            "unix:path=",
            "unix:path=%",
            "unix:path=%zz",
            "unix:path=/a%00",
            "tcp:host=x",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }
}
