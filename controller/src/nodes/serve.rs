//! The internal API of nodes and proxies: long polls for orders, posts of what is.

use super::Fleet;
use crate::Platform;
use crate::errors::invalid;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, extract::DefaultBodyLimit};
use berth_model::api::ApiError;
use berth_model::node::Observed;
use berth_model::route::{ProxyStatus, TRAFFIC_PATH};
use berth_model::tls::CertificateWanted;
use berth_model::traffic::TrafficReport;
use berth_model::{AppName, NodeName};
use serde::Deserialize;
use std::time::Duration;

/// How long a poll waits for news. Shorter than the 30 s after which idle connections tend to be cut.
const POLL: Duration = Duration::from_secs(25);
/// A report of 10,000 containers is about 4 MiB.
const LARGEST_REPORT: usize = 64 << 20;

#[derive(Debug, Deserialize)]
struct After {
    after: Option<u64>,
}

/// `/node/v1` and `/proxy/v1`.
pub fn router(platform: Platform) -> Router {
    Router::new()
        .route("/node/v1/{node}/assignment", get(assignment))
        .route("/node/v1/{node}/observed", post(observed))
        .route("/proxy/v1/routes", get(routes))
        .route("/proxy/v1/certificates", get(certificates))
        .route("/proxy/v1/certificate-wanted", post(certificate_wanted))
        .route("/proxy/v1/status", post(status))
        .route("/proxy/v1/wake/{app}", post(wake))
        .route(TRAFFIC_PATH, post(traffic))
        .layer(DefaultBodyLimit::max(LARGEST_REPORT))
        .with_state(platform)
}

/// Waits until `look` gives something, at most [`POLL`].
async fn poll<T>(fleet: &Fleet, look: impl Fn() -> Option<T>) -> Option<T> {
    let mut changes = fleet.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if let Some(found) = look() {
                return Some(found);
            }
            changes.changed().await.ok()?;
        }
    };
    tokio::time::timeout(POLL, wait).await.ok().flatten()
}

async fn assignment(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    Query(After { after }): Query<After>,
) -> Response {
    if let Err(error) = platform.deploys().check_loaded() {
        return refusal(error);
    }
    let news = || {
        let generation = platform.deploys().fleet().generation(&node);
        after.is_none_or(|after| generation > after).then(|| platform.deploys().assignment(&node))
    };
    match poll(platform.deploys().fleet(), news).await {
        Some(mut assignment) => {
            // Read after the orders: an app that is in them is in here.
            let apps = platform.apps().await.ok();
            assignment.apps = apps.map(|apps| apps.into_iter().map(|app| app.name).collect());
            Json(assignment).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn refusal(error: ApiError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response()
}

async fn observed(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    Json(report): Json<Observed>,
) -> Response {
    if report.node != node {
        let error = invalid(format!("a report of {} came under the name of {node}", report.node));
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    platform.deploys().fleet().observe(report, crate::platform::now_ms());
    StatusCode::NO_CONTENT.into_response()
}

async fn routes(State(platform): State<Platform>, Query(After { after }): Query<After>) -> Response {
    let news = || platform.deploys().fleet().routes().filter(|table| Some(table.revision) != after);
    match poll(platform.deploys().fleet(), news).await {
        Some(table) => Json(&*table).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn wake(State(platform): State<Platform>, Path(app): Path<AppName>) -> StatusCode {
    crate::deploy::wake(&platform, &app);
    StatusCode::ACCEPTED
}

async fn certificates(State(platform): State<Platform>, Query(After { after }): Query<After>) -> Response {
    let news = || platform.deploys().fleet().certificates().filter(|table| Some(table.revision) != after);
    match poll(platform.deploys().fleet(), news).await {
        Some(table) => Json(&*table).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// A client asked for a name that there is no certificate for. Answers at once: 202 it is looked into, 404 it is not one
/// that certificates are got for, 429 too many ask.
async fn certificate_wanted(
    State(platform): State<Platform>,
    Json(CertificateWanted { name }): Json<CertificateWanted>,
) -> StatusCode {
    crate::certs::wanted(&platform, &name).await
}

async fn status(State(platform): State<Platform>, Json(report): Json<ProxyStatus>) -> StatusCode {
    platform.deploys().fleet().proxy_reports(report);
    StatusCode::NO_CONTENT
}

async fn traffic(State(platform): State<Platform>, Json(report): Json<TrafficReport>) -> StatusCode {
    platform.traffic().take(&report, crate::platform::now_ms() / 1000);
    StatusCode::NO_CONTENT
}
