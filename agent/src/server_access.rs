//! `/v1/access-log`: the lines of this machine's proxy.
//!
//! In: whose, how many, whether to go on. Out: text, a line each; empty lines when there is no news for long, so that a
//! reader that went away is noticed.

use crate::access_log::{Reader, Wanted};
use crate::node::Node;
use crate::server::Refusal;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::AppName;
use berth_model::api::ErrorCode;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Lines that may be asked for.
const MAX_LINES: usize = 10_000;
/// How often a log that is followed is looked at: the proxy writes what it gathered once a second.
const LOOK: Duration = Duration::from_millis(500);
/// Looks without news until an empty line is sent.
const SIGN_OF_LIFE: u32 = 40;

#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    app: Option<AppName>,
    lines: usize,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    errors: bool,
}

pub(crate) async fn log(
    State(node): State<Arc<Node>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(asked) =
        query.map_err(|error| Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, error.body_text()))?;
    let path = node.paths.data.join("proxy/access.log");
    let wanted = Wanted { app: asked.app.map(|app| app.to_string()), errors: asked.errors };
    let count = asked.lines.min(MAX_LINES);
    let reading = tokio::task::spawn_blocking(move || Reader::open(&path, wanted, count)).await;
    let (reader, lines) = reading.map_err(std::io::Error::other).flatten().map_err(|error| {
        let text = format!("cannot read the access log of this machine: {error}");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, text)
    })?;
    let mut first = lines.join(&b'\n');
    if !first.is_empty() {
        first.push(b'\n');
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    if !asked.follow {
        return Ok((kind, first).into_response());
    }
    let news = futures_util::stream::unfold((Some(first), reader), |(first, reader)| async move {
        if let Some(first) = first {
            return Some((Ok(Bytes::from(first)), (None, reader)));
        }
        let (text, reader) = next(reader).await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), (None, reader)))
    });
    Ok((kind, Body::from_stream(news)).into_response())
}

/// Waits for news; `None` when the log cannot be read any more.
async fn next(mut reader: Reader) -> Option<(Vec<u8>, Reader)> {
    for _ in 0..SIGN_OF_LIFE {
        let looked = tokio::task::spawn_blocking(move || {
            let news = reader.news();
            (news, reader)
        });
        let (news, same) = looked.await.ok()?;
        reader = same;
        match news {
            Ok(news) if news.is_empty() => tokio::time::sleep(LOOK).await,
            Ok(news) => return Some((news, reader)),
            Err(error) => {
                tracing::error!(%error, "cannot read the access log for its reader");
                return None;
            }
        }
    }
    Some((b"\n".to_vec(), reader))
}
