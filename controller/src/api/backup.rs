//! `GET /v1/backup`: the whole platform as one archive.

use super::answer::Refusal;
use super::caller::{Caller, Origin};
use super::extract::Query;
use crate::backup;
use crate::errors::forbidden;
use crate::events::Event;
use crate::platform::Platform;
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::io::{self, Write};
use tokio::sync::mpsc;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Pieces that may wait for a slow reader.
const BACKLOG: usize = 16;
const PIECE: usize = 64 * 1024;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(backup))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct What {
    /// Also what apps keep in volumes, on all nodes.
    #[serde(default)]
    volumes: bool,
    /// Leave out volumes of nodes that are away; else there is no backup. The header `berth-left-out` names them.
    #[serde(default)]
    skip_away: bool,
}

/// Nodes whose volumes are not in it.
const LEFT_OUT: &str = "berth-left-out";

/// The whole platform as of this moment: a tar in a zstd frame. It holds every key and secret, so only the controller's own
/// machine gets it. An answer that breaks off is no backup.
#[utoipa::path(get, path = "/v1/backup", tag = "system", params(What), responses(
    (status = 200, description = "The archive", body = String, content_type = "application/zstd"),
    (status = 403, description = "Not over the network"), (status = 503, description = "Nodes with volumes are away")))]
async fn backup(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Extension(Origin(origin)): Extension<Origin>,
    Query(What { volumes, skip_away }): Query<What>,
) -> Result<Response, Refusal> {
    if origin != "socket" {
        let text = "a backup holds every key and secret: make it on the controller's machine, as root";
        return Err(forbidden(text).into());
    }
    let others = backup::others(&platform, volumes, skip_away).await?;
    let left_out: Vec<_> = others.away.iter().map(berth_model::NodeName::as_str).collect();
    let left_out = left_out.join(", ");
    let frozen = backup::freeze(&platform, volumes).await?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::task::spawn_blocking(move || {
        let mut pieces = io::BufWriter::with_capacity(PIECE, Pieces(sender.clone()));
        let written = backup::write(&frozen, &others, &mut pieces).and_then(|()| pieces.flush());
        let event = match &written {
            Ok(()) => Event::by_itself(None, "backup", "made a backup".to_owned()),
            Err(error) => Event::by_itself(None, "backup.broken", format!("a backup broke off: {error}")),
        };
        platform.events().record(Event { by, ..event });
        if let Err(error) = written {
            // Dropped here it would look like its end.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let headers = [(header::CONTENT_TYPE.as_str(), "application/zstd"), (LEFT_OUT, &*left_out)];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Bytes on their way to the caller.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "whoever asked for it went away"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
