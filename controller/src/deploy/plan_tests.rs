//! Tests of [`super`].

use super::super::batches::tests::{serving, slots};
use super::*;
use crate::release::tests::app;
use proptest::prelude::*;

const NOW: i64 = 1_000_000;

/// One that makes release 8.
pub(crate) fn operation(batches: Vec<Batch>) -> Operation {
    Operation {
        release: ReleaseVersion(8),
        makes_release: true,
        resumes: true,
        phase: Phase::Releasing,
        retire: BTreeSet::new(),
        batches,
        formation: None,
        title: "test".into(),
        wait_to_retire_secs: 60,
        keeps_warm: false,
        trial: TrialEnd::Keep,
        watch: None,
        restores_config: false,
        takes_up: false,
        ends: Vec::new(),
        towards: Vec::new(),
        started: BTreeSet::new(),
        replaced: Vec::new(),
    }
}

fn plan(counts: &[(&str, u32)]) -> AppPlan {
    AppPlan { containers: serving(counts), ..AppPlan::default() }
}

/// New containers for these slots, under ids that no other has.
fn new(slots: &[Slot], mark: &str) -> Vec<(NodeName, ContainerSpec)> {
    let sample = serving(&[("web", 1)]).into_values().next().expect("one");
    let one = |(process, ordinal): &Slot| {
        let id = ContainerId::of(&app().name, process, *ordinal, mark).expect("an id");
        let spec = ContainerSpec {
            id,
            process: process.clone(),
            ordinal: *ordinal,
            release: ReleaseVersion(8),
            ..sample.spec.clone()
        };
        (sample.node.clone(), spec)
    };
    slots.iter().map(one).collect()
}

fn roles(plan: &AppPlan) -> Vec<String> {
    let role = |role| match role {
        Role::New => "new",
        Role::Serving => "serving",
        Role::Canary => "canary",
        Role::Warm { .. } => "warm",
        Role::Retiring { .. } => "retiring",
    };
    plan.containers.iter().map(|(id, planned)| format!("{id} {}", role(planned.role))).collect()
}

fn all_old(plan: &AppPlan) -> BTreeSet<ContainerId> {
    plan.containers.keys().cloned().collect()
}

#[test]
fn a_failed_batch_gives_back_what_earlier_ones_replaced() {
    let before = plan(&[("web", 2)]);
    let old: Vec<ContainerId> = before.containers.keys().cloned().collect();
    let wanted = slots(&[("web", 2)]);
    let batch = |n: usize| Batch {
        start: vec![wanted[n].clone()],
        retire: [old[n].clone()].into(),
        swap: true,
        stop_first: false,
    };
    let first = before.begin(operation(vec![batch(0), batch(1)])).start(new(&wanted[..1], "new"));
    let first = first.advance(NOW);
    assert_eq!(
        roles(&first),
        ["hello.web.1.new serving", "hello.web.1.old1 retiring", "hello.web.2.old2 serving"]
    );
    let second = first.start(new(&wanted[1..], "new"));
    // Still there: it serves again at once, and nothing is left to do.
    let back = second.undo(NOW);
    assert_eq!(
        roles(&back),
        ["hello.web.1.new retiring", "hello.web.1.old1 serving", "hello.web.2.old2 serving"]
    );
    assert_eq!(back.operation, None);
    // Gone meanwhile: one like it is started first, whatever comes between.
    let gone = second.without(&[old[0].clone()].into());
    let back = gone.undo(NOW);
    assert_eq!(
        back.operation.as_ref().map(|one| (one.phase, one.replaced.len())),
        Some((Phase::Restoring, 1))
    );
    assert_eq!(back.undo(NOW), back, "once more changes nothing");
    let again = back.restart_replaced(new(&wanted[..1], "again"));
    assert_eq!(again.undo(NOW), again, "nor later");
    let done = again.restored(NOW);
    assert_eq!(
        roles(&done),
        ["hello.web.1.again serving", "hello.web.1.new retiring", "hello.web.2.old2 serving"]
    );
    assert_eq!(done.operation, None);
}

#[test]
fn requests_wait_while_the_old_has_stopped_and_the_new_is_not_there() {
    let before = plan(&[("web", 1)]);
    let batch = Batch { start: slots(&[("web", 1)]), retire: all_old(&before), swap: true, stop_first: true };
    let (app, begun) = (app(), before.begin(operation(vec![batch])));
    assert!(!begun.routed(&app, Vec::new()).waits);
    let stopped = begun.stop_first(NOW);
    let waits = stopped.routed(&app, Vec::new());
    assert!(waits.waits && waits.web.is_empty());
    assert_eq!(stopped.stop_first(NOW), stopped, "it may be done again");
    let ready = stopped.start(new(&slots(&[("web", 1)]), "new")).advance(NOW);
    assert!(!ready.routed(&app, Vec::new()).waits && ready.routed(&app, Vec::new()).web.len() == 1);
    let back = stopped.start(new(&slots(&[("web", 1)]), "new")).undo(NOW);
    assert_eq!(roles(&back), ["hello.web.1.old1 serving"]);
}

#[test]
fn a_canary_begins_is_promoted_or_goes() {
    let before = plan(&[("web", 2), ("worker", 1)]);
    let start = slots(&[("web", 1)]);
    let canary = Canary { release: ReleaseVersion(8), percent: 10, formation: None, since_ms: NOW };
    let begin = Operation {
        trial: TrialEnd::Begin(canary.clone()),
        ..operation(vec![Batch { start: start.clone(), swap: true, ..Batch::default() }])
    };
    let on_trial = before.begin(begin).start(new(&start, "new")).advance(NOW).finish();
    assert_eq!((on_trial.canary.as_ref(), on_trial.serving().count()), (Some(&canary), 3));
    let app = app();
    let routed = on_trial.routed(&app, Vec::new());
    assert_eq!((routed.web.len(), routed.release, routed.counted), (2, Some(ReleaseVersion(7)), true));
    assert_eq!(routed.trial.map(|trial| (trial.percent, trial.web.len())), Some((10, 1)));
    let rest = slots(&[("web", 2), ("worker", 1)])[1..].to_vec();
    let batch = Batch { start: rest.clone(), retire: all_old(&before), swap: true, stop_first: false };
    let promote = Operation { trial: TrialEnd::Promote, ..operation(vec![batch.clone()]) };
    let promoting = on_trial.begin(promote).start(new(&rest, "more"));
    let promoted = promoting.advance(NOW).finish();
    assert_eq!((promoted.canary.as_ref(), promoted.serving().count()), (None, 3));
    assert!(promoted.serving().all(|(_, planned)| planned.spec.release == ReleaseVersion(8)));
    // A promotion that fails leaves it on trial.
    assert_eq!(promoting.undo(NOW), on_trial);
    let abort = Operation {
        trial: TrialEnd::Over,
        makes_release: false,
        ..operation(vec![Batch {
            retire: on_trial.on_trial().map(|(id, _)| id.clone()).collect(),
            swap: true,
            ..Batch::default()
        }])
    };
    let aborted = on_trial.begin(abort).advance(NOW).finish();
    assert_eq!(
        (aborted.canary.as_ref(), aborted.serving().count(), aborted.on_trial().count()),
        (None, 3, 0)
    );
}

#[test]
fn what_is_kept_warm_is_taken_up_for_another_release() {
    let before = plan(&[("web", 1), ("worker", 1)]);
    let wanted = slots(&[("web", 1), ("worker", 1)]);
    let batch = Batch { start: wanted.clone(), retire: all_old(&before), swap: true, stop_first: false };
    let green = Operation { keeps_warm: true, ..operation(vec![batch]) };
    let after = before.begin(green).start(new(&wanted, "new")).advance(NOW).finish();
    assert_eq!(
        roles(&after),
        [
            "hello.web.1.new serving",
            "hello.web.1.old1 warm",
            "hello.worker.1.new serving",
            "hello.worker.1.old2 retiring"
        ]
    );
    let kept: BTreeSet<_> =
        after.with(|role| matches!(role, Role::Warm { .. })).map(|(id, _)| id.clone()).collect();
    let batch = Batch {
        start: slots(&[("web", 1)]),
        retire: after
            .serving()
            .filter(|(_, one)| one.spec.process.is_web())
            .map(|(id, _)| id.clone())
            .collect(),
        swap: true,
        stop_first: false,
    };
    let back = after.begin(operation(vec![batch])).take_up(&kept, ReleaseVersion(9));
    assert!(back.unfilled(&slots(&[("web", 1)])).is_empty());
    let back = back.advance(NOW).finish();
    let (_, web) = back.serving().find(|(_, one)| one.spec.process.is_web()).expect("one serves");
    assert_eq!((web.release(), web.spec.release), (ReleaseVersion(9), ReleaseVersion(7)));
}

#[test]
fn what_was_stored_yesterday_still_loads() {
    let mut operation = serde_json::json!({
        "release": 3, "makes_release": false, "resumes": true, "phase": "starting", "retire": ["hello.web.1.old1"],
        "formation": null, "title": "restart", "wait_to_retire_secs": 60
    });
    let loaded: Operation = serde_json::from_value(operation.clone()).expect("it loads");
    assert_eq!(loaded.pending().len(), 1);
    let before = AppPlan { operation: Some(loaded), ..plan(&[("web", 1)]) };
    let after = before.start(new(&slots(&[("web", 1)]), "new")).advance(NOW);
    assert_eq!(roles(&after), ["hello.web.1.new serving", "hello.web.1.old1 retiring"]);
    operation["phase"] = "swapped".into();
    let loaded: Operation = serde_json::from_value(operation).expect("it loads");
    assert!(loaded.pending().is_empty());
    let old: AppPlan = serde_json::from_str(r#"{"containers": {}, "operation": null}"#).expect("it loads");
    assert!(old.is_empty());
}

proptest! {
    /// At any point of any rollout, with or without loss of what retires, taking it back leaves as many of each type in
    /// service as there were, after what is gone was started again.
    #[test]
    fn whatever_was_done_is_taken_back(
        web in 1_u32..5,
        most in 1_u32..5,
        stop_first in any::<bool>(),
        steps in 0_usize..12,
        lost in any::<bool>(),
    ) {
        let before = plan(&[("web", web), ("worker", 1)]);
        let wanted = slots(&[("web", web), ("worker", 1)]);
        let max_parallel = [(berth_model::ProcessType::web(), most)].into();
        let rules = super::super::batches::Rules {
            max_parallel: &max_parallel,
            parallel_types: 1,
            by_batch: true,
            stop_first: &|_| stop_first,
            web_at_once: false,
        };
        let made = super::super::batches::batches(&wanted, before.containers.iter(), &rules);
        let mut plan = before.begin(operation(made));
        for step in 0..steps {
            let batch = plan.operation.as_ref().and_then(|one| one.pending().first().cloned());
            let Some(batch) = batch else { break };
            if plan.operation.as_ref().is_some_and(|one| one.pending().len() == 1) && step % 2 == 1 {
                break; // from the last switch on there is no way back
            }
            if step % 2 == 0 {
                if batch.stop_first {
                    plan = plan.stop_first(NOW);
                }
                let missing = plan.unfilled(&batch.start);
                plan = plan.start(new(&missing, "new"));
            } else {
                plan = plan.advance(NOW);
            }
            if lost {
                let gone = plan.with(|role| matches!(role, Role::Retiring { .. })).map(|(id, _)| id.clone()).collect();
                plan = plan.without(&gone);
            }
        }
        let mut back = plan.undo(NOW);
        if let Some(operation) = back.operation.clone() {
            let again: Vec<Slot> =
                operation.replaced.iter().map(|old| (old.spec.process.clone(), old.spec.ordinal)).collect();
            back = back.restart_replaced(new(&again, "again")).restored(NOW);
        }
        prop_assert_eq!(back.operation.as_ref(), None);
        let count = |plan: &AppPlan| -> Vec<Slot> {
            let mut all: Vec<Slot> =
                plan.serving().map(|(_, one)| (one.spec.process.clone(), one.spec.ordinal)).collect();
            all.sort();
            all
        };
        prop_assert_eq!(count(&back), count(&before));
    }
}

#[test]
fn what_is_watched_itself_is_no_end_of_the_way_back() {
    let after = |plan: &AppPlan, release: u64, before: u64, now_ms| {
        let watch = plan.watch_after(ReleaseVersion(release), ReleaseVersion(before), 50, now_ms);
        AppPlan { watch: Some(Watch { until_ms: now_ms + 10, ..watch }), ..AppPlan::default() }
    };
    let way = |plan: &AppPlan| {
        let watch = plan.watch.clone().expect("watched");
        (watch.back_to.0, watch.proven.map(|proven| proven.0), watch.before_percent)
    };
    let usual = AppPlan::default().watch_after(ReleaseVersion(2), ReleaseVersion(1), 5, 0);
    let second = AppPlan { watch: Some(Watch { until_ms: 10, ..usual }), ..AppPlan::default() };
    let third = after(&second, 3, 2, 9);
    assert_eq!(way(&third), (2, Some(1), 5));
    assert_eq!(way(&after(&third, 4, 3, 18)), (3, Some(1), 5), "however many come in a row");
    assert_eq!(way(&after(&third, 4, 3, 19)), (3, None, 50), "its time was up");
    assert_eq!(way(&after(&third, 5, 4, 9)), (4, None, 50), "another one was watched");
    assert_eq!(third.unwatched_of(ReleaseVersion(2)), third);
    assert_eq!(third.unwatched_of(ReleaseVersion(3)).watch, None);
}
