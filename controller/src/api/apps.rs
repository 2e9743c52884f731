//! Apps: list, make, look at, change, rename, destroy.

use super::answer::{Refusal, progress};
use super::caller::Caller;
use super::extract::{Json, Path};
use super::report;
use crate::deploy::{self, Change};
use crate::ending;
use crate::platform::{Platform, say};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use berth_model::api::{AppInfo, CreateApp, PatchApp, Progress, RenameApp};
use berth_model::release::App;
use berth_model::{AppName, ProcessType};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(info, patch, destroy))
        .routes(routes!(rename))
}

/// Every app, by name.
#[utoipa::path(get, path = "/v1/apps", tag = "apps", responses((status = 200, body = Vec<AppInfo>)))]
async fn list(State(platform): State<Platform>) -> Result<Answer<Vec<AppInfo>>, Refusal> {
    let mut infos = Vec::new();
    for app in platform.apps().await? {
        infos.push(report::app_info(&platform, app).await?);
    }
    Ok(Answer(infos))
}

/// Makes an app; the first push does so too.
#[utoipa::path(post, path = "/v1/apps", tag = "apps", request_body = CreateApp,
    responses((status = 201, body = AppInfo), (status = 409, description = "The name is taken")))]
async fn create(
    State(platform): State<Platform>,
    Json(CreateApp { name }): Json<CreateApp>,
) -> Result<Response, Refusal> {
    let app = platform.create_app(&name).await?;
    let info = report::app_info(&platform, app).await?;
    Ok((StatusCode::CREATED, Answer(info)).into_response())
}

/// One app.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(("app" = AppName, Path)),
    responses((status = 200, body = AppInfo), (status = 404, description = "There is no such app")))]
async fn info(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<AppInfo>, Refusal> {
    let app = platform.existing_app(&name).await?;
    Ok(Answer(report::app_info(&platform, app).await?))
}

/// Changes settings of an app, and restarts it if its containers are made of them.
#[utoipa::path(patch, path = "/v1/apps/{app}", tag = "apps", params(("app" = AppName, Path)), request_body = PatchApp,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn patch(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchApp>,
) -> Result<Response, Refusal> {
    let (before, app) = platform.patch_app(&name, &patch).await?;
    Ok(progress(move |lines| async move {
        let runs = app.current.is_some() && !app.stopped;
        let limited = limited_anew(&before, &app);
        let changes: Vec<Change> = match before.mounts != app.mounts || limited.len() == app.formation.0.len()
        {
            true => vec![Change::Restart { process: None, ordinal: None }],
            false => limited
                .iter()
                .map(|one| Change::Restart { process: Some(one.clone()), ordinal: None })
                .collect(),
        };
        if !runs || before.mounts == app.mounts && limited.is_empty() {
            return Ok(());
        }
        for change in changes {
            let replaced =
                deploy::deploy(&platform, &name, change, &by, &lines, &CancellationToken::new()).await;
            if let Err(mut error) = replaced {
                // What it cannot run with is not what it shall run with next time.
                let back = |found: &mut App| {
                    if found.limits == app.limits {
                        found.limits.clone_from(&before.limits);
                    }
                    if found.mounts == app.mounts {
                        found.mounts.clone_from(&before.mounts);
                    }
                };
                let what = match (before.mounts != app.mounts, before.limits != app.limits) {
                    (true, true) => "mounts and limits",
                    (true, false) => "mounts",
                    (false, _) => "limits",
                };
                if platform.update_app(&name, back).await.is_ok() {
                    error.message.push_str(&format!("; the {what} are as they were"));
                }
                return Err(error);
            }
        }
        Ok(())
    }))
}

/// The process types that run and whose containers have other limits now. Limits of builds are none of theirs.
fn limited_anew(before: &App, after: &App) -> Vec<ProcessType> {
    let runs = after.formation.0.iter().filter(|(_, count)| **count > 0).map(|(process, _)| process);
    let differs = |process: &&ProcessType| {
        crate::release::limits(before, process) != crate::release::limits(after, process)
    };
    runs.filter(differs).cloned().collect()
}

/// Renames an app. A running one is started anew under its new name, with a short gap.
#[utoipa::path(post, path = "/v1/apps/{app}/rename", tag = "apps", params(("app" = AppName, Path)),
    request_body = RenameApp, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn rename(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    Json(RenameApp { to }): Json<RenameApp>,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    Ok(progress(move |lines| async move {
        let app = {
            let _turn = platform.operation(&name, "a rename", &lines).await;
            if platform.deploys().plan(&name).canary.is_some() {
                return Err(crate::errors::conflict(format!(
                    "a canary of {name} is on trial; end it first: berth deploy:promote {name}, or deploy:abort {name}"
                )));
            }
            say(&lines, Progress::Step { text: format!("Renaming {name} to {to}") }).await;
            platform.rename_app(&name, &to).await?
        };
        if app.current.is_some() && !app.stopped {
            let change = Change::Restart { process: None, ordinal: None };
            deploy::deploy(&platform, &to, change, &by, &lines, &CancellationToken::new()).await?;
        }
        Ok(())
    }))
}

/// Destroys an app: its containers, releases, config, domains and repository. Its volumes stay.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps", params(("app" = AppName, Path)),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn destroy(State(platform): State<Platform>, Path(name): Path<AppName>) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    Ok(progress(move |lines| async move { ending::destroy(&platform, &name, &lines).await }))
}
