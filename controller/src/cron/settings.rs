//! What is set about cron, for an app and for all, and an app's cron as it is.
//!
//! In: changes. Out: settings in the app and under `cron/global`; each task with its next time and last run.

use super::next::next_after;
use crate::Platform;
use crate::errors::invalid;
use crate::runs;
use berth_model::AppName;
use berth_model::api::ApiError;
use berth_model::cron::{CronInfo, CronSettings, CronTaskInfo, GlobalCron, PatchCron, Schedule};
use berth_model::release::App;
use berth_model::run::{DEFAULT_TTL_SECS, MAX_TTL_SECS};
use jiff::Timestamp;
use jiff::tz::TimeZone;

const GLOBAL: &str = "cron/global";

/// What holds for all apps.
pub(crate) async fn global(platform: &Platform) -> Result<GlobalCron, ApiError> {
    Ok(platform.load(GLOBAL).await?.map(|(global, _)| global).unwrap_or_default())
}

/// The zone that an app's schedules are read in.
pub(super) fn zone(app: &App, global: &GlobalCron) -> TimeZone {
    let name = app.cron.timezone.as_deref().or(global.timezone.as_deref()).unwrap_or("UTC");
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

/// The zone's name as the database writes it; empty is none.
fn check_zone(name: &str) -> Result<Option<String>, ApiError> {
    let shown: String = name.chars().take(80).collect();
    if name.is_empty() {
        return Ok(None);
    }
    let wrong = || {
        invalid(format!(
            "there is no time zone {shown:?}; use a name of the IANA database such as Europe/Berlin or UTC"
        ))
    };
    let zone = TimeZone::get(name).map_err(|_| wrong())?;
    zone.iana_name().map(|name| Some(name.to_owned())).ok_or_else(wrong)
}

/// Changes an app's settings.
pub(crate) async fn patch(platform: &Platform, name: &AppName, patch: &PatchCron) -> Result<(), ApiError> {
    let zone = patch.timezone.as_deref().map(check_zone).transpose()?;
    if let Some(secs) = patch.ttl_secs.filter(|secs| *secs > MAX_TTL_SECS) {
        return Err(invalid(format!(
            "ttl-seconds={secs} is too long: {MAX_TTL_SECS} s (30 days) is the most"
        )));
    }
    let app = platform.existing_app(name).await?;
    for id in patch.suspended.keys() {
        super::find(platform, &app, id).await?;
    }
    let known: Vec<String> = match super::tasks(platform, &app).await? {
        Some((_, tasks)) => tasks.into_iter().map(|task| task.id).collect(),
        None => Vec::new(),
    };
    let change = |cron: &mut CronSettings| {
        cron.maintenance = patch.maintenance.unwrap_or(cron.maintenance);
        if let Some(zone) = &zone {
            cron.timezone.clone_from(zone);
        }
        if let Some(secs) = patch.ttl_secs {
            cron.ttl_secs = Some(secs).filter(|secs| *secs > 0);
        }
        if !patch.suspended.is_empty() {
            cron.suspended.extend(patch.suspended.clone());
            // What no release has any more must not pile up.
            if cron.suspended.len() > 2 * berth_model::cron::MAX_TASKS {
                cron.suspended.retain(|id, _| known.contains(id));
            }
        }
    };
    platform.update_app(name, |app| change(&mut app.cron)).await?;
    Ok(())
}

/// Changes what holds for all apps.
pub(crate) async fn patch_global(platform: &Platform, patch: &PatchCron) -> Result<GlobalCron, ApiError> {
    if patch.ttl_secs.is_some() || !patch.suspended.is_empty() {
        return Err(invalid("only maintenance and timezone can be set for all apps"));
    }
    let mut global = global(platform).await?;
    global.maintenance = patch.maintenance.unwrap_or(global.maintenance);
    if let Some(name) = &patch.timezone {
        global.timezone = check_zone(name)?;
    }
    platform.save(GLOBAL, &global).await?;
    Ok(global)
}

/// An app's cron as it is.
pub(crate) async fn info(platform: &Platform, name: &AppName) -> Result<CronInfo, ApiError> {
    let app = platform.existing_app(name).await?;
    let global = global(platform).await?;
    let zone = zone(&app, &global);
    let (timezone, from) = match (&app.cron.timezone, &global.timezone) {
        (Some(name), _) => (name.as_str(), "app"),
        (None, Some(name)) => (name.as_str(), "global"),
        (None, None) => ("UTC", "default"),
    };
    let maintenance = match (app.cron.maintenance, global.maintenance) {
        (true, _) => Some("app".to_owned()),
        (false, true) => Some("global".to_owned()),
        (false, false) => None,
    };
    let runs = runs::list(platform, name, true).await?;
    let now = Timestamp::now();
    let tasks = super::tasks(platform, &app).await?.map(|(_, tasks)| tasks).unwrap_or_default();
    let tasks = tasks.into_iter().map(|task| {
        let suspended = maintenance.is_some() || app.cron.is_suspended(&task);
        let next = Schedule::parse(&task.schedule).ok().and_then(|one| next_after(&one, &zone, now));
        let of_task =
            |run: &&berth_model::run::RunInfo| run.cron.as_ref().is_some_and(|cause| cause.task == task.id);
        let last = runs.iter().rev().find(of_task).cloned();
        CronTaskInfo {
            suspended,
            next_ms: next.filter(|_| !suspended).map(Timestamp::as_millisecond),
            last,
            task,
        }
    });
    Ok(CronInfo {
        tasks: tasks.collect(),
        maintenance,
        timezone: timezone.to_owned(),
        timezone_from: from.to_owned(),
        ttl_secs: app.cron.ttl_secs.unwrap_or(DEFAULT_TTL_SECS),
    })
}
