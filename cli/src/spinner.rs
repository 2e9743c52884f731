//! A line that says that something is still going on, and for how long.
//!
//! In: the last step that was said. Out: on a terminal, after two silent seconds, `⠋ 12 s` on stderr, which vanishes before
//! anything else is said and when the work ends. Nothing anywhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Silence before it shows.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two frames.
const FRAME: Duration = Duration::from_millis(120);
const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// Shows how long something takes. Vanishes when it is dropped.
pub(crate) struct Spinner {
    active: bool,
    shown: bool,
    begun: Instant,
    silent_since: Instant,
    frame: usize,
}

impl Spinner {
    /// Only where stdout and stderr are a terminal that can move its cursor, and unless `silent`.
    pub(crate) fn new(silent: bool) -> Self {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb" || term.is_empty());
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        let now = Instant::now();
        Self { active: terminal && !dumb && !silent, shown: false, begun: now, silent_since: now, frame: 0 }
    }

    /// When to call [`Self::tick`]; `None` if never.
    pub(crate) fn next(&self) -> Option<Duration> {
        let silent = self.silent_since.elapsed();
        self.active.then(|| PATIENCE.saturating_sub(silent).max(FRAME))
    }

    /// Shows the next frame.
    pub(crate) fn tick(&mut self) {
        if !self.active || self.silent_since.elapsed() < PATIENCE {
            return;
        }
        self.frame = (self.frame + 1) % FRAMES.len();
        let (frame, seconds) = (FRAMES[self.frame], self.begun.elapsed().as_secs());
        // Carriage return, the words, and "erase to the end of the line" (ECMA-48 §8.3.41).
        let _ = write!(std::io::stderr().lock(), "\r{frame} {seconds} s\u{1b}[K");
        self.shown = true;
    }

    /// Something is about to be said.
    pub(crate) fn clear(&mut self) {
        self.silent_since = Instant::now();
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr().lock(), "\r\u{1b}[K");
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.clear();
    }
}
