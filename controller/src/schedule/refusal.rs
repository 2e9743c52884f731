//! Why a container has no node, in one sentence.
//!
//! In: what it asks for, and every node. Out: [`Refusal`]s, in which nodes with the same reason stand together.

use super::{Node, NodeState, Nodes, Volume, Wanted};
use berth_model::NodeName;
use berth_model::apart::{Apart, Within};
use berth_model::container::Reserve;
use berth_model::placing::{LabelRule, Spread};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// How many nodes are named; the others are counted.
const NAMED: usize = 3;

/// Why one container has no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `web.3`.
    pub slot: String,
    /// Why. Shared: a thousand replicas may wait for the same.
    pub reason: Arc<Reason>,
}

impl Refusal {
    /// Whether waiting a moment can help: a controller that has just started knows of no node yet.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match &*self.reason {
            Reason::NoNodes | Reason::AllSilent(_) => true,
            Reason::Volume { state, .. } => matches!(state, Some(NodeState::Silent) | None),
            Reason::VolumesApart { .. } | Reason::Nodes(_) => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has nowhere to run: {}", self.slot, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// What stands against all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No machine has ever joined.
    NoNodes,
    /// All of them are silent.
    AllSilent(Vec<NodeName>),
    /// What it mounts is on a node that does not take it.
    Volume {
        /// What.
        volume: Volume,
        /// Where it is.
        node: NodeName,
        /// What is with that node; `None` if it is no node of the platform any more.
        state: Option<NodeState>,
        /// What else stands against it.
        against: Option<Against>,
    },
    /// What it mounts is on two nodes.
    VolumesApart {
        /// What, and where.
        first: (Volume, NodeName),
        /// What else, and where.
        second: (Volume, NodeName),
    },
    /// Each has something against it.
    Nodes(BTreeMap<Against, Vec<NodeName>>),
}

/// What stands against one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Against {
    /// It takes nothing new.
    State(NodeState),
    /// It is of another pool.
    Pool(Option<String>),
    /// It has not the labels.
    Label(LabelRule),
    /// Somebody is there, or in its zone, whom it is never beside.
    Apart(Apart),
    /// There is not as much left.
    Full {
        /// What the container reserves.
        wanted: (Option<u64>, Option<u64>, Option<u64>),
        /// MiB of memory and thousandths of a CPU that are left, MiB of disk that are free.
        left: (u64, u64, u64),
    },
    /// It, or its zone, has one of the type already.
    Taken(Spread),
}

/// What stands against `node`, which has somebody to keep `apart` from, of which `left` is left unreserved and which, or whose
/// zone, has one of the type already.
pub(super) fn against(
    wanted: &Wanted,
    node: &Node,
    apart: Option<&Apart>,
    left: (u64, u64, u64),
    fits: bool,
    taken: bool,
) -> Option<Against> {
    if node.state != NodeState::Open {
        return Some(Against::State(node.state));
    }
    if !wanted.rules.in_pool(&node.labels) {
        return Some(Against::Pool(wanted.rules.pool.clone()));
    }
    if let Some(rule) = wanted.rules.labels.iter().find(|rule| !rule.holds(&node.labels)) {
        return Some(Against::Label(rule.clone()));
    }
    if let Some(apart) = apart {
        return Some(Against::Apart(apart.clone()));
    }
    if !fits {
        let Reserve { memory_mib, cpu_millis, disk_mib } = wanted.reserve;
        return Some(Against::Full { wanted: (memory_mib, cpu_millis, disk_mib), left });
    }
    taken.then_some(Against::Taken(wanted.rules.spread))
}

/// Groups what stands against each node, named by their place in the order of names.
pub(super) fn of_nodes(nodes: &Nodes, against: impl Fn(usize) -> Option<Against>) -> Reason {
    if nodes.is_empty() {
        return Reason::NoNodes;
    }
    if nodes.values().all(|node| node.state == NodeState::Silent) {
        return Reason::AllSilent(nodes.keys().take(NAMED + 1).cloned().collect());
    }
    let mut groups: BTreeMap<Against, Vec<NodeName>> = BTreeMap::new();
    for (at, name) in nodes.keys().enumerate() {
        if let Some(against) = against(at) {
            groups.entry(against).or_default().push(name.clone());
        }
    }
    Reason::Nodes(groups)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNodes => f.write_str("no node has reported yet; is `berth agent` running?"),
            Self::AllSilent(nodes) => {
                let text = some(nodes);
                write!(f, "none of the nodes reports ({text}); is `berth agent` running there?")
            }
            Self::Volume { volume, node, state, against } => {
                write!(f, "its {volume} is on {node}, which ")?;
                match (state, against) {
                    (None, _) => {
                        write!(f, "is no node any more; say where it is now with: berth storage:node")
                    }
                    (Some(NodeState::Silent), _) => {
                        write!(f, "does not report; it starts there when that node is back")
                    }
                    (Some(_), Some(against)) => f.write_str(&against.of_one()),
                    (Some(state), None) => f.write_str(verb(*state)),
                }
            }
            Self::VolumesApart { first, second } => write!(
                f,
                "its {} is on {} and its {} on {}; bring them together and say so with: berth storage:node",
                first.0, first.1, second.0, second.1
            ),
            Self::Nodes(groups) => nodes_text(groups, f),
        }
    }
}

impl Against {
    fn of_one(&self) -> String {
        match self {
            Self::State(state) => verb(*state).to_owned(),
            Self::Pool(Some(pool)) => format!("is not of pool {pool}"),
            Self::Pool(None) => "is kept for a pool".to_owned(),
            Self::Label(rule) => format!("has not {rule}"),
            Self::Apart(apart) if apart.within == Within::Zone => {
                format!("is in a zone that has {apart}, which it keeps apart from")
            }
            Self::Apart(apart) => format!("has {apart}, which it keeps apart from"),
            Self::Full { wanted, left } => {
                format!("has not the {} left that it reserves ({})", amounts(*wanted), left_text(*left))
            }
            Self::Taken(Spread::DistinctZones) => "is in a zone that has one already".to_owned(),
            Self::Taken(_) => "has one already".to_owned(),
        }
    }
}

fn verb(state: NodeState) -> &'static str {
    match state {
        NodeState::Open => "is open",
        NodeState::Silent => "does not report",
        NodeState::Returning => "is just coming back",
        NodeState::Cordoned => "is cordoned",
        NodeState::Draining => "is being drained",
        NodeState::ShortOfDisk => "has nearly no disk left",
        NodeState::ShortOfMemory => "has nearly no memory left",
    }
}

fn plural(state: NodeState) -> &'static str {
    match state {
        NodeState::Open => "are open",
        NodeState::Silent => "do not report",
        NodeState::Returning => "are just coming back",
        NodeState::Cordoned => "are cordoned",
        NodeState::Draining => "are being drained",
        NodeState::ShortOfDisk => "have nearly no disk left",
        NodeState::ShortOfMemory => "have nearly no memory left",
    }
}

/// `n1, n2, n3 and 4 more`.
fn some(nodes: &[NodeName]) -> String {
    let named: Vec<_> = nodes.iter().take(NAMED).map(NodeName::as_str).collect();
    match nodes.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn amounts((memory, cpu, disk): (Option<u64>, Option<u64>, Option<u64>)) -> String {
    let memory = memory.map(|mib| format!("{mib} MiB"));
    let cpu = cpu.map(|millis| format!("{millis}m CPU"));
    let disk = disk.map(|mib| format!("{mib} MiB of disk"));
    memory.into_iter().chain(cpu).chain(disk).collect::<Vec<_>>().join(" and ")
}

fn left_text((memory, cpu, disk): (u64, u64, u64)) -> String {
    format!("{memory} MiB and {cpu}m CPU, {disk} MiB of disk")
}

fn nodes_text(groups: &BTreeMap<Against, Vec<NodeName>>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut parts: Vec<String> = Vec::new();
    // Nodes that are full differ in what is left.
    let mut full: Vec<(&NodeName, (u64, u64, u64))> = Vec::new();
    let mut wants = None;
    for (against, nodes) in groups {
        let (who, one) = (some(nodes), nodes.len() == 1);
        let text = match against {
            Against::Full { wanted, left } => {
                wants = Some(*wanted);
                full.extend(nodes.iter().map(|node| (node, *left)));
                continue;
            }
            _ if one => against.of_one(),
            Against::State(state) => plural(*state).to_owned(),
            Against::Pool(Some(pool)) => format!("are not of pool {pool}"),
            Against::Pool(None) => "are kept for pools".to_owned(),
            Against::Label(rule) => format!("have not {rule}"),
            Against::Apart(apart) if apart.within == Within::Zone => {
                format!("are in zones that have {apart}, which it keeps apart from")
            }
            Against::Apart(apart) => format!("have {apart}, which it keeps apart from"),
            Against::Taken(Spread::DistinctZones) => "are in zones that have one already".to_owned(),
            Against::Taken(_) => "have one already".to_owned(),
        };
        parts.push(format!("{who} {text}"));
    }
    if let Some(wanted) = wants {
        full.sort_by_key(|(name, _)| *name);
        let named = full.iter().take(NAMED).map(|(name, left)| format!("{name}: {}", left_text(*left)));
        let more = match full.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = named.collect::<Vec<_>>().join("; ");
        let wanted = amounts(wanted);
        parts.push(format!(
            "it reserves {wanted}, and no node it may run on has that much unreserved ({named}{more}); reserve less \
             with: berth resource:reserve, or add a node"
        ));
    }
    f.write_str(&parts.join("; "))
}
