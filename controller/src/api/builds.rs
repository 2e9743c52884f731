//! Builds: what was built when, what it said, and an end to one that is under way.

use super::answer::{NDJSON, Refusal};
use super::caller::Caller;
use super::extract::{Path, Query};
use crate::build::history;
use crate::errors::internal;
use crate::platform::Platform;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use berth_model::AppName;
use berth_model::api::{BuildInfo, Progress};
use serde::Deserialize;
use std::io;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Most bytes of a log sent at once.
const PIECE: usize = 64 << 10;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(info))
        .routes(routes!(log))
        .routes(routes!(cancel))
}

/// The newest builds of an app, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/builds", tag = "builds", params(("app" = AppName, Path)),
    responses((status = 200, body = Vec<BuildInfo>)))]
async fn list(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
) -> Result<Answer<Vec<BuildInfo>>, Refusal> {
    platform.existing_app(&app).await?;
    Ok(Answer(history::list(&platform, &app).await?))
}

/// One build: by its id, the end of its id, or `current` for the newest.
#[utoipa::path(get, path = "/v1/apps/{app}/builds/{build}", tag = "builds",
    params(("app" = AppName, Path), ("build" = String, Path)),
    responses((status = 200, body = BuildInfo), (status = 404, description = "There is no such build")))]
async fn info(
    State(platform): State<Platform>,
    Path((app, build)): Path<(AppName, String)>,
) -> Result<Answer<BuildInfo>, Refusal> {
    platform.existing_app(&app).await?;
    Ok(Answer(history::find(&platform, &app, &build).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// Go on until the build is over.
    #[serde(default)]
    follow: bool,
}

/// All that a build said, one JSON object a line; of one that is over, the last is `done` or `failed`.
#[utoipa::path(get, path = "/v1/apps/{app}/builds/{build}/log", tag = "builds",
    params(("app" = AppName, Path), ("build" = String, Path), LogQuery),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn log(
    State(platform): State<Platform>,
    Path((app, build)): Path<(AppName, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    let build = history::find(&platform, &app, &build).await?;
    // Before the file is read: what is written meanwhile wakes.
    let written = if query.follow { platform.builds().watch(&build.id) } else { None };
    let file = File::open(platform.options().build_log_file(&build.id)).await;
    let file = file.map_err(|error| internal("the build's log cannot be read", &error))?;
    let pieces = futures_util::stream::try_unfold((file, written), |(mut file, mut written)| async move {
        Ok::<_, io::Error>(next(&mut file, &mut written).await?.map(|piece| (piece, (file, written))))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(pieces)).into_response())
}

/// The next piece of a log; `None` at its end, which comes when nobody writes any more.
async fn next(file: &mut File, written: &mut Option<watch::Receiver<()>>) -> io::Result<Option<Bytes>> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece).await?;
        if read > 0 {
            piece.truncate(read);
            return Ok(Some(piece.into()));
        }
        match written {
            None => return Ok(None),
            Some(more) => {
                if more.changed().await.is_err() {
                    // The writer is gone: what it wrote last is there.
                    *written = None;
                }
            }
        }
    }
}

/// Stops a build that is under way; what was deployed before still serves.
#[utoipa::path(post, path = "/v1/apps/{app}/builds/{build}/cancel", tag = "builds",
    params(("app" = AppName, Path), ("build" = String, Path)),
    responses((status = 200, body = BuildInfo), (status = 409, description = "It is over")))]
async fn cancel(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path((app, build)): Path<(AppName, String)>,
) -> Result<Answer<BuildInfo>, Refusal> {
    platform.existing_app(&app).await?;
    let build = history::find(&platform, &app, &build).await?;
    history::cancel(&platform, &app, &build, &by)?;
    Ok(Answer(build))
}
