//! The verbs on volumes: `create`, `inspect`, `ls`, `prune`, `rm`.

use std::collections::BTreeMap;

use serde_json::Value;
use tare_engine::{Engine, Volume};
use tare_sys::{Error, Kind, Result};

use crate::container::containers::pretty;
use crate::print::failure::each;
use crate::print::human;
use crate::print::prompt::confirm;
use crate::print::table::{self, Column, Row};
use crate::print::template::Template;
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::parse::{self, Parsed};
use crate::words::tree::Verb;

const COLUMNS: [Column; 2] = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")];
const HEADINGS: [Column; 1] = [("Labels", "LABELS")];

pub static CREATE: Verb = Verb {
    about: "Create a volume",
    operands: "[OPTIONS] [VOLUME]",
    least: |_| 0,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::one("driver", "string", "local", "Driver of the volume (default \"local\")").short('d'),
        Flag::many("label", "KEY=value", "Set labels on the volume"),
        Flag::one("name", "string", "data", "Its name, where it is not the last word (Docker's old form)"),
        Flag::many("opt", "size=10g", "Options of the driver: type=, o= and device= as for mount(8), size=")
            .short('o'),
    ],
    act: create,
    failed: 1,
};

pub static INSPECT: Verb = Verb {
    about: "Show all that is known of one or more volumes",
    operands: "[OPTIONS] VOLUME [VOLUME...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[Flag::one("format", "string", "json", "Print as 'json' or by a template ('{{.Mountpoint}}')")
        .short('f')],
    act: inspect,
    failed: 1,
};

pub static LIST: Verb = Verb {
    about: "List volumes",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::many("filter", "dangling=true", "Show only some (dangling=, driver=, label=, name=)")
            .short('f'),
        Flag::one(
            "format",
            "string",
            "json",
            "Print as 'table', 'json' or by a template ('{{.Name}}', 'table {{.Name}}')",
        ),
        Flag::switch("quiet", "Print names only").short('q'),
    ],
    act: list,
    failed: 1,
};

pub static PRUNE: Verb = Verb {
    about: "Remove the volumes that no container has",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::switch("all", "Remove those with a name as well, not only anonymous ones").short('a'),
        Flag::many("filter", "label=KEY", "Remove only some (label=, label!=)"),
        Flag::switch("force", "Do not ask").short('f'),
    ],
    act: prune,
    failed: 1,
};

pub static REMOVE: Verb = Verb {
    about: "Remove one or more volumes that no container has",
    operands: "[OPTIONS] VOLUME [VOLUME...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[Flag::switch("force", "A volume that is not there is no error").short('f')],
    act: remove,
    failed: 1,
};

fn create(engine: &Engine, given: &Given) -> Result<u8> {
    let labels: BTreeMap<String, String> = given.values("label", parse::label)?.into_iter().collect();
    let options = given.values("opt", parse::pair("option"))?.into_iter().collect();
    let name = match (given.text("name"), given.words().first()) {
        (Some(_), Some(_)) => {
            return Err(Error::new(Kind::Usage, "the volume has two names, one as --name and one after it")
                .hint("leave out --name"));
        }
        (name, word) => name.or(word.copied()).unwrap_or_default(),
    };
    let volume = engine.create_volume(name, given.text("driver").unwrap_or_default(), labels, options)?;
    say(&format!("{}\n", volume.name))?;
    Ok(0)
}

fn inspect(engine: &Engine, given: &Given) -> Result<u8> {
    let template = match given.text("format") {
        None | Some("" | "json") => None,
        Some(_) => given.value("format", Template::parse)?,
    };
    let mut found = Vec::new();
    let code = each(&given.words(), |word| {
        found.push(engine.volume(word)?.to_json());
        Ok(())
    });
    match template {
        Some(template) => {
            for value in &found {
                let text = template
                    .fill(value)
                    .map_err(|why| given.wrong("format", given.text("format").unwrap_or_default(), &why))?;
                say(&format!("{text}\n"))?;
            }
        }
        None if given.text("format") == Some("json") => say(&format!("{}\n", Value::Array(found)))?,
        None => say(&pretty(&Value::Array(found))?)?,
    }
    Ok(code)
}

fn list(engine: &Engine, given: &Given) -> Result<u8> {
    let filters = given.values("filter", Filter::parse)?;
    let mut volumes = engine.volumes()?;
    volumes.retain(|volume| matches(volume, &filters));
    if given.on("quiet")? {
        say(&volumes.iter().map(|volume| format!("{}\n", volume.name)).collect::<String>())?;
    } else {
        table::print(given, &COLUMNS, &HEADINGS, volumes.iter().map(row).collect())?;
    }
    Ok(0)
}

fn row(volume: &Volume) -> Row {
    let row = table::row([
        ("Availability", "N/A".to_owned()),
        ("Driver", "local".to_owned()),
        ("Group", "N/A".to_owned()),
        ("Links", "N/A".to_owned()),
        ("Mountpoint", volume.mountpoint.display().to_string()),
        ("Name", volume.name.clone()),
        ("Scope", "local".to_owned()),
        // As Docker: looking costs time, so `ls` does not.
        ("Size", "N/A".to_owned()),
        ("Status", "N/A".to_owned()),
    ]);
    table::labelled(row, &volume.labels)
}

fn remove(engine: &Engine, given: &Given) -> Result<u8> {
    let force = given.on("force")?;
    Ok(each(&given.words(), |word| {
        engine.remove_volume(word, force)?;
        say(&format!("{word}\n"))
    }))
}

fn prune(engine: &Engine, given: &Given) -> Result<u8> {
    let filters = given.values("filter", Filter::parse)?;
    let all = given.on("all")?
        || filters.iter().any(|filter| *filter == Filter { key: Key::All, value: "true".to_owned() });
    let what = if all { "all local volumes" } else { "anonymous local volumes" };
    let warning = format!("WARNING! This will remove {what} not used by at least one container.");
    if !given.on("force")? && !confirm(&warning)? {
        return Ok(0);
    }
    let pruned =
        engine.prune_volumes(&|volume| (all || volume.is_anonymous()) && matches(volume, &filters))?;
    let mut text = String::new();
    if !pruned.names.is_empty() {
        text = format!("Deleted Volumes:\n{}\n\n", pruned.names.join("\n"));
    }
    say(&format!("{text}Total reclaimed space: {}\n", human::size(pruned.bytes)))?;
    Ok(0)
}

/// One `--filter KEY=VALUE`.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    key: Key,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    All,
    Dangling,
    Driver,
    Label,
    NotLabel,
    Name,
}

impl Filter {
    fn parse(text: &str) -> Parsed<Filter> {
        let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
        let key = match key {
            "all" => Key::All,
            "dangling" => Key::Dangling,
            "driver" => Key::Driver,
            "label" => Key::Label,
            "label!" => Key::NotLabel,
            "name" => Key::Name,
            _ => return Err("the key can be dangling, driver, label or name".to_owned()),
        };
        match key {
            Key::Dangling | Key::All => {
                let on = parse::boolean(value)?;
                Ok(Filter { key, value: on.to_string() })
            }
            _ => Ok(Filter { key, value: value.to_owned() }),
        }
    }

    fn fits(&self, volume: &Volume) -> bool {
        let value = self.value.as_str();
        let labelled = || match value.split_once('=') {
            Some((key, value)) => volume.labels.get(key).is_some_and(|found| found == value),
            None => volume.labels.contains_key(value),
        };
        match self.key {
            Key::All => true,
            Key::Dangling => volume.users.is_empty() == (value == "true"),
            Key::Driver => value == "local",
            Key::Label => labelled(),
            Key::NotLabel => !labelled(),
            Key::Name => volume.name.contains(value),
        }
    }
}

/// Of filters with the same key one must fit, but every label counts.
fn matches(volume: &Volume, filters: &[Filter]) -> bool {
    filters.iter().all(|filter| match filter.key {
        Key::Label | Key::NotLabel => filter.fits(volume),
        key => filters.iter().any(|other| other.key == key && other.fits(volume)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_add_up() {
        let volume = Volume {
            name: "my-db".to_owned(),
            created: String::new(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            options: BTreeMap::new(),
            mountpoint: "/x".into(),
            users: vec!["c".to_owned()],
        };
        for (filters, fits) in [
            (&[][..], true),
            (&["name=db"], true),
            (&["name=x", "name=my"], true),
            (&["dangling=true"], false),
            (&["dangling=0"], true),
            (&["label=a"], true),
            (&["label=a=b", "label!=c"], true),
            (&["label=a=c"], false),
            (&["label!=a"], false),
            (&["driver=local"], true),
            (&["driver=nfs"], false),
        ] {
            let parsed: Vec<_> = filters.iter().map(|text| Filter::parse(text).unwrap()).collect();
            assert_eq!(matches(&volume, &parsed), fits, "{filters:?}");
        }
        for text in ["", "name", "size=1", "dangling=perhaps"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
