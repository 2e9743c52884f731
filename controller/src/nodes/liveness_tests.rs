use super::*;
use proptest::prelude::*;

/// Reports every 2 s in `on`, silence else, a look each half second; what its life was at each change.
fn lives(on: &[(u64, u64)], until: u64) -> Vec<(u64, Life)> {
    let mut node = Liveness::expected(0);
    let mut seen = vec![(0, node.life())];
    for now in (0..=until).step_by(500) {
        let reports = on.iter().any(|(from, to)| (*from..*to).contains(&now)) && now % HEARTBEAT_MS == 0;
        if reports {
            node.report(now);
        }
        node.look(now, None);
        if seen.last().is_some_and(|(_, life)| *life != node.life()) {
            seen.push((now, node.life()));
        }
    }
    seen
}

#[test]
fn a_node_that_falls_silent_is_lost_after_ten_seconds_and_gets_work_again_when_it_was_stable() {
    let seen = lives(&[(0, 20_001), (60_000, 200_000)], 120_000);
    let expected = [
        (0, Life::Alive),
        (27_000, Life::Silent),
        (30_000, Life::Lost),
        (60_000, Life::Returning),
        (90_000, Life::Alive),
    ];
    assert_eq!(seen[1..], expected[..]);
}

#[test]
fn three_missed_reports_are_no_loss() {
    let seen = lives(&[(0, 10_001), (18_000, 60_000)], 50_000);
    assert_eq!(seen[1..], [(0, Life::Alive), (17_000, Life::Silent), (18_000, Life::Alive)]);
}

#[test]
fn a_node_that_never_reports_is_lost_too() {
    assert_eq!(lives(&[], 20_000)[1..], [(15_000, Life::Lost)]);
}

#[test]
fn where_most_came_the_rest_is_lost_sooner() {
    let lost_at = |most_came| {
        let mut node = Liveness::expected(0);
        (0..20_000).step_by(500).find(|now| node.look(*now, Some(most_came).filter(|since| since <= now)))
    };
    assert_eq!(lost_at(1_000), Some(10_000));
    assert_eq!(lost_at(7_000), Some(12_000), "they came late: so may this one");
    assert_eq!(lost_at(14_000), Some(15_000));
    assert_eq!(lost_at(30_000), Some(15_000));
}

#[test]
fn a_flapping_node_is_lost_once_and_stays_without_work() {
    // 11 s away, 9 s there, for 10 minutes.
    let on: Vec<_> = (0..30).map(|n| (n * 20_000, n * 20_000 + 9_000)).collect();
    let seen = lives(&on, 600_000);
    let alive = seen.iter().filter(|(_, life)| *life == Life::Alive).count();
    assert_eq!(alive, 1, "{seen:?}");
}

#[test]
fn each_loss_doubles_the_time_until_it_gets_work() {
    let seen = lives(&[(0, 2_001), (30_000, 80_001), (100_000, 400_000)], 300_000);
    let at: Vec<_> = seen.iter().filter(|(_, life)| *life == Life::Alive).map(|(at, _)| *at).collect();
    assert_eq!(at, [0, 60_000, 160_000], "{seen:?}");
}

#[test]
fn time_in_which_the_controller_did_not_run_is_nobodys_silence() {
    let mut awake = Awake::default();
    let mut node = Liveness::expected(awake.at(0));
    node.report(awake.at(500));
    assert!(!node.look(awake.at(600_000), None), "it was stopped for ten minutes");
    assert_eq!(node.life(), Life::Alive);
}

proptest! {
    #[test]
    fn whoever_reports_in_time_is_never_lost(gaps in proptest::collection::vec(1_u64..SILENT_MS, 1..200)) {
        let mut node = Liveness::expected(0);
        let mut now = 0;
        for gap in gaps {
            now += gap;
            node.report(now);
            prop_assert_eq!(node.life(), Life::Alive);
        }
    }

    #[test]
    fn silence_always_ends_in_loss_and_reports_in_life(
        gaps in proptest::collection::vec(1_u64..60_000, 0..50),
    ) {
        let mut node = Liveness::expected(0);
        let mut now = 0;
        for gap in gaps {
            now += gap;
            node.report(now);
        }
        node.look(now + EXPECTED_MS, None);
        prop_assert_eq!(node.life(), Life::Lost);
        now += EXPECTED_MS;
        for _ in 0..(MOST_STABLE_MS / HEARTBEAT_MS + 2) {
            now += HEARTBEAT_MS;
            node.report(now);
        }
        prop_assert_eq!(node.life(), Life::Alive);
    }
}
