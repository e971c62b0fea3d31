//! `start`, `kill`, `pause`, `resume`, `delete`.

use regex_lite::Regex;
use tare_sys::{Error, Kind, Result, signal};

use super::Call;
use crate::words::flag::Flag;

const REGEX: Flag =
    Flag::switch("regex", "ID is a regular expression: all containers that it matches").short('r');

pub static KILL: [Flag; 2] =
    [Flag::switch("all", "Send it to all processes of the container").short('a'), REGEX];

pub static DELETE: [Flag; 2] = [
    Flag::switch("force", "Kill the container first if it runs; one that is not there is no error")
        .short('f'),
    REGEX,
];

const SIGTERM: i32 = 15;

pub fn start(call: &Call) -> Result<u8> {
    call.runtime.start(call.id())?;
    Ok(0)
}

pub fn pause(call: &Call) -> Result<u8> {
    call.container()?.pause()?;
    Ok(0)
}

pub fn resume(call: &Call) -> Result<u8> {
    call.container()?.resume()?;
    Ok(0)
}

pub fn kill(call: &Call) -> Result<u8> {
    let all = call.given.on("all")?;
    let number = match call.given.words().get(1) {
        Some(text) => signal::number(text).ok_or_else(|| {
            Error::new(Kind::Usage, format!("unknown signal {text:?}"))
                .hint("for example: KILL, SIGTERM, 9, RTMIN+3")
        })?,
        None => SIGTERM,
    };
    each(call, |id| call.runtime.container(id)?.kill(number, all))
}

pub fn delete(call: &Call) -> Result<u8> {
    let force = call.given.on("force")?;
    each(call, |id| {
        let container = match call.runtime.container(id) {
            Err(error) if force && error.kind() == Kind::NotFound => return Ok(()),
            container => container?,
        };
        call.warn(&container.delete(force)?);
        Ok(())
    })
}

/// Does it to the container, or with `--regex` to all that match: each gets its turn, and the first failure counts.
fn each(call: &Call, act: impl Fn(&str) -> Result<()>) -> Result<u8> {
    if !call.given.on("regex")? {
        act(call.id())?;
        return Ok(0);
    }
    let regex = Regex::new(call.id()).map_err(|err| {
        Error::new(Kind::Usage, format!("{:?} is not a regular expression: {err}", call.id()))
    })?;
    let ids = call.runtime.ids()?;
    let failures = ids
        .iter()
        .filter(|id| regex.is_match(id))
        .filter_map(|id| act(id).map_err(|error| error.context(format!("container {id}"))).err());
    // All of them, not up to the first.
    let failures: Vec<Error> = failures.collect();
    failures.into_iter().next().map_or(Ok(0), Err)
}
