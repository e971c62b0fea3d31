//! Help that reads like Docker's, from the same tables that clap gets.

use tare_engine::Engine;
use tare_sys::{Error, Kind, Result};

use crate::print::terminal;
use crate::words::flag::{Flag, Given, Takes};
use crate::words::tree::{self, Place, Spot, Target, Verb};

pub static HELP: Verb = Verb {
    about: "Show how to use tare or one of its commands",
    operands: "[COMMAND]",
    least: |_| 0,
    most: 2,
    words_end_options: false,
    flags: &[],
    act: help,
    failed: 1,
};

fn help(_: &Engine, given: &Given) -> Result<u8> {
    let words = given.words();
    let spot = tree::find(words.iter().copied());
    if spot.path.split(' ').count() != words.len() + 1 {
        let what = terminal::harmless(&words.join(" "));
        return Err(Error::new(Kind::Usage, format!("unknown command: tare {what}")));
    }
    show(&spot)
}

/// Prints the help for a spot.
pub fn show(spot: &Spot) -> Result<u8> {
    terminal::say(&text(spot, terminal::width()))?;
    Ok(0)
}

/// `tare run [OPTIONS] IMAGE [COMMAND] [ARG...]`
pub fn usage_line(spot: &Spot) -> String {
    let rest = match spot.target {
        Target::Top => "[OPTIONS] COMMAND",
        Target::Group(_) => "COMMAND",
        Target::Verb(verb) => verb.operands,
    };
    format!("{} {rest}", spot.path)
}

fn text(spot: &Spot, width: usize) -> String {
    let mut text = format!("Usage:  {}\n", usage_line(spot));
    match spot.target {
        Target::Top => top(&mut text, width),
        Target::Group(group) => {
            text += &format!("\n{}\n", group.about);
            text += &commands("Commands", group.places.iter().map(described), width);
            text += &format!("\nRun '{} COMMAND --help' for more on a command.\n", spot.path);
        }
        Target::Verb(verb) => {
            text += &format!("\n{}\n", verb.about);
            let names = other_names(verb);
            if names.len() > 1 {
                text += &format!("\nAliases:\n  {}\n", names.join(", "));
            }
            text += &options("Options", verb.flags, width);
        }
    }
    text
}

fn top(text: &mut String, width: usize) {
    *text += "\nContainers without a daemon, and a wall round them that can be seen\n";
    *text += &commands("Common Commands", tree::COMMON.iter().map(described), width);
    let groups = tree::GROUPS.iter().map(|group| (group.name, group.about));
    *text += &commands("Management Commands", groups, width);
    *text += &commands("Commands", tree::OTHERS.iter().map(described), width);
    *text += &options("Global Options", tree::GLOBAL, width);
    *text += "\nRun 'tare COMMAND --help' for more on a command.\n";
    *text += "\nA first container, from this machine's own files:  tare run --rm host echo hello\n";
}

fn described(place: &Place) -> (&'static str, &'static str) {
    (place.name, place.verb.about)
}

/// All names of a verb, the longest path first.
fn other_names(verb: &'static Verb) -> Vec<String> {
    let mut names = Vec::new();
    for group in &tree::GROUPS {
        for place in group.places.iter().filter(|place| std::ptr::eq(place.verb, verb)) {
            let all = [place.name].into_iter().chain(place.also.iter().copied());
            names.extend(all.map(|name| format!("tare {} {name}", group.name)));
        }
    }
    let top = tree::COMMON.iter().chain(tree::OTHERS).filter(|place| std::ptr::eq(place.verb, verb));
    names.extend(top.map(|place| format!("tare {}", place.name)));
    names
}

pub fn commands<'a>(heading: &str, rows: impl Iterator<Item = (&'a str, &'a str)>, width: usize) -> String {
    let rows: Vec<_> = rows.map(|(name, about)| (name.to_owned(), about.to_owned())).collect();
    listing(heading, &rows, 9, width)
}

pub fn options(heading: &str, flags: &[Flag], width: usize) -> String {
    let mut rows: Vec<_> = flags.iter().map(|flag| (spelling(flag), flag.help.to_owned())).collect();
    let letter = if flags.iter().any(|flag| flag.short == Some('h')) { "    " } else { "-h, " };
    let at = flags.iter().take_while(|flag| flag.long < "help").count();
    rows.insert(at, (format!("{letter}--help"), "Show this help".to_owned()));
    listing(heading, &rows, 0, width)
}

/// `-m, --memory bytes`
fn spelling(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
    match flag.takes {
        Takes::Nothing => format!("{short}--{}", flag.long),
        Takes::One(value) | Takes::Many(value) => format!("{short}--{} {value}", flag.long),
    }
}

/// Two columns, the second wrapped.
fn listing(heading: &str, rows: &[(String, String)], least: usize, width: usize) -> String {
    let column = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(least) + 3;
    let mut text = format!("\n{heading}:\n");
    for (name, about) in rows {
        let mut line = format!("  {name:column$}");
        let mut filled = 0;
        for word in about.split(' ') {
            let fits = 2 + column + filled + 1 + word.chars().count() <= width;
            if filled > 0 && !fits {
                text += line.trim_end();
                text.push('\n');
                line = " ".repeat(2 + column);
                filled = 0;
            }
            if filled > 0 {
                line.push(' ');
            }
            line += word;
            filled += word.chars().count() + 1;
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_dockers() {
        let help = text(&tree::find(["stop"]), 80);
        let expected = "\
Usage:  tare stop [OPTIONS] CONTAINER [CONTAINER...]

Stop one or more running containers

Aliases:
  tare container stop, tare stop

Options:
  -h, --help            Show this help
  -s, --signal string   Signal to send instead of the container's own
  -t, --timeout int     Seconds to wait before the container is killed (default
                        10)
";
        assert_eq!(help, expected);
    }

    #[test]
    fn every_page_fits_the_width() {
        for words in [&[] as &[&str], &["run"], &["ps"], &["image"], &["container"], &["import"]] {
            let help = text(&tree::find(words.iter().copied()), 80);
            for line in help.lines() {
                assert!(line.chars().count() <= 86, "{line}");
            }
        }
    }

    #[test]
    fn run_keeps_h_for_the_host_name() {
        let help = text(&tree::find(["run"]), 80);
        assert!(help.starts_with("Usage:  tare run [OPTIONS] IMAGE [COMMAND] [ARG...]\n"), "{help}");
        assert!(help.contains("  -h, --hostname string") && help.contains("      --help  "));
    }
}
