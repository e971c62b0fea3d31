//! `tare why`: what became of a container, for who reads it at three in the morning.

use serde_json::json;
use tare_engine::{Engine, Why};
use tare_sys::Result;

use crate::print::failure::each;
use crate::print::template::Template;
use crate::print::terminal::{Paint, harmless, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static WHY: Verb = Verb {
    about: "Explain how a container ended, or why it does not start",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::one("format", "string", "json", "Print as 'json' or by a template ('{{.Reason}}')").short('f')
    ],
    act: why,
    failed: 1,
};

fn why(engine: &Engine, given: &Given) -> Result<u8> {
    let template = match given.text("format") {
        None | Some("") => None,
        Some("json") => {
            Some(Template::parse("{{json .}}").map_err(|why| given.wrong("format", "json", &why))?)
        }
        Some(_) => given.value("format", Template::parse)?,
    };
    Ok(each(&given.words(), |word| {
        let why = engine.why(word)?;
        match &template {
            None => say(&text(&why, Paint::stdout())),
            Some(template) => {
                let filled = template.fill(&json!(why));
                let filled = filled
                    .map_err(|why| given.wrong("format", given.text("format").unwrap_or_default(), &why))?;
                say(&format!("{filled}\n"))
            }
        }
    }))
}

fn text(why: &Why, paint: Paint) -> String {
    let mut text = format!("{}: {}\n", paint.bold(&harmless(&why.name)), harmless(&why.reason));
    let width = why.facts.iter().map(|(word, _)| word.len()).chain([3]).max().unwrap_or(0);
    for (word, known) in &why.facts {
        text += &format!("  {word:width$}  {}\n", harmless(known));
    }
    for (at, line) in why.log.iter().enumerate() {
        let word = if at == 0 { "log" } else { "" };
        text += &format!("  {word:width$}  {}\n", harmless(line));
    }
    if !why.hint.is_empty() {
        text += &format!("{} {}\n", paint.helpful("hint:"), harmless(&why.hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_a_note() {
        let why = Why {
            name: "web".to_owned(),
            reason: "it ended".to_owned(),
            facts: vec![("exit code".to_owned(), "3".to_owned())],
            log: vec!["one".to_owned(), "t\x1b[2Jwo".to_owned()],
            hint: "look".to_owned(),
            ..Why::default()
        };
        let expected = "web: it ended\n  exit code  3\n  log        one\n             t?[2Jwo\nhint: look\n";
        assert_eq!(text(&why, Paint::none()), expected);
    }
}
