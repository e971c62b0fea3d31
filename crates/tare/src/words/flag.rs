//! One table row for each option, and what the caller gave for it.
//!
//! The tables are the only place where an option is described: clap's arguments, the help and the hints of wrong
//! values all come from them. Values stay text until a command asks for them with a parser, so that every wrong
//! value is reported in the same words.

use clap::{Arg, ArgAction, ArgMatches};
use tare_sys::{Error, Kind, Result};

/// Name under which everything is kept that is not an option.
pub const WORDS: &str = "WORDS";

/// One option of one command.
#[derive(Clone, Copy)]
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    pub help: &'static str,
    /// A value that works, for the hint when one does not.
    pub example: &'static str,
    /// Another spelling, not shown in the help.
    alias: Option<&'static str>,
}

/// What follows the name of an option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true` or `=false`.
    Nothing,
    /// A value, named for the help; the last one counts.
    One(&'static str),
    /// A value each time it is given; all count.
    Many(&'static str),
}

impl Flag {
    /// `--long`
    pub const fn switch(long: &'static str, help: &'static str) -> Flag {
        Flag { long, short: None, takes: Takes::Nothing, help, example: "true", alias: None }
    }

    /// `--long VALUE`
    pub const fn one(
        long: &'static str,
        value: &'static str,
        example: &'static str,
        help: &'static str,
    ) -> Flag {
        Flag { long, short: None, takes: Takes::One(value), help, example, alias: None }
    }

    /// `--long VALUE --long VALUE`
    pub const fn many(long: &'static str, example: &'static str, help: &'static str) -> Flag {
        Flag { long, short: None, takes: Takes::Many("list"), help, example, alias: None }
    }

    /// Adds the one-letter form.
    pub const fn short(mut self, short: char) -> Flag {
        self.short = Some(short);
        self
    }

    /// Adds a spelling that is accepted but not advertised.
    pub const fn alias(mut self, alias: &'static str) -> Flag {
        self.alias = Some(alias);
        self
    }

    /// clap's argument for it.
    pub fn arg(&self) -> Arg {
        let arg = Arg::new(self.long).long(self.long);
        let arg = self.short.into_iter().fold(arg, Arg::short);
        let arg = self.alias.into_iter().fold(arg, Arg::alias);
        match self.takes {
            // As Go programs have it: `--rm`, `--rm=false`, but never `--rm false`.
            Takes::Nothing => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide_possible_values(true),
            // The next word is the value even if it begins with a dash: `--oom-score-adj -500`.
            Takes::One(_) => arg.action(ArgAction::Set).allow_hyphen_values(true),
            Takes::Many(_) => arg.action(ArgAction::Append).allow_hyphen_values(true),
        }
    }
}

/// clap's arguments for a table and the words after it.
pub fn args(flags: &[Flag], words_end_options: bool) -> impl Iterator<Item = Arg> {
    let words = Arg::new(WORDS).num_args(0..).action(ArgAction::Append).trailing_var_arg(words_end_options);
    flags.iter().map(Flag::arg).chain([words])
}

/// Options by name and what was typed for them: what a parser leaves behind.
pub trait Typed {
    /// The value that counts where only one can.
    fn last(&self, long: &str) -> Option<&str>;
    /// All values, in order.
    fn all(&self, long: &str) -> Vec<&str>;
}

impl Typed for ArgMatches {
    fn last(&self, long: &str) -> Option<&str> {
        // A flag that this command does not have was not given.
        self.try_get_one::<String>(long).ok().flatten().map(String::as_str)
    }

    fn all(&self, long: &str) -> Vec<&str> {
        let all = self.try_get_many::<String>(long).ok().flatten();
        all.into_iter().flatten().map(String::as_str).collect()
    }
}

/// What the caller gave to one command.
pub struct Given<'a> {
    typed: &'a dyn Typed,
    flags: &'static [Flag],
}

impl<'a> Given<'a> {
    pub fn new(typed: &'a dyn Typed, flags: &'static [Flag]) -> Given<'a> {
        Given { typed, flags }
    }

    /// Everything that is not an option.
    pub fn words(&self) -> Vec<&'a str> {
        self.texts(WORDS)
    }

    /// The words after the first `skip`, to keep.
    pub fn strings_after(&self, skip: usize) -> Vec<String> {
        self.words().into_iter().skip(skip).map(str::to_owned).collect()
    }

    /// The value of an option, as typed.
    pub fn text(&self, long: &str) -> Option<&'a str> {
        self.typed.last(long)
    }

    /// All values of an option, as typed.
    pub fn texts(&self, long: &str) -> Vec<&'a str> {
        self.typed.all(long)
    }

    /// All values of an option, as typed, to keep.
    pub fn strings(&self, long: &str) -> Vec<String> {
        self.texts(long).into_iter().map(str::to_owned).collect()
    }

    /// The value of an option, read by `parse`, which says why it cannot.
    pub fn value<T>(&self, long: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
        self.text(long).map(|text| parse(text).map_err(|why| self.unreadable(long, text, &why))).transpose()
    }

    /// All values of an option, each read by `parse`.
    pub fn values<T>(&self, long: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>> {
        let texts = self.texts(long).into_iter();
        texts.map(|text| parse(text).map_err(|why| self.unreadable(long, text, &why))).collect()
    }

    /// Whether a switch is on; `None`: not given.
    pub fn maybe(&self, long: &str) -> Result<Option<bool>> {
        self.value(long, crate::words::parse::boolean)
    }

    /// Whether a switch is on.
    pub fn on(&self, long: &str) -> Result<bool> {
        Ok(self.maybe(long)?.unwrap_or(false))
    }

    /// The error for a value that its parser refuses. Docker's command line reads numbers, sizes and the like before it
    /// does anything, and calls that a failure of another sort (exit code 125) than a text that nobody can use.
    fn unreadable(&self, long: &str, text: &str, why: &str) -> Error {
        let error = self.wrong(long, text, why);
        let is_text = |flag: &Flag| flag.long == long && flag.takes == Takes::One("string");
        // Of a filter it looks only for the `=`.
        let used_later = long == "filter" && text.contains('=') || self.flags.iter().any(is_text);
        if used_later { error } else { error.with_kind(Kind::Option) }
    }

    /// The error for a value that does not do.
    pub fn wrong(&self, long: &str, text: &str, why: &str) -> Error {
        let error = Error::new(Kind::Usage, format!("invalid value {text:?} for --{long}: {why}"));
        match self.flags.iter().find(|flag| flag.long == long) {
            Some(Flag { takes: Takes::Nothing, .. }) => {
                error.hint(format!("write --{long} or --{long}=false"))
            }
            Some(flag) => error.hint(format!("for example: --{long} {}", flag.example)),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: [Flag; 4] = [
        Flag::switch("quiet", "").short('q'),
        Flag::switch("all", "").short('a'),
        Flag::one("size", "bytes", "64m", "").short('s'),
        Flag::many("env", "A=b", "").short('e').alias("environment"),
    ];

    fn matches(words: &[&str], end: bool) -> ArgMatches {
        let command = clap::Command::new("x").no_binary_name(true).args_override_self(true);
        command.args(args(&FLAGS, end)).try_get_matches_from(words).unwrap()
    }

    #[test]
    fn switches_cluster_and_take_values_only_after_an_equals_sign() {
        let found = matches(&["-qas", "-1", "--quiet=false", "true"], false);
        let given = Given::new(&found, &FLAGS);
        assert!(!given.on("quiet").unwrap() && given.on("all").unwrap());
        assert_eq!((given.text("size"), given.words()), (Some("-1"), vec!["true"]));
    }

    #[test]
    fn options_end_at_the_first_word_where_the_rest_is_a_command() {
        let found = matches(&["-e", "A=b", "host", "-q", "--env", "x", "--", "-z"], true);
        let given = Given::new(&found, &FLAGS);
        assert_eq!(given.words(), ["host", "-q", "--env", "x", "--", "-z"]);
        assert_eq!((given.on("quiet").unwrap(), given.texts("env")), (false, vec!["A=b"]));

        let found = matches(&["--", "-q", "x"], true);
        assert_eq!(Given::new(&found, &FLAGS).words(), ["-q", "x"]);
    }

    #[test]
    fn a_wrong_value_names_the_option_and_shows_one_that_works() {
        let found = matches(&["--size", "x", "--all=perhaps", "--environment", "A=b"], false);
        let given = Given::new(&found, &FLAGS);
        let error = given.value::<i64>("size", |_| Err("not a size".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "invalid value \"x\" for --size: not a size");
        assert_eq!(error.hint_text(), Some("for example: --size 64m"));
        assert_eq!(given.on("all").unwrap_err().hint_text(), Some("write --all or --all=false"));
        assert_eq!(given.texts("env"), ["A=b"]);
    }
}
