//! How far the layers of an image are.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tare_engine::{Digest, LayerState};

use crate::human;
use crate::terminal::complain;

/// How often the line moves.
const BEAT: Duration = Duration::from_millis(100);

/// One line on a terminal for all layers together; nothing elsewhere.
pub struct Progress {
    doing: &'static str,
    shown: bool,
    layers: Mutex<Layers>,
}

struct Layers {
    /// Bytes that have come, and that there are.
    known: BTreeMap<Digest, (u64, u64)>,
    last: Option<Instant>,
}

impl Progress {
    /// `doing` begins the line.
    pub fn new(doing: &'static str, shown: bool) -> Progress {
        Progress { doing, shown, layers: Mutex::new(Layers { known: BTreeMap::new(), last: None }) }
    }

    /// Hears of a layer.
    pub fn tell(&self, digest: &Digest, state: LayerState) {
        let Ok(mut layers) = self.layers.lock() else { return };
        if let Some(line) = layers.line(self.doing, digest, state, Instant::now()).filter(|_| self.shown) {
            complain(&line);
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.shown {
            complain("\r\x1b[K");
        }
    }
}

impl Layers {
    /// The line, if it is time for another.
    fn line(&mut self, doing: &str, digest: &Digest, state: LayerState, now: Instant) -> Option<String> {
        match state {
            LayerState::Coming { bytes, total, .. } => {
                self.known.insert(digest.clone(), (bytes, total));
            }
            LayerState::Waiting => {
                return Some("\r\x1b[KWaiting for another tare that is at the same".to_owned());
            }
            LayerState::Held | LayerState::Done => {}
        }
        if self.last.is_some_and(|last| now.duration_since(last) < BEAT) {
            return None;
        }
        self.last = Some(now);
        let (come, all) = self.known.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        Some(format!("\r\x1b[K{doing}  {} of {}", human::size(come), human::size(all)))
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
        let first = layers.line("Loading", &digest(1), coming(1_000_000), now);
        assert_eq!(first.as_deref(), Some("\r\x1b[KLoading  1MB of 5MB"));
        assert_eq!(layers.line("Loading", &digest(2), coming(1_000_000), now + BEAT / 2), None);
        let later = layers.line("Loading", &digest(2), coming(3_000_000), now + BEAT);
        assert_eq!(later.as_deref(), Some("\r\x1b[KLoading  4MB of 10MB"));
        assert_eq!(layers.line("Loading", &digest(2), LayerState::Done, now + BEAT), None);
    }
}
