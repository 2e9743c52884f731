//! Tests of [`super`].

use super::*;
use berth_model::image::{ImageRef, Process};
use berth_model::{Digest, ReleaseVersion};
use proptest::prelude::*;

fn spec(app: &str, process: &str, ordinal: u32) -> ContainerSpec {
    let app = AppName::parse(app).expect("valid");
    let process = ProcessType::parse(process).expect("valid");
    ContainerSpec {
        id: ContainerId::of(&app, &process, ordinal, "x").expect("valid"),
        app,
        release: ReleaseVersion(1),
        process,
        ordinal,
        image: ImageRef { repository: "apps/a".into(), digest: Digest::of(b"a") },
        run: Process::Command { argv: vec!["x".into()] },
        env: BTreeMap::new(),
        limits: berth_model::container::Limits::default(),
        port: None,
        published: Vec::new(),
        checks: Vec::new(),
        restart: berth_model::container::RestartPolicy::default(),
        stop: berth_model::container::Stop::default(),
        mounts: Vec::new(),
    }
}

fn nodes(count: usize) -> Nodes {
    let name = |index: usize| NodeName::parse(&format!("n{index}")).expect("valid");
    (0..count)
        .map(|index| (name(index), Node { alive: true, memory_mib: 4096, placed: Vec::new() }))
        .collect()
}

#[test]
fn a_refusal_says_why() {
    let wanted = [spec("a", "web", 1)];
    let none = place(&wanted, &Nodes::new()).expect_err("nowhere");
    assert!(none.to_string().contains("no node has reported"), "{none}");
    let mut dead = nodes(2);
    dead.values_mut().for_each(|node| node.alive = false);
    let silent = place(&wanted, &dead).expect_err("nowhere");
    assert!(silent.to_string().contains("n0, n1"), "{silent}");
}

#[test]
fn what_runs_already_counts() {
    let mut two = nodes(2);
    let first = two.values_mut().next().expect("two");
    first.placed.push(Placed::of(&spec("a", "web", 1)));
    let placement = place(&[spec("a", "web", 2)], &two).expect("placed");
    assert_eq!(placement.values().next().map(NodeName::as_str), Some("n1"));
}

#[test]
fn a_hundred_thousand_containers_are_placed_in_seconds() {
    let wanted: Vec<_> = (0..2_000).map(|index| spec(&format!("a{}", index / 10), "web", index)).collect();
    let started = std::time::Instant::now();
    assert_eq!(place(&wanted, &nodes(1_000)).expect("placed").len(), wanted.len());
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

proptest! {
    /// All are placed, on living nodes, siblings as evenly as can be, and the same each time.
    #[test]
    fn placement_spreads(count in 1..9_usize, web in 0..30_u32, worker in 0..30_u32, dead in 0..9_usize) {
        let mut nodes = nodes(count);
        let gone = NodeName::parse(&format!("n{dead}")).expect("valid");
        if count > 1 && let Some(node) = nodes.get_mut(&gone) {
            node.alive = false;
        }
        let alive = nodes.values().filter(|node| node.alive).count();
        let mut wanted: Vec<_> = (1..=web).map(|one| spec("a", "web", one)).collect();
        wanted.extend((1..=worker).map(|one| spec("a", "worker", one)));
        let placement = place(&wanted, &nodes).expect("some node lives");
        prop_assert_eq!(placement.len(), wanted.len());
        prop_assert!(placement.values().all(|node| nodes[node].alive));
        for (process, total) in [("web", web), ("worker", worker)] {
            let mut per_node: BTreeMap<&NodeName, usize> = BTreeMap::new();
            for one in wanted.iter().filter(|one| one.process.as_str() == process) {
                *per_node.entry(&placement[&one.id]).or_default() += 1;
            }
            let most = per_node.values().copied().max().unwrap_or(0);
            prop_assert_eq!(most, (total as usize).div_ceil(alive));
        }
        prop_assert_eq!(place(&wanted, &nodes).expect("the same"), placement);
    }
}
