//! Processes and releases: scale, restart, stop, start, roll back, and what runs.

use super::answer::{Refusal, progress};
use super::caller::Caller;
use super::extract::{Json, OptionalJson, Path, Query};
use super::report;
use crate::deploy::{self, Change};
use crate::errors::{from_agent, invalid, not_found};
use crate::platform::{Platform, lives};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use berth_model::api::{ProcessSelection, Progress, PsReport, ReleaseInfo, Rollback, Sbom, Scale};
use berth_model::{AppName, ReleaseVersion};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(scale))
        .routes(routes!(restart))
        .routes(routes!(stop))
        .routes(routes!(start))
        .routes(routes!(rollback))
        .routes(routes!(ps))
        .routes(routes!(releases))
        .routes(routes!(release))
        .routes(routes!(sbom))
}

/// Sets how many containers of each process type run.
#[utoipa::path(post, path = "/v1/apps/{app}/scale", tag = "processes", params(("app" = AppName, Path)),
    request_body = Scale, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn scale(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    Json(scale): Json<Scale>,
) -> Result<Response, Refusal> {
    let most = crate::release::MAX_QUANTITY;
    if let Some((process, count)) = scale.formation.0.iter().find(|(_, count)| **count > most) {
        return Err(
            invalid(format!("{process}={count} is too many: 0 to {most} of each process type")).into()
        );
    }
    if let Some(release) = scale.formation.0.keys().find(|process| process.is_release()) {
        return Err(invalid(format!("{release} cannot be scaled: it runs once a deploy")).into());
    }
    platform.existing_app(&name).await?;
    Ok(progress(move |lines| async move {
        let Scale { formation, skip_deploy } = scale;
        let cancel = CancellationToken::new();
        deploy::apply_formation(&platform, &name, formation, skip_deploy, &by, &lines, &cancel).await
    }))
}

/// Replaces containers by new ones of the same release, without a moment in which nothing answers.
#[utoipa::path(post, path = "/v1/apps/{app}/restart", tag = "processes", params(("app" = AppName, Path)),
    request_body = ProcessSelection, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn restart(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    OptionalJson(ProcessSelection { process, ordinal }): OptionalJson<ProcessSelection>,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    if process.is_none() && ordinal.is_some() {
        return Err(invalid("the number of a container goes with its process type: web.1").into());
    }
    Ok(progress(move |lines| async move {
        let change = Change::Restart { process, ordinal };
        deploy::deploy(&platform, &name, change, &by, &lines, &CancellationToken::new()).await.map(drop)
    }))
}

/// Stops an app, or one process type of it, until it is started again.
#[utoipa::path(post, path = "/v1/apps/{app}/stop", tag = "processes", params(("app" = AppName, Path)),
    request_body = ProcessSelection, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn stop(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    OptionalJson(ProcessSelection { process, ordinal }): OptionalJson<ProcessSelection>,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    whole_types(ordinal)?;
    Ok(progress(move |lines| async move {
        deploy::stop_app(&platform, &name, process, &by, &lines, &CancellationToken::new()).await
    }))
}

fn whole_types(ordinal: Option<u32>) -> Result<(), Refusal> {
    match ordinal {
        None => Ok(()),
        Some(_) => Err(invalid(
            "only whole process types are stopped and started; one container can be restarted, or scale its type",
        )
        .into()),
    }
}

/// Starts what was stopped.
#[utoipa::path(post, path = "/v1/apps/{app}/start", tag = "processes", params(("app" = AppName, Path)),
    request_body = ProcessSelection, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn start(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    OptionalJson(ProcessSelection { process, ordinal }): OptionalJson<ProcessSelection>,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    whole_types(ordinal)?;
    Ok(progress(move |lines| async move {
        deploy::start_app(&platform, &name, process, &by, &lines, &CancellationToken::new()).await
    }))
}

/// Brings an older release back, as a new one.
#[utoipa::path(post, path = "/v1/apps/{app}/rollback", tag = "releases", params(("app" = AppName, Path)),
    request_body = Rollback, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn rollback(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    OptionalJson(Rollback { to, keep_config }): OptionalJson<Rollback>,
) -> Result<Response, Refusal> {
    lives::check_unlocked(&platform.existing_app(&name).await?)?;
    if let Some(version) = to {
        platform.existing_release(&name, version).await?;
    }
    Ok(progress(move |lines| async move {
        let change = Change::Rollback { to, keep_config };
        deploy::deploy(&platform, &name, change, &by, &lines, &CancellationToken::new()).await.map(drop)
    }))
}

/// Every container of an app, and how it is.
#[utoipa::path(get, path = "/v1/apps/{app}/ps", tag = "processes", params(("app" = AppName, Path)),
    responses((status = 200, body = PsReport), (status = 404, description = "There is no such app")))]
async fn ps(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<PsReport>, Refusal> {
    let app = platform.existing_app(&name).await?;
    let remarks = report::remarks(&platform, &app).await?;
    let aparts = platform.aparts().await?;
    Ok(Answer(PsReport { remarks, ..report::ps(&platform, app, &aparts) }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// The newest so many at most; all unless said.
    limit: Option<u32>,
}

/// The releases of an app, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/releases", tag = "releases", params(("app" = AppName, Path), ListQuery),
    responses((status = 200, body = Vec<ReleaseInfo>), (status = 404, description = "There is no such app")))]
async fn releases(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Query(ListQuery { limit }): Query<ListQuery>,
) -> Result<Answer<Vec<ReleaseInfo>>, Refusal> {
    let app = platform.existing_app(&name).await?;
    let count = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let releases = platform.newest_releases(&name, count).await?.into_iter();
    Ok(Answer(releases.map(|release| report::release_info(&platform, &app, release)).collect()))
}

/// What is in the image that runs.
#[utoipa::path(get, path = "/v1/apps/{app}/sbom", tag = "releases", params(("app" = AppName, Path)),
    responses((status = 200, body = Sbom), (status = 404, description = "There is no such app, or it was never deployed")))]
async fn sbom(State(platform): State<Platform>, Path(name): Path<AppName>) -> Result<Answer<Sbom>, Refusal> {
    let app = platform.existing_app(&name).await?;
    let Some(release) = platform.current_release(&app).await? else {
        return Err(not_found(format!("{name} was never deployed: there is nothing to look into")).into());
    };
    let image = release.image.reference;
    let path = format!("/v1/sbom?repository={}&digest={}", image.repository, image.digest);
    Ok(Answer(platform.any_agent().get(&path).await.map_err(from_agent)?))
}

/// One release.
#[utoipa::path(get, path = "/v1/apps/{app}/releases/{version}", tag = "releases",
    params(("app" = AppName, Path), ("version" = String, Path, description = "`v12` or `12`")),
    responses((status = 200, body = ReleaseInfo), (status = 404, description = "There is no such app or release")))]
async fn release(
    State(platform): State<Platform>,
    Path((name, version)): Path<(AppName, String)>,
) -> Result<Answer<ReleaseInfo>, Refusal> {
    let version: ReleaseVersion =
        version.parse().map_err(|error: berth_model::NameError| invalid(error.to_string()))?;
    let app = platform.existing_app(&name).await?;
    let release = platform.existing_release(&name, version).await?;
    Ok(Answer(report::release_info(&platform, &app, release)))
}
