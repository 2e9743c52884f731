//! An app's life beside its deploys: settings of its processes, what runs in full, lock, clone, end.

use super::answer::{Refusal, progress};
use super::caller::Caller;
use super::extract::{Json, OptionalJson, Path};
use super::report;
use crate::errors::invalid;
use crate::platform::{Platform, lives, now_ms, say};
use crate::{clone, deploy};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use berth_model::AppName;
use berth_model::api::{AppInfo, Progress};
use berth_model::processes::{Autocreation, CloneApp, ContainerInspect, LockApp, PatchProcesses, SetTtl};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(set))
        .routes(routes!(inspect))
        .routes(routes!(restore))
        .routes(routes!(lock, unlock))
        .routes(routes!(clone_app))
        .routes(routes!(ttl))
        .routes(routes!(autocreation, set_autocreation))
}

/// Sets how processes are restarted and stopped. Containers that start from then on have it.
#[utoipa::path(patch, path = "/v1/apps/{app}/processes", tag = "processes", params(("app" = AppName, Path)),
    request_body = PatchProcesses, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn set(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchProcesses>,
) -> Result<Response, Refusal> {
    if patch.is_empty() {
        let names = "restart_policy, stop_signal, stop_timeout_secs, pool, node_labels, spread, apart_from or \
                     rather_apart_from";
        return Err(invalid(format!("nothing to set: name {names}")).into());
    }
    // What is refused of it is refused before anything is written.
    lives::set(&mut platform.existing_app(&name).await?, &patch)?;
    let apart = platform.set_apart(&name, &patch).await?;
    let mut done = Vec::new();
    let change = |app: &mut berth_model::release::App| lives::set(app, &patch).map(|words| done = words);
    let app = platform.try_update_app(&name, change).await?;
    done.extend(apart);
    Ok(progress(move |lines| async move {
        for text in done {
            say(&lines, Progress::Step { text }).await;
        }
        if app.current.is_some() && !app.stopped {
            let text = format!("Containers that start from now on have it; for all: berth ps:restart {name}");
            say(&lines, Progress::Detail { text }).await;
        }
        Ok(())
    }))
}

/// Every container of an app with all that is known of it, without secrets.
#[utoipa::path(get, path = "/v1/apps/{app}/inspect", tag = "processes", params(("app" = AppName, Path)),
    responses((status = 200, body = Vec<ContainerInspect>), (status = 404, description = "There is no such app")))]
async fn inspect(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<Vec<ContainerInspect>>, Refusal> {
    let app = platform.existing_app(&name).await?;
    Ok(Answer(report::inspect(&platform, &app)))
}

/// Starts what is to run and does not; what was stopped stays so.
#[utoipa::path(post, path = "/v1/apps/{app}/restore", tag = "processes", params(("app" = AppName, Path)),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn restore(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    Ok(progress(move |lines| async move { deploy::restore_app(&platform, &name, &by, &lines).await }))
}

/// Refuses deploys of an app until it is unlocked.
#[utoipa::path(put, path = "/v1/apps/{app}/lock", tag = "apps", params(("app" = AppName, Path)), request_body = LockApp,
    responses((status = 200, body = AppInfo), (status = 404, description = "There is no such app")))]
async fn lock(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    OptionalJson(LockApp { reason }): OptionalJson<LockApp>,
) -> Result<Answer<AppInfo>, Refusal> {
    let app = platform.lock_app(&name, Some((by, reason))).await?;
    Ok(Answer(report::app_info(&platform, app).await?))
}

/// Lets an app be deployed again.
#[utoipa::path(delete, path = "/v1/apps/{app}/lock", tag = "apps", params(("app" = AppName, Path)),
    responses((status = 200, body = AppInfo), (status = 404, description = "There is no such app")))]
async fn unlock(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<AppInfo>, Refusal> {
    let app = platform.lock_app(&name, None).await?;
    Ok(Answer(report::app_info(&platform, app).await?))
}

/// Makes a new app like this one, and deploys the same image there.
#[utoipa::path(post, path = "/v1/apps/{app}/clone", tag = "apps", params(("app" = AppName, Path)), request_body = CloneApp,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn clone_app(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    Json(wanted): Json<CloneApp>,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    Ok(progress(move |lines| async move { clone::clone(&platform, &name, wanted, &by, &lines).await }))
}

/// Has an app destroy itself later, or not any more.
#[utoipa::path(put, path = "/v1/apps/{app}/ttl", tag = "apps", params(("app" = AppName, Path)), request_body = SetTtl,
    responses((status = 200, body = AppInfo), (status = 404, description = "There is no such app")))]
async fn ttl(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(SetTtl { seconds }): Json<SetTtl>,
) -> Result<Answer<AppInfo>, Refusal> {
    let end = seconds.map(|seconds| lives::end_of(now_ms(), seconds)).transpose()?;
    let app = platform.update_app(&name, |app| app.processes.destroy_at_ms = end).await?;
    Ok(Answer(report::app_info(&platform, app).await?))
}

/// Whether a push to an app that is not there makes it.
#[utoipa::path(get, path = "/v1/autocreation", tag = "apps", responses((status = 200, body = Autocreation)))]
async fn autocreation(State(platform): State<Platform>) -> Result<Answer<Autocreation>, Refusal> {
    Ok(Answer(Autocreation { enabled: platform.autocreation().await? }))
}

/// Sets that.
#[utoipa::path(put, path = "/v1/autocreation", tag = "apps", request_body = Autocreation,
    responses((status = 200, body = Autocreation)))]
async fn set_autocreation(
    State(platform): State<Platform>,
    Json(wanted): Json<Autocreation>,
) -> Result<Answer<Autocreation>, Refusal> {
    platform.set_autocreation(wanted.enabled).await?;
    Ok(Answer(wanted))
}
