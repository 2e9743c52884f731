//! The API's calls whose body is a stream: stacks, base images and builds.
//!
//! In: tar streams. Out: what the image store and the builder say. A connection that is closed cancels the work.

use crate::build;
use crate::images;
use crate::images::upstream::{self, FetchError};
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
use berth_model::registry::PullRequest;
use berth_model::{ImageName, RegistryLogin};
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

/// `POST /v1/images/pull`: brings an image into Berth's own registry. Answers with its place there.
pub(crate) async fn pull(
    State(node): State<Arc<Node>>,
    Json(request): Json<PullRequest>,
) -> Result<Response, Refusal> {
    let PullRequest { name, registries } = request;
    let name =
        ImageName::parse(&name).map_err(|text| Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, text))?;
    let scratch = node.builds.scratch().map_err(|error| failed(chain(&error)))?;
    match upstream::pull(&node.images, &name, &registries, &scratch.0).await {
        Ok(image) => Ok(Json(image).into_response()),
        Err(FetchError::Own(error)) => Err(failed(chain(&error))),
        Err(error @ FetchError::Unreachable(_)) => Err(Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            upstream::refusal(&name, &error, &registries),
        )),
        Err(error) => Err(failed(upstream::refusal(&name, &error, &registries))),
    }
}

/// `POST /v1/registries/check`: whether a registry knows a login.
pub(crate) async fn check_login(Json(login): Json<RegistryLogin>) -> Result<Response, Refusal> {
    let Err(error) = upstream::check(&login).await else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let server = &login.server;
    Err(failed(match error {
        FetchError::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => format!(
            "{server} does not know this user with this password ({error}). Many registries want an access token in place \
             of the password"
        ),
        FetchError::Refused { status: StatusCode::NOT_FOUND, .. } => {
            format!("{server} is no registry: it has no /v2/ ({error})")
        }
        error => format!("{server} cannot be asked: {error}"),
    }))
}

fn failed(text: String) -> Refusal {
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::Failed, text)
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

#[derive(Debug, Deserialize)]
pub(crate) struct SbomQuery {
    repository: String,
    digest: berth_model::Digest,
}

/// `GET /v1/sbom`: what is in an image.
pub(crate) async fn sbom(
    State(node): State<Arc<Node>>,
    Query(SbomQuery { repository, digest }): Query<SbomQuery>,
) -> Result<Response, Refusal> {
    match crate::sbom::of(&node.images, &berth_model::image::ImageRef { repository, digest }).await {
        Ok(sbom) => Ok(Json(sbom).into_response()),
        Err(error) => Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::Failed, chain(&error))),
    }
}
