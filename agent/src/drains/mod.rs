//! Drains: lines of apps sent on to somewhere else, by the node that has them, so that nothing of it depends on the controller.
//!
//! In: the drains there are ([`NodeLogs`](berth_model::logs::NodeLogs)), the logs on disk. Out: lines sent, and how that goes.
//! The log itself is the queue: a drain remembers how far it has got (on disk, so that a restart goes on there), sends batches of
//! at most [`cursor::MOST`] bytes, and tries again with pauses of 1 to 60 s. Memory is one batch a drain. What falls behind too far, or
//! is rotated away, is counted as dropped, and said.

mod cursor;
mod format;
mod wire;

use crate::node::{Node, now_ms};
use berth_model::logs::{Drain, DrainStatus};
use cursor::{Batch, Cursors};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::{Failure, Sender};

/// Between two looks when there was nothing.
const LOOK: Duration = Duration::from_millis(500);
/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the place is written down.
const SAVE: Duration = Duration::from_secs(2);

/// Keeps the drains as they are wanted until `stop` fires.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut settings = node.logging.subscribe();
    let mut running: BTreeMap<String, (Drain, CancellationToken, tokio::task::JoinHandle<()>)> =
        BTreeMap::new();
    loop {
        let wanted = settings.borrow_and_update().clone();
        let mut ended = Vec::new();
        running.retain(|id, (drain, cancel, task)| {
            let stays = wanted.drains.contains(drain);
            if !stays {
                cancel.cancel();
                ended.push((id.clone(), std::mem::replace(task, tokio::spawn(async {}))));
            }
            stays
        });
        for (id, task) in ended {
            let _ = task.await;
            node.drains.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let _ = std::fs::remove_file(cursor_file(&node, &id));
        }
        for drain in &wanted.drains {
            if !running.contains_key(&drain.id) {
                let cancel = stop.child_token();
                let task = tokio::spawn(keep(node.clone(), drain.clone(), cancel.clone()));
                running.insert(drain.id.clone(), (drain.clone(), cancel, task));
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = settings.changed() => if changed.is_err() { break },
        }
    }
    for (_, (_, cancel, task)) in running {
        cancel.cancel();
        let _ = task.await;
    }
}

fn cursor_file(node: &Node, id: &str) -> PathBuf {
    // An id comes from the controller: only what is a file name.
    let name: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    node.paths.drains().join(format!("{name}.json"))
}

/// One drain, until it is cancelled.
async fn keep(node: Arc<Node>, drain: Drain, cancel: CancellationToken) {
    let file = cursor_file(&node, &drain.id);
    let logs = node.paths.logs();
    let note = |change: &dyn Fn(&mut DrainStatus)| {
        let mut all = node.drains.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(drain.id.clone()).or_default());
    };
    note(&|_| {});
    let (from, app) = (logs.clone(), drain.app.clone());
    let known = file.clone();
    let opened = tokio::task::spawn_blocking(move || Cursors::open(&known, &from, app.as_ref())).await;
    let mut cursors = opened.unwrap_or_default();
    let mut saved = Instant::now();
    let mut changed = true;
    let mut sender = Sender::new(&drain.url, node.name.to_string());
    let mut failures: u32 = 0;
    while !cancel.is_cancelled() {
        let (from, app, mut at) = (logs.clone(), drain.app.clone(), cursors.clone());
        let is_behind = failures > 0;
        let collected = tokio::task::spawn_blocking(move || {
            let batch = at.collect(&from, app.as_ref(), is_behind);
            (batch, at)
        });
        let (batch, next) = match collected.await {
            Ok((Ok(batch), next)) => (batch, next),
            Ok((Err(error), _)) => {
                tracing::warn!(drain = %drain.url.masked(), %error, "cannot read logs for a drain");
                (Batch::default(), cursors.clone())
            }
            Err(_) => (Batch::default(), cursors.clone()),
        };
        if batch.dropped > 0 {
            tracing::warn!(drain = %drain.url.masked(), lines = batch.dropped, "a drain is too slow or away; lines are left out");
            note(&|status| status.dropped += batch.dropped);
        }
        let pause;
        if batch.lines.is_empty() {
            changed |= next != cursors;
            cursors = next;
            pause = LOOK;
        } else {
            let sent = tokio::select! {
                // What was not acknowledged is sent again by the next agent.
                () = cancel.cancelled() => break,
                sent = sender.send(&batch.lines) => sent,
            };
            let count = batch.lines.len() as u64;
            match sent {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(drain = %drain.url.masked(), "a drain takes lines again");
                    }
                    failures = 0;
                    (cursors, changed) = (next, true);
                    note(&|status| {
                        status.sent += count;
                        status.last_sent_ms = Some(now_ms());
                        status.error = None;
                    });
                    pause = if batch.more { Duration::ZERO } else { LOOK };
                }
                Err(Failure::Refused(why)) => {
                    tracing::warn!(drain = %drain.url.masked(), lines = count, why, "a drain refuses lines; they are left out");
                    (cursors, changed) = (next, true);
                    note(&|status| {
                        status.dropped += count;
                        status.error = Some(format!("it refuses lines: {why}"));
                    });
                    pause = PAUSE.0;
                }
                Err(Failure::Away(why)) => {
                    if failures == 0 {
                        tracing::warn!(drain = %drain.url.masked(), why, "a drain is away; trying again");
                    }
                    pause = PAUSE.1.min(PAUSE.0 * 2_u32.pow(failures.min(6)));
                    failures = failures.saturating_add(1);
                    note(&|status| status.error = Some(why.clone()));
                    if batch.dropped > 0 {
                        // They stay left out.
                        cursors = cursors.skipped(&next, &batch);
                        changed = true;
                    }
                }
            }
        }
        if changed && saved.elapsed() >= SAVE {
            (saved, changed) = (Instant::now(), false);
            save(&cursors, &file).await;
        }
        if !pause.is_zero() {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
    if changed {
        save(&cursors, &file).await;
    }
}

async fn save(cursors: &Cursors, file: &std::path::Path) {
    let (cursors, file) = (cursors.clone(), file.to_owned());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || cursors.save(&file)).await {
        tracing::warn!(%error, "cannot write down how far a drain has got");
    }
}
