//! Streams of the API for a script of the page.
//!
//! In: a path of the API whose answer is one JSON value a line. Out: the same lines as they come, an empty one whenever
//! nothing came for a while (so that the page knows that it is connected), the end when the session or the server ends.

use crate::session::Visitor;
use crate::trouble::Trouble;
use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::api::SessionInfo;
use berth_wire::{Client, WireError};
use futures_util::stream::{BoxStream, unfold};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use std::io;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Between two looks whether the session still is one; the script counts on hearing something that often.
const BEAT: Duration = Duration::from_secs(10);

struct Passing {
    pieces: BoxStream<'static, io::Result<Bytes>>,
    beat: Interval,
    api: Client,
    /// What was passed on ends with a newline, so that an empty line fits in.
    whole: bool,
}

/// Answers with the lines of `path`. What the API refuses is refused here with the same status and its words as text.
pub(crate) async fn pass_on(visitor: Visitor, path: &str) -> Response {
    let answer = match visitor.api.call(Method::GET, path, None::<&()>).await {
        Ok(answer) => answer,
        Err(error) => return refused(&error.into()),
    };
    let pieces = answer.into_body().into_data_stream().map_err(io::Error::other).boxed();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.reset(); // the first one is due after a while, not at once
    let stop = visitor.stop().clone();
    let passing = Passing { pieces, beat, api: visitor.api, whole: true };
    let pieces = unfold(passing, |mut passing| async move { Some((passing.next().await?, passing)) });
    let body = Body::from_stream(pieces.take_until(stop.cancelled_owned()));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// A refusal for a script: it shows the words, and begins again with the sign-in page where there is no session.
fn refused(trouble: &Trouble) -> Response {
    (trouble.status(), trouble.message().to_owned()).into_response()
}

impl Passing {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            tokio::select! { // both arms are cancel-safe
                piece = self.pieces.next() => {
                    if let Some(Ok(bytes)) = &piece {
                        self.whole = bytes.last().map_or(self.whole, |last| *last == b'\n');
                    }
                    return piece;
                }
                _ = self.beat.tick() => {
                    let session = self.api.get::<SessionInfo>("/v1/sessions/current").await;
                    if matches!(session, Err(WireError::Refused { status: StatusCode::UNAUTHORIZED, .. })) {
                        return None;
                    }
                    if self.whole {
                        return Some(Ok(Bytes::from_static(b"\n")));
                    }
                }
            }
        }
    }
}
