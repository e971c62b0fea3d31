//! Files of environment variables and of labels: a line each, in Docker's format.
//!
//! Blank lines and lines that begin with `#` do not count. Quotes are part of the value, and so is everything
//! after the first `=`, spaces included.

use super::Parsed;

/// `KEY=value` lines; `KEY` alone is what `caller` has under that name, or nothing.
pub fn variables(text: &[u8], caller: impl Fn(&str) -> Option<String>) -> Parsed<Vec<String>> {
    let mut found = Vec::new();
    for line in lines(text)? {
        let (key, value) = line?;
        if let Some(value) = value.map(str::to_owned).or_else(|| caller(key)) {
            found.push(format!("{key}={value}"));
        }
    }
    Ok(found)
}

/// `KEY=value` lines; `KEY` alone is an empty label.
pub fn labels(text: &[u8]) -> Parsed<Vec<(String, String)>> {
    let pairs =
        lines(text)?.map(|line| line.map(|(key, value)| (key.to_owned(), value.unwrap_or("").to_owned())));
    pairs.collect()
}

fn lines(text: &[u8]) -> Parsed<impl Iterator<Item = Parsed<(&str, Option<&str>)>>> {
    let text = std::str::from_utf8(text).map_err(|err| {
        let line = text[..err.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })?;
    let numbered = text.strip_prefix('\u{feff}').unwrap_or(text).lines().zip(1..);
    Ok(numbered.filter_map(|(line, number): (&str, u32)| {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (line.trim_end(), None),
        };
        Some(match () {
            () if key.is_empty() => Err(format!("line {number} has no name before the =")),
            () if key.contains(char::is_whitespace) => {
                Err(format!("line {number} has a space in the name {key:?}"))
            }
            () => Ok((key, value)),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    #[test]
    fn reads_dockers_format() {
        let text = "\u{feff}# a comment\n\nA=b\r\n  B= \"x\" # y \nHOME\nGONE\nC=\nD=a=b";
        let found = variables(text.as_bytes(), caller).unwrap();
        assert_eq!(found, ["A=b", "B= \"x\" # y ", "HOME=/root", "C=", "D=a=b"]);
        let found = labels(b"a=b\nc\n#d").unwrap();
        assert_eq!(found, [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
    }

    #[test]
    fn says_which_line_is_wrong() {
        let table: [(&[u8], &str); 4] = [
            (b"A=b\n=c", "line 2 has no name before the ="),
            (b"#\nA B=c", "line 2 has a space in the name \"A B\""),
            (b"A =c", "line 1 has a space in the name \"A \""),
            (b"A=b\nB=\xff", "line 2 is not UTF-8"),
        ];
        for (text, why) in table {
            assert_eq!(variables(text, caller), Err(why.to_owned()));
        }
    }
}
