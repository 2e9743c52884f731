//! What can be seen of the apps' traffic: access log, live counts, from the machine, over SSH and over the API.

use crate::apps::push_server;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, until};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[("traffic_can_be_watched", traffic)];

fn traffic(berth: &Berth) -> Result<()> {
    let app = "watched-app";
    push_server(berth, app, "one", &[])?;
    for number in 0..10 {
        ensure!(berth.get(app, &format!("/seen-{number}?token=secret"))?.status == 200);
    }
    let wait = Duration::from_secs(20);
    // The proxy writes what it gathered once a second.
    let log = until(wait, "the requests are in the log", || {
        let log = berth.ok(&["proxy:logs", app, "-n", "1000"])?.stdout;
        ensure!(log.contains("/seen-9"), "{log}");
        Ok(log)
    })?;
    ensure!(!log.contains("secret"), "queries are not logged: {log}");
    let line = log.lines().find(|line| line.contains("/seen-3")).context("every request has a line")?;
    let line: serde_json::Value = serde_json::from_str(line)?;
    ensure!(line["app"] == app && line["status"] == 200 && line["release"].is_u64(), "{line}");
    ensure!(line["container"].as_str().is_some_and(|name| name.starts_with(app)), "{line}");
    let last = berth.ok(&["nginx:access-logs", app, "-n", "1"])?.stdout;
    ensure!(last.lines().count() == 1, "Dokku's name and a count: {last}");
    let over_ssh = berth.over_ssh(&["proxy:logs", app, "-n", "2"])?.success()?.stdout;
    ensure!(over_ssh.lines().count() == 2, "{over_ssh}");
    ensure!(berth.ok(&["nginx:error-logs", app])?.stdout.is_empty(), "nothing failed");
    ensure!(berth.berth(&["proxy:logs", "nobody-at-all"])?.code == 20, "20 is for apps that do not exist");

    let stats: serde_json::Value =
        serde_json::from_str(&berth.ok(&["proxy:stats", app, "--format", "json"])?.stdout)?;
    let minutes = stats["minutes"].as_array().context("minutes")?;
    let answered: u64 = minutes.iter().filter_map(|minute| minute["success"].as_u64()).sum();
    ensure!(answered >= 10, "{stats}");
    ensure!(minutes.iter().any(|minute| minute["p99_us"].is_u64()), "{stats}");
    let table = berth.ok(&["proxy:stats"])?.stdout;
    ensure!(table.lines().any(|line| line.starts_with(app)), "{table}");
    berth.ok(&["apps:destroy", app, "--force"])?;
    let table = berth.ok(&["proxy:stats"])?.stdout;
    ensure!(!table.lines().any(|line| line.starts_with(app)), "it is forgotten with the app: {table}");
    Ok(())
}
