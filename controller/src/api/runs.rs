//! One-off containers: begun without a caller, listed, ended, and what they wrote.

use super::answer::{NDJSON, Refusal};
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use super::streams::lines_of;
use crate::errors::{conflict, from_agent, invalid};
use crate::platform::Platform;
use crate::runs::{self, Order};
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use berth_model::AppName;
use berth_model::api::ApiError;
use berth_model::container::LogLine;
use berth_model::run::{DetachedRequest, RunInfo};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const MAX_LINES: u32 = 1_000_000;
/// All lines of a container are on the node's disk before its end is known, and a follower looks for Berth's own every 300 ms:
/// when nothing came for this long after the end, nothing will.
const QUIET: Duration = Duration::from_millis(700);

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(list, begin))
        .routes(routes!(info))
        .routes(routes!(stop))
        .routes(routes!(logs))
        .routes(routes!(retire))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Those that ended, too.
    #[serde(default)]
    all: bool,
}

/// An app's one-off containers, oldest first.
#[utoipa::path(get, path = "/v1/apps/{app}/runs", tag = "runs", params(("app" = AppName, Path), ListQuery),
    responses((status = 200, body = Vec<RunInfo>)))]
async fn list(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<Vec<RunInfo>>, Refusal> {
    platform.existing_app(&app).await?;
    Ok(Answer(runs::list(&platform, &app, query.all).await?))
}

/// Runs a command in a container of its own that belongs to no caller. Answered when it is certain to run.
#[utoipa::path(post, path = "/v1/apps/{app}/runs", tag = "runs", params(("app" = AppName, Path)),
    request_body = DetachedRequest, responses((status = 200, body = RunInfo)))]
async fn begin(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(app): Path<AppName>,
    Json(request): Json<DetachedRequest>,
) -> Result<Answer<RunInfo>, Refusal> {
    runs::check_argv(&request.argv)?;
    let order = Order {
        env: request.env,
        limits_of: request.process_type,
        ttl_secs: request.ttl_secs,
        ..Order::typed(request.argv, &by)
    };
    Ok(Answer(runs::begin(&platform, &app, &order).await?))
}

/// One of them, by its name (`hello.run.1234` or `run.1234`) or its container's id.
#[utoipa::path(get, path = "/v1/apps/{app}/runs/{run}", tag = "runs",
    params(("app" = AppName, Path), ("run" = String, Path)), responses((status = 200, body = RunInfo)))]
async fn info(
    State(platform): State<Platform>,
    Path((app, run)): Path<(AppName, String)>,
) -> Result<Answer<RunInfo>, Refusal> {
    platform.existing_app(&app).await?;
    Ok(Answer(runs::find(&platform, &app, &run).await?))
}

/// Ends one: stop signal, grace time, kill. Answered when that has begun.
#[utoipa::path(post, path = "/v1/apps/{app}/runs/{run}/stop", tag = "runs",
    params(("app" = AppName, Path), ("run" = String, Path)),
    responses((status = 200, body = RunInfo), (status = 409, description = "It is over")))]
async fn stop(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path((app, run)): Path<(AppName, String)>,
) -> Result<Answer<RunInfo>, Refusal> {
    platform.existing_app(&app).await?;
    Ok(Answer(runs::stop(&platform, &app, &run, &format!("stopped by {by}")).await?))
}

/// Forgets those of `run:detached` that ended, with their output. Gives how many.
#[utoipa::path(post, path = "/v1/apps/{app}/runs/retire", tag = "runs", params(("app" = AppName, Path)),
    responses((status = 200, body = usize)))]
async fn retire(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
) -> Result<Answer<usize>, Refusal> {
    platform.existing_app(&app).await?;
    Ok(Answer(runs::retire(&platform, &app).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// How many lines back. Default 1000.
    lines: Option<u32>,
    /// Go on until it ends.
    #[serde(default)]
    follow: bool,
}

/// What one of them wrote, oldest first, one JSON object a line.
#[utoipa::path(get, path = "/v1/apps/{app}/runs/{run}/logs", tag = "runs",
    params(("app" = AppName, Path), ("run" = String, Path), LogQuery),
    responses((status = 200, body = LogLine, content_type = "application/x-ndjson")))]
async fn logs(
    State(platform): State<Platform>,
    Path((app, run)): Path<(AppName, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let lines = query.lines.unwrap_or(1000);
    if lines > MAX_LINES {
        return Err(invalid(format!("lines={lines} is too many: at most {MAX_LINES}")).into());
    }
    platform.existing_app(&app).await?;
    let run = runs::find(&platform, &app, &run).await?;
    if !run.detached {
        let text = format!("the output of {} goes to who started it and is not kept", run.name);
        return Err(conflict(text).into());
    }
    let Some(container) = &run.container else {
        // A cron task that waits for the one it replaces, or never ran.
        return Ok(([(header::CONTENT_TYPE, NDJSON)], Body::empty()).into_response());
    };
    let follow = query.follow && run.is_live();
    let path = format!("/v1/logs?app={app}&container={container}&lines={lines}&follow={follow}");
    let client = run.node.as_ref().map_or_else(|| platform.any_agent(), |node| platform.agent_of(node));
    let answer = client.lines(Method::GET, &path, None::<&()>).await.map_err(from_agent)?;
    let (to, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        if follow {
            let over = async { drop(runs::until_over(&platform, &app, &run.name).await) };
            pass_on(answer, to, over).await;
        } else {
            pass_on(answer, to, std::future::pending()).await;
        }
    });
    Ok(lines_of(receiver))
}

/// Passes lines on until their end, or until all that was written before `over` has come.
async fn pass_on(mut from: berth_wire::Lines, to: mpsc::Sender<LogLine>, over: impl Future<Output = ()>) {
    let (lines, mut arriving) = mpsc::channel(64);
    // Reading a line is not cancel-safe: a task of its own, which ends with this one.
    let reading = tokio::spawn(async move {
        while let Ok(Some(line)) = from.next::<LogLine>().await {
            if lines.send(line).await.is_err() {
                return;
            }
        }
    });
    tokio::pin!(over);
    let mut ended = false;
    loop {
        tokio::select! {
            line = arriving.recv() => match line {
                Some(line) => if to.send(line).await.is_err() { break },
                None => break,
            },
            () = &mut over, if !ended => ended = true,
            () = tokio::time::sleep(QUIET), if ended => break,
            () = to.closed() => break,
        }
    }
    reading.abort();
}

/// What a stream or a task that is attached says when it was ended by command.
pub(super) fn ended_by(name: &str, why: Option<String>) -> ApiError {
    crate::errors::failed(format!(
        "{name} was ended: {}",
        why.unwrap_or_else(|| "its caller is gone".to_owned())
    ))
}
