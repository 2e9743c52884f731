//! The cluster: how machines become nodes, and how nodes speak with the controller over a network.
//!
//! In: connections to the cluster port (`--cluster`), which is opened when the first join token is made: a single machine never
//! opens it. Out: certificates of the cluster's own CA, node records, and the calls of nodes passed to the same routers that
//! `run/internal.sock` has, each checked against what the caller's certificate may do ([`guard`]). Calls the other way go through
//! connections that nodes hold open ([`tunnels`]).

mod authority;
mod enrol;
mod grants;
mod guard;
mod serve;
mod subnets;
mod tokens;
mod tunnels;

pub(crate) use enrol::announce_all;
pub(crate) use grants::Import;
pub(crate) use guard::Peer;
pub use serve::run;
pub(crate) use tunnels::{AnyAgent, NodeAgent};

use crate::Platform;
use crate::errors::unavailable;
use berth_model::NodeName;
use berth_model::api::{ApiError, NodeToken};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long the port may take to open when the first token is made.
const OPENING: Duration = Duration::from_secs(10);

/// The memory of the cluster: who is connected.
#[derive(Debug)]
pub struct Cluster {
    seats: tunnels::Seats,
    grants: grants::Grants,
    listening: watch::Sender<Listening>,
    /// The address of this machine that a node last reached it at.
    reached: Mutex<Option<IpAddr>>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            seats: tunnels::Seats::default(),
            grants: grants::Grants::default(),
            listening: watch::Sender::new(Listening::Closed),
            reached: Mutex::default(),
        }
    }
}

/// How it is with the cluster port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listening {
    /// Nobody may join yet.
    Closed,
    /// Open.
    Open(SocketAddr),
    /// It could not be opened; it is tried again.
    Failed(String),
}

impl Cluster {
    pub(crate) fn seats(&self) -> &tunnels::Seats {
        &self.seats
    }

    pub(crate) fn grants(&self) -> &grants::Grants {
        &self.grants
    }

    /// A node reached this machine at `address`.
    pub(crate) fn note_reached(&self, address: IpAddr) {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.to_canonical());
    }

    /// Where other nodes reach this machine, once one has.
    pub(crate) fn reached(&self) -> Option<IpAddr> {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listening(&self) -> &watch::Sender<Listening> {
        &self.listening
    }
}

/// Makes a join token, once machines can join.
pub(crate) async fn create_token(
    platform: &Platform,
    node: Option<NodeName>,
    life_ms: i64,
) -> Result<NodeToken, ApiError> {
    let (token, expires_ms) = tokens::create(platform, node, life_ms).await?;
    let mut listening = platform.cluster().listening().subscribe();
    let settled = listening.wait_for(|state| *state != Listening::Closed);
    let closed = |why: &str| unavailable(format!("no machine can join: the cluster port is closed ({why})"));
    let state = match tokio::time::timeout(OPENING, settled).await {
        Ok(Ok(state)) => state.clone(),
        _ => return Err(closed("it did not open in time; see the controller's log")),
    };
    match state {
        Listening::Open(at) => {
            let advertised = platform.options().several.as_ref().map(|several| several.advertise.as_str());
            let address = match advertised {
                Some(host) => berth_wire::host_port(host, at.port()),
                None => serve::dialled(at),
            };
            Ok(NodeToken { token: token.to_string(), address, expires_ms })
        }
        Listening::Failed(why) => Err(closed(&why)),
        Listening::Closed => Err(closed("it is just closing")),
    }
}
