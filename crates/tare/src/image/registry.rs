//! `tare registry` and `tare search`: what registries have.

use tare_engine::{Engine, Found};
use tare_sys::{Error, Kind, Result};

use crate::print::failure::each;
use crate::print::human;
use crate::print::table::{self, Column};
use crate::print::terminal::{harmless, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

const FORMAT: Flag = Flag::one(
    "format",
    "string",
    "json",
    "Print as 'table', 'json' or by a template ('{{.Name}}', 'table {{.Name}}')",
);

pub static LIST: Verb = Verb {
    about: "List the repositories of a registry",
    operands: "SERVER",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[],
    act: list,
    failed: 1,
};

pub static TAGS: Verb = Verb {
    about: "List the tags of a repository in its registry",
    operands: "NAME",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[],
    act: tags,
    failed: 1,
};

pub static REFERRERS: Verb = Verb {
    about: "List what refers to an image in its registry: signatures, lists of parts",
    operands: "[OPTIONS] NAME[:TAG|@DIGEST]",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[FORMAT],
    act: referrers,
    failed: 1,
};

pub static REMOVE: Verb = Verb {
    about: "Delete tags in their registry, or by digest images with all their tags",
    operands: "NAME[:TAG|@DIGEST] [NAME...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[],
    act: remove,
    failed: 1,
};

pub static SEARCH: Verb = Verb {
    about: "Search Docker Hub for images, or the registry in HOST/TERM",
    operands: "[OPTIONS] TERM",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::many("filter", "is-official=true", "Filter by 'is-official=BOOL' or 'stars=NUMBER'").short('f'),
        FORMAT,
        Flag::one("limit", "int", "10", "Max number of search results (default 25)"),
        Flag::switch("no-trunc", "Do not shorten what is printed"),
    ],
    act: search,
    failed: 1,
};

const REFERRER_COLUMNS: [Column; 3] =
    [("Digest", "DIGEST"), ("ArtifactType", "ARTIFACT TYPE"), ("Size", "SIZE")];
const FOUND_COLUMNS: [Column; 4] =
    [("Name", "NAME"), ("Description", "DESCRIPTION"), ("StarCount", "STARS"), ("IsOfficial", "OFFICIAL")];
/// Characters of a description that are shown.
const DESCRIPTION: usize = 45;
/// What Docker's search answers with at most.
const MOST: usize = 100;

fn lines(names: &[String]) -> Result<u8> {
    say(&names.iter().map(|name| format!("{name}\n")).collect::<String>()).map(|()| 0)
}

fn list(engine: &Engine, given: &Given) -> Result<u8> {
    lines(&engine.repositories(given.words()[0])?)
}

fn tags(engine: &Engine, given: &Given) -> Result<u8> {
    lines(&engine.tags(given.words()[0])?)
}

fn referrers(engine: &Engine, given: &Given) -> Result<u8> {
    let found = engine.referrers(given.words()[0])?;
    let row = |referrer: &tare_engine::Referrer| {
        table::row([
            ("ArtifactType", referrer.artifact_type.clone()),
            ("Digest", referrer.digest.to_string()),
            ("Size", human::size(referrer.size)),
        ])
    };
    table::print(given, &REFERRER_COLUMNS, &[], found.iter().map(row).collect())?;
    Ok(0)
}

fn remove(engine: &Engine, given: &Given) -> Result<u8> {
    Ok(each(&given.words(), |word| {
        engine.delete_in_registry(word)?;
        say(&format!("Deleted: {word}\n"))
    }))
}

fn search(engine: &Engine, given: &Given) -> Result<u8> {
    let limit = given.value("limit", |text| match text.parse() {
        Ok(limit) if (1..=MOST).contains(&limit) => Ok(limit),
        _ => Err(format!("it is a number from 1 to {MOST}")),
    })?;
    let mut found = engine.search(given.words()[0], limit.unwrap_or(25))?;
    for filter in given.texts("filter") {
        let keep = filter_of(filter).ok_or_else(|| {
            Error::new(Kind::Usage, format!("invalid filter {filter:?}"))
                .hint("for example: --filter is-official=true, --filter stars=3")
        })?;
        found.retain(|line| keep(line));
    }
    let whole = given.on("no-trunc")?;
    let row = |line: &Found| {
        let description = harmless(line.description.trim());
        table::row([
            ("Description", if whole { description } else { human::shortened(&description, DESCRIPTION) }),
            ("IsOfficial", if line.is_official { "[OK]".to_owned() } else { String::new() }),
            ("Name", line.name.clone()),
            ("StarCount", line.star_count.to_string()),
        ])
    };
    table::print(given, &FOUND_COLUMNS, &[], found.iter().map(row).collect())?;
    Ok(0)
}

/// Whether to keep a line.
type Filter = Box<dyn Fn(&Found) -> bool>;

fn filter_of(text: &str) -> Option<Filter> {
    let (key, value) = text.split_once('=')?;
    match key {
        "is-official" => {
            let wanted = crate::words::parse::boolean(value).ok()?;
            Some(Box::new(move |line| line.is_official == wanted))
        }
        "stars" => {
            let least: u64 = value.parse().ok()?;
            Some(Box::new(move |line| line.star_count >= least))
        }
        _ => None,
    }
}
