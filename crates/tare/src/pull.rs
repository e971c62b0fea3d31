//! `tare pull` and `tare push`.

use std::io::{self, IsTerminal};
use std::sync::Mutex;

use tare_engine::{Engine, LayerState, PullOptions, Pulled, PushState};
use tare_sys::Result;

use crate::flag::{Flag, Given};
use crate::human;
use crate::progress::Progress;
use crate::terminal::say;
use crate::tree::Verb;

pub static PULL: Verb = Verb {
    about: "Download an image from a registry",
    operands: "[OPTIONS] NAME[:TAG|@DIGEST]",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::one(
            "platform",
            "string",
            "linux/arm64",
            "Pull the image for another platform than this machine's",
        ),
        Flag::switch("quiet", "Print the image's name only").short('q'),
    ],
    act: pull,
    failed: 1,
};

pub static PUSH: Verb = Verb {
    about: "Upload an image to a registry",
    operands: "[OPTIONS] NAME[:TAG]",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[Flag::switch("quiet", "Print the image's name only").short('q')],
    act: push,
    failed: 1,
};

fn pull(engine: &Engine, given: &Given) -> Result<u8> {
    let name = given.words()[0];
    let quiet = given.on("quiet")?;
    let options = PullOptions { platform: given.text("platform").map(str::to_owned) };
    // Nobody listens any more: no reason to stop.
    let pulled = fetch(engine, name, &options, quiet, &|line| drop(say(line)))?;
    if !quiet {
        let status = if pulled.up_to_date { "Image is up to date for" } else { "Downloaded newer image for" };
        say(&format!("Digest: {}\nStatus: {status} {name}\n", pulled.digest))?;
    }
    say(&format!("{}\n", pulled.name))?;
    Ok(0)
}

/// Pulls, and shows how far it is. `tell` gets a line for each layer.
pub fn fetch(
    engine: &Engine,
    name: &str,
    options: &PullOptions,
    quiet: bool,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Pulled> {
    let progress = Progress::new("Pulling", !quiet && io::stderr().is_terminal());
    // A layer may be told of twice, as one image may have it twice.
    let finished = Mutex::new(Vec::new());
    let pulled = engine.pull_image(name, options, &|digest, state| {
        progress.tell(digest, state);
        let word = match state {
            LayerState::Held => "Already exists",
            LayerState::Done => "Pull complete",
            LayerState::Waiting | LayerState::Coming { .. } => return,
        };
        let Ok(mut finished) = finished.lock() else { return };
        if !quiet && !finished.contains(digest) {
            finished.push(digest.clone());
            progress.clear();
            tell(&format!("{}: {word}\n", human::short_id(digest.as_str())));
        }
    });
    progress.clear();
    pulled
}

fn push(engine: &Engine, given: &Given) -> Result<u8> {
    let name = given.words()[0];
    let quiet = given.on("quiet")?;
    let progress = Progress::new("Pushing", !quiet && io::stderr().is_terminal());
    let digest = engine.push_image(name, &|digest, total, state| {
        let word = match state {
            PushState::Going(bytes) => {
                return progress.tell(digest, LayerState::Coming { bytes, total, entries: 0 });
            }
            PushState::Held => "Layer already exists",
            PushState::Mounted => "Mounted from another repository",
            PushState::Done => "Pushed",
        };
        if !quiet {
            progress.clear();
            // Nobody listens any more: no reason to stop.
            let _ = say(&format!("{}: {word}\n", human::short_id(digest.as_str())));
        }
    });
    progress.clear();
    let digest = digest?;
    say(&if quiet { format!("{name}\n") } else { format!("{name}: digest: {digest}\n") })?;
    Ok(0)
}
