//! What must move nothing: restarts and deaths of the controller, lossy and flapping links. And the end of a membership.

use crate::joined::{SOON, six};
use crate::step;
use anyhow::{Context, Result, ensure};
use berth_tests::hosts::{Cluster, Cut};
use berth_tests::until;
use nix::sys::signal::Signal;
use std::process::Stdio;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("the_controller_may_stop_and_die_under_load", controller),
    ("a_push_in_flight_finishes_or_fails_cleanly_when_the_controller_dies", push_in_flight),
    ("a_fifth_of_all_packets_lost_moves_nothing", loss),
    ("a_flapping_link_moves_nothing", flapping),
    ("a_host_renews_its_certificate_by_itself", renewed),
    ("a_removed_host_is_locked_out_at_once", removed),
];

fn kill_controller(cluster: &Cluster) -> Result<()> {
    cluster.kill_role(0, "controller")?;
    until(SOON, "another controller", || cluster.ok(0, &["apps:list"]).map(drop))
}

/// That the containers of an app are the same as before, now and once every node has reported again.
fn same(cluster: &Cluster, app: &str, before: &[berth_tests::hosts::Replica]) -> Result<()> {
    cluster.until_nodes(0, 3)?;
    let now = cluster.until_spread(0, app, before.len(), &[0, 1, 2], SOON)?;
    ensure!(now == before, "moved: {before:?} then {now:?}");
    Ok(())
}

fn controller(cluster: &mut Cluster) -> Result<()> {
    let repo = six(cluster, "ruled")?;
    let before = cluster.replicas(0, "ruled")?;
    let swarm = cluster.swarm(&[1, 2], "ruled");
    swarm.until_more(50)?;
    kill_controller(cluster)?;
    step("killed");
    same(cluster, "ruled", &before)?;
    // The whole of it stopped for longer than a lost node is waited for: the others serve on.
    let said = cluster.times_ready(0);
    cluster.bed.host_mut(0).stop(0, Signal::SIGTERM)?;
    let stopped = Instant::now();
    swarm.until_more(600)?;
    until(SOON, "12 s without it", || {
        ensure!(stopped.elapsed() > Duration::from_secs(12), "not yet");
        Ok(())
    })?;
    cluster.bed.host_mut(0).start_again(0)?;
    cluster.until_ready(0, said)?;
    step("stopped and started");
    same(cluster, "ruled", &before)?;
    swarm.until_more(100)?;
    let report = swarm.finish();
    ensure!(report.lost_count == 0, "{}", report.losses());
    ensure!(report.by.len() == 6, "no replica was started again: {:?}", report.by.keys());
    cluster.push(&repo, "two")?;
    for index in 0..3 {
        cluster.until_says(index, "ruled", "two ")?;
    }
    cluster.ok(0, &["apps:destroy", "ruled", "--force"])?;
    Ok(())
}

fn push_in_flight(cluster: &mut Cluster) -> Result<()> {
    let repo = six(cluster, "inflight")?;
    for (round, after_ms) in [(1, 150), (2, 500), (3, 1000)] {
        let version = format!("v{round}");
        cluster.server.write(&repo, &version)?;
        repo.commit(&version)?;
        let mut push = repo.command(&["push", "-f", "paas", "main"]);
        let push = push.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let begun = Instant::now();
        until(SOON, "the moment", || {
            ensure!(begun.elapsed() >= Duration::from_millis(after_ms), "not yet");
            Ok(())
        })?;
        kill_controller(cluster)?;
        let output = push.wait_with_output()?;
        let context = format!("killed after {after_ms} ms: {}", String::from_utf8_lossy(&output.stderr));
        cluster
            .until_spread(0, "inflight", 6, &[0, 1, 2], Duration::from_secs(90))
            .with_context(|| context.clone())?;
        let text = cluster.until_says(1, "inflight", "")?.text();
        if output.status.success() {
            ensure!(text.starts_with(&version), "acknowledged and not served: {text}; {context}");
        }
        let releases = cluster.ok(0, &["releases", "inflight", "--format", "json"])?.stdout;
        ensure!(!releases.contains("\"pending\""), "{context}\n{releases}");
    }
    cluster.push(&repo, "last")?;
    cluster.until_says(2, "inflight", "last ")?;
    cluster.ok(0, &["apps:destroy", "inflight", "--force"])?;
    Ok(())
}

fn loss(cluster: &mut Cluster) -> Result<()> {
    let _repo = six(cluster, "lossy")?;
    let before = cluster.replicas(0, "lossy")?;
    cluster.bed.switch().cut(Cut::Loss("h3".into(), 20))?;
    let begun = Instant::now();
    until(SOON, "25 s of it", || {
        let now = cluster.replicas(0, "lossy")?;
        ensure!(
            now.iter().map(|replica| &replica.id).eq(before.iter().map(|replica| &replica.id)),
            "moved: {now:?}"
        );
        ensure!(begun.elapsed() > Duration::from_secs(25), "not yet");
        Ok(())
    })?;
    cluster.bed.switch().mend_all()?;
    same(cluster, "lossy", &before)?;
    cluster.ok(0, &["apps:destroy", "lossy", "--force"])?;
    Ok(())
}

fn flapping(cluster: &mut Cluster) -> Result<()> {
    let _repo = six(cluster, "flapped")?;
    let before = cluster.replicas(0, "flapped")?;
    let alone = Cut::Alone("h3".into());
    let begun = Instant::now();
    let until_second = |second: u64| {
        until(SOON, "the next flap", || {
            ensure!(begun.elapsed() >= Duration::from_secs(second), "not yet");
            Ok(())
        })
    };
    for flap in 0..6 {
        cluster.bed.switch().cut(alone.clone())?;
        until_second(flap * 10 + 5)?;
        cluster.bed.switch().mend(&alone)?;
        let now = cluster.replicas(0, "flapped")?;
        ensure!(
            now.iter().map(|replica| &replica.id).eq(before.iter().map(|replica| &replica.id)),
            "moved: {now:?}"
        );
        until_second(flap * 10 + 10)?;
    }
    same(cluster, "flapped", &before)?;
    cluster.ok(0, &["apps:destroy", "flapped", "--force"])?;
    Ok(())
}

/// What h3 hears that shows those: key and certificate, in one file.
fn heard(cluster: &Cluster, shown: &str) -> Result<String> {
    let dir = cluster.bed.host(2).directory().join("agent/tls").display().to_string();
    let to = format!("controller.berth.internal:7443:{}", cluster.bed.host(0).address());
    let asked = "https://controller.berth.internal:7443/node/v1/h3/membership";
    let line = [
        "env",
        "-C",
        &dir,
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "--cacert",
        "ca.pem",
        "--cert",
        shown,
        "--key",
        shown,
    ];
    let said = cluster.bed.host(2).ok(&[&line[..], &["--resolve", &to, asked]].concat())?;
    Ok(said.stdout)
}

fn renewed(cluster: &mut Cluster) -> Result<()> {
    let _repo = six(cluster, "renewed")?;
    let before = cluster.replicas(0, "renewed")?;
    let swarm = cluster.swarm(&[0, 1], "renewed");
    let tls = cluster.bed.host(2).seen().join("agent/tls");
    let old = std::fs::read(tls.join("node.pem"))?;
    std::fs::write(tls.join("old.pem"), &old)?;
    ensure!(heard(cluster, "old.pem")?.contains("now_ms"), "it is good");
    // As if it had been made ten days ago, but for the seconds that h3 takes to start: then a third of its time has passed.
    let said = cluster.times_ready(2);
    cluster.bed.host_mut(2).stop(0, Signal::SIGTERM)?;
    let file = cluster.bed.host(2).seen().join("cluster.json");
    let mut membership: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?;
    let day = 24 * 60 * 60 * 1000;
    let made = now - 10 * day + 6000;
    membership["validity"] = serde_json::json!({ "issued_ms": made, "expires_ms": made + 30 * day });
    std::fs::write(&file, membership.to_string())?;
    cluster.bed.host_mut(2).start_again(0)?;
    cluster.until_ready(2, said)?;
    let early = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    if early.as_millis() < u128::try_from(now + 5000)? {
        ensure!(std::fs::read(tls.join("node.pem"))? == old, "not before it is time");
    }
    until(SOON, "another certificate", || {
        ensure!(std::fs::read(tls.join("node.pem"))? != old, "the old one still");
        Ok(())
    })?;
    step("renewed");
    // What it does with the new one is what it did with the old one; that is good for nothing once the new one was shown.
    until(SOON, "the new one to be shown and the old one to be refused", || {
        ensure!(heard(cluster, "node.pem")?.contains("now_ms"), "the new one is not taken");
        let said = heard(cluster, "old.pem")?;
        ensure!(said.contains("not the key of h3 any more"), "{said}");
        Ok(())
    })?;
    let shown = Instant::now();
    until(SOON, "10 s with the new one", || {
        let now = cluster.replicas(0, "renewed")?;
        ensure!(shown.elapsed() > Duration::from_secs(10), "not yet: {now:?}");
        Ok(())
    })?;
    same(cluster, "renewed", &before)?;
    cluster.ok(0, &["enter", "renewed", "web.3", "/server", "entered"])?;
    let report = swarm.finish();
    ensure!(report.lost_count == 0, "{}", report.losses());
    cluster.ok(0, &["apps:destroy", "renewed", "--force"])?;
    Ok(())
}

fn removed(cluster: &mut Cluster) -> Result<()> {
    let _repo = six(cluster, "shrunk")?;
    cluster.ok(0, &["node:remove", "h3", "--force"])?;
    let said = heard(cluster, "node.pem")?;
    ensure!(said.contains("was removed from the cluster"), "{said}");
    let removed = Instant::now();
    cluster.until_spread(0, "shrunk", 6, &[0, 1], SOON)?;
    let nodes = cluster.ok(0, &["node:list"])?.stdout;
    ensure!(!nodes.contains("h3"), "{nodes}");
    // It may ask as often as it likes.
    until(SOON, "5 s", || {
        ensure!(removed.elapsed() > Duration::from_secs(5), "not yet");
        Ok(())
    })?;
    let nodes = cluster.ok(0, &["node:list"])?.stdout;
    ensure!(!nodes.contains("h3"), "it came back: {nodes}");
    cluster.ok(0, &["apps:destroy", "shrunk", "--force"])?;
    Ok(())
}
