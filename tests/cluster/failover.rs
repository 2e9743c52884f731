//! Three hosts, each with a member of etcd, a controller and a node: whoever leads dies under load and under writes.

use crate::step;
use anyhow::{Context, Result, ensure};
use berth_tests::hosts::{Client, Cluster, Swarm};
use berth_tests::{Repo, until};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("killing_the_leading_controller_moves_nothing_and_loses_no_write", leader_killed),
    ("killing_the_leader_of_etcd_moves_nothing_and_loses_no_write", etcd_killed),
    ("a_leader_that_is_told_to_end_hands_over_without_a_lost_request", leader_ended),
    ("the_host_on_which_both_lead_may_lose_its_power", host_lost),
];

const SOON: Duration = Duration::from_secs(60);
/// The app that users ask for, and one that is never deployed, for writes.
const APP: &str = "ruled";
const LEDGER: &str = "ledger";
/// Until another leads: a lease (5 s) and a second, on a busy machine.
const LED: Duration = Duration::from_secs(12);
/// A lost host's containers serve elsewhere: a lease, the 15 s that a new leader gives to nodes it never heard of, their start.
const REPLACED: Duration = Duration::from_secs(40);

/// Users that set variables at every host, one after the other.
struct Writes {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<(Instant, String)>>>,
    users: Vec<JoinHandle<()>>,
}

fn write(client: &Client, user: usize, stop: &AtomicBool, done: &Mutex<Vec<(Instant, String)>>) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    while !stop.load(Ordering::Relaxed) {
        let name = format!("U{user}_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let said = client.run(&["config:set", LEDGER, "--no-restart", &format!("{name}=kept")]);
        match said {
            Ok(said) if said.code == 0 => done.lock().expect("no panic").push((Instant::now(), name)),
            // Nobody there: not to ask a hundred times a second.
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

impl Writes {
    fn start(cluster: &Cluster, hosts: &[usize]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let user = |user: &usize| {
            let (client, stop, done, user) = (cluster.client(*user), stop.clone(), done.clone(), *user);
            std::thread::spawn(move || write(&client, user, &stop, &done))
        };
        let users = hosts.iter().map(user).collect();
        Self { stop, done, users }
    }

    fn count(&self) -> usize {
        self.done.lock().expect("no panic").len()
    }

    fn more(&self, more: usize) -> Result<()> {
        let before = self.count();
        until(SOON, "writes to be acknowledged", || {
            ensure!(self.count() >= before + more, "{} of {more}", self.count() - before);
            Ok(())
        })
    }

    /// Ends them. Each that was acknowledged must be there. Gives the longest time from `since` on in which none was.
    fn end(self, cluster: &Cluster, at: usize, since: Instant) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.users.into_iter().for_each(|user| user.join().expect("no panic"));
        let done = std::mem::take(&mut *self.done.lock().expect("no panic"));
        let kept = cluster.ok(at, &["config:keys", LEDGER])?.stdout;
        let kept: BTreeSet<&str> = kept.lines().map(str::trim).collect();
        let lost: Vec<_> = done.iter().filter(|(_, name)| !kept.contains(name.as_str())).collect();
        ensure!(lost.is_empty(), "of {} acknowledged, lost: {lost:?}", done.len());
        let mut times: Vec<_> = done.iter().map(|(at, _)| *at).filter(|at| *at >= since).collect();
        times.insert(0, since);
        times.sort();
        let gaps = times.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        Ok(gaps.max().unwrap_or_default())
    }
}

/// Six replicas on three hosts, asked at those hosts' proxies, and writes at all.
fn under_way(cluster: &Cluster, asked: &[usize]) -> Result<(Swarm, Writes)> {
    if cluster.ok(0, &["apps:list"])?.stdout.contains(APP) {
        cluster.until_spread(0, APP, 6, &[0, 1, 2], SOON)?;
    } else {
        cluster.ok(0, &["apps:create", LEDGER])?;
        cluster.repo(0, APP, "zero")?.push()?;
        cluster.ok(1, &["ps:scale", APP, "web=6"])?;
        cluster.until_spread(2, APP, 6, &[0, 1, 2], SOON)?;
    }
    let swarm = cluster.swarm(asked, APP);
    swarm.until_from(6)?;
    let writes = Writes::start(cluster, asked);
    writes.more(6)?;
    Ok((swarm, writes))
}

/// Everything works, through each of those hosts.
fn works(cluster: &Cluster, hosts: &[usize], swarm: &Swarm, version: &str) -> Result<()> {
    let at = |number: usize| hosts[number % hosts.len()];
    cluster.until_nodes(at(0), hosts.len())?;
    cluster.ok(at(1), &["ps:scale", APP, "web=7"])?;
    cluster.until_spread(at(0), APP, 7, hosts, SOON)?;
    let repo: Repo = cluster.repo(at(2), APP, version)?;
    repo.git(&["push", "-f", "paas", "main"])?.success().context("a push")?;
    step("scaled and pushed");
    cluster.ok(at(0), &["ps:scale", APP, "web=6"])?;
    cluster.until_spread(at(1), APP, 6, hosts, SOON)?;
    until(SOON, "six of the new version", || {
        let report = swarm.so_far();
        let new = report.by.keys().filter(|who| who.starts_with(&format!("{version} "))).count();
        ensure!(new >= 6, "{:?}", report.by.keys());
        Ok(())
    })?;
    let logs = cluster.ok(at(0), &["logs", APP, "--num", "200"])?.stdout;
    let absent: Vec<_> = (1..=6).filter(|number| !logs.contains(&format!("web.{number}"))).collect();
    ensure!(absent.is_empty(), "no lines of web.{absent:?}: {logs}");
    let ran = cluster.ok(at(1), &["run", APP, "/server", "ran"])?;
    ensure!(ran.stdout.trim() == "ran", "{}", ran.all());
    // One on each host, so through connections that each of them holds open.
    let containers = cluster.containers(at(2), APP)?;
    for (number, host) in hosts.iter().enumerate() {
        let name = cluster.bed.host(*host).name();
        let there = containers.iter().find(|container| container["node"] == name);
        let id = there.and_then(|container| container["id"].as_str());
        let id = id.with_context(|| format!("none on {name}"))?;
        let web = id.split('.').skip(1).take(2).collect::<Vec<_>>().join(".");
        let entered = cluster.ok(at(number), &["enter", APP, &web, "/server", "entered"])?;
        ensure!(entered.stdout.trim() == "entered", "{}", entered.all());
    }
    Ok(())
}

/// That no request was lost and nothing written either.
fn unharmed(cluster: &Cluster, at: usize, swarm: Swarm, writes: Writes, since: Instant) -> Result<()> {
    let pause = writes.end(cluster, at, since)?;
    let report = swarm.finish();
    step(&format!("no write for {:.1} s; {}", pause.as_secs_f64(), report.losses()));
    ensure!(report.lost_count == 0, "{}", report.losses());
    ensure!(pause < Duration::from_secs(20), "no write for {pause:?}");
    Ok(())
}

/// The same containers as before: nothing was started anew.
fn unmoved(cluster: &Cluster, at: usize, swarm: &Swarm) -> Result<()> {
    cluster.until_nodes(at, 3)?;
    cluster.until_spread(at, APP, 6, &[0, 1, 2], SOON)?;
    let answered = swarm.so_far();
    ensure!(answered.by.len() == 6, "moved: {:?}", answered.by.keys());
    Ok(())
}

fn leader_killed(cluster: &mut Cluster) -> Result<()> {
    for index in 0..3 {
        let known = cluster.addresses_known(index)?;
        ensure!(known == 3, "h{} knows {known} controllers", index + 1);
    }
    let (swarm, writes) = under_way(cluster, &[0, 1, 2])?;
    let (old, killed) = (cluster.leader(0)?, Instant::now());
    let at = (old + 1) % 3;
    cluster.end_controller(old, Signal::SIGKILL)?;
    let new = cluster.until_another_leads(at, old)?;
    let took = killed.elapsed();
    step(&format!("h{} leads after {:.1} s", new + 1, took.as_secs_f64()));
    ensure!(took < LED, "another led after {took:?}");
    writes.more(6)?;
    unmoved(cluster, at, &swarm)?;
    cluster.begin_controller(old)?;
    until(SOON, "the old leader to follow", || {
        ensure!(cluster.leader(old)? == new, "not yet");
        Ok(())
    })?;
    works(cluster, &[0, 1, 2], &swarm, "one")?;
    unharmed(cluster, at, swarm, writes, killed)
}

fn etcd_killed(cluster: &mut Cluster) -> Result<()> {
    let (swarm, writes) = under_way(cluster, &[0, 1, 2])?;
    let old = cluster.etcd_leader()?;
    // Not on the host of the leading controller in the first place; it may be either.
    let killed = Instant::now();
    cluster.kill_etcd(old)?;
    let new = cluster.etcd_leader()?;
    ensure!(new != old, "etcd has another leader");
    step(&format!("etcd's leader is h{} after {:.1} s", new + 1, killed.elapsed().as_secs_f64()));
    writes.more(6)?;
    unmoved(cluster, new, &swarm)?;
    works(cluster, &[0, 1, 2], &swarm, "two")?;
    cluster.begin_etcd(old)?;
    writes.more(6)?;
    unharmed(cluster, new, swarm, writes, killed)
}

fn leader_ended(cluster: &mut Cluster) -> Result<()> {
    let (swarm, writes) = under_way(cluster, &[0, 1, 2])?;
    let (old, told) = (cluster.leader(0)?, Instant::now());
    let at = (old + 1) % 3;
    cluster.end_controller(old, Signal::SIGTERM)?;
    let new = cluster.until_another_leads(at, old)?;
    step(&format!("h{} leads after {:.1} s", new + 1, told.elapsed().as_secs_f64()));
    ensure!(told.elapsed() < LED, "another led after {:?}", told.elapsed());
    writes.more(6)?;
    unmoved(cluster, at, &swarm)?;
    cluster.begin_controller(old)?;
    works(cluster, &[0, 1, 2], &swarm, "three")?;
    unharmed(cluster, at, swarm, writes, told)
}

fn host_lost(cluster: &mut Cluster) -> Result<()> {
    let dead = cluster.leader(0)?;
    let living: Vec<usize> = (0..3).filter(|index| *index != dead).collect();
    cluster.etcd_hand_over(dead)?;
    until(SOON, "both to lead on one host", || {
        ensure!(cluster.etcd_leader()? == dead && cluster.leader(dead)? == dead, "not yet");
        Ok(())
    })?;
    let (swarm, writes) = under_way(cluster, &living)?;
    let killed = Instant::now();
    cluster.bed.host_mut(dead).kill_everything()?;
    let new = cluster.until_another_leads(living[0], dead)?;
    let led = killed.elapsed();
    step(&format!("h{} leads after {:.1} s", new + 1, led.as_secs_f64()));
    ensure!(led < LED, "another led after {led:?}");
    writes.more(6)?;
    let full = until(SOON, "two new replicas to answer", || {
        let report = swarm.so_far();
        let newcomers = report.newcomers(killed);
        ensure!(newcomers.len() == 2, "{newcomers:?}");
        newcomers.iter().map(|(_, at)| *at).max().context("none")
    })?;
    let took = full.duration_since(killed);
    cluster.until_spread(living[1], APP, 6, &living, SOON)?;
    let losses = swarm.so_far();
    step(&format!("six replicas again after {:.1} s; {}", took.as_secs_f64(), losses.losses()));
    ensure!(took < REPLACED, "replaced after {took:?}");
    let settled = Instant::now();
    works(cluster, &living, &swarm, "four")?;
    let said = cluster.times_ready(dead);
    cluster.bed.host_mut(dead).power_on()?;
    cluster.until_ready(dead, said)?;
    cluster.until_nodes(living[0], 3)?;
    until(SOON, "its controller to follow", || {
        ensure!(cluster.leader(dead)? == new, "not yet");
        Ok(())
    })?;
    cluster.ok(dead, &["apps:list"])?;
    cluster.until_says(dead, APP, "four ")?;
    writes.more(6)?;
    let pause = writes.end(cluster, dead, killed)?;
    let report = swarm.finish();
    step(&format!("no write for {:.1} s; {}", pause.as_secs_f64(), report.losses()));
    ensure!(report.lost_since(settled) == 0, "lost once all was well: {}", report.losses());
    Ok(())
}
