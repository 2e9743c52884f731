//! Open pages stay as they are now: the page is rendered again every two seconds, and sent when it differs.
//!
//! Events (HTML standard, "Server-sent events"): `main` with the new contents of the page, `beat` when nothing changed (so that
//! the page knows that it is not stale), `trouble` with words, `signed-out`, `again` when the server ends.

use crate::trouble::Trouble;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use maud::Markup;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// A look that takes longer is as good as a failed one.
const PATIENCE: Duration = Duration::from_secs(20);

struct State<F> {
    view: F,
    ticks: Interval,
    last: Option<String>,
    over: bool,
}

/// A stream of what `view` gives, until `stop` or until the browser leaves.
pub(crate) fn stream<F, Fut>(view: F, stop: CancellationToken) -> Response
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Markup, Trouble>> + Send,
{
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = State { view, ticks, last: None, over: false };
    let events = futures_util::stream::unfold(state, |mut state| async move {
        if state.over {
            return None;
        }
        state.ticks.tick().await;
        let looked = tokio::time::timeout(PATIENCE, (state.view)()).await;
        let event = match looked {
            Ok(Ok(markup)) => {
                let text = markup.into_string();
                if state.last.as_ref() == Some(&text) {
                    Event::default().event("beat").data("-")
                } else {
                    let event = Event::default().event("main").data(&text);
                    state.last = Some(text);
                    event
                }
            }
            Ok(Err(Trouble::SignedOut)) => {
                state.over = true;
                Event::default().event("signed-out").data("-")
            }
            Ok(Err(trouble)) => Event::default().event("trouble").data(trouble.message()),
            Err(_) => Event::default().event("trouble").data("the platform takes more than 20 s to answer"),
        };
        Some((Ok::<_, Infallible>(event), state))
    });
    let again = futures_util::stream::once(async { Ok(Event::default().event("again").data("-")) });
    let events = events.take_until(stop.cancelled_owned()).chain(again);
    Sse::new(events).into_response()
}
