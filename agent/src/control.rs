//! The agent's side of the conversation with the controller.
//!
//! In: assignments, and what there is of networks, by long poll. Out: what was observed, at every change and every 2 s. When the
//! controller is away the node goes on with the last of both, which are on disk, and tries again quietly.

use crate::files::{self, Durability};
use crate::node::Node;
use crate::seal::Seal;
use anyhow::Context;
use berth_model::network::NetworkTable;
use berth_model::node::Assignment;
use berth_wire::{Client, Endpoint, WireError};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The controller answers a long poll within 25 s.
const POLL: Duration = Duration::from_secs(35);
/// Between two reports though nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Longest time for one report.
const REPORT: Duration = Duration::from_secs(10);
/// First and longest pause after a failed call.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The assignment on disk, if there is one.
pub(crate) fn load(path: &Path, seal: &Seal) -> anyhow::Result<Option<Assignment>> {
    match files::load_sealed(path, seal) {
        Ok(assignment) => Ok(assignment),
        // Containers go on as they are until the controller says what it wants: nothing is started or removed.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            tracing::error!(%error, "the last assignment is unreadable; waiting for the controller's");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Takes `new` over, if it is newer than what the node has: first on disk, then in effect.
pub(crate) fn accept(node: &Node, new: Assignment) -> anyhow::Result<bool> {
    let current = node.assignment.borrow().as_ref().map(|assignment| assignment.generation);
    if current.is_some_and(|current| new.generation <= current) {
        return Ok(false);
    }
    let path = node.paths.assignment();
    files::store_sealed(&path, &new, Durability::Sync, node.runtime.seal())
        .with_context(|| format!("cannot write {}; is the disk full?", path.display()))?;
    tracing::debug!(generation = new.generation, containers = new.containers.len(), "new assignment");
    node.assignment.send_replace(Some(Arc::new(new)));
    node.changed();
    Ok(true)
}

/// Complains once, then only when it works again.
struct Contact {
    failures: u32,
    what: &'static str,
}

impl Contact {
    fn works(&mut self) {
        if self.failures > 0 {
            tracing::info!(what = self.what, "the controller answers again");
        }
        self.failures = 0;
    }

    /// How long to pause.
    fn failed(&mut self, error: &dyn std::fmt::Display) -> Duration {
        if self.failures == 0 {
            tracing::warn!(what = self.what, %error, "the controller does not answer; going on without it");
        }
        let pause = PAUSE.0 * 2_u32.pow(self.failures.min(8));
        self.failures += 1;
        pause.min(PAUSE.1)
    }
}

/// How long an agent on a machine that has just started waits for the controller before it goes on with its last orders.
const COLD: Duration = Duration::from_secs(10);

/// Asks for the newest orders before anything is started, on a machine that has just started: what it had to run may run elsewhere by
/// now. Gives up after [`COLD`]: apps must come back without the controller, too.
pub(crate) async fn first_orders(node: &Node, stop: &CancellationToken) {
    let client = Client::new(Endpoint::Unix(node.paths.controller()));
    // Whatever its generation: the answer is what the controller wants now.
    let path = format!("/node/v1/{}/assignment", node.name);
    let asking = async {
        let mut pause = PAUSE.0;
        loop {
            match poll(&client, &path).await.map_err(anyhow::Error::from) {
                Ok(Some(assignment)) => match accept(node, assignment) {
                    Ok(_) => return,
                    Err(error) => tracing::warn!("cannot take the first orders over: {error:#}"),
                },
                Ok(None) => return,
                Err(error) => tracing::debug!("no orders yet: {error:#}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = asking => tracing::info!("this machine has just started; the controller said what is to run"),
        () = sleep(COLD) => tracing::warn!("no controller answers; going on with the last orders"),
    }
}

/// Follows the assignment until `stop` fires.
pub(crate) async fn follow(node: Arc<Node>, stop: CancellationToken) {
    let client = Client::new(Endpoint::Unix(node.paths.controller()));
    let mut contact = Contact { failures: 0, what: "assignment" };
    loop {
        let after = node.assignment.borrow().as_ref().map_or(0, |assignment| assignment.generation);
        let path = format!("/node/v1/{}/assignment?after={after}", node.name);
        // Dropping a poll loses nothing: the next one asks for the whole again.
        let polled = tokio::select! {
            () = stop.cancelled() => return,
            polled = timeout(POLL, poll::<Assignment>(&client, &path)) => polled,
        };
        let outcome = match polled {
            Ok(Ok(Some(assignment))) => accept(&node, assignment).map(drop),
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", POLL.as_secs())),
        };
        match outcome {
            Ok(()) => contact.works(),
            Err(error) => {
                let pause = contact.failed(&format!("{error:#}"));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Follows what the controller says of other nodes and of networks until `stop` fires, and looks after both in between.
pub(crate) async fn follow_network(node: Arc<Node>, stop: CancellationToken) {
    let client = Client::new(Endpoint::Unix(node.paths.controller()));
    let mut contact = Contact { failures: 0, what: "network" };
    loop {
        let path = format!("/node/v1/{}/network?after={}", node.name, node.network.revision());
        let polled = tokio::select! {
            () = stop.cancelled() => return,
            polled = timeout(POLL, poll::<NetworkTable>(&client, &path)) => polled,
        };
        let table = match polled {
            Ok(Ok(table)) => {
                contact.works();
                table
            }
            Ok(Err(error)) => {
                let pause = contact.failed(&error);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(pause) => {}
                }
                None
            }
            Err(_) => None,
        };
        let before = node.network.report();
        let done = match table {
            Some(table) => node.network.set_table(table).await,
            None => node.network.converge().await,
        };
        if let Err(error) = done {
            tracing::error!(error = crate::life::chain(&error), "the node's network is not as it should be");
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(PAUSE.1) => {}
            }
        }
        if node.network.report() != before {
            node.changed();
        }
    }
}

async fn poll<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Option<T>, WireError> {
    let response = client.call(Method::GET, path, None::<&()>).await?;
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(None);
    }
    let endpoint = client.endpoint().to_string();
    let body = response.into_body().collect().await;
    let bytes = body
        .map_err(|error| WireError::Broken { endpoint: endpoint.clone(), text: error.to_string() })?
        .to_bytes();
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| WireError::Unexpected { endpoint, text: error.to_string() })
}

/// Reports what is observed until `stop` fires.
pub(crate) async fn report(node: Arc<Node>, stop: CancellationToken) {
    let client = Client::new(Endpoint::Unix(node.paths.controller()));
    let path = format!("/node/v1/{}/observed", node.name);
    let mut contact = Contact { failures: 0, what: "report" };
    let mut changes = node.subscribe();
    loop {
        changes.mark_unchanged();
        let observed = node.observed();
        let sent = timeout(REPORT, client.call(Method::POST, &path, Some(&observed)));
        let sent = tokio::select! {
            () = stop.cancelled() => return,
            sent = sent => sent,
        };
        let pause = match sent {
            Ok(Ok(_)) => {
                contact.works();
                None
            }
            Ok(Err(error)) => Some(contact.failed(&error)),
            Err(_) => Some(contact.failed(&"no answer")),
        };
        let until = Instant::now() + pause.unwrap_or(HEARTBEAT);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(until) => {}
            changed = changes.changed(), if pause.is_none() => if changed.is_err() { return },
        }
    }
}
