use super::super::batches::Batch;
use super::super::batches::tests::serving;
use super::super::plan::tests::operation;
use super::super::plan::{Operation, Phase};
use super::*;
use proptest::prelude::*;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("valid")
}

/// Six `web` and two `worker`, on three nodes in turn.
fn plan() -> AppPlan {
    let mut containers = serving(&[("web", 6), ("worker", 2)]);
    for (index, planned) in containers.values_mut().enumerate() {
        planned.node = node(["n1", "n2", "n3"][index % 3]);
    }
    AppPlan { containers, ..AppPlan::default() }
}

fn moved(plan: &AppPlan, orders: Orders) -> AppPlan {
    let moves = orders.moves.into_iter().enumerate().map(|(index, old)| {
        let spec = again(&plan.containers[&old].spec, &format!("new{index}")).expect("it has a name");
        (old, node("n9"), spec)
    });
    plan.relocate(moves, &orders.gone)
}

fn slots(plan: &AppPlan) -> Vec<(String, u32)> {
    let mut slots: Vec<_> = plan
        .containers
        .values()
        .map(|planned| (planned.spec.process.to_string(), planned.spec.ordinal))
        .collect();
    slots.sort();
    slots
}

#[test]
fn each_container_of_a_lost_node_has_one_in_its_place_and_no_other_moves() {
    let before = plan();
    let lost = node("n2");
    let orders = orders(&before, |node| *node == lost, |_| false);
    assert_eq!(orders.moves.len(), 3);
    let after = moved(&before, orders);
    assert_eq!(slots(&after), slots(&before));
    for (id, planned) in &before.containers {
        assert_eq!(after.containers.contains_key(id), planned.node != lost);
    }
    assert!(after.containers.values().all(|planned| planned.node != lost && planned.role == Role::Serving));
}

#[test]
fn what_is_on_its_way_out_goes_and_what_had_ended_stays() {
    let mut before = plan();
    let ids: Vec<_> = before.containers.keys().cloned().collect();
    for id in &ids {
        before.containers.get_mut(id).expect("there").node = node("n2");
    }
    before.containers.get_mut(&ids[0]).expect("there").role = Role::Retiring { until_ms: 1 };
    before.containers.get_mut(&ids[1]).expect("there").role = Role::Warm { until_ms: 1 };
    let orders = orders(&before, |_| true, |id| *id == ids[2]);
    assert_eq!(orders.gone, ids[..2].iter().cloned().collect());
    assert_eq!(orders.moves, ids[3..]);
}

proptest! {
    #[test]
    fn an_operation_under_way_goes_on_with_the_new_ones(lost in 1_usize..4, cut in 0_usize..8) {
        let old = plan();
        let retire: BTreeSet<_> = old.containers.keys().take(cut).cloned().collect();
        let batch = Batch { retire: retire.clone(), swap: true, ..Batch::default() };
        let operation = Operation { phase: Phase::Starting, ..operation(vec![batch]) };
        let before = old.begin(operation);
        let lost = node(&format!("n{lost}"));
        let after = moved(&before, orders(&before, |node| *node == lost, |_| false));
        let operation = after.operation.as_ref().expect("under way");
        let batch = &operation.batches[0];
        prop_assert_eq!(batch.retire.len(), retire.len());
        prop_assert!(batch.retire.iter().all(|id| after.containers.contains_key(id)));
        let done = after.advance(0);
        prop_assert_eq!(done.serving().count(), 8 - retire.len());
        // Nothing is left to do, and done again it changes nothing.
        prop_assert_eq!(orders(&after, |node| *node == lost, |_| false), Orders::default());
    }
}
