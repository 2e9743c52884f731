//! Apps that sleep while nobody asks for them, and wake when somebody does.
//!
//! In: how long the proxies say nobody asked, and their calls. Out: `web` stopped or started, as operations like any
//! other: a request that comes while an app goes to sleep is answered or wakes it again.

use super::rollout::Work;
use crate::Platform;
use crate::platform::now_ms;
use berth_model::AppName;
use berth_model::api::ApiError;
use berth_model::container::ContainerState;
use berth_model::image::Process;
use berth_model::proxy_settings::sleeps_after;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked for apps that nobody asks for.
const LOOK: Duration = Duration::from_secs(1);

/// Apps that are being woken: calls for them need no second operation.
#[derive(Debug, Default)]
pub(crate) struct Waking(Mutex<BTreeSet<AppName>>);

fn work(platform: &Platform, app: &AppName) -> Work {
    let (progress, _) = tokio::sync::mpsc::channel(1); // nobody listens
    let cancel = CancellationToken::new();
    Work { platform: platform.clone(), app: app.clone(), by: "the proxy".to_owned(), progress, cancel }
}

/// Starts an app that sleeps, if it is not being started already. Returns at once.
pub fn wake(platform: &Platform, app: &AppName) {
    let lock = |platform: &Platform| {
        let waking = &platform.deploys().waking.0;
        waking.lock().unwrap_or_else(PoisonError::into_inner).insert(app.clone())
    };
    if !lock(platform) {
        return;
    }
    let work = work(platform, app);
    tokio::spawn(async move {
        let (platform, app) = (work.platform.clone(), work.app.clone());
        match work.in_turn("waking up", async |work| work.wake().await).await {
            Ok(()) => tracing::info!(%app, "woke up: somebody asked for it"),
            Err(error) => tracing::warn!(%app, error = %error.message, "cannot wake it"),
        }
        platform.deploys().waking.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&app);
    });
}

/// Puts apps to sleep that nobody asks for, until `stop`.
pub(super) async fn keep_asleep(platform: Platform, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        for (app, idle_ms) in platform.deploys().fleet().idle() {
            if let Err(error) = put_to_sleep(&platform, &app, idle_ms).await {
                tracing::warn!(%app, error = %error.message, "cannot put it to sleep");
            }
        }
    }
}

async fn put_to_sleep(platform: &Platform, name: &AppName, idle_ms: u64) -> Result<(), ApiError> {
    let Some(app) = platform.app(name).await? else { return Ok(()) };
    let after = sleeps_after(&app.proxy.values, &platform.proxy_values().await?);
    let Some(after) = after.filter(|after| *after <= idle_ms) else { return Ok(()) };
    if app.stopped || !may_sleep(platform, name, after) {
        return Ok(());
    }
    let Ok(turn) = platform.try_operation(name, "falling asleep") else { return Ok(()) };
    work(platform, name).sleep().await?;
    drop(turn);
    tracing::info!(app = %name, idle_s = idle_ms / 1000, "fell asleep: nobody asked for it");
    Ok(())
}

/// Whether its `web` runs, and has for so long: what was started a moment ago, is not well, or is files that cost nothing
/// stays as it is.
fn may_sleep(platform: &Platform, app: &AppName, after_ms: u64) -> bool {
    let deploys = platform.deploys();
    let plan = deploys.plan(app);
    let now = now_ms();
    let after = i64::try_from(after_ms).unwrap_or(i64::MAX);
    let mut web = 0;
    for (id, planned) in plan.serving().filter(|(_, planned)| planned.spec.process.is_web()) {
        let state = deploys.fleet().status(id).map(|status| status.state);
        let Some(ContainerState::Running { since_ms, ready: true }) = state else { return false };
        if now.saturating_sub(since_ms) < after || matches!(planned.spec.run, Process::Static(_)) {
            return false;
        }
        web += 1;
    }
    web > 0 && plan.operation.is_none() && plan.canary.is_none()
}
