//! `tare ps`: the containers there are.

use tare_engine::{Engine, Summary};
use tare_sys::Result;

use crate::flag::{Flag, Given};
use crate::human;
use crate::parse::{self, Parsed};
use crate::table::{self, Column, Row};
use crate::terminal::say;
use crate::tree::Verb;

const COLUMNS: [Column; 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];
const HEADINGS: [Column; 3] = [("CreatedAt", "CREATED AT"), ("Labels", "LABELS"), ("State", "STATE")];

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

static FLAGS: [Flag; 7] = [
    Flag::switch("all", "Show all containers, not just those that run").short('a'),
    Flag::many("filter", "status=exited", "Show only some (name=, id=, status=, exited=, ancestor=, label=)")
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
];

fn ps(engine: &Engine, given: &Given) -> Result<u8> {
    let filters = given.values("filter", Filter::parse)?;
    let last = given.value("last", parse::number(-1, i64::MAX))?.and_then(|last| usize::try_from(last).ok());
    let last = if given.on("latest")? { Some(1) } else { last.filter(|last| *last > 0) };
    // Who asks for the exited ones, or for the last one, does not mean those that run.
    let all = given.on("all")? || last.is_some() || filters.iter().any(Filter::asks_for_state);
    let mut containers = engine.list(all)?;
    containers.sort_by_key(|container| std::cmp::Reverse(container.created));
    containers.retain(|container| matches(container, &filters));
    containers.truncate(last.unwrap_or(usize::MAX));
    let whole = given.on("no-trunc")?;
    if given.on("quiet")? {
        let ids = containers.iter().map(|container| format!("{}\n", id(container, whole)));
        say(&ids.collect::<String>())?;
    } else {
        let rows = containers.iter().map(|container| row(container, whole)).collect();
        table::print(given, &COLUMNS, &HEADINGS, rows)?;
    }
    Ok(0)
}

fn id(container: &Summary, whole: bool) -> &str {
    if whole { &container.id } else { human::short_id(&container.id) }
}

fn row(container: &Summary, whole: bool) -> Row {
    let command = if whole { container.command.clone() } else { human::shortened(&container.command, 20) };
    let labels: Vec<_> = container.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    table::row([
        ("Command", format!("{command:?}")),
        ("CreatedAt", human::moment(container.created)),
        ("ID", id(container, whole).to_owned()),
        ("Image", container.image.clone()),
        ("Labels", labels.join(",")),
        ("Names", container.name.clone()),
        // No network publishes any yet; scripts that count columns find Docker's.
        ("Ports", String::new()),
        ("RunningFor", human::ago(container.created)),
        ("State", container.state.clone()),
        ("Status", container.status.clone()),
    ])
}

/// One `--filter KEY=VALUE`.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    key: Key,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Name,
    Id,
    Status,
    Exited,
    Ancestor,
    Label,
}

impl Filter {
    fn parse(text: &str) -> Parsed<Filter> {
        let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
        let key = match key {
            "name" => Key::Name,
            "id" => Key::Id,
            "status" => Key::Status,
            "exited" => Key::Exited,
            "ancestor" => Key::Ancestor,
            "label" => Key::Label,
            _ => return Err("the key can be name, id, status, exited, ancestor or label".to_owned()),
        };
        match key {
            Key::Status if !["created", "running", "exited"].contains(&value) => {
                Err("the status can be created, running or exited".to_owned())
            }
            Key::Exited if value.parse::<i32>().is_err() => Err("the exit code is not a number".to_owned()),
            _ => Ok(Filter { key, value: value.to_owned() }),
        }
    }

    fn asks_for_state(&self) -> bool {
        matches!(self.key, Key::Status | Key::Exited)
    }

    fn fits(&self, container: &Summary) -> bool {
        let value = self.value.as_str();
        match self.key {
            Key::Name => container.name.contains(value.trim_start_matches('/')),
            Key::Id => container.id.starts_with(value),
            Key::Status => container.state == value,
            Key::Exited => container.exit_code.is_some_and(|code| value.parse() == Ok(i32::from(code))),
            Key::Ancestor => {
                container.image == value || container.image.strip_suffix(":latest") == Some(value)
            }
            Key::Label => match value.split_once('=') {
                Some((key, value)) => container.labels.get(key).is_some_and(|found| found == value),
                None => container.labels.contains_key(value),
            },
        }
    }
}

/// Of filters with the same key one must fit, but every label counts.
fn matches(container: &Summary, filters: &[Filter]) -> bool {
    filters.iter().all(|filter| match filter.key {
        Key::Label => filter.fits(container),
        key => filters.iter().any(|other| other.key == key && other.fits(container)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Summary {
        Summary {
            id: "0123456789abcdef".to_owned(),
            name: "brave_web".to_owned(),
            image: "busybox:latest".to_owned(),
            command: "sh -c echo \"hello\" world".to_owned(),
            created: 0,
            state: "exited".to_owned(),
            status: "Exited (3) 2 minutes ago".to_owned(),
            exit_code: Some(3),
            oom_killed: false,
            labels: [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into(),
        }
    }

    #[test]
    fn rows_have_dockers_fields() {
        let short = row(&container(), false);
        assert_eq!(short["ID"], "0123456789ab");
        assert_eq!(short["Command"], "\"sh -c echo \\\"hello\\\" …\"");
        assert_eq!(short["Labels"], "a=b,c=");
        assert_eq!(short["State"], "exited");
        assert_eq!(short["Status"], "Exited (3) 2 minutes ago");
        assert_eq!(row(&container(), true)["ID"], "0123456789abcdef");
    }

    #[test]
    fn filters_add_up() {
        let table: [(&[&str], bool); 12] = [
            (&[], true),
            (&["name=web"], true),
            (&["name=db", "name=web"], true),
            (&["name=db"], false),
            (&["id=0123"], true),
            (&["status=exited", "exited=3"], true),
            (&["exited=0"], false),
            (&["status=running"], false),
            (&["ancestor=busybox"], true),
            (&["label=a", "label=c"], true),
            (&["label=a=x"], false),
            (&["label=a", "label=d"], false),
        ];
        for (filters, fits) in table {
            let parsed: Vec<_> = filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect();
            assert_eq!(matches(&container(), &parsed), fits, "{filters:?}");
        }
        for text in ["", "name", "size=1", "status=asleep", "exited=x"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
