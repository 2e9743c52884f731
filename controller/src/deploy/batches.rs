//! In which order new containers take the place of old ones.
//!
//! In: what is to start, what is to go, and the rules. Out: [`Batch`]es, one after the other. Pure.

use super::plan::Planned;
use crate::release::Slot;
use berth_model::{ContainerId, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Containers that are started together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// What starts.
    pub start: Vec<Slot>,
    /// What goes when all that has started until then is ready.
    pub retire: BTreeSet<ContainerId>,
    /// Whether what has started serves when it is ready; else it waits for a later batch.
    pub swap: bool,
    /// Whether what goes is gone before anything starts.
    pub stop_first: bool,
}

/// What an app, its release and its settings ask for.
pub(super) struct Rules<'a> {
    /// How many of a type start at once.
    pub(super) max_parallel: &'a BTreeMap<ProcessType, u32>,
    /// How many types start side by side.
    pub(super) parallel_types: u32,
    /// Whether the new ones of a batch may serve beside old ones.
    pub(super) by_batch: bool,
    /// Types whose old containers go before new ones start.
    pub(super) stop_first: &'a (dyn Fn(&ProcessType) -> bool + Sync),
    /// `web` waits for nothing: its new containers run already.
    pub(super) web_at_once: bool,
}

/// What one type has to do.
#[derive(Default)]
struct Work {
    start: Vec<Slot>,
    /// By ordinal.
    retire: Vec<(u32, ContainerId)>,
}

/// The batches, `web` first. Every slot is in exactly one, every container that is to go too, and the last one swaps.
pub(super) fn batches<'a>(
    start: &[Slot],
    retire: impl Iterator<Item = (&'a ContainerId, &'a Planned)>,
    rules: &Rules<'_>,
) -> Vec<Batch> {
    let mut types: BTreeMap<(bool, ProcessType), Work> = BTreeMap::new();
    let key = |process: &ProcessType| (!process.is_web(), process.clone());
    for slot in start {
        types.entry(key(&slot.0)).or_default().start.push(slot.clone());
    }
    for (id, planned) in retire {
        let work = types.entry(key(&planned.spec.process)).or_default();
        work.retire.push((planned.spec.ordinal, id.clone()));
    }
    let mut result: Vec<Batch> = Vec::new();
    // What whole types leave to go with the next swap.
    let mut waiting: BTreeSet<ContainerId> = BTreeSet::new();
    let mut together = 0;
    for ((_, process), mut work) in types {
        work.retire.sort();
        let stop_first = (rules.stop_first)(&process) && !work.start.is_empty();
        let most = rules
            .max_parallel
            .get(&process)
            .map_or(work.start.len(), |most| usize::try_from(*most).unwrap_or(usize::MAX));
        let most = most.max(1);
        let at_once = rules.web_at_once && process.is_web() && !work.start.is_empty();
        let many = most < work.start.len();
        if stop_first || at_once || (many && rules.by_batch) {
            let pieces = work.start.len().div_ceil(most).max(1);
            let mut old = work.retire.into_iter().map(|(_, id)| id);
            for (index, piece) in work.start.chunks(most).enumerate() {
                let last = index + 1 == pieces;
                let mut retire: BTreeSet<_> =
                    old.by_ref().take(if last { usize::MAX } else { most }).collect();
                if !stop_first {
                    retire.append(&mut waiting);
                }
                result.push(Batch { start: piece.to_vec(), retire, swap: true, stop_first });
            }
            together = 0;
            continue;
        }
        waiting.extend(work.retire.into_iter().map(|(_, id)| id));
        if many {
            let pieces = work.start.chunks(most);
            result.extend(pieces.map(|piece| Batch { start: piece.to_vec(), ..Batch::default() }));
            together = 0;
        } else if !work.start.is_empty() {
            match result.last_mut().filter(|_| together > 0 && together < rules.parallel_types) {
                Some(last) => last.start.append(&mut work.start),
                None => {
                    result.push(Batch { start: work.start, ..Batch::default() });
                    together = 0;
                }
            }
            together += 1;
        }
    }
    let fits = result.last().is_some_and(|last| !last.stop_first);
    if !fits && (result.is_empty() || !waiting.is_empty()) {
        result.push(Batch::default());
    }
    if let Some(last) = result.last_mut() {
        last.swap = true;
        last.retire.append(&mut waiting);
    }
    result
}

#[cfg(test)]
#[path = "batches_tests.rs"]
pub(super) mod tests;
