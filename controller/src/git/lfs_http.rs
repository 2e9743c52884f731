//! Git LFS over HTTP: `/<app>.git/info/lfs/…` (git-lfs, `docs/api/batch.md` and `basic-transfers.md`).
//!
//! In: requests whose caller is known already. Out: which objects to send or get where, and the objects. Locks are answered
//! with 404, which clients take as "there are none".

use super::lfs::{LfsError, MAX_BATCH, Objects};
use super::{Pushes, push, repository};
use crate::Platform;
use crate::api::Peer;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_model::api::ApiError;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

const JSON: &str = "application/vnd.git-lfs+json";

/// The routes of Git LFS over HTTP.
pub fn router(platform: Platform, pushes: Pushes) -> Router {
    Router::new()
        .route("/{repository}/info/lfs/objects/batch", post(batch))
        .route("/{repository}/info/lfs/objects/{oid}", get(download).put(upload))
        .with_state((platform, pushes))
}

type Shared = State<(Platform, Pushes)>;

/// A refusal as clients show it.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, [(header::CONTENT_TYPE, JSON)], json!({ "message": self.1 }).to_string()).into_response()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(crate::api::status_of(error.code), error.message)
    }
}

impl From<LfsError> for Refusal {
    fn from(error: LfsError) -> Self {
        let status = match &error {
            LfsError::Name(_) | LfsError::Mismatch(_) => StatusCode::UNPROCESSABLE_ENTITY,
            LfsError::TooBig(_) => StatusCode::PAYLOAD_TOO_LARGE,
            LfsError::Io { .. } => StatusCode::INSUFFICIENT_STORAGE,
        };
        Self(status, error.to_string())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Upload,
    Download,
}

#[derive(Debug, Deserialize)]
struct Batch {
    operation: Operation,
    objects: Vec<Wanted>,
    #[serde(default)]
    hash_algo: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Wanted {
    oid: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct Action {
    href: String,
    header: BTreeMap<&'static str, String>,
}

/// The repository of the app that a path such as `hello.git` names; made if something is sent to it.
async fn open(
    (platform, _): &(Platform, Pushes),
    path: &str,
    operation: Operation,
) -> Result<Objects, Refusal> {
    let app = repository::app_of(path)?;
    if operation == Operation::Download {
        platform.existing_app(&app).await.map_err(ApiError::from)?;
    }
    push::open(platform, &app).await?;
    Ok(Objects::of(&platform.options().repository_dir(&app)))
}

async fn batch(
    State(shared): Shared,
    Path(path): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let wrong = |text: String| Refusal(StatusCode::UNPROCESSABLE_ENTITY, text);
    let asked: Batch = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
    if asked.hash_algo.as_deref().is_some_and(|name| name != "sha256") {
        return Err(Refusal(StatusCode::CONFLICT, "only sha256 is spoken here".to_owned()));
    }
    if asked.objects.len() > MAX_BATCH {
        let text = format!("{} objects are too many at once: at most {MAX_BATCH}", asked.objects.len());
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let objects = open(&shared, &path, asked.operation).await?;
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).ok_or_else(|| wrong("the request has no Host".to_owned()))?;
    let scheme = if peer.encrypted { "https" } else { "http" };
    let credentials = text(header::AUTHORIZATION).map(str::to_owned);
    let mut answers = Vec::new();
    for Wanted { oid, size } in asked.objects {
        let found = objects.size(&oid)?;
        let href = format!("{scheme}://{host}/{path}/info/lfs/objects/{oid}");
        let header = credentials.iter().map(|value| ("Authorization", value.clone())).collect();
        let action = Action { href, header };
        answers.push(match (asked.operation, found) {
            (Operation::Upload, None) => {
                json!({ "oid": oid, "size": size, "authenticated": true, "actions": { "upload": action } })
            }
            (Operation::Upload, Some(_)) => json!({ "oid": oid, "size": size }),
            (Operation::Download, Some(found)) if found == size => {
                json!({ "oid": oid, "size": size, "authenticated": true, "actions": { "download": action } })
            }
            (Operation::Download, _) => {
                let error = json!({ "code": 404, "message": "there is no such object" });
                json!({ "oid": oid, "size": size, "error": error })
            }
        });
    }
    let answer = json!({ "transfer": "basic", "hash_algo": "sha256", "objects": answers });
    Ok(([(header::CONTENT_TYPE, JSON)], Json(answer).0.to_string()).into_response())
}

async fn upload(
    State(shared): Shared,
    Path((path, oid)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let objects = open(&shared, &path, Operation::Upload).await?;
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
    let size =
        length.ok_or_else(|| Refusal(StatusCode::LENGTH_REQUIRED, "the length is missing".to_owned()))?;
    let body = request.into_body().into_data_stream().map_err(io::Error::other);
    let work = move || objects.put(&oid, size, SyncIoBridge::new(Box::pin(StreamReader::new(body))));
    let broken = |error| crate::errors::internal("taking a large file broke off", &error);
    tokio::task::spawn_blocking(work).await.map_err(broken)??;
    Ok(StatusCode::OK)
}

async fn download(
    State(shared): Shared,
    Path((path, oid)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let objects = open(&shared, &path, Operation::Download).await?;
    let found = objects.open(&oid)?;
    let (file, size) =
        found.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "there is no such object".to_owned()))?;
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
    ];
    Ok((headers, body).into_response())
}
