//! Many machines, end to end: simulated hosts, real `git push`, real requests, real failures.
//! `cargo test -p berth-tests --test cluster [-- FILTER]`.
//!
//! One scenario at a time: each looks at the clock. Those of a group share three hosts, of which the first has the
//! controller or all have one, and leave them as they found them; a group's last ones may leave them in pieces.

#![expect(clippy::print_stderr, reason = "a test runner talks to its terminal")]

mod apart;
mod bed;
mod failover;
mod joined;
mod kept;
mod lost;
mod placed;
mod steady;

use anyhow::Context;
use berth_tests::hosts::{Cluster, Host};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// One that makes its own hosts.
type Alone = fn() -> anyhow::Result<()>;
/// One of a group.
type Scenario = fn(&mut Cluster) -> anyhow::Result<()>;
/// Several of a group, with their names.
type Named = &'static [(&'static str, Scenario)];
/// What makes the hosts of a group.
type Make = fn() -> anyhow::Result<Cluster>;
/// Three hosts, made by the first that needs them.
type Shared = Arc<Mutex<Option<Cluster>>>;

/// Says how far a scenario is, and how long the test runs already.
fn step(what: &str) {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    eprintln!("{:7.1} s  {what}", BEGUN.get_or_init(Instant::now).elapsed().as_secs_f64());
}

fn failed(error: &anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

fn alone((name, scenario): &(&'static str, Alone)) -> Trial {
    let (name, scenario) = (*name, *scenario);
    Trial::test(name, move || {
        step(name);
        scenario().map_err(|error| failed(&error))
    })
}

fn of_group(shared: &Shared, make: Make, scenarios: Named) -> Vec<Trial> {
    let trial = |(name, scenario): &(&'static str, Scenario)| {
        let (shared, name, scenario) = (shared.clone(), *name, *scenario);
        Trial::test(name, move || {
            step(name);
            let mut cluster = shared.lock().map_err(|_| "an earlier scenario panicked")?;
            if cluster.is_none() {
                *cluster = Some(make().map_err(|error| failed(&error))?);
                step("three hosts are one cluster");
            }
            let cluster = cluster.as_mut().ok_or("no hosts")?;
            let done = scenario(cluster);
            // What was cut is mended, whatever came of it.
            let mended = cluster.bed.switch().mend_all().context("mending");
            done.and(mended).map_err(|error| {
                let logs: Vec<_> = cluster.bed.hosts().iter().map(Host::log_tail).collect();
                Failed::from(format!("{error:#}\n{}", logs.join("\n")))
            })
        })
    };
    scenarios.iter().map(trial).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut failures =
        libtest_mimic::run(&arguments, bed::SCENARIOS.iter().chain(kept::SCENARIOS).map(alone).collect())
            .has_failed();
    let groups: [(Make, &[Named]); 5] = [
        (Cluster::of_three, &[joined::SCENARIOS, placed::SCENARIOS, steady::SCENARIOS]),
        (Cluster::of_three, &[lost::SCENARIOS]),
        (Cluster::of_three, &[apart::SCENARIOS]),
        (Cluster::of_three, &[apart::ONE_WAY]),
        (Cluster::of_three_controllers, &[failover::SCENARIOS]),
    ];
    for (make, group) in groups {
        let shared = Shared::default();
        let trials = group.iter().flat_map(|scenarios| of_group(&shared, make, scenarios)).collect();
        failures |= libtest_mimic::run(&arguments, trials).has_failed();
    }
    if failures { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
