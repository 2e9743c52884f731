//! What nodes have promised, and how many of each type they have, while containers are put on them.
//!
//! In: nodes, bookings. Out: how full each is, and what stands against a container there.

use super::refusal::{self, Against};
use super::{Node, NodeState, Nodes, Wanted};
use berth_model::apart::{Apart, Within};
use berth_model::container::Reserve;
use berth_model::placing::{POOL, Rules, Spread};
use berth_model::{AppName, NodeName, ProcessType};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A node by its place in the order of names.
pub(super) type At = usize;
/// How full a node is, in millionths.
pub(super) type Fullness = u64;
pub(super) type Type<'a> = (&'a AppName, &'a ProcessType);

/// What a node has promised so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    promised_mib: u64,
    memory_mib: u64,
    cpu_millis: u64,
    /// What was placed here just now reserves this much of the disk that is still free.
    disk_mib: u64,
}

impl Load {
    fn add(&mut self, promised_mib: u64, reserve: Reserve) {
        self.promised_mib = self.promised_mib.saturating_add(promised_mib);
        self.memory_mib = self.memory_mib.saturating_add(reserve.memory_mib.unwrap_or(0));
        self.cpu_millis = self.cpu_millis.saturating_add(reserve.cpu_millis.unwrap_or(0));
    }

    /// Promised memory against what there is, or reserved CPU where that is scarcer. Limits are no reservations, so by them a
    /// node is never too full.
    fn fullness(&self, node: &Node) -> Fullness {
        let share = |part: u64, whole: u64| part.saturating_mul(1_000_000) / whole.max(1);
        let cpu = if node.cpu_millis == 0 { 0 } else { share(self.cpu_millis, node.cpu_millis) };
        share(self.promised_mib, node.memory_mib).max(cpu)
    }

    /// Whether `reserve` is left. What reserves nothing fits everywhere.
    fn leaves(&self, reserve: Reserve, node: &Node) -> bool {
        let within = |wanted: Option<u64>, taken: u64, most: u64| {
            wanted.is_none_or(|wanted| most == 0 || taken.saturating_add(wanted) <= most)
        };
        within(reserve.memory_mib, self.memory_mib, node.memory_mib)
            && within(reserve.cpu_millis, self.cpu_millis, node.cpu_millis)
            && within(reserve.disk_mib, self.disk_mib, node.disk_free_mib)
    }

    fn left(&self, node: &Node) -> (u64, u64, u64) {
        (
            node.memory_mib.saturating_sub(self.memory_mib),
            node.cpu_millis.saturating_sub(self.cpu_millis),
            node.disk_free_mib.saturating_sub(self.disk_mib),
        )
    }
}

/// Every node, with what was booked on it so far.
pub(super) struct Ledger<'a> {
    pub(super) names: Vec<&'a NodeName>,
    pub(super) nodes: Vec<&'a Node>,
    pub(super) zone_of: Vec<usize>,
    pub(super) loads: Vec<Load>,
    /// How many of each wanted type a node has; none is no entry.
    pub(super) siblings: HashMap<Type<'a>, HashMap<At, usize>>,
    /// By app, whom somebody of the wanted keeps away from.
    apart: HashMap<&'a AppName, Vec<&'a Apart>>,
    /// How many of those a node has; none is no entry.
    near: HashMap<&'a Apart, HashMap<At, usize>>,
}

/// Whom `wanted` keep away from, by app, each once.
fn aparts<'a>(wanted: impl Iterator<Item = &'a Wanted>) -> HashMap<&'a AppName, Vec<&'a Apart>> {
    let rules: HashMap<*const Rules, &Arc<Rules>> =
        wanted.map(|one| (Arc::as_ptr(&one.rules), &one.rules)).collect();
    let all: HashSet<&Apart> = rules.values().flat_map(|rules| &rules.apart).collect();
    let mut by_app: HashMap<_, Vec<_>> = HashMap::new();
    all.into_iter().for_each(|one| by_app.entry(&one.app).or_default().push(one));
    by_app
}

/// Counts one container on a node for those who keep away from it.
fn come<'a>(
    apart: &HashMap<&'a AppName, Vec<&'a Apart>>,
    near: &mut HashMap<&'a Apart, HashMap<At, usize>>,
    (app, process): Type<'_>,
    at: At,
) {
    if apart.is_empty() {
        return;
    }
    for one in apart.get(app).into_iter().flatten().filter(|one| one.means(app, process)) {
        *near.entry(one).or_default().entry(at).or_default() += 1;
    }
}

impl<'a> Ledger<'a> {
    /// As the nodes are now. Only the types of `wanted` are counted.
    pub(super) fn new(wanted: impl Iterator<Item = &'a Wanted> + Clone, nodes: &'a Nodes) -> Self {
        let apart = aparts(wanted.clone());
        let mut near = HashMap::new();
        let types: HashSet<Type<'_>> = wanted.map(|one| (&one.app, &one.process)).collect();
        let mut zones: HashMap<&str, usize> = HashMap::new();
        let mut siblings: HashMap<Type<'a>, HashMap<At, usize>> = HashMap::new();
        let (mut zone_of, mut loads) = (Vec::new(), Vec::new());
        for (at, node) in nodes.values().enumerate() {
            let fresh = zones.len();
            zone_of.push(*zones.entry(node.zone()).or_insert(fresh));
            let mut load = Load::default();
            for placed in &node.placed {
                let kept = if placed.goes { Reserve::default() } else { placed.reserve };
                load.add(placed.memory_mib, kept);
                let of = (&placed.app, &placed.process);
                if placed.goes {
                    continue;
                }
                come(&apart, &mut near, of, at);
                if types.contains(&of) {
                    *siblings.entry(of).or_default().entry(at).or_default() += 1;
                }
            }
            loads.push(load);
        }
        let (names, nodes) = (nodes.keys().collect(), nodes.values().collect());
        Self { names, nodes, zone_of, loads, siblings, apart, near }
    }

    /// The node of this name.
    pub(super) fn at(&self, name: &NodeName) -> Option<At> {
        self.names.binary_search(&name).ok()
    }

    /// Puts `one` on a node.
    pub(super) fn book(&mut self, one: &'a Wanted, at: At) {
        self.loads[at].add(one.memory_mib, one.reserve);
        let disk = &mut self.loads[at].disk_mib;
        *disk = disk.saturating_add(one.reserve.disk_mib.unwrap_or(0));
        *self.siblings.entry((&one.app, &one.process)).or_default().entry(at).or_default() += 1;
        come(&self.apart, &mut self.near, (&one.app, &one.process), at);
    }

    /// Takes `one`, which is there, off its node. What it reserved of the disk may be written to, so that is not given back.
    pub(super) fn leave(&mut self, one: &'a Wanted, at: At) {
        let load = &mut self.loads[at];
        load.promised_mib = load.promised_mib.saturating_sub(one.memory_mib);
        load.memory_mib = load.memory_mib.saturating_sub(one.reserve.memory_mib.unwrap_or(0));
        load.cpu_millis = load.cpu_millis.saturating_sub(one.reserve.cpu_millis.unwrap_or(0));
        if let Some(siblings) = self.siblings.get_mut(&(&one.app, &one.process)) {
            one_less(siblings, at);
        }
        let of_app = self.apart.get(&one.app).into_iter().flatten();
        for apart in of_app.filter(|apart| apart.means(&one.app, &one.process)) {
            if let Some(near) = self.near.get_mut(apart) {
                one_less(near, at);
            }
        }
    }

    /// How many of those are where a container on this node would be too close to them.
    fn near(&self, apart: &Apart, at: At) -> usize {
        let Some(near) = self.near.get(apart) else { return 0 };
        match apart.within {
            Within::Node => near.get(&at).copied().unwrap_or(0),
            Within::Zone => {
                let here = |(other, _): &(&At, &usize)| self.zone_of[**other] == self.zone_of[at];
                near.iter().filter(here).map(|(_, count)| count).sum()
            }
        }
    }

    /// Whom `one` would be beside on this node and never is to be.
    pub(super) fn kept_apart<'b>(&self, one: &'b Wanted, at: At) -> Option<&'b Apart> {
        one.rules.apart.iter().find(|apart| apart.is_hard && self.near(apart, at) > 0)
    }

    /// How many `one` would be beside on this node and rather is not to be.
    pub(super) fn disliked(&self, one: &Wanted, at: At) -> usize {
        let soft = one.rules.apart.iter().filter(|apart| !apart.is_hard);
        soft.map(|apart| self.near(apart, at)).sum()
    }

    pub(super) fn fullness(&self, at: At) -> Fullness {
        self.loads[at].fullness(self.nodes[at])
    }

    /// Whether it takes new containers.
    pub(super) fn is_open(&self, at: At) -> bool {
        self.nodes[at].state == NodeState::Open
    }

    /// Whether as much as it reserves is left there.
    pub(super) fn fits(&self, one: &Wanted, at: At) -> bool {
        self.loads[at].leaves(one.reserve, self.nodes[at])
    }

    /// How many of its type the node has.
    pub(super) fn count(&self, one: &Wanted, at: At) -> usize {
        let siblings = self.siblings.get(&(&one.app, &one.process));
        siblings.and_then(|siblings| siblings.get(&at)).copied().unwrap_or(0)
    }

    /// The nodes that have some of its type, and how many.
    pub(super) fn siblings_of(&self, one: &Wanted) -> Vec<(At, usize)> {
        let siblings = self.siblings.get(&(&one.app, &one.process));
        siblings.into_iter().flatten().map(|(at, count)| (*at, *count)).collect()
    }

    /// The pool it is of.
    pub(super) fn pool(&self, at: At) -> Option<&String> {
        self.nodes[at].labels.get(POOL)
    }

    /// How many of its type the node's zone has.
    pub(super) fn count_in_zone(&self, one: &Wanted, at: At) -> usize {
        let siblings = self.siblings.get(&(&one.app, &one.process));
        let here = |(sibling, _): &(&At, &usize)| self.zone_of[**sibling] == self.zone_of[at];
        siblings.into_iter().flatten().filter(here).map(|(_, count)| count).sum()
    }

    /// What keeps `one` away from this node.
    pub(super) fn against(&self, one: &Wanted, at: At) -> Option<Against> {
        let (node, load) = (self.nodes[at], self.loads[at]);
        let taken = match one.rules.spread {
            Spread::Even | Spread::None => false,
            Spread::DistinctNodes => self.count(one, at) > 0,
            Spread::DistinctZones => self.count_in_zone(one, at) > 0,
        };
        let apart = self.kept_apart(one, at);
        refusal::against(one, node, apart, load.left(node), load.leaves(one.reserve, node), taken)
    }
}

fn one_less(counts: &mut HashMap<At, usize>, at: At) {
    if let Some(count) = counts.get_mut(&at) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&at);
        }
    }
}
