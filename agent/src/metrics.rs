//! What containers use: read from the kernel every few seconds in one pass, and told to the controller.
//!
//! In: cgroups and `/proc/PID/net/dev` of the containers that run. Out: [`Samples`]; the controller's answer is what apps and
//! drains want of logs ([`NodeLogs`]), which is kept on disk (sealed) for when there is no controller.

use crate::files::{self, Durability};
use crate::node::{Node, now_ms};
use crate::options::Paths;
use crate::runtime::Handle;
use crate::seal::Seal;
use berth_model::ContainerId;
use berth_model::logs::NodeLogs;
use berth_model::metrics::{Counters, Sample, Samples};
use berth_wire::{Client, Endpoint};
use http::Method;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two passes.
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest time for one report.
const REPORT: Duration = Duration::from_secs(10);

/// What was last said of logs. What cannot be read is asked for again.
pub(crate) fn load_settings(paths: &Paths, seal: &Seal) -> NodeLogs {
    match files::load_sealed(&paths.logging(), seal) {
        Ok(settings) => settings.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "the settings of logs are unreadable; waiting for the controller's");
            NodeLogs::default()
        }
    }
}

/// Samples until `stop` fires.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let client = Client::new(Endpoint::Unix(node.paths.controller()));
    let path = format!("/node/v1/{}/samples", node.name);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(samples) = sample(&node).await else { continue };
        let sent = client.json::<NodeLogs>(Method::POST, &path, Some(&samples));
        match tokio::time::timeout(REPORT, sent).await {
            Ok(Ok(settings)) => accept(&node, settings),
            // `control` says that the controller is away; a sample that is lost is one among many.
            Ok(Err(error)) => tracing::debug!(%error, "a sample was not taken"),
            Err(_) => tracing::debug!("a sample was not taken in time"),
        }
    }
}

fn accept(node: &Node, settings: NodeLogs) {
    if **node.logging.borrow() == settings {
        return;
    }
    if let Err(error) =
        files::store_sealed(&node.paths.logging(), &settings, Durability::Sync, node.runtime.seal())
    {
        tracing::warn!(%error, "cannot keep the settings of logs; they hold until this agent ends");
    }
    node.logging.send_replace(Arc::new(settings));
}

async fn sample(node: &Arc<Node>) -> Option<Samples> {
    let running: Vec<(ContainerId, Sample, Handle, Option<u32>)> = {
        let table = node.table();
        let alive = table.iter().filter_map(|(id, entry)| {
            let (spec, status) = (&entry.spec, &entry.status);
            let sample = Sample {
                app: spec.app.clone(),
                process: spec.process.clone(),
                ordinal: spec.ordinal,
                incarnation: status.incarnation,
                counters: Counters::default(),
            };
            Some((id.clone(), sample, entry.handle.clone()?, status.pid))
        });
        alive.collect()
    };
    let read = move || {
        let counted = running.into_iter().filter_map(|(id, sample, handle, pid)| {
            // Gone meanwhile: nothing to say of it.
            let counters = counters(&handle, pid).ok()?;
            Some((id, Sample { counters, ..sample }))
        });
        counted.collect::<BTreeMap<_, _>>()
    };
    let containers = tokio::task::spawn_blocking(read).await.ok()?;
    let drains = node.drains.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let disk = rustix::fs::statvfs(&node.paths.data).ok();
    let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
        disk.as_ref().map_or(0, |disk| blocks(disk).saturating_mul(disk.f_frsize))
    };
    Some(Samples {
        node: node.name.clone(),
        at_ms: now_ms(),
        containers,
        drains,
        out_of_memory: node.out_of_memory.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        disk_total: bytes(|disk| disk.f_blocks),
        disk_free: bytes(|disk| disk.f_bavail),
    })
}

fn counters(handle: &Handle, pid: Option<u32>) -> Result<Counters, crate::runtime::RuntimeError> {
    let stats = handle.stats()?;
    let net = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
    let (net_received, net_sent) = net.as_deref().map(net_bytes).unwrap_or_default();
    Ok(Counters {
        cpu_us: stats.cpu_us,
        memory_bytes: stats.memory_bytes,
        memory_limit_bytes: stats.memory_limit_bytes,
        pids: stats.pids,
        oom_kills: stats.oom_kills,
        net_received,
        net_sent,
        io_read: stats.io_bytes.map(|(read, _)| read),
        io_written: stats.io_bytes.map(|(_, written)| written),
    })
}

/// Bytes received and sent by all devices but the loopback (proc_pid_net(5)).
fn net_bytes(text: &str) -> (u64, u64) {
    let mut sum = (0_u64, 0_u64);
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let number = |index: usize| {
            numbers.split_whitespace().nth(index).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        sum = (sum.0.saturating_add(number(0)), sum.1.saturating_add(number(8)));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_added_up() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
            \x20   lo:    999       9    0    0    0     0          0         0      999       9    0    0    0     0       0          0\n  \
            eth0: 1234567    100    0    0    0     0          0         0   765432     90    0    0    0     0       0          0\n  \
            eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(net_bytes(text), (1_234_568, 765_434));
        assert_eq!(net_bytes("nonsense: x\n"), (0, 0));
    }
}
