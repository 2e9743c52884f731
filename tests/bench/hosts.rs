//! The trial of many machines, acted out: three hosts, an app at `web=6` spread over them, clients at the proxies; then
//! the controller is killed, a host drained, one cut off, one killed; then the leader of several controllers, the leader of their etcd,
//! and the host on which both lead. Writes down requests lost and seconds until all six
//! replicas serve again, as a table for `docs/benchmarks.md`.
//!
//! `cargo build --release -p berth && cargo bench -p berth-tests --bench hosts [-- --repeat N]`, as root. Everything happens on
//! simulated hosts (`tests/src/hosts`); it ends by itself.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to its terminal")]

use anyhow::{Context, Result, ensure};
use berth_tests::hosts::{Cluster, Cut, Swarm};
use berth_tests::until;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What one event did.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    sent: u64,
    lost: u64,
    /// Until six replicas answered again, where some were gone.
    full: Option<Duration>,
    /// Until another led, where the leader was gone.
    led: Option<Duration>,
}

type Outcomes = BTreeMap<&'static str, Vec<Outcome>>;

const SOON: Duration = Duration::from_secs(60);
const APP: &str = "trial";

fn started(cluster: &Cluster, hosts: &[usize]) -> Result<Swarm> {
    let swarm = cluster.swarm(hosts, APP);
    swarm.until_from(6)?;
    Ok(swarm)
}

fn ended(swarm: Swarm, full: Option<Duration>) -> Outcome {
    let report = swarm.finish();
    eprintln!("         {}", report.losses());
    Outcome { sent: report.sent.values().sum(), lost: report.lost_count, full, led: None }
}

/// Until two that were not there before have answered.
fn full(swarm: &Swarm, since: Instant) -> Result<Duration> {
    until(SOON, "two new replicas to answer", || {
        let report = swarm.so_far();
        let newcomers = report.newcomers(since);
        ensure!(newcomers.len() == 2, "{newcomers:?}");
        Ok(newcomers.iter().map(|(_, at)| *at).max().context("none")?.duration_since(since))
    })
}

fn cluster(make: fn() -> Result<Cluster>) -> Result<Cluster> {
    let cluster = make()?;
    cluster.repo(0, APP, "one")?.push()?;
    cluster.ok(0, &["ps:scale", APP, "web=6"])?;
    cluster.until_spread(0, APP, 6, &[0, 1, 2], SOON)?;
    Ok(cluster)
}

fn round(outcomes: &mut Outcomes) -> Result<()> {
    let mut note = |event, outcome: Outcome| {
        eprintln!("         {event}: {outcome:?}");
        outcomes.entry(event).or_default().push(outcome);
    };
    let first = cluster(Cluster::of_three)?;
    let swarm = started(&first, &[0, 1, 2])?;
    first.kill_role(0, "controller")?;
    until(SOON, "the controller", || first.ok(0, &["apps:list"]))?;
    first.until_nodes(0, 3)?;
    swarm.until_more(300)?;
    note("kill -9 of the controller", ended(swarm, None));

    let swarm = started(&first, &[0, 1, 2])?;
    let begun = Instant::now();
    first.ok(0, &["node:drain", "h2"])?;
    first.until_spread(0, APP, 6, &[0, 2], SOON)?;
    let took = begun.elapsed();
    swarm.until_more(300)?;
    note("drain a host", ended(swarm, Some(took)));

    let second = cluster(Cluster::of_three)?;
    let (living, own) = (started(&second, &[0, 1])?, started(&second, &[2])?);
    let begun = Instant::now();
    second.bed.switch().cut(Cut::Alone("h3".into()))?;
    let took = full(&living, begun)?;
    living.until_more(300)?;
    second.bed.switch().mend_all()?;
    second.until_nodes(0, 3)?;
    living.until_more(300)?;
    note("cut a host off, and mend it: at the others", ended(living, Some(took)));
    note("cut a host off, and mend it: at its own proxy", ended(own, None));
    drop(second);

    let mut third = cluster(Cluster::of_three)?;
    let swarm = started(&third, &[0, 1])?;
    let begun = Instant::now();
    third.bed.host_mut(2).kill_everything()?;
    let took = full(&swarm, begun)?;
    swarm.until_more(300)?;
    note("kill -9 a host", ended(swarm, Some(took)));
    let swarm = started(&third, &[0, 1])?;
    let said = third.times_ready(2);
    third.bed.host_mut(2).power_on()?;
    third.until_ready(2, said)?;
    third.until_nodes(0, 3)?;
    swarm.until_more(300)?;
    note("switch it on again", ended(swarm, None));
    drop(third);
    several(note)
}

/// The same with a controller and a member of etcd on each host.
fn several(mut note: impl FnMut(&'static str, Outcome)) -> Result<()> {
    let mut cluster = cluster(Cluster::of_three_controllers)?;
    let swarm = started(&cluster, &[0, 1, 2])?;
    let (old, begun) = (cluster.leader(0)?, Instant::now());
    cluster.end_controller(old, Signal::SIGKILL)?;
    let leader = cluster.until_another_leads((old + 1) % 3, old)?;
    let led = begun.elapsed();
    cluster.until_nodes(leader, 3)?;
    swarm.until_more(300)?;
    note("kill -9 of the leading controller", Outcome { led: Some(led), ..ended(swarm, None) });
    cluster.begin_controller(old)?;

    let swarm = started(&cluster, &[0, 1, 2])?;
    let begun = Instant::now();
    let member = cluster.etcd_leader()?;
    cluster.kill_etcd(member)?;
    cluster.etcd_leader()?;
    let led = begun.elapsed();
    until(SOON, "a write", || cluster.ok(leader, &["config:set", "--global", "--no-restart", "AFTER=it"]))?;
    cluster.until_nodes(leader, 3)?;
    swarm.until_more(300)?;
    note("kill -9 of etcd's leader", Outcome { led: Some(led), ..ended(swarm, None) });
    cluster.begin_etcd(member)?;

    let dead = cluster.leader(leader)?;
    until(SOON, "both to lead on one host", || cluster.etcd_hand_over(dead))?;
    let living: Vec<usize> = (0..3).filter(|index| *index != dead).collect();
    let swarm = started(&cluster, &living)?;
    let begun = Instant::now();
    cluster.bed.host_mut(dead).kill_everything()?;
    cluster.until_another_leads(living[0], dead)?;
    let led = begun.elapsed();
    let took = full(&swarm, begun)?;
    swarm.until_more(300)?;
    let event = "kill -9 the host on which the controller and etcd's member both lead: at the others";
    note(event, Outcome { led: Some(led), ..ended(swarm, Some(took)) });
    Ok(())
}

/// The value below which so many of a hundred are (nearest rank).
fn percentile<T: Copy + Ord>(values: &mut [T], percent: usize) -> Option<T> {
    values.sort_unstable();
    values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let repeat = arguments.iter().position(|word| word == "--repeat").and_then(|at| arguments.get(at + 1));
    let repeat = repeat.map_or(Ok(5), |count| count.parse::<usize>()).context("--repeat wants a number")?;
    ensure!((1..=100).contains(&repeat), "1 to 100 repetitions");
    let mut outcomes = Outcomes::new();
    for number in 1..=repeat {
        eprintln!("-----> {number} of {repeat}");
        round(&mut outcomes)?;
    }
    println!(
        "| event | requests sent | lost: p50 | lost: p95 | seconds to six replicas: p50 | p95 | seconds until another leads: p50 | p95 |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (event, all) in outcomes {
        let mut lost: Vec<u64> = all.iter().map(|outcome| outcome.lost).collect();
        let mut full: Vec<Duration> = all.iter().filter_map(|outcome| outcome.full).collect();
        let mut led: Vec<Duration> = all.iter().filter_map(|outcome| outcome.led).collect();
        let sent: u64 = all.iter().map(|outcome| outcome.sent).sum();
        let count = |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
        let seconds = |value: Option<Duration>| {
            value.map_or("–".to_owned(), |took| format!("{:.1}", took.as_secs_f64()))
        };
        println!(
            "| {event} | {sent} | {} | {} | {} | {} | {} | {} |",
            count(percentile(&mut lost, 50)),
            count(percentile(&mut lost, 95)),
            seconds(percentile(&mut full, 50)),
            seconds(percentile(&mut full, 95)),
            seconds(percentile(&mut led, 50)),
            seconds(percentile(&mut led, 95)),
        );
    }
    Ok(())
}
