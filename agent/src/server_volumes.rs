//! `/v1/volumes`: what apps keep on this machine, for backups.
//!
//! In: a volume's name; or a name and a tree. Out: names, a tree as it is read, or a new volume. A tree that breaks off has no end, so
//! that it is never taken for a whole one.

use crate::node::Node;
use crate::server::Refusal;
use crate::volume_trees::{list, pack, unpack};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::api::ErrorCode;
use futures_util::TryStreamExt;
use std::io::{self, BufReader, BufWriter};
use std::sync::Arc;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

/// What is read at once.
const PIECE: usize = 128 * 1024;

fn failed(what: &str, error: &io::Error) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed, format!("cannot {what}: {error}"))
}

fn check(name: &str) -> Result<(), Refusal> {
    if berth_wire::is_volume(name) {
        return Ok(());
    }
    let text = "that is no name of a volume: letters, digits, '.', '_' and '-'".to_owned();
    Err(Refusal(StatusCode::BAD_REQUEST, ErrorCode::Invalid, text))
}

/// Their names.
pub(crate) async fn names(State(node): State<Arc<Node>>) -> Result<Response, Refusal> {
    let volumes = node.paths.volumes();
    let listed = tokio::task::spawn_blocking(move || list(&volumes)).await;
    let listed = listed.map_err(io::Error::other).flatten();
    Ok(Json(listed.map_err(|error| failed("list the volumes of this machine", &error))?).into_response())
}

/// All of one.
pub(crate) async fn read(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    check(&name)?;
    let volumes = node.paths.volumes();
    if !volumes.join(&name).is_dir() {
        let text = format!("there is no volume {name} on this machine");
        return Err(Refusal(StatusCode::NOT_FOUND, ErrorCode::NotFound, text));
    }
    let (here, there) = tokio::io::duplex(PIECE);
    tokio::task::spawn_blocking(move || {
        let mut to = BufWriter::with_capacity(PIECE, SyncIoBridge::new(here));
        if let Err(error) = pack(&volumes, &name, &mut to) {
            tracing::warn!(volume = %name, %error, "a volume could not be read to its end for a backup");
        }
    });
    let body = Body::from_stream(ReaderStream::with_capacity(there, PIECE));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

/// Makes one that is not there.
pub(crate) async fn make(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    check(&name)?;
    let volumes = node.paths.volumes();
    let from = SyncIoBridge::new(StreamReader::new(body.into_data_stream().map_err(io::Error::other)));
    let of = name.clone();
    let made =
        tokio::task::spawn_blocking(move || unpack(&volumes, &of, BufReader::with_capacity(PIECE, from)));
    match made.await.map_err(io::Error::other).flatten() {
        Ok(()) => {
            tracing::info!(volume = %name, "made of a backup");
            Ok(StatusCode::CREATED)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = format!("there is a volume {name} on this machine: it was left as it is");
            Err(Refusal(StatusCode::CONFLICT, ErrorCode::Conflict, text))
        }
        Err(error) => Err(failed(&format!("make the volume {name}"), &error)),
    }
}
