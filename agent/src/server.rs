//! The agent's API on `DIR/run/agent.sock`: who may open the socket may do everything.
//!
//! In: HTTP/1.1 requests of the controller. Out: JSON, NDJSON, and terminal streams after an upgrade.

use crate::logs_api::{self, Query};
use crate::node::Node;
use crate::terminal;
use axum::body::{Body, Bytes};
use axum::extract::{Query as UrlQuery, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_model::api::{ApiError, ErrorCode};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Serves until `stop` fires.
pub(crate) async fn serve(
    node: Arc<Node>,
    listener: UnixListener,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = router(node);
    let stopping = stop.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned());
    // Streams may last for ever; whoever reads them is told by the end of the connection.
    tokio::select! {
        served = server => served,
        () = async { stop.cancelled().await; tokio::time::sleep(std::time::Duration::from_millis(500)).await } => Ok(()),
    }
}

/// Every call, for the socket and for connections of controllers.
pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/v1/observed", get(observed))
        .route("/v1/logs", get(logs))
        .route("/v1/access-log", get(crate::server_access::log))
        .route("/v1/checks", post(checks))
        .route("/v1/run", get(run))
        .route("/v1/exec", get(exec))
        .route("/v1/doctor", get(doctor))
        .route("/v1/certificate/renew", post(renew))
        .route("/v1/volumes", get(crate::server_volumes::names))
        .route("/v1/volumes/{name}", get(crate::server_volumes::read).put(crate::server_volumes::make))
        .route("/v1/end", post(crate::once::end))
        .route("/v1/logs/forget", post(crate::once::forget_log))
        .route("/v1/builds", post(crate::server_builds::build))
        .route("/v1/sbom", get(crate::server_builds::sbom))
        .route("/v1/stacks", post(crate::server_builds::stack))
        .route("/v1/images/pull", post(crate::server_builds::pull))
        .route("/v1/registries/check", post(crate::server_builds::check_login))
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, ErrorCode::NotFound, "no such call".into()) })
        .with_state(node)
}

/// An error as every API of Berth gives it.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) ErrorCode, pub(crate) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(ApiError { code: self.1, message: self.2 })).into_response()
    }
}

async fn observed(State(node): State<Arc<Node>>) -> Response {
    Json(node.observed()).into_response()
}

/// An answer of one JSON value a line, as they come.
pub(crate) fn lines<T: Serialize + Send + 'static>(values: mpsc::Receiver<T>) -> Response {
    let body = stream::unfold(values, |mut values| async move {
        let value = values.recv().await?;
        let mut line = serde_json::to_vec(&value).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), values))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

async fn doctor(State(node): State<Arc<Node>>) -> Response {
    let (data, link, network) = (&node.paths.data, node.link.as_ref(), node.network.report());
    Json(crate::cluster::doctor::examine(data, link, Some(network)).await).into_response()
}

async fn renew(State(node): State<Arc<Node>>) -> Result<StatusCode, Refusal> {
    let none = "this machine never joined: it has no certificate";
    let refused = |text: String| Refusal(StatusCode::CONFLICT, ErrorCode::Conflict, text);
    let link = node.link.as_ref().ok_or_else(|| refused(none.to_owned()))?;
    let failed = |error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed, format!("{error:#}"));
    crate::cluster::renew_now(link).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(serde::Deserialize)]
struct Which {
    container: berth_model::ContainerId,
}

async fn checks(
    State(node): State<Arc<Node>>,
    query: Result<UrlQuery<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let UrlQuery(Which { container }) =
        query.map_err(|error| Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, error.body_text()))?;
    let gone = || {
        let text = format!("{container} does not run any more; try again");
        Refusal(StatusCode::CONFLICT, ErrorCode::Conflict, text)
    };
    let results = crate::life::check_once(&node, &container).await.ok_or_else(gone)?;
    Ok(Json(results).into_response())
}

async fn logs(
    State(node): State<Arc<Node>>,
    query: Result<UrlQuery<Query>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let UrlQuery(query) =
        query.map_err(|error| Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, error.body_text()))?;
    let filter = query.filter().map_err(|text| Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, text))?;
    let (send, receive) = mpsc::channel(256);
    tokio::spawn(async move {
        if let Err(error) = logs_api::stream(node, query, filter, send).await {
            tracing::warn!(%error, "cannot read a log");
        }
    });
    Ok(lines(receive))
}

/// Answers 101 and gives the raw connection to `work`.
fn upgrade<F>(
    request: Request<Body>,
    work: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let wanted = |headers: &HeaderMap| {
        headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes() == b"berth-stream")
    };
    if !wanted(request.headers()) {
        let text = "ask with `Upgrade: berth-stream`".to_owned();
        return Refusal(StatusCode::UPGRADE_REQUIRED, ErrorCode::Invalid, text).into_response();
    }
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => work(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "a client went away before its stream began"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "berth-stream")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn run(State(node): State<Arc<Node>>, request: Request<Body>) -> Response {
    upgrade(request, move |stream| terminal::run(node, stream))
}

async fn exec(State(node): State<Arc<Node>>, request: Request<Body>) -> Response {
    upgrade(request, move |stream| terminal::exec(node, stream))
}
