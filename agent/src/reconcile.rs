//! Reconciling: which actions make this node's containers the desired ones.
//!
//! In: desired containers, the observed states, the time. Out: actions, in order. Everything here is pure; [`crate::node`]
//! observes and executes.

use berth_model::ContainerId;
use berth_model::container::{ContainerSpec, ContainerState};
use std::collections::BTreeMap;

/// One thing to do. Executing it changes the observed state at once, so that it is not planned twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop it if it runs, and remove all it has but its logs.
    Remove(ContainerId),
    /// Begin its life.
    Start(ContainerId),
    /// Begin another life of it: its time of backing off is over.
    Restart(ContainerId),
}

/// Same inputs, same steps; a converged node gets none.
#[must_use]
pub fn plan(
    desired: &BTreeMap<ContainerId, ContainerSpec>,
    observed: &BTreeMap<ContainerId, ContainerState>,
    now_ms: i64,
) -> Vec<Action> {
    let surplus = observed.iter().filter(|(id, state)| match state {
        ContainerState::Stopping => false, // its removal is under way
        _ => !desired.contains_key(*id),
    });
    let due = desired.keys().filter_map(|id| match observed.get(id) {
        None => Some(Action::Start(id.clone())),
        Some(ContainerState::BackingOff { until_ms, .. }) if *until_ms <= now_ms => {
            Some(Action::Restart(id.clone()))
        }
        // A new spec is a new id: there is nothing to compare.
        Some(
            ContainerState::Preparing
            | ContainerState::Starting { .. }
            | ContainerState::Running { .. }
            | ContainerState::Stopping
            | ContainerState::BackingOff { .. }
            | ContainerState::Exited { .. }
            | ContainerState::Failed { .. },
        ) => None,
    });
    // Removals first: a start may need the memory they free.
    surplus.map(|(id, _)| Action::Remove(id.clone())).chain(due).collect()
}

/// When the next plan will differ though nothing happens.
#[must_use]
pub fn next_due_ms(observed: &BTreeMap<ContainerId, ContainerState>) -> Option<i64> {
    let backing_off = |state: &ContainerState| match state {
        ContainerState::BackingOff { until_ms, .. } => Some(*until_ms),
        _ => None,
    };
    observed.values().filter_map(backing_off).min()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use berth_model::container::{Exit, Limits, RestartPolicy, Stop};
    use berth_model::image::{ImageRef, Process};
    use berth_model::{AppName, Digest, ProcessType, ReleaseVersion};
    use proptest::prelude::*;

    pub(crate) fn spec(id: &ContainerId) -> ContainerSpec {
        ContainerSpec {
            id: id.clone(),
            app: AppName::parse("a").expect("a name"),
            release: ReleaseVersion(1),
            process: ProcessType::web(),
            ordinal: 1,
            image: ImageRef { repository: "apps/a".into(), digest: Digest::of(b"") },
            run: Process::Command { argv: vec!["true".into()] },
            env: BTreeMap::new(),
            limits: Limits::default(),
            port: None,
            published: Vec::new(),
            checks: Vec::new(),
            restart: RestartPolicy::Always,
            stop: Stop::default(),
            mounts: Vec::new(),
            once: None,
            secrets: Default::default(),
        }
    }

    fn exit() -> Exit {
        Exit { code: 1, signal: None, oom_killed: false, at_ms: 0 }
    }

    fn states() -> impl Strategy<Value = ContainerState> {
        prop_oneof![
            Just(ContainerState::Preparing),
            Just(ContainerState::Starting { since_ms: 0 }),
            Just(ContainerState::Running { since_ms: 0, ready: true }),
            Just(ContainerState::Stopping),
            (0_i64..2000).prop_map(|until_ms| ContainerState::BackingOff { exit: exit(), until_ms }),
            Just(ContainerState::Exited { exit: exit() }),
            Just(ContainerState::Failed { reason: "x".into() }),
        ]
    }

    fn ids(n: std::ops::Range<u32>) -> impl Strategy<Value = ContainerId> {
        n.prop_map(|n| ContainerId::parse(&format!("a.web.{n}.x")).expect("an id"))
    }

    fn execute(observed: &mut BTreeMap<ContainerId, ContainerState>, action: &Action) {
        match action {
            Action::Remove(id) => drop(observed.insert(id.clone(), ContainerState::Stopping)),
            Action::Start(id) | Action::Restart(id) => {
                observed.insert(id.clone(), ContainerState::Preparing);
            }
        }
    }

    proptest! {
        #[test]
        fn an_executed_plan_leaves_nothing_to_do_and_the_same_input_gives_the_same_plan(
            wanted in proptest::collection::btree_set(ids(0..8), 0..8),
            observed in proptest::collection::btree_map(ids(0..8), states(), 0..8),
            now in 0_i64..2000,
        ) {
            let desired: BTreeMap<_, _> = wanted.iter().map(|id| (id.clone(), spec(id))).collect();
            let actions = plan(&desired, &observed, now);
            prop_assert_eq!(&actions, &plan(&desired, &observed, now));
            let mut after = observed.clone();
            for action in &actions {
                execute(&mut after, action);
            }
            prop_assert_eq!(plan(&desired, &after, now), vec![]);
            // Whatever is not wanted is going, whatever is wanted is there.
            prop_assert!(after.iter().all(|(id, s)| desired.contains_key(id) || *s == ContainerState::Stopping));
            prop_assert!(desired.keys().all(|id| after.contains_key(id)));
        }

        #[test]
        fn nothing_is_due_before_its_time(
            observed in proptest::collection::btree_map(ids(0..8), states(), 0..8),
        ) {
            let desired: BTreeMap<_, _> = observed.keys().map(|id| (id.clone(), spec(id))).collect();
            if let Some(due) = next_due_ms(&observed) {
                prop_assert!(plan(&desired, &observed, due - 1).is_empty());
                prop_assert!(!plan(&desired, &observed, due).is_empty());
            } else {
                prop_assert!(plan(&desired, &observed, i64::MAX).is_empty());
            }
        }
    }
}
