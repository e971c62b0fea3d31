//! What the moving lines say: a picture of the layers at one moment, without a terminal.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tare_engine::{Digest, LayerState};

use crate::print::human;
use crate::print::terminal::Paint;

/// Over which the speed is taken.
const WINDOW: Duration = Duration::from_secs(3);
/// Before which a speed is a guess.
const SURE: Duration = Duration::from_millis(500);
/// Columns of a bar.
const LONGEST: usize = 40;
const SHORTEST: usize = 10;
/// Columns before a bar, and after it.
const BEFORE: usize = 16;
const AFTER: usize = 36;
/// Layers that are shown at once.
const MOST: usize = 8;

/// What the terminal can show.
#[derive(Clone)]
pub struct Look {
    /// Its columns and rows.
    pub size: (usize, usize),
    /// Whether it knows more than ASCII.
    pub unicode: bool,
    /// Its colours.
    pub paint: Paint,
}

impl Look {
    /// That of standard error.
    pub fn of_terminal() -> Look {
        // The first that is set counts (locale(7)).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let locale = locale.unwrap_or_default().to_lowercase();
        let unicode = locale.contains("utf-8") || locale.contains("utf8");
        Look { size: (80, 24), unicode, paint: Paint::stderr() }
    }

    /// The same for the window as it is now.
    pub fn fitting(&self) -> Look {
        let size = tare_sys::tty::size(std::io::stderr()).filter(|size| *size != (0, 0));
        let (columns, rows) = size.unwrap_or((80, 24));
        Look { size: (columns.into(), rows.into()), ..self.clone() }
    }
}

/// What is done with the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Loading,
    Pulling,
    Pushing,
}

/// The layers, in the order in which they were heard of.
pub struct Board {
    doing: Doing,
    layers: Vec<(Digest, Layer)>,
    /// Bytes that had come at some moments.
    past: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy)]
struct Layer {
    stage: Stage,
    bytes: u64,
    total: u64,
    entries: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    Waiting,
    Coming,
    Done,
}

impl Board {
    /// Of no layers yet.
    pub fn new(doing: Doing) -> Board {
        Board { doing, layers: Vec::new(), past: VecDeque::new() }
    }

    /// Hears of a layer.
    pub fn tell(&mut self, digest: &Digest, state: LayerState, now: Instant) {
        let at = self.layers.iter().position(|(known, _)| known == digest).unwrap_or_else(|| {
            let layer = Layer { stage: Stage::Queued, bytes: 0, total: 0, entries: 0 };
            self.layers.push((digest.clone(), layer));
            self.layers.len() - 1
        });
        let layer = &mut self.layers[at].1;
        *layer = match state {
            LayerState::Queued { total } => Layer { stage: Stage::Queued, total, ..*layer },
            LayerState::Waiting => Layer { stage: Stage::Waiting, ..*layer },
            LayerState::Coming { bytes, total, entries } => {
                Layer { stage: Stage::Coming, bytes, total, entries }
            }
            LayerState::Held | LayerState::Done => Layer { stage: Stage::Done, bytes: layer.total, ..*layer },
        };
        let (come, _) = self.sum();
        self.past.push_back((now, come));
        let is_old = |then: &Instant| now.duration_since(*then) > WINDOW;
        while self.past.get(1).is_some_and(|(then, _)| is_old(then)) {
            self.past.pop_front();
        }
    }

    /// The picture: a line for each layer at which something happens, and one for all; none before
    /// anything is known. None is as wide as the terminal.
    pub fn lines(&self, look: &Look, now: Instant) -> Vec<String> {
        if self.layers.is_empty() {
            return Vec::new();
        }
        let (columns, rows) = look.size;
        let active =
            self.layers.iter().filter(|(_, layer)| matches!(layer.stage, Stage::Coming | Stage::Waiting));
        // A layer alone is all there is.
        let room = if self.layers.len() > 1 { MOST.min(rows.saturating_sub(4)) } else { 0 };
        let mut lines: Vec<String> = active
            .take(room)
            .map(|(digest, layer)| row(human::short_id(digest.as_str()), layer, &self.words(layer), look))
            .collect();
        lines.push(self.last_line(look, now));
        let cut = |line: String| if columns < BEFORE + AFTER { cut(line, columns) } else { line };
        lines.into_iter().map(cut).collect()
    }

    fn last_line(&self, look: &Look, now: Instant) -> String {
        let (bytes, total) = self.sum();
        let all = Layer { stage: Stage::Coming, bytes, total, entries: 0 };
        let is_at = |stage: Stage| self.layers.iter().any(|(_, layer)| layer.stage == stage);
        let words = if is_at(Stage::Coming) || is_at(Stage::Queued) {
            let unpacked = self.layers.len() == 1 && bytes == total;
            let alone = self.layers.first().filter(|_| unpacked).map(|(_, layer)| self.words(layer));
            alone.unwrap_or_else(|| format!("{}{}", of(bytes, total), self.speed(total, now)))
        } else if is_at(Stage::Waiting) {
            WAITING.to_owned()
        } else {
            match self.doing {
                Doing::Pushing => "waiting for the registry".to_owned(),
                Doing::Loading | Doing::Pulling => "writing to the disk".to_owned(),
            }
        };
        row(&format!("{:?}", self.doing), &all, &words, look)
    }

    fn words(&self, layer: &Layer) -> String {
        match (layer.stage, self.doing) {
            (Stage::Waiting, _) => WAITING.to_owned(),
            _ if layer.total == 0 || layer.bytes < layer.total => of(layer.bytes, layer.total),
            (_, Doing::Pushing) => "waiting for the registry".to_owned(),
            (_, Doing::Loading | Doing::Pulling) => format!("unpacking, {} files", layer.entries),
        }
    }

    fn sum(&self) -> (u64, u64) {
        self.layers
            .iter()
            .fold((0, 0), |(bytes, total), (_, layer)| (bytes + layer.bytes, total + layer.total))
    }

    /// How fast it goes, and how long it will take, once that is no guess.
    fn speed(&self, total: u64, now: Instant) -> String {
        let (Some((then, before)), Some((_, bytes))) = (self.past.front(), self.past.back()) else {
            return String::new();
        };
        let took = now.duration_since(*then);
        let gone = bytes.saturating_sub(*before);
        if took < SURE || gone == 0 {
            return String::new();
        }
        let speed = gone as f64 / took.as_secs_f64();
        let left = total.saturating_sub(*bytes) as f64 / speed;
        let left = match left.ceil() {
            left if left < 60.0 => format!("{left}s"),
            left if left < 6000.0 => format!("{}m", (left / 60.0).ceil()),
            _ => String::new(),
        };
        format!("  {}/s  {left}", human::size(speed as u64))
    }
}

const WAITING: &str = "waiting for another tare that is at it";

/// Of even width while the first number grows.
fn of(bytes: u64, total: u64) -> String {
    format!("{:>6} / {}", human::size(bytes), human::size(total))
}

fn row(name: &str, layer: &Layer, words: &str, look: &Look) -> String {
    let bar = match layer.stage {
        Stage::Waiting => None,
        _ => bar(layer, look),
    };
    match bar {
        Some(bar) => format!("  {name:<12}  {bar}  {words}"),
        None => format!("  {name:<12}  {words}"),
    }
}

/// `None` where the terminal is too narrow for one, or nothing is known.
fn bar(layer: &Layer, look: &Look) -> Option<String> {
    let width = look.size.0.saturating_sub(BEFORE + AFTER).min(LONGEST);
    if width < SHORTEST || layer.total == 0 {
        return None;
    }
    let full = (u128::from(layer.bytes.min(layer.total)) * width as u128 / u128::from(layer.total)) as usize;
    let (done, left) = if look.unicode { ("━", "─") } else { ("=", "-") };
    Some(look.paint.lively(&done.repeat(full)) + &look.paint.faint(&left.repeat(width - full)))
}

/// Only where there are no colours: narrow terminals have no bars.
fn cut(line: String, columns: usize) -> String {
    line.chars().take(columns.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look { size: (100, 24), unicode: true, paint: Paint::NONE };

    fn coming(bytes: u64, total: u64, entries: u64) -> LayerState {
        LayerState::Coming { bytes, total, entries }
    }

    fn digest(byte: u8) -> Digest {
        Digest::of(&[byte])
    }

    #[test]
    fn layers_come_unpack_and_go() {
        let (mut board, now) = (Board::new(Doing::Pulling), Instant::now());
        let (one, two) = (digest(1), digest(2));
        board.tell(&one, LayerState::Queued { total: 8_000_000 }, now);
        board.tell(&two, LayerState::Queued { total: 2_000_000 }, now);
        board.tell(&one, coming(2_000_000, 8_000_000, 7), now);
        let name = human::short_id(one.as_str());
        assert_eq!(
            board.lines(&LOOK, now),
            [
                format!("  {name}  {}{}     2MB / 8MB", "━".repeat(10), "─".repeat(30)),
                format!("  Pulling       {}{}     2MB / 10MB", "━".repeat(8), "─".repeat(32)),
            ]
        );
        let later = now + Duration::from_secs(1);
        board.tell(&one, coming(8_000_000, 8_000_000, 9), later);
        let lines = board.lines(&LOOK, later);
        assert!(lines[0].ends_with("  unpacking, 9 files"), "{lines:?}");
        assert!(lines[1].ends_with("   8MB / 10MB  8MB/s  1s"), "{lines:?}");
        board.tell(&one, LayerState::Done, later);
        board.tell(&two, LayerState::Waiting, later);
        let lines = board.lines(&LOOK, later);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.ends_with(WAITING)), "{lines:?}");
        board.tell(&two, LayerState::Held, later);
        let lines = board.lines(&LOOK, later);
        assert_eq!(lines, [format!("  Pulling       {}  writing to the disk", "━".repeat(40))]);
    }

    #[test]
    fn one_layer_has_one_line() {
        let (mut board, now) = (Board::new(Doing::Loading), Instant::now());
        board.tell(&digest(1), coming(1, 2, 1), now);
        assert_eq!(board.lines(&LOOK, now).len(), 1);
        board.tell(&digest(1), coming(2, 2, 3), now);
        assert!(board.lines(&LOOK, now)[0].ends_with("unpacking, 3 files"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let (mut board, now) = (Board::new(Doing::Pulling), Instant::now());
        for byte in 0..40 {
            board.tell(&digest(byte), coming(999_000_000_000, u64::MAX / 64, u64::MAX), now);
        }
        for columns in [1, 20, 51, 52, 61, 62, 80, 300] {
            for unicode in [true, false] {
                let look = Look { size: (columns, 10), unicode, ..LOOK };
                let lines = board.lines(&look, now + WINDOW);
                assert!(lines.len() <= 7, "{lines:?}");
                let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
                assert!(widest < columns.max(BEFORE + AFTER + 1), "{columns}: {lines:#?}");
            }
        }
    }
}
