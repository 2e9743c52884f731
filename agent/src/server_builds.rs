//! The API's calls whose body is a stream: stacks, base images and builds.
//!
//! In: tar streams. Out: what the image store and the builder say. A connection that is closed cancels the work.

use crate::build;
use crate::images;
use crate::life::chain;
use crate::node::Node;
use crate::server::{Refusal, lines};
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_model::api::ErrorCode;
use berth_model::build::BuildRequest;
use futures_util::TryStreamExt;
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

/// Longest first line of a build: the plan.
const MAX_REQUEST: u64 = 16 * 1024 * 1024;

/// The body as bytes to read.
fn reader(body: Body) -> impl AsyncRead + Send + 'static {
    Box::pin(StreamReader::new(body.into_data_stream().map_err(io::Error::other)))
}

#[derive(Debug, Deserialize)]
pub(crate) struct StackQuery {
    repository: String,
    #[serde(default = "latest")]
    tag: String,
}

fn latest() -> String {
    "latest".into()
}

/// `POST /v1/stacks`: a root file system becomes an image.
pub(crate) async fn stack(
    State(node): State<Arc<Node>>,
    Query(query): Query<StackQuery>,
    body: Body,
) -> Result<Response, Refusal> {
    // The registry has its own rule for the rest of the name.
    let valid = ["stacks/", "images/"].iter().any(|kind| query.repository.starts_with(kind))
        && query
            .repository
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._/".contains(&b))
        && query.repository.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        && query.tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !valid {
        let text = format!(
            "{:?} is no repository for a root file system: use stacks/ or images/ and a-z, 0-9, -",
            query.repository
        );
        return Err(Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, text));
    }
    match images::import_stack(&node.images, &query.repository, &query.tag, reader(body)).await {
        Ok(image) => Ok(Json(image).into_response()),
        Err(error) => Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::Failed, chain(&error))),
    }
}

/// `POST /v1/builds`: a line of JSON says what, the rest of the body is the source tree.
pub(crate) async fn build(State(node): State<Arc<Node>>, body: Body) -> Result<Response, Refusal> {
    let invalid = |text: String| Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, text);
    let mut source = BufReader::new(reader(body));
    let mut line = Vec::new();
    let read = (&mut source).take(MAX_REQUEST).read_until(b'\n', &mut line).await;
    read.map_err(|error| invalid(format!("the build's first line cannot be read: {error}")))?;
    let request: BuildRequest = serde_json::from_slice(&line)
        .map_err(|error| invalid(format!("the build's first line is not a build request: {error}")))?;
    let (events, receive) = mpsc::channel(64);
    tokio::spawn(async move {
        // A client that is gone closes `events`, which cancels the build.
        build::execute(&node.builds, request, source, events, CancellationToken::new()).await;
    });
    Ok(lines(receive))
}
