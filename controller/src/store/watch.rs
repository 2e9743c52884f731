//! Watching: being woken when a key under a prefix changes.
//!
//! In: the keys each transaction changed. Out: wake-ups. A watcher that lags is woken once for all it missed.

use super::Revision;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Transactions a slow watcher may be behind before the missed ones become one wake-up.
const BACKLOG: usize = 256;

#[derive(Clone, Debug)]
struct Change {
    revision: Revision,
    /// `None`: it is not known which.
    keys: Option<Arc<[String]>>,
}

/// Where the store says what it changed.
#[derive(Debug)]
pub(super) struct Changes(broadcast::Sender<Change>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    pub(super) fn publish(&self, revision: Revision, keys: Vec<String>) {
        // Nobody watching is no error.
        let _ = self.0.send(Change { revision, keys: Some(keys.into()) });
    }

    /// Something was changed, and it is not known what: wakes everybody.
    pub(super) fn missed(&self) {
        let _ = self.0.send(Change { revision: 0, keys: None });
    }

    pub(super) fn watch(&self, prefix: String) -> Watch {
        Watch { prefix, changes: self.0.subscribe() }
    }
}

/// Wakes at changes under a prefix.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    changes: broadcast::Receiver<Change>,
}

impl Watch {
    /// Waits for the next change under the prefix since the last call (or since the watch was made); several may come
    /// as one. Gives its revision (0 if some were missed), or `None` once the store is closed. Cancel-safe.
    pub async fn changed(&mut self) -> Option<Revision> {
        loop {
            match self.changes.recv().await {
                Ok(Change { keys: None, .. }) => return Some(0),
                Ok(Change { keys: Some(keys), revision }) => {
                    if keys.iter().any(|key| key.starts_with(&self.prefix)) {
                        return Some(revision);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(0),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
