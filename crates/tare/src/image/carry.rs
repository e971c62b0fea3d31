//! `tare load`, `tare save` and `tare tag`.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use tare_engine::{Engine, Packing};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::export::whole_file;
use crate::print::progress::{Doing, Progress};
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static LOAD: Verb = Verb {
    about: "Load images from a tar archive or STDIN",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::one("input", "file", "images.tar", "Read from a tar archive file, instead of STDIN").short('i'),
        Flag::one(
            "platform",
            "string",
            "linux/arm64",
            "Load the images for another platform than this machine's",
        ),
        Flag::switch("quiet", "Suppress the load output").short('q'),
    ],
    act: load,
    failed: 1,
};

pub static SAVE: Verb = Verb {
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    operands: "[OPTIONS] IMAGE [IMAGE...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::one(
            "output",
            "file",
            "images.tar",
            "Write to a file, instead of STDOUT; compressed if it ends in .gz, .tgz or .zst",
        )
        .short('o'),
        Flag::one("platform", "string", "linux/arm64", "Fail if an image is for another platform"),
    ],
    act: save,
    failed: 1,
};

pub static TAG: Verb = Verb {
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    operands: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    least: |_| 2,
    most: 2,
    words_end_options: false,
    flags: &[],
    act: tag,
    failed: 1,
};

fn load(engine: &Engine, given: &Given) -> Result<u8> {
    let source = given.text("input").filter(|path| !path.is_empty());
    let archive = match source {
        Some(path) => File::open(path).doing(|| format!("open the archive {path}"))?,
        None if io::stdin().is_terminal() => {
            return Err(Error::new(Kind::Usage, "the archive would come from the terminal")
                .hint("for example: tare load -i images.tar, or docker save IMAGE | tare load"));
        }
        None => io::stdin().as_fd().try_clone_to_owned().doing(|| "dup(stdin)")?.into(),
    };
    let quiet = given.on("quiet")?;
    let progress = Progress::new(Doing::Loading, !quiet);
    let loaded =
        engine.load_images(archive, given.text("platform"), &|digest, state| progress.tell(digest, state));
    progress.clear();
    let loaded = loaded.doing(|| format!("load {}", source.unwrap_or("standard input")))?;
    for image in loaded {
        if image.names.is_empty() {
            say(&format!("Loaded image ID: {}\n", image.id))?;
        }
        for name in image.names {
            say(&format!("Loaded image: {name}\n"))?;
        }
    }
    Ok(0)
}

fn save(engine: &Engine, given: &Given) -> Result<u8> {
    let images = given.words();
    let path = given.text("output").unwrap_or_default();
    if path.is_empty() && io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "the archive would go to the terminal")
            .hint("give a file with -o, or send it somewhere: tare save IMAGE | docker load"));
    }
    let packing = Packing::of(path);
    whole_file(path, |to| engine.save_images(&images, given.text("platform"), packing, to))?;
    Ok(0)
}

fn tag(engine: &Engine, given: &Given) -> Result<u8> {
    let [image, name] = given.words()[..] else {
        return Err(Error::new(Kind::Usage, "a tag needs an image and a name"));
    };
    engine.tag_image(image, name).map(|()| 0)
}
