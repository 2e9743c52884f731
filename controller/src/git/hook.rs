//! `/hook/v1` of the internal API: what git's pre-receive hook asks.
//!
//! In: a push's refs. Out: progress, line by line; the last line is the verdict. A hook that goes away cancels its build.

use super::push::{Pushes, Question, receive};
use crate::Platform;
use crate::platform::say;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use berth_model::api::Progress;
use std::convert::Infallible;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Of a push with very many refs.
const LARGEST_QUESTION: usize = 8 << 20;

/// The hook's routes.
pub fn router(platform: Platform, pushes: Pushes) -> Router {
    Router::new()
        .route("/hook/v1/pre-receive", post(pre_receive))
        .layer(DefaultBodyLimit::max(LARGEST_QUESTION))
        .with_state((platform, pushes))
}

async fn pre_receive(
    State((platform, pushes)): State<(Platform, Pushes)>,
    Json(question): Json<Question>,
) -> Response {
    let (progress, mut lines) = mpsc::channel::<Progress>(64);
    let cancel = CancellationToken::new();
    tokio::spawn(async move {
        let gone = progress.clone();
        let work = async {
            let last = match receive(&platform, &pushes, question, &progress, &cancel).await {
                Ok(()) => Progress::Done,
                Err(error) => Progress::Failed { error },
            };
            say(&progress, last).await;
        };
        let mut work = std::pin::pin!(work);
        tokio::select! {
            () = &mut work => {}
            () = gone.closed() => {
                // It is not dropped: a deploy that is past its swap has to come to its end, and one that is not takes itself
                // back.
                cancel.cancel();
                work.await;
            }
        }
    });
    let body = futures_util::stream::poll_fn(move |context| {
        lines.poll_recv(context).map(|line| line.map(|line| Ok::<_, Infallible>(json_line(&line))))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

fn json_line(line: &Progress) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_else(|error| {
        tracing::error!(%error, "a line of progress cannot be written");
        br#"{"event":"detail","text":""}"#.to_vec()
    });
    bytes.push(b'\n');
    bytes.into()
}
