//! How long placing takes: all of a large platform at once, one lost node, one app more, a rebalance.
//!
//! `cargo bench -p berth-controller --bench schedule`: medians of [`RUNS`] runs on one core, and how they grow.

#![allow(clippy::print_stdout, reason = "a table for people")]

use berth_controller::schedule::{Node, NodeState, Nodes, Pins, Placed, Placement, Standing, Wanted};
use berth_controller::schedule::{place, rebalance};
use berth_model::container::Reserve;
use berth_model::placing::{Rules, Spread, parse_labels};
use berth_model::{AppName, ContainerId, NodeName, ProcessType};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RUNS: usize = 3;
/// Containers of one process type; apps have two types.
const PER_TYPE: u32 = 5;

fn node(index: usize) -> NodeName {
    NodeName::parse(&format!("n{index:05}")).expect("valid")
}

/// Nodes of three sizes in five zones; every third has a fast disk, some belong to a pool, some are cordoned.
fn nodes(count: usize) -> Nodes {
    let make = |index: usize| {
        let mut labels = BTreeMap::from([("zone".to_owned(), format!("z{}", index % 5))]);
        if index.is_multiple_of(3) {
            labels.insert("disk".to_owned(), "ssd".to_owned());
        }
        if index % 20 == 19 {
            labels.insert("pool".to_owned(), "batch".to_owned());
        }
        let size = [16_384, 32_768, 65_536][index % 3];
        Node {
            state: if index % 50 == 49 { NodeState::Cordoned } else { NodeState::Open },
            labels,
            memory_mib: size,
            cpu_millis: size / 2,
            disk_free_mib: 100_000,
            placed: Vec::new(),
        }
    };
    (0..count).map(|index| (node(index), make(index))).collect()
}

/// Apps of two types; some want labels, a pool, or nodes of their own; a third reserves.
fn wanted(count: usize) -> Vec<Wanted> {
    let plain = Arc::new(Rules::default());
    let ssd = Arc::new(Rules { labels: parse_labels("disk=ssd").expect("valid"), ..Rules::default() });
    let batch = Arc::new(Rules { pool: Some("batch".to_owned()), ..Rules::default() });
    let apart = Arc::new(Rules { spread: Spread::DistinctNodes, ..Rules::default() });
    let mut all = Vec::with_capacity(count);
    for index in 0.. {
        let app = AppName::parse(&format!("app-{index}")).expect("valid");
        let rules = match index % 10 {
            0 => &ssd,
            1 => &batch,
            2 => &apart,
            _ => &plain,
        };
        for process in ["web", "worker"] {
            let process = ProcessType::parse(process).expect("valid");
            for ordinal in 1..=PER_TYPE {
                if all.len() == count {
                    return all;
                }
                let reserve = match index % 3 {
                    0 => Reserve { memory_mib: Some(256), cpu_millis: Some(100), disk_mib: None },
                    _ => Reserve::default(),
                };
                all.push(Wanted {
                    id: ContainerId::of(&app, &process, ordinal, "x").expect("valid"),
                    app: app.clone(),
                    process: process.clone(),
                    ordinal,
                    memory_mib: 512,
                    reserve,
                    rules: rules.clone(),
                    volumes: Vec::new(),
                    towards: None,
                });
            }
        }
    }
    all
}

fn placed(one: &Wanted) -> Placed {
    Placed {
        app: one.app.clone(),
        process: one.process.clone(),
        memory_mib: one.memory_mib,
        reserve: one.reserve,
        goes: false,
    }
}

fn median<T>(mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut times = Vec::new();
    loop {
        let began = Instant::now();
        let result = work();
        times.push(began.elapsed());
        if times.len() == RUNS {
            times.sort_unstable();
            return (times[RUNS / 2], result);
        }
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// The nodes with everything where it was placed.
fn carrying(mut nodes: Nodes, wanted: &[Wanted], placement: &Placement) -> Nodes {
    for one in wanted {
        let Some(at) = placement.placed.get(&one.id) else { continue };
        nodes.get_mut(at).expect("it was placed there").placed.push(placed(one));
    }
    nodes
}

fn main() {
    println!(
        "| nodes | containers | all placed | refused | a lost node's | one app of 10 | rebalance, 100 moves |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let none = Pins::new();
    for (count, containers) in
        [(100, 1_000), (1_000, 10_000), (1_000, 100_000), (5_000, 50_000), (10_000, 100_000)]
    {
        let (nodes, wanted) = (nodes(count), wanted(containers));
        let (all, placement) = median(|| place(&wanted, &nodes, &none));
        let mut after = carrying(nodes, &wanted, &placement);
        let lost = node(0);
        let gone = after.get_mut(&lost).expect("there is one");
        gone.state = NodeState::Silent;
        gone.placed.iter_mut().for_each(|placed| placed.goes = true);
        let of_it: Vec<Wanted> =
            wanted.iter().filter(|one| placement.placed.get(&one.id) == Some(&lost)).cloned().collect();
        let (replaced, again) = median(|| place(&of_it, &after, &none));
        assert_eq!(again.placed.len() + again.refused.len(), of_it.len());
        let (more, _) = median(|| place(&wanted[..10.min(wanted.len())], &after, &none));
        let standing: Vec<Standing> = wanted
            .iter()
            .filter_map(|one| {
                let node = placement.placed.get(&one.id)?.clone();
                Some(Standing { wanted: one.clone(), node })
            })
            .collect();
        let (balanced, _) = median(|| rebalance(&standing, &after, &none, 100));
        println!(
            "| {count} | {containers} | {} | {} | {} ({}) | {} | {} |",
            ms(all),
            placement.refused.len(),
            ms(replaced),
            of_it.len(),
            ms(more),
            ms(balanced)
        );
    }
}
