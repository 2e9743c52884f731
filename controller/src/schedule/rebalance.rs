//! Rebalancing: which few containers would better run elsewhere.
//!
//! In: what runs where, the nodes, where volumes are. Out: [`Move`]s, each better by itself, at most as many as asked for. First
//! those that are where their rules do not allow them any more, or beside whom they are never to be, then types that stand closer
//! together than they need to, then from the fullest nodes to the emptiest. What is well enough stays: after the moves there is
//! none left to make.

use super::ledger::{At, Fullness, Ledger};
use super::{NodeState, Nodes, Pins, Wanted};
use berth_model::placing::{Rules, Spread};
use berth_model::{AppName, ContainerId, NodeName, ProcessType};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Nodes that differ by less than this share of what they have are equally full, in millionths.
const LEVEL: u64 = 200_000;

/// Of the emptiest nodes, how many are looked at for one move.
const MOST_TARGETS: usize = 64;
/// Nodes that nothing can be taken from, after which no more are tried.
const MOST_TRIED: usize = 200;

/// A container that runs and may be moved.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What it asks of a node.
    pub wanted: Wanted,
    /// Where it is.
    pub node: NodeName,
}

/// One container that would better run elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which container goes.
    pub id: ContainerId,
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// Where it is.
    pub from: NodeName,
    /// Where the one that takes its place is to go.
    pub to: NodeName,
    /// What for.
    pub why: Why,
}

/// What a move is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Labels or pool do not allow it where it is.
    Rules,
    /// Somebody is there whom it keeps apart from.
    Apart,
    /// More of its type are there than need be.
    Spread,
    /// The node is fuller than others.
    Load,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rules => "its labels or pool are not that node's",
            Self::Apart => "it keeps apart from what is there too",
            Self::Spread => "others of its type are there too",
            Self::Load => "that node is fuller than others",
        })
    }
}

/// At most `most` moves; what mounts something that is on one node only never moves.
#[must_use]
pub fn rebalance(standing: &[Standing], nodes: &Nodes, pins: &Pins, most: usize) -> Vec<Move> {
    let bound = |wanted: &Wanted| wanted.volumes.iter().any(|one| !matches!(pins.get(one), Some(None)));
    // What lost and drained nodes have is others' business.
    let stays = |node: &NodeName| {
        let state = nodes.get(node).map_or(NodeState::Silent, |node| node.state);
        matches!(state, NodeState::Silent | NodeState::Returning | NodeState::Draining)
    };
    let movable: Vec<&Standing> =
        standing.iter().filter(|one| !bound(&one.wanted) && !stays(&one.node)).collect();
    let mut board = Board {
        ledger: Ledger::new(movable.iter().map(|one| &one.wanted), nodes),
        on: BTreeMap::new(),
        moves: Vec::new(),
        moved: BTreeSet::new(),
        most,
    };
    for one in movable {
        let Some(at) = board.ledger.at(&one.node) else { continue };
        board.on.entry(at).or_default().push(&one.wanted);
    }
    board.by_rules();
    board.by_spread();
    board.by_load();
    board.moves
}

struct Board<'a> {
    ledger: Ledger<'a>,
    /// What may be moved from each node.
    on: BTreeMap<At, Vec<&'a Wanted>>,
    moves: Vec<Move>,
    moved: BTreeSet<&'a ContainerId>,
    most: usize,
}

/// How close it stands: to those it is rather not beside, then to its own type in the zone, and on the node.
type Close = (usize, usize, usize);
/// How good a node is for a container: the least is best.
type Rank = (Close, Fullness, At);

impl<'a> Board<'a> {
    fn is_full(&self) -> bool {
        self.moves.len() >= self.most
    }

    fn all(&self) -> Vec<(At, &'a Wanted)> {
        self.on.iter().flat_map(|(at, here)| here.iter().map(|one| (*at, *one))).collect()
    }

    fn make(&mut self, one: &'a Wanted, from: At, to: At, why: Why) {
        if let Some(here) = self.on.get_mut(&from) {
            here.retain(|other| other.id != one.id);
        }
        self.ledger.leave(one, from);
        self.ledger.book(one, to);
        self.moved.insert(&one.id);
        self.moves.push(Move {
            id: one.id.clone(),
            app: one.app.clone(),
            process: one.process.clone(),
            ordinal: one.ordinal,
            from: self.ledger.names[from].clone(),
            to: self.ledger.names[to].clone(),
            why,
        });
    }

    /// How good `at` is for `one`, which is on no node for a moment; `None` if it may not go there.
    fn rank(&self, one: &Wanted, at: At) -> Option<Rank> {
        if self.ledger.against(one, at).is_some() {
            return None;
        }
        Some((self.close(one, at), self.ledger.fullness(at), at))
    }

    /// How close `one`, which is on no node for a moment, would stand on this one.
    fn close(&self, one: &Wanted, at: At) -> Close {
        let disliked = self.ledger.disliked(one, at);
        match one.rules.spread {
            Spread::None => (disliked, 0, 0),
            _ => (disliked, self.ledger.count_in_zone(one, at), self.ledger.count(one, at)),
        }
    }

    /// The best node for `one` but the one it is on, and how it ranks; and how its own one does, whether it may be there or not.
    fn best(&mut self, one: &'a Wanted, from: At) -> Option<(Rank, Close)> {
        self.ledger.leave(one, from);
        let others = (0..self.ledger.names.len()).filter(|at| *at != from);
        let best = others.filter_map(|at| self.rank(one, at)).min();
        let own = self.close(one, from);
        self.ledger.book(one, from);
        best.map(|best| (best, own))
    }

    /// Those that are where their rules do not allow them.
    fn by_rules(&mut self) {
        for (from, one) in self.all() {
            // What was moved before may have taken what was in the way.
            let why = match one.rules.allow(&self.ledger.nodes[from].labels) {
                false => Why::Rules,
                true if self.ledger.kept_apart(one, from).is_some() => Why::Apart,
                true => continue,
            };
            if self.is_full() {
                return;
            }
            if let Some(((.., to), _)) = self.best(one, from) {
                self.make(one, from, to, why);
            }
        }
    }

    /// Those that have more of their type around them than they would have elsewhere.
    fn by_spread(&mut self) {
        let soft = |one: &Wanted| one.rules.apart.iter().any(|apart| !apart.is_hard);
        let mut types: BTreeMap<(&AppName, &ProcessType), Vec<(At, &'a Wanted)>> = BTreeMap::new();
        for (at, one) in
            self.all().into_iter().filter(|(_, one)| one.rules.spread != Spread::None || soft(one))
        {
            types.entry((&one.app, &one.process)).or_default().push((at, one));
        }
        let mut zones_of: BTreeMap<&Rules, BTreeSet<usize>> = BTreeMap::new();
        for mut of_type in types.into_values() {
            let Some((_, one)) = of_type.first() else { continue };
            let zones = zones_of.entry(&*one.rules).or_insert_with(|| self.zones(&one.rules));
            let disliked = of_type.iter().any(|(at, one)| self.ledger.disliked(one, *at) > 0);
            if !disliked && self.is_spread(one, zones) {
                continue;
            }
            // The last ones first: low numbers stay where people know them.
            of_type.sort_by_key(|(_, one)| std::cmp::Reverse(one.ordinal));
            for (from, one) in of_type {
                if self.is_full() {
                    return;
                }
                let alone = self.ledger.count_in_zone(one, from) < 2 && self.ledger.disliked(one, from) == 0;
                if alone || self.moved.contains(&one.id) {
                    continue;
                }
                let Some(((close, _, to), own)) = self.best(one, from) else { continue };
                if close < own {
                    self.make(one, from, to, if close.0 < own.0 { Why::Apart } else { Why::Spread });
                }
            }
        }
    }

    /// The zones that have a node for these rules.
    fn zones(&self, rules: &Rules) -> BTreeSet<usize> {
        let allowed = |at: &At| self.ledger.is_open(*at) && rules.allow(&self.ledger.nodes[*at].labels);
        (0..self.ledger.names.len()).filter(allowed).map(|at| self.ledger.zone_of[at]).collect()
    }

    /// Whether zones differ by one at most, and no node has two: nothing can be better.
    fn is_spread(&self, one: &Wanted, zones: &BTreeSet<usize>) -> bool {
        let mut counts: BTreeMap<usize, usize> = zones.iter().map(|zone| (*zone, 0)).collect();
        for (at, count) in self.ledger.siblings_of(one) {
            if count > 1 {
                return false;
            }
            *counts.entry(self.ledger.zone_of[at]).or_default() += count;
        }
        let (most, least) = (counts.values().max(), counts.values().min());
        most.copied().unwrap_or(0) <= least.copied().unwrap_or(0) + 1
    }

    /// From the fullest nodes to the emptiest, where that makes types stand no closer.
    fn by_load(&mut self) {
        let mut done: BTreeSet<At> = BTreeSet::new();
        while !self.is_full() && done.len() < MOST_TRIED {
            let open = self.on.keys().copied().filter(|at| !done.contains(at));
            let fullest = open.max_by_key(|at| (self.ledger.fullness(*at), std::cmp::Reverse(*at)));
            let Some(from) = fullest else { return };
            // Where it may go is looked at for each; that somewhere is room at all, for all.
            let room = self.ledger.fullness(from).saturating_sub(LEVEL);
            let pool = self.ledger.pool(from);
            let mut empty: Vec<(Fullness, At)> = (0..self.ledger.names.len())
                .filter(|at| self.ledger.is_open(*at) && self.ledger.pool(*at) == pool)
                .map(|at| (self.ledger.fullness(at), at))
                .filter(|(fullness, _)| *fullness <= room)
                .collect();
            if empty.is_empty() {
                done.insert(from);
                continue;
            }
            if empty.len() > MOST_TARGETS {
                empty.select_nth_unstable(MOST_TARGETS);
                empty.truncate(MOST_TARGETS);
            }
            empty.sort_unstable();
            match self.relief(from, &empty) {
                Some((one, to)) => self.make(one, from, to, Why::Load),
                None => drop(done.insert(from)),
            }
        }
    }

    /// What of `from` goes where, so that the fuller of both is less full than `from` was by a good piece, and nothing stands
    /// closer together than before.
    fn relief(&mut self, from: At, empty: &[(Fullness, At)]) -> Option<(&'a Wanted, At)> {
        let full = self.ledger.fullness(from);
        let mut best: Option<(Fullness, At, &'a Wanted)> = None;
        for one in self.on.get(&from)?.clone() {
            if self.moved.contains(&one.id) {
                continue;
            }
            self.ledger.leave(one, from);
            let own = self.close(one, from);
            let rest = self.ledger.fullness(from);
            for (_, to) in empty.iter().copied().filter(|(_, to)| *to != from) {
                let Some((close, ..)) = self.rank(one, to) else { continue };
                if close > own {
                    continue;
                }
                self.ledger.book(one, to);
                let then = self.ledger.fullness(to).max(rest);
                self.ledger.leave(one, to);
                let better = best.as_ref().is_none_or(|(fuller, ..)| then < *fuller);
                if then.saturating_add(LEVEL / 2) <= full && better {
                    best = Some((then, to, one));
                }
            }
            self.ledger.book(one, from);
        }
        best.map(|(_, to, one)| (one, to))
    }
}
