//! Who may reach whom: the part of the packet rules that changes while apps come and go.
//!
//! In: the controller's [`NetworkTable`] and this node's own containers. Out: [`Elements`] of the rules' sets, and the text that
//! turns one state of them into another. Pure.

use super::overlay::{By, Neighbour};
use super::subnet::Subnet;
use berth_model::AppName;
use berth_model::names::NetworkName;
use berth_model::network::NetworkTable;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::net::Ipv4Addr;

/// What the sets hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// The other nodes, however they are spoken with.
    pub(super) nodes: BTreeSet<(Ipv4Addr, Subnet)>,
    /// Where packets in the clear come from, and whose addresses may be in them.
    pub(super) tunnels: BTreeSet<(Ipv4Addr, Subnet)>,
    /// Addresses of containers that are on networks → the number of that combination of networks, from 1.
    pub(super) groups: BTreeMap<Ipv4Addr, u32>,
    /// What each of those combinations reaches.
    pub(super) reach: BTreeSet<(u32, Ipv4Addr)>,
}

/// The elements for this table. `own` are this node's containers: of them the node itself knows best.
#[must_use]
pub(super) fn elements(
    table: &NetworkTable,
    peers: &[Neighbour],
    subnet: Subnet,
    own: impl Iterator<Item = (AppName, Ipv4Addr)>,
) -> Elements {
    let mut at: BTreeMap<Ipv4Addr, &BTreeSet<NetworkName>> = BTreeMap::new();
    let mut put = |app: &AppName, address: Ipv4Addr| {
        if let Some(networks) = table.apps.get(app).filter(|networks| !networks.is_empty()) {
            at.insert(address, networks);
        }
    };
    for (address, app) in &table.addresses {
        if !subnet.contains(*address) && peers.iter().any(|peer| peer.subnet.contains(*address)) {
            put(app, *address);
        }
    }
    own.for_each(|(app, address)| put(&app, address));
    let combinations: BTreeSet<&BTreeSet<NetworkName>> = at.values().copied().collect();
    let numbered: BTreeMap<&BTreeSet<NetworkName>, u32> = combinations.into_iter().zip(1..).collect();
    let mut on: BTreeMap<&NetworkName, BTreeSet<Ipv4Addr>> = BTreeMap::new();
    for (address, networks) in &at {
        for network in *networks {
            on.entry(network).or_default().insert(*address);
        }
    }
    let reached = |networks: &BTreeSet<NetworkName>| -> BTreeSet<Ipv4Addr> {
        networks.iter().filter_map(|network| on.get(network)).flatten().copied().collect()
    };
    let reach = numbered.iter().flat_map(|(networks, number)| {
        reached(networks).into_iter().map(|address| (*number, address)).collect::<Vec<_>>()
    });
    let clear = peers.iter().filter(|peer| peer.by == By::Vxlan);
    Elements {
        nodes: peers.iter().map(|peer| (peer.address, peer.subnet)).collect(),
        tunnels: clear.map(|peer| (peer.address, peer.subnet)).collect(),
        reach: reach.collect(),
        groups: at.iter().filter_map(|(at, networks)| Some((*at, *numbered.get(networks)?))).collect(),
    }
}

impl Elements {
    /// The lines of every set, by its name.
    fn lines(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let (tunnels, nodes) = (self.tunnels.iter(), self.nodes.iter());
        let on_the_wire = |(address, subnet): &(Ipv4Addr, Subnet)| {
            let (first, last) = (u32::from(subnet.at(0)), u32::from(subnet.last()));
            format!("{address} . 0x{first:08x}-0x{last:08x}")
        };
        BTreeMap::from([
            ("tunnels", tunnels.map(on_the_wire).collect()),
            ("nodes", nodes.clone().map(|(address, _)| address.to_string()).collect()),
            ("elsewhere", nodes.clone().map(|(_, subnet)| subnet.to_string()).collect()),
            ("gateways", nodes.map(|(_, subnet)| subnet.gateway().to_string()).collect()),
            ("groups", self.groups.iter().map(|(from, number)| format!("{from} : {number}")).collect()),
            ("reach", self.reach.iter().map(|(number, to)| format!("{number} . {to}")).collect()),
        ])
    }

    /// Text that fills empty sets.
    #[must_use]
    pub(super) fn text(&self, instance: &str) -> String {
        self.after(&Self::default(), instance)
    }

    /// Text that makes these of `before`, in one transaction; empty when they are the same.
    #[must_use]
    pub(super) fn after(&self, before: &Self, instance: &str) -> String {
        let (old, new) = (before.lines(), self.lines());
        let mut out = String::new();
        for (verb, from, without) in [("delete", &old, &new), ("add", &new, &old)] {
            for (set, lines) in from {
                let others = without.get(set);
                let changed = lines.iter().filter(|line| others.is_none_or(|others| !others.contains(*line)));
                write_elements(&mut out, verb, instance, set, changed);
            }
        }
        out
    }
}

fn write_elements<T: Display>(
    out: &mut String,
    verb: &str,
    instance: &str,
    set: &str,
    lines: impl Iterator<Item = T>,
) {
    for (index, line) in lines.enumerate() {
        if index == 0 {
            let _ = write!(out, "{verb} element inet berth_{instance} {set} {{ {line}");
        } else {
            let _ = write!(out, ", {line}");
        }
    }
    if out.ends_with(|c: char| c != '\n') && !out.is_empty() {
        out.push_str(" }\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::network::TunnelKey;

    fn name(text: &str) -> AppName {
        AppName::parse(text).expect("a name")
    }

    fn networks(names: &[&str]) -> BTreeSet<NetworkName> {
        names.iter().map(|name| NetworkName::parse(name).expect("a name")).collect()
    }

    fn table() -> NetworkTable {
        NetworkTable {
            apps: BTreeMap::from([
                (name("shop"), networks(&["back", "front"])),
                (name("cache"), networks(&["back"])),
                (name("site"), networks(&["front"])),
            ]),
            addresses: BTreeMap::from([
                ([10, 1, 0, 2].into(), name("cache")),
                ([10, 1, 0, 3].into(), name("site")),
                ([10, 1, 0, 4].into(), name("gone")),
                ([10, 9, 0, 4].into(), name("cache")),
                ([10, 0, 0, 7].into(), name("cache")),
            ]),
            ..NetworkTable::default()
        }
    }

    fn peers() -> Vec<Neighbour> {
        let subnet = "10.1.0.0/24".parse().expect("a subnet");
        vec![Neighbour { address: [192, 0, 2, 1].into(), subnet, port: 4789, by: By::Vxlan }]
    }

    #[test]
    fn only_who_shares_a_network_reaches_another() {
        let subnet = "10.0.0.0/24".parse().expect("a subnet");
        let own = [(name("shop"), [10, 0, 0, 2].into()), (name("alone"), [10, 0, 0, 3].into())];
        let found = elements(&table(), &peers(), subnet, own.into_iter());
        let may = |from: [u8; 4], to: [u8; 4]| {
            let group = found.groups.get(&Ipv4Addr::from(from));
            group.is_some_and(|group| found.reach.contains(&(*group, to.into())))
        };
        let (shop, cache, site, alone) = ([10, 0, 0, 2], [10, 1, 0, 2], [10, 1, 0, 3], [10, 0, 0, 3]);
        for (from, to) in [(shop, cache), (cache, shop), (shop, site), (site, shop), (shop, shop)] {
            assert!(may(from, to), "{from:?} reaches {to:?}");
        }
        for (from, to) in [(cache, site), (site, cache), (alone, shop), (shop, alone), (shop, [10, 1, 0, 4])]
        {
            assert!(!may(from, to), "{from:?} does not reach {to:?}");
        }
        // An address of no node, and one of this node that it does not have.
        assert!(!may(shop, [10, 9, 0, 4]) && !may(shop, [10, 0, 0, 7]));
    }

    #[test]
    fn who_is_spoken_with_encrypted_may_send_nothing_in_the_clear() {
        let key = TunnelKey::new([7; 32]).expect("a key");
        let subnet = "10.0.0.0/24".parse().expect("a subnet");
        for by in [By::WireGuard { key, port: 51820 }, By::Refused] {
            let peers: Vec<_> = peers().into_iter().map(|peer| Neighbour { by, ..peer }).collect();
            let found = elements(&table(), &peers, subnet, std::iter::empty());
            assert!(found.tunnels.is_empty());
            insta::allow_duplicates!(insta::assert_snapshot!(found.text("a1b2c3")));
        }
    }

    #[test]
    fn only_what_changes_is_written() {
        let subnet = "10.0.0.0/24".parse().expect("a subnet");
        let before = elements(&table(), &peers(), subnet, std::iter::empty());
        assert_eq!(before.after(&before, "a1b2c3"), "");
        let mut more = table();
        more.addresses.retain(|_, app| app.as_str() != "site");
        let after = elements(&more, &peers(), subnet, std::iter::empty());
        insta::assert_snapshot!(format!("{}\n{}", before.text("a1b2c3"), after.after(&before, "a1b2c3")));
    }
}
