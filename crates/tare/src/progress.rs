//! How far the layers of an image are: a few lines at the bottom of a terminal that move, under those that stay.
//!
//! ```text
//! 3f2a9c81b0d4: Already exists
//! 9c0abc9c5bd3: Pull complete
//!   5d20c808ce19  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  unpacking, 2103 files
//!   a1b2c3d4e5f6  ━━━━━━━━━━━━━━──────────────────────────  17.2MB / 48.5MB
//!   Pulling       ━━━━━━━━━━━━━━━━━━━━────────────────────  61.2MB / 120MB  23.4MB/s  3s
//! ```
//!
//! The cursor rests below them, so what stops the command leaves a whole picture.

mod board;

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tare_engine::{Digest, LayerState};

use crate::terminal::complain;
pub use board::Doing;
use board::{Board, Look};

/// How often the lines move.
const BEAT: Duration = Duration::from_millis(100);

/// The lines that move; none where standard error is no terminal.
pub struct Progress {
    look: Option<Look>,
    screen: Mutex<Screen>,
}

struct Screen {
    board: Board,
    /// Lines that are on the terminal now.
    drawn: usize,
    last: Option<Instant>,
}

impl Progress {
    /// `wanted`: not if somebody asked for quiet.
    pub fn new(doing: Doing, wanted: bool) -> Progress {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let look = (wanted && !dumb && io::stderr().is_terminal()).then(Look::of_terminal);
        let screen = Screen { board: Board::new(doing), drawn: 0, last: None };
        Progress { look, screen: Mutex::new(screen) }
    }

    /// Whether anything moves.
    pub fn is_live(&self) -> bool {
        self.look.is_some()
    }

    /// Hears of a layer.
    pub fn tell(&self, digest: &Digest, state: LayerState) {
        let Some(look) = &self.look else { return };
        let (now, mut screen) = (Instant::now(), self.screen());
        screen.board.tell(digest, state, now);
        let moves = matches!(state, LayerState::Coming { .. });
        if moves && screen.last.is_some_and(|last| now.duration_since(last) < BEAT) {
            return;
        }
        screen.last = Some(now);
        screen.draw(&look.fitting(), now);
    }

    /// Has something printed that stays, above the lines that move.
    pub fn above(&self, print: impl FnOnce()) {
        let mut screen = self.screen();
        let was = screen.drawn > 0;
        screen.clear();
        print();
        if let Some(look) = self.look.as_ref().filter(|_| was) {
            screen.draw(&look.fitting(), Instant::now());
        }
    }

    /// Takes the lines away.
    pub fn clear(&self) {
        self.screen().clear();
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Screen {
    fn draw(&mut self, look: &Look, now: Instant) {
        let lines = self.board.lines(look, now);
        let mut text = up(self.drawn);
        for line in &lines {
            text += line;
            // To the end of the line: what was longer before goes.
            text += "\x1b[K\n";
        }
        if self.drawn > lines.len() {
            text += "\x1b[J";
        }
        self.drawn = lines.len();
        complain(&text);
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            complain(&(up(std::mem::take(&mut self.drawn)) + "\x1b[J"));
        }
    }
}

fn up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A") }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
        let _ = io::stderr().flush();
    }
}
