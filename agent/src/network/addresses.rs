//! Who has which address and which port of the node.
//!
//! In: requests and the time. Out: addresses, handed out in a round and not again within [`QUARANTINE_MS`] of their
//! release, so that nobody who still knows an address can reach another app under it. Pure; the caller keeps it on disk.

use super::subnet::Subnet;
use berth_model::container::{Protocol, PublishedPort};
use berth_model::{AppName, ContainerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long a released address rests: longer than any proxy drains.
pub const QUARANTINE_MS: i64 = 10 * 60 * 1000;

/// Ports of the node to choose from when none is asked for.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// The book of addresses and ports of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Where they come from.
    pub subnet: Subnet,
    /// Offset that the next search begins at.
    cursor: u32,
    /// Containers that have one.
    leases: BTreeMap<ContainerId, Lease>,
    /// Offsets that nobody has, and when they were released (milliseconds since the epoch).
    resting: BTreeMap<u32, i64>,
    /// Grows with every lease: of two that want one port of the node, the later gets it.
    sequence: u64,
}

/// What one container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its address, from the beginning of the subnet.
    pub offset: u32,
    /// Whose container it is.
    pub app: AppName,
    /// Ports of the node that lead to it; all have a `node_port`.
    pub published: Vec<PublishedPort>,
    sequence: u64,
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Every address is in use or resting.
    #[error("no address is free in {0}: all are in use or were given back less than 10 minutes ago")]
    NoAddress(Subnet),
    /// The port leads to another app.
    #[error("port {port} of the node is published by app {owner} already; choose another")]
    PortTaken {
        /// Which.
        port: u16,
        /// By whom.
        owner: AppName,
    },
    /// The whole range is in use.
    #[error("no port of the node is free between 30000 and 32767")]
    NoPort,
}

impl Addresses {
    /// Nobody has anything.
    #[must_use]
    pub fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            cursor: subnet.offsets().start,
            leases: BTreeMap::new(),
            resting: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// What `id` has.
    #[must_use]
    pub fn lease(&self, id: &ContainerId) -> Option<&Lease> {
        self.leases.get(id)
    }

    /// Everybody who has something.
    pub fn leases(&self) -> impl Iterator<Item = (&ContainerId, &Lease)> {
        self.leases.iter()
    }

    /// Gives `id` an address and its ports; the same again if it has them. `usable` says whether a port of the node
    /// may be chosen (nothing else listens there).
    pub fn take(
        &mut self,
        id: &ContainerId,
        app: &AppName,
        ports: &[PublishedPort],
        now_ms: i64,
        mut usable: impl FnMut(Protocol, u16) -> bool,
    ) -> Result<Lease, LeaseError> {
        if let Some(lease) = self.leases.get(id) {
            return Ok(lease.clone());
        }
        let mut published: Vec<PublishedPort> = Vec::new();
        for wanted in ports {
            let node_port = match wanted.node_port {
                Some(port) => match self.owner(wanted.protocol, port) {
                    Some(owner) if owner != app => {
                        return Err(LeaseError::PortTaken { port, owner: owner.clone() });
                    }
                    _ => port,
                },
                None => NODE_PORTS
                    .into_iter()
                    .find(|port| {
                        self.owner(wanted.protocol, *port).is_none()
                            && !published
                                .iter()
                                .any(|p| p.protocol == wanted.protocol && p.node_port == Some(*port))
                            && usable(wanted.protocol, *port)
                    })
                    .ok_or(LeaseError::NoPort)?,
            };
            published.push(PublishedPort { node_port: Some(node_port), ..wanted.clone() });
        }
        let offset = self.free(now_ms).ok_or(LeaseError::NoAddress(self.subnet))?;
        self.resting.remove(&offset);
        self.cursor = offset + 1;
        self.sequence += 1;
        let lease = Lease { offset, app: app.clone(), published, sequence: self.sequence };
        self.leases.insert(id.clone(), lease.clone());
        Ok(lease)
    }

    /// Takes back what `id` has; the address rests from `now_ms` on.
    pub fn give_back(&mut self, id: &ContainerId, now_ms: i64) -> Option<Lease> {
        let lease = self.leases.remove(id)?;
        self.resting.retain(|_, since| now_ms.saturating_sub(*since) < QUARANTINE_MS && *since <= now_ms);
        self.resting.insert(lease.offset, now_ms);
        Some(lease)
    }

    fn owner(&self, protocol: Protocol, port: u16) -> Option<&AppName> {
        let has = |lease: &&Lease| {
            lease.published.iter().any(|p| p.protocol == protocol && p.node_port == Some(port))
        };
        self.leases.values().find(has).map(|lease| &lease.app)
    }

    fn free(&self, now_ms: i64) -> Option<u32> {
        let offsets = self.subnet.offsets();
        let cursor = if offsets.contains(&self.cursor) { self.cursor } else { offsets.start };
        let used: std::collections::BTreeSet<u32> = self.leases.values().map(|lease| lease.offset).collect();
        let rests = |offset: &u32| {
            self.resting.get(offset).is_some_and(|since| now_ms.saturating_sub(*since) < QUARANTINE_MS)
        };
        (cursor..offsets.end).chain(offsets.start..cursor).find(|o| !used.contains(o) && !rests(o))
    }

    /// Which port of the node leads where: of several containers of one app that publish the same, the newest.
    #[must_use]
    pub fn published(&self) -> BTreeMap<(Protocol, u16), (u32, u16)> {
        let mut leases: Vec<&Lease> = self.leases.values().collect();
        leases.sort_by_key(|lease| lease.sequence);
        let ports =
            leases.into_iter().flat_map(|lease| lease.published.iter().map(move |p| (lease.offset, p)));
        ports
            .filter_map(|(offset, p)| Some(((p.protocol, p.node_port?), (offset, p.container_port))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u32) -> ContainerId {
        ContainerId::parse(&format!("a.web.{n}.x")).expect("an id")
    }

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a name")
    }

    fn port(node_port: Option<u16>) -> PublishedPort {
        PublishedPort { protocol: Protocol::Tcp, container_port: 5000, node_port }
    }

    proptest! {
        #[test]
        fn an_address_is_never_shared_nor_given_again_too_soon(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..12, 0_i64..200_000), 1..200),
        ) {
            let mut book = Addresses::new("10.0.0.0/28".parse().expect("a subnet"));
            let mut released: BTreeMap<u32, i64> = BTreeMap::new();
            let mut now = 1_000_000;
            for (take, n, passes) in steps {
                now += passes;
                if take {
                    let had = book.lease(&id(n)).cloned();
                    if let Ok(lease) = book.take(&id(n), &app("a"), &[], now, |_, _| true) {
                        match had {
                            Some(had) => prop_assert_eq!(had, lease),
                            None => {
                                if let Some(at) = released.get(&lease.offset) {
                                    prop_assert!(now - at >= QUARANTINE_MS);
                                }
                            }
                        }
                    }
                } else if let Some(lease) = book.give_back(&id(n), now) {
                    released.insert(lease.offset, now);
                }
                let mut offsets: Vec<u32> = book.leases().map(|(_, lease)| lease.offset).collect();
                offsets.sort_unstable();
                let all = offsets.len();
                offsets.dedup();
                prop_assert_eq!(all, offsets.len());
            }
        }
    }

    #[test]
    fn ports_are_chosen_and_refused() {
        let mut book = Addresses::new("10.0.0.0/24".parse().expect("a subnet"));
        let first = book.take(&id(1), &app("a"), &[port(None)], 0, |_, port| port != 30_000).expect("free");
        assert_eq!(first.published[0].node_port, Some(30_001));
        let other = book.take(&id(2), &app("b"), &[port(Some(30_001))], 0, |_, _| true);
        assert!(matches!(other, Err(LeaseError::PortTaken { port: 30_001, .. })));
        let newer = book.take(&id(3), &app("a"), &[port(Some(30_001))], 0, |_, _| true).expect("same app");
        assert_eq!(book.published()[&(Protocol::Tcp, 30_001)], (newer.offset, 5000));
        book.give_back(&id(3), 0);
        assert_eq!(book.published()[&(Protocol::Tcp, 30_001)], (first.offset, 5000));
    }
}
