//! Placing: which node runs which container.
//!
//! In: containers that have no node yet, and the nodes with what they already carry. Out: a node for each, or why there is
//! none. Containers that have a node keep it: nothing here ever moves one.

use berth_model::container::ContainerSpec;
use berth_model::{AppName, ContainerId, NodeName, ProcessType};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A node as placing sees it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Whether it reported lately.
    pub alive: bool,
    /// Memory in MiB; 0 if it never said.
    pub memory_mib: u64,
    /// What is placed on it already.
    pub placed: Vec<Placed>,
}

/// One container that a node carries.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Its memory limit in MiB.
    pub memory_mib: u64,
}

/// Every node by name.
pub type Nodes = BTreeMap<NodeName, Node>;
/// Which node each container goes to.
pub type Placement = BTreeMap<ContainerId, NodeName>;

/// Why a container has no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No machine has ever joined.
    #[error("{container} has nowhere to run: no node has reported yet; is `berth agent` running?")]
    NoNodes {
        /// Which.
        container: ContainerId,
    },
    /// All of them are silent.
    #[error(
        "{container} has nowhere to run: none of the nodes reports ({silent}); is `berth agent` running there?"
    )]
    AllSilent {
        /// Which.
        container: ContainerId,
        /// The nodes.
        silent: String,
    },
}

/// Memory a container without a limit counts for, in MiB.
const UNLIMITED_COUNTS_AS: u64 = 4096;

fn weight(memory_mib: Option<u64>) -> u64 {
    memory_mib.unwrap_or(UNLIMITED_COUNTS_AS).max(1)
}

/// How full a node is: promised memory against what it has, in millionths. Limits are no reservations, so a node is never
/// too full; the least full one is taken.
fn fullness(promised: u64, memory_mib: u64) -> u64 {
    promised.saturating_mul(1_000_000) / memory_mib.max(1)
}

/// Places `wanted`, in order. Containers of one process type go to different nodes as long as there are any, then evenly;
/// among equals the least full node is taken, then the first by name. Same inputs, same placement.
pub fn place(wanted: &[ContainerSpec], nodes: &Nodes) -> Result<Placement, PlaceError> {
    let mut promised: BTreeMap<&NodeName, u64> = BTreeMap::new();
    let mut by_fullness: BTreeSet<(u64, &NodeName)> = BTreeSet::new();
    let mut siblings: HashMap<(&AppName, &ProcessType), BTreeMap<&NodeName, usize>> = HashMap::new();
    for (name, node) in nodes.iter().filter(|(_, node)| node.alive) {
        let sum = node.placed.iter().map(|placed| placed.memory_mib).fold(0, u64::saturating_add);
        promised.insert(name, sum);
        by_fullness.insert((fullness(sum, node.memory_mib), name));
        for placed in &node.placed {
            *siblings.entry((&placed.app, &placed.process)).or_default().entry(name).or_default() += 1;
        }
    }
    let mut placement = Placement::new();
    for spec in wanted {
        let counts = siblings.entry((&spec.app, &spec.process)).or_default();
        // Nodes without a sibling are not in `counts`.
        let fewest = match counts.len() < by_fullness.len() {
            true => 0,
            false => counts.values().copied().min().unwrap_or(0),
        };
        let chosen =
            by_fullness.iter().find(|(_, name)| counts.get(name).copied().unwrap_or(0) == fewest).copied();
        let Some((full, name)) = chosen else { return Err(refusal(spec, nodes)) };
        *counts.entry(name).or_default() += 1;
        let sum = promised.entry(name).or_default();
        *sum = sum.saturating_add(weight(spec.limits.memory_mib));
        by_fullness.remove(&(full, name));
        by_fullness.insert((fullness(*sum, nodes[name].memory_mib), name));
        placement.insert(spec.id.clone(), name.clone());
    }
    Ok(placement)
}

fn refusal(spec: &ContainerSpec, nodes: &Nodes) -> PlaceError {
    let container = spec.id.clone();
    if nodes.is_empty() {
        return PlaceError::NoNodes { container };
    }
    let silent: Vec<_> = nodes.keys().map(NodeName::as_str).collect();
    PlaceError::AllSilent { container, silent: silent.join(", ") }
}

impl Placed {
    /// As a node's load counts it.
    #[must_use]
    pub fn of(spec: &ContainerSpec) -> Self {
        let memory_mib = weight(spec.limits.memory_mib);
        Self { app: spec.app.clone(), process: spec.process.clone(), memory_mib }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
