//! `tare image copy`.

use tare_engine::Engine;
use tare_sys::{Error, Kind, Result};

use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static COPY: Verb = Verb {
    about: "Copy an image between this store (NAME), registries (docker://NAME), OCI layouts (oci:FOLDER[:NAME]) and \
            archives (docker-archive:FILE[:NAME])",
    operands: "[OPTIONS] SOURCE DESTINATION",
    least: |_| 2,
    most: 2,
    words_end_options: false,
    flags: &[Flag::one(
        "platform",
        "string",
        "linux/arm64",
        "Copy the image for another platform than this machine's",
    )],
    act: copy,
    failed: 1,
};

fn copy(engine: &Engine, given: &Given) -> Result<u8> {
    let [from, to] = given.words()[..] else {
        return Err(Error::new(Kind::Usage, "a copy needs a source and a destination"));
    };
    let id = engine.copy_image(from, to, given.text("platform"))?;
    say(&format!("{id}\n"))?;
    Ok(0)
}
