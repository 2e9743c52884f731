//! Cron: an app's tasks, when they run next, and runs by hand.

use super::answer::Refusal;
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use crate::cron;
use crate::platform::Platform;
use crate::runs;
use axum::extract::State;
use axum::{Extension, Json as Answer};
use berth_model::AppName;
use berth_model::cron::{CronInfo, GlobalCron, PatchCron};
use berth_model::run::{RunInfo, RunKind};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(info, patch))
        .routes(routes!(global, patch_global))
        .routes(routes!(run_now))
        .routes(routes!(history))
}

/// An app's cron as it is.
#[utoipa::path(get, path = "/v1/apps/{app}/cron", tag = "cron", params(("app" = AppName, Path)),
    responses((status = 200, body = CronInfo)))]
async fn info(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
) -> Result<Answer<CronInfo>, Refusal> {
    Ok(Answer(cron::info(&platform, &app).await?))
}

/// Changes an app's cron settings; suspends and resumes tasks.
#[utoipa::path(patch, path = "/v1/apps/{app}/cron", tag = "cron", params(("app" = AppName, Path)),
    request_body = PatchCron, responses((status = 200, body = CronInfo)))]
async fn patch(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    Json(patch): Json<PatchCron>,
) -> Result<Answer<CronInfo>, Refusal> {
    cron::patch(&platform, &app, &patch).await?;
    Ok(Answer(cron::info(&platform, &app).await?))
}

/// What holds for all apps.
#[utoipa::path(get, path = "/v1/cron", tag = "cron", responses((status = 200, body = GlobalCron)))]
async fn global(State(platform): State<Platform>) -> Result<Answer<GlobalCron>, Refusal> {
    Ok(Answer(cron::global(&platform).await?))
}

/// Changes what holds for all apps.
#[utoipa::path(patch, path = "/v1/cron", tag = "cron", request_body = PatchCron,
    responses((status = 200, body = GlobalCron)))]
async fn patch_global(
    State(platform): State<Platform>,
    Json(patch): Json<PatchCron>,
) -> Result<Answer<GlobalCron>, Refusal> {
    Ok(Answer(cron::patch_global(&platform, &patch).await?))
}

/// Runs a task now, suspended or not, under its concurrency policy. Answered when it is certain to run.
#[utoipa::path(post, path = "/v1/apps/{app}/cron/{task}/run", tag = "cron",
    params(("app" = AppName, Path), ("task" = String, Path)),
    responses((status = 200, body = RunInfo), (status = 409, description = "Another run has not ended")))]
async fn run_now(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path((app, task)): Path<(AppName, String)>,
) -> Result<Answer<RunInfo>, Refusal> {
    Ok(Answer(cron::run_now(&platform, &app, &task, &by).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// Only this task's.
    task: Option<String>,
}

/// Runs of an app's cron tasks that are kept, oldest first: those that have not ended, and those that never ran, too.
#[utoipa::path(get, path = "/v1/apps/{app}/cron/history", tag = "cron",
    params(("app" = AppName, Path), HistoryQuery), responses((status = 200, body = Vec<RunInfo>)))]
async fn history(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    Query(query): Query<HistoryQuery>,
) -> Result<Answer<Vec<RunInfo>>, Refusal> {
    platform.existing_app(&app).await?;
    let mut all = runs::list(&platform, &app, true).await?;
    let wanted = |run: &RunInfo| {
        let of_task = |task: &String| run.cron.as_ref().is_some_and(|cause| cause.task == *task);
        run.kind == RunKind::Cron && query.task.as_ref().is_none_or(of_task)
    };
    all.retain(wanted);
    Ok(Answer(all))
}
