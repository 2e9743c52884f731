//! What each node is to know of the network. Pure.
//!
//! In: the machines, what they report, the apps that are on networks and where their containers are. Out: one [`NetworkTable`] a
//! node, without a revision.
//!
//! A node learns of others where they are, and of apps only those that share a network with an app it runs. What it says of its
//! own addresses counts only inside its own subnet and for apps that it was given: a stolen node speaks for nobody else.

use berth_model::container::{ContainerSpec, ContainerState, ContainerStatus};
use berth_model::names::NetworkName;
use berth_model::network::{Named, NetworkReport, NetworkTable, OVERLAY_PORT, Peer, TunnelKey};
use berth_model::node::NodeRecord;
use berth_model::{AppName, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// A container of an app that is on a network.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// Where it is to be.
    pub node: &'a NodeName,
    /// What it is.
    pub spec: &'a ContainerSpec,
    /// Names may lead to it.
    pub in_service: bool,
    /// What its node says of it.
    pub status: Option<ContainerStatus>,
}

/// Everything that tables are made from.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// The machines.
    pub nodes: &'a [NodeRecord],
    /// What they report.
    pub reports: BTreeMap<NodeName, NetworkReport>,
    /// Apps that are on networks.
    pub apps: BTreeMap<AppName, BTreeSet<NetworkName>>,
    /// Their containers.
    pub placed: Vec<Placed<'a>>,
}

/// An IPv4 network, such as `10.208.16.0/20`; `None` if it is none.
fn network(text: &str) -> Option<(u32, u32)> {
    let (address, prefix) = text.split_once('/')?;
    let prefix: u32 = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
    let mask = u32::MAX << (32 - prefix);
    Some((u32::from(address.parse::<Ipv4Addr>().ok()?) & mask, mask))
}

fn within(subnet: &str, address: Ipv4Addr) -> bool {
    network(subnet).is_some_and(|(base, mask)| u32::from(address) & mask == base)
}

impl Facts<'_> {
    /// The subnet of a machine. Only of the controller's own one, which chose for itself, its word is taken.
    fn subnet(&self, node: &NodeName) -> Option<String> {
        let record = self.nodes.iter().find(|record| record.name == *node);
        let reported = || self.reports.get(node).map(|report| report.subnet.clone());
        match record {
            Some(record) => record.subnet.clone().or_else(|| record.key.is_none().then(reported).flatten()),
            None => reported(),
        }
    }

    /// Where others reach a machine, the key by which they do, and who they are.
    fn peers(&self, node: &NodeName) -> (Option<IpAddr>, Option<TunnelKey>, Vec<Peer>) {
        let own = self.nodes.iter().find(|record| record.name == *node);
        let Some((own, address)) = own.and_then(|own| Some((own, own.address?))) else {
            return (None, None, Vec::new());
        };
        let others = self.nodes.iter().filter(|record| record.name != *node);
        let peer = |record: &NodeRecord| {
            let port = self.reports.get(&record.name).and_then(|report| report.port);
            Some(Peer {
                node: record.name.clone(),
                address: record.address?,
                subnet: self.subnet(&record.name)?,
                port: port.unwrap_or(OVERLAY_PORT),
                wireguard: record.wireguard,
            })
        };
        let key = own.wireguard.map(|wireguard| wireguard.key);
        (Some(address), key, others.filter_map(peer).collect())
    }

    /// Who has which address: what nodes say of their own subnets, for apps that they were given.
    fn addresses(&self) -> BTreeMap<Ipv4Addr, &AppName> {
        let given: BTreeSet<(&NodeName, &AppName)> =
            self.placed.iter().map(|placed| (placed.node, &placed.spec.app)).collect();
        let mut all = BTreeMap::new();
        for (node, report) in &self.reports {
            let Some(subnet) = self.subnet(node) else { continue };
            let good = report
                .addresses
                .iter()
                .filter(|(address, app)| within(&subnet, **address) && given.contains(&(node, *app)));
            all.extend(good.map(|(address, app)| (*address, app)));
        }
        all
    }

    /// Where a name may lead.
    fn named(&self, placed: &Placed<'_>) -> Option<Named> {
        let status = placed.status.as_ref()?;
        let ready = matches!(status.state, ContainerState::Running { ready: true, .. });
        let Some(IpAddr::V4(address)) = status.address.filter(|_| ready && placed.in_service) else {
            return None;
        };
        let spec = placed.spec;
        within(&self.subnet(placed.node)?, address).then(|| Named {
            app: spec.app.clone(),
            process: spec.process.clone(),
            ordinal: spec.ordinal,
            address,
        })
    }

    /// The table of every one of `nodes`.
    #[must_use]
    pub fn tables(&self, nodes: &BTreeSet<NodeName>) -> BTreeMap<NodeName, NetworkTable> {
        let addresses = self.addresses();
        let named: Vec<_> = self
            .placed
            .iter()
            .filter_map(|placed| Some((placed.spec.id.clone(), self.named(placed)?)))
            .collect();
        let table = |node: &NodeName| {
            let here = self.placed.iter().filter(|placed| placed.node == node);
            let on: BTreeSet<&NetworkName> =
                here.filter_map(|placed| self.apps.get(&placed.spec.app)).flatten().collect();
            let shared = |networks: &BTreeSet<NetworkName>| -> BTreeSet<NetworkName> {
                networks.iter().filter(|network| on.contains(network)).cloned().collect()
            };
            let apps: BTreeMap<AppName, BTreeSet<NetworkName>> = self
                .apps
                .iter()
                .map(|(app, networks)| (app.clone(), shared(networks)))
                .filter(|(_, networks)| !networks.is_empty())
                .collect();
            let (address, key, peers) = self.peers(node);
            NetworkTable {
                revision: 0,
                address,
                key,
                peers,
                addresses: addresses
                    .iter()
                    .filter(|(_, app)| apps.contains_key(**app))
                    .map(|(address, app)| (*address, (*app).clone()))
                    .collect(),
                named: named.iter().filter(|(_, named)| apps.contains_key(&named.app)).cloned().collect(),
                apps,
            }
        };
        nodes.iter().map(|node| (node.clone(), table(node))).collect()
    }
}
