//! Listening: the unix socket of the local admin, and one TCP port that speaks TLS and plain HTTP.
//!
//! In: sockets and a router. Out: served connections until `stop`, then those under way are given a moment to end. The first
//! byte of a TLS connection is 0x16 (RFC 8446 §5.1), which no HTTP method begins with.

use super::caller::Peer;
use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once on each listener; more wait.
const CONNECTIONS: usize = 2048;
/// For the first byte, the handshake and the head of each request.
const PATIENCE: Duration = Duration::from_secs(10);
/// What connections under way get at the end.
const DRAIN: Duration = Duration::from_secs(5);
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves a unix socket until `stop`.
pub async fn unix(listener: UnixListener, router: Router, stop: CancellationToken) {
    let (tasks, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                tasks.spawn(async move {
                    let _slot = slot;
                    connection(stream, router, None, stop).await;
                });
            }
            Err(error) => pause(&error).await,
        }
    }
    drain(&tasks).await;
}

/// Serves a TCP port until `stop`; TLS or plain, as each connection begins.
pub async fn tcp(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    stop: CancellationToken,
) {
    let (tasks, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
                tasks.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = either(stream, address, acceptor, router, stop).await {
                        tracing::debug!(from = %address.ip(), %error, "a connection did not begin");
                    }
                });
            }
            Err(error) => pause(&error).await,
        }
    }
    drain(&tasks).await;
}

async fn either(
    stream: TcpStream,
    address: std::net::SocketAddr,
    acceptor: tokio_rustls::TlsAcceptor,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    let begun = tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await??;
    if begun == 0 {
        return Ok(());
    }
    if first[0] == TLS_HANDSHAKE {
        let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await??;
        connection(stream, router, Some(Peer { address, encrypted: true }), stop).await;
    } else {
        connection(stream, router, Some(Peer { address, encrypted: false }), stop).await;
    }
    Ok(())
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    peer: Option<Peer>,
    stop: CancellationToken,
) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        router.clone().oneshot(request.map(Body::new))
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// After an error of `accept`: out of file descriptors, most likely, which only others can free.
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn drain(tasks: &TaskTracker) {
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::info!(connections = tasks.len(), "leaving connections that are still open");
    }
}
