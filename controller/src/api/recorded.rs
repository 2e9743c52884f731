//! Recording: every change a caller makes through the API becomes an event.
//!
//! In: a request that was let in, and its answer. Out: an event with who, from where, what and how it went. An operation that
//! goes on after its answer began is recorded when it is over, whether or not the caller stayed.

use super::answer::{Ended, Said};
use super::caller::{Caller, Origin};
use super::sentence::{Call, sentence};
use crate::events::{Begun, Event};
use crate::platform::{Platform, now_ms};
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;

/// Bodies that are looked into for the sentence; longer ones are not.
const LOOKED_INTO: u64 = 1 << 20;

/// Lets the request through and keeps what came of it.
pub(super) async fn record(State(platform): State<Platform>, request: Request, next: Next) -> Response {
    let (Some(path), Some(Caller(by))) =
        (request.extensions().get::<MatchedPath>().cloned(), request.extensions().get::<Caller>().cloned())
    else {
        return next.run(request).await;
    };
    let method = request.method().clone();
    if !changes(&method, path.as_str()) {
        return next.run(request).await;
    }
    let from = request.extensions().get::<Origin>().map(|origin| origin.0.clone()).unwrap_or_default();
    let uri = request.uri().clone();
    let (request, body) = peek(request).await;
    let body = body.and_then(|body| serde_json::from_slice(&body).ok());
    let call = Call { method: &method, matched: path.as_str(), path: uri.path(), body };
    let (kind, app, text) = sentence(&call);
    let begun = platform.events().begin(Event { at_ms: now_ms(), app, by, from, kind, text }).await;
    let mut response = next.run(request).await;
    conclude(begun, &mut response);
    response
}

/// Whether a call can change anything. Looking does not; a command in a container may.
fn changes(method: &Method, path: &str) -> bool {
    match *method {
        Method::GET => matches!(path, "/v1/apps/{app}/run" | "/v1/apps/{app}/enter"),
        Method::HEAD | Method::OPTIONS => false,
        _ => true,
    }
}

fn conclude(begun: Begun, response: &mut Response) {
    if let Some(Ended(mut ended)) = response.extensions_mut().remove::<Ended>() {
        tokio::spawn(async move {
            let result = ended.wait_for(Option::is_some).await.map(|result| result.clone());
            begun.end(match result {
                Ok(Some(Err(reason))) => Err(reason),
                Ok(_) => Ok(()),
                Err(_) => Err("it broke off".to_owned()),
            });
        });
        return;
    }
    let status = response.status();
    match status {
        StatusCode::SWITCHING_PROTOCOLS => begun.end(Ok(())),
        _ if status.is_success() => begun.end(Ok(())),
        // What was not understood was not tried, and may hold anything.
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UPGRADE_REQUIRED => begun.forget(),
        _ => {
            let said = response.extensions().get::<Said>().map(|said| said.0.clone());
            begun.end(Err(said.unwrap_or_else(|| status.to_string())));
        }
    }
}

/// Short JSON bodies, which are then whole in memory; others are left as they are.
async fn peek(request: Request) -> (Request, Option<Bytes>) {
    let short =
        hyper::body::Body::size_hint(request.body()).exact().is_some_and(|length| length <= LOOKED_INTO);
    if !short || !is_json(request.headers()) {
        return (request, None);
    }
    let (parts, body) = request.into_parts();
    match body.collect().await {
        Ok(whole) => {
            let bytes = whole.to_bytes();
            (Request::from_parts(parts, Body::from(bytes.clone())), Some(bytes))
        }
        // The handler says so again, in its own words.
        Err(error) => {
            let broken = futures_util::stream::once(async { Err::<Bytes, _>(error) });
            (Request::from_parts(parts, Body::from_stream(broken)), None)
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}
