//! Orders come when they are due, and not before.

use super::super::settings::{Settings, effective};
use super::*;
use proptest::prelude::*;

const DAY: i64 = 24 * 3600 * 1000;
const NOW: i64 = 1_000 * DAY;

fn host(name: &str) -> HostPattern {
    HostPattern::parse(name).expect("a name")
}

fn subject(hosts: &[&str]) -> Subject {
    let settings = Settings { server: Some("https://ca.example.com/dir".to_owned()), ..Settings::default() };
    Subject {
        app: AppName::parse("shop").expect("a name"),
        enabled: true,
        settings: effective(&Settings::default(), &settings),
        hosts: hosts.iter().map(|name| host(name)).collect(),
        on_demand: BTreeSet::new(),
        has: BTreeMap::new(),
        states: BTreeMap::new(),
        changed_ms: NOW - SETTLE_MS,
    }
}

fn has(names: &[&str], starts: i64, days: i64) -> Has {
    Has {
        names: names.iter().map(|name| host(name)).collect(),
        starts_ms: starts,
        expires_ms: starts + days * DAY,
        server: "https://ca.example.com/dir".to_owned(),
    }
}

#[test]
fn a_first_certificate_is_ordered_once_the_domains_have_settled() {
    let mut shop = subject(&["shop.test", "www.shop.test"]);
    let due = plan(&shop, NOW).due;
    assert_eq!(due.len(), 1);
    assert_eq!((&due[0].slot, due[0].names.len()), (&Slot::Main(0), 2));
    shop.changed_ms = NOW - 1;
    assert_eq!(
        plan(&shop, NOW),
        Plan { due: Vec::new(), wake_ms: Some(NOW - 1 + SETTLE_MS), ..plan(&shop, NOW) }
    );
    assert!(plan(&shop, NOW).due.is_empty());
    shop.enabled = false;
    assert_eq!(plan(&shop, NOW), Plan::default());
}

#[test]
fn renewal_is_due_when_a_third_of_life_is_left() {
    let mut shop = subject(&["shop.test"]);
    shop.has.insert(Slot::Main(0), has(&["shop.test"], NOW, 90));
    assert!(plan(&shop, NOW + 56 * DAY).due.is_empty());
    assert_eq!(plan(&shop, NOW + 60 * DAY).due.len(), 1);
    assert!(plan(&shop, NOW).wake_ms.expect("a time") > NOW + 56 * DAY);
    shop.states.insert(Slot::Main(0), State { force: true, ..State::default() });
    assert_eq!(plan(&shop, NOW).due.len(), 1, "somebody asked for it");
}

#[test]
fn new_domains_are_added_and_another_server_starts_anew() {
    let mut shop = subject(&["shop.test", "new.shop.test"]);
    shop.has.insert(Slot::Main(0), has(&["shop.test", "old.shop.test"], NOW, 90));
    assert_eq!(plan(&shop, NOW).due[0].names, [host("shop.test"), host("new.shop.test")]);
    shop.hosts = vec![host("shop.test")];
    assert!(plan(&shop, NOW).due.is_empty(), "a domain less is no reason for an order");
    shop.settings.server = "https://other.example.com/dir".to_owned();
    assert_eq!(plan(&shop, NOW).due.len(), 1);
    shop.hosts.clear();
    assert_eq!(plan(&shop, NOW).gone, [Slot::Main(0)]);
}

#[test]
fn a_failure_holds_back_the_next_try_but_not_other_names() {
    let mut shop = subject(&["shop.test"]);
    let failed = State {
        names: vec!["shop.test".to_owned()],
        failures: 2,
        next_ms: NOW + 5 * MINUTE_MS,
        ..State::default()
    };
    shop.states.insert(Slot::Main(0), failed);
    assert!(plan(&shop, NOW).due.is_empty());
    assert_eq!(plan(&shop, NOW).wake_ms, Some(NOW + 5 * MINUTE_MS));
    assert_eq!(plan(&shop, NOW + 5 * MINUTE_MS).due.len(), 1);
    shop.hosts.push(host("www.shop.test"));
    assert_eq!(plan(&shop, NOW).due.len(), 1);
}

#[test]
fn one_name_that_cannot_be_proved_does_not_hold_back_the_others() {
    let mut shop = subject(&["shop.test", "bad.test", "www.shop.test"]);
    let failed = State {
        names: ["shop.test", "bad.test", "www.shop.test"].map(str::to_owned).to_vec(),
        bad: vec!["bad.test".to_owned()],
        failures: 1,
        next_ms: NOW + MINUTE_MS,
        ..State::default()
    };
    shop.states.insert(Slot::Main(0), failed.clone());
    let planned = plan(&shop, NOW);
    assert_eq!(planned.due[0].names, [host("shop.test"), host("www.shop.test")]);
    assert_eq!(planned.due[0].without, [host("bad.test")]);
    assert_eq!(planned.wake_ms, Some(NOW + MINUTE_MS), "all are tried again then");
    shop.has.insert(Slot::Main(0), has(&["shop.test", "www.shop.test"], NOW, 90));
    assert!(plan(&shop, NOW).due.is_empty(), "they have one");
    shop.has.insert(Slot::Main(0), has(&["shop.test", "bad.test", "www.shop.test"], NOW - 80 * DAY, 90));
    assert_eq!(plan(&shop, NOW).due[0].names.len(), 2, "they must not expire because of the other");
    shop.has.insert(Slot::Main(0), has(&["shop.test", "www.shop.test"], NOW, 90));
    assert_eq!(plan(&shop, NOW + MINUTE_MS).due[0].names.len(), 3);
    shop.has.clear();
    shop.states.insert(Slot::Main(0), State { rounds: ROUNDS, ..failed.clone() });
    assert!(plan(&shop, NOW).due.is_empty(), "enough");
    let all = failed.names.clone();
    shop.states.insert(Slot::Main(0), State { bad: all, ..failed });
    assert!(plan(&shop, NOW).due.is_empty(), "no name is left");
}

#[test]
fn wildcards_need_dns_and_public_cas_public_names() {
    let mut shop = subject(&["shop.test", "*.shop.test"]);
    let skipped = plan(&shop, NOW).skipped;
    assert_eq!(skipped[0].0, host("*.shop.test"));
    assert!(skipped[0].1.contains("dns-provider"));
    shop.settings = effective(&Settings::default(), &Settings::default());
    shop.hosts = ["shop.localhost", "shop", "shop.example.org"].map(host).to_vec();
    assert_eq!(plan(&shop, NOW).due[0].names, [host("shop.example.org")]);
    assert_eq!(plan(&shop, NOW).skipped.len(), 2);
}

#[test]
fn pauses_grow_to_a_day() {
    let mut last = 0;
    for failures in 1..=8 {
        let pause = pause_ms(failures, 12345);
        assert!(pause > last, "{failures}");
        last = pause;
    }
    assert!((DAY..DAY + DAY / 10).contains(&pause_ms(1000, u64::MAX)));
    // Five failures an hour and name is what Let's Encrypt allows.
    assert!((1..=4).map(|failures| pause_ms(failures, 0)).sum::<i64>() > 60 * MINUTE_MS);
}

proptest! {
    #[test]
    fn every_name_is_in_exactly_one_certificate(count in 0_usize..450, had in 0_usize..450) {
        let names: Vec<HostPattern> = (0..count).map(|n| host(&format!("n{n}.shop.test"))).collect();
        let texts: Vec<String> = (0..had).map(|n| format!("n{}.shop.test", n * 2)).collect();
        let has: BTreeMap<Slot, Has> = texts
            .chunks(MAX_NAMES)
            .enumerate()
            .map(|(slot, names)| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                (Slot::Main(u16::try_from(slot).expect("few")), super::tests::has(&names, NOW, 90))
            })
            .collect();
        let slots = assign(&has, &names);
        prop_assert!(slots.values().all(|names| (1..=MAX_NAMES).contains(&names.len())));
        let mut all: Vec<&HostPattern> = slots.values().flatten().collect();
        all.sort();
        let mut wanted: Vec<&HostPattern> = names.iter().collect();
        wanted.sort();
        prop_assert_eq!(all, wanted);
    }

    #[test]
    fn renewal_comes_before_the_end_and_after_the_start(days in 1_i64..4000, seed: u64) {
        let at = renewal_ms(NOW, NOW + days * DAY, seed);
        prop_assert!(at > NOW && at <= NOW + days * DAY * 2 / 3);
    }
}
