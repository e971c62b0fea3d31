//! PAX extended headers: `LENGTH KEY=VALUE\n`, one after the other.
//!
//! Records are cut by their length, not at line ends, because values are binary: a `security.capability` may
//! well hold a `\n`. Global headers (type `g`) are skipped, as Docker skips them.

use super::sparse::Piece;

/// The records that matter here, as found; the last of a kind wins, an empty value takes it back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    /// Name without `SCHILY.xattr.`, and value.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What `GNU.sparse.` records say, where there are any.
    pub(super) sparse: Option<PaxSparse>,
}

/// The records of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    /// 0 for the formats 0.0 and 0.1, whose map is here; 1 where the map is in front of the data.
    pub(super) major: u64,
    pub(super) minor: u64,
    /// Bytes of the file, holes included.
    pub(super) size: Option<u64>,
    /// The file's own name; `path` then says something else, for tars that know nothing of this.
    pub(super) name: Option<Vec<u8>>,
    /// Format 0.
    pub(super) pieces: Vec<Piece>,
    /// Where the piece begins whose length comes next.
    begun: Option<u64>,
}

/// Reads the data of an extended header.
pub(super) fn parse(mut data: &[u8]) -> Result<Pax, String> {
    let mut pax = Pax::default();
    while !data.is_empty() {
        let (key, value, rest) = record(data).ok_or("a PAX record is malformed")?;
        data = rest;
        match key {
            b"path" => pax.path = text("path", value)?,
            b"linkpath" => pax.link = text("linkpath", value)?,
            b"size" => pax.size = whole("size", value)?,
            b"uid" => pax.uid = whole("uid", value)?,
            b"gid" => pax.gid = whole("gid", value)?,
            b"mtime" if value.is_empty() => pax.mtime = None,
            b"mtime" => pax.mtime = Some(time(value).ok_or("the PAX mtime is not a number")?),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    sparse(pax.sparse.get_or_insert_default(), key, value)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err("an extended attribute has no usable name".to_owned());
                    }
                    pax.xattrs.retain(|(known, _)| known != name);
                    pax.xattrs.push((name.to_owned(), value.to_owned()));
                }
            }
        }
    }
    Ok(pax)
}

fn sparse(sparse: &mut PaxSparse, key: &[u8], value: &[u8]) -> Result<(), String> {
    let number = || digits(value).ok_or("a record of its sparse file is not a number");
    match key {
        b"major" => sparse.major = number()?,
        b"minor" => sparse.minor = number()?,
        b"size" | b"realsize" => sparse.size = Some(number()?),
        b"name" => sparse.name = text("GNU.sparse.name", value)?,
        b"offset" if sparse.begun.is_none() => sparse.begun = Some(number()?),
        b"numbytes" => {
            let at = sparse.begun.take().ok_or("the map of its sparse file has a length without a place")?;
            sparse.pieces.push(Piece { at, length: number()? });
        }
        b"offset" => return Err("the map of its sparse file has a place without a length".to_owned()),
        b"map" => {
            let numbers: Option<Vec<u64>> = match value {
                b"" => Some(Vec::new()),
                value => value.split(|b| *b == b',').map(digits).collect(),
            };
            let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0);
            let numbers = numbers.ok_or("the map of its sparse file is not made of pairs of numbers")?;
            let pairs = numbers.chunks_exact(2).map(|pair| Piece { at: pair[0], length: pair[1] });
            sparse.pieces = pairs.collect();
        }
        // How many pieces there are (`numblocks`) can be seen.
        _ => {}
    }
    Ok(())
}

/// Key, value and what follows.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // Twenty digits are more than any length here; they also keep the search short.
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(digits(&data[..space])?).ok()?;
    if length > data.len() || length < space + 2 {
        return None;
    }
    let (record, rest) = data.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, b| match b {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

fn text(key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if value.contains(&0) {
        return Err(format!("the PAX {key} holds a NUL"));
    }
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

fn whole(key: &str, value: &[u8]) -> Result<Option<u64>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    digits(value).map(Some).ok_or_else(|| format!("the PAX {key} is not a number"))
}

/// `[-]seconds[.fraction]`, cut to nanoseconds, clamped to what 64 bits hold.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let dot = value.iter().position(|b| *b == b'.').unwrap_or(value.len());
    let (seconds, fraction) = (&value[..dot], value.get(dot + 1..).unwrap_or_default());
    if seconds.is_empty() || !value[..dot].iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits(seconds).and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(i64::MAX);
    let nanoseconds = (0..9)
        .fold(0u32, |value, at| value * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0')));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        // -1.25 is 0.75 seconds after -2.
        (true, _) => ((-seconds).saturating_sub(1), 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn binary_values_do_not_lead_astray() {
        let mut data = Vec::new();
        for (key, value) in [
            (&b"SCHILY.xattr.security.capability"[..], &b"\n1 =\n"[..]),
            (b"path", b"a\nb"),
            (b"mtime", b"5"),
        ] {
            let body = key.len() + value.len() + 3;
            let length = body + (body + 2).to_string().len();
            data.extend_from_slice(format!("{length} ").as_bytes());
            data.extend_from_slice(&[key, b"=", value, b"\n"].concat());
        }
        let pax = parse(&data).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(pax.xattrs, [(b"security.capability".to_vec(), b"\n1 =\n".to_vec())]);
        assert_eq!(pax.mtime, Some((5, 0)));
    }

    #[test]
    fn times() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"0.1234567899"), Some((0, 123_456_789)));
        assert_eq!(time(b"99999999999999999999"), Some((i64::MAX, 0)));
        assert_eq!(time(b"-99999999999999999999.9"), Some((i64::MIN, 100_000_000)));
        for bad in [&b""[..], b".5", b"1.x", b"1e400", b"--1", b" 1"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn malformed_records() {
        for bad in [
            &b"x"[..],
            b"0 a=b\n",
            b"99 a=b\n",
            b"6 a=b",
            b"5 a=b\n",
            b"6 =bc\n",
            b"6 abc\n",
            b"99999999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b"9 size=x\n",
            b"9 path=\0\n",
            b"-6 a=b\n",
            b"23 GNU.sparse.offset=x\n",
            b"25 GNU.sparse.numbytes=1\n",
            b"20 GNU.sparse.map=1\n",
            b"22 GNU.sparse.map=1,x\n",
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn never_panics(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&data);
        }

        #[test]
        fn never_panics_near_the_truth(data in "([0-9]{1,3} (path|size|mtime|SCHILY.xattr.a|GNU.sparse.(map|offset))=[0-9.,\n-]{0,9}\n){0,4}") {
            let _ = parse(data.as_bytes());
        }
    }
}
