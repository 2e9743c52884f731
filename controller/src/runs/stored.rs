//! Runs in the store: as they are, and the newest of those that ended.
//!
//! In: runs. Out: the same after any crash; no more of them than are of use.

use super::{Live, Runs};
use crate::Platform;
use crate::errors::{internal, not_found};
use crate::platform::PlatformError;
use crate::store::{Compare, Write};
use berth_model::api::ApiError;
use berth_model::container::ContainerSpec;
use berth_model::run::{RunInfo, RunKind, RunStatus};
use berth_model::{AppName, ContainerId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Ended runs that are kept of `run:detached`, and of each cron task.
const KEPT: usize = 20;
/// The same of those that never ran.
const KEPT_NEVER_RAN: usize = 10;

/// A run as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    info: RunInfo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<ContainerSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
}

/// Begins the keys of an app's runs: what is forgotten with it.
pub(crate) fn prefix(app: &AppName) -> String {
    format!("runs/{app}/")
}

/// A fresh key.
pub(super) fn key(app: &AppName, created_ms: i64, unique: &str) -> String {
    format!("runs/{app}/{created_ms:013}-{unique}")
}

/// What writes a run that has no container (any more, or yet).
pub(crate) fn write_bare(platform: &Platform, key: &str, info: &RunInfo) -> Result<Write, ApiError> {
    write(platform, key, info, None, None)
}

/// What writes a run.
pub(super) fn write(
    platform: &Platform,
    key: &str,
    info: &RunInfo,
    spec: Option<&ContainerSpec>,
    stopped: Option<&str>,
) -> Result<Write, ApiError> {
    let stored = Stored { info: info.clone(), spec: spec.cloned(), stopped: stopped.map(str::to_owned) };
    let plain = serde_json::to_vec(&stored).map_err(|error| internal("a run cannot be written", &error))?;
    let sealed = platform.keyring().seal(key, &plain);
    Ok(Write::Put(key.to_owned(), sealed.map_err(|error| internal("a run cannot be sealed", &error))?))
}

/// Writes a run, with `more` in the same transaction. An app that is gone has none.
pub(super) async fn save(
    platform: &Platform,
    key: &str,
    live: &Live,
    more: Vec<Write>,
) -> Result<(), ApiError> {
    let mut writes = more;
    writes.push(write(platform, key, &live.info, live.spec.as_deref(), live.stopped.as_deref())?);
    let compare = vec![Compare::Present(format!("apps/{}", live.app))];
    let written = platform.store().txn(compare, writes).await.map_err(PlatformError::from)?;
    written.map(drop).ok_or_else(|| PlatformError::NoSuchApp(live.app.clone()).into())
}

fn open(platform: &Platform, key: &str, sealed: &[u8]) -> Result<Stored, ApiError> {
    let plain = platform.keyring().open_sealed(key, sealed);
    let plain = plain.map_err(|error| internal("a run does not open", &error))?;
    serde_json::from_slice(&plain).map_err(|error| internal("a run cannot be read", &error))
}

/// Everything that has not ended, by its key.
pub(super) async fn unfinished(platform: &Platform) -> Result<Vec<(String, Live)>, ApiError> {
    let mut found = Vec::new();
    for entry in platform.store().list("runs/").await.map_err(PlatformError::from)? {
        let Some(app) = app_of(&entry.key) else { continue };
        match open(platform, &entry.key, &entry.value) {
            Ok(Stored { info, spec, stopped }) if info.is_live() => {
                let live = Live { app, info, spec: spec.map(Arc::new), stopped, cancel: None };
                found.push((entry.key, live));
            }
            Ok(_) => {}
            // One unreadable run is no reason not to serve.
            Err(error) => tracing::error!(key = entry.key, error = error.message, "a run is left out"),
        }
    }
    Ok(found)
}

fn app_of(key: &str) -> Option<AppName> {
    AppName::parse(key.strip_prefix("runs/")?.split('/').next()?).ok()
}

/// Those of an app that ended, newest first, by their keys.
pub(crate) async fn ended(platform: &Platform, app: &AppName) -> Result<Vec<(String, RunInfo)>, ApiError> {
    let entries = platform.store().list(prefix(app)).await.map_err(PlatformError::from)?;
    let mut runs = Vec::new();
    for entry in entries.into_iter().rev() {
        let stored = open(platform, &entry.key, &entry.value)?;
        if !stored.info.is_live() {
            runs.push((entry.key, stored.info));
        }
    }
    Ok(runs)
}

/// An app's runs, oldest first: those that have not ended, with `all` the others too.
pub(crate) async fn list(platform: &Platform, app: &AppName, all: bool) -> Result<Vec<RunInfo>, ApiError> {
    let live: &Runs = platform.runs();
    let mut runs: Vec<RunInfo> = Vec::new();
    if all {
        runs.extend(ended(platform, app).await?.into_iter().map(|(_, run)| run));
    }
    runs.extend(live.of(app));
    runs.sort_by_key(|run| run.created_ms);
    Ok(runs)
}

/// One run by its name; what has not ended comes first, then the newest.
pub(crate) async fn find(platform: &Platform, app: &AppName, name: &str) -> Result<RunInfo, ApiError> {
    let live = platform.runs().of(app).into_iter().find(|run| run.is_called(app, name));
    if let Some(run) = live {
        return Ok(run);
    }
    let ended = ended(platform, app).await?.into_iter().map(|(_, run)| run);
    let shown: String = name.chars().take(80).collect();
    ended.into_iter().find(|run| run.is_called(app, name)).ok_or_else(|| {
        not_found(format!(
            "App {app} has no one-off container {shown:?}; see them with: berth run:list {app} --all"
        ))
    })
}

/// Forgets the runs of `run:detached` that ended. Gives how many.
pub(crate) async fn retire(platform: &Platform, app: &AppName) -> Result<usize, ApiError> {
    let mut gone = Vec::new();
    let mut count = 0;
    for (key, run) in ended(platform, app).await? {
        if run.kind == RunKind::Run {
            platform.remove(&key).await?;
            count += 1;
            gone.extend(run.container);
        }
    }
    forget_output(platform, app, gone).await;
    Ok(count)
}

async fn forget_output(platform: &Platform, app: &AppName, containers: Vec<ContainerId>) {
    if containers.is_empty() {
        return;
    }
    let forget = serde_json::json!({ "app": app, "containers": containers });
    for node in platform.deploys().fleet().alive() {
        let agent = platform.agent_of(&node);
        // A node that does not answer removes it with the other old logs.
        if let Err(error) = agent.call(http::Method::POST, "/v1/logs/forget", Some(&forget)).await {
            tracing::debug!(%app, %node, %error, "cannot forget the output of old runs");
        }
    }
}

/// Forgets what is more than is kept of one app, and the output of it.
pub(super) async fn prune(platform: &Platform, app: &AppName) -> Result<(), ApiError> {
    let mut seen = std::collections::BTreeMap::new();
    let mut gone: Vec<ContainerId> = Vec::new();
    for (key, run) in ended(platform, app).await? {
        let ran = !matches!(run.status, RunStatus::Skipped | RunStatus::Missed);
        let group = (run.kind, run.cron.as_ref().map(|cause| cause.task.clone()), ran);
        let count = seen.entry(group).or_insert(0_usize);
        *count += 1;
        if *count > if ran { KEPT } else { KEPT_NEVER_RAN } {
            platform.remove(&key).await?;
            gone.extend(run.container);
        }
    }
    forget_output(platform, app, gone).await;
    Ok(())
}
