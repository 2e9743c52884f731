//! What is wrong now.
//!
//! In: apps, nodes, certificates, samples. Out: each thing that is wrong, with a key that is the same as long as it lasts.

use super::key_of;
use crate::Platform;
use crate::certs;
use crate::platform::PlatformError;
use berth_model::AppName;
use berth_model::alerts::AlertKind;

/// A certificate that ends within this is told of, in milliseconds: 14 days.
const SOON_MS: i64 = 14 * 24 * 3_600_000;
/// A disk is full with less than a tenth and less than this free, in bytes.
const LITTLE: u64 = 5 << 30;
/// Running out of memory is over when it did not happen for this long, in milliseconds.
const QUIET_MS: i64 = 600_000;

/// Something that is wrong.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) key: String,
    pub(super) kind: AlertKind,
    pub(super) app: Option<AppName>,
    pub(super) text: String,
    /// It is told without waiting whether it lasts.
    pub(super) at_once: bool,
}

pub(super) async fn look(platform: &Platform, now: i64) -> Result<Vec<Held>, PlatformError> {
    let mut held = Vec::new();
    for app in platform.apps().await? {
        if crate::api::app_status(platform, &app) == "crashed" {
            let kind = AlertKind::AppDown;
            let text = format!("{0} is down: none of its containers runs; see: berth logs {0}", app.name);
            held.push(Held {
                key: key_of(kind, Some(&app.name), ""),
                kind,
                app: Some(app.name),
                text,
                at_once: false,
            });
        }
    }
    for disk in platform.metrics().disks() {
        if disk.free < LITTLE && disk.free < disk.total / 10 {
            let kind = AlertKind::DiskFull;
            let text = format!(
                "the disk of node {} is nearly full: {} of {} MiB are free",
                disk.node,
                disk.free >> 20,
                disk.total >> 20
            );
            let key = key_of(kind, None, disk.node.as_str());
            held.push(Held { key, kind, app: None, text, at_once: true });
        }
    }
    let fleet = platform.deploys().fleet();
    for node in fleet.nodes() {
        let name = &node.name;
        if fleet.is_lost(name) {
            let kind = AlertKind::NodeLost;
            let text = format!("node {name} is lost: it does not report; see: berth node:list");
            held.push(Held { key: key_of(kind, None, name.as_str()), kind, app: None, text, at_once: true });
        }
        let short = [(node.pressure.disk, "disk"), (node.pressure.memory, "memory")];
        let short: Vec<_> = short.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        if node.alive && !short.is_empty() {
            let kind = AlertKind::NodeShort;
            let what = short.join(" and ");
            let text =
                format!("node {name} is short of {what}, and gets no new containers while there are others");
            held.push(Held { key: key_of(kind, None, name.as_str()), kind, app: None, text, at_once: false });
        }
    }
    for app in platform.metrics().out_of_memory(now - QUIET_MS) {
        let kind = AlertKind::OutOfMemory;
        let text = format!(
            "{app} ran out of memory and was killed for it; see: berth ps:top {app}, berth resource:limit {app}"
        );
        held.push(Held { key: key_of(kind, Some(&app), ""), kind, app: Some(app), text, at_once: true });
    }
    for (app, name, expires_ms) in certs::ends(platform).await? {
        if expires_ms - now < SOON_MS {
            let kind = AlertKind::CertificateExpiring;
            let ended = if expires_ms <= now { "has expired" } else { "expires soon" };
            let text = format!("the certificate for {name} {ended}: {}", certs::date(expires_ms));
            let key = key_of(kind, app.as_ref(), &format!("/{name}"));
            held.push(Held { key, kind, app, text, at_once: true });
        }
    }
    Ok(held)
}
