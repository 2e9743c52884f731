//! Keeping runs: from the store at the start, until nodes say that they ended.
//!
//! In: what nodes report; wishes to end a run. Out: ends in the store, then containers that nobody wants any more.

use super::Live;
use super::stored::{self, prune};
use crate::Platform;
use crate::errors::{conflict, from_agent};
use crate::events::Event;
use crate::platform::now_ms;
use berth_model::AppName;
use berth_model::api::{ApiError, ErrorCode};
use berth_model::container::{ContainerState, Exit};
use berth_model::run::{RunInfo, RunStatus};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Repairs what no event told about.
const RESYNC: Duration = Duration::from_secs(10);
/// A run whose node has been silent for this long is given up. Longer than it takes to start containers elsewhere: nothing
/// is gained by ending a long run for a link that is down for a moment.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// Takes over what has not ended. Before any node is told anything: it would end them.
pub(crate) async fn load(platform: &Platform) -> Result<(), ApiError> {
    let unfinished = stored::unfinished(platform).await?;
    let mut live = platform.runs().lock();
    live.extend(unfinished);
    Ok(())
}

/// Records ends until `stop`.
pub(crate) async fn keep(platform: Platform, stop: CancellationToken) {
    let mut fleet = platform.deploys().fleet().changes();
    while !stop.is_cancelled() {
        fleet.mark_unchanged();
        if let Err(error) = pass(&platform).await {
            tracing::error!(error = error.message, "cannot record the end of a one-off container yet");
        }
        tokio::select! { // every arm is cancel-safe and only wakes us: a pass reads everything afresh
            () = stop.cancelled() => {}
            _ = fleet.changed() => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
    }
}

async fn pass(platform: &Platform) -> Result<(), ApiError> {
    forget_destroyed(platform).await?;
    for (key, live) in platform.runs().all() {
        let Some(spec) = &live.spec else { continue };
        if let Some(node) = &live.info.node
            && platform.deploys().fleet().lost_for(node).is_some_and(|silence| silence >= GIVEN_UP)
        {
            let ended = lost(live.info.clone());
            conclude(platform, &key, live, ended).await?;
            continue;
        }
        let node = live.info.node.as_ref();
        let status = node.and_then(|node| platform.deploys().fleet().status_on(node, &spec.id));
        let Some(status) = status else { continue };
        let ended = match status.state {
            ContainerState::Starting { since_ms } | ContainerState::Running { since_ms, .. } => {
                if live.info.status == RunStatus::Waiting {
                    platform.runs().update(&key, |live| {
                        live.info.status = RunStatus::Running;
                        live.info.started_ms = Some(since_ms);
                    });
                }
                continue;
            }
            ContainerState::Preparing | ContainerState::Stopping | ContainerState::BackingOff { .. } => {
                continue;
            }
            ContainerState::Exited { exit } => live.info.clone().ended(&exit, live.stopped.clone()),
            ContainerState::Failed { reason } => could_not(live.info.clone(), live.stopped.clone(), reason),
        };
        conclude(platform, &key, live, ended).await?;
    }
    Ok(())
}

/// An end without a run.
pub(super) fn could_not(mut info: RunInfo, stopped: Option<String>, reason: String) -> RunInfo {
    info.ended_ms = Some(now_ms());
    info.status = if stopped.is_some() { RunStatus::Stopped } else { RunStatus::Failed };
    info.reason = Some(stopped.unwrap_or(reason));
    info
}

/// Its node is lost. It is not begun again: it may have done half of its work, or all.
fn lost(mut info: RunInfo) -> RunInfo {
    let node = info.node.as_ref().map_or_else(String::new, ToString::to_string);
    info.ended_ms = Some(now_ms());
    info.status = RunStatus::Lost;
    info.reason = Some(format!("its node {node} is lost; it is not known how far it came"));
    info
}

/// Writes an end down; then the node may forget the container.
pub(crate) async fn conclude(
    platform: &Platform,
    key: &str,
    live: Live,
    ended: RunInfo,
) -> Result<(), ApiError> {
    let writing = platform.runs().writing.lock().await;
    if !platform.runs().lock().contains_key(key) {
        return Ok(()); // somebody else has
    }
    let node = live.info.node.clone();
    let live = Live { info: ended, spec: None, stopped: None, ..live };
    match stored::save(platform, key, &live, Vec::new()).await {
        // Its app is gone, and all that is known of it.
        Err(ApiError { code: ErrorCode::AppNotFound, .. }) => {}
        saved => saved?,
    }
    platform.runs().leave(key);
    drop(writing);
    tell(platform, &live);
    platform.deploys().fleet().reassign(node.iter());
    let (app, run, status) = (&live.app, &live.info.name, live.info.status.as_str());
    tracing::info!(%app, run, status, code = live.info.exit_code, "one-off container ended");
    prune(platform, &live.app).await
}

/// The end of what belongs to the platform is an event: nobody watches it.
pub(crate) fn tell(platform: &Platform, live: &Live) {
    let run = &live.info;
    let (name, how) = (&run.name, run.status.as_str());
    let code = run.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
    let text = format!("{name} {how}{code}: {}", run.command);
    let event = Event::by_itself(Some(&live.app), &format!("{}.{how}", run.kind.as_str()), text);
    match run.status {
        RunStatus::Failed | RunStatus::Lost => {
            let reason = run.reason.clone().unwrap_or_else(|| format!("it {how}{code}"));
            platform.events().record_failed(event, &reason);
        }
        _ => platform.events().record(event),
    }
}

/// Runs of apps that are gone: nobody wants them.
async fn forget_destroyed(platform: &Platform) -> Result<(), ApiError> {
    let apps: BTreeSet<AppName> = platform
        .runs()
        .all()
        .into_iter()
        .filter(|(_, live)| live.spec.is_some())
        .map(|(_, live)| live.app)
        .collect();
    for app in apps {
        if platform.app(&app).await?.is_some() {
            continue;
        }
        for (key, live) in platform.runs().all().into_iter().filter(|(_, live)| live.app == app) {
            platform.runs().leave(&key);
            platform.deploys().fleet().reassign(live.info.node.iter());
        }
    }
    Ok(())
}

/// Ends a run: stop signal, grace time, kill. Returns when that has begun. `why` is what its log and its record say.
pub(crate) async fn stop(
    platform: &Platform,
    app: &AppName,
    name: &str,
    why: &str,
) -> Result<RunInfo, ApiError> {
    let found = platform
        .runs()
        .all()
        .into_iter()
        .find(|(_, live)| live.app == *app && live.info.is_called(app, name));
    let Some((key, live)) = found else {
        let run = stored::find(platform, app, name).await?;
        return Err(conflict(format!("{} is over: it {}", run.name, run.status.as_str())));
    };
    platform.runs().update(&key, |live| live.stopped = Some(why.to_owned()));
    if let Some(cancel) = &live.cancel {
        cancel.cancel();
        return Ok(live.info);
    }
    let stopped = Live { stopped: Some(why.to_owned()), ..live.clone() };
    let Some(spec) = &live.spec else {
        // Not handed out yet: it never will be.
        let ended = could_not(live.info.clone(), Some(why.to_owned()), String::new());
        conclude(platform, &key, live, ended.clone()).await?;
        return Ok(ended);
    };
    let wish = serde_json::json!({ "container": spec.id, "reason": why });
    match platform.agent_with(&spec.id).call(http::Method::POST, "/v1/end", Some(&wish)).await {
        Ok(_) => {
            let _writing = platform.runs().writing.lock().await;
            // It may have ended meanwhile, and its end been recorded.
            let still = platform.runs().lock().contains_key(&key);
            if still {
                stored::save(platform, &key, &stopped, Vec::new()).await?;
            }
            Ok(live.info)
        }
        Err(error) => match from_agent(error) {
            // The node has not begun it: it is wanted no more, so it will not.
            ApiError { code: ErrorCode::NotFound, .. } => {
                let exit = Exit { code: 143, signal: Some(15), oom_killed: false, at_ms: now_ms() };
                let ended = RunInfo { exit_code: None, ..live.info.clone().ended(&exit, stopped.stopped) };
                conclude(platform, &key, live, ended.clone()).await?;
                Ok(ended)
            }
            error => {
                platform.runs().update(&key, |live| live.stopped = None);
                Err(error)
            }
        },
    }
}

/// Waits until a run has ended; gives what became of it.
pub(crate) async fn until_over(platform: &Platform, app: &AppName, name: &str) -> Result<RunInfo, ApiError> {
    let mut changes = platform.runs().changes();
    loop {
        changes.mark_unchanged();
        let run = stored::find(platform, app, name).await?;
        if !run.is_live() || changes.changed().await.is_err() {
            return Ok(run);
        }
    }
}
