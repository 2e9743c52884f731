//! Hosts that live and do not reach each other.

use crate::joined::{SOON, six};
use crate::lost::REPLACED;
use crate::step;
use anyhow::{Context, Result, ensure};
use berth_tests::hosts::{Cluster, Cut};
use berth_tests::until;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] =
    &[("a_host_cut_off_serves_on_is_replaced_and_heals", cut_off)];
/// On hosts of its own: one that was lost takes no work for a while.
pub(crate) const ONE_WAY: &[(&str, crate::Scenario)] =
    &[("a_host_that_is_heard_no_more_but_hears_is_replaced_and_heals", one_way)];

/// Cuts h3 (or h2) off as told, looks at what is served by whom, mends it, and looks again.
fn without(cluster: &mut Cluster, app: &str, lost: usize, cuts: &[Cut], serves_on: bool) -> Result<()> {
    let _repo = six(cluster, app)?;
    let living: Vec<usize> = (0..3).filter(|index| *index != lost).collect();
    let swarm = cluster.swarm(&living, app);
    let own = cluster.swarm(&[lost], app);
    swarm.until_from(6)?;
    own.until_from(6)?;
    let begun = Instant::now();
    for cut in cuts {
        cluster.bed.switch().cut(cut.clone())?;
    }
    let full = until(Duration::from_secs(60), "two new replicas to answer", || {
        let report = swarm.so_far();
        let newcomers = report.newcomers(begun);
        ensure!(newcomers.len() == 2, "{newcomers:?}");
        newcomers.iter().map(|(_, at)| *at).max().context("none")
    })?;
    let took = full.duration_since(begun);
    step(&format!("replaced after {:.1} s; {}", took.as_secs_f64(), swarm.so_far().losses()));
    ensure!(took <= REPLACED, "replaced after {took:?}");
    // Its own clients are served by it meanwhile, unless it hears that it has been replaced and cannot reach who replaced it.
    if serves_on {
        own.until_more(50)?;
    }
    step(&format!("its own clients: {}", own.so_far().losses()));
    let mending = Instant::now();
    cluster.bed.switch().mend_all()?;
    cluster.until_nodes(0, 3)?;
    let mended = Instant::now();
    let now = cluster.until_spread(0, app, 6, &living, SOON)?;
    // The host's proxy learns of the replacements, and nobody of those that were replaced.
    until(SOON, "one truth on all hosts", || {
        let report = own.so_far();
        let recent = report.by.iter().filter(|(_, answer)| answer.last.elapsed() < Duration::from_secs(3));
        let recent: Vec<_> = recent.map(|(who, _)| who.clone()).collect();
        ensure!(recent.len() == 6, "{recent:?}");
        let new = report.newcomers(begun).len();
        ensure!(new == 2, "{new} new ones");
        Ok(())
    })?;
    step(&format!("healed after {:.1} s", mended.elapsed().as_secs_f64()));
    let shims = "ls /proc/[0-9]*/comm | xargs grep -ls berth-shim | wc -l";
    until(SOON, "what was replaced to be gone", || {
        let left = cluster.bed.host(lost).ok(&["bash", "-c", shims])?.stdout;
        ensure!(left.trim() == "0", "{left}");
        Ok(())
    })?;
    let after = cluster.replicas(0, app)?;
    ensure!(after == now, "moved again: {now:?} then {after:?}");
    let report = swarm.finish();
    ensure!(report.lost_since(mending) == 0, "lost while it healed: {}", report.losses());
    let _ = own.finish();
    cluster.ok(0, &["apps:destroy", app, "--force"])?;
    Ok(())
}

fn cut_off(cluster: &mut Cluster) -> Result<()> {
    without(cluster, "severed", 2, &[Cut::Alone("h3".into())], true)
}

fn one_way(cluster: &mut Cluster) -> Result<()> {
    let mute = [Cut::OneWay("h2".into(), "h1".into()), Cut::OneWay("h2".into(), "h3".into())];
    without(cluster, "muted", 1, &mute, false)
}
