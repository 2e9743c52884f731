//! The local socket of a controller that follows: who is there and who leads; everything else is refused with the leader's name.
//! (The socket is its machine's administrator's, who is not that of the leader's machine.)

use super::Knows;
use crate::options::Options;
use crate::store::{Controller, Etcd};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use berth_model::api::{ApiError, ControllerInfo, ErrorCode};
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
struct Local {
    etcd: Etcd,
    me: Controller,
    knows: Knows,
}

/// Serves the socket until `ended`.
pub(super) fn serve(
    options: &Options,
    etcd: &Etcd,
    me: &Controller,
    knows: &Knows,
    ended: &CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let socket = crate::run::bind(&options.api_socket())?;
    let local = Local { etcd: etcd.clone(), me: me.clone(), knows: knows.clone() };
    let router = Router::new().route("/v1/controllers", get(list)).fallback(elsewhere).with_state(local);
    Ok(tokio::spawn(crate::api::serve::unix(socket, router, ended.clone())))
}

async fn list(State(local): State<Local>) -> Response {
    match infos(&local.etcd).await {
        Ok(list) => Json(list).into_response(),
        Err(error) => refused(error),
    }
}

/// Every controller that is there, and which of them leads.
pub(crate) async fn infos(etcd: &Etcd) -> Result<Vec<ControllerInfo>, ApiError> {
    let leader = etcd.leader().await?.map(|leader| leader.name());
    let infos = etcd.controllers().await?.into_iter().map(|one| ControllerInfo {
        leads: Some(one.name()) == leader,
        name: one.name(),
        host: one.host,
        api_port: one.api,
        ssh_port: one.ssh,
        version: one.version,
        since_ms: one.since_ms,
    });
    Ok(infos.collect())
}

async fn elsewhere(State(local): State<Local>) -> Response {
    let known = local.knows.borrow().clone();
    let me = local.me.name();
    let message = match known.leader {
        Some(leader) => format!(
            "{} leads and this controller ({me}) follows: run this there, over SSH (ssh -p {} {} COMMAND), or as a user with \
             a token; every port of this controller leads there too",
            leader.name(),
            leader.ssh,
            leader.host
        ),
        None => {
            let problem =
                known.problem.unwrap_or_else(|| "this controller has just begun to look".to_owned());
            format!("no controller leads just now: {problem}")
        }
    };
    refused(ApiError { code: ErrorCode::Unavailable, message })
}

fn refused(error: ApiError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response()
}
