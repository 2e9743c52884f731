//! Answers of the API: errors as [`ApiError`] with the status of their code, operations as lines of [`Progress`].

use crate::platform::{PlatformError, ProgressSender, say};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::api::{ApiError, ErrorCode, Progress};
use std::convert::Infallible;

/// Lines of progress that may wait for a slow reader.
const BACKLOG: usize = 64;
/// Media type of progress and logs.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// An error on its way to the caller.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: ApiError,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// An error whose status is not the usual one of its code.
    pub(crate) fn with_status(status: StatusCode, error: ApiError) -> Self {
        Self { status, error, headers: Vec::new() }
    }

    /// What it says.
    pub(crate) fn message(&self) -> &str {
        &self.error.message
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// How an operation ended that goes on after its answer began: `None` while it is under way, then why it failed if it did. An
/// extension of its response.
#[derive(Clone, Debug)]
pub(super) struct Ended(pub(super) tokio::sync::watch::Receiver<Option<Result<(), String>>>);

/// What a refusal says; an extension of its response.
#[derive(Clone, Debug)]
pub(super) struct Said(pub(super) String);

/// The HTTP status of a code.
#[must_use]
pub fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::AppNotFound | ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::Failed => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::with_status(status_of(error.code), error)
    }
}

impl From<PlatformError> for Refusal {
    fn from(error: PlatformError) -> Self {
        ApiError::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let said = Said(self.error.message.clone());
        let mut response = (self.status, Json(self.error)).into_response();
        response.extensions_mut().insert(said);
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// Runs `work` to its end, whether or not the caller stays, and answers its progress as it comes.
pub(super) fn progress<W, F>(work: W) -> Response
where
    W: FnOnce(ProgressSender) -> F,
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::mpsc::channel(BACKLOG);
    let running = work(sender.clone());
    let (over, ended) = tokio::sync::watch::channel(None);
    tokio::spawn(async move {
        // A panic in the work would otherwise look like a connection that broke.
        let last = match tokio::spawn(running).await {
            Ok(Ok(())) => Progress::Done,
            Ok(Err(error)) => Progress::Failed { error },
            Err(error) => {
                Progress::Failed { error: crate::errors::internal("the operation broke off", &error) }
            }
        };
        over.send_replace(Some(match &last {
            Progress::Failed { error } => Err(error.message.clone()),
            _ => Ok(()),
        }));
        say(&sender, last).await;
    });
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        let mut line = serde_json::to_vec(&event).expect("progress has no failing serializers");
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), receiver))
    });
    let mut response = ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response();
    response.extensions_mut().insert(Ended(ended));
    response
}

/// An operation that is done already, answered like the others.
pub(super) fn done() -> Response {
    progress(|_| std::future::ready(Ok(())))
}
