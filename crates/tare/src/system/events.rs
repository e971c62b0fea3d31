//! `tare events`: what happens, as it happens.

use std::io::{self, Write};

use serde_json::{Value, json};
use tare_engine::{Engine, Event, EventQuery};
use tare_sys::time::Moment;
use tare_sys::{Context, Result};

use crate::print::failure;
use crate::print::human;
use crate::print::template::Template;
use crate::print::terminal::harmless;
use crate::words::flag::{Flag, Given};
use crate::words::parse::{self, when};
use crate::words::tree::Verb;

pub static EVENTS: Verb = Verb {
    about: "Show what happens to containers and images, as it happens",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::many(
            "filter",
            "event=die",
            "Show only some (container=, event=, image=, label=, network=, type=, volume=)",
        )
        .short('f'),
        Flag::one("format", "string", "json", "Print as 'json' or by a template ('{{.Type}} {{.Action}}')"),
        Flag::one(
            "since",
            "string",
            "10m",
            "Begin with what happened since then (a time, or 10m for ten minutes ago)",
        ),
        Flag::one("until", "string", "2026-11-24T10:00:00", "End then (a time, or 10m for ten minutes ago)"),
    ],
    act: events,
    failed: 1,
};

fn events(engine: &Engine, given: &Given) -> Result<u8> {
    let mut query = EventQuery {
        since: given.value("since", when::moment)?.map(Moment),
        until: given.value("until", when::moment)?.map(Moment),
        filters: Vec::new(),
    };
    given.values("filter", parse::pair("filter"))?;
    given.texts("filter").into_iter().try_for_each(|filter| query.filter(filter))?;
    let template = match given.text("format") {
        None | Some("") => None,
        Some("json") => {
            Some(Template::parse("{{json .}}").map_err(|why| given.wrong("format", "json", &why))?)
        }
        Some(_) => given.value("format", Template::parse)?,
    };
    let mut out = io::stdout().lock();
    let shown = engine.events(&query, &mut |event| {
        let line = match &template {
            None => text(event),
            Some(template) => template
                .fill(&object(event))
                .map_err(|why| given.wrong("format", given.text("format").unwrap_or_default(), &why))?,
        };
        out.write_all(format!("{line}\n").as_bytes())
            .and_then(|()| out.flush())
            .doing(|| "write to standard output")
    });
    match shown {
        Err(error) if failure::is_deaf_reader(&error) => Ok(0),
        result => result.map(|()| 0),
    }
}

/// Docker's line: `2026-11-24T10:00:00.123456789Z container start 0123… (image=busybox, name=web)`.
fn text(event: &Event) -> String {
    let attributes = event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}"));
    let attributes = attributes.collect::<Vec<_>>().join(", ");
    let attributes = if attributes.is_empty() { String::new() } else { format!(" ({attributes})") };
    let line = format!("{} {} {}{attributes}", event.kind, event.action, event.actor.id);
    format!("{} {}", human::instant(event.time_nano), harmless(&line))
}

/// With the older fields beside the newer ones, which clients of either age find.
fn object(event: &Event) -> Value {
    let mut object = json!(event);
    if matches!(event.kind.as_str(), "container" | "image") {
        object["status"] = json!(event.action);
        object["id"] = json!(event.actor.id);
        if let Some(image) = event.actor.attributes.get("image") {
            object["from"] = json!(image);
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_dockers() {
        let event = Event::new("container", "die", "abc").with("image", "busybox").with("exitCode", 3);
        let line = text(&event);
        assert!(line.ends_with(" container die abc (exitCode=3, image=busybox)"), "{line}");
        let event = Event::new("container", "start", "abc").with("name", "evil\x1b[2J\n");
        assert!(text(&event).ends_with("(name=evil?[2J?)"));
        assert_eq!(object(&event)["status"], "start");
        assert_eq!(object(&Event::new("volume", "create", "v")).get("status"), None);
    }
}
