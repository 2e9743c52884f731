//! Traffic: live counts of the apps, and the proxy's access log.

use super::answer::{NDJSON, Refusal};
use super::extract::{Path, Query};
use crate::errors::invalid;
use crate::nodes::access_log;
use crate::platform::{Platform, now_ms};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use berth_model::AppName;
use berth_model::traffic::{Traffic, TrafficNow};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Lines of the access log that may be asked for.
const MAX_LINES: usize = 10_000;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(all))
        .routes(routes!(one))
        .routes(routes!(stream))
        .routes(routes!(app_log))
        .routes(routes!(whole_log))
}

fn now() -> i64 {
    now_ms() / 1000
}

/// What each app gets now, of those that got anything within the last hour.
#[utoipa::path(get, path = "/v1/traffic", tag = "traffic", responses((status = 200, body = Vec<TrafficNow>)))]
async fn all(State(platform): State<Platform>) -> Json<Vec<TrafficNow>> {
    Json(platform.traffic().all(now()))
}

/// What an app gets now, and got in the last 60 seconds and 60 minutes.
#[utoipa::path(get, path = "/v1/apps/{app}/traffic", tag = "traffic", params(("app" = AppName, Path)),
    responses((status = 200, body = Traffic)))]
async fn one(State(platform): State<Platform>, Path(name): Path<AppName>) -> Result<Json<Traffic>, Refusal> {
    platform.existing_app(&name).await?;
    Ok(Json(platform.traffic().of(&name, now())))
}

/// What an app gets, once a second until the caller goes away: one JSON object a line, or server-sent events for those
/// that accept `text/event-stream`.
#[utoipa::path(get, path = "/v1/apps/{app}/traffic/stream", tag = "traffic", params(("app" = AppName, Path)),
    responses((status = 200, content((TrafficNow = "application/x-ndjson"), (String = "text/event-stream")))))]
async fn stream(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let events = accepted.flat_map(|value| value.split(',')).any(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
    });
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let points = futures_util::stream::unfold(
        (platform, name, ticks),
        move |(platform, name, mut ticks)| async move {
            ticks.tick().await;
            let point = serde_json::to_string(&platform.traffic().now(&name, now()));
            let point = point.expect("traffic has no failing serializers");
            let text = if events { format!("data: {point}\n\n") } else { format!("{point}\n") };
            Some((Ok::<_, Infallible>(Bytes::from(text)), (platform, name, ticks)))
        },
    );
    let kind = if events { "text/event-stream" } else { NDJSON };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(points)).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AccessQuery {
    /// How many lines back: 100 unless said, 10000 at most.
    lines: Option<usize>,
    /// Go on with new lines until the caller goes away; then empty lines come when there is no news.
    #[serde(default)]
    follow: bool,
    /// Only requests that failed: answered with 5xx, not at all, or cut short.
    #[serde(default)]
    errors: bool,
}

/// An app's lines of the access log, oldest first, as the proxy wrote them (`docs/proxy.md` says what is in one).
#[utoipa::path(get, path = "/v1/apps/{app}/access-log", tag = "traffic", params(("app" = AppName, Path), AccessQuery),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn app_log(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Query(query): Query<AccessQuery>,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    log(&platform, Some(name.to_string()), &query).await
}

/// The access log of all apps, oldest first, as the proxy wrote it.
#[utoipa::path(get, path = "/v1/access-log", tag = "traffic", params(AccessQuery),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn whole_log(
    State(platform): State<Platform>,
    Query(query): Query<AccessQuery>,
) -> Result<Response, Refusal> {
    log(&platform, None, &query).await
}

async fn log(platform: &Platform, app: Option<String>, query: &AccessQuery) -> Result<Response, Refusal> {
    let count = query.lines.unwrap_or(100);
    if count > MAX_LINES {
        return Err(invalid(format!("lines={count} is too many: at most {MAX_LINES}")).into());
    }
    let (errors, follow) = (query.errors, query.follow);
    let mut path = format!("/v1/access-log?lines={count}&errors={errors}&follow={follow}");
    if let Some(app) = app {
        path = format!("{path}&app={app}");
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    if !follow {
        return Ok((kind, access_log::read(platform, &path, count).await?).into_response());
    }
    let news = access_log::follow(platform, &path).await?;
    let news = futures_util::stream::unfold(news, |mut news| async move {
        Some((Ok::<_, Infallible>(news.recv().await?), news))
    });
    Ok((kind, Body::from_stream(news)).into_response())
}
