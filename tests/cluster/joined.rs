//! What a cluster does while nothing is wrong: machines join, apps spread, every host serves everything.

use crate::step;
use anyhow::{Context, Result, ensure};
use berth_tests::hosts::Cluster;
use berth_tests::{Repo, until};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("machines_join_with_one_command_and_replicas_spread", spread),
    ("every_host_serves_every_app_and_site", ingress),
    ("apps_on_one_network_reach_each_other_by_name_on_all_hosts", names),
    ("draining_a_host_under_load_loses_no_request", drain),
];

/// Enough for an image to be fetched and a container to be started, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Pushes an app and scales it over all three hosts.
pub(crate) fn six(cluster: &Cluster, app: &str) -> Result<Repo> {
    let repo = cluster.repo(0, app, "one")?;
    repo.push()?;
    cluster.ok(0, &["ps:scale", app, "web=6"])?;
    let replicas = cluster.until_spread(0, app, 6, &[0, 1, 2], SOON)?;
    for index in 0..3 {
        let name = cluster.bed.host(index).name();
        let here = replicas.iter().filter(|replica| replica.node == name).count();
        ensure!(here == 2, "two on each: {replicas:?}");
    }
    Ok(repo)
}

fn spread(cluster: &mut Cluster) -> Result<()> {
    let nodes = cluster.json(0, &["node:list"])?;
    let nodes = nodes.as_array().context("no list")?;
    ensure!(nodes.len() == 3, "{nodes:?}");
    let subnets: std::collections::BTreeSet<_> =
        nodes.iter().filter_map(|node| node["subnet"].as_str()).collect();
    ensure!(subnets.len() == 3, "each its own subnet: {nodes:?}");
    let repo = six(cluster, "spread")?;
    step("six replicas on three hosts");
    // All six answer, from each of the hosts.
    let swarm = cluster.swarm(&[0, 1, 2], "spread");
    swarm.until_from(6)?;
    step("all answer everywhere");
    // And a new version reaches all without a lost request.
    cluster.push(&repo, "two")?;
    step("another version is pushed");
    until(SOON, "six of the new version", || {
        let report = swarm.so_far();
        let new = report.by.keys().filter(|who| who.starts_with("two ")).count();
        ensure!(new == 6, "{:?}", report.by.keys());
        Ok(())
    })?;
    let report = swarm.finish();
    ensure!(report.lost_count == 0, "{}", report.losses());
    cluster.until_spread(0, "spread", 6, &[0, 1, 2], SOON)?;
    // Enough was seen of the command line over nodes when each was asked.
    let logs = cluster.ok(0, &["logs", "spread", "--num", "100"])?.stdout;
    for number in 1..=6 {
        ensure!(logs.contains(&format!("web.{number}")), "lines of web.{number}: {logs}");
    }
    cluster.ok(0, &["apps:destroy", "spread", "--force"])?;
    Ok(())
}

fn ingress(cluster: &mut Cluster) -> Result<()> {
    let repo = cluster.repo(0, "single", "one")?;
    repo.push()?;
    let site = cluster.repo(0, "site", "unused")?;
    for file in ["server", "Dockerfile"] {
        std::fs::remove_file(site.path().join(file))?;
    }
    site.write(&[("index.html", "a page\n"), (".static", "")])?;
    site.commit("A site")?;
    site.push()?;
    for index in 0..3 {
        cluster.until_says(index, "single", "one web.1")?;
        cluster.until_says(index, "site", "a page")?;
    }
    // The one replica is asked by the proxies of all hosts: it is on one of them.
    cluster.ok(0, &["domains:add", "single", "other.example"])?;
    for index in 0..3 {
        until(SOON, "the new domain everywhere", || {
            let reply = cluster.bed.get(index, "other.example", "/")?;
            ensure!(reply.status == 200, "{}", reply.status);
            Ok(())
        })?;
    }
    for app in ["single", "site"] {
        cluster.ok(0, &["apps:destroy", app, "--force"])?;
    }
    Ok(())
}

fn names(cluster: &mut Cluster) -> Result<()> {
    for app in ["asking", "answering"] {
        cluster.repo(0, app, app)?.push()?;
        cluster.ok(0, &["ps:scale", app, "web=3"])?;
        cluster.until_spread(0, app, 3, &[0, 1, 2], SOON)?;
    }
    let ask =
        |name: &str| Ok::<_, anyhow::Error>(cluster.get(0, "asking", &format!("/fetch/{name}/5000"))?.text());
    let said = ask("answering.internal")?;
    ensure!(said.starts_with("cannot reach"), "apart until they are on one network: {said}");
    cluster.ok(0, &["network:create", "both"])?;
    for app in ["asking", "answering"] {
        cluster.ok(0, &["network:attach", app, "both"])?;
    }
    // Whichever replica is asked, it reaches whichever replica it means.
    for number in 1..=3 {
        let mut askers = std::collections::BTreeSet::new();
        until(SOON, &format!("web.{number} to be reached from all three"), || {
            let asker = cluster.get(0, "asking", "/")?.text();
            let said = ask(&format!("{number}.web.answering.internal"))?;
            ensure!(said.starts_with(&format!("answering web.{number} ")), "{asker}: {said}");
            askers.insert(asker);
            ensure!(askers.len() == 3, "{askers:?}");
            Ok(())
        })?;
    }
    for app in ["asking", "answering"] {
        cluster.ok(0, &["apps:destroy", app, "--force"])?;
    }
    cluster.ok(0, &["network:destroy", "both"])?;
    Ok(())
}

fn drain(cluster: &mut Cluster) -> Result<()> {
    let _repo = six(cluster, "drained")?;
    let swarm = cluster.swarm(&[0, 1, 2], "drained");
    swarm.until_from(6)?;
    cluster.ok(0, &["node:drain", "h2"])?;
    cluster.until_spread(0, "drained", 6, &[0, 2], SOON)?;
    step("drained");
    swarm.until_more(200)?;
    let report = swarm.finish();
    ensure!(report.lost_count == 0, "{}", report.losses());
    cluster.ok(0, &["node:drain", "h2", "--undo"])?;
    cluster.ok(0, &["apps:destroy", "drained", "--force"])?;
    Ok(())
}
