//! End to end: a whole Berth, real `git push`, real requests. `cargo test -p berth-tests --test e2e [-- FILTER]`.
//!
//! Two platforms, one after the other: the scenarios on the first share it, each with apps of its own, three at a time;
//! those on the second kill its processes and look at the whole machine, one at a time.

#![expect(clippy::print_stderr, reason = "a test runner talks to its terminal")]

mod apps;
mod backup;
mod buildah;
mod buildpacks;
mod builds;
mod certs;
mod commands;
mod deploys;
mod dockerfile;
mod faults;
mod guide;
mod images;
mod isolation;
mod networks;
mod observe;
mod policies;
mod processes;
mod protocols;
mod push;
mod rollouts;
mod runs;
mod samples;
mod secrets;
mod sites;
mod sweep;
mod watch;

use berth_tests::Berth;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The platform a group of scenarios shares.
type Shared = Arc<RwLock<Option<Berth>>>;
type Scenario = fn(&Berth) -> anyhow::Result<()>;
type RoughScenario = fn(&mut Berth) -> anyhow::Result<()>;

/// How long each scenario took.
static TIMES: Mutex<Vec<(Duration, &str)>> = Mutex::new(Vec::new());

fn timed<T>(name: &'static str, scenario: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = scenario();
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).push((began.elapsed(), name));
    result
}

fn print_slowest() {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort_unstable();
    for (time, name) in times.iter().rev().take(20) {
        eprintln!("{:7.1} s  {name}", time.as_secs_f64());
    }
}

fn failed(error: &anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

fn gentle(shared: &Shared, scenarios: &[(&'static str, Scenario)]) -> Vec<Trial> {
    let trial = |(name, scenario): &(&'static str, Scenario)| {
        let (shared, scenario, name) = (shared.clone(), *scenario, *name);
        Trial::test(name, move || {
            let berth = shared.read().map_err(|_| "an earlier scenario panicked")?;
            let berth = berth.as_ref().ok_or("no platform")?;
            timed(name, || scenario(berth)).map_err(|error| failed(&error))
        })
    };
    scenarios.iter().map(trial).collect()
}

fn rough(shared: &Shared, scenarios: &[(&'static str, RoughScenario)]) -> Vec<Trial> {
    let trial = |(name, scenario): &(&'static str, RoughScenario)| {
        let (shared, scenario, name) = (shared.clone(), *scenario, *name);
        Trial::test(name, move || {
            let mut berth = shared.write().map_err(|_| "an earlier scenario panicked")?;
            let berth = berth.as_mut().ok_or("no platform")?;
            timed(name, || scenario(berth)).map_err(|error| failed(&error.context(berth.log_tail())))
        })
    };
    scenarios.iter().map(trial).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let wanted = |trials: &[Trial], arguments: &Arguments| {
        let matches =
            |name: &str| arguments.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
        trials.iter().any(|trial| matches(trial.name()))
    };
    let threads = arguments.test_threads;
    let mut failures = false;
    type Group = fn(&Shared) -> Vec<Trial>;
    let groups: [(Group, usize); 2] = [
        (
            |shared| {
                let lists = [
                    certs::SCENARIOS, // first: one of them waits for a renewal
                    samples::SCENARIOS,
                    push::SCENARIOS,
                    builds::SCENARIOS,
                    commands::SCENARIOS,
                    deploys::SCENARIOS,
                    rollouts::SCENARIOS,
                    dockerfile::SCENARIOS,
                    images::SCENARIOS,
                    policies::SCENARIOS,
                    processes::SCENARIOS,
                    secrets::SCENARIOS,
                    sites::SCENARIOS,
                    protocols::SCENARIOS,
                    buildpacks::SCENARIOS,
                    watch::SCENARIOS,
                    observe::SCENARIOS,
                    sweep::SCENARIOS,
                    runs::SCENARIOS,
                    guide::SCENARIOS,
                    backup::SCENARIOS,
                ];
                let mut trials: Vec<_> = lists.iter().flat_map(|list| gentle(shared, list)).collect();
                trials.extend(gentle(shared, isolation::SCENARIOS));
                trials.extend(gentle(shared, networks::SCENARIOS));
                trials
            },
            3,
        ),
        (
            |shared| {
                [
                    faults::SCENARIOS,
                    certs::ROUGH,
                    commands::ROUGH,
                    policies::ROUGH,
                    processes::ROUGH,
                    rollouts::ROUGH,
                    runs::ROUGH,
                    secrets::ROUGH,
                ]
                .iter()
                .flat_map(|list| rough(shared, list))
                .collect()
            },
            1,
        ),
    ];
    for (group, default_threads) in groups {
        // Only the names are looked at: starting a platform for nothing takes seconds.
        let names = group(&Arc::new(RwLock::new(None)));
        if arguments.list {
            let _nothing_ran = libtest_mimic::run(&arguments, names);
            continue;
        }
        if !wanted(&names, &arguments) {
            continue;
        }
        let berth = match Berth::start() {
            Ok(berth) => berth,
            Err(error) => {
                eprintln!("cannot start Berth: {error:#}");
                return ExitCode::FAILURE;
            }
        };
        let shared = Arc::new(RwLock::new(Some(berth)));
        arguments.test_threads = threads.or(Some(default_threads));
        failures |= libtest_mimic::run(&arguments, group(&shared)).has_failed();
    }
    print_slowest();
    if failures { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
