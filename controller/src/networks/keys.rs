//! Which WireGuard keys nodes are spoken with. Pure.
//!
//! In: the machines, and what they report of themselves. Out: what is to change in their records. A key belongs to the node that had
//! it first: another one that claims it, be it stolen or a copy of the same disk, is spoken with in the clear and takes nothing from
//! the first. The records keep it, so that neither a restart of the controller nor another leader gives anybody a second chance.

use berth_model::NodeName;
use berth_model::network::{NetworkReport, TunnelKey, WireGuard};
use berth_model::node::NodeRecord;
use std::collections::BTreeMap;

/// What is to be done about a node's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is spoken with in this way from now on.
    Take(NodeName, Option<WireGuard>),
    /// Its key is that of another node.
    Refuse { node: NodeName, of: NodeName },
}

/// What changes. A node that says nothing keeps what it has; one that says that it has none, or has peers and no word of it, loses it.
pub(super) fn claims(nodes: &[NodeRecord], reports: &BTreeMap<NodeName, NetworkReport>) -> Vec<Claim> {
    let held = nodes.iter().filter_map(|record| Some((record.wireguard?.key, &record.name)));
    let mut held: BTreeMap<TunnelKey, &NodeName> = held.collect();
    let mut oldest: Vec<&NodeRecord> = nodes.iter().collect();
    oldest.sort_by_key(|record| (record.joined_ms, &record.name));
    let mut all = Vec::new();
    for record in oldest {
        let Some(report) = reports.get(&record.name) else { continue };
        let claimed = report.wireguard.filter(|claimed| claimed.port != 0);
        let wanted = match claimed {
            Some(WireGuard { key, .. }) => match held.get(&key) {
                Some(of) if **of != record.name => {
                    all.push(Claim::Refuse { node: record.name.clone(), of: (*of).clone() });
                    None
                }
                _ => {
                    held.insert(key, &record.name);
                    claimed
                }
            },
            None if report.unencrypted.is_some() || report.port.is_some() => None,
            None => record.wireguard,
        };
        if wanted != record.wireguard {
            all.push(Claim::Take(record.name.clone(), wanted));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> NodeName {
        NodeName::parse(name).expect("a name")
    }

    fn wireguard(byte: u8, port: u16) -> Option<WireGuard> {
        TunnelKey::new([byte; 32]).map(|key| WireGuard { key, port })
    }

    fn record(node: &str, joined: i64, has: Option<WireGuard>) -> NodeRecord {
        NodeRecord { wireguard: has, ..NodeRecord::new(name(node), joined) }
    }

    fn report(wireguard: Option<WireGuard>) -> NetworkReport {
        let report: NetworkReport = serde_json::from_str(r#"{"subnet":"10.208.0.0/20"}"#).expect("read");
        NetworkReport { wireguard, ..report }
    }

    #[test]
    fn a_node_takes_no_key_of_another() {
        let (one, two) = (wireguard(1, 51820), wireguard(2, 51820));
        let nodes = [record("thief", 0, two), record("b", 1, one)];
        // b has been silent since the controller began.
        let reports = BTreeMap::from([(name("thief"), report(one))]);
        let refused = Claim::Refuse { node: name("thief"), of: name("b") };
        assert_eq!(claims(&nodes, &reports), [refused.clone(), Claim::Take(name("thief"), None)]);
        // Of two that come at once the older node has it.
        let nodes = [record("copy", 9, None), record("old", 3, None)];
        let reports = BTreeMap::from([(name("copy"), report(one)), (name("old"), report(one))]);
        let taken = Claim::Take(name("old"), one);
        assert_eq!(claims(&nodes, &reports), [taken, Claim::Refuse { node: name("copy"), of: name("old") }]);
    }

    #[test]
    fn a_node_changes_and_loses_its_own_key() {
        let (one, moved, two) = (wireguard(1, 51820), wireguard(1, 51821), wireguard(2, 51820));
        let nodes = [record("a", 0, one)];
        let after = |report| claims(&nodes, &BTreeMap::from([(name("a"), report)]));
        assert_eq!(after(report(one)), []);
        assert_eq!(after(report(moved)), [Claim::Take(name("a"), moved)]);
        assert_eq!(after(report(two)), [Claim::Take(name("a"), two)]);
        assert_eq!(after(report(wireguard(1, 0))), [], "no port is no claim");
        assert_eq!(after(report(None)), [], "it has not looked yet");
        let lost = [Claim::Take(name("a"), None)];
        assert_eq!(after(NetworkReport { unencrypted: Some("no module".into()), ..report(None) }), lost);
        // An agent of before WireGuard says nothing of it.
        assert_eq!(after(NetworkReport { port: Some(4789), ..report(None) }), lost);
        assert_eq!(claims(&nodes, &BTreeMap::new()), []);
    }
}
