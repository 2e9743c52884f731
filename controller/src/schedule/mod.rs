//! Placing: which node runs which container.
//!
//! In: containers that have no node yet, the nodes with what they already carry, and where volumes are. Out: a node for
//! each, or a sentence that says why there is none; each container is judged by itself. Containers that have a node keep it:
//! placing never moves one, and [`rebalance()`] only
//! says which few would better be elsewhere. Pure, and the same for the same.

mod ledger;
mod place;
mod rebalance;
mod refusal;
#[cfg(test)]
mod tests;

pub use place::place;
pub use rebalance::{Move, Standing, Why, rebalance};
pub use refusal::{Against, Reason, Refusal};

use berth_model::container::{ContainerSpec, Reserve};
use berth_model::image::Process;
use berth_model::node::Reserved;
use berth_model::placing::{Rules, ZONE};
use berth_model::{AppName, ContainerId, NodeName, ProcessType};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A node as placing sees it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Whether it takes new containers.
    pub state: NodeState,
    /// What is said of it; `zone` and `pool` mean something.
    pub labels: BTreeMap<String, String>,
    /// Memory that may be reserved, in MiB; 0 if it never said.
    pub memory_mib: u64,
    /// Thousandths of a CPU that may be reserved; 0 if it never said.
    pub cpu_millis: u64,
    /// Free disk space in MiB; 0 if it never said.
    pub disk_free_mib: u64,
    /// What is placed on it already.
    pub placed: Vec<Placed>,
}

impl Node {
    /// What is promised to what is placed on it.
    #[must_use]
    pub fn reserved(&self) -> Reserved {
        let mut sum = Reserved::default();
        for placed in self.placed.iter().filter(|placed| !placed.goes) {
            sum.cpu_millis = sum.cpu_millis.saturating_add(placed.reserve.cpu_millis.unwrap_or(0));
            sum.memory_mib = sum.memory_mib.saturating_add(placed.reserve.memory_mib.unwrap_or(0));
            sum.memory_limits_mib = sum.memory_limits_mib.saturating_add(placed.memory_mib);
        }
        sum
    }

    /// Which nodes it fails together with.
    fn zone(&self) -> &str {
        self.labels.get(ZONE).map_or("", String::as_str)
    }
}

/// Whether a node takes new containers, and if not why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// It does.
    #[default]
    Open,
    /// It does not report: it is lost, or has not been heard of since the controller started.
    Silent,
    /// It was lost and is back, and is still putting away what it was not to have any more.
    Returning,
    /// Somebody said so (`node:cordon`).
    Cordoned,
    /// It is being emptied (`node:drain`).
    Draining,
    /// Its disk is nearly full.
    ShortOfDisk,
    /// Its memory is nearly used up.
    ShortOfMemory,
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
    /// What is kept for it.
    pub reserve: Reserve,
    /// It is on its way out: nothing is kept for it, and nobody keeps away from it. For a moment it is there beside what takes
    /// its place.
    pub goes: bool,
}

/// One container that is to get a node.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub id: ContainerId,
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// What its memory limit counts for, in MiB.
    pub memory_mib: u64,
    /// What a node must have unreserved for it.
    pub reserve: Reserve,
    /// Where it may run.
    pub rules: Arc<Rules>,
    /// What of a node it mounts: it runs where that is.
    pub volumes: Vec<Volume>,
    /// The node it goes to if it may run there; for moves that were planned.
    pub towards: Option<NodeName>,
}

/// Something on a node's disk that containers see: it is on one node, and stays there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volume {
    /// A named volume. Apps that use the same name share it.
    Named(String),
    /// A directory of the node, as one app mounts it.
    Path(AppName, String),
}

impl Volume {
    /// What a mount of `app` with this source is.
    #[must_use]
    pub fn of(app: &AppName, source: &str) -> Self {
        match source.starts_with('/') {
            true => Self::Path(app.clone(), source.to_owned()),
            false => Self::Named(source.to_owned()),
        }
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "volume {name}"),
            Self::Path(_, path) => write!(f, "directory {path}"),
        }
    }
}

/// Where volumes are. One that is not in it is on no node yet; with `None` it is the same on every node.
pub type Pins = BTreeMap<Volume, Option<NodeName>>;
/// Every node by name.
pub type Nodes = BTreeMap<NodeName, Node>;

/// What became of those that were to get a node: every one is in exactly one of `placed` and `refused`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Which node each goes to.
    pub placed: BTreeMap<ContainerId, NodeName>,
    /// Those that have none, and why.
    pub refused: BTreeMap<ContainerId, Refusal>,
    /// Volumes that were on no node before, and are to be on this one from now on. To be kept before anything starts.
    pub pinned: BTreeMap<Volume, NodeName>,
}

/// Memory a container without a limit counts for, in MiB.
const UNLIMITED_COUNTS_AS: u64 = 4096;

fn weight(memory_mib: Option<u64>) -> u64 {
    memory_mib.unwrap_or(UNLIMITED_COUNTS_AS).max(1)
}

impl Placed {
    /// As a node's load counts it.
    #[must_use]
    pub fn of(spec: &ContainerSpec) -> Self {
        Self {
            app: spec.app.clone(),
            process: spec.process.clone(),
            memory_mib: weight(spec.limits.memory_mib),
            reserve: spec.limits.reserve,
            goes: false,
        }
    }
}

impl Wanted {
    /// What `spec` asks of a node.
    #[must_use]
    pub fn of(spec: &ContainerSpec, rules: Arc<Rules>) -> Self {
        Self {
            id: spec.id.clone(),
            app: spec.app.clone(),
            process: spec.process.clone(),
            ordinal: spec.ordinal,
            memory_mib: weight(spec.limits.memory_mib),
            reserve: spec.limits.reserve,
            rules,
            volumes: volumes(spec),
            towards: None,
        }
    }
}

/// What of a node this container mounts. A static site mounts nothing: no process runs.
#[must_use]
pub fn volumes(spec: &ContainerSpec) -> Vec<Volume> {
    if matches!(spec.run, Process::Static(_)) {
        return Vec::new();
    }
    spec.mounts.iter().map(|mount| Volume::of(&spec.app, &mount.source)).collect()
}
