//! Lists, printed as a table as Docker aligns it, as JSON, or by a template: one row, three ways.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Map, Value};
use tabwriter::TabWriter;
use tare_sys::Result;

use crate::print::template::Template;
use crate::print::terminal::{harmless, say};
use crate::words::flag::Given;

/// Fields of one row, by Docker's names; all values are text, as Docker's are.
pub type Row = Map<String, Value>;

/// A field and the heading of its column.
pub type Column = (&'static str, &'static str);

/// How a list is to be printed.
#[derive(Debug, PartialEq)]
pub enum Format {
    /// The usual columns.
    Table,
    /// One JSON object a line.
    Json,
    /// A template, filled in for each row; aligned under headings if asked for.
    Template { headed: bool, template: Template },
}

impl Format {
    /// What `--format` asks for.
    pub fn given(given: &Given) -> Result<Format> {
        Ok(given.value("format", Format::parse)?.unwrap_or(Format::Table))
    }

    fn parse(text: &str) -> Result<Format, String> {
        match text {
            "" | "table" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            _ => {
                let (headed, template) = match text.strip_prefix("table ") {
                    Some(template) => (true, template),
                    None => (false, text),
                };
                Ok(Format::Template { headed, template: Template::parse(template)? })
            }
        }
    }
}

/// A row from names and values.
pub fn row<const N: usize>(fields: [(&str, String); N]) -> Row {
    fields.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect()
}

/// A row with its labels: all of them in one column, and each for `{{.Label "com.example"}}`, which is not printed
/// otherwise.
pub fn labelled(mut row: Row, labels: &BTreeMap<String, String>) -> Row {
    let all: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    row.insert("Labels".to_owned(), Value::from(all.join(",")));
    row.insert("Label".to_owned(), Value::from_iter(labels.clone()));
    row
}

/// Prints rows. `columns` are those of the usual table; `headings` those of other fields, where a heading is not
/// just the field's name in capitals.
pub fn print(given: &Given, columns: &[Column], headings: &[Column], rows: Vec<Row>) -> Result<()> {
    say(&lines(given, columns, headings, rows)?)
}

/// What [`print`] prints.
pub fn lines(given: &Given, columns: &[Column], headings: &[Column], rows: Vec<Row>) -> Result<String> {
    let format = Format::given(given)?;
    text(&format, columns, headings, rows)
        .map_err(|why| given.wrong("format", given.text("format").unwrap_or_default(), &why))
}

fn text(format: &Format, columns: &[Column], headings: &[Column], rows: Vec<Row>) -> Result<String, String> {
    match format {
        Format::Json => {
            let line = |mut row: Row| {
                // There for `.Label`, and no field of Docker's.
                row.remove("Label");
                format!("{}\n", Value::Object(row))
            };
            Ok(rows.into_iter().map(line).collect())
        }
        Format::Table => {
            let head: Vec<_> = columns.iter().map(|(_, heading)| (*heading).to_owned()).collect();
            let cell =
                |row: &Row, name: &str| harmless(row.get(name).and_then(Value::as_str).unwrap_or_default());
            let body =
                rows.iter().map(|row| columns.iter().map(|(name, _)| cell(row, name)).collect::<Vec<_>>());
            Ok(aligned([head].into_iter().chain(body).map(|cells| cells.join("\t"))))
        }
        Format::Template { headed, template } => {
            let heading = |name: &str| {
                let known = columns.iter().chain(headings).find(|(field, _)| *field == name);
                Value::from(known.map_or_else(|| name.to_uppercase(), |(_, heading)| (*heading).to_owned()))
            };
            let head = headed.then(|| {
                let names = columns.iter().chain(headings).map(|(name, _)| *name);
                let fields = rows.first().into_iter().flat_map(Row::keys).map(String::as_str);
                Value::Object(names.chain(fields).map(|name| (name.to_owned(), heading(name))).collect())
            });
            let rows = rows.into_iter().map(|row| {
                Value::Object(row.into_iter().map(|(name, value)| (name, made_harmless(value))).collect())
            });
            let head = head.into_iter().map(|row| template.fill_heading(&row));
            let lines = head.chain(rows.map(|row| template.fill(&row))).collect::<Result<Vec<_>, _>>()?;
            match headed {
                true => Ok(aligned(lines.into_iter())),
                false => Ok(lines.into_iter().map(|line| line + "\n").collect()),
            }
        }
    }
}

fn made_harmless(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(harmless(&text)),
        value => value,
    }
}

/// Lines of cells with tabs between, as columns: at least 10 wide, 3 apart, as Docker's.
pub fn aligned(lines: impl Iterator<Item = String>) -> String {
    let mut writer = TabWriter::new(Vec::new()).minwidth(7).padding(3);
    for line in lines {
        // Writing to memory does not fail.
        let _ = writeln!(writer, "{line}");
    }
    let bytes = writer.into_inner().unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 2] = [("ID", "CONTAINER ID"), ("Names", "NAMES")];
    const HEADINGS: [Column; 1] = [("CreatedAt", "CREATED AT")];

    fn printed(format: &str) -> Result<String, String> {
        let rows = [("0123456789ab", "web"), ("x", "evil\u{1b}[2J")];
        let rows = rows.map(|(id, name)| {
            row([("ID", id.to_owned()), ("Names", name.to_owned()), ("CreatedAt", "now".to_owned())])
        });
        text(&Format::parse(format)?, &COLUMNS, &HEADINGS, rows.into())
    }

    #[test]
    fn prints_three_ways() {
        let table = "CONTAINER ID   NAMES\n0123456789ab   web\nx              evil?[2J\n";
        assert_eq!(printed("table").as_deref(), Ok(table));
        let table = "NAMES      CREATED AT\nweb        now\nevil?[2J   now\n";
        assert_eq!(printed("table {{.Names}}\\t{{.CreatedAt}}").as_deref(), Ok(table));
        assert_eq!(printed("{{.ID}}={{.Names}}").as_deref(), Ok("0123456789ab=web\nx=evil?[2J\n"));
        let json = printed("json").unwrap();
        assert_eq!(json.lines().next(), Some(r#"{"CreatedAt":"now","ID":"0123456789ab","Names":"web"}"#));
        assert!(json.ends_with("\"evil\\u001b[2J\"}\n"), "{json}");
        assert!(printed("{{.Nope}}").is_err() && printed("{{nope}}").is_err());
    }

    #[test]
    fn an_empty_table_still_has_its_heading() {
        assert_eq!(text(&Format::Table, &COLUMNS, &[], Vec::new()).as_deref(), Ok("CONTAINER ID   NAMES\n"));
    }
}
