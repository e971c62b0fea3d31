//! `tare load`, `tare save` and `tare tag`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tare_engine::{Digest, Engine, LayerState};
use tare_sys::{Context, Error, Kind, Result};

use crate::flag::{Flag, Given};
use crate::human;
use crate::terminal::{complain, say};
use crate::tree::Verb;

/// How often the line moves.
const BEAT: Duration = Duration::from_millis(100);

pub static LOAD: Verb = Verb {
    about: "Load images from a tar archive or STDIN",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::one("input", "file", "images.tar", "Read from a tar archive file, instead of STDIN").short('i'),
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
    flags: &[Flag::one("output", "file", "images.tar", "Write to a file, instead of STDOUT").short('o')],
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
    let progress = Progress::new(!quiet && io::stderr().is_terminal());
    let loaded = engine.load_images(archive, &|digest, state| progress.tell(digest, state));
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
    let Some(path) = given.text("output").filter(|path| !path.is_empty()) else {
        if io::stdout().is_terminal() {
            return Err(Error::new(Kind::Usage, "the archive would go to the terminal")
                .hint("give a file with -o, or send it somewhere: tare save IMAGE | docker load"));
        }
        engine.save_images(&images, BufWriter::with_capacity(1 << 20, io::stdout().lock()))?;
        return Ok(0);
    };
    // Under another name until it is whole.
    let unfinished = format!("{path}.unfinished-{}", std::process::id());
    let written = (|| {
        let file = File::create_new(&unfinished).doing(|| format!("make {unfinished}"))?;
        engine.save_images(&images, BufWriter::with_capacity(1 << 20, file))?;
        std::fs::rename(&unfinished, path).doing(|| format!("rename {unfinished} to {path}"))
    })();
    if written.is_err() {
        // The failure is the one to report.
        let _ = std::fs::remove_file(&unfinished);
    }
    written.map(|()| 0)
}

fn tag(engine: &Engine, given: &Given) -> Result<u8> {
    let [image, name] = given.words()[..] else {
        return Err(Error::new(Kind::Usage, "a tag needs an image and a name"));
    };
    engine.tag_image(image, name).map(|()| 0)
}

/// One line on a terminal for all layers together; nothing elsewhere.
struct Progress {
    shown: bool,
    layers: Mutex<Layers>,
}

struct Layers {
    /// Bytes that have come, and that there are.
    known: BTreeMap<Digest, (u64, u64)>,
    last: Option<Instant>,
}

impl Progress {
    fn new(shown: bool) -> Progress {
        Progress { shown, layers: Mutex::new(Layers { known: BTreeMap::new(), last: None }) }
    }

    fn tell(&self, digest: &Digest, state: LayerState) {
        let Ok(mut layers) = self.layers.lock() else { return };
        if let Some(line) = layers.line(digest, state, Instant::now()).filter(|_| self.shown) {
            complain(&line);
        }
    }

    fn clear(&self) {
        if self.shown {
            complain("\r\x1b[K");
        }
    }
}

impl Layers {
    /// The line, if it is time for another.
    fn line(&mut self, digest: &Digest, state: LayerState, now: Instant) -> Option<String> {
        match state {
            LayerState::Coming { bytes, total, .. } => {
                self.known.insert(digest.clone(), (bytes, total));
            }
            LayerState::Waiting => {
                return Some("\r\x1b[KWaiting for another tare that loads the same".to_owned());
            }
            LayerState::Held | LayerState::Done => {}
        }
        if self.last.is_some_and(|last| now.duration_since(last) < BEAT) {
            return None;
        }
        self.last = Some(now);
        let (come, all) = self.known.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        Some(format!("\r\x1b[KLoading  {} of {}", human::size(come), human::size(all)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let _ = io::stderr().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_adds_up_the_layers_and_moves_ten_times_a_second() {
        let mut layers = Layers { known: BTreeMap::new(), last: None };
        let digest = |byte: u8| Digest::of(&[byte]);
        let coming = |bytes| LayerState::Coming { bytes, total: 5_000_000, entries: 1 };
        let now = Instant::now();
        let first = layers.line(&digest(1), coming(1_000_000), now);
        assert_eq!(first.as_deref(), Some("\r\x1b[KLoading  1MB of 5MB"));
        assert_eq!(layers.line(&digest(2), coming(1_000_000), now + BEAT / 2), None);
        let later = layers.line(&digest(2), coming(3_000_000), now + BEAT);
        assert_eq!(later.as_deref(), Some("\r\x1b[KLoading  4MB of 10MB"));
        assert_eq!(layers.line(&digest(2), LayerState::Done, now + BEAT), None);
    }
}
