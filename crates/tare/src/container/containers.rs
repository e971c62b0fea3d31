//! The verbs on containers that exist: `kill`, `logs`, `rm`, `stop`.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use tare_engine::{Engine, LogQuery};
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result};

use crate::print::failure::{self, each};
use crate::print::template::Template;
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::parse::{self, Parsed, when};
use crate::words::tree::Verb;

const SIGKILL: i32 = 9;

pub static KILL: Verb = Verb {
    about: "Send a signal to one or more running containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[Flag::one("signal", "string", "SIGTERM", "Signal to send (default \"KILL\")").short('s')],
    act: kill,
    failed: 1,
};

pub static LOGS: Verb = Verb {
    about: "Show what a container has written",
    operands: "[OPTIONS] CONTAINER",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::switch("details", "Show the attributes that --log-opt labels and env keep with each line"),
        Flag::switch("follow", "Go on as more is written").short('f'),
        Flag::one(
            "since",
            "string",
            "10m",
            "Show only what was written since then (a time, or 10m for ten minutes ago)",
        ),
        Flag::one("tail", "string", "100", "Lines to show from the end (default \"all\")").short('n'),
        Flag::switch("timestamps", "Show when each line was written").short('t'),
        Flag::one(
            "until",
            "string",
            "10m",
            "Show only what was written until then (a time, or 10m for ten minutes ago)",
        ),
    ],
    act: logs,
    failed: 1,
};

pub static REMOVE: Verb = Verb {
    about: "Remove one or more containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::switch("force", "Kill the container first if it runs").short('f'),
        Flag::switch("link", "Not supported; links go with the container that has them").short('l'),
        Flag::switch("volumes", "Remove its anonymous volumes as well").short('v'),
    ],
    act: remove,
    failed: 1,
};

/// How `stop` and `restart` stop.
pub const STOP_SIGNAL: Flag =
    Flag::one("signal", "string", "SIGINT", "Signal to send instead of the container's own").short('s');
/// How long they wait.
pub const STOP_TIMEOUT: Flag =
    Flag::one("timeout", "int", "30", "Seconds to wait before the container is killed (default 10)")
        .short('t')
        .alias("time");

pub static STOP: Verb = Verb {
    about: "Stop one or more running containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[STOP_SIGNAL, STOP_TIMEOUT],
    act: stop,
    failed: 1,
};

/// Prints all that is known of the things that words name, as `--format` says.
pub fn show(given: &Given, look: impl Fn(&str) -> Result<Value>) -> Result<u8> {
    let template = match given.text("format") {
        None | Some("" | "json") => None,
        Some(_) => given.value("format", Template::parse)?,
    };
    let mut found = Vec::new();
    let code = each(&given.words(), |word| {
        found.push(look(word)?);
        Ok(())
    });
    match template {
        Some(template) => {
            for value in &found {
                let text = template.fill(value);
                let text = text
                    .map_err(|why| given.wrong("format", given.text("format").unwrap_or_default(), &why))?;
                say(&format!("{text}\n"))?;
            }
        }
        None if given.text("format") == Some("json") => say(&format!("{}\n", Value::Array(found)))?,
        None => say(&pretty(&Value::Array(found))?)?,
    }
    Ok(code)
}

/// JSON with Docker's indent of four.
pub fn pretty(value: &Value) -> Result<String> {
    let mut bytes = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, indent));
    written.map_err(io::Error::other).doing(|| "write JSON")?;
    bytes.push(b'\n');
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Seconds to wait; -1, as in Docker, for ever.
pub fn seconds(text: &str) -> Parsed<u32> {
    parse::number(-1, i64::from(u32::MAX))(text).map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
}

pub fn signal(text: &str) -> Parsed<i32> {
    tare_engine::signal_number(text).ok_or_else(|| "there is no such signal".to_owned())
}

fn kill(engine: &Engine, given: &Given) -> Result<u8> {
    let signal = given.value("signal", signal)?.unwrap_or(SIGKILL);
    Ok(each(&given.words(), |word| {
        engine.kill(word, signal)?;
        say(&format!("{word}\n"))
    }))
}

/// Bytes of a log that are printed together.
const BUFFER: usize = 64 * 1024;

fn logs(engine: &Engine, given: &Given) -> Result<u8> {
    let query = LogQuery {
        follow: given.on("follow")?,
        tail: given.value("tail", lines)?.flatten(),
        timestamps: given.on("timestamps")?,
        details: given.on("details")?,
        since: given.value("since", when::moment)?.map(Moment),
        until: given.value("until", when::moment)?.map(Moment),
    };
    let [container] = given.words()[..] else {
        return Err(Error::new(Kind::Usage, "logs are of one container"));
    };
    // A line at a time would be slower than containers write.
    let mut out = io::BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let mut err = io::BufWriter::with_capacity(BUFFER, io::stderr().lock());
    let written = engine.logs(container, &query, &mut out, &mut err);
    match written.and_then(|()| out.flush().doing(|| "write to standard output")) {
        Err(error) if failure::is_deaf_reader(&error) => Ok(0),
        result => result.map(|()| 0),
    }
}

/// A number of lines; `None`: all.
fn lines(text: &str) -> Parsed<Option<usize>> {
    match text {
        "all" => Ok(None),
        // Docker takes any negative number for all.
        _ => parse::number(i64::MIN, i64::MAX)(text).map(|lines| usize::try_from(lines).ok()),
    }
}

fn remove(engine: &Engine, given: &Given) -> Result<u8> {
    let (force, volumes) = (given.on("force")?, given.on("volumes")?);
    if given.on("link")? {
        return Err(Error::new(
            Kind::Unsupported,
            "rm --link: a link cannot be removed from a container that has it",
        )
        .hint("make that container anew without --link"));
    }
    Ok(each(&given.words(), |word| {
        match engine.remove(word, force, volumes) {
            // Many a script begins with `rm -f`: what it did not remove is told, and is no failure.
            Err(err) if force && err.kind() == Kind::NotFound => {
                failure::print(&err);
                return Ok(());
            }
            result => result?,
        }
        say(&format!("{word}\n"))
    }))
}

fn stop(engine: &Engine, given: &Given) -> Result<u8> {
    let signal = given.value("signal", signal)?;
    let timeout = given.value("timeout", seconds)?;
    Ok(each(&given.words(), |word| {
        engine.stop(word, signal, timeout)?;
        say(&format!("{word}\n"))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_counted() {
        assert_eq!(lines("all"), Ok(None));
        assert_eq!(lines("-1"), Ok(None));
        assert_eq!(lines("0"), Ok(Some(0)));
        assert_eq!(lines("12"), Ok(Some(12)));
        assert!(lines("few").is_err());
    }

    #[test]
    fn inspect_is_indented_by_four() {
        let text = pretty(&serde_json::json!([{"Id": "a"}])).unwrap();
        assert_eq!(text, "[\n    {\n        \"Id\": \"a\"\n    }\n]\n");
    }
}
