//! The way to a node's agent.
//!
//! In: a node. Out: a client of its API: over the socket on the controller's own machine, through a connection that the node holds open
//! if it joined. Which it is, is looked up at each call.

use crate::Platform;
use crate::cluster::{AnyAgent, Import, NodeAgent};
use crate::errors::{from_agent, unavailable};
use berth_model::api::ApiError;
use berth_model::{ContainerId, NodeName};
use berth_wire::{Client, Endpoint, WireError};
use std::sync::Arc;
use std::time::Duration;

/// How long a first report is waited for.
const FIRST_REPORT: Duration = Duration::from_secs(3);

impl Platform {
    /// Waits until a node is alive, a few seconds at most: a controller that has just started has heard of none.
    pub(crate) async fn until_a_node_reports(&self) {
        let fleet = self.deploys().fleet();
        let mut changes = fleet.changes();
        let wait = async {
            loop {
                changes.mark_unchanged();
                if !fleet.alive().is_empty() || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(FIRST_REPORT, wait).await; // whoever asks next says that there is none
    }

    /// The agent of this node. Calls fail, saying so, if it cannot be reached just now.
    #[must_use]
    pub(crate) fn agent_of(&self, node: &NodeName) -> Client {
        let agent = NodeAgent { platform: self.clone(), node: node.clone() };
        Client::new(Endpoint::Dialled(Arc::new(agent)))
    }

    /// Asks the agents of all living nodes at once. A node that cannot be reached is left out while others can.
    ///
    /// Errors: no node can be asked, or one refuses: what one agent refuses, every agent refuses.
    pub(crate) async fn ask_all<T, A>(
        &self,
        ask: impl Fn(Client) -> A,
    ) -> Result<Vec<(NodeName, T)>, ApiError>
    where
        A: Future<Output = Result<T, WireError>>,
    {
        self.until_a_node_reports().await;
        let asked = self.deploys().fleet().alive().into_iter().map(|node| {
            let answer = ask(self.agent_of(&node));
            async { (node, answer.await) }
        });
        let mut refusal = unavailable("no node has reported yet; is `berth agent` running?");
        let mut answers = Vec::new();
        for (node, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok(answer) => answers.push((node, answer)),
                Err(error @ WireError::Refused { .. }) => return Err(from_agent(error)),
                Err(error) => refusal = from_agent(error),
            }
        }
        if answers.is_empty() { Err(refusal) } else { Ok(answers) }
    }

    /// The agent of the node that has this container, as far as is known.
    #[must_use]
    pub(crate) fn agent_with(&self, container: &ContainerId) -> Client {
        let planned = self.deploys().node_of(container);
        match planned.or_else(|| self.runs().node_of(container)) {
            Some(node) => self.agent_of(&node),
            None => self.any_agent(),
        }
    }

    /// The agent that builds, and does what no node in particular has to do: this machine's if it lives, else any other.
    #[must_use]
    pub(crate) fn any_agent(&self) -> Client {
        let agent = AnyAgent { platform: self.clone(), import: None };
        Client::new(Endpoint::Dialled(Arc::new(agent)))
    }

    /// The same, to import what becomes this repository. It may, as long as the client is there.
    #[must_use]
    pub(crate) fn agent_importing(&self, repository: &str) -> Client {
        let import = Some(Import::new(self, repository));
        Client::new(Endpoint::Dialled(Arc::new(AnyAgent { platform: self.clone(), import })))
    }
}
