//! `run/internal.sock` of a joined machine: each connection is passed on to a controller.
//!
//! In: connections of this machine's agent and proxy. Out: the same bytes over mTLS. If no controller can be reached, the caller gets
//! an answer that says so.

use super::Link;
use berth_model::api::{ApiError, ErrorCode};
use berth_wire::accept_each;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait.
const CONNECTIONS: usize = 512;
/// How long the caller may take to read the answer that there is none.
const FAREWELL: Duration = Duration::from_secs(5);

/// Passes connections on until `stop`.
pub(super) async fn serve(link: Arc<Link>, listener: UnixListener, stop: CancellationToken) {
    let serve = |(stream, _)| {
        let (link, stop) = (link.clone(), stop.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = pass(&link, stream) => {}
            }
        }
    };
    accept_each(CONNECTIONS, &stop, || listener.accept(), serve).await;
}

async fn pass(link: &Link, mut from: UnixStream) {
    match link.connect().await {
        Ok(mut to) => {
            if let Err(error) = tokio::io::copy_bidirectional(&mut from, &mut to).await {
                tracing::debug!(%error, "a connection to the controller broke");
            }
        }
        Err(error) => {
            tracing::debug!(%error, "a call found no controller");
            let _ = tokio::time::timeout(FAREWELL, sorry(from, &error.to_string())).await;
        }
    }
}

/// Answers one request with 503 and the reason.
async fn sorry(mut to: UnixStream, reason: &str) -> std::io::Result<()> {
    let error = ApiError { code: ErrorCode::Unavailable, message: reason.to_owned() };
    let body = serde_json::to_string(&error).map_err(std::io::Error::other)?;
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n";
    to.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    to.shutdown().await?;
    // Closing with unread bytes would reset the connection before the answer is read.
    let mut unread = [0; 8192];
    while to.read(&mut unread).await? > 0 {}
    Ok(())
}
