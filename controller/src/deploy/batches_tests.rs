//! Tests of [`super`].

use super::*;
use crate::deploy::plan::Role;
use crate::release::tests::{app, image};
use crate::release::{Parts, desire, release};
use berth_model::NodeName;
use proptest::prelude::*;

fn process(text: &str) -> ProcessType {
    ProcessType::parse(text).expect("valid")
}

/// Containers that serve, so many of each type.
pub(crate) fn serving(counts: &[(&str, u32)]) -> BTreeMap<ContainerId, Planned> {
    let types: Vec<&str> = counts.iter().map(|(name, _)| *name).collect();
    let parts = Parts {
        image: image(&types),
        config: BTreeMap::new(),
        checks: BTreeMap::new(),
        secrets: Default::default(),
        cron: Vec::new(),
        formation: Default::default(),
        max_parallel: BTreeMap::new(),
        git_rev: None,
        now_ms: 0,
        by: String::new(),
        description: String::new(),
    };
    let release = release(&app(), parts);
    let mut number = 0;
    let unique = || {
        number += 1;
        format!("old{number}")
    };
    let specs = desire(&app(), &release, &slots(counts), unique).expect("specs");
    let node = NodeName::parse("node-1").expect("valid");
    let planned = specs.into_iter().map(|spec| Planned {
        node: node.clone(),
        role: Role::Serving,
        stands_for: None,
        spec,
    });
    planned.map(|planned| (planned.spec.id.clone(), planned)).collect()
}

pub(crate) fn slots(counts: &[(&str, u32)]) -> Vec<Slot> {
    counts.iter().flat_map(|(name, count)| (1..=*count).map(|n| (process(name), n))).collect()
}

fn shown(batches: &[Batch]) -> Vec<String> {
    let one = |batch: &Batch| {
        let start: Vec<_> = batch.start.iter().map(|(process, n)| format!("{process}.{n}")).collect();
        let swap = if batch.swap { " swap" } else { "" };
        let stop = if batch.stop_first { " stop-first" } else { "" };
        format!("{} -{}{swap}{stop}", start.join(","), batch.retire.len())
    };
    batches.iter().map(one).collect()
}

fn made(
    new: &[(&str, u32)],
    old: &[(&str, u32)],
    most: &[(&str, u32)],
    change: impl FnOnce(&mut Rules<'_>),
) -> Vec<String> {
    let max_parallel = most.iter().map(|(name, most)| (process(name), *most)).collect();
    let mut rules = Rules {
        max_parallel: &max_parallel,
        parallel_types: 1,
        by_batch: true,
        stop_first: &|_| false,
        web_at_once: false,
    };
    change(&mut rules);
    let old = serving(old);
    shown(&batches(&slots(new), old.iter(), &rules))
}

#[test]
fn types_start_one_after_the_other_and_serve_together() {
    let both = &[("web", 2), ("worker", 1), ("clock", 1)];
    let serial = ["web.1,web.2 -0", "clock.1 -0", "worker.1 -4 swap"];
    assert_eq!(made(both, both, &[], |_| {}), serial);
    assert_eq!(
        made(both, both, &[], |rules| rules.parallel_types = 3),
        ["web.1,web.2,clock.1,worker.1 -4 swap"]
    );
    assert_eq!(
        made(both, both, &[], |rules| rules.parallel_types = 2),
        ["web.1,web.2,clock.1 -0", "worker.1 -4 swap"]
    );
}

#[test]
fn max_parallel_makes_batches_that_serve_one_by_one() {
    let three = &[("web", 3), ("worker", 1)];
    let rolling = ["web.1 -1 swap", "web.2 -1 swap", "web.3 -1 swap", "worker.1 -1 swap"];
    assert_eq!(made(three, three, &[("web", 1)], |_| {}), rolling);
    // Blue/green only starts them so.
    let green = ["web.1,web.2 -0", "web.3 -0", "worker.1 -4 swap"];
    assert_eq!(made(three, three, &[("web", 2)], |rules| rules.by_batch = false), green);
    // What is left over goes with the last of its type.
    assert_eq!(made(&[("web", 2)], &[("web", 5)], &[("web", 1)], |_| {}), ["web.1 -1 swap", "web.2 -4 swap"]);
    assert_eq!(made(&[("web", 2)], &[("web", 2)], &[("web", 2)], |_| {}), ["web.1,web.2 -2 swap"]);
}

#[test]
fn what_stops_first_and_what_is_there_already_swaps_by_itself() {
    let both = &[("web", 1), ("worker", 1)];
    let alone = made(both, both, &[], |rules| rules.stop_first = &|process| !process.is_web());
    assert_eq!(alone, ["web.1 -0", "worker.1 -1 swap stop-first", " -1 swap"]);
    assert_eq!(
        made(both, both, &[], |rules| rules.web_at_once = true),
        ["web.1 -1 swap", "worker.1 -1 swap"]
    );
}

#[test]
fn nothing_to_start_is_one_batch_too() {
    assert_eq!(made(&[], &[("web", 2)], &[], |_| {}), [" -2 swap"]);
    assert_eq!(made(&[], &[], &[], |_| {}), [" -0 swap"]);
}

proptest! {
    #[test]
    fn everything_starts_once_and_goes_once_and_the_last_one_swaps(
        new in proptest::collection::vec(0_u32..5, 3),
        old in proptest::collection::vec(0_u32..5, 3),
        most in proptest::collection::vec(1_u32..6, 3),
        parallel_types in 1_u32..4,
        by_batch in any::<bool>(),
        web_at_once in any::<bool>(),
        stops in proptest::collection::vec(any::<bool>(), 3),
    ) {
        let names = ["web", "a", "b"];
        let counts = |numbers: &[u32]| -> Vec<(&str, u32)> { names.into_iter().zip(numbers.iter().copied()).collect() };
        let max_parallel: BTreeMap<_, _> = names.iter().zip(&most).map(|(name, most)| (process(name), *most)).collect();
        let stop_first = |one: &ProcessType| names.iter().position(|name| *name == one.as_str()).is_some_and(|at| stops[at]);
        let rules = Rules { max_parallel: &max_parallel, parallel_types, by_batch, stop_first: &stop_first, web_at_once };
        let old = serving(&counts(&old));
        let made = batches(&slots(&counts(&new)), old.iter(), &rules);
        let mut started: Vec<Slot> = made.iter().flat_map(|batch| batch.start.clone()).collect();
        started.sort();
        let mut wanted = slots(&counts(&new));
        wanted.sort();
        prop_assert_eq!(started, wanted);
        let gone: Vec<_> = made.iter().flat_map(|batch| batch.retire.clone()).collect();
        prop_assert_eq!(gone.len(), old.len());
        prop_assert_eq!(gone.into_iter().collect::<BTreeSet<_>>(), old.keys().cloned().collect::<BTreeSet<_>>());
        prop_assert!(made.last().is_some_and(|last| last.swap));
        for batch in &made {
            // Nothing goes before what replaces it serves, unless it was asked for.
            prop_assert!(batch.swap || batch.retire.is_empty());
            let types: BTreeSet<_> = batch.start.iter().map(|(process, _)| process).collect();
            prop_assert!(types.len() <= usize::try_from(parallel_types).expect("small"));
            for process in types {
                let at_once = batch.start.iter().filter(|(one, _)| one == process).count();
                prop_assert!(at_once <= usize::try_from(max_parallel[process]).expect("small"));
            }
        }
    }
}
