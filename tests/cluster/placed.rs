//! Where containers run, and that people may say so: labels, a rebalance, volumes that stay.

use crate::joined::{SOON, six};
use crate::step;
use anyhow::{Context, Result, ensure};
use berth_tests::hosts::Cluster;
use berth_tests::until;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("a_rebalance_under_load_fills_an_empty_host_and_loses_no_request", rebalance),
    ("labels_say_where_and_a_refusal_says_why", labels),
    ("apps_that_keep_apart_never_share_a_host", apart),
    ("what_mounts_a_volume_stays_where_it_is", volume),
];

/// How many replicas each host has.
fn per_host(cluster: &Cluster, app: &str) -> Result<Vec<usize>> {
    let replicas = cluster.replicas(0, app)?;
    let on = |index: usize| {
        let name = cluster.bed.host(index).name();
        replicas.iter().filter(|replica| replica.serves && replica.node == name).count()
    };
    Ok((0..3).map(on).collect())
}

fn rebalance(cluster: &mut Cluster) -> Result<()> {
    let _repo = six(cluster, "balanced")?;
    cluster.ok(0, &["node:drain", "h3"])?;
    cluster.until_spread(0, "balanced", 6, &[0, 1], SOON)?;
    cluster.ok(0, &["node:drain", "h3", "--undo"])?;
    ensure!(per_host(cluster, "balanced")? == [3, 3, 0], "nothing moves by itself");
    let planned = cluster.json(0, &["ps:rebalance", "balanced", "--dry-run"])?;
    let planned = planned.as_array().context("no list")?;
    ensure!(planned.len() == 2 && planned.iter().all(|one| one["to"] == "h3"), "{planned:?}");
    step("two moves are planned");
    let swarm = cluster.swarm(&[0, 1, 2], "balanced");
    swarm.until_from(6)?;
    cluster.ok(0, &["ps:rebalance", "balanced"])?;
    until(SOON, "two on each host", || {
        let now = per_host(cluster, "balanced")?;
        ensure!(now == [2, 2, 2], "{now:?}");
        Ok(())
    })?;
    swarm.until_more(200)?;
    let report = swarm.finish();
    ensure!(report.lost_count == 0, "{}", report.losses());
    let again = cluster.ok(0, &["ps:rebalance", "balanced"])?.all();
    ensure!(again.contains("Everything is where it should be"), "{again}");
    cluster.ok(0, &["apps:destroy", "balanced", "--force"])?;
    Ok(())
}

fn labels(cluster: &mut Cluster) -> Result<()> {
    let app = "picky";
    cluster.repo(0, app, "one")?.push()?;
    cluster.ok(0, &["node:set", "h2", "disk=ssd"])?;
    cluster.ok(0, &["ps:set", app, "node-labels", "disk=ssd|nvme"])?;
    cluster.ok(0, &["ps:scale", app, "web=3"])?;
    cluster.ok(0, &["ps:restart", app])?;
    cluster.until_spread(0, app, 3, &[1], SOON)?;
    cluster.ok(0, &["ps:set", app, "spread", "distinct-nodes"])?;
    let refused = cluster.berth(0, &["ps:scale", app, "web=4"])?;
    let sentence = "web.4 has nowhere to run: h2 has one already; h1, h3 have not disk=nvme|ssd";
    let said = refused.all();
    ensure!(refused.code != 0, "{said}");
    ensure!(
        said.contains("h2 has one already") && said.contains("h1, h3 have not disk=nvme|ssd"),
        "{sentence}\n{said}"
    );
    ensure!(per_host(cluster, app)? == [0, 3, 0], "what ran before serves on");
    cluster.ok(0, &["ps:set", app, "spread"])?;
    cluster.ok(0, &["ps:set", app, "node-labels"])?;
    let report = cluster.ok(0, &["ps:report", app])?.stdout;
    ensure!(!report.contains("node labels"), "{report}");
    cluster.ok(0, &["node:set", "h2", "disk="])?;
    cluster.ok(0, &["apps:destroy", app, "--force"])?;
    Ok(())
}

fn apart(cluster: &mut Cluster) -> Result<()> {
    let (loud, quiet) = ("loud", "quiet");
    cluster.ok(0, &["apps:create", loud])?;
    cluster.repo(0, quiet, "one")?.push()?;
    cluster.ok(0, &["ps:set", loud, "apart-from", quiet])?;
    let report = cluster.ok(0, &["ps:report", quiet])?.stdout;
    ensure!(report.contains("loud keeps apart from it"), "{report}");
    cluster.ok(0, &["ps:scale", quiet, "web=3"])?;
    cluster.until_spread(0, quiet, 3, &[0, 1, 2], SOON)?;
    let repo = cluster.repo(0, loud, "one")?;
    let refused = repo.push().err().context("there is no room for it")?;
    let said = format!("{refused:#}");
    ensure!(said.contains("h1, h2, h3 have quiet, which it keeps apart from"), "{said}");
    cluster.ok(0, &["ps:scale", quiet, "web=1"])?;
    cluster.push(&repo, "two")?;
    cluster.until_says(0, loud, "two web.1")?;
    let home = cluster.replicas(0, loud)?.first().context("it runs")?.node.clone();
    // The other way round too: two more of the other have two hosts left.
    cluster.ok(0, &["ps:scale", quiet, "web=4"])?;
    let replicas = cluster.replicas(0, quiet)?;
    ensure!(replicas.iter().all(|replica| replica.node != home), "{home}: {replicas:?}");
    for app in [loud, quiet] {
        cluster.ok(0, &["apps:destroy", app, "--force"])?;
    }
    Ok(())
}

fn volume(cluster: &mut Cluster) -> Result<()> {
    let app = "writes";
    cluster.ok(0, &["apps:create", app])?;
    cluster.ok(0, &["storage:mount", app, "writes-data:/data"])?;
    cluster.repo(0, app, "one")?.push()?;
    cluster.until_says(0, app, "one")?;
    let volumes = cluster.json(0, &["storage:node", app])?;
    let home = volumes[0]["node"].as_str().context("no node")?.to_owned();
    cluster.ok(0, &["ps:scale", app, "web=3"])?;
    let replicas = cluster.replicas(0, app)?;
    ensure!(replicas.len() == 3 && replicas.iter().all(|replica| replica.node == home), "{replicas:?}");
    let report = cluster.ok(0, &["ps:report", app])?.stdout;
    ensure!(report.contains(&format!("its volume writes-data is on {home}")), "{report}");
    let other = if home == "h2" { "h3" } else { "h2" };
    cluster.ok(0, &["storage:node", app, "writes-data", other])?;
    cluster.ok(0, &["ps:restart", app])?;
    let replicas = cluster.replicas(0, app)?;
    let serving: Vec<_> = replicas.iter().filter(|replica| replica.node == other).collect();
    ensure!(serving.len() == 3, "they follow what was said: {replicas:?}");
    cluster.ok(0, &["apps:destroy", app, "--force"])?;
    Ok(())
}
