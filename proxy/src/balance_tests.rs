//! Tests of [`super`].

use super::*;
use crate::policy::keep::Keep;
use crate::table::Table;
use crate::upstream::Lease;
use berth_model::policy::{self, Circuit, Limits, Policy, Rules};
use berth_model::route::{self, HttpRoute, RouteTable};
use berth_model::{ContainerId, HostPattern};
use std::collections::{BTreeMap, HashMap};

fn id(n: usize) -> ContainerId {
    ContainerId::parse(&format!("app.web.{n}.x")).expect("valid")
}

fn table_after(before: &Table, count: usize, policy: Policy) -> Table {
    let app = AppName::parse("app").expect("valid");
    let backends = (1..=count).map(|n| route::Backend {
        protocol: Default::default(),
        proxy_protocol: None,
        container: id(n),
        incarnation: 1,
        address: ([127, 0, 0, 1], 9).into(),
    });
    let target = route::Target::Backends { backends: backends.collect() };
    let host = HostPattern::parse("app.test").expect("valid");
    let rules = Rules {
        policies: BTreeMap::from([(app.clone(), policy)]),
        cookie_key: policy::SecretText("k".repeat(64)),
        ..Rules::default()
    };
    let http = vec![HttpRoute { host, app, release: None, target }];
    let routes = RouteTable { revision: 1, http, rules, ..RouteTable::default() };
    Table::build(&routes, before, 1, &[], &Arc::default(), &Keep::new())
}

fn table(count: usize, balance: policy::Balance) -> Table {
    table_after(&Table::default(), count, Policy { balance, ..Policy::default() })
}

fn route(table: &Table) -> &Route {
    table.find(b"app.test").expect("there")
}

fn backends(route: &Route) -> &[Arc<Backend>] {
    match &route.target {
        Target::Backends(backends) => backends,
        other => panic!("{other:?}"),
    }
}

/// A fair sequence.
fn randoms() -> impl Iterator<Item = u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

fn choose_one(route: &Route, wanted: Option<&[u8]>, random: u64) -> Lease {
    match choose(route, backends(route), &[], wanted, random) {
        Choice::Leased(lease) => lease,
        other => panic!("{other:?}"),
    }
}

fn spread(route: &Route, count: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for random in randoms().take(count) {
        let lease = choose_one(route, None, random);
        *counts.entry(lease.backend.name.container.to_string()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn shares_are_kept() {
    let share = policy::Share { weight: 5, containers: vec![id(3)] };
    let table = table(3, policy::Balance { shares: vec![share], ..Default::default() });
    let counts = spread(route(&table), 20_000);
    let of = |n| counts[id(n).as_str()];
    assert!((800..=1200).contains(&of(3)), "5 % of 20000: {counts:?}");
    assert!((8500..=10_500).contains(&of(1)) && (8500..=10_500).contains(&of(2)), "{counts:?}");
    // When the group has nobody left, the others do.
    let gone = backends(route(&table))[2].clone();
    for random in randoms().take(200) {
        let choice =
            choose(route(&table), backends(route(&table)), std::slice::from_ref(&gone), None, random);
        let Choice::Leased(lease) = choice else { panic!("others are there") };
        assert!(!Arc::ptr_eq(&lease.backend, &gone));
    }
}

#[test]
fn a_cookie_leads_back_and_a_made_up_one_nowhere() {
    let table = table(4, policy::Balance { sticky: true, ..Default::default() });
    let route = route(&table);
    for random in randoms().take(50) {
        let first = choose_one(route, None, random);
        let token = *token_of(route, &first.backend).expect("it sticks");
        assert!(token.iter().all(u8::is_ascii_hexdigit));
        let field = [b"a=b; berth_sticky=", &token[..], b"; c=d"].concat();
        let again = choose_one(route, cookie(&field), random.rotate_left(7));
        assert!(Arc::ptr_eq(&first.backend, &again.backend));
        let _ = choose_one(route, Some(b"00000000000000000000000000000000"), random);
        // Its container was tried: another one takes it.
        let tried = [first.backend.clone()];
        let Choice::Leased(other) = choose(route, backends(route), &tried, Some(&token), random) else {
            panic!("three are left")
        };
        assert!(!Arc::ptr_eq(&first.backend, &other.backend));
    }
    assert_eq!(cookie(b"xberth_sticky=1; berth_stickyy=2"), None);
    let other = tokens(b"another key", &AppName::parse("app").expect("valid"), backends(route));
    assert!(other.iter().all(|token| !route.tokens.contains(token)));
}

#[test]
fn a_new_container_begins_with_little() {
    let balance = policy::Balance { slow_start_ms: 3_600_000, ..Default::default() };
    let policy = Policy { balance, ..Policy::default() };
    let old = table_after(&Table::default(), 1, policy.clone());
    let grown = table_after(&old, 2, Policy::default());
    // The first is warm by the same rule, with a start that is over.
    let counts = spread(route(&grown), 1000);
    assert!(counts[id(2).as_str()] > 300, "without a slow start both share: {counts:?}");
    let cold = &backends(route(&grown))[1];
    let warm = Balance { slow_start: std::time::Duration::from_secs(3600), ..Compiled::new(&policy).balance };
    let taken = randoms().take(10_000).filter(|random| is_warm(cold, &warm, *random)).count();
    assert!(taken < 100, "an hour's start has just begun: {taken}");
}

#[test]
fn an_open_circuit_is_passed_over_until_a_trial_succeeds() {
    let circuit = Circuit { failures: 3, open_ms: 60_000 };
    let table = table(2, policy::Balance { circuit: Some(circuit), ..Default::default() });
    let route = route(&table);
    let [bad, good] = backends(route) else { panic!("two") };
    bad.judged(false, &circuit);
    bad.judged(false, &circuit);
    assert!(!bad.is_passed_over());
    bad.judged(true, &circuit);
    bad.judged(false, &circuit);
    bad.judged(false, &circuit);
    assert!(!bad.is_passed_over(), "only failures in a row count");
    bad.judged(false, &circuit);
    assert!(bad.is_passed_over());
    assert_eq!(spread(route, 100).len(), 1);
    for _ in 0..3 {
        good.judged(false, &circuit);
    }
    assert_eq!(spread(route, 100).len(), 2, "when all fail, all are used");
    // Open no more, but on trial: one request at a time.
    let soon = Circuit { failures: 1, open_ms: 1 };
    bad.judged(false, &soon);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert!(!bad.is_passed_over());
    let trial = upstream::lease(bad, None, Some(&circuit));
    assert!(bad.is_passed_over(), "the trial is under way");
    drop(trial);
    bad.judged(true, &circuit);
    assert!(!bad.is_passed_over());
}

#[test]
fn no_container_gets_more_than_it_may() {
    let limits = Limits { in_flight: Some(2), queue: Some(1), queue_ms: Some(10), ..Default::default() };
    let table = table_after(&Table::default(), 2, Policy { limits, ..Policy::default() });
    let route = route(&table);
    let mut leases: Vec<_> = randoms().take(4).map(|random| choose_one(route, None, random)).collect();
    assert!(backends(route).iter().all(|backend| backend.in_flight() == 2));
    assert!(matches!(choose(route, backends(route), &[], None, 1), Choice::Full));
    leases.pop();
    let _ = choose_one(route, None, 1);
}

#[test]
fn unwell_containers_are_used_when_no_other_is_left() {
    let health = policy::Health { path: "/".into(), interval_ms: 1000 };
    let table = table(2, policy::Balance { health: Some(health), ..Default::default() });
    let route = route(&table);
    backends(route)[0].set_well(false);
    assert_eq!(spread(route, 100).len(), 1);
    backends(route)[1].set_well(false);
    assert_eq!(spread(route, 100).len(), 2);
}
