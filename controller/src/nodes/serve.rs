//! The internal API of nodes and proxies: long polls for orders, posts of what is.

use super::Fleet;
use crate::Platform;
use crate::cluster::Peer;
use crate::deploy::Planned;
use crate::errors::invalid;
use crate::events::Event;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, extract::DefaultBodyLimit};
use berth_model::api::ApiError;
use berth_model::image::Process;
use berth_model::metrics::Samples;
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
        .route("/node/v1/{node}/network", get(network))
        .route("/node/v1/{node}/observed", post(observed))
        .route("/node/v1/{node}/samples", post(samples))
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
        if platform.kept().holds_all(&node) {
            return None;
        }
        let generation = platform.deploys().fleet().generation(&node);
        after.is_none_or(|after| generation > after).then(|| {
            let mut assignment = platform.deploys().assignment(&node);
            assignment.containers.extend(platform.runs().assigned(&node));
            assignment.containers.retain(|_, spec| platform.kept().holds(&node, spec).is_none());
            assignment
        })
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

/// Whether a report of a proxy comes from the node that it is on; its elder during an upgrade is called `node~…`,
/// its counters `node/…`. Nothing is asked of
/// whoever may open this machine's own socket.
fn is_of(peer: Option<&Extension<Peer>>, proxy: &str) -> bool {
    peer.is_none_or(|Extension(peer)| {
        let of = proxy.split_once(['~', '/']).map_or(proxy, |(node, _)| node);
        peer.node().is_some_and(|node| node.as_str() == of)
    })
}

fn not_its_own(proxy: &str) -> Response {
    let shown: String = proxy.chars().filter(|c| !c.is_control()).take(80).collect();
    let error = crate::errors::forbidden(format!("a report of the proxy {shown} came from another node"));
    (StatusCode::FORBIDDEN, Json(error)).into_response()
}

async fn observed(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    peer: Option<Extension<Peer>>,
    Json(mut report): Json<Observed>,
) -> Response {
    if report.node != node {
        let error = invalid(format!("a report of {} came under the name of {node}", report.node));
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    let subnet = report.network.as_ref().map(|network| network.subnet.as_str());
    if peer.is_none()
        && let Err(error) = platform.note_local(&node, subnet).await
    {
        return refusal(error.into());
    }
    if peer.is_some() {
        keep_its_own(&platform, &mut report);
    }
    platform.deploys().fleet().observe(report, crate::platform::now_ms());
    StatusCode::NO_CONTENT.into_response()
}

/// Leaves out containers that another node is to have: no node speaks for what is not its own, be it stolen.
fn keep_its_own(platform: &Platform, report: &mut Observed) {
    let claims = platform.deploys().fleet().claims(report);
    if claims.is_empty() {
        return;
    }
    let plans = platform.deploys().plans();
    for id in claims {
        let planned = plans.iter().find_map(|(_, plan)| plan.containers.get(&id));
        // Files of static sites are on every node, and each speaks for its own copy.
        let alien = |planned: &&Planned| {
            planned.node != report.node && !matches!(planned.spec.run, Process::Static(_))
        };
        if let Some(planned) = planned.filter(alien) {
            tracing::warn!(node = %report.node, container = %id, of = %planned.node, "a node claims a container of another");
            report.containers.remove(&id);
        }
    }
}

/// What containers use. The answer is what the node is to know of logs, whole.
async fn samples(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    Json(report): Json<Samples>,
) -> Response {
    if report.node != node {
        let error = invalid(format!("samples of {} came under the name of {node}", report.node));
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    for app in platform.metrics().take(report, crate::platform::now_ms()) {
        let text = "a container was killed for want of memory".to_owned();
        platform.events().record(Event::by_itself(Some(&app), "app.out-of-memory", text));
    }
    match platform.node_logs().await {
        Ok(settings) => Json(settings).into_response(),
        Err(error) => refusal(error.into()),
    }
}

/// What a node is to know of the others and of networks. Apart from its orders: it changes with every container of an app on
/// a network, and restarts nothing.
async fn network(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    Query(After { after }): Query<After>,
) -> Response {
    let fleet = platform.deploys().fleet();
    let news = || fleet.network(&node).filter(|table| Some(table.revision) != after);
    match poll(fleet, news).await {
        Some(table) => Json(&*table).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
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

async fn status(
    State(platform): State<Platform>,
    peer: Option<Extension<Peer>>,
    Json(report): Json<ProxyStatus>,
) -> Response {
    if !is_of(peer.as_ref(), &report.proxy) {
        return not_its_own(&report.proxy);
    }
    platform.deploys().fleet().proxy_reports(report);
    StatusCode::NO_CONTENT.into_response()
}

async fn traffic(
    State(platform): State<Platform>,
    peer: Option<Extension<Peer>>,
    Json(report): Json<TrafficReport>,
) -> Response {
    if !is_of(peer.as_ref(), &report.proxy) {
        return not_its_own(&report.proxy);
    }
    platform.metrics().count(&report);
    platform.traffic().take(&report, crate::platform::now_ms() / 1000);
    StatusCode::NO_CONTENT.into_response()
}
