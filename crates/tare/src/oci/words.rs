//! The words of a call, sorted by a table of options.
//!
//! Not clap's work here, for two reasons: runtimes are called with Go's spelling as well (`-bundle DIR`), and this
//! is the start path: clap takes longer to build its tables than runc's whole grammar takes to read.
//!
//! A word with one or two dashes is an option if its name is in the table; with one dash it may also be letters in
//! a row, the last of which may have its value right behind it (`-dt`, `-eA=b`). Options may stand before and
//! after other words, until `--` or until the words belong to somebody else.

use tare_sys::{Error, Kind, Result};

use crate::words::flag::{Flag, Takes, Typed, WORDS};

/// What was typed.
#[derive(Debug, Default)]
pub struct Words {
    /// Names of options and their values, in order.
    options: Vec<(&'static str, String)>,
    /// Everything else.
    pub words: Vec<String>,
    /// Help was asked for.
    pub help: bool,
}

impl Typed for Words {
    fn last(&self, long: &str) -> Option<&str> {
        self.options.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    fn all(&self, long: &str) -> Vec<&str> {
        if long == WORDS {
            return self.words.iter().map(String::as_str).collect();
        }
        self.options.iter().filter(|(name, _)| *name == long).map(|(_, value)| value.as_str()).collect()
    }
}

/// Sorts words. With `end_at_first`, everything after the first word that is no option is words, whatever it
/// looks like.
pub fn sort(mut typed: &[String], flags: &'static [Flag], end_at_first: bool) -> Result<Words> {
    let mut sorted = Words::default();
    while let Some((word, rest)) = typed.split_first() {
        if word != "--" && is_option(word) {
            typed = sorted.take(word, rest, flags)?;
            continue;
        }
        if word != "--" {
            sorted.words.push(word.clone());
        }
        typed = rest;
        if word == "--" || end_at_first {
            sorted.words.extend_from_slice(rest);
            break;
        }
    }
    Ok(sorted)
}

/// A lone dash is standard input.
fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

impl Words {
    /// Takes one word of options; answers with the words after it and its value.
    fn take<'a>(&mut self, word: &str, next: &'a [String], flags: &'static [Flag]) -> Result<&'a [String]> {
        let body = word.trim_start_matches('-');
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let double = word.starts_with("--");
        if let Some(flag) = flags.iter().find(|flag| flag.long == name) {
            return self.set(flag, value.map(str::to_owned), next);
        }
        if matches!(name, "help" | "h" | "?") && !(name == "h" && letter(flags, 'h').is_some()) {
            self.help = true;
            return Ok(next);
        }
        if double {
            return Err(unknown(&format!("--{name}")));
        }
        // Letters in a row.
        let mut letters = body.chars();
        while let Some(short) = letters.next() {
            let Some(flag) = letter(flags, short) else { return Err(unknown(&format!("-{short}"))) };
            let rest = letters.as_str();
            let equals = rest.strip_prefix('=');
            if flag.takes == Takes::Nothing && equals.is_none() {
                self.options.push((flag.long, "true".to_owned()));
                continue;
            }
            let value = equals.or(Some(rest).filter(|rest| !rest.is_empty()));
            return self.set(flag, value.map(str::to_owned), next);
        }
        Ok(next)
    }

    fn set<'a>(
        &mut self,
        flag: &'static Flag,
        value: Option<String>,
        next: &'a [String],
    ) -> Result<&'a [String]> {
        let (value, rest) = match (value, flag.takes) {
            (Some(value), _) => (value, next),
            (None, Takes::Nothing) => ("true".to_owned(), next),
            // The next word is the value even if it begins with a dash: `--memory-swap -1`.
            (None, _) => match next.split_first() {
                Some((value, rest)) => (value.clone(), rest),
                None => {
                    let error = Error::new(Kind::Usage, format!("flag needs a value: --{}", flag.long));
                    return Err(error.hint(format!("for example: --{} {}", flag.long, flag.example)));
                }
            },
        };
        self.options.push((flag.long, value));
        Ok(rest)
    }
}

fn letter(flags: &'static [Flag], short: char) -> Option<&'static Flag> {
    flags.iter().find(|flag| flag.short == Some(short))
}

fn unknown(spelling: &str) -> Error {
    Error::new(Kind::Usage, format!("unknown flag: {}", crate::print::terminal::harmless(spelling)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::flag::Given;

    static FLAGS: [Flag; 5] = [
        Flag::one("bundle", "DIR", "/b", "").short('b'),
        Flag::switch("detach", "").short('d'),
        Flag::many("env", "A=b", "").short('e'),
        Flag::one("pid-file", "FILE", "/p", ""),
        Flag::one("process", "FILE", "/p", "").short('p'),
    ];

    fn sorted(words: &[&str], end_at_first: bool) -> Result<Words> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        sort(&words, &FLAGS, end_at_first)
    }

    #[test]
    fn options_stand_before_and_after_words_in_gos_and_gnus_spelling() {
        for words in [
            &["--bundle", "/x", "--detach", "id"] as &[&str],
            &["id", "-bundle=/x", "-detach=true"],
            &["-b", "/x", "id", "-d"],
            &["-b/x", "-d", "--", "id"],
            &["-db=/x", "id"],
            &["-bundle", "/x", "-bundle", "/x", "id", "--detach=1"],
        ] {
            let sorted = sorted(words, false).unwrap();
            let given = Given::new(&sorted, &FLAGS);
            assert_eq!((given.text("bundle"), given.words()), (Some("/x"), vec!["id"]), "{words:?}");
            assert!(given.on("detach").unwrap(), "{words:?}");
        }
    }

    #[test]
    fn a_whole_name_counts_before_letters() {
        let sorted = sorted(&["-pid-file", "x", "-p", "y", "-e", "A=1", "-eB=2", "--env=C"], false).unwrap();
        let given = Given::new(&sorted, &FLAGS);
        assert_eq!((given.text("pid-file"), given.text("process")), (Some("x"), Some("y")));
        assert_eq!(given.texts("env"), ["A=1", "B=2", "C"]);
    }

    #[test]
    fn the_words_of_a_command_are_its_own() {
        let table: [(&[&str], &[&str]); 4] = [
            (&["-d", "id", "ls", "-d", "--", "-x"], &["id", "ls", "-d", "--", "-x"]),
            (&["-d", "id", "-x"], &["id", "-x"]),
            (&["-d", "id", "--", "-x"], &["id", "--", "-x"]),
            (&["-d", "--", "id", "-x"], &["id", "-x"]),
        ];
        for (words, expected) in table {
            let sorted = sorted(words, true).unwrap();
            assert_eq!(sorted.words, expected, "{words:?}");
        }
        let first = sorted(&["-d", "run", "-d", "--nope"], true).unwrap();
        assert_eq!(
            (first.all("detach").len(), first.words),
            (1, vec!["run".into(), "-d".into(), "--nope".into()])
        );
    }

    #[test]
    fn nonsense_is_refused_and_help_is_found() {
        for words in [&["--nope"] as &[&str], &["-x"], &["-dx"], &["--bundle"], &["-b"], &["---"], &["-="]] {
            assert!(sorted(words, false).is_err(), "{words:?}");
        }
        for words in [&["--help"] as &[&str], &["-h"], &["-?"], &["-d", "id", "-help"]] {
            assert!(sorted(words, false).unwrap().help, "{words:?}");
        }
        assert_eq!(sorted(&["-", ""], false).unwrap().words, ["-", ""]);
    }
}
