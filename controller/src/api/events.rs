//! Events: who changed what.

use super::answer::{NDJSON, Refusal};
use super::extract::Query;
use crate::errors::{internal, invalid};
use crate::events::Wanted;
use crate::platform::Platform;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use berth_model::AppName;
use berth_model::events::{EventInfo, EventResult};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Events that may be asked for at once.
const MOST: u32 = 10_000;
/// Events that a follower gets at once.
const BATCH: u32 = 500;
/// A follower without news gets an empty line, so that one that went away is noticed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventQuery {
    /// Only this app's, also one that is gone.
    #[param(value_type = Option<String>)]
    app: Option<AppName>,
    /// Only of this kind, such as `config.set`, or of a family of kinds, such as `config`.
    kind: Option<String>,
    /// Only of this person: the name of a token or an SSH key, `local`, `berth`.
    by: Option<String>,
    /// Only what ended so.
    result: Option<EventResult>,
    /// Only from then on; milliseconds since the Unix epoch.
    since: Option<i64>,
    /// Only until then; milliseconds since the Unix epoch.
    until: Option<i64>,
    /// Only those after the one with this number.
    after: Option<u64>,
    /// Only those before the one with this number.
    before: Option<u64>,
    /// How many back: 100 unless said, 10000 at most.
    lines: Option<u32>,
    /// Go on with new ones until the caller goes away; then empty lines come when there is no news.
    #[serde(default)]
    follow: bool,
}

/// What was changed, by whom and from where: the newest, oldest first, one JSON object a line. 100000 events of the last 400
/// days are kept.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventQuery),
    responses((status = 200, body = EventInfo, content_type = "application/x-ndjson")))]
async fn list(
    State(platform): State<Platform>,
    Query(query): Query<EventQuery>,
) -> Result<Response, Refusal> {
    let count = query.lines.unwrap_or(100);
    if count > MOST {
        return Err(invalid(format!("lines={count} is too many: at most {MOST}")).into());
    }
    let wanted = Wanted {
        app: query.app,
        kind: query.kind,
        since_ms: query.since,
        until_ms: query.until,
        after: query.after.unwrap_or(0),
        before: query.before,
        by: query.by,
        result: query.result,
    };
    // Seen before the list is made: what comes meanwhile wakes the follower.
    let mut newest = platform.events().newest();
    let seen = *newest.borrow_and_update();
    let found = platform.events().list(wanted.clone(), count).await;
    let found = found.map_err(|error| internal("looking at events", &error))?;
    let kind = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-store")];
    let first = lines(&found);
    if !query.follow {
        return Ok((kind, first).into_response());
    }
    let after = found.last().map_or(seen, |last| last.seq.max(seen)).max(wanted.after);
    let state = (Some(first), platform, Wanted { after, ..wanted }, newest);
    let stream =
        futures_util::stream::unfold(state, |(first, platform, mut wanted, mut newest)| async move {
            if let Some(first) = first {
                return Some((Ok::<_, Infallible>(Bytes::from(first)), (None, platform, wanted, newest)));
            }
            loop {
                match tokio::time::timeout(SIGN_OF_LIFE, newest.changed()).await {
                    Err(_) => return Some((Ok(Bytes::from_static(b"\n")), (None, platform, wanted, newest))),
                    Ok(Err(_)) => return None,
                    Ok(Ok(())) => {}
                }
                let news = platform.events().first(wanted.clone(), BATCH).await.ok()?;
                let Some(last) = news.last() else { continue };
                wanted.after = last.seq;
                if news.len() == BATCH as usize {
                    newest.mark_changed();
                }
                return Some((Ok(Bytes::from(lines(&news))), (None, platform, wanted, newest)));
            }
        });
    Ok((kind, Body::from_stream(stream)).into_response())
}

fn lines(events: &[EventInfo]) -> Vec<u8> {
    let mut text = Vec::new();
    for event in events {
        serde_json::to_writer(&mut text, event).expect("events have no failing serializers");
        text.push(b'\n');
    }
    text
}
