//! Networks that apps are attached to, and what a node must know of the others.
//!
//! In: what admins set, what nodes report. Out: one [`NetworkTable`] a node, sent whole each time.

use crate::names::NetworkName;
use crate::{AppName, ContainerId, NodeName, ProcessType};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use utoipa::ToSchema;

/// The UDP port of VXLAN (RFC 7348 §5), which a node uses unless it is taken there.
pub const OVERLAY_PORT: u16 = 4789;

/// The UDP port of WireGuard, which a node uses unless it is taken there.
pub const WIREGUARD_PORT: u16 = 51820;

/// A node's public key of WireGuard: an X25519 point (RFC 7748 §5). As text it is base64, as wg(8) writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TunnelKey([u8; 32]);

impl TunnelKey {
    /// The key of these bytes; `None` for zeros, which WireGuard takes for no key.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Option<Self> {
        (bytes != [0; 32]).then_some(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<String> for TunnelKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = if text.len() == 44 { STANDARD.decode(text).ok() } else { None };
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.and_then(Self::new).ok_or_else(|| "a WireGuard key is 32 bytes in base64".to_owned())
    }
}

impl From<TunnelKey> for String {
    fn from(key: TunnelKey) -> Self {
        STANDARD.encode(key.0)
    }
}

impl fmt::Display for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a node is spoken with over WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireGuard {
    /// Its public key.
    pub key: TunnelKey,
    /// The UDP port it receives at.
    pub port: u16,
}

/// To how many other nodes a node speaks in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ways {
    /// Encrypted.
    #[serde(default)]
    pub wireguard: u32,
    /// In the clear.
    #[serde(default)]
    pub vxlan: u32,
    /// Not at all: it was told to speak to none in the clear (`--overlay wireguard`).
    #[serde(default)]
    pub refused: u32,
}

impl Ways {
    /// Whether it speaks to nobody.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What one node must know of the network beyond its own containers. The whole of it each time: never a delta.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTable {
    /// Names this state of it; grows over restarts of the controller too.
    pub revision: u64,
    /// Where other nodes reach this one; `None` as long as it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its own WireGuard key, as the others are told; `None` while they are told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<TunnelKey>,
    /// The other nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// Apps that are on a network some app of this node is on, and on which of those. An app that is in none is not here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub apps: BTreeMap<AppName, BTreeSet<NetworkName>>,
    /// Every address that something of those apps has, on any node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<Ipv4Addr, AppName>,
    /// The containers of those apps that names lead to: ready, and in service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub named: BTreeMap<ContainerId, Named>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Where it is reached, and the only address its packets come from.
    pub address: IpAddr,
    /// The addresses of its containers, such as `10.208.16.0/20`.
    pub subnet: String,
    /// The UDP port it receives containers' packets at in the clear.
    pub port: u16,
    /// How it is spoken with over WireGuard, if it can do that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<WireGuard>,
}

/// A container that a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them, from 1.
    pub ordinal: u32,
    /// Where it is.
    pub address: Ipv4Addr,
}

/// What a node says of its own network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// The addresses of its containers.
    pub subnet: String,
    /// Where it receives containers' packets of other nodes in the clear; `None` while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its key and port of WireGuard, while it has peers and the kernel has WireGuard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<WireGuard>,
    /// To how many other nodes it speaks in which way.
    #[serde(default, skip_serializing_if = "Ways::is_none")]
    pub ways: Ways,
    /// Why it speaks no WireGuard, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unencrypted: Option<String>,
    /// Why containers of other nodes are out of reach, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who has which of its addresses, as far as their apps are on a network.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<Ipv4Addr, AppName>,
}

/// How an app came to be on a network: the words of Dokku, and `network:attach`. All of them are the same here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// `network:attach`.
    Attached,
    /// `network:set APP initial-network`.
    InitialNetwork,
    /// `network:set APP attach-post-create`.
    AttachPostCreate,
    /// `network:set APP attach-post-deploy`.
    AttachPostDeploy,
}

/// The networks an app is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct AppNetworks(pub BTreeMap<Attachment, BTreeSet<NetworkName>>);

impl AppNetworks {
    /// Most networks of one app.
    pub const MOST: usize = 100;

    /// Whether it is on none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    /// Each of them once.
    #[must_use]
    pub fn all(&self) -> BTreeSet<NetworkName> {
        self.0.values().flatten().cloned().collect()
    }

    /// Those of one kind.
    #[must_use]
    pub fn of(&self, kind: Attachment) -> BTreeSet<NetworkName> {
        self.0.get(&kind).cloned().unwrap_or_default()
    }

    /// Sets those of one kind.
    pub fn set(&mut self, kind: Attachment, networks: BTreeSet<NetworkName>) {
        if networks.is_empty() {
            self.0.remove(&kind);
        } else {
            self.0.insert(kind, networks);
        }
    }

    /// Takes one away, however it came to be there; whether it was.
    pub fn detach(&mut self, network: &NetworkName) -> bool {
        let was = self.0.values_mut().map(|networks| networks.remove(network)).filter(|was| *was).count() > 0;
        self.0.retain(|_, networks| !networks.is_empty());
        was
    }
}

/// A network, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// `POST /v1/networks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// What it is called.
    pub name: NetworkName,
}

/// A network and who is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkInfo {
    /// Its name.
    pub name: NetworkName,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Apps that are on it.
    pub apps: BTreeSet<AppName>,
}

/// `PATCH /v1/apps/{app}/networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchNetworks {
    /// Networks that it is on from now on.
    #[serde(default)]
    pub attach: BTreeSet<NetworkName>,
    /// Networks that it is on no longer.
    #[serde(default)]
    pub detach: BTreeSet<NetworkName>,
    /// All networks of these kinds.
    #[serde(default)]
    pub set: BTreeMap<Attachment, BTreeSet<NetworkName>>,
}

/// An app's networks, and what they open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppNetworksInfo {
    /// Whose.
    pub app: AppName,
    /// How it came to be on each.
    pub networks: AppNetworks,
    /// Names that others on its networks reach it by; of process types that run.
    pub names: Vec<String>,
    /// Apps that it reaches and that reach it.
    pub reaches: BTreeSet<AppName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_base64() {
        let text = "8bdQrVLqiw3ZoHCucNh1YfH0iCWuyStniRr8t7H24Fk=";
        let key = TunnelKey::try_from(text.to_owned()).expect("a key");
        assert_eq!((key.to_string().as_str(), key.bytes().len()), (text, 32));
        // One form a key: the last digit has two bits that must be zero.
        let wrong = [
            "",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "8bdQrVLqiw3ZoHCucNh1YfH0iCWuyStniRr8t7H24Fl=",
            "8bdQrVLqiw3ZoHCucNh1YfH0iCWuyStniRr8t7H24F==",
            " 8bdQrVLqiw3ZoHCucNh1YfH0iCWuyStniRr8t7H24Fk",
            "8bdQrVLqiw3ZoHCucNh1YfH0iCWuyStniRr8t7H24Fk=\n",
            "ääääääääääääääääääääää",
        ];
        for wrong in wrong {
            assert!(TunnelKey::try_from(wrong.to_owned()).is_err(), "{wrong:?} must be refused");
        }
    }

    #[test]
    fn what_an_older_version_wrote_is_still_read() {
        let peer = r#"{"node":"b","address":"192.0.2.2","subnet":"10.208.16.0/20","port":4789}"#;
        assert_eq!(serde_json::from_str::<Peer>(peer).expect("read").wireguard, None);
        let report: NetworkReport = serde_json::from_str(r#"{"subnet":"10.208.0.0/20"}"#).expect("read");
        assert!(report.wireguard.is_none() && report.ways.is_none());
    }
}
