//! Tests of keeping apart: who is not to be beside whom.

use super::*;
use berth_model::apart::{Aparts, AppApart, Neighbour, Within, aparts_of};

/// Settings as `ps:set` makes them: whose, of which type, whether hard, whom.
fn set(aparts: &mut Aparts, of: &str, process: Option<&str>, is_hard: bool, whom: &str) {
    let own: &mut AppApart = aparts.entry(app(of)).or_default();
    let settings = match process {
        Some(process) => own.types.entry(ProcessType::parse(process).expect("valid")).or_default(),
        None => &mut own.own,
    };
    let all = if is_hard { &mut settings.never } else { &mut settings.rather_not };
    all.get_or_insert_default().insert(whom.parse::<Neighbour>().expect("valid"));
}

fn keeping(aparts: &Aparts, one: Wanted) -> Wanted {
    let apart = aparts_of(aparts, &one.app, &one.process);
    Wanted { rules: Arc::new(Rules { apart, ..(*one.rules).clone() }), ..one }
}

fn never(of: &str, whom: &str) -> Aparts {
    let mut aparts = Aparts::new();
    set(&mut aparts, of, None, true, whom);
    aparts
}

fn carry(nodes: &mut Nodes, one: &Wanted, at: &str) {
    nodes.get_mut(&node(at)).expect("there").placed.push(placed(one));
}

#[test]
fn whoever_comes_first_the_other_goes_elsewhere() {
    let aparts = never("shop", "cache");
    let both = [wanted("shop", "web", 1), wanted("cache", "web", 1)].map(|one| keeping(&aparts, one));
    for order in [[0, 1], [1, 0]] {
        let mut two = nodes(2);
        carry(&mut two, &both[order[0]], "n0");
        // n0 is the first by name, and would be taken.
        let placed = all(&[both[order[1]].clone()], &two);
        assert_eq!(placed.values().next(), Some(&node("n1")));
        let together = order.map(|at| both[at].clone());
        assert_eq!(per_node(&all(&together, &nodes(2))), BTreeMap::from([("n0", 1), ("n1", 1)]));
    }
}

#[test]
fn a_refusal_names_who_is_there() {
    let mut aparts = never("shop", "cache");
    set(&mut aparts, "shop", None, true, "db:main@zone");
    let mut four = in_zones(&["a", "a", "b", "b"]);
    carry(&mut four, &wanted("db", "main", 1), "n0");
    carry(&mut four, &wanted("cache", "web", 1), "n2");
    carry(&mut four, &wanted("cache", "web", 2), "n3");
    let shop = keeping(&aparts, wanted("shop", "web", 1));
    insta::assert_snapshot!(
        refusal(&[shop], &four, &Pins::new()),
        @"web.1 has nowhere to run: n2, n3 have cache, which it keeps apart from; n0, n1 are in zones that have db:main, which it keeps apart from"
    );
    let mut one = nodes(1);
    carry(&mut one, &wanted("shop", "web", 1), "n0");
    let cache = keeping(&aparts, wanted("cache", "web", 1));
    insta::assert_snapshot!(
        refusal(&[cache], &one, &Pins::new()),
        @"web.1 has nowhere to run: n0 has shop, which it keeps apart from"
    );
    one.values_mut().for_each(|node| node.placed[0].goes = true);
    assert_eq!(all(&[keeping(&aparts, wanted("cache", "web", 1))], &one).len(), 1, "it goes");
    // Where its volume is, the rule holds too.
    let mut two = nodes(2);
    carry(&mut two, &wanted("cache", "web", 1), "n0");
    let data = Volume::Named("data".to_owned());
    let bound = Wanted { volumes: vec![data.clone()], ..keeping(&aparts, wanted("shop", "web", 1)) };
    let pins = Pins::from([(data, Some(node("n0")))]);
    insta::assert_snapshot!(
        refusal(&[bound], &two, &pins),
        @"web.1 has nowhere to run: its volume data is on n0, which has cache, which it keeps apart from"
    );
}

#[test]
fn who_would_rather_not_goes_there_when_there_is_no_other_place() {
    let mut aparts = Aparts::new();
    set(&mut aparts, "shop", None, false, "cache");
    let mut three = nodes(3);
    carry(&mut three, &wanted("cache", "web", 1), "n0");
    let shop = |ordinal| keeping(&aparts, wanted("shop", "web", ordinal));
    let four: Vec<_> = (1..=4).map(shop).collect();
    assert_eq!(per_node(&all(&four, &three)), BTreeMap::from([("n1", 2), ("n2", 2)]));
    three.get_mut(&node("n1")).expect("there").state = NodeState::Cordoned;
    three.get_mut(&node("n2")).expect("there").state = NodeState::Cordoned;
    assert_eq!(per_node(&all(&four, &three)), BTreeMap::from([("n0", 4)]));
    // The fewest of those, and none of its own beside it if that was asked for.
    let mut two = nodes(2);
    for (ordinal, at) in [(1, "n0"), (2, "n0"), (3, "n1")] {
        carry(&mut two, &wanted("cache", "web", ordinal), at);
    }
    assert_eq!(all(&[shop(1)], &two).values().next(), Some(&node("n1")));
    let distinct: Vec<_> = (1..=2)
        .map(|one| keeping(&aparts, ruled("shop", "web", one, &rules("", Spread::DistinctNodes))))
        .collect();
    assert_eq!(per_node(&all(&distinct, &two)), BTreeMap::from([("n0", 1), ("n1", 1)]));
}

#[test]
fn a_rebalance_takes_them_apart() {
    let mut aparts = never("shop", "cache");
    set(&mut aparts, "blog", None, false, "cache");
    let mut three = nodes(3);
    let all = ["shop", "cache", "blog"].map(|of| {
        let one = keeping(&aparts, wanted(of, "web", 1));
        standing(&mut three, one, "n0")
    });
    let moves = rebalance(&all, &three, &Pins::new(), 100);
    assert!(moves.iter().all(|one| one.why == Why::Apart), "{moves:?}");
    let (after, standing) = carried_out(&three, &all, &moves);
    let homes: BTreeMap<_, _> =
        standing.iter().map(|one| (one.wanted.app.to_string(), one.node.clone())).collect();
    assert!(homes["cache"] != homes["shop"] && homes["cache"] != homes["blog"], "{homes:?}");
    assert_eq!(rebalance(&standing, &after, &Pins::new(), 100), []);
}

const APPS: [&str; 3] = ["a", "b", "c"];
const TYPES: [&str; 2] = ["web", "worker"];

/// Who keeps apart from whom: app, for which type, hard, from which app, of which type, in the zone.
fn settings() -> impl Strategy<Value = Aparts> {
    let one = (0..3_usize, 0..3_usize, any::<bool>(), 0..3_usize, 0..3_usize, any::<bool>());
    proptest::collection::vec(one, 0..5).prop_map(|all| {
        let mut aparts = Aparts::new();
        for (of, process, is_hard, whom, meant, zone) in all {
            let process = TYPES.get(process).copied();
            let meant = TYPES.get(meant).map(|meant| format!(":{meant}"));
            if of != whom
                || (meant.is_some() && meant.as_deref() != process.map(|one| format!(":{one}")).as_deref())
            {
                let text =
                    format!("{}{}{}", APPS[whom], meant.unwrap_or_default(), if zone { "@zone" } else { "" });
                set(&mut aparts, APPS[of], process, is_hard, &text);
            }
        }
        aparts
    })
}

fn of_three() -> impl Strategy<Value = Vec<Wanted>> {
    let one = (0..3_usize, 0..2_usize, 0..4_usize, proptest::option::of(1..400_u64));
    proptest::collection::vec(one, 0..20).prop_map(|all| {
        let spreads = [Spread::Even, Spread::DistinctNodes, Spread::DistinctZones, Spread::None];
        let make = |(ordinal, (of, process, spread, memory)): (u32, (usize, usize, usize, Option<u64>))| {
            let reserve = Reserve { memory_mib: memory, ..Reserve::default() };
            Wanted { reserve, ..ruled(APPS[of], TYPES[process], ordinal, &rules("", spreads[spread])) }
        };
        (1..).zip(all).map(make).collect()
    })
}

/// Pairs that are closer than one of them allows, and pairs that would rather not be as close.
fn too_close(nodes: &Nodes, standing: &[(Wanted, NodeName)]) -> (usize, usize) {
    let mut found = (0, 0);
    for (one, at) in standing {
        for (other, there) in standing {
            for apart in one.rules.apart.iter().filter(|apart| apart.means(&other.app, &other.process)) {
                let close = match apart.within {
                    Within::Node => at == there,
                    Within::Zone => nodes[at].zone() == nodes[there].zone(),
                };
                match apart.is_hard {
                    true => found.0 += usize::from(close),
                    false => found.1 += usize::from(close),
                }
            }
        }
    }
    found
}

proptest! {
    /// However they come, in one call or several, nobody is beside whom it, or who, keeps apart; who is refused has no such
    /// place; and it is the same again.
    #[test]
    fn nobody_is_beside_whom_it_keeps_apart_from(
        aparts in settings(), mut nodes in clusters(), wanted in of_three(), at_once in 1..8_usize,
    ) {
        nodes.values_mut().for_each(|node| node.placed.clear());
        let wanted: Vec<_> = wanted.into_iter().map(|one| keeping(&aparts, one)).collect();
        let mut standing: Vec<(Wanted, NodeName)> = Vec::new();
        for some in wanted.chunks(at_once) {
            let placement = place(some, &nodes, &Pins::new());
            prop_assert_eq!(&place(some, &nodes, &Pins::new()), &placement);
            for one in some {
                let Some(at) = placement.placed.get(&one.id) else { continue };
                nodes.get_mut(at).expect("there").placed.push(placed(one));
                standing.push((one.clone(), at.clone()));
            }
            prop_assert_eq!(too_close(&nodes, &standing).0, 0);
            for one in some.iter().filter(|one| !placement.placed.contains_key(&one.id)) {
                prop_assert!(!placement.refused[&one.id].to_string().ends_with(": "));
                for (name, node) in nodes.iter().filter(|(_, node)| node.state == NodeState::Open) {
                    let kept: u64 = node.placed.iter().filter_map(|one| one.reserve.memory_mib).sum();
                    let fits = one.reserve.memory_mib.is_none_or(|more| kept + more <= node.memory_mib);
                    let plain = matches!(one.rules.spread, Spread::Even | Spread::None);
                    let mut then = standing.clone();
                    then.push((one.clone(), name.clone()));
                    let apart = too_close(&nodes, &then).0 == 0;
                    prop_assert!(!(plain && fits && apart && one.rules.allow(&node.labels)));
                }
            }
        }
    }

    /// A rebalance brings nobody too close, and comes to an end.
    #[test]
    fn rebalancing_brings_nobody_closer(
        aparts in settings(), mut nodes in clusters(), wanted in of_three(),
        at in proptest::collection::vec(0..9_usize, 20),
    ) {
        let wanted = wanted.into_iter().map(|one| keeping(&aparts, one));
        let mut all = standing_at(&mut nodes, wanted, at);
        let close = |nodes: &Nodes, all: &[Standing]| {
            let all: Vec<_> = all.iter().map(|one| (one.wanted.clone(), one.node.clone())).collect();
            too_close(nodes, &all)
        };
        let (mut before, mut rounds) = (close(&nodes, &all), 0);
        loop {
            let moves = rebalance(&all, &nodes, &Pins::new(), 1000);
            if moves.is_empty() { break }
            (nodes, all) = carried_out(&nodes, &all, &moves);
            let after = close(&nodes, &all);
            prop_assert!(after.0 <= before.0, "{before:?} {after:?}");
            (before, rounds) = (after, rounds + 1);
            prop_assert!(rounds < 50, "it does not end");
        }
    }
}
