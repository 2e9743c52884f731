//! Cron: commands run by the clock. Tasks belong to the release that serves.
//!
//! In: the minute, the apps. Out: runs. Each minute is written down together with the runs that begin in it, so that a
//! controller which dies at any moment runs nothing twice.
//!
//! Keys of the store: `cron/clock` (the last minute that was looked at, while any app has tasks), `cron/global`.

mod next;
mod plan;
mod settings;

pub(crate) use settings::{global, info, patch, patch_global};

use crate::Platform;
use crate::errors::{conflict, not_found};
use crate::platform::PlatformError;
use crate::runs::{self, Order};
use crate::store::{Compare, Write};
use berth_model::api::ApiError;
use berth_model::cron::{Concurrency, CronTask, words};
use berth_model::release::App;
use berth_model::run::{CronCause, RunInfo, RunKind, RunStatus};
use berth_model::{AppName, ReleaseVersion};
use jiff::Timestamp;
use plan::Decision;
use std::collections::HashMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CLOCK: &str = "cron/clock";
/// How long a node may take to begin a run.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);
/// A clock that is set back further than this begins anew.
const SET_BACK: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// How long the run that is replaced may take to end, beyond its own grace time.
const REPLACED: Duration = Duration::from_secs(30);

/// Tasks of apps by the release that serves, so that its config is not opened each minute.
type Known = HashMap<AppName, (ReleaseVersion, Vec<CronTask>)>;

/// Runs what is due until `stop`.
pub(crate) async fn run(platform: Platform, stop: CancellationToken) {
    resume(&platform);
    let mut known = Known::new();
    let mut last = Timestamp::now();
    loop {
        match tick(&platform, &mut known, last, Timestamp::now()).await {
            Ok(now) => last = now,
            Err(error) => tracing::error!(error = error.message, "cannot run what is due; trying again"),
        }
        let into = Timestamp::now().as_millisecond().rem_euclid(60_000);
        let left = u64::try_from(60_000 - into).unwrap_or(1000).max(1);
        tokio::select! {
            () = stop.cancelled() => return,
            // Not longer: the clock may be set meanwhile.
            () = tokio::time::sleep(Duration::from_millis(left.min(20_000))) => {}
        }
    }
}

/// Goes on with runs that were stored and not handed out when the controller ended.
fn resume(platform: &Platform) {
    for (key, live) in platform.runs().all() {
        if live.info.kind == RunKind::Cron && live.spec.is_none() {
            let platform = platform.clone();
            let age = Timestamp::now().as_millisecond().saturating_sub(live.info.created_ms);
            tokio::spawn(async move {
                if age > plan::LATEST.as_millis().try_into().unwrap_or(i64::MAX) {
                    runs::give_up(&platform, &key, "Berth was not running when it was to begin".to_owned())
                        .await;
                } else {
                    hand_out(&platform, &key, Vec::new()).await;
                }
            });
        }
    }
}

/// The tasks of the release that serves.
async fn tasks(platform: &Platform, app: &App) -> Result<Option<(ReleaseVersion, Vec<CronTask>)>, ApiError> {
    let release = platform.current_release(app).await?;
    Ok(release.map(|release| (release.version, release.cron)))
}

/// Looks at the time from the last look to `now`; gives where the next begins.
async fn tick(
    platform: &Platform,
    known: &mut Known,
    last: Timestamp,
    now: Timestamp,
) -> Result<Timestamp, ApiError> {
    let apps = platform.apps().await?;
    known.retain(|name, _| apps.iter().any(|app| app.name == *name));
    for app in &apps {
        let Some(current) = app.current else { continue };
        if known.get(&app.name).is_none_or(|(version, _)| *version != current)
            && let Some(found) = tasks(platform, app).await?
        {
            known.insert(app.name.clone(), found);
        }
    }
    let clock = platform.load::<i64>(CLOCK).await?;
    let stored = clock.as_ref().and_then(|(ms, _)| Timestamp::from_millisecond(*ms).ok());
    if known.values().all(|(_, tasks)| tasks.is_empty()) {
        if stored.is_some() {
            platform.remove(CLOCK).await?;
        }
        return Ok(now);
    }
    let from = stored.unwrap_or(last);
    if from > now {
        if from.duration_since(now) > SET_BACK {
            tracing::warn!(%from, %now, "the clock was set back: cron begins anew");
            platform.save(CLOCK, &now.as_millisecond()).await?;
        }
        return Ok(now);
    }
    // Nothing is due within a minute that was looked at.
    if stored.is_some() && from.as_second().div_euclid(60) == now.as_second().div_euclid(60) {
        return Ok(now);
    }
    let global = settings::global(platform).await?;
    let mut writes = vec![Write::Put(CLOCK.to_owned(), now.as_millisecond().to_string().into_bytes())];
    let mut compare = Vec::new();
    let mut begun = Vec::new();
    let mut never = Vec::new();
    for app in &apps {
        let Some((release, tasks)) = known.get(&app.name) else { continue };
        if tasks.is_empty() || app.cron.maintenance || global.maintenance {
            continue;
        }
        let zone = settings::zone(app, &global);
        let live = platform.runs().of(&app.name);
        for task in tasks.iter().filter(|task| !app.cron.is_suspended(task)) {
            let of_task = |run: &&RunInfo| run.cron.as_ref().is_some_and(|cause| cause.task == task.id);
            let running: Vec<_> = live.iter().filter(of_task).map(|run| run.name.clone()).collect();
            for decision in plan::plan(task, &zone, &running, from, now) {
                let (key, live, replace) = entry(platform, app, *release, task, decision).await?;
                writes.push(runs::write_bare(platform, &key, &live.info)?);
                compare.push(Compare::Present(format!("apps/{}", app.name)));
                if live.info.is_live() {
                    begun.push((key, live, replace));
                } else {
                    never.push(live);
                }
            }
        }
    }
    let written = platform.store().txn(compare, writes).await.map_err(PlatformError::from)?;
    if written.is_none() {
        return Err(conflict("an app was destroyed meanwhile"));
    }
    for live in never {
        runs::tell(platform, &live);
    }
    for (key, live, replace) in begun {
        platform.runs().enter_stored(key.clone(), live);
        let platform = platform.clone();
        tokio::spawn(async move { hand_out(&platform, &key, replace).await });
    }
    Ok(now)
}

/// What a decision is in the store, and which runs it replaces.
async fn entry(
    platform: &Platform,
    app: &App,
    release: ReleaseVersion,
    task: &CronTask,
    decision: Decision,
) -> Result<(String, runs::Live, Vec<String>), ApiError> {
    let (due, times) = match &decision {
        Decision::Run { due, .. } | Decision::Skip { due, .. } => (due, 1),
        Decision::Missed { first, times, .. } => (first, *times),
    };
    let cause = CronCause { task: task.id.clone(), due_ms: Some(due.as_millisecond()), times };
    let order = order(app, task, "cron", cause);
    let (key, mut live) = runs::scheduled(platform, &app.name, release, &order).await?;
    let mut replaced = Vec::new();
    match decision {
        Decision::Run { replace, .. } => replaced = replace,
        Decision::Skip { running, .. } => {
            never_ran(&mut live.info, RunStatus::Skipped, format!("{running} has not ended"));
        }
        Decision::Missed { last, times, .. } => {
            let reason = match times {
                1 => "Berth was not running".to_owned(),
                times => format!("Berth was not running; {times} times, the last at {last}"),
            };
            never_ran(&mut live.info, RunStatus::Missed, reason);
        }
    }
    Ok((key, live, replaced))
}

fn never_ran(info: &mut RunInfo, status: RunStatus, reason: String) {
    info.status = status;
    info.ended_ms = Some(info.created_ms);
    info.until_ms = None;
    info.reason = Some(reason);
}

fn order(app: &App, task: &CronTask, by: &str, cause: CronCause) -> Order {
    Order {
        kind: RunKind::Cron,
        // Checked when it was deployed.
        argv: words(&task.command).unwrap_or_default(),
        command: task.command.clone(),
        ttl_secs: app.cron.ttl_secs,
        cron: Some(cause),
        begin_within: BEGIN_WITHIN,
        ..Order::typed(Vec::new(), by)
    }
}

/// Stops what it replaces, then hands it out.
async fn hand_out(platform: &Platform, key: &str, replace: Vec<String>) {
    let Some(live) = platform.runs().get(key) else { return };
    stop_others(platform, &live.app, &replace, &live.info.name).await;
    let found = async {
        let app = platform.existing_app(&live.app).await?;
        let release = platform.existing_release(&live.app, live.info.release).await?;
        Ok::<_, ApiError>((app, release))
    };
    let cause = live.info.cron.clone().unwrap_or(CronCause { task: String::new(), due_ms: None, times: 1 });
    let (app, release) = match found.await {
        Ok(found) => found,
        Err(error) => return runs::give_up(platform, key, error.message).await,
    };
    match release.cron.iter().find(|task| task.id == cause.task) {
        Some(task) => runs::launch(platform, key, &order(&app, task, &live.info.by, cause)).await,
        None => runs::give_up(platform, key, "its release has no such task".to_owned()).await,
    }
}

async fn stop_others(platform: &Platform, app: &AppName, names: &[String], next: &str) {
    for name in names {
        match runs::stop(platform, app, name, &format!("replaced by {next}")).await {
            Ok(_) => {
                let grace = platform.existing_app(app).await.map_or(30, |app| app.stop.grace_secs);
                let limit = REPLACED + Duration::from_secs(grace.into());
                let _ = tokio::time::timeout(limit, runs::until_over(platform, app, name)).await;
            }
            // It ended by itself.
            Err(error) => tracing::debug!(run = name, error = error.message, "cannot be stopped"),
        }
    }
}

/// Runs a task now.
pub(crate) async fn run_now(
    platform: &Platform,
    name: &AppName,
    task: &str,
    by: &str,
) -> Result<RunInfo, ApiError> {
    let app = platform.existing_app(name).await?;
    let task = find(platform, &app, task).await?;
    let of_task = |run: &RunInfo| run.cron.as_ref().is_some_and(|cause| cause.task == task.id);
    let running: Vec<_> = platform.runs().of(name).into_iter().filter(of_task).map(|run| run.name).collect();
    match (task.concurrency, running.first()) {
        (Concurrency::Forbid, Some(running)) => {
            return Err(conflict(format!(
                "{running} has not ended, and the task's concurrency policy is forbid; stop it with: berth run:stop {name} {running}"
            )));
        }
        (Concurrency::Replace, Some(_)) => stop_others(platform, name, &running, "a run by hand").await,
        _ => {}
    }
    let cause = CronCause { task: task.id.clone(), due_ms: None, times: 1 };
    runs::begin(platform, name, &order(&app, &task, by, cause)).await
}

/// A task of the release that serves, by its id.
pub(crate) async fn find(platform: &Platform, app: &App, id: &str) -> Result<CronTask, ApiError> {
    let tasks = tasks(platform, app).await?.map(|(_, tasks)| tasks).unwrap_or_default();
    let shown: String = id.chars().take(80).collect();
    let name = &app.name;
    tasks.into_iter().find(|task| task.id == id).ok_or_else(|| {
        not_found(format!("App {name} has no cron task {shown:?}; see them with: berth cron:list {name}"))
    })
}
