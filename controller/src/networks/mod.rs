//! Networks: which apps reach each other, and what nodes must know for it.
//!
//! In: what admins set, what nodes report. Out: the networks of the store (`networks/<name>`) and of each app, and a
//! [`NetworkTable`](berth_model::network::NetworkTable) for each node. Nothing here restarts a container.

mod keys;
mod table;
#[cfg(test)]
mod table_tests;

pub use table::{Facts, Placed};

use crate::Platform;
use crate::deploy::Role;
use crate::platform::{PlatformError, now_ms};
use crate::routing::Health;
use crate::store::{Compare, Write};
use berth_model::api::ApiError;
use berth_model::names::NetworkName;
use berth_model::network::{
    AppNetworks, AppNetworksInfo, Network, NetworkInfo, NetworkReport, PatchNetworks,
};
use berth_model::node::NodeRecord;
use berth_model::release::App;
use berth_model::{AppName, NodeName};
use keys::Claim;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NETWORKS: &str = "networks/";
/// Most networks of a platform.
const MOST: usize = 10_000;
/// Repairs what no event told about.
const RESYNC: Duration = Duration::from_secs(10);

fn key(network: &NetworkName) -> String {
    format!("{NETWORKS}{network}")
}

fn missing(network: &NetworkName) -> PlatformError {
    PlatformError::NotFound(format!(
        "Network {network} does not exist; make it with: berth network:create {network}"
    ))
}

impl Platform {
    /// Makes a network.
    pub async fn create_network(&self, name: &NetworkName) -> Result<NetworkInfo, PlatformError> {
        if self.load_all::<Network>(NETWORKS).await?.len() >= MOST {
            return Err(PlatformError::Conflict(format!("there are {MOST} networks already: destroy some")));
        }
        let network = Network { name: name.clone(), created_ms: now_ms() };
        let put = Write::Put(key(name), crate::platform::json(&network));
        if self.txn(vec![Compare::Absent(key(name))], vec![put]).await?.is_none() {
            return Err(PlatformError::Conflict(format!("Network {name} exists already")));
        }
        Ok(NetworkInfo { name: network.name, created_ms: network.created_ms, apps: BTreeSet::new() })
    }

    /// Every network, by name.
    pub async fn networks(&self) -> Result<Vec<NetworkInfo>, PlatformError> {
        let apps = self.apps().await?;
        let on = |name: &NetworkName| {
            let on = apps.iter().filter(|app| app.networks.all().contains(name));
            on.map(|app| app.name.clone()).collect()
        };
        let all = self.load_all::<Network>(NETWORKS).await?.into_iter();
        let info = |(_, Network { name, created_ms })| NetworkInfo { apps: on(&name), name, created_ms };
        Ok(all.map(info).collect())
    }

    /// One network.
    pub async fn network(&self, name: &NetworkName) -> Result<NetworkInfo, PlatformError> {
        let all = self.networks().await?;
        all.into_iter().find(|network| network.name == *name).ok_or_else(|| missing(name))
    }

    /// Removes a network that no app is on.
    pub async fn destroy_network(&self, name: &NetworkName) -> Result<(), PlatformError> {
        loop {
            // Whoever puts an app on it writes it anew: then this begins again.
            let (_, revision) = self.load::<Network>(&key(name)).await?.ok_or_else(|| missing(name))?;
            let info = self.network(name).await?;
            if let Some(app) = info.apps.first() {
                return Err(PlatformError::Conflict(format!(
                    "Network {name} has {} of apps on it; take them off first: berth network:detach {app} {name}",
                    info.apps.len()
                )));
            }
            let unchanged = Compare::unchanged(key(name), Some(revision));
            if self.txn(vec![unchanged], vec![Write::Delete(key(name))]).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Changes the networks of an app. Networks that it is put on must exist.
    pub async fn patch_networks(&self, name: &AppName, patch: &PatchNetworks) -> Result<App, PlatformError> {
        let app_key = crate::platform::app_key(name);
        loop {
            let found = self.load::<App>(&app_key).await?;
            let (mut app, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
            let before = app.networks.all();
            app.networks = patched(app.networks, patch)?;
            let mut compare = vec![Compare::unchanged(app_key.clone(), Some(revision))];
            let mut writes = vec![Write::Put(app_key.clone(), crate::platform::json(&app))];
            for network in app.networks.all().difference(&before) {
                let found = self.load::<Network>(&key(network)).await?;
                let (known, revision) = found.ok_or_else(|| missing(network))?;
                compare.push(Compare::unchanged(key(network), Some(revision)));
                writes.push(Write::Put(key(network), crate::platform::json(&known)));
            }
            if self.txn(compare, writes).await?.is_some() {
                return Ok(app);
            }
        }
    }

    /// An app's networks, and what they open.
    pub async fn networks_of(&self, app: &AppName) -> Result<AppNetworksInfo, PlatformError> {
        let apps = self.apps().await?;
        let own = apps.iter().find(|one| one.name == *app);
        let own = own.ok_or_else(|| PlatformError::NoSuchApp(app.clone()))?;
        let on = own.networks.all();
        let shares = |other: &&App| other.name != own.name && !other.networks.all().is_disjoint(&on);
        let plan = self.deploys().plan(app);
        let types: BTreeSet<_> = plan.serving().map(|(_, planned)| planned.spec.process.clone()).collect();
        let names = types.iter().map(|process| format!("{process}.{app}.internal"));
        let names = if on.is_empty() { Vec::new() } else { names.map(|name| name.to_lowercase()).collect() };
        let reaches = apps.iter().filter(shares).map(|other| other.name.clone()).collect();
        Ok(AppNetworksInfo { app: app.clone(), networks: own.networks.clone(), names, reaches })
    }
}

/// An app's networks after the change. Pure.
fn patched(mut networks: AppNetworks, patch: &PatchNetworks) -> Result<AppNetworks, PlatformError> {
    use berth_model::network::Attachment;
    for (kind, all) in &patch.set {
        networks.set(*kind, all.clone());
    }
    if !patch.attach.is_empty() {
        let mut attached = networks.of(Attachment::Attached);
        attached.extend(patch.attach.iter().cloned());
        networks.set(Attachment::Attached, attached);
    }
    for network in &patch.detach {
        if !networks.detach(network) {
            return Err(PlatformError::NotFound(format!("the app is not on network {network}")));
        }
    }
    let count = networks.all().len();
    if count > AppNetworks::MOST {
        let most = AppNetworks::MOST;
        return Err(PlatformError::Invalid(format!(
            "{count} networks are too many for an app: at most {most}"
        )));
    }
    Ok(networks)
}

/// Keeps in the nodes' records which WireGuard keys they have, as far as they are their own. `refused` is who was refused last time.
async fn keep_keys(
    platform: &Platform,
    nodes: &mut [NodeRecord],
    reports: &BTreeMap<NodeName, NetworkReport>,
    refused: &mut BTreeSet<NodeName>,
) -> Result<(), ApiError> {
    let mut now = BTreeSet::new();
    for claim in keys::claims(nodes, reports) {
        match claim {
            Claim::Refuse { node, of } => {
                if !refused.contains(&node) {
                    tracing::warn!(%node, %of, "a node has the WireGuard key of another, and is spoken with in the clear");
                }
                now.insert(node);
            }
            Claim::Take(node, wireguard) => {
                let gone = || PlatformError::NotFound(format!("{node} is no node any more"));
                let changed = platform.change_node(&node, |record| {
                    record.map(|record| NodeRecord { wireguard, ..record }).ok_or_else(gone)
                });
                match changed.await {
                    Ok(changed) => {
                        if let Some(known) = nodes.iter_mut().find(|known| known.name == node) {
                            *known = changed;
                        }
                    }
                    Err(PlatformError::NotFound(_)) => {} // removed at this moment
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    *refused = now;
    Ok(())
}

/// Computes what each node is to know at this moment.
async fn publish(platform: &Platform, refused: &mut BTreeSet<NodeName>) -> Result<(), ApiError> {
    let deploys = platform.deploys();
    let mut nodes = platform.nodes().await?;
    let reports = deploys.fleet().network_reports();
    keep_keys(platform, &mut nodes, &reports, refused).await?;
    let apps = platform.apps().await?;
    let on: BTreeMap<_, _> = apps
        .iter()
        .filter(|app| !app.networks.is_empty())
        .map(|app| (app.name.clone(), app.networks.all()))
        .collect();
    let plans: Vec<_> = on.keys().map(|app| deploys.plan(app)).collect();
    let planned = || plans.iter().flat_map(|plan| plan.with(|_| true));
    // What a node has is unknown until it reports: until then its neighbours' last table is better than one without it.
    if !deploys.fleet().all_reported(&mut planned().map(|(_, planned)| &planned.node)) {
        return Ok(());
    }
    let mut names: BTreeSet<NodeName> = nodes.iter().map(|record| record.name.clone()).collect();
    names.extend(reports.keys().cloned());
    let runs: Vec<_> = names
        .iter()
        .flat_map(|node| platform.runs().assigned(node).into_values().map(move |spec| (node, spec)))
        .filter(|(_, spec)| on.contains_key(&spec.app))
        .collect();
    let tables = {
        let health = deploys.fleet().health();
        let mut placed: Vec<Placed<'_>> = planned()
            .map(|(id, planned)| Placed {
                node: &planned.node,
                spec: &planned.spec,
                in_service: planned.role == Role::Serving,
                status: health.status(id).cloned(),
            })
            .collect();
        let once = |(node, spec)| Placed { node, spec, in_service: false, status: None };
        placed.extend(runs.iter().map(|(node, spec)| once((*node, spec))));
        Facts { nodes: &nodes, reports, apps: on, placed }.tables(&names)
    };
    for (node, table) in tables {
        deploys.fleet().publish_network(&node, table);
    }
    Ok(())
}

/// Keeps what nodes are to know as it is, until `stop`.
pub(crate) async fn keep(platform: Platform, stop: CancellationToken) {
    let mut fleet = platform.deploys().fleet().changes();
    let mut apps = platform.store().watch("apps/");
    let mut nodes = platform.store().watch("nodes/");
    let mut refused = BTreeSet::new();
    while !stop.is_cancelled() {
        fleet.mark_unchanged();
        if let Err(error) = publish(&platform, &mut refused).await {
            tracing::error!(error = %error.message, "cannot say who reaches whom; nodes keep what they know");
        }
        tokio::select! { // every arm is cancel-safe and only wakes us: a pass reads everything afresh
            () = stop.cancelled() => {}
            _ = fleet.changed() => {}
            _ = apps.changed() => {}
            _ = nodes.changed() => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
    }
}
