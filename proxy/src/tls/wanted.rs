//! Names that clients asked for and no certificate has: told to the controller, which may get one.
//!
//! In: names from handshakes. Out: each once in a while to the controller; those who wait hear of new certificates.
//! Bounded: a stranger may name whatever leads to an app.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Names that wait to be told to the controller.
const QUEUE: usize = 64;
/// Names remembered as asked for.
const REMEMBERED: usize = 1024;
/// How long a name that was asked for is not asked for again.
const AGAIN: Duration = Duration::from_secs(30);

/// The way to the controller.
#[derive(Debug)]
pub(crate) struct Wanted {
    ask: mpsc::Sender<Box<str>>,
    asked: Mutex<HashMap<Box<str>, Instant>>,
    /// The revision of the certificates.
    news: watch::Sender<u64>,
}

/// The controller's end of it.
pub(crate) type Names = mpsc::Receiver<Box<str>>;

impl Wanted {
    pub(crate) fn new() -> (Self, Names) {
        let (ask, names) = mpsc::channel(QUEUE);
        (Self { ask, asked: Mutex::default(), news: watch::Sender::new(0) }, names)
    }

    /// Has the controller told of `name`, unless it was lately. False when too many are.
    pub(crate) fn ask(&self, name: &str) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| at.elapsed() < AGAIN);
        if asked.contains_key(name) {
            return true;
        }
        if asked.len() >= REMEMBERED || self.ask.try_send(name.into()).is_err() {
            return false;
        }
        asked.insert(name.into(), Instant::now());
        true
    }

    /// Certificates have changed.
    pub(crate) fn tell(&self, revision: u64) {
        self.news.send_replace(revision);
    }

    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}
