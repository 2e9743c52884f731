//! One operation at a time on an app: a deploy and a restart never interleave.
//!
//! In: an app and what is to be done to it. Out: a guard, once all earlier operations are done. Who must wait is told for
//! whom.

use super::{Platform, ProgressSender, say};
use berth_model::AppName;
use berth_model::api::{ApiError, Progress};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Default)]
struct Slot {
    turn: Arc<tokio::sync::Mutex<()>>,
    holder: Mutex<String>,
}

#[derive(Debug, Default)]
pub(super) struct Operations(Mutex<HashMap<AppName, Arc<Slot>>>);

impl Operations {
    fn slot(&self, app: &AppName) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Slots nobody holds or waits for are forgotten here, so that destroyed apps leave none behind.
        slots.retain(|name, slot| name == app || Arc::strong_count(slot) > 1);
        slots.entry(app.clone()).or_default().clone()
    }
}

/// The right to change an app's containers; the next operation begins when it is dropped.
#[derive(Debug)]
pub struct Operation {
    slot: Arc<Slot>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.slot.holder.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Platform {
    /// Waits until no other operation is under way on `app`. `what` says what this one is to those who then wait:
    /// `a deploy by alice`. First come, first served. Not for use inside another operation on the same app.
    pub async fn operation(&self, app: &AppName, what: &str, progress: &ProgressSender) -> Operation {
        let slot = self.0.operations.slot(app);
        let turn = match slot.turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let holder = slot.holder.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let holder = if holder.is_empty() { "another operation".to_owned() } else { holder };
                let text = format!("Waiting: {holder} is under way on {app}");
                say(progress, Progress::Step { text }).await;
                slot.turn.clone().lock_owned().await
            }
        };
        Self::begin(slot, turn, what)
    }

    /// The same without waiting: a conflict if another operation is under way.
    pub fn try_operation(&self, app: &AppName, what: &str) -> Result<Operation, ApiError> {
        let slot = self.0.operations.slot(app);
        match slot.turn.clone().try_lock_owned() {
            Ok(turn) => Ok(Self::begin(slot, turn, what)),
            Err(_) => {
                let holder = slot.holder.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Err(crate::errors::conflict(format!(
                    "{holder} is under way on {app}; try again when it is done"
                )))
            }
        }
    }

    /// What is under way on `app`, if anything.
    #[must_use]
    pub fn under_way(&self, app: &AppName) -> Option<String> {
        let slot = self.0.operations.slot(app);
        if slot.turn.try_lock().is_ok() {
            return None;
        }
        Some(slot.holder.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn begin(slot: Arc<Slot>, turn: tokio::sync::OwnedMutexGuard<()>, what: &str) -> Operation {
        what.clone_into(&mut slot.holder.lock().unwrap_or_else(PoisonError::into_inner));
        Operation { slot, _turn: turn }
    }
}
