//! Connections that the controller calls this agent through.
//!
//! In: nothing; the agent dials. Out: a few connections that wait, and the agent's API served on those that were taken. The controller
//! takes one by a byte, which is answered by a byte: so it knows that it lives, and the agent that another is needed.

use super::Link;
use crate::node::Node;
use crate::server;
use berth_wire::{TUNNEL_TAKE, TUNNEL_TAKEN};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections that wait.
const SPARE: usize = 3;
/// Calls at once.
const CALLS: usize = 256;
/// After a connection that did not come about, and the most after several.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Keeps connections open until `stop`.
pub(super) async fn keep(node: Arc<Node>, link: Arc<Link>, stop: CancellationToken) {
    let (spare, calls) = (Arc::new(Semaphore::new(SPARE)), Arc::new(Semaphore::new(CALLS)));
    let router = server::router(node);
    let mut pause = PAUSE.0;
    loop {
        let spare = spare.clone().acquire_owned().await.expect("the semaphore is never closed");
        let call = calls.clone().acquire_owned().await.expect("the semaphore is never closed");
        let path = format!("/node/v1/{}/tunnel", link.node());
        let client = link.client();
        let opened = tokio::select! {
            () = stop.cancelled() => return,
            opened = client.upgrade(&path) => opened,
        };
        let mut tunnel = match opened {
            Ok(tunnel) => tunnel,
            Err(error) => {
                tracing::debug!(%error, "cannot open a connection for the controller's calls");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
        };
        pause = PAUSE.0;
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            let _call = call;
            let taken = tokio::select! {
                () = stop.cancelled() => return,
                taken = taken(&mut tunnel) => taken,
            };
            if let Err(error) = taken {
                tracing::debug!(%error, "a connection for the controller's calls ended");
                tokio::time::sleep(PAUSE.0).await; // it may do so again at once
                return;
            }
            drop(spare); // another one is opened
            let service = TowerToHyperService::new(router);
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tunnel), service)
                .with_upgrades();
            tokio::select! {
                () = stop.cancelled() => {}
                ended = serving => if let Err(error) = ended {
                    tracing::debug!(%error, "a call of the controller ended early");
                }
            }
        });
    }
}

async fn taken(tunnel: &mut berth_wire::Upgraded) -> io::Result<()> {
    if tunnel.read_u8().await? != TUNNEL_TAKE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the controller said something else"));
    }
    tunnel.write_all(&[TUNNEL_TAKEN]).await?;
    tunnel.flush().await
}
