//! What ACME plans with, read from the store.
//!
//! In: the store. Out: one [`Subject`] an app; changed states. Keys: `acme/state/<app>/<slot>`,
//! `acme/on-demand/<app>/<name>`.

use super::kept::{self, Kept, Place, Slot};
use super::plan::{Has, State, Subject};
use super::settings::{self, Settings};
use crate::platform::{Platform, PlatformError};
use crate::store::{Compare, Write};
use berth_model::release::App;
use berth_model::{AppName, HostPattern};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn state_key(app: &AppName, slot: &Slot) -> String {
    format!("acme/state/{app}/{slot}")
}

pub(super) fn on_demand_key(app: &AppName, name: &str) -> String {
    format!("acme/on-demand/{app}/{name}")
}

/// Every app.
pub(super) async fn all(platform: &Platform, now_ms: i64) -> Result<Vec<Subject>, PlatformError> {
    let global = platform.global_domains().await?;
    let (defaults, mut own) = settings::all(platform).await?;
    let kept = kept::all(platform, &platform.certs().opened).await?;
    let apps = platform.apps().await?;
    platform.certs().forget_others(&apps);
    let mut subjects = Vec::new();
    for app in apps {
        let own = own.remove(&app.name).unwrap_or_default();
        subjects.push(subject(platform, &app, &global, (&defaults, &own), &kept, now_ms).await?);
    }
    Ok(subjects)
}

/// One app.
pub(super) async fn one(platform: &Platform, app: &AppName, now_ms: i64) -> Result<Subject, PlatformError> {
    let app = platform.existing_app(app).await?;
    let global = platform.global_domains().await?;
    let defaults = settings::of_platform(platform).await?;
    let kept = kept::all(platform, &platform.certs().opened).await?;
    let own = settings::of_app(platform, &app.name).await?;
    subject(platform, &app, &global, (&defaults, &own), &kept, now_ms).await
}

async fn subject(
    platform: &Platform,
    app: &App,
    global: &[HostPattern],
    (defaults, own): (&Settings, &Settings),
    kept: &Kept,
    now_ms: i64,
) -> Result<Subject, PlatformError> {
    let hosts = crate::routing::hosts(app, global);
    let mut has = BTreeMap::new();
    for (place, stored) in kept {
        if let Place::Acme(owner, slot) = place
            && *owner == app.name
        {
            let certificate = &stored.certificate;
            let one = Has {
                names: certificate.names.clone(),
                starts_ms: certificate.starts_ms,
                expires_ms: certificate.expires_ms,
                server: stored.server.clone().unwrap_or_default(),
            };
            has.insert(slot.clone(), one);
        }
    }
    let prefix = format!("acme/state/{}/", app.name);
    let mut states = BTreeMap::new();
    for (key, state) in platform.load_all::<State>(&prefix).await? {
        if let Some(slot) = Slot::parse(key.strip_prefix(&prefix).unwrap_or_default()) {
            states.insert(slot, state);
        }
    }
    let prefix = on_demand_key(&app.name, "");
    let names = platform.store().list(prefix.as_str()).await?.into_iter();
    let names = names.filter_map(|entry| entry.key.strip_prefix(&prefix).map(str::to_owned));
    let on_demand: BTreeSet<String> =
        names.filter(|name| hosts.iter().any(|host| host.covers(name))).collect();
    Ok(Subject {
        app: app.name.clone(),
        enabled: own.enabled,
        settings: settings::effective(defaults, own),
        changed_ms: platform.certs().settled_ms(&app.name, &hosts, now_ms),
        hosts,
        on_demand,
        has,
        states,
    })
}

/// Changes how tries for a certificate went; nothing if the app is gone.
pub(super) async fn update_state(
    platform: &Platform,
    app: &AppName,
    slot: &Slot,
    change: impl Fn(&mut State),
) -> Result<(), PlatformError> {
    let key = state_key(app, slot);
    loop {
        let found = platform.load::<State>(&key).await?;
        let (mut state, revision) = match found {
            None => (State::default(), None),
            Some((state, revision)) => (state, Some(revision)),
        };
        change(&mut state);
        let value = serde_json::to_vec(&state).expect("a state has no failing serializers");
        let exists = format!("apps/{app}");
        let compare = vec![Compare::unchanged(key.as_str(), revision), Compare::Present(exists)];
        if platform.store().txn(compare, vec![Write::Put(key.clone(), value)]).await?.is_some() {
            return Ok(());
        }
        if platform.app(app).await?.is_none() {
            return Ok(());
        }
    }
}
