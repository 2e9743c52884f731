//! Choosing a node for each container.
//!
//! In: what is wanted, in order, the nodes, and where volumes are. Out: a [`Placement`].
//!
//! Nodes that the same rules allow stand in one [`Index`]: for each zone a heap by fullness. Fullness only grows while placing
//! goes on, so an entry that is out of date is found out when it comes to the top, and is put back where it belongs: nothing
//! has to be looked for. Containers of one type that come one after the other share a [`Session`], which keeps the nodes
//! that have some of them apart by their number. So one container costs O(zones + log nodes), however many there are.

use super::ledger::{At, Fullness, Ledger, Type};
use super::refusal::{self, Reason, Refusal};
use super::{NodeState, Nodes, Pins, Placement, Volume, Wanted};
use berth_model::NodeName;
use berth_model::container::Reserve;
use berth_model::placing::{LabelRule, Rules, Spread};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

/// How many sets of rules are kept at hand at once.
const MOST_INDEXES: usize = 64;

/// Places `wanted`, in order.
///
/// A container goes to an open node of its pool that has its labels and as much unreserved as it reserves; to the node its
/// volumes are on, if it has some; never beside whom it keeps apart from. Among those one where nobody is whom it is rather not
/// beside, or the fewest of those, is taken; of several the zone with the fewest of its type is taken, then the node with the fewest,
/// then the least full, then the first by name. What cannot be placed is refused by itself: the others are placed all the same.
#[must_use]
pub fn place(wanted: &[Wanted], nodes: &Nodes, pins: &Pins) -> Placement {
    let ledger = Ledger::new(wanted.iter(), nodes);
    let places =
        Places { ledger, by_name: nodes, indexes: HashMap::new(), pins, placement: Placement::default() };
    places.run(wanted)
}

/// The open nodes that one pool and set of labels allow: for each zone a heap, the least full on top.
#[derive(Default)]
struct Index {
    zones: BTreeMap<usize, BinaryHeap<Reverse<(Fullness, At)>>>,
    /// Nowhere among them is this much left, nor will it be: what is placed never goes again here.
    full_for: Vec<(Reserve, Arc<Reason>)>,
}

impl Index {
    fn is_full_for(&self, reserve: Reserve) -> bool {
        let at_least = |wanted: Option<u64>, least: Option<u64>| wanted.unwrap_or(0) >= least.unwrap_or(0);
        self.full_for.iter().any(|(full, _)| {
            at_least(reserve.memory_mib, full.memory_mib)
                && at_least(reserve.cpu_millis, full.cpu_millis)
                && at_least(reserve.disk_mib, full.disk_mib)
        })
    }
}

/// Containers that ask for the same, one after the other.
struct Session<'a> {
    of: Type<'a>,
    rules: &'a Arc<Rules>,
    reserve: Reserve,
    index: Index,
    zones: BTreeMap<usize, Zone>,
    /// Why the one before had no node: the next one has none either.
    refused: Option<Arc<Reason>>,
}

/// A node that may be chosen; the least of them is.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Best {
    /// How many it has whom it is rather not beside.
    disliked: usize,
    /// How many of the type its zone has.
    in_zone: usize,
    /// How many of the type it has.
    count: usize,
    fullness: Fullness,
    at: At,
    zone: usize,
}

/// One zone in a session.
#[derive(Default)]
struct Zone {
    /// How many of the type are in it.
    count: usize,
    /// Nodes that have some of the type, those with the fewest first.
    held: BTreeSet<(usize, Fullness, At)>,
    /// Nodes that have some whom the type is rather not beside, those with the fewest first; then as `held`.
    disliked: BTreeSet<(usize, usize, Fullness, At)>,
    /// Nodes without enough left, or with somebody whom the type keeps apart from.
    unfit: Vec<At>,
}

struct Places<'a> {
    ledger: Ledger<'a>,
    by_name: &'a Nodes,
    indexes: HashMap<(&'a Option<String>, &'a BTreeSet<LabelRule>), Index>,
    pins: &'a Pins,
    placement: Placement,
}

impl<'a> Places<'a> {
    fn run(mut self, wanted: &'a [Wanted]) -> Placement {
        let mut session: Option<Session<'a>> = None;
        for one in wanted {
            let outcome = match self.home(one) {
                Err(reason) => Err(reason),
                Ok(Some(at)) => self.at_home(one, at),
                Ok(None) => match self.towards(one) {
                    Some(at) => Ok(at),
                    None => {
                        let mut current = match session.take() {
                            Some(current) if current.suits(one) => current,
                            before => {
                                self.end(before);
                                self.begin(one)
                            }
                        };
                        let outcome = self.in_session(&mut current, one);
                        session = Some(current);
                        self.note(one, outcome);
                        continue;
                    }
                },
            };
            // What the session knows of that node is true no more.
            self.end(session.take());
            if let Ok(at) = outcome {
                self.book(one, at);
            }
            self.note(one, outcome);
        }
        self.placement
    }

    /// Chooses and books.
    fn in_session(&mut self, session: &mut Session<'a>, one: &'a Wanted) -> Result<At, Arc<Reason>> {
        let Some(best) = self.choose(session, one) else { return Err(self.why(session, one)) };
        self.book(one, best.at);
        let zone = session.zones.get_mut(&best.zone).expect("it was chosen from there");
        zone.count += 1;
        // One on the heap is found out of date when it comes to the top.
        let then = (best.disliked, best.count, best.fullness, best.at);
        if zone.disliked.remove(&then) {
            let count = if one.rules.spread == Spread::None { 0 } else { best.count + 1 };
            zone.disliked.insert((best.disliked, count, self.ledger.fullness(best.at), best.at));
        }
        if zone.held.remove(&(best.count, best.fullness, best.at)) {
            let fullness = self.ledger.fullness(best.at);
            zone.held.insert((best.count + 1, fullness, best.at));
        }
        Ok(best.at)
    }

    fn note(&mut self, one: &Wanted, outcome: Result<At, Arc<Reason>>) {
        match outcome {
            Ok(at) => drop(self.placement.placed.insert(one.id.clone(), self.ledger.names[at].clone())),
            Err(reason) => {
                let slot = format!("{}.{}", one.process, one.ordinal);
                self.placement.refused.insert(one.id.clone(), Refusal { slot, reason });
            }
        }
    }

    /// Books `one` on a node, and its volumes.
    fn book(&mut self, one: &'a Wanted, at: At) {
        self.ledger.book(one, at);
        for volume in &one.volumes {
            if !self.pins.contains_key(volume) {
                self.placement.pinned.insert(volume.clone(), self.ledger.names[at].clone());
            }
        }
    }

    /// The node where its volumes are, if one of them is somewhere.
    fn home(&self, one: &Wanted) -> Result<Option<At>, Arc<Reason>> {
        let mut home: Option<(&Volume, &NodeName)> = None;
        for volume in &one.volumes {
            let pinned = self.pins.get(volume).and_then(Option::as_ref);
            let Some(node) = pinned.or_else(|| self.placement.pinned.get(volume)) else { continue };
            match home {
                Some((other, elsewhere)) if elsewhere != node => {
                    return Err(Arc::new(Reason::VolumesApart {
                        first: (other.clone(), elsewhere.clone()),
                        second: (volume.clone(), node.clone()),
                    }));
                }
                _ => home = Some((volume, node)),
            }
        }
        let Some((volume, node)) = home else { return Ok(None) };
        let gone =
            || Reason::Volume { volume: volume.clone(), node: node.clone(), state: None, against: None };
        self.ledger.at(node).map(Some).ok_or_else(|| Arc::new(gone()))
    }

    /// Whether the node of its volumes takes it.
    fn at_home(&self, one: &Wanted, at: At) -> Result<At, Arc<Reason>> {
        let Some(against) = self.ledger.against(one, at) else { return Ok(at) };
        let node = self.ledger.names[at].clone();
        let on_it = |volume: &&Volume| {
            let pinned = self.pins.get(*volume).and_then(Option::as_ref);
            pinned.or_else(|| self.placement.pinned.get(*volume)) == Some(&node)
        };
        let volume = one.volumes.iter().find(on_it).expect("it is at home there").clone();
        let state = Some(self.ledger.nodes[at].state);
        Err(Arc::new(Reason::Volume { volume, node, state, against: Some(against) }))
    }

    /// The node it was planned for, if that takes it.
    fn towards(&self, one: &Wanted) -> Option<At> {
        let at = self.ledger.at(one.towards.as_ref()?)?;
        self.ledger.against(one, at).is_none().then_some(at)
    }

    fn begin(&mut self, one: &'a Wanted) -> Session<'a> {
        let of = (&one.app, &one.process);
        let key = (&one.rules.pool, &one.rules.labels);
        if self.indexes.len() >= MOST_INDEXES && !self.indexes.contains_key(&key) {
            self.indexes.clear();
        }
        let index = self.indexes.remove(&key).unwrap_or_else(|| self.index(&one.rules));
        let mut zones: BTreeMap<usize, Zone> =
            index.zones.keys().map(|zone| (*zone, Zone::default())).collect();
        for (at, count) in self.ledger.siblings.get(&of).into_iter().flatten() {
            if let Some(zone) = zones.get_mut(&self.ledger.zone_of[*at]) {
                zone.count += count;
            }
        }
        Session { of, rules: &one.rules, reserve: one.reserve, index, zones, refused: None }
    }

    fn index(&self, rules: &Rules) -> Index {
        let mut index = Index::default();
        for (at, node) in self.ledger.nodes.iter().enumerate() {
            if node.state == NodeState::Open && rules.allow(&node.labels) {
                let entry = Reverse((self.ledger.fullness(at), at));
                index.zones.entry(self.ledger.zone_of[at]).or_default().push(entry);
            }
        }
        index
    }

    /// Puts back what the session kept apart.
    fn end(&mut self, session: Option<Session<'a>>) {
        let Some(Session { rules, mut index, zones, .. }) = session else { return };
        for (key, zone) in zones {
            let Some(heap) = index.zones.get_mut(&key) else { continue };
            let disliked = zone.disliked.into_iter().map(|(.., at)| at);
            let apart = zone.held.into_iter().map(|(_, _, at)| at).chain(disliked).chain(zone.unfit);
            heap.extend(apart.map(|at| Reverse((self.ledger.fullness(at), at))));
        }
        self.indexes.insert((&rules.pool, &rules.labels), index);
    }

    /// The best node of the best zone.
    fn choose(&self, session: &mut Session<'a>, one: &Wanted) -> Option<Best> {
        if session.refused.is_some() || session.index.is_full_for(one.reserve) {
            return None;
        }
        let spread = one.rules.spread;
        let mut best: Option<Best> = None;
        for (key, zone) in &mut session.zones {
            let in_zone = if spread == Spread::None { 0 } else { zone.count };
            let cannot_win = best.as_ref().is_some_and(|best| best.disliked == 0 && best.in_zone < in_zone);
            if cannot_win || (spread == Spread::DistinctZones && in_zone > 0) {
                continue;
            }
            let Some(heap) = session.index.zones.get_mut(key) else { continue };
            let found = match self.best_of(heap, zone, one) {
                Some((count, fullness, at)) => Some((0, count, fullness, at)),
                None => self.least_disliked(zone, one),
            };
            let Some((disliked, count, fullness, at)) = found else { continue };
            let candidate = Best { disliked, in_zone, count, fullness, at, zone: *key };
            if best.as_ref().is_none_or(|best| candidate < *best) {
                best = Some(candidate);
            }
        }
        best
    }

    /// The node of a zone that has the fewest of the type; of those the least full.
    fn best_of(
        &self,
        heap: &mut BinaryHeap<Reverse<(Fullness, At)>>,
        zone: &mut Zone,
        one: &Wanted,
    ) -> Option<(usize, Fullness, At)> {
        let siblings = self.ledger.siblings.get(&(&one.app, &one.process));
        while let Some(Reverse((then, at))) = heap.peek().copied() {
            let now = self.ledger.fullness(at);
            if now != then {
                heap.pop();
                heap.push(Reverse((now, at)));
                continue;
            }
            if !self.ledger.fits(one, at) || self.ledger.kept_apart(one, at).is_some() {
                heap.pop();
                zone.unfit.push(at);
                continue;
            }
            let count = match one.rules.spread {
                Spread::None => 0,
                _ => siblings.and_then(|siblings| siblings.get(&at)).copied().unwrap_or(0),
            };
            let disliked = self.ledger.disliked(one, at);
            if disliked > 0 {
                heap.pop();
                zone.disliked.insert((disliked, count, now, at));
                continue;
            }
            match count {
                0 => return Some((0, now, at)),
                count => {
                    heap.pop();
                    zone.held.insert((count, now, at));
                }
            }
        }
        if one.rules.spread == Spread::DistinctNodes {
            return None;
        }
        while let Some((count, fullness, at)) = zone.held.first().copied() {
            if self.ledger.fits(one, at) {
                return Some((count, fullness, at));
            }
            zone.held.pop_first();
            zone.unfit.push(at);
        }
        None
    }

    /// Of a zone whose other nodes are no choice, the one with the fewest whom it is rather not beside.
    fn least_disliked(&self, zone: &mut Zone, one: &Wanted) -> Option<(usize, usize, Fullness, At)> {
        while let Some(first @ (_, count, _, at)) = zone.disliked.first().copied() {
            let taken = one.rules.spread == Spread::DistinctNodes && count > 0;
            if !taken && self.ledger.fits(one, at) {
                return Some(first);
            }
            zone.disliked.pop_first();
            zone.unfit.push(at);
        }
        None
    }

    /// Why no node takes it. Looked for once for all that ask for the same.
    fn why(&self, session: &mut Session<'a>, one: &Wanted) -> Arc<Reason> {
        if let Some(reason) = &session.refused {
            return reason.clone();
        }
        let full_for = &mut session.index.full_for;
        // With these only what it reserves counts, so another type's reason is the same.
        let shares = matches!(one.rules.spread, Spread::Even | Spread::None)
            && !one.rules.apart.iter().any(|apart| apart.is_hard);
        let known = full_for.iter().find(|(reserve, _)| shares && *reserve == one.reserve);
        let reason = match known {
            Some((_, reason)) => reason.clone(),
            None => {
                let against = |at| self.ledger.against(one, at);
                let reason = Arc::new(refusal::of_nodes(self.by_name, against));
                if shares {
                    full_for.push((one.reserve, reason.clone()));
                }
                reason
            }
        };
        session.refused = Some(reason.clone());
        reason
    }
}

impl Session<'_> {
    /// Whether `one` asks for the same.
    fn suits(&self, one: &Wanted) -> bool {
        self.of == (&one.app, &one.process)
            && self.reserve == one.reserve
            && (Arc::ptr_eq(self.rules, &one.rules) || **self.rules == *one.rules)
    }
}
