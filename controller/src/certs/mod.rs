//! Certificates: those that users bring, those that are got by ACME (RFC 8555), and the table that proxies present.
//!
//! In: certificates and settings from the API, names that proxies were asked for, apps and their domains. Out: one
//! [`CertificateTable`](berth_model::tls::CertificateTable) for all proxies, kept up to date; orders, carried out before
//! anything expires. Keys are sealed in the store like config values and leave it only for the proxies and `certs:show`.

mod account;
mod advice;
mod check;
mod dns;
pub(crate) mod fetch;
mod kept;
mod on_demand;
mod operations;
mod order;
mod own;
mod plan;
mod settings;
mod subjects;
mod table;
mod worker;

pub(crate) use kept::{forgotten, moved};
pub(crate) use on_demand::wanted;
pub(crate) use operations::{
    app_settings, disable, enable, global_settings, list, patch_app_settings, patch_global_settings, renew,
    report, revoke,
};
pub(crate) use own::{add, add_global, generate, listed, remove, remove_global, show};

use crate::platform::{Platform, PlatformError, now_ms};
use berth_model::release::App;
use berth_model::{AppName, HostPattern};
use kept::Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use table::Challenges;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Lines of orders that may wait for a slow listener.
const BACKLOG: usize = 256;

/// What goes on with certificates; the rest is in the store.
#[derive(Debug)]
pub struct Certs {
    opened: kept::Opened,
    state: Mutex<State>,
    /// Counts every change of what goes on.
    ticks: watch::Sender<u64>,
    /// What orders say, with whose they are.
    lines: broadcast::Sender<(AppName, String)>,
    /// Held while an account is looked up or made.
    accounts: tokio::sync::Mutex<()>,
    /// Held while the table is made: a later one is never overtaken by an earlier one.
    publishing: tokio::sync::Mutex<()>,
    on_demand: on_demand::Asked,
}

#[derive(Debug, Default)]
struct State {
    /// Orders under way.
    busy: BTreeSet<(AppName, Slot)>,
    challenges: BTreeMap<(AppName, Slot), Challenges>,
    /// Each app's host names, and since when they are so.
    settled: BTreeMap<AppName, (Vec<HostPattern>, i64)>,
}

impl Default for Certs {
    fn default() -> Self {
        Self {
            opened: kept::Opened::default(),
            state: Mutex::default(),
            ticks: watch::Sender::new(0),
            lines: broadcast::Sender::new(BACKLOG),
            accounts: tokio::sync::Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            on_demand: on_demand::Asked::default(),
        }
    }
}

impl Certs {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        self.ticks.send_modify(|count| *count += 1);
    }

    fn set_challenges(&self, app: &AppName, slot: &Slot, challenges: Option<Challenges>) {
        let place = (app.clone(), slot.clone());
        match challenges {
            Some(challenges) => self.state().challenges.insert(place, challenges),
            None => self.state().challenges.remove(&place),
        };
        self.tick();
    }

    fn is_busy(&self, app: &AppName, slot: &Slot) -> bool {
        self.state().busy.contains(&(app.clone(), slot.clone()))
    }

    /// Apps that are gone leave nothing behind.
    fn forget_others(&self, apps: &[App]) {
        let names: BTreeSet<&AppName> = apps.iter().map(|app| &app.name).collect();
        self.state().settled.retain(|app, _| names.contains(app));
    }

    /// Since when an app's host names are as they are: from the start of the controller at the latest.
    fn settled_ms(&self, app: &AppName, hosts: &[HostPattern], now_ms: i64) -> i64 {
        let mut state = self.state();
        match state.settled.get(app) {
            Some((known, since)) if known == hosts => *since,
            _ => {
                state.settled.insert(app.clone(), (hosts.to_vec(), now_ms));
                now_ms
            }
        }
    }
}

/// Publishes the certificates there are, and keeps them and the orders going until `stop`. Call it once, when the fleet's
/// revisions are set.
pub(crate) async fn start(platform: &Platform, stop: &CancellationToken) -> Result<(), PlatformError> {
    publish(platform).await?;
    tokio::spawn(worker::run(platform.clone(), stop.clone()));
    Ok(())
}

/// Makes the table of this moment and gives it to the proxies. Gives the revision that holds it.
async fn publish(platform: &Platform) -> Result<u64, PlatformError> {
    let certs = platform.certs();
    let _order = certs.publishing.lock().await;
    let global = platform.global_domains().await?;
    let apps = platform.apps().await?;
    let hosts: BTreeMap<_, _> =
        apps.iter().map(|app| (app.name.clone(), crate::routing::hosts(app, &global))).collect();
    let kept = kept::all(platform, &certs.opened).await?;
    let on_demand = on_demand::is_on(platform, &hosts).await?;
    let mut challenges = Challenges::default();
    for one in certs.state().challenges.values() {
        challenges.http.extend(one.http.iter().cloned());
        challenges.alpn.extend(one.alpn.iter().cloned());
    }
    let table = table::table(&hosts, &kept, &challenges, on_demand, now_ms());
    Ok(platform.deploys().fleet().publish_certificates(table))
}

/// Whether somebody who asks for `host` by HTTPS is presented a certificate for it.
pub(crate) fn is_covered(platform: &Platform, host: &HostPattern) -> bool {
    let table = platform.deploys().fleet().certificates();
    table.is_some_and(|table| table::is_covered(&table, host))
}

/// A day, as people read it.
pub(crate) fn date(ms: i64) -> String {
    check::date(ms)
}

/// When each certificate ends: whose it is, its first name, and milliseconds since the Unix epoch.
pub(crate) async fn ends(
    platform: &Platform,
) -> Result<Vec<(Option<AppName>, String, i64)>, crate::platform::PlatformError> {
    let kept = kept::all(platform, &platform.certs().opened).await?;
    let ends = kept.iter().map(|(place, stored)| {
        let certificate = &stored.certificate;
        let name = certificate.names.first().map(ToString::to_string).unwrap_or_default();
        (place.app().cloned(), name, certificate.expires_ms)
    });
    Ok(ends.collect())
}
