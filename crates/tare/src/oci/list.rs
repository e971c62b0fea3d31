//! `state`, `list`, `ps`: what there is.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;
use tabwriter::TabWriter;
use tare_runtime::container::{State, Status};
use tare_sys::{Context, Error, Kind, Result};

use super::Call;
use crate::print::terminal::{harmless, say};
use crate::words::flag::{Flag, Given};

const FORMAT: Flag =
    Flag::one("format", "string", "json", "Print as table or json (default table)").short('f');

pub static LIST: [Flag; 2] = [FORMAT, Flag::switch("quiet", "Print ids alone").short('q')];
pub static PS: [Flag; 1] = [FORMAT];

/// A container's state with runc's fields in runc's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, &'a str>,
    owner: &'a str,
}

impl<'a> Shown<'a> {
    fn of(state: &'a State) -> Shown<'a> {
        let annotations = state.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Shown {
            oci_version: &state.oci_version,
            id: &state.id,
            pid: state.pid,
            status: state.status,
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations: annotations.collect(),
            owner: &state.owner,
        }
    }
}

pub fn state(call: &Call) -> Result<u8> {
    let state = call.container()?.state()?;
    say(&format!("{}\n", json(serde_json::to_string_pretty(&Shown::of(&state)))?))?;
    Ok(0)
}

pub fn list(call: &Call) -> Result<u8> {
    let json_wanted = json_wanted(&call.given)?;
    let ids = call.runtime.ids()?;
    if call.given.on("quiet")? {
        say(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(0);
    }
    let mut states = Vec::new();
    for id in ids {
        match call.runtime.container(&id).and_then(|container| container.state()) {
            Ok(state) => states.push(state),
            // Deleted since we looked.
            Err(error) if error.kind() == Kind::NotFound => {}
            // One that is broken must not hide the others.
            Err(error) => call.warn(&[format!("container {id}: {error}")]),
        }
    }
    let text = match json_wanted {
        // Go's empty list, which is what callers of runc know.
        true if states.is_empty() => "null\n".to_owned(),
        true => {
            format!("{}\n", json(serde_json::to_string(&states.iter().map(Shown::of).collect::<Vec<_>>()))?)
        }
        false => table(&states),
    };
    say(&text)?;
    Ok(0)
}

/// Columns as runc aligns them.
fn table(states: &[State]) -> String {
    let mut writer = TabWriter::new(Vec::new()).minwidth(9).padding(3);
    let mut line = |cells: [&str; 6]| {
        let cells = cells.map(harmless);
        // Writing to memory does not fail.
        let _ = writeln!(writer, "{}", cells.join("\t"));
    };
    line(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    for state in states {
        let (pid, bundle) = (state.pid.to_string(), state.bundle.to_string_lossy());
        line([&state.id, &pid, word(state.status), &bundle, &state.created, &state.owner]);
    }
    let text = String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Creating => "creating",
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Stopped => "stopped",
    }
}

pub fn ps(call: &Call) -> Result<u8> {
    let json_wanted = json_wanted(&call.given)?;
    let pids = call.container()?.processes()?;
    if json_wanted {
        let text = if pids.is_empty() { "null".to_owned() } else { json(serde_json::to_string(&pids))? };
        say(&format!("{text}\n"))?;
        return Ok(0);
    }
    let mut options = call.given.strings_after(1);
    if options.is_empty() {
        options.push("-ef".to_owned());
    }
    let out = Command::new("ps")
        .args(&options)
        .stdin(Stdio::null())
        .output()
        .doing(|| "execute ps")
        .map_err(|err| err.hint("install procps, or use --format json"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        return Err(Error::new(Kind::Usage, format!("ps {}: {}", options.join(" "), why.trim())));
    }
    say(&of_pids(&text, &pids)?)?;
    Ok(0)
}

/// The lines of ps(1) about some processes, under its heading.
fn of_pids(text: &str, pids: &[i32]) -> Result<String> {
    let heading = text.lines().next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID").ok_or_else(|| {
        Error::new(Kind::Usage, "couldn't find PID field in ps output")
            .hint("let ps print a column PID, for example: -o pid,comm")
    })?;
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let lines = text.lines().skip(1).filter(is_ours);
    Ok([heading].into_iter().chain(lines).map(|line| format!("{line}\n")).collect())
}

fn json_wanted(given: &Given) -> Result<bool> {
    let format = given.value("format", |text| match text {
        "" | "table" => Ok(false),
        "json" => Ok(true),
        _ => Err("it can be table or json".to_owned()),
    })?;
    Ok(format.unwrap_or(false))
}

fn json(text: serde_json::Result<String>) -> Result<String> {
    text.map_err(|err| Error::new(Kind::Corrupt, format!("write JSON: {err}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> State {
        State {
            oci_version: "1.3.0".to_owned(),
            id: "x".to_owned(),
            pid: 21855,
            status: Status::Running,
            bundle: "/tmp/probe/b".into(),
            rootfs: "/tmp/probe/b/rootfs".into(),
            created: "2026-11-23T23:45:09.058919058Z".to_owned(),
            owner: "root".to_owned(),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
        }
    }

    #[test]
    fn the_table_is_runcs() {
        let expected = "\
ID          PID         STATUS      BUNDLE         CREATED                          OWNER
x           21855       running     /tmp/probe/b   2026-11-23T23:45:09.058919058Z   root
";
        assert_eq!(table(&[example()]), expected);
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn the_state_is_runcs() {
        let text = serde_json::to_string(&Shown::of(&example())).unwrap();
        let expected = r#"{"ociVersion":"1.3.0","id":"x","pid":21855,"status":"running","bundle":"/tmp/probe/b","rootfs":"/tmp/probe/b/rootfs","created":"2026-11-23T23:45:09.058919058Z","annotations":{"a":"b"},"owner":"root"}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn ps_keeps_the_lines_of_the_container() {
        let text = "  PID COMMAND\n    1 init\n   12 sh\n  112 12\n";
        assert_eq!(of_pids(text, &[12]).unwrap(), "  PID COMMAND\n   12 sh\n");
        assert_eq!(of_pids(text, &[]).unwrap(), "  PID COMMAND\n");
        assert!(of_pids("COMMAND\nsh\n", &[1]).is_err());
    }
}
