//! What handlers take: JSON bodies, path parts and queries, each parsed once into model types. Whatever is wrong is said as
//! an [`ApiError`](berth_model::api::ApiError).

use super::answer::Refusal;
use crate::errors::invalid;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use berth_model::api::{ApiError, ErrorCode};
use serde::de::DeserializeOwned;

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct OptionalJson<T>(pub(super) T);

/// Parts of the path.
pub(super) struct Path<T>(pub(super) T);

/// The query.
pub(super) struct Query<T>(pub(super) T);

async fn bytes_of<S: Send + Sync>(request: Request, state: &S) -> Result<axum::body::Bytes, Refusal> {
    axum::body::Bytes::from_request(request, state).await.map_err(|rejection| {
        let text = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is longer than 4 MiB".to_owned(),
            _ => format!("the body broke off: {}", rejection.body_text()),
        };
        Refusal::with_status(rejection.status(), invalid(text))
    })
}

fn is_json(parts: &axum::http::HeaderMap) -> bool {
    let kind = parts.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let parsed = serde_json::from_slice(bytes);
    parsed.map_err(|error| invalid(format!("the body is not what is expected here: {error}")).into())
}

fn not_json() -> Refusal {
    let error = invalid("send the body as JSON, with the header Content-Type: application/json");
    Refusal::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            return Err(not_json());
        }
        parse(&bytes_of(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let json = is_json(request.headers());
        let bytes = bytes_of(request, state).await?;
        match (bytes.is_empty(), json) {
            (true, _) => Ok(Self(T::default())),
            (false, true) => parse(&bytes).map(Self),
            (false, false) => Err(not_json()),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        use axum::extract::path::{ErrorKind, FailedToDeserializePathParams};
        let parsed = axum::extract::Path::from_request_parts(parts, state).await;
        parsed.map(|axum::extract::Path(value)| Self(value)).map_err(|rejection| {
            let text = match rejection {
                axum::extract::rejection::PathRejection::FailedToDeserializePathParams(error) => {
                    kind_text(error)
                }
                other => other.body_text(),
            };
            return invalid(text).into();

            fn kind_text(error: FailedToDeserializePathParams) -> String {
                match error.into_kind() {
                    ErrorKind::Message(text) => text,
                    // What a name type says of itself comes with its place, which is of no use in a path.
                    ErrorKind::DeserializeError { message, .. } => message,
                    other => other.to_string(),
                }
            }
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let parsed = axum::extract::Query::from_request_parts(parts, state).await;
        let parsed = parsed.map(|axum::extract::Query(value)| Self(value));
        parsed.map_err(|rejection| {
            invalid(format!("the query is not what is expected here: {}", rejection.body_text())).into()
        })
    }
}

/// 404 for paths there are none of.
pub(super) async fn no_such_path(uri: axum::http::Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("there is no {path:?} in this API; see /openapi.json");
    ApiError { code: ErrorCode::NotFound, message }.into()
}

/// 405 for paths that are there, but not for this method.
pub(super) async fn no_such_method(method: axum::http::Method, uri: axum::http::Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    let error = invalid(format!("{method} is not possible on {path:?}; see /openapi.json"));
    Refusal::with_status(StatusCode::METHOD_NOT_ALLOWED, error)
}
