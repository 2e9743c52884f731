//! Tests of [`super`].

use super::*;
use berth_model::node::Reserved;
use berth_model::placing::{POOL, Spread, parse_labels};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[path = "apart_tests.rs"]
mod apart;

fn app(name: &str) -> AppName {
    AppName::parse(name).expect("valid")
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("valid")
}

fn ruled(of: &str, process: &str, ordinal: u32, rules: &Arc<Rules>) -> Wanted {
    let (app, process) = (app(of), ProcessType::parse(process).expect("valid"));
    Wanted {
        id: ContainerId::of(&app, &process, ordinal, "x").expect("valid"),
        app,
        process,
        ordinal,
        memory_mib: 512,
        reserve: Reserve::default(),
        rules: rules.clone(),
        volumes: Vec::new(),
        towards: None,
    }
}

fn wanted(of: &str, process: &str, ordinal: u32) -> Wanted {
    ruled(of, process, ordinal, &Arc::default())
}

fn placed(one: &Wanted) -> Placed {
    let Wanted { app, process, memory_mib, reserve, .. } = one.clone();
    Placed { app, process, memory_mib, reserve, goes: false }
}

fn labelled(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn nodes(count: usize) -> Nodes {
    let one = Node { memory_mib: 4096, cpu_millis: 2000, disk_free_mib: 10_000, ..Node::default() };
    (0..count).map(|index| (node(&format!("n{index}")), one.clone())).collect()
}

fn in_zones(zones: &[&str]) -> Nodes {
    let mut nodes = nodes(zones.len());
    for (node, zone) in nodes.values_mut().zip(zones) {
        node.labels = labelled(&[("zone", zone)]);
    }
    nodes
}

fn rules(labels: &str, spread: Spread) -> Arc<Rules> {
    let labels = if labels.is_empty() { BTreeSet::new() } else { parse_labels(labels).expect("valid") };
    Arc::new(Rules { labels, spread, ..Rules::default() })
}

fn all(wanted: &[Wanted], nodes: &Nodes) -> BTreeMap<ContainerId, NodeName> {
    let placement = place(wanted, nodes, &Pins::new());
    assert_eq!(placement.refused, BTreeMap::new());
    placement.placed
}

fn refusal(wanted: &[Wanted], nodes: &Nodes, pins: &Pins) -> String {
    let placement = place(wanted, nodes, pins);
    placement.refused.values().next().expect("one is refused").to_string()
}

fn per_node(placed: &BTreeMap<ContainerId, NodeName>) -> BTreeMap<&str, usize> {
    placed.values().fold(BTreeMap::new(), |mut counts, node| {
        *counts.entry(node.as_str()).or_default() += 1;
        counts
    })
}

#[test]
fn what_goes_has_nothing_reserved() {
    let reserve = Reserve { memory_mib: Some(256), cpu_millis: Some(500), disk_mib: None };
    let stays = Placed { reserve, memory_mib: 512, ..placed(&wanted("shop", "web", 1)) };
    let goes = Placed { goes: true, ..stays.clone() };
    let free = Placed { reserve: Reserve::default(), memory_mib: 4096, ..stays.clone() };
    let node = Node { placed: vec![stays, goes, free], ..Node::default() };
    assert_eq!(node.reserved(), Reserved { cpu_millis: 500, memory_mib: 256, memory_limits_mib: 4608 });
}

#[test]
fn a_refusal_says_why() {
    let one = [wanted("a", "web", 1)];
    let none = refusal(&one, &Nodes::new(), &Pins::new());
    assert_eq!(none, "web.1 has nowhere to run: no node has reported yet; is `berth agent` running?");
    let mut dead = nodes(2);
    dead.values_mut().for_each(|node| node.state = NodeState::Silent);
    let silent = refusal(&one, &dead, &Pins::new());
    assert!(silent.contains("none of the nodes reports (n0, n1)"), "{silent}");
    let mut mixed = nodes(7);
    let states = [
        NodeState::Silent,
        NodeState::Cordoned,
        NodeState::Draining,
        NodeState::ShortOfDisk,
        NodeState::Open,
        NodeState::Open,
        NodeState::Cordoned,
    ];
    mixed.values_mut().zip(states).for_each(|(node, state)| node.state = state);
    mixed.get_mut(&node("n4")).expect("there").labels = labelled(&[(POOL, "team-a")]);
    let picky = [ruled("a", "web", 1, &rules("disk=ssd", Spread::Even))];
    insta::assert_snapshot!(
        refusal(&picky, &mixed, &Pins::new()),
        @"web.1 has nowhere to run: n0 does not report; n1, n6 are cordoned; n2 is being drained; n3 has nearly no disk left; n4 is kept for a pool; n5 has not disk=ssd"
    );
}

#[test]
fn what_runs_already_counts_and_what_goes_does_not() {
    let mut two = nodes(2);
    let first = two.values_mut().next().expect("two");
    first.placed.push(placed(&wanted("a", "web", 1)));
    assert_eq!(all(&[wanted("a", "web", 2)], &two).values().next(), Some(&node("n1")));
    let distinct = rules("", Spread::DistinctNodes);
    let mut full = two.clone();
    full.values_mut().for_each(|node| node.placed = vec![placed(&wanted("a", "web", 1))]);
    let refused = refusal(&[ruled("a", "web", 2, &distinct)], &full, &Pins::new());
    assert!(refused.contains("n0, n1 have one already"), "{refused}");
    full.values_mut().for_each(|node| node.placed[0].goes = true);
    assert_eq!(per_node(&all(&[ruled("a", "web", 2, &distinct)], &full)).len(), 1);
}

fn reserving(process: &str, ordinal: u32, memory_mib: Option<u64>, cpu_millis: Option<u64>) -> Wanted {
    Wanted { reserve: Reserve { memory_mib, cpu_millis, disk_mib: None }, ..wanted("a", process, ordinal) }
}

#[test]
fn reservations_fill_a_node_and_not_more() {
    let half: Vec<_> = (1..=5).map(|one| reserving("web", one, Some(2048), None)).collect();
    let four = all(&half[..4], &nodes(2));
    assert_eq!(per_node(&four), BTreeMap::from([("n0", 2), ("n1", 2)]));
    // The fifth has no room, which keeps none of the others back.
    let placement = place(&half, &nodes(2), &Pins::new());
    assert_eq!((placement.placed.len(), placement.refused.len()), (4, 1));
    let full = placement.refused.values().next().expect("one").to_string();
    assert!(full.contains("reserves 2048 MiB") && full.contains("n0: 0 MiB and 2000m CPU"), "{full}");
    assert!(!placement.refused.values().next().expect("one").may_pass());
    let greedy = refusal(&[reserving("web", 1, None, Some(2001))], &nodes(2), &Pins::new());
    assert!(greedy.contains("2001m CPU"), "{greedy}");
    // What reserves nothing has room beside reservations.
    let mut mixed = half[..4].to_vec();
    mixed.push(wanted("a", "worker", 1));
    assert_eq!(all(&mixed, &nodes(2)).len(), 5);
    let disk = Reserve { disk_mib: Some(6000), ..Reserve::default() };
    let disks: Vec<_> = (1..=3).map(|one| Wanted { reserve: disk, ..wanted("a", "db", one) }).collect();
    let placement = place(&disks, &nodes(2), &Pins::new());
    assert_eq!((placement.placed.len(), placement.refused.len()), (2, 1));
}

#[test]
fn what_goes_keeps_no_reservation() {
    let mut one = nodes(1);
    let node = one.values_mut().next().expect("one");
    node.placed.push(Placed { goes: true, ..placed(&reserving("web", 1, Some(4096), None)) });
    all(&[reserving("web", 2, Some(4096), None)], &one);
}

#[test]
fn replicas_spread_over_zones_then_nodes() {
    let zones = in_zones(&["eu", "eu", "eu", "us"]);
    let four: Vec<_> = (1..=4).map(|one| wanted("a", "web", one)).collect();
    assert_eq!(per_node(&all(&four, &zones)), BTreeMap::from([("n0", 1), ("n1", 1), ("n3", 2)]));
    let apart: Vec<_> =
        (1..=3).map(|one| ruled("a", "web", one, &rules("", Spread::DistinctZones))).collect();
    let placement = place(&apart, &zones, &Pins::new());
    assert_eq!(per_node(&placement.placed), BTreeMap::from([("n0", 1), ("n3", 1)]));
    let third = placement.refused.values().next().expect("one").to_string();
    assert!(third.contains("are in zones that have one already"), "{third}");
    let eu: Vec<_> = (1..=2).map(|one| ruled("a", "web", one, &rules("zone=eu", Spread::Even))).collect();
    assert_eq!(per_node(&all(&eu, &zones)), BTreeMap::from([("n0", 1), ("n1", 1)]));
    let any: Vec<_> = (1..=8).map(|one| ruled("a", "web", one, &rules("", Spread::None))).collect();
    assert!(per_node(&all(&any, &zones)).values().all(|count| *count == 2));
}

#[test]
fn a_pool_takes_its_own_and_nobody_else() {
    let mut three = nodes(3);
    three.get_mut(&node("n1")).expect("there").labels = labelled(&[(POOL, "team-a")]);
    let team = Arc::new(Rules { pool: Some("team-a".to_owned()), ..Rules::default() });
    let of_team: Vec<_> = (1..=3).map(|one| ruled("a", "web", one, &team)).collect();
    assert_eq!(per_node(&all(&of_team, &three)), BTreeMap::from([("n1", 3)]));
    let others: Vec<_> = (1..=4).map(|one| wanted("b", "web", one)).collect();
    assert_eq!(per_node(&all(&others, &three)), BTreeMap::from([("n0", 2), ("n2", 2)]));
}

#[test]
fn a_volume_stays_where_it_is() {
    let uploads = Volume::Named("uploads".to_owned());
    let with = |ordinal| Wanted { volumes: vec![uploads.clone()], ..wanted("a", "web", ordinal) };
    // On no node yet: the first one chooses for all.
    let three: Vec<_> = (1..=3).map(with).collect();
    let placement = place(&three, &nodes(3), &Pins::new());
    assert_eq!(per_node(&placement.placed), BTreeMap::from([("n0", 3)]));
    assert_eq!(placement.pinned, BTreeMap::from([(uploads.clone(), node("n0"))]));
    let pins = Pins::from([(uploads.clone(), Some(node("n2")))]);
    let placement = place(&three, &nodes(3), &pins);
    assert_eq!(per_node(&placement.placed), BTreeMap::from([("n2", 3)]));
    assert!(placement.pinned.is_empty());
    let mut lost = nodes(3);
    lost.get_mut(&node("n2")).expect("there").state = NodeState::Silent;
    insta::assert_snapshot!(
        refusal(&[with(1)], &lost, &pins),
        @"web.1 has nowhere to run: its volume uploads is on n2, which does not report; it starts there when that node is back"
    );
    lost.remove(&node("n2"));
    assert!(refusal(&[with(1)], &lost, &pins).contains("n2, which is no node any more"));
    let mut apart = pins.clone();
    let srv = Volume::Path(app("a"), "/srv".to_owned());
    apart.insert(srv.clone(), Some(node("n1")));
    let both = Wanted { volumes: vec![uploads, srv.clone()], ..wanted("a", "web", 1) };
    assert!(
        refusal(std::slice::from_ref(&both), &nodes(3), &apart)
            .contains("is on n2 and its directory /srv on n1")
    );
    // The same on every node.
    apart.insert(srv, None);
    assert_eq!(place(&[both], &nodes(3), &apart).placed.values().next(), Some(&node("n2")));
}

#[test]
fn a_move_goes_where_it_was_planned_if_that_is_allowed() {
    let towards = |to: &str| Wanted { towards: Some(node(to)), ..wanted("a", "web", 1) };
    assert_eq!(all(&[towards("n2")], &nodes(3)).values().next(), Some(&node("n2")));
    let mut cordoned = nodes(3);
    cordoned.get_mut(&node("n2")).expect("there").state = NodeState::Cordoned;
    assert_eq!(all(&[towards("n2")], &cordoned).values().next(), Some(&node("n0")));
}

/// A cluster with all there can be in it.
fn clusters() -> impl Strategy<Value = Nodes> {
    let one = (0..10_u8, 0..3_u8, 0..4_u8, 1..5_u64, 0..6_usize);
    proptest::collection::vec(one, 0..9).prop_map(|all| {
        let make = |(index, (state, zone, label, size, carries)): (usize, (u8, u8, u8, u64, usize))| {
            let state = match state {
                0 => NodeState::Silent,
                1 => NodeState::Cordoned,
                2 => NodeState::Draining,
                3 => NodeState::ShortOfMemory,
                _ => NodeState::Open,
            };
            let mut labels = BTreeMap::new();
            if zone > 0 {
                labels.insert("zone".to_owned(), format!("z{zone}"));
            }
            match label {
                1 => drop(labels.insert("disk".to_owned(), "ssd".to_owned())),
                2 => drop(labels.insert(POOL.to_owned(), "p".to_owned())),
                _ => {}
            }
            let placed = (0..carries)
                .map(|at| placed(&reserving("web", u32::try_from(at).unwrap_or(0) + 90, Some(256), None)));
            let made = Node {
                state,
                labels,
                memory_mib: size * 1024,
                cpu_millis: size * 500,
                disk_free_mib: size * 1000,
                placed: placed.collect(),
            };
            (node(&format!("n{index}")), made)
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

/// Process type, rules, spread, memory, CPU, volume.
type Asked = (u8, u8, u8, Option<u64>, Option<u64>, u8);

fn wants() -> impl Strategy<Value = Vec<Wanted>> {
    let one = (
        0..2_u8,
        0..3_u8,
        0..4_u8,
        proptest::option::of(1..900_u64),
        proptest::option::of(1..700_u64),
        0..6_u8,
    );
    proptest::collection::vec(one, 0..25).prop_map(|all| {
        let make = |(index, asked): (u32, Asked)| {
            let (process, label, spread, memory, cpu, volume) = asked;
            let spread = [Spread::Even, Spread::DistinctNodes, Spread::DistinctZones, Spread::None]
                [usize::from(spread)];
            let mut rules = Rules { spread, ..Rules::default() };
            match label {
                1 => rules.labels = parse_labels("disk=ssd|nvme").expect("valid"),
                2 => rules.pool = Some("p".to_owned()),
                _ => {}
            }
            let process = ["web", "worker"][usize::from(process)];
            let mut wanted = Wanted { rules: Arc::new(rules), ..reserving(process, index, memory, cpu) };
            if volume < 2 {
                wanted.volumes.push(Volume::Named(format!("v{volume}")));
            }
            wanted
        };
        (1..).zip(all).map(make).collect()
    })
}

proptest! {
    /// Each is placed or refused with a sentence; nothing is promised that is not there; every rule holds; a volume is on one
    /// node; and it is the same again.
    #[test]
    fn whatever_is_asked_every_rule_holds(nodes in clusters(), wanted in wants()) {
        let placement = place(&wanted, &nodes, &Pins::new());
        prop_assert_eq!(placement.placed.len() + placement.refused.len(), wanted.len());
        prop_assert!(placement.refused.values().all(|refusal| !refusal.to_string().ends_with(": ")));
        let mut kept: BTreeMap<&NodeName, (u64, u64)> = BTreeMap::new();
        let mut homes: BTreeMap<&Volume, &NodeName> = BTreeMap::new();
        let mut seen: BTreeMap<(&ProcessType, &NodeName), usize> = BTreeMap::new();
        for (name, node) in &nodes {
            for one in &node.placed {
                kept.entry(name).or_default().0 += one.reserve.memory_mib.unwrap_or(0);
                *seen.entry((&one.process, name)).or_default() += 1;
            }
        }
        for one in &wanted {
            let Some(at) = placement.placed.get(&one.id) else { continue };
            let node = &nodes[at];
            prop_assert_eq!(node.state, NodeState::Open);
            prop_assert!(one.rules.allow(&node.labels));
            let sum = kept.entry(at).or_default();
            sum.0 += one.reserve.memory_mib.unwrap_or(0);
            sum.1 += one.reserve.cpu_millis.unwrap_or(0);
            prop_assert!(one.reserve.memory_mib.is_none() || sum.0 <= node.memory_mib);
            prop_assert!(one.reserve.cpu_millis.is_none() || sum.1 <= node.cpu_millis);
            for volume in &one.volumes {
                prop_assert_eq!(*homes.entry(volume).or_insert(at), at);
                prop_assert_eq!(placement.pinned.get(volume), Some(at));
            }
            let zone = |name: &NodeName| nodes[name].zone().to_owned();
            let alone = match one.rules.spread {
                Spread::Even | Spread::None => true,
                Spread::DistinctNodes => !seen.contains_key(&(&one.process, at)),
                Spread::DistinctZones => {
                    !seen.keys().any(|(process, name)| **process == one.process && zone(name) == zone(at))
                }
            };
            prop_assert!(alone);
            *seen.entry((&one.process, at)).or_default() += 1;
        }
        // Who is refused for want of room would not fit now either: nothing was left lying about.
        for one in wanted.iter().filter(|one| one.volumes.is_empty()) {
            if placement.placed.contains_key(&one.id) { continue }
            for (name, node) in &nodes {
                let (memory, cpu) = kept.get(name).copied().unwrap_or_default();
                let fits = one.reserve.memory_mib.is_none_or(|wanted| memory + wanted <= node.memory_mib)
                    && one.reserve.cpu_millis.is_none_or(|wanted| cpu + wanted <= node.cpu_millis);
                let plain = matches!(one.rules.spread, Spread::Even | Spread::None);
                prop_assert!(!(plain && fits && node.state == NodeState::Open && one.rules.allow(&node.labels)));
            }
        }
        prop_assert_eq!(place(&wanted, &nodes, &Pins::new()), placement);
    }

    /// Of one type, zones differ by one at most, and nodes of a zone too.
    #[test]
    fn placement_spreads(count in 1..9_usize, zones in 1..4_usize, web in 0..30_u32, worker in 0..30_u32, dead in 0..9_usize) {
        let mut nodes = nodes(count);
        for (index, node) in nodes.values_mut().enumerate() {
            node.labels = labelled(&[("zone", &format!("z{}", index % zones))]);
        }
        if count > 1 && let Some(node) = nodes.get_mut(&node(&format!("n{dead}"))) {
            node.state = NodeState::Silent;
        }
        let mut wanted: Vec<_> = (1..=web).map(|one| self::wanted("a", "web", one)).collect();
        wanted.extend((1..=worker).map(|one| self::wanted("a", "worker", one)));
        let placement = all(&wanted, &nodes);
        for process in ["web", "worker"] {
            let mut per_node: BTreeMap<&NodeName, usize> = BTreeMap::new();
            let open = nodes.iter().filter(|(_, node)| node.state == NodeState::Open);
            per_node.extend(open.map(|(name, _)| (name, 0)));
            for one in wanted.iter().filter(|one| one.process.as_str() == process) {
                *per_node.get_mut(&placement[&one.id]).expect("only open nodes") += 1;
            }
            let mut per_zone: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            per_node.iter().for_each(|(name, count)| per_zone.entry(nodes[*name].zone()).or_default().push(*count));
            let differ = |counts: &[usize]| counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0);
            let sums: Vec<usize> = per_zone.values().map(|counts| counts.iter().sum()).collect();
            prop_assert!(differ(&sums) <= 1, "{:?}", per_zone);
            prop_assert!(per_zone.values().all(|counts| differ(counts) <= 1), "{:?}", per_zone);
        }
    }
}

fn standing(nodes: &mut Nodes, one: Wanted, at: &str) -> Standing {
    let node = node(at);
    nodes.get_mut(&node).expect("there").placed.push(placed(&one));
    Standing { wanted: one, node }
}

/// Containers alone on the nodes, each on the one of its number if that is there.
fn standing_at(nodes: &mut Nodes, wanted: impl IntoIterator<Item = Wanted>, at: Vec<usize>) -> Vec<Standing> {
    nodes.values_mut().for_each(|node| node.placed.clear());
    let count = nodes.len().max(1);
    let mut all = Vec::new();
    for (one, at) in wanted.into_iter().zip(at) {
        let name = node(&format!("n{}", at % count));
        if nodes.contains_key(&name) {
            all.push(standing(nodes, one, name.as_str()));
        }
    }
    all
}

fn carried_out(nodes: &Nodes, standing: &[Standing], moves: &[Move]) -> (Nodes, Vec<Standing>) {
    let (mut nodes, mut standing) = (nodes.clone(), standing.to_vec());
    for one in moves {
        let moved = standing.iter_mut().find(|other| other.wanted.id == one.id).expect("it stands");
        assert_eq!(moved.node, one.from);
        let here = &mut nodes.get_mut(&one.from).expect("there").placed;
        let is_it = |other: &Placed| {
            (&other.app, &other.process, other.reserve) == (&one.app, &one.process, moved.wanted.reserve)
        };
        let at = here.iter().position(is_it);
        let goes = here.remove(at.expect("it is there"));
        nodes.get_mut(&one.to).expect("there").placed.push(goes);
        moved.node = one.to.clone();
    }
    (nodes, standing)
}

#[test]
fn a_new_node_takes_its_share_with_few_moves() {
    let mut three = nodes(3);
    let all: Vec<_> = (1..=6)
        .map(|one| standing(&mut three, wanted("a", "web", one), if one % 2 == 0 { "n0" } else { "n1" }))
        .collect();
    let moves = rebalance(&all, &three, &Pins::new(), 100);
    let shown: Vec<_> =
        moves.iter().map(|one| (one.ordinal, one.from.as_str(), one.to.as_str(), one.why)).collect();
    assert_eq!(shown, [(6, "n0", "n2", Why::Spread), (5, "n1", "n2", Why::Spread)]);
    let (after, standing) = carried_out(&three, &all, &moves);
    assert_eq!(rebalance(&standing, &after, &Pins::new(), 100), []);
}

#[test]
fn rules_come_first_and_volumes_stay() {
    let mut two = nodes(2);
    two.get_mut(&node("n1")).expect("there").labels = labelled(&[("disk", "ssd")]);
    let ssd = rules("disk=ssd", Spread::Even);
    let data = Volume::Named("data".to_owned());
    let bound = Wanted { volumes: vec![data.clone()], ..ruled("a", "db", 1, &ssd) };
    let all = [standing(&mut two, ruled("a", "web", 1, &ssd), "n0"), standing(&mut two, bound, "n0")];
    let pins = Pins::from([(data.clone(), Some(node("n0")))]);
    let moves = rebalance(&all, &two, &pins, 100);
    assert_eq!(
        moves.iter().map(|one| (one.process.as_str(), one.why)).collect::<Vec<_>>(),
        [("web", Why::Rules)]
    );
    assert_eq!(rebalance(&all, &two, &Pins::from([(data, None)]), 100).len(), 2);
    assert_eq!(rebalance(&all, &two, &pins, 0), []);
}

#[test]
fn full_nodes_give_to_empty_ones() {
    let mut two = nodes(2);
    let all: Vec<_> =
        (1..=6).map(|one| standing(&mut two, wanted(&format!("a{one}"), "web", 1), "n0")).collect();
    let moves = rebalance(&all, &two, &Pins::new(), 100);
    assert!(moves.iter().all(|one| one.why == Why::Load && one.to == node("n1")), "{moves:?}");
    assert!((2..=3).contains(&moves.len()), "{moves:?}");
    two.get_mut(&node("n1")).expect("there").state = NodeState::Cordoned;
    assert_eq!(rebalance(&all, &two, &Pins::new(), 100), []);
}

proptest! {
    /// Moves keep every rule, go on until nothing is left to move, and never make room that is not there.
    #[test]
    fn rebalancing_ends(nodes in clusters(), wanted in wants(), at in proptest::collection::vec(0..9_usize, 25)) {
        let mut nodes = nodes;
        let all = standing_at(&mut nodes, wanted, at);
        let moves = rebalance(&all, &nodes, &Pins::new(), 1000);
        prop_assert!(moves.len() <= all.len());
        for one in &moves {
            let wanted = &all.iter().find(|other| other.wanted.id == one.id).expect("it stands").wanted;
            prop_assert!(wanted.volumes.is_empty() && nodes[&one.to].state == NodeState::Open);
            prop_assert!(wanted.rules.allow(&nodes[&one.to].labels));
        }
        let (mut after, mut standing) = carried_out(&nodes, &all, &moves);
        for _ in 0..20 {
            let more = rebalance(&standing, &after, &Pins::new(), 1000);
            if more.is_empty() { break }
            (after, standing) = carried_out(&after, &standing, &more);
        }
        prop_assert_eq!(rebalance(&standing, &after, &Pins::new(), 1000), []);
    }
}
