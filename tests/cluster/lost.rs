//! Hosts that die, come back, and fill up.

use crate::joined::{SOON, six};
use crate::step;
use anyhow::{Context, Result, ensure};
use berth_tests::hosts::Cluster;
use berth_tests::{Request, once, until};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("a_host_with_a_full_disk_says_so_and_gets_no_work", full_disk),
    ("a_dead_host_is_replaced_in_time_and_comes_back_clean", dead),
    ("a_volume_of_a_dead_host_waits_for_it_and_says_so", volume),
];

/// Lost until all replicas serve elsewhere (DESIGN: 20 s, p95).
pub(crate) const REPLACED: Duration = Duration::from_secs(20);

fn full_disk(cluster: &mut Cluster) -> Result<()> {
    cluster.bed.host(2).fill_disk()?;
    until(SOON, "h3 to say that its disk is full", || {
        let nodes = cluster.json(0, &["node:list"])?;
        let list = nodes.as_array().context("no list")?;
        let full = list.iter().find(|node| node["name"] == "h3").context("no h3")?;
        ensure!(full["pressure"]["disk"] == true, "{full}");
        Ok(())
    })?;
    step("it says so");
    let repo = cluster.repo(0, "crowded", "one")?;
    repo.push()?;
    cluster.ok(0, &["ps:scale", "crowded", "web=4"])?;
    cluster.until_spread(0, "crowded", 4, &[0, 1], SOON)?;
    cluster.bed.host(2).free_disk()?;
    until(SOON, "h3 to be well again", || {
        let nodes = cluster.json(0, &["node:list"])?;
        let list = nodes.as_array().context("no list")?;
        let full = list.iter().find(|node| node["name"] == "h3").context("no h3")?;
        ensure!(full["pressure"]["disk"] == false, "{full}");
        Ok(())
    })?;
    cluster.ok(0, &["ps:scale", "crowded", "web=6"])?;
    cluster.until_spread(0, "crowded", 6, &[0, 1, 2], SOON)?;
    cluster.ok(0, &["apps:destroy", "crowded", "--force"])?;
    Ok(())
}

fn volume(cluster: &mut Cluster) -> Result<()> {
    // On h2: the others take nothing meanwhile.
    for node in ["h1", "h3"] {
        cluster.ok(0, &["node:cordon", node])?;
    }
    cluster.ok(0, &["apps:create", "keeper"])?;
    cluster.ok(0, &["storage:mount", "keeper", "keeper-data:/data"])?;
    cluster.repo(0, "keeper", "one")?.push()?;
    for node in ["h1", "h3"] {
        cluster.ok(0, &["node:uncordon", node])?;
    }
    cluster.until_spread(0, "keeper", 1, &[1], SOON)?;
    cluster.get(0, "keeper", "/write/kept")?;
    ensure!(cluster.get(2, "keeper", "/lines")?.text() == "kept\n", "written");
    let (switch, proxy) = (cluster.bed.switch().clone(), cluster.proxy(0));
    let asking = std::thread::spawn(move || {
        let request = Request::get("keeper.test.localhost", "/never");
        switch.within(|| once(proxy, &request))?.map(|reply| reply.status)
    });
    until(SOON, "a request to be in flight", || {
        let said = cluster.ok(0, &["logs", "keeper"])?.all();
        ensure!(said.contains("asked for what never comes"), "{said}");
        Ok(())
    })?;
    cluster.bed.host_mut(1).kill_everything()?;
    step("h2 is dead");
    // The host says no word of it; whoever waits is told all the same, before clients of the test give up (20 s).
    let status = asking.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
    ensure!(status.as_ref().is_ok_and(|status| *status == 502), "{status:?}");
    step("who waited for it knows");
    until(SOON, "ps:report to say that it waits", || {
        let said = cluster.ok(0, &["ps:report", "keeper"])?.all();
        ensure!(said.contains("h2 is lost") && said.contains("volume"), "{said}");
        Ok(())
    })?;
    step("it waits");
    let replicas = cluster.replicas(0, "keeper")?;
    ensure!(replicas.iter().all(|replica| replica.node == "h2"), "moved: {replicas:?}");
    let said = cluster.times_ready(1);
    cluster.bed.host_mut(1).power_on()?;
    cluster.until_ready(1, said)?;
    cluster.until_says(0, "keeper", "one web.1")?;
    ensure!(cluster.get(0, "keeper", "/lines")?.text() == "kept\n", "kept");
    cluster.ok(0, &["apps:destroy", "keeper", "--force"])?;
    Ok(())
}

fn dead(cluster: &mut Cluster) -> Result<()> {
    let repo = six(cluster, "hardy")?;
    let swarm = cluster.swarm(&[0, 1], "hardy");
    swarm.until_from(6)?;
    let killed = Instant::now();
    cluster.bed.host_mut(2).kill_everything()?;
    // Two that were never there before answer.
    let full = until(Duration::from_secs(60), "two new replicas to answer", || {
        let report = swarm.so_far();
        let newcomers = report.newcomers(killed);
        ensure!(newcomers.len() == 2, "{newcomers:?}");
        newcomers.iter().map(|(_, at)| *at).max().context("none")
    })?;
    let took = full.duration_since(killed);
    cluster.until_spread(0, "hardy", 6, &[0, 1], SOON)?;
    let report = swarm.so_far();
    step(&format!("replaced after {:.1} s; {}", took.as_secs_f64(), report.losses()));
    ensure!(took <= REPLACED, "replaced after {took:?}");
    // Those that were on it answer no more.
    let old: Vec<String> = {
        let recent = |last: Instant| last.elapsed() < Duration::from_secs(5);
        until(SOON, "exactly six to answer", || {
            let report = swarm.so_far();
            let alive = report.by.values().filter(|answer| recent(answer.last)).count();
            ensure!(alive == 6, "{alive}");
            Ok(report
                .by
                .iter()
                .filter(|(_, answer)| !recent(answer.last))
                .map(|(who, _)| who.clone())
                .collect())
        })?
    };
    ensure!(old.len() == 2, "{old:?}");

    // It comes back with what it had, and none of that serves.
    let said = cluster.times_ready(2);
    let back = Instant::now();
    let own = cluster.swarm(&[2], "hardy");
    cluster.bed.host_mut(2).power_on()?;
    cluster.until_ready(2, said)?;
    cluster.until_nodes(0, 3)?;
    own.until_more(100)?;
    step("back");
    let shims = "ls /proc/[0-9]*/comm | xargs grep -ls berth-shim | wc -l";
    until(SOON, "its stale containers to be gone", || {
        let left = cluster.bed.host(2).ok(&["bash", "-c", shims])?.stdout;
        ensure!(left.trim() == "0", "{left}");
        Ok(())
    })?;
    let report = swarm.finish();
    ensure!(report.lost_since(back) == 0, "lost while it came back: {}", report.losses());
    for who in &old {
        ensure!(report.by[who].last < back, "{who} was dead and answered");
    }
    ensure!(report.by.len() == 8, "nothing else was started: {:?}", report.by.keys());
    let own = own.finish();
    ensure!(
        own.by.keys().all(|who| report.by.contains_key(who) && !old.contains(who)),
        "{:?}",
        own.by.keys()
    );
    cluster.push(&repo, "two")?;
    for index in 0..3 {
        cluster.until_says(index, "hardy", "two ")?;
    }
    cluster.ok(0, &["apps:destroy", "hardy", "--force"])?;
    Ok(())
}
