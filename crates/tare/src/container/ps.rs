//! `tare ps`: the containers there are.

use tare_engine::{Engine, ListQuery, Summary};
use tare_sys::Result;

use crate::print::failure;
use crate::print::human;
use crate::print::table::{self, Column, Row};
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::parse;
use crate::words::tree::Verb;

const COLUMNS: [Column; 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];
const WITH_SIZE: [Column; 8] =
    [COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3], COLUMNS[4], COLUMNS[5], COLUMNS[6], ("Size", "SIZE")];
const HEADINGS: [Column; 4] = [
    ("CreatedAt", "CREATED AT"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("State", "STATE"),
];

pub static PS: Verb = Verb {
    about: "List containers",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &FLAGS,
    act: ps,
    failed: 1,
};

static FLAGS: [Flag; 8] = [
    Flag::switch("all", "Show all containers, not just those that run").short('a'),
    Flag::many(
        "filter",
        "status=exited",
        "Show only some (ancestor=, before=, exited=, expose=, health=, id=, label=, name=, network=, publish=, \
         since=, status=, volume=)",
    )
    .short('f'),
    Flag::one(
        "format",
        "string",
        "json",
        "Print as 'table', 'json' or by a template ('{{.ID}}', 'table {{.ID}}')",
    ),
    Flag::one("last", "int", "5", "Show this many containers, the last created first, whatever their state")
        .short('n'),
    Flag::switch("latest", "Show the container created last, whatever its state").short('l'),
    Flag::switch("no-trunc", "Do not shorten what is printed"),
    Flag::switch("quiet", "Print IDs only").short('q'),
    Flag::switch("size", "Show how much each has written").short('s'),
];

fn ps(engine: &Engine, given: &Given) -> Result<u8> {
    let last = given.value("last", parse::number(-1, i64::MAX))?.and_then(|last| usize::try_from(last).ok());
    let format = given.text("format").unwrap_or_default();
    let size = given.on("size")?;
    let mut query = ListQuery {
        all: given.on("all")?,
        last: if given.on("latest")? { Some(1) } else { last.filter(|last| *last > 0) },
        // A template that shows it asks for it.
        size: size || format.contains(".Size"),
        ..ListQuery::default()
    };
    given.values("filter", parse::pair("filter"))?;
    given.texts("filter").into_iter().try_for_each(|filter| query.filter(filter))?;
    let (containers, damaged) = engine.list(&query)?;
    for err in damaged {
        failure::warn(&match err.hint_text() {
            Some(hint) => format!("a container is not shown: {err}; {hint}"),
            None => format!("a container is not shown: {err}"),
        });
    }
    let whole = given.on("no-trunc")?;
    if given.on("quiet")? {
        let ids = containers.iter().map(|container| format!("{}\n", id(container, whole)));
        say(&ids.collect::<String>())?;
    } else {
        let rows = containers.iter().map(|container| row(container, whole)).collect();
        let columns: &[Column] = if size { &WITH_SIZE } else { &COLUMNS };
        table::print(given, columns, &HEADINGS, rows)?;
    }
    Ok(0)
}

fn id(container: &Summary, whole: bool) -> &str {
    if whole { &container.id } else { human::short_id(&container.id) }
}

fn row(container: &Summary, whole: bool) -> Row {
    let cut = |text: &str, length| if whole { text.to_owned() } else { human::shortened(text, length) };
    let mounts: Vec<_> = container.mounts.iter().map(|mount| cut(mount, 15)).collect();
    let size = container.size.map_or_else(
        || "0B".to_owned(),
        |size| format!("{} (virtual {})", human::size(size.written), human::size(size.with_image)),
    );
    let row = table::row([
        ("Command", format!("{:?}", cut(&container.command, 20))),
        ("CreatedAt", human::moment(container.created)),
        ("ID", id(container, whole).to_owned()),
        ("Image", container.image.clone()),
        ("LocalVolumes", container.volumes.to_string()),
        ("Mounts", mounts.join(",")),
        ("Names", container.name.clone()),
        ("Networks", container.networks.join(",")),
        ("Ports", container.ports.join(", ")),
        ("RunningFor", human::ago(container.created)),
        ("Size", size),
        ("State", container.state.clone()),
        ("Status", container.status.clone()),
    ]);
    table::labelled(row, &container.labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_dockers_fields() {
        let container = Summary {
            id: "0123456789abcdef".to_owned(),
            name: "brave_web".to_owned(),
            command: "sh -c echo \"hello\" world".to_owned(),
            state: "exited".to_owned(),
            status: "Exited (3) 2 minutes ago".to_owned(),
            labels: [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into(),
            mounts: vec!["/a/long/way/down/here".to_owned(), "data".to_owned()],
            ..Summary::default()
        };
        let short = row(&container, false);
        assert_eq!(short["ID"], "0123456789ab");
        assert_eq!(short["Command"], "\"sh -c echo \\\"hello\\\" …\"");
        assert_eq!(short["Labels"], "a=b,c=");
        assert_eq!(short["State"], "exited");
        assert_eq!(short["Status"], "Exited (3) 2 minutes ago");
        assert_eq!(short["Mounts"], "/a/long/way/do…,data");
        assert_eq!(short["Size"], "0B");
        assert_eq!(row(&container, true)["ID"], "0123456789abcdef");
        let fields: Vec<_> = short.keys().map(String::as_str).filter(|field| *field != "Label").collect();
        let docker = "Command CreatedAt ID Image Labels LocalVolumes Mounts Names Networks Ports RunningFor Size State Status";
        assert_eq!(fields.join(" "), docker);
    }
}
