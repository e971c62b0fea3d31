//! `tare image verify` and `tare image compact`.

use tare_engine::Engine;
use tare_sys::{Error, Kind, Result};

use crate::print::failure;
use crate::print::human;
use crate::print::terminal::say;
use crate::words::flag::Given;
use crate::words::tree::Verb;

pub static VERIFY: Verb = Verb {
    about: "Look for damaged blobs and layers; the next pull or load of an image replaces them",
    operands: "[IMAGE...]",
    least: |_| 0,
    most: usize::MAX,
    words_end_options: false,
    flags: &[],
    act: verify,
    failed: 1,
};

pub static COMPACT: Verb = Verb {
    about: "Drop the compressed blobs of images; they are made again when an image is pushed or saved",
    operands: "[IMAGE...]",
    least: |_| 0,
    most: usize::MAX,
    words_end_options: false,
    flags: &[],
    act: compact,
    failed: 1,
};

fn verify(engine: &Engine, given: &Given) -> Result<u8> {
    let (mut whole, mut damaged) = (0, 0);
    engine.verify_images(&given.words(), |image| {
        if image.damage.is_empty() {
            whole += 1;
            return say(&format!("{}: whole\n", image.image));
        }
        damaged += 1;
        let line = |damage: &tare_engine::Damage| {
            let part = if damage.unpacked { "layer" } else { "blob" };
            format!("{}: damaged {part} {}: {}\n", image.image, damage.digest, damage.what)
        };
        say(&image.damage.iter().map(line).collect::<String>())
    })?;
    if damaged == 0 {
        return Ok(0);
    }
    Err(Error::new(Kind::Corrupt, format!("{damaged} of {} images are damaged", whole + damaged))
        .hint("pull or load them again: what is damaged is replaced"))
}

fn compact(engine: &Engine, given: &Given) -> Result<u8> {
    let mut freed = 0;
    engine.compact_images(&given.words(), |image| {
        freed += image.freed;
        for kept in &image.kept {
            failure::warn(&format!(
                "{}: a blob stays, because it could not be made again: {kept}",
                image.image
            ));
        }
        say(&format!("{}: {}\n", image.image, human::size(image.freed)))
    })?;
    say(&format!("Total reclaimed space: {}\n", human::size(freed)))?;
    Ok(0)
}
