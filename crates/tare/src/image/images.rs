//! `tare images`, `tare history` and `tare rmi`.

use std::collections::BTreeSet;

use tare_engine::{Engine, ImageSummary, Step};
use tare_sys::{Error, Kind, Result};

use crate::image::filters as image_filters;
use crate::print::failure::{self, each};
use crate::print::human;
use crate::print::table::{self, Column, Row};
use crate::print::terminal::{harmless, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

const COLUMNS: [Column; 5] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];
/// With `--digests`.
const DIGESTS: [Column; 6] =
    [COLUMNS[0], COLUMNS[1], ("Digest", "DIGEST"), COLUMNS[2], COLUMNS[3], COLUMNS[4]];
const HEADINGS: [Column; 5] = [
    ("CreatedAt", "CREATED AT"),
    ("Digest", "DIGEST"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
];

pub static LIST: Verb = Verb {
    about: "List images",
    operands: "[OPTIONS] [REPOSITORY[:TAG]]",
    least: |_| 0,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::switch("all", "Show all images; none are hidden").short('a'),
        Flag::switch("digests", "Show digests"),
        Flag::many(
            "filter",
            "dangling=true",
            "Show only images that this holds for ('dangling=true', 'label=NAME=VALUE', 'before=IMAGE', \
             'since=IMAGE', 'until=24h', 'reference=PATTERN')",
        )
        .short('f'),
        Flag::one(
            "format",
            "string",
            "json",
            "Print as 'table', 'json' or by a template ('{{.ID}}', 'table {{.ID}}')",
        ),
        Flag::switch("no-trunc", "Do not shorten what is printed"),
        Flag::switch("quiet", "Print IDs only").short('q'),
        Flag::switch("tree", "Show what platform each image is for"),
    ],
    act: list,
    failed: 1,
};

pub static REMOVE: Verb = Verb {
    about: "Remove one or more images",
    operands: "[OPTIONS] IMAGE [IMAGE...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::switch(
            "force",
            "Take the name away even if a container was made from the image; by an id, all names",
        )
        .short('f'),
        Flag::switch("no-prune", "Only take names away"),
        Flag::one("platform", "string", "linux/arm64", "Fail if the image is for another platform"),
    ],
    act: remove,
    failed: 1,
};

pub static HISTORY: Verb = Verb {
    about: "Show the history of an image",
    operands: "[OPTIONS] IMAGE",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::one(
            "format",
            "string",
            "json",
            "Print as 'table', 'json' or by a template ('{{.ID}}', 'table {{.ID}}')",
        ),
        Flag::switch("human", "Print sizes and dates for people (the default)").short('H'),
        Flag::switch("no-trunc", "Do not shorten what is printed"),
        Flag::one("platform", "string", "linux/arm64", "Fail if the image is for another platform"),
        Flag::switch("quiet", "Print IDs only").short('q'),
    ],
    act: history,
    failed: 1,
};

const STEP_COLUMNS: [Column; 5] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
/// Characters of a step's command that are shown.
const COMMAND: usize = 45;

fn history(engine: &Engine, given: &Given) -> Result<u8> {
    let steps = engine.history(given.words()[0], given.text("platform"))?;
    let (whole, human) = (given.on("no-trunc")?, given.maybe("human")?.unwrap_or(true));
    let id = |step: &Step| match step.id.as_str() {
        "" => "<missing>".to_owned(),
        id if whole => id.to_owned(),
        id => human::short_id(id).to_owned(),
    };
    if given.on("quiet")? {
        say(&steps.iter().map(|step| format!("{}\n", id(step))).collect::<String>())?;
        return Ok(0);
    }
    let row = |step: &Step| {
        let command =
            if whole { step.created_by.clone() } else { human::shortened(&step.created_by, COMMAND) };
        let when = |text: String| known(step.created, text);
        table::row([
            ("Comment", step.comment.clone()),
            ("CreatedAt", when(human::moment(step.created))),
            ("CreatedBy", command),
            (
                "CreatedSince",
                when(if human { human::ago(step.created) } else { human::moment(step.created) }),
            ),
            ("ID", id(step)),
            ("Size", if human { human::size(step.size) } else { step.size.to_string() }),
        ])
    };
    table::print(given, &STEP_COLUMNS, &HEADINGS, steps.iter().map(row).collect())?;
    Ok(0)
}

fn list(engine: &Engine, given: &Given) -> Result<u8> {
    let mut filters = image_filters::given(given)?;
    filters.references.extend(given.words().iter().map(|word| (*word).to_owned()));
    let images = engine.list_images(&filters)?;
    let whole = given.on("no-trunc")?;
    if given.on("tree")? {
        for (long, said) in [
            ("quiet", given.on("quiet")?),
            ("digests", given.on("digests")?),
            ("format", given.text("format").is_some()),
        ] {
            if said {
                return Err(Error::new(Kind::Usage, format!("--tree and --{long} contradict each other"))
                    .hint("leave out one of the two"));
            }
        }
        say(&tree(&images, whole))?;
        return Ok(0);
    }
    if given.on("quiet")? {
        say(&images.iter().map(|image| format!("{}\n", id(image, whole))).collect::<String>())?;
        return Ok(0);
    }
    let columns: &[Column] = if given.on("digests")? { &DIGESTS } else { &COLUMNS };
    table::print(given, columns, &HEADINGS, images.iter().map(|image| row(image, whole)).collect())?;
    Ok(0)
}

/// All names of an image, and under them what it is for: the store has one platform of an image.
fn tree(images: &[ImageSummary], whole: bool) -> String {
    let mut lines = vec!["IMAGE\tID\tDISK USAGE\tCONTENT SIZE".to_owned()];
    let mut seen = BTreeSet::new();
    for image in images.iter().filter(|image| seen.insert(image.id.as_str())) {
        let line = |name: &str| {
            let (id, size) = (id(image, whole), human::size(image.size));
            format!("{}\t{id}\t{size}\t{}", harmless(name), human::size(image.content))
        };
        for named in images.iter().filter(|other| other.id == image.id) {
            lines.push(match named.repository.as_str() {
                "" => line("<untagged>"),
                name if named.tag.is_empty() => line(&format!("{name}@{}", named.digest)),
                name => line(&format!("{name}:{}", named.tag)),
            });
        }
        lines.push(line(&format!("└─ {}", image.platform)));
    }
    table::aligned(lines.into_iter())
}

fn id(image: &ImageSummary, whole: bool) -> &str {
    if whole { &image.id } else { human::short_id(&image.id) }
}

/// An image's fields, by Docker's names.
pub fn row(image: &ImageSummary, whole: bool) -> Row {
    let name = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    table::row([
        ("Containers", "N/A".to_owned()),
        ("CreatedAt", known(image.created, human::moment(image.created))),
        ("CreatedSince", known(image.created, human::ago(image.created))),
        ("Digest", name(&image.digest)),
        ("ID", id(image, whole).to_owned()),
        ("Repository", name(&image.repository)),
        ("SharedSize", "N/A".to_owned()),
        ("Size", human::size(image.size)),
        ("Tag", name(&image.tag)),
        ("UniqueSize", "N/A".to_owned()),
        ("VirtualSize", human::size(image.size)),
    ])
}

/// A date in words, where there is one.
fn known(created: i64, words: String) -> String {
    if created == 0 { "N/A".to_owned() } else { words }
}

fn remove(engine: &Engine, given: &Given) -> Result<u8> {
    let (force, no_prune) = (given.on("force")?, given.on("no-prune")?);
    Ok(each(&given.words(), |word| {
        let lines = match engine.remove_image(word, given.text("platform"), force, no_prune) {
            // As Docker: that is what was to be reached, and it is told.
            Err(err) if force && err.kind() == Kind::NotFound => {
                failure::print(&err);
                return Ok(());
            }
            lines => lines?,
        };
        say(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_names() {
        let image = ImageSummary {
            id: "sha256:0123456789abcdef".to_owned(),
            repository: "localhost:5000/busybox".to_owned(),
            tag: String::new(),
            digest: String::new(),
            created: 0,
            size: 4_404_019,
            content: 2_000_000,
            platform: "linux/amd64".to_owned(),
        };
        let found = row(&image, false);
        assert_eq!(
            (&found["ID"], &found["Tag"], &found["Size"]),
            (&"0123456789ab".into(), &"<none>".into(), &"4.4MB".into())
        );
        assert_eq!(row(&image, true)["ID"], "sha256:0123456789abcdef");
        let tagged = ImageSummary { tag: "latest".to_owned(), ..image.clone() };
        let expected = "IMAGE                           ID             DISK USAGE   CONTENT SIZE\n\
                        localhost:5000/busybox:latest   0123456789ab   4.4MB        2MB\n\
                        └─ linux/amd64                  0123456789ab   4.4MB        2MB\n";
        assert_eq!(tree(&[tagged], false), expected);
        assert_eq!((&found["CreatedSince"], &found["CreatedAt"]), (&"N/A".into(), &"N/A".into()));
    }
}
