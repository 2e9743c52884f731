//! Tests of [`super`].

use super::*;
use berth_model::container::Exit;

fn status(state: ContainerState, restarts: u32) -> ContainerStatus {
    ContainerStatus {
        state,
        incarnation: 1,
        restarts,
        address: None,
        published: Vec::new(),
        pid: None,
        static_root: None,
        static_rules: Default::default(),
        advice: None,
    }
}

fn seen(ordinal: u32, status: ContainerStatus, unready_for: u64) -> Seen {
    let unready_for = Duration::from_secs(unready_for);
    Seen { process: ProcessType::web(), ordinal, status: Some(status), unready_for }
}

fn runs(ready: bool) -> ContainerState {
    ContainerState::Running { since_ms: 0, ready }
}

fn told(seen: &[Seen], requests: u64, errors: u64, without: u32) -> Option<String> {
    verdict(seen, ContainerAnswers { requests, errors }, without, &DeploySettings::default())
}

#[test]
fn half_of_a_type_makes_a_release_bad() {
    let well = |n| seen(n, status(runs(true), 0), 0);
    let loops = |n| seen(n, status(runs(true), 3), 0);
    assert_eq!(told(&[well(1), well(2)], 0, 0, 0), None);
    assert_eq!(told(&[loops(1), well(2)], 0, 0, 0).as_deref(), Some("web.1 ended 3 times in a row"));
    assert_eq!(told(&[loops(1), well(2), well(3)], 0, 0, 0), None);
    assert_eq!(told(&[seen(1, status(runs(true), 2), 0)], 0, 0, 0), None);
    let exit = Exit { code: 1, signal: None, oom_killed: false, at_ms: 0 };
    let stays = |code| seen(1, status(ContainerState::Exited { exit: Exit { code, ..exit.clone() } }, 0), 0);
    assert_eq!(told(&[stays(1)], 0, 0, 0).as_deref(), Some("web.1 exited with code 1 and stays so"));
    assert_eq!(told(&[stays(0)], 0, 0, 0), None);
    assert_eq!(told(&[seen(1, status(runs(false), 0), 29)], 0, 0, 0), None);
    assert_eq!(
        told(&[seen(1, status(runs(false), 0), 30)], 0, 0, 0).as_deref(),
        Some("web.1 was not ready for 30 s")
    );
    let failed = |secs| {
        let state = ContainerState::Failed { reason: "no image".into() };
        told(&[seen(1, status(state, 0), secs)], 0, 0, 0)
    };
    assert_eq!((failed(29), failed(30).as_deref()), (None, Some("web.1 failed: no image")));
    let unknown = Seen { process: ProcessType::web(), ordinal: 1, status: None, unready_for: Duration::ZERO };
    assert_eq!(told(&[unknown], 0, 0, 0), None);
}

#[test]
fn errors_count_when_there_are_many_and_more_than_before() {
    assert_eq!(told(&[], 19, 19, 0), None, "too few to tell");
    assert_eq!(told(&[], 100, 49, 0), None);
    assert_eq!(told(&[], 100, 50, 0).as_deref(), Some("50 of 100 answers were errors (5xx)"));
    assert_eq!(told(&[], 100, 100, 50), None, "it was hardly better without");
    let off = DeploySettings { rollback_error_percent: Some(0), ..DeploySettings::default() };
    assert_eq!(verdict(&[], ContainerAnswers { requests: 100, errors: 100 }, 0, &off), None);
}
