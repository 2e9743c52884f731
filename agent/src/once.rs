//! What runs once: its end on request, and an end to what is kept of it.
//!
//! In: calls of the controller. Out: a container that ends by its stop signal and stays known until its end was recorded;
//! a log that is gone.

use crate::node::Node;
use crate::server::Refusal;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use berth_model::api::ErrorCode;
use berth_model::{AppName, ContainerId};
use serde::Deserialize;
use std::sync::Arc;

/// Longest reason, in characters.
const LONGEST_REASON: usize = 300;

#[derive(Debug, Deserialize)]
pub(crate) struct End {
    container: ContainerId,
    /// For its log.
    reason: String,
}

/// Ends a container that runs once: stop signal, grace time, kill. Answers at once; its status tells when it is over.
pub(crate) async fn end(State(node): State<Arc<Node>>, Json(wish): Json<End>) -> Result<StatusCode, Refusal> {
    let found =
        node.table().get(&wish.container).map(|entry| (entry.ending.clone(), entry.spec.once.is_some()));
    let refuse = |code, text: String| Err(Refusal(StatusCode::CONFLICT, code, text));
    match found {
        Some((ending, true)) => {
            ending.wish(wish.reason.chars().take(LONGEST_REASON).collect());
            Ok(StatusCode::ACCEPTED)
        }
        Some((_, false)) => {
            refuse(ErrorCode::Conflict, format!("{} is no one-off container", wish.container))
        }
        None => refuse(ErrorCode::NotFound, format!("{} is not on this node", wish.container)),
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Forget {
    app: AppName,
    containers: Vec<ContainerId>,
}

/// Removes what containers that are gone have written.
pub(crate) async fn forget_log(
    State(node): State<Arc<Node>>,
    Json(forget): Json<Forget>,
) -> Result<StatusCode, Refusal> {
    let logs = node.paths.logs().join(forget.app.as_str());
    let gone: Vec<_> = {
        let table = node.table();
        forget.containers.into_iter().filter(|id| !table.contains_key(id)).collect()
    };
    let removed = tokio::task::spawn_blocking(move || {
        for container in gone {
            match std::fs::remove_dir_all(logs.join(container.as_str())) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%container, %error, "cannot remove the log of a one-off container");
                }
                _ => {}
            }
        }
    });
    let broke = |error: tokio::task::JoinError| {
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, error.to_string())
    };
    removed.await.map_err(broke)?;
    Ok(StatusCode::NO_CONTENT)
}
