//! Drains, settings of logs, metrics and alerts.

use super::answer::Refusal;
use super::extract::{Json, Path, Query};
use crate::alerts;
use crate::errors::invalid;
use crate::platform::{Platform, now_ms};
use axum::Json as Answer;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::AppName;
use berth_model::alerts::{AddAlert, AlertInfo};
use berth_model::logs::{AddDrain, AppLogs, DrainInfo, DrainUrl, PatchLogs};
use berth_model::metrics::{AppMetrics, Usage};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Largest log of a container that may be set, in MiB, and longest time, in hours.
const MOST_MIB: u64 = 1 << 20;
const MOST_HOURS: u32 = 87_600;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(log_settings, set_logs))
        .routes(routes!(drains, add_drain))
        .routes(routes!(remove_drain))
        .routes(routes!(top))
        .routes(routes!(app_metrics))
        .routes(routes!(metrics))
        .routes(routes!(list_alerts, add_alert))
        .routes(routes!(remove_alert))
        .routes(routes!(test_alerts))
}

/// How much of an app's log is kept.
#[utoipa::path(get, path = "/v1/apps/{app}/log-settings", tag = "logs", params(("app" = AppName, Path)),
    responses((status = 200, body = AppLogs)))]
async fn log_settings(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<AppLogs>, Refusal> {
    Ok(Answer(platform.existing_app(&name).await?.logs))
}

/// Sets how much of an app's log is kept: the largest size from each container's next start on, the time within minutes.
#[utoipa::path(patch, path = "/v1/apps/{app}/log-settings", tag = "logs", params(("app" = AppName, Path)),
    request_body = PatchLogs, responses((status = 200, body = AppLogs)))]
async fn set_logs(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchLogs>,
) -> Result<Answer<AppLogs>, Refusal> {
    if patch.max_mib.is_some_and(|mib| mib > MOST_MIB) {
        return Err(invalid(format!("a log has 1 to {MOST_MIB} MiB")).into());
    }
    if patch.keep_hours.is_some_and(|hours| hours > MOST_HOURS) {
        return Err(invalid(format!("a log is kept for 1 to {MOST_HOURS} hours")).into());
    }
    let app = platform
        .update_app(&name, |app| {
            if let Some(mib) = patch.max_mib {
                app.logs.max_mib = Some(mib).filter(|mib| *mib > 0);
            }
            if let Some(hours) = patch.keep_hours {
                app.logs.keep_hours = Some(hours).filter(|hours| *hours > 0);
            }
        })
        .await?;
    Ok(Answer(app.logs))
}

async fn drain_infos(platform: &Platform) -> Result<Vec<DrainInfo>, Refusal> {
    let mut status = platform.metrics().drains();
    let drains = platform.scoped::<DrainUrl>("drains").await?;
    let info = |(app, id, url): (_, String, DrainUrl)| DrainInfo {
        nodes: status.remove(&id).unwrap_or_default(),
        id,
        app,
        url: url.masked(),
    };
    Ok(drains.into_iter().map(info).collect())
}

/// Every drain, and how it does. Passwords, tokens and keys in addresses are left out.
#[utoipa::path(get, path = "/v1/drains", tag = "logs", responses((status = 200, body = Vec<DrainInfo>)))]
async fn drains(State(platform): State<Platform>) -> Result<Answer<Vec<DrainInfo>>, Refusal> {
    Ok(Answer(drain_infos(&platform).await?))
}

/// Sends an app's lines, or all apps', somewhere else from now on: `syslog+udp://`, `syslog+tcp://`, `syslog+tls://`, `http://`,
/// `https://`, `otlp+http://`, `otlp+https://`.
#[utoipa::path(post, path = "/v1/drains", tag = "logs", request_body = AddDrain,
    responses((status = 201, body = DrainInfo)))]
async fn add_drain(
    State(platform): State<Platform>,
    Json(AddDrain { app, url }): Json<AddDrain>,
) -> Result<Response, Refusal> {
    let url = DrainUrl::parse(&url).map_err(invalid)?;
    if let Some(app) = &app {
        platform.existing_app(app).await?;
    }
    let same = platform
        .scoped::<DrainUrl>("drains")
        .await?
        .into_iter()
        .find(|(own, _, known)| *own == app && *known == url);
    if let Some((_, id, _)) = same {
        return Err(crate::errors::conflict(format!("drain {id} sends there already")).into());
    }
    let id = platform.add_scoped("drains", app.as_ref(), &url).await?;
    let info = DrainInfo { id, app, url: url.masked(), nodes: std::collections::BTreeMap::new() };
    Ok((StatusCode::CREATED, Answer(info)).into_response())
}

/// Sends nothing there any more.
#[utoipa::path(delete, path = "/v1/drains/{id}", tag = "logs", params(("id" = String, Path)),
    responses((status = 204), (status = 404, description = "There is no such drain")))]
async fn remove_drain(
    State(platform): State<Platform>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    platform.remove_scoped("drains", &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TopQuery {
    /// Only this app's.
    #[param(value_type = Option<String>)]
    app: Option<AppName>,
}

/// What each container uses now.
#[utoipa::path(get, path = "/v1/top", tag = "metrics", params(TopQuery), responses((status = 200, body = Vec<Usage>)))]
async fn top(
    State(platform): State<Platform>,
    Query(TopQuery { app }): Query<TopQuery>,
) -> Result<Answer<Vec<Usage>>, Refusal> {
    if let Some(app) = &app {
        platform.existing_app(app).await?;
    }
    Ok(Answer(platform.metrics().now(app.as_ref(), now_ms())))
}

/// What an app used and got: now, the last hour, the last day.
#[utoipa::path(get, path = "/v1/apps/{app}/metrics", tag = "metrics", params(("app" = AppName, Path)),
    responses((status = 200, body = AppMetrics)))]
async fn app_metrics(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<AppMetrics>, Refusal> {
    platform.existing_app(&name).await?;
    Ok(Answer(platform.metrics().of(&name, now_ms()).await))
}

/// Everything for Prometheus, in its text format.
#[utoipa::path(get, path = "/metrics", tag = "metrics",
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4")))]
async fn metrics(State(platform): State<Platform>) -> Response {
    let page = crate::metrics::page(&platform).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

/// Every webhook that is told of alerts, and what is wrong now.
#[utoipa::path(get, path = "/v1/alerts", tag = "alerts", responses((status = 200, body = Vec<AlertInfo>)))]
async fn list_alerts(State(platform): State<Platform>) -> Result<Answer<Vec<AlertInfo>>, Refusal> {
    Ok(Answer(alerts::list(&platform).await?))
}

/// Has a webhook told when something goes wrong, and when it is over.
#[utoipa::path(post, path = "/v1/alerts", tag = "alerts", request_body = AddAlert,
    responses((status = 201, body = AlertInfo)))]
async fn add_alert(State(platform): State<Platform>, Json(new): Json<AddAlert>) -> Result<Response, Refusal> {
    let id = alerts::add(&platform, new).await?;
    let added = alerts::list(&platform).await?.into_iter().find(|alert| alert.id == id);
    Ok((StatusCode::CREATED, Answer(added)).into_response())
}

/// Tells a webhook nothing any more.
#[utoipa::path(delete, path = "/v1/alerts/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 204), (status = 404, description = "There is no such alert")))]
async fn remove_alert(
    State(platform): State<Platform>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    platform.remove_scoped("alerts", &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TestQuery {
    /// Only this one.
    id: Option<String>,
}

/// Tells webhooks that this is a test; fails if one was not told.
#[utoipa::path(post, path = "/v1/alerts-test", tag = "alerts", params(TestQuery),
    responses((status = 204), (status = 422, description = "One was not told")))]
async fn test_alerts(
    State(platform): State<Platform>,
    Query(TestQuery { id }): Query<TestQuery>,
) -> Result<StatusCode, Refusal> {
    alerts::test(&platform, id.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}
