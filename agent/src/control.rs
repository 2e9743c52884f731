//! The agent's side of the conversation with the controller.
//!
//! In: assignments, by long poll. Out: what was observed, at every change and every 5 s. When the controller is away the
//! node goes on with the last assignment, which is on disk, and tries again quietly.

use crate::files::{self, Durability};
use crate::node::Node;
use anyhow::Context;
use berth_model::node::Assignment;
use berth_wire::{Client, Endpoint, WireError};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The controller answers a long poll within 25 s.
const POLL: Duration = Duration::from_secs(35);
/// Between two reports though nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longest time for one report.
const REPORT: Duration = Duration::from_secs(10);
/// First and longest pause after a failed call.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The assignment on disk, if there is one.
pub(crate) fn load(path: &Path) -> anyhow::Result<Option<Assignment>> {
    match files::load(path) {
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
    files::store(&path, &new, Durability::Sync)
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
            polled = timeout(POLL, poll(&client, &path)) => polled,
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

async fn poll(client: &Client, path: &str) -> Result<Option<Assignment>, WireError> {
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
