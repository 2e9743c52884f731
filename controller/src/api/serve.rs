//! Listening: the unix socket of the local admin, and one TCP port that speaks TLS and plain HTTP.
//!
//! In: sockets and a router. Out: served connections until `stop`, then those under way are given a moment to end. The first
//! byte of a TLS connection is 0x16 (RFC 8446 §5.1), which no HTTP method begins with.

use super::caller::Peer;
use axum::Router;
use axum::body::Body;
use berth_wire::{accept_each, drain};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;
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
    let serve = |(stream, _)| connection(stream, router.clone(), None, stop.clone());
    let tasks = accept_each(CONNECTIONS, &stop, || listener.accept(), serve).await;
    drain(tasks, DRAIN).await;
}

/// Serves a TCP port until `stop`; TLS or plain, as each connection begins.
pub async fn tcp(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    stop: CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let serve = |(stream, address): (TcpStream, std::net::SocketAddr)| {
        let begun = either(stream, address, acceptor.clone(), router.clone(), stop.clone());
        async move {
            if let Err(error) = begun.await {
                tracing::debug!(from = %address.ip(), %error, "a connection did not begin");
            }
        }
    };
    let tasks = accept_each(CONNECTIONS, &stop, || listener.accept(), serve).await;
    drain(tasks, DRAIN).await;
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

/// Serves one connection, whatever it is made of.
pub(super) async fn connection(
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
