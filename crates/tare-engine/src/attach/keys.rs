//! The keys that leave a terminal and let its container go on: `ctrl-p,ctrl-q`, unless others are asked for.

use tare_sys::{Error, Kind, Result};

/// A sequence of keys, and how much of it has been typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    sequence: Vec<u8>,
    typed: usize,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys { sequence: vec![16, 17], typed: 0 }
    }
}

impl Keys {
    /// Reads `ctrl-a,d`: letters, digits and other characters, and `ctrl-` with one of `a-z`, `@`, `[`, `\\`, `]`, `^`, `_`.
    pub fn parse(text: &str) -> Result<Keys> {
        let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
            (None, [key]) => Some(*key),
            (Some(control), _) => match control.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(sign - b'@'),
                _ => None,
            },
            _ => None,
        };
        let sequence: Option<Vec<u8>> = text.split(',').map(key).collect();
        let sequence = sequence.ok_or_else(|| {
            Error::new(Kind::Usage, format!("invalid detach keys ({text})"))
                .hint("write them like this: ctrl-p,ctrl-q or ctrl-a,d")
        })?;
        Ok(Keys { sequence, typed: 0 })
    }

    /// Looks for the sequence in what was typed. What may be its beginning is held back; once it is complete, `typed` ends
    /// before it.
    pub fn find(&mut self, typed: &mut Vec<u8>) -> bool {
        let mut passed = Vec::with_capacity(typed.len());
        for key in std::mem::take(typed) {
            if self.sequence.get(self.typed) != Some(&key) && self.typed > 0 {
                passed.extend_from_slice(&self.sequence[..self.typed]);
                self.typed = 0;
            }
            if self.sequence.get(self.typed) == Some(&key) {
                self.typed += 1;
                if self.typed == self.sequence.len() {
                    self.typed = 0;
                    *typed = passed;
                    return true;
                }
            } else {
                passed.push(key);
            }
        }
        *typed = passed;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q").unwrap(), Keys::default());
        assert_eq!(Keys::parse("ctrl-a,d").unwrap().sequence, [1, b'd']);
        assert_eq!(Keys::parse("ctrl-@").unwrap().sequence, [0]);
        for wrong in ["", ",", "ctrl-", "ctrl-ä", "ctrl-1", "shift-a", "ab", "ctrl-p,"] {
            assert_eq!(Keys::parse(wrong).unwrap_err().kind(), Kind::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_nothing_else_is_lost() {
        let mut keys = Keys::default();
        let mut feed = |text: &[u8]| {
            let mut typed = text.to_vec();
            (keys.find(&mut typed), typed)
        };
        assert_eq!(feed(b"abc"), (false, b"abc".to_vec()));
        assert_eq!(feed(b"x\x10"), (false, b"x".to_vec()), "held back");
        assert_eq!(feed(b"y"), (false, b"\x10y".to_vec()));
        assert_eq!(feed(b"\x10\x10"), (false, b"\x10".to_vec()));
        assert_eq!(feed(b"\x11rest"), (true, Vec::new()));
    }
}
