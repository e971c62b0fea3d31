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

use std::io::{self, IsTerminal};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tare_engine::{Digest, LayerState};

use crate::print::terminal::complain;
pub use board::Doing;
use board::{Board, Look};

/// How often the lines may move.
const BEAT: Duration = Duration::from_millis(100);

/// The lines that move; none where standard error is no terminal. A thread draws them, so that they show a standstill as
/// well.
pub struct Progress {
    shared: Arc<Shared>,
    painter: Option<JoinHandle<()>>,
}

struct Shared {
    look: Look,
    screen: Mutex<Screen>,
    is_over: Condvar,
}

struct Screen {
    board: Board,
    /// What is on the terminal now.
    drawn: Vec<String>,
    over: bool,
}

impl Progress {
    /// `wanted`: not if somebody asked for quiet.
    pub fn new(doing: Doing, wanted: bool) -> Progress {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = wanted && !dumb && io::stderr().is_terminal();
        let screen = Screen { board: Board::new(doing), drawn: Vec::new(), over: false };
        let shared = Arc::new(Shared {
            look: Look::of_terminal(),
            screen: Mutex::new(screen),
            is_over: Condvar::new(),
        });
        let painter = live.then(|| {
            let shared = Arc::clone(&shared);
            // Without the thread nothing moves, and all else is as it should be.
            std::thread::Builder::new().name("tare-progress".to_owned()).spawn(move || shared.paint()).ok()
        });
        Progress { shared, painter: painter.flatten() }
    }

    /// Whether anything moves.
    pub fn is_live(&self) -> bool {
        self.painter.is_some()
    }

    /// Hears of a layer.
    pub fn tell(&self, digest: &Digest, state: LayerState) {
        self.shared.screen().board.tell(digest, state, Instant::now());
    }

    /// Has something printed that stays, above the lines that move.
    pub fn above(&self, print: impl FnOnce()) {
        let mut screen = self.shared.screen();
        let was = !screen.drawn.is_empty();
        screen.clear();
        print();
        if was {
            screen.draw(&self.shared.look.fitting());
        }
    }

    /// Takes the lines away, for good.
    pub fn clear(&self) {
        let mut screen = self.shared.screen();
        screen.over = true;
        screen.clear();
        self.shared.is_over.notify_all();
    }
}

impl Shared {
    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paint(&self) {
        let mut screen = self.screen();
        while !screen.over {
            screen.draw(&self.look.fitting());
            let waited = self.is_over.wait_timeout(screen, BEAT);
            screen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Screen {
    fn draw(&mut self, look: &Look) {
        let lines = self.board.lines(look, Instant::now());
        if lines == self.drawn {
            return;
        }
        let mut text = up(self.drawn.len());
        for line in &lines {
            text += line;
            // To the end of the line: what was longer before goes.
            text += "\x1b[K\n";
        }
        if self.drawn.len() > lines.len() {
            text += "\x1b[J";
        }
        self.drawn = lines;
        complain(&text);
    }

    fn clear(&mut self) {
        if !self.drawn.is_empty() {
            complain(&(up(self.drawn.len()) + "\x1b[J"));
            self.drawn.clear();
        }
    }
}

fn up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A") }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
        if let Some(painter) = self.painter.take() {
            // It has nothing to tell.
            let _ = painter.join();
        }
    }
}
