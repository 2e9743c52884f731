//! Connections that nodes hold open, for calls of the controller to their agents.
//!
//! In: `GET /node/v1/{node}/tunnel` of a node, upgraded. Out: connections to its agent's API, one a call. A node that is behind a
//! NAT or a firewall needs no open port. Whether one still lives is asked before it is used: a byte there and a byte back.

use super::grants::Import;
use super::guard::Peer;
use crate::Platform;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::NodeName;
use berth_model::node::NodeRecord;
use berth_wire::{Dial, Dialling, Stream};
use berth_wire::{TUNNEL_TAKE, TUNNEL_TAKEN};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Connections of one node that wait to be used; the oldest goes when there are more.
const MOST: usize = 16;
/// How long a call waits for one.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a connection may take to say that it lives.
const ALIVE: Duration = Duration::from_secs(2);

type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// Every node that is connected.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    seats: Mutex<BTreeMap<NodeName, Seat>>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Seat {
    /// Ends every connection of the node.
    cut: CancellationToken,
    tunnels: VecDeque<Tunnel>,
}

impl Seats {
    fn seats(&self) -> MutexGuard<'_, BTreeMap<NodeName, Seat>> {
        // Every change is one insertion or removal: a panic elsewhere leaves it whole.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a new connection of the node is to end with.
    pub(super) fn cut_of(&self, node: &NodeName) -> CancellationToken {
        self.seats().entry(node.clone()).or_default().cut.clone()
    }

    /// Ends every connection of the node, at once.
    pub(crate) fn cut(&self, node: &NodeName) {
        if let Some(seat) = self.seats().remove(node) {
            seat.cut.cancel();
        }
    }

    /// Who is connected, or was.
    pub(super) fn names(&self) -> Vec<NodeName> {
        self.seats().keys().cloned().collect()
    }

    fn put(&self, node: &NodeName, tunnel: Tunnel) {
        let mut seats = self.seats();
        let tunnels = &mut seats.entry(node.clone()).or_default().tunnels;
        tunnels.push_back(tunnel);
        if tunnels.len() > MOST {
            tunnels.pop_front();
        }
        drop(seats);
        self.arrived.notify_waiters();
    }

    fn newest(&self, node: &NodeName) -> Option<Tunnel> {
        self.seats().get_mut(node)?.tunnels.pop_back()
    }

    /// Nodes that a connection of waits.
    fn reachable(&self) -> Vec<NodeName> {
        let seats = self.seats();
        seats.iter().filter(|(_, seat)| !seat.tunnels.is_empty()).map(|(name, _)| name.clone()).collect()
    }

    /// A connection to the node's agent.
    async fn take(&self, node: &NodeName) -> io::Result<Tunnel> {
        let taking = async {
            loop {
                let mut arrived = std::pin::pin!(self.arrived.notified());
                arrived.as_mut().enable();
                match self.newest(node) {
                    None => arrived.await,
                    Some(mut tunnel) => match tokio::time::timeout(ALIVE, ask(&mut tunnel)).await {
                        Ok(Ok(())) => return tunnel,
                        _ => tracing::debug!(%node, "a connection that waited is dead"),
                    },
                }
            }
        };
        tokio::time::timeout(PATIENCE, taking).await.map_err(|_| {
            let text = format!(
                "{node} holds no connection to this controller open; does `berth agent` run there, and does it reach the \
                 cluster port? See: berth node:report {node}"
            );
            io::Error::new(io::ErrorKind::NotConnected, text)
        })
    }
}

/// The first connection that lives, of whichever node, within [`PATIENCE`]: a controller that has just begun to lead knows none.
async fn any(seats: &Seats) -> Option<(NodeName, Tunnel)> {
    let looking = async {
        loop {
            let mut arrived = std::pin::pin!(seats.arrived.notified());
            arrived.as_mut().enable();
            for node in seats.reachable() {
                while let Some(mut tunnel) = seats.newest(&node) {
                    if let Ok(Ok(())) = tokio::time::timeout(ALIVE, ask(&mut tunnel)).await {
                        return (node, tunnel);
                    }
                    tracing::debug!(%node, "a connection that waited is dead");
                }
            }
            arrived.await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.ok()
}

async fn ask(tunnel: &mut Tunnel) -> io::Result<()> {
    tunnel.write_all(&[TUNNEL_TAKE]).await?;
    tunnel.flush().await?;
    match tunnel.read_u8().await? {
        TUNNEL_TAKEN => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it answered something else")),
    }
}

/// Takes a connection of a node and keeps it until it is needed.
pub(super) async fn tunnel(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    request: Request,
) -> Response {
    let wanted =
        request.headers().get(header::UPGRADE).is_some_and(|kind| kind.as_bytes() == b"berth-stream");
    let own = request.extensions().get::<Peer>().is_some_and(|peer| peer.node() == Some(&node));
    if !wanted || !own {
        let error = crate::errors::invalid("a node asks for its own tunnel, with `Upgrade: berth-stream`");
        return (StatusCode::BAD_REQUEST, axum::Json(error)).into_response();
    }
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => platform.cluster().seats().put(&node, TokioIo::new(upgraded)),
            Err(error) => tracing::debug!(%node, %error, "a tunnel broke before it was there"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "berth-stream")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn local(platform: &Platform) -> io::Result<Box<dyn Stream>> {
    Ok(Box::new(tokio::net::UnixStream::connect(platform.options().agent_socket()).await?))
}

/// The agent of one node: over the network if it joined, else over its socket on this machine.
pub(crate) struct NodeAgent {
    pub(crate) platform: Platform,
    pub(crate) node: NodeName,
}

impl fmt::Debug for NodeAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeAgent").field("node", &self.node).finish_non_exhaustive()
    }
}

impl fmt::Display for NodeAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the agent of {}", self.node)
    }
}

impl Dial for NodeAgent {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let record = self.platform.node(&self.node).await.map_err(io::Error::other)?;
            match record.is_some_and(|record| record.is_joined()) {
                true => {
                    Ok(Box::new(self.platform.cluster().seats().take(&self.node).await?) as Box<dyn Stream>)
                }
                false => local(&self.platform).await,
            }
        })
    }
}

/// The agent of this machine if it answers, else that of any node that can be reached.
pub(crate) struct AnyAgent {
    pub(crate) platform: Platform,
    /// What it is to import, for which it may write to the registry where nodes else may not.
    pub(crate) import: Option<Import>,
}

impl fmt::Debug for AnyAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyAgent")
    }
}

impl fmt::Display for AnyAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the agent of any node")
    }
}

impl Dial for AnyAgent {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let here = match local(&self.platform).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let nodes = self.platform.nodes().await.map_err(io::Error::other)?;
            if nodes.iter().any(NodeRecord::is_joined)
                && let Some((node, tunnel)) = any(self.platform.cluster().seats()).await
            {
                if let Some(import) = &self.import {
                    import.taken_by(&node);
                }
                return Ok(Box::new(tunnel) as Box<dyn Stream>);
            }
            Err(here)
        })
    }
}
