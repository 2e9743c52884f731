//! Figures of an app over time, in columns as the charts want them.

use crate::Ui;
use crate::page::json;
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::extract::Query;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_model::AppName;
use berth_model::metrics::{AppMetrics, MetricPoint};
use serde::{Deserialize, Serialize};

/// Charts of an app: what its script calls them, words.
pub(crate) const KINDS: [(&str, &str); 6] = [
    ("requests", "Requests a second"),
    ("status", "Answers by status, a second"),
    ("latency", "Latency"),
    ("cpu", "CPU"),
    ("memory", "Memory"),
    ("network", "Network"),
];

pub(crate) fn router() -> Router<Ui> {
    Router::new().route("/ui/apps/{app}/metrics.json", get(metrics))
}

#[derive(Debug, Deserialize)]
struct Range {
    #[serde(default)]
    range: String,
}

/// One number a point; `None` where nothing was measured.
type Column = Vec<Option<f64>>;

#[derive(Debug, Default, Serialize, PartialEq)]
struct Columns {
    /// Seconds since the Unix epoch.
    at: Vec<i64>,
    requests: Column,
    success: Column,
    redirect: Column,
    client_error: Column,
    server_error: Column,
    p50: Column,
    p95: Column,
    p99: Column,
    cpu: Column,
    memory: Column,
    net_in: Column,
    net_out: Column,
}

async fn metrics(
    visitor: Visitor,
    Path(app): Path<AppName>,
    Query(Range { range }): Query<Range>,
    headers: HeaderMap,
) -> Response {
    match visitor.api.get::<AppMetrics>(&format!("/v1/apps/{app}/metrics")).await {
        Ok(found) => {
            let (points, seconds, count) =
                if range == "24h" { (&found.minutes, 60, 1440) } else { (&found.tens, 10, 360) };
            json(&headers, &columns(points, seconds, count, jiff::Timestamp::now().as_second()))
        }
        Err(error) => Trouble::from(error).into_response(),
    }
}

/// The last `count` spans of so many seconds until `now`, gaps included.
fn columns(points: &[MetricPoint], seconds: i64, count: i64, now: i64) -> Columns {
    let end = now - now.rem_euclid(seconds) - seconds; // the span that is not over would look like a drop
    let mut made = Columns::default();
    let mut points = points.iter().peekable();
    for index in 0..count {
        let at = end - (count - 1 - index) * seconds;
        while points.next_if(|point| point.at < at).is_some() {}
        let point = points.next_if(|point| point.at == at);
        #[expect(clippy::cast_precision_loss, reason = "charts have fewer pixels than a float has digits")]
        let number = |value: u64| value as f64;
        #[expect(clippy::cast_precision_loss, reason = "10 or 60")]
        let rate = |value: u64| value as f64 / seconds as f64;
        let is = |get: fn(&MetricPoint) -> u64| point.map(get);
        made.at.push(at);
        let flow = |get| Some(is(get).map_or(0.0, rate));
        made.requests.push(flow(|point| point.requests));
        made.success.push(flow(|point| point.success));
        made.redirect.push(flow(|point| point.redirect));
        made.client_error.push(flow(|point| point.client_error));
        made.server_error.push(flow(|point| point.server_error));
        let latency =
            |get: fn(&MetricPoint) -> Option<u64>| point.and_then(get).map(|micros| number(micros) / 1000.0);
        made.p50.push(latency(|point| point.p50_us));
        made.p95.push(latency(|point| point.p95_us));
        made.p99.push(latency(|point| point.p99_us));
        made.cpu.push(is(|point| point.cpu_millis).map(|millis| number(millis) / 1000.0));
        made.memory.push(is(|point| point.memory_bytes).map(number));
        made.net_in.push(is(|point| point.net_in).map(number));
        made.net_out.push(is(|point| point.net_out).map(number));
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_stay_gaps_and_nothing_asked_is_no_request() {
        let point =
            |at, requests, memory_bytes| MetricPoint { at, requests, memory_bytes, ..MetricPoint::default() };
        let made = columns(&[point(50, 9, 1), point(70, 20, 5), point(90, 30, 7)], 10, 3, 105);
        assert_eq!(made.at, [70, 80, 90]);
        assert_eq!(made.requests, [Some(2.0), Some(0.0), Some(3.0)]);
        assert_eq!(made.memory, [Some(5.0), None, Some(7.0)]);
        assert_eq!(made.p50, [None, None, None]);
    }
}
