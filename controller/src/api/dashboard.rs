//! How the dashboard reaches the public API: over connections in memory, that are served like those of a socket.

use super::caller::Peer;
use super::serve;
use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use berth_wire::{Client, Dial, Dialling, Endpoint, Stream};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Bytes on their way in each direction.
const BUFFER: usize = 64 * 1024;

/// The API for calls from this process, in the name of who is at the other end of a browser's connection.
#[derive(Clone, Debug)]
pub(super) struct Loopback {
    router: Router,
    stop: CancellationToken,
}

impl Loopback {
    pub(super) fn new(router: Router, stop: CancellationToken) -> Self {
        Self { router, stop }
    }
}

impl berth_dashboard::Api for Loopback {
    fn client(&self, peer: berth_dashboard::Peer) -> Client {
        let peer = Peer { address: peer.address, encrypted: peer.encrypted };
        Client::new(Endpoint::Dialled(Arc::new(From { peer, to: self.clone() })))
    }
}

/// Connections of one browser.
#[derive(Debug)]
struct From {
    peer: Peer,
    to: Loopback,
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the API")
    }
}

impl Dial for From {
    fn dial(&self) -> Dialling<'_> {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let Loopback { router, stop } = self.to.clone();
        tokio::spawn(serve::connection(theirs, router, Some(self.peer), stop));
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn Stream>) })
    }
}

/// The dashboard has a word of its own for where a request came from.
pub(super) async fn tell_peer(mut request: Request, next: Next) -> Response {
    if let Some(Peer { address, encrypted }) = request.extensions().get::<Peer>().copied() {
        request.extensions_mut().insert(berth_dashboard::Peer { address, encrypted });
    }
    next.run(request).await
}
