//! What goes on line by line: logs, and what builds say.

use crate::apps::build;
use crate::cluster::{BARE, number_of};
use crate::text::{ARABIC, LONG_WORD, lines, now_ms, typed};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Response};
use berth_model::AppName;
use berth_model::api::{ApiError, ErrorCode, Progress};
use berth_model::container::LogLine;
use futures_util::StreamExt;
use futures_util::stream::{iter, pending, unfold};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

/// Between two lines of a log that is followed.
const NEXT_LINE: Duration = Duration::from_millis(250);

fn stream_of<T: Serialize>(said: impl Iterator<Item = T> + Send + 'static) -> Response {
    let text = said.map(|one| serde_json::to_string(&one).unwrap_or_default() + "\n");
    Body::from_stream(iter(text.map(|line| Ok::<_, Infallible>(Bytes::from(line))))).into_response()
}

pub(crate) async fn build_log(Path((name, id)): Path<(AppName, String)>) -> Response {
    let failed = build(number_of(name.as_str()), number_of(&id)).reason.is_some();
    let line = |number: usize| match number % 40 {
        0 => Progress::Step { text: format!("Step {} of the build", number / 40) },
        17 => Progress::Warning { text: format!("{ARABIC} {LONG_WORD}") },
        _ => Progress::Detail {
            text: format!("Collecting package-{number}==1.2.3 (from -r requirements.txt (line {number}))"),
        },
    };
    let end = match failed {
        true => Progress::Failed { error: ApiError { code: ErrorCode::Failed, message: lines(40) } },
        false => Progress::Done,
    };
    stream_of((0..3000).map(line).chain([end]))
}

fn line(name: &AppName, number: usize) -> LogLine {
    let text = match number % 25 {
        3 => format!("\u{1b}[31mERROR\u{1b}[0m could not reach {LONG_WORD}: connection refused"),
        9 => format!("{ARABIC} GET /shop/{number}"),
        14 => "{\"level\":\"info\",\"message\":\"a line of JSON\",\"duration_ms\":12.5,\"path\":\"/api/v1/orders\",\"status\":200}".to_owned(),
        _ => format!("10.0.0.{} - - \"GET /products/{number} HTTP/1.1\" 200 {}", number % 250, number * 37 % 9000),
    };
    let process = if number.is_multiple_of(5) { "worker" } else { "web" };
    typed(json!({
        "at_us": now_ms() * 1000, "app": name, "process": process, "ordinal": number % 4 + 1, "container": format!("{name}.{process}.{}.abc", number % 4 + 1),
        "stream": if number % 25 == 3 { "stderr" } else { "stdout" }, "text": text,
    }))
}

pub(crate) fn log_of(name: &AppName, count: usize, follow: bool) -> Response {
    let (early, name) = (name.clone(), name.clone());
    let kept = iter((0..count).map(move |number| line(&early, number)));
    let ticks = tokio::time::interval(NEXT_LINE);
    let live = unfold((count, ticks), move |(number, mut ticks)| {
        let line = line(&name, number);
        async move {
            ticks.tick().await;
            Some((line, (number + 1, ticks)))
        }
    });
    let lines = kept.chain(live.take(if follow { usize::MAX } else { 0 }));
    let bytes = lines.map(|line| {
        Ok::<_, Infallible>(Bytes::from(serde_json::to_string(&line).unwrap_or_default() + "\n"))
    });
    Body::from_stream(bytes).into_response()
}

pub(crate) async fn logs(
    Path(name): Path<AppName>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Response {
    let count = asked.get("lines").and_then(|lines| lines.parse().ok()).unwrap_or(100);
    let follow = asked.get("follow").is_some_and(|follow| follow == "true");
    match (number_of(name.as_str()), follow) {
        (BARE, true) => Body::from_stream(pending::<Result<Bytes, Infallible>>()).into_response(),
        (BARE, false) => ().into_response(),
        _ => log_of(&name, count, follow),
    }
}
