//! What each node is told.

use super::table::{Facts, Placed};
use berth_model::container::{ContainerSpec, ContainerState, ContainerStatus};
use berth_model::names::NetworkName;
use berth_model::network::{NetworkReport, TunnelKey, Ways, WireGuard};
use berth_model::node::NodeRecord;
use berth_model::{AppName, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("a name")
}

fn app(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

fn record(name: &str, address: Option<[u8; 4]>, subnet: Option<&str>) -> NodeRecord {
    NodeRecord {
        address: address.map(|address| Ipv4Addr::from(address).into()),
        subnet: subnet.map(str::to_owned),
        key: (name != "a").then(|| "00".repeat(32)),
        ..NodeRecord::new(node(name), 0)
    }
}

fn spec(name: &str, ordinal: u32) -> ContainerSpec {
    let text = format!(
        r#"{{"id":"{name}.web.{ordinal}.x","app":"{name}","release":1,"process":"web","ordinal":{ordinal},
            "image":{{"repository":"{name}","digest":"sha256:{}"}},"run":{{"kind":"command","argv":["x"]}},"env":{{}},
            "port":5000,"checks":[],"limits":{},"restart":{{"policy":"always"}},"stop":{{"signal":15,"grace_secs":30}},
            "mounts":[],"published":[]}}"#,
        "0".repeat(64),
        serde_json::to_string(&berth_model::container::Limits::default()).expect("written"),
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn status(address: [u8; 4], ready: bool) -> Option<ContainerStatus> {
    Some(ContainerStatus {
        state: ContainerState::Running { since_ms: 0, ready },
        incarnation: 1,
        restarts: 0,
        address: Some(Ipv4Addr::from(address).into()),
        published: Vec::new(),
        pid: None,
        static_root: None,
        static_rules: Default::default(),
        advice: None,
    })
}

fn networks(names: &[&str]) -> BTreeSet<NetworkName> {
    names.iter().map(|name| NetworkName::parse(name).expect("a name")).collect()
}

#[test]
fn a_node_learns_what_it_needs_and_speaks_for_itself_only() {
    let keyed = TunnelKey::new([7; 32]).map(|key| WireGuard { key, port: 51821 });
    let nodes = [
        record("a", Some([192, 0, 2, 1]), None),
        NodeRecord { wireguard: keyed, ..record("b", Some([192, 0, 2, 2]), Some("10.208.16.0/20")) },
        record("c", Some([192, 0, 2, 3]), Some("10.208.32.0/20")),
        record("new", None, None),
    ];
    let report = |subnet: &str, port: Option<u16>, addresses: &[([u8; 4], &str)]| NetworkReport {
        subnet: subnet.to_owned(),
        port,
        wireguard: None,
        ways: Ways::default(),
        unencrypted: None,
        error: None,
        addresses: addresses.iter().map(|(at, name)| (Ipv4Addr::from(*at), app(name))).collect(),
    };
    // Node c has been stolen: it claims another subnet, an address of b, and an app it does not run.
    let claims = [([10, 208, 32, 2], "web"), ([10, 208, 16, 9], "web"), ([10, 208, 32, 3], "secret")];
    let reports = BTreeMap::from([
        (node("a"), report("10.208.0.0/20", Some(4790), &[([10, 208, 0, 2], "web")])),
        (node("b"), report("10.208.16.0/20", None, &[([10, 208, 16, 2], "cache")])),
        (node("c"), report("10.208.0.0/12", None, &claims)),
    ]);
    let specs = [spec("web", 1), spec("cache", 1), spec("web", 2), spec("secret", 1), spec("cache", 2)];
    let (a, b, c) = (node("a"), node("b"), node("c"));
    let placed = |node, spec, status| Placed { node, spec, in_service: true, status };
    let facts = Facts {
        nodes: &nodes,
        reports,
        apps: BTreeMap::from([
            (app("web"), networks(&["front", "unused"])),
            (app("cache"), networks(&["front", "back"])),
            (app("secret"), networks(&["back"])),
        ]),
        placed: vec![
            placed(&a, &specs[0], status([10, 208, 0, 2], true)),
            placed(&b, &specs[1], status([10, 208, 16, 2], true)),
            placed(&c, &specs[2], status([10, 208, 16, 9], true)),
            placed(&b, &specs[3], status([10, 208, 16, 3], false)),
            Placed { in_service: false, ..placed(&b, &specs[4], status([10, 208, 16, 4], true)) },
        ],
    };
    let names = BTreeSet::from([a.clone(), b.clone(), c.clone(), node("new")]);
    let tables = facts.tables(&names);
    let peers = |of: &NodeName| -> Vec<String> {
        let peers = tables[of].peers.iter();
        peers.map(|peer| format!("{} {} {} {}", peer.node, peer.address, peer.subnet, peer.port)).collect()
    };
    assert_eq!(peers(&a), ["b 192.0.2.2 10.208.16.0/20 4789", "c 192.0.2.3 10.208.32.0/20 4789"]);
    assert_eq!((tables[&a].key, tables[&b].key), (None, keyed.map(|keyed| keyed.key)));
    assert_eq!(tables[&a].peers.iter().map(|peer| peer.wireguard).collect::<Vec<_>>(), [keyed, None]);
    assert_eq!(peers(&b), ["a 192.0.2.1 10.208.0.0/20 4790", "c 192.0.2.3 10.208.32.0/20 4789"]);
    let addresses = |of: &NodeName| -> Vec<String> {
        tables[of].addresses.iter().map(|(address, app)| format!("{address} {app}")).collect()
    };
    assert_eq!(addresses(&a), ["10.208.0.2 web", "10.208.16.2 cache", "10.208.32.2 web"]);
    assert_eq!(addresses(&b), addresses(&a));
    let named: Vec<&str> = tables[&b].named.keys().map(berth_model::ContainerId::as_str).collect();
    assert_eq!(named, ["cache.web.1.x", "web.web.1.x"], "ready, in service, and at an address of their node");
    let alone = &tables[&node("new")];
    assert!(alone.peers.is_empty() && alone.apps.is_empty());
    assert!(!tables[&a].apps.contains_key(&app("secret")), "a runs nothing that reaches it");
    assert!(tables[&b].apps.contains_key(&app("secret")));
}
