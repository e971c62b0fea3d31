//! `tare pull` and `tare push`.

use std::sync::Mutex;

use tare_engine::{Engine, LayerState, PullOptions, Pulled, PushState, Reference};
use tare_sys::{Error, Kind, Result};

use crate::print::human;
use crate::print::progress::{Doing, Progress};
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static PULL: Verb = Verb {
    about: "Download an image from a registry",
    operands: "[OPTIONS] NAME[:TAG|@DIGEST]",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::switch("all-tags", "Download all tagged images in the repository").short('a'),
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
    flags: &[
        Flag::switch("all-tags", "Push all tags of an image to the repository").short('a'),
        Flag::one("platform", "string", "linux/arm64", "Fail if the image is for another platform"),
        Flag::switch("quiet", "Print the image's name only").short('q'),
    ],
    act: push,
    failed: 1,
};

fn pull(engine: &Engine, given: &Given) -> Result<u8> {
    let word = given.words()[0];
    let quiet = given.on("quiet")?;
    let options = PullOptions { platform: given.text("platform").map(str::to_owned) };
    let name = Reference::parse(word)?;
    if !given.on("all-tags")? {
        if !quiet && !has_tag(word) {
            say("Using default tag: latest\n")?;
        }
        return pull_one(engine, &name, &options, quiet).map(|()| 0);
    }
    repository_alone(word)?;
    for tag in engine.tags(word)? {
        let name = Reference::parse(&format!("{}:{tag}", name.name()))?;
        pull_one(engine, &name, &options, quiet)?;
    }
    Ok(0)
}

fn pull_one(engine: &Engine, name: &Reference, options: &PullOptions, quiet: bool) -> Result<()> {
    // Nobody listens any more: no reason to stop.
    let pulled = fetch(engine, &name.full(), options, quiet, &|line| drop(say(line)))?;
    if !quiet {
        let status = if pulled.up_to_date { "Image is up to date for" } else { "Downloaded newer image for" };
        say(&format!("Digest: {}\nStatus: {status} {name}\n", pulled.digest))?;
    }
    say(&format!("{}\n", pulled.name))
}

/// Whether a name says which of a repository's images is meant.
fn has_tag(name: &str) -> bool {
    name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

fn repository_alone(name: &str) -> Result<()> {
    match has_tag(name) {
        true => {
            Err(Error::new(Kind::Usage, "tag can't be used with --all-tags/-a").hint("leave one of them out"))
        }
        false => Ok(()),
    }
}

/// Pulls, and shows how far it is. `tell` gets the lines that stay.
pub fn fetch(
    engine: &Engine,
    name: &str,
    options: &PullOptions,
    quiet: bool,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Pulled> {
    let name = Reference::parse(name)?;
    let progress = Progress::new(Doing::Pulling, !quiet);
    let begun = Mutex::new(false);
    let begin = || {
        let mut begun = begun.lock().unwrap_or_else(|err| err.into_inner());
        if !std::mem::replace(&mut begun, true) && !quiet {
            let tag = name.digest().map(ToString::to_string).or(name.tag().map(str::to_owned));
            tell(&format!("{}: Pulling from {}\n", tag.unwrap_or_default(), from(&name)));
        }
    };
    // A layer may be told of twice, as one image may have it twice.
    let (started, finished) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let pulled = engine.pull_image(&name.full(), options, &|digest, state| {
        begin();
        let (list, word) = match state {
            LayerState::Held => (&finished, "Already exists"),
            LayerState::Done => (&finished, "Pull complete"),
            LayerState::Waiting => (&started, "Waiting for another tare"),
            LayerState::Coming { .. } => (&started, "Pulling fs layer"),
            LayerState::Queued { .. } => return progress.tell(digest, state),
        };
        progress.tell(digest, state);
        let mut list = list.lock().unwrap_or_else(|err| err.into_inner());
        // What moves shows by itself that it has begun.
        let is_end = matches!(state, LayerState::Held | LayerState::Done);
        if !quiet && !list.contains(digest) && (is_end || !progress.is_live()) {
            list.push(digest.clone());
            let line = format!("{}: {word}\n", human::short_id(digest.as_str()));
            progress.above(|| tell(&line));
        }
    });
    progress.clear();
    pulled
}

/// What a repository is called in its registry, as Docker says it.
fn from(name: &Reference) -> String {
    if name.domain() == "docker.io" { name.path().to_owned() } else { name.name() }
}

fn push(engine: &Engine, given: &Given) -> Result<u8> {
    let word = given.words()[0];
    let quiet = given.on("quiet")?;
    let name = Reference::parse(word)?;
    let names = if given.on("all-tags")? {
        repository_alone(word)?;
        engine.names_in_repository(word)?
    } else {
        if !quiet && !has_tag(word) {
            say("Using default tag: latest\n")?;
        }
        vec![name.to_string()]
    };
    if !quiet {
        say(&format!("The push refers to repository [{}]\n", name.name()))?;
    }
    for name in names {
        push_one(engine, &name, given.text("platform"), quiet)?;
    }
    Ok(0)
}

fn push_one(engine: &Engine, name: &str, platform: Option<&str>, quiet: bool) -> Result<()> {
    let progress = Progress::new(Doing::Pushing, !quiet);
    let pushed = engine.push_image(name, platform, &|digest, total, state| {
        let word = match state {
            PushState::Going(bytes) => {
                return progress.tell(digest, LayerState::Coming { bytes, total, entries: 0 });
            }
            PushState::Held => "Layer already exists",
            PushState::Mounted => "Mounted from another repository",
            PushState::Done => "Pushed",
        };
        progress.tell(digest, LayerState::Done);
        if !quiet {
            let line = format!("{}: {word}\n", human::short_id(digest.as_str()));
            // Nobody listens any more: no reason to stop.
            progress.above(|| drop(say(&line)));
        }
    });
    progress.clear();
    let (digest, size) = pushed?;
    let tag = Reference::parse(name)?.tag().unwrap_or_default().to_owned();
    say(&if quiet { format!("{name}\n") } else { format!("{tag}: digest: {digest} size: {size}\n") })
}
