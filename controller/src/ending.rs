//! How apps end: destroyed by somebody, or by themselves when their time is over.
//!
//! In: an app, or the clock. Out: nothing is left of it but its volumes. Times are in the store, so a controller that was
//! down makes up for what it missed.

use crate::Platform;
use crate::events::Event;
use crate::platform::{ProgressSender, now_ms, say};
use berth_model::AppName;
use berth_model::api::{ApiError, Progress};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Looked again after this at the latest, in case the clock was set.
const LOOK: Duration = Duration::from_secs(30);

/// Destroys an app once nothing else is done to it, and says what stays.
pub(crate) async fn destroy(
    platform: &Platform,
    name: &AppName,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    let _turn = platform.operation(name, "its destruction", lines).await;
    let app = platform.existing_app(name).await?;
    say(lines, Progress::Step { text: format!("Destroying {name}") }).await;
    platform.destroy_app(name).await?;
    platform.traffic().forget(name);
    platform.metrics().forget(name);
    let volumes: BTreeSet<_> = app.mounts.iter().map(|mount| mount.source.as_str()).collect();
    if !volumes.is_empty() {
        let list = volumes.into_iter().collect::<Vec<_>>().join(", ");
        let text = format!("Its data stays on the node: {list}");
        say(lines, Progress::Detail { text }).await;
    }
    Ok(())
}

/// Destroys apps whose time is over, until `stop`.
pub(crate) async fn run(platform: Platform, stop: CancellationToken) {
    let mut changed = platform.changed();
    let mut ends: JoinSet<AppName> = JoinSet::new();
    let mut under_way = BTreeSet::new();
    while !stop.is_cancelled() {
        let wait = match due(&platform).await {
            Ok((due, wait)) => {
                for app in due {
                    // An app may have to wait for its turn: the others' end does not wait for it.
                    if under_way.insert(app.clone()) {
                        ends.spawn(end(platform.clone(), app));
                    }
                }
                wait
            }
            Err(error) => {
                tracing::warn!(error = error.message, "cannot look for apps whose time is over");
                LOOK
            }
        };
        tokio::select! { // every arm is cancel-safe and only wakes us: a round reads everything afresh
            () = stop.cancelled() => {}
            () = changed.wait() => {}
            Some(ended) = ends.join_next() => match ended {
                Ok(app) => drop(under_way.remove(&app)),
                Err(error) => tracing::error!(%error, "the end of an app broke off"),
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Apps whose time is over, and how long no other one's is.
async fn due(platform: &Platform) -> Result<(Vec<AppName>, Duration), ApiError> {
    let (mut due, mut next) = (Vec::new(), LOOK);
    for app in platform.apps().await? {
        let Some(at_ms) = app.processes.destroy_at_ms else { continue };
        match u64::try_from(at_ms.saturating_sub(now_ms())) {
            Ok(left @ 1..) => next = next.min(Duration::from_millis(left)),
            _ => due.push(app.name),
        }
    }
    Ok((due, next))
}

async fn end(platform: Platform, app: AppName) -> AppName {
    let (lines, _) = tokio::sync::mpsc::channel(1); // nobody listens
    match destroy(&platform, &app, &lines).await {
        Ok(()) => {
            tracing::info!(%app, "destroyed: its time to live is over");
            let text = "destroyed the app: its time to live is over";
            platform.events().record(Event::by_itself(Some(&app), "apps.ttl.over", text));
        }
        Err(error) => {
            tracing::warn!(%app, error = error.message, "cannot destroy it though its time is over");
        }
    }
    app
}
