//! `tare inspect`: all that is known of something, whatever kind of thing it is.

use serde_json::Value;
use tare_engine::Engine;
use tare_sys::{Error, Kind, Result};

use crate::container::containers::show;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

/// A kind of things that can be looked at.
type Look = fn(&Engine, &str) -> Result<Value>;

/// The kinds, in the order in which a name is looked for.
static KINDS: [(&str, Look); 4] = [
    ("container", Engine::inspect),
    ("image", Engine::inspect_image),
    ("network", Engine::inspect_network),
    ("volume", |engine, name| engine.volume(name).map(|volume| volume.to_json())),
];

const FORMAT: Flag =
    Flag::one("format", "string", "json", "Print as 'json' or by a template ('{{.State.Pid}}')").short('f');

pub static ANY: Verb = Verb {
    about: "Show all that is known of containers, images and other things",
    operands: "[OPTIONS] NAME|ID [NAME|ID...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        FORMAT,
        Flag::switch("size", "Measure how much a container has written").short('s'),
        Flag::one(
            "type",
            "string",
            "image",
            "Look for this kind of thing only (container, image, network, volume)",
        ),
    ],
    act: any,
    failed: 1,
};

pub static CONTAINER: Verb = Verb {
    about: "Show all that is known of one or more containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[FORMAT, Flag::switch("size", "Measure how much a container has written").short('s')],
    act: |engine, given| show(given, |word| measured(engine, given, engine.inspect(word)?)),
    failed: 1,
};

pub static IMAGE: Verb = Verb {
    about: "Show all that is known of one or more images",
    operands: "[OPTIONS] IMAGE [IMAGE...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[FORMAT],
    act: |engine, given| show(given, |word| engine.inspect_image(word)),
    failed: 1,
};

fn any(engine: &Engine, given: &Given) -> Result<u8> {
    let kind = given.text("type").filter(|kind| !kind.is_empty());
    if let Some(kind) = kind.filter(|kind| !KINDS.iter().any(|(known, _)| known == kind)) {
        let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
        return Err(given.wrong("type", kind, &format!("there are {}", known.join(", "))));
    }
    show(given, |word| {
        for (_, look) in KINDS.iter().filter(|(known, _)| kind.is_none_or(|kind| kind == *known)) {
            match look(engine, word) {
                // What cannot be the name of the one kind may be that of another.
                Err(err) if kind.is_none() && matches!(err.kind(), Kind::NotFound | Kind::Usage) => {}
                looked => return measured(engine, given, looked?),
            }
        }
        Err(Error::new(Kind::NotFound, format!("no such object: {word}"))
            .hint("`tare ps --all` lists the containers, `tare images` the images"))
    })
}

/// With the sizes of a container's files, where they are asked for.
fn measured(engine: &Engine, given: &Given, mut object: Value) -> Result<Value> {
    if given.on("size")?
        && object.get("HostConfig").is_some()
        && let Some(id) = object["Id"].as_str()
    {
        let size = engine.size(id)?;
        object["SizeRw"] = Value::from(size.written);
        object["SizeRootFs"] = Value::from(size.with_image);
    }
    Ok(object)
}
