//! What goes on besides operations: routes follow what the nodes report, and drained containers go.
//!
//! In: changes of the fleet, of apps and of domains. Out: route tables for the proxies; plans without the containers that
//! have nothing in flight any more.

use super::plan::Role;
use crate::Platform;
use crate::platform::now_ms;
use crate::routing;
use berth_model::api::ApiError;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Repairs what no event told about.
const RESYNC: Duration = Duration::from_secs(10);

/// Computes the routes of this moment and gives them to the proxies. Gives the revision that holds them, or `None` while
/// some node with containers has not reported since the controller started: until then the proxies' own last table is
/// better than anything known here.
pub(super) async fn publish_routes(platform: &Platform) -> Result<Option<u64>, ApiError> {
    let deploys = platform.deploys();
    let _order = deploys.routing.lock().await;
    let apps = platform.apps().await?;
    let global = platform.global_domains().await?;
    let names: BTreeSet<_> = apps.iter().map(|app| app.name.clone()).collect();
    deploys.retain(platform, &names).await?;
    let plans: Vec<_> = apps.iter().map(|app| (app, deploys.plan(&app.name))).collect();
    let mut nodes = plans.iter().flat_map(|(_, plan)| plan.in_service()).map(|(_, planned)| &planned.node);
    if !deploys.fleet().all_reported(&mut nodes) {
        return Ok(None);
    }
    let serving: Vec<_> =
        plans.iter().map(|(app, plan)| plan.routed(app, routing::hosts(app, &global))).collect();
    let common = platform.proxy_common().await?;
    let table = {
        let health = deploys.fleet().health();
        let mut table = routing::routes(&serving, &health);
        table.settings = berth_model::proxy_settings::proxy_settings(&common.values);
        table.rules = routing::rules(&serving, &health, &common);
        table
    };
    Ok(Some(deploys.fleet().publish_routes(table)))
}

/// Keeps the routes as the nodes report, until `stop`.
pub(super) async fn keep_routes(platform: Platform, stop: CancellationToken) {
    let mut fleet = platform.deploys().fleet().changes();
    let mut stored = platform.changed();
    while !stop.is_cancelled() {
        fleet.mark_unchanged();
        if let Err(error) = publish_routes(&platform).await {
            tracing::error!(error = %error.message, "cannot compute the routes; the proxies keep the last ones");
        }
        tokio::select! { // every arm is cancel-safe and only wakes us: a pass reads everything afresh
            () = stop.cancelled() => {}
            _ = fleet.changed() => {}
            () = stored.wait() => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
    }
}

/// Takes drained containers out of the plans, until `stop`: their nodes then stop them.
pub(super) async fn keep_retiring(platform: Platform, stop: CancellationToken) {
    let mut fleet = platform.deploys().fleet().changes();
    while !stop.is_cancelled() {
        fleet.mark_unchanged();
        let next = match retire(&platform).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(error = %error.message, "cannot take retired containers out of their plans");
                None
            }
        };
        let pause = next.map_or(RESYNC, |at_ms| {
            Duration::from_millis(u64::try_from(at_ms - now_ms()).unwrap_or(0))
                .clamp(Duration::from_millis(1), RESYNC)
        });
        tokio::select! {
            () = stop.cancelled() => {}
            _ = fleet.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One pass; gives when the next container has to go at the latest.
async fn retire(platform: &Platform) -> Result<Option<i64>, ApiError> {
    let deploys = platform.deploys();
    // Until this controller has given out routes, proxies serve those of before, which may lead to anything.
    let routed = deploys.fleet().routes().is_some();
    let mut next: Option<i64> = None;
    for (app, plan) in deploys.retiring() {
        let mut gone = BTreeSet::new();
        for (id, planned) in &plan.containers {
            let (until_ms, drains) = match planned.role {
                Role::Retiring { until_ms } => (until_ms, true),
                Role::Warm { until_ms } => (until_ms, false),
                Role::New | Role::Serving | Role::Canary => continue,
            };
            if !routed && planned.spec.process.is_web() {
                continue;
            }
            if until_ms <= now_ms() || (drains && deploys.fleet().is_drained(id)) {
                gone.insert(id.clone());
            } else {
                next = Some(next.map_or(until_ms, |known| known.min(until_ms)));
            }
        }
        if !gone.is_empty() {
            tracing::debug!(%app, ?gone, "drained");
            // What an operation has taken up again meanwhile stays.
            let goes = |plan: &crate::deploy::AppPlan| {
                let mut goes = gone.clone();
                goes.retain(|id| {
                    let role = plan.containers.get(id).map(|planned| planned.role);
                    matches!(role, Some(Role::Retiring { .. } | Role::Warm { .. }))
                });
                plan.without(&goes)
            };
            deploys.step(platform, &app, goes).await?;
        }
    }
    Ok(next)
}
