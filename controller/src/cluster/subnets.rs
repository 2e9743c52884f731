//! Which addresses a node's containers get.
//!
//! In: the subnets of all nodes and the networks that the machine knows. Out: a /20 of 10.208.0.0/12 that overlaps none of them.
//! Pure.

use std::net::Ipv4Addr;

/// Subnets are taken from here: 256 of them.
const POOL: Net = Net { base: 0x0ad0_0000, prefix: 12 };
const PREFIX: u8 = 20;

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    base: u32,
    prefix: u8,
}

impl Net {
    /// Reads `10.208.0.0/20`; `None` for anything else, host bits included.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let base = u32::from(address.parse::<Ipv4Addr>().ok()?);
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= 32)?;
        (base & mask(prefix) == base).then_some(Self { base, prefix })
    }

    fn overlaps(self, other: Self) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        self.base & common == other.base & common
    }
}

impl std::fmt::Display for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

/// The subnet of a new node. `had` is the one it has already: kept if nobody else has any of it. `nodes` are those of all other
/// nodes; `known` are networks of the machine, of which those wider than the pool do not count (a default route, a VPN's `10.0.0.0/8`).
pub(super) fn choose(had: Option<Net>, nodes: &[Net], known: &[Net]) -> Option<Net> {
    let free = |candidate: Net| !nodes.iter().any(|node| node.overlaps(candidate));
    // What is too small for a machine's containers is not kept.
    if let Some(had) = had.filter(|had| (8..=26).contains(&had.prefix) && free(*had)) {
        return Some(had);
    }
    let apart =
        |candidate: Net| !known.iter().any(|net| net.prefix >= POOL.prefix && net.overlaps(candidate));
    (0_u32..1 << (PREFIX - POOL.prefix))
        .map(|index| Net { base: POOL.base + (index << (32 - PREFIX)), prefix: PREFIX })
        .find(|candidate| free(*candidate) && apart(*candidate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Net {
        Net::parse(text).expect("a network")
    }

    #[test]
    fn what_a_machine_has_is_kept_unless_a_node_has_it() {
        let nodes = [net("10.208.0.0/20")];
        assert_eq!(choose(Some(net("10.88.0.0/16")), &nodes, &[]), Some(net("10.88.0.0/16")));
        assert_eq!(choose(Some(net("10.208.0.0/20")), &nodes, &[]), Some(net("10.208.16.0/20")));
        let known = [net("10.208.17.0/24"), net("10.0.0.0/8"), net("0.0.0.0/0")];
        assert_eq!(choose(None, &nodes, &known), Some(net("10.208.32.0/20")));
        assert_eq!(choose(None, &[net("10.208.0.0/12")], &[]), None);
    }

    #[test]
    fn what_is_no_network_is_none() {
        for bad in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "fd00::/64", "10.0.0.0/-1"] {
            assert_eq!(Net::parse(bad), None, "{bad}");
        }
        assert_eq!(net("10.208.16.0/20").to_string(), "10.208.16.0/20");
    }

    proptest! {
        #[test]
        fn no_two_nodes_share_an_address(taken in proptest::collection::vec((0_u32..1 << 20, 20_u8..=28), 0..40)) {
            let nodes: Vec<Net> = taken
                .iter()
                .map(|(offset, prefix)| Net { base: (POOL.base + offset) & mask(*prefix), prefix: *prefix })
                .collect();
            if let Some(chosen) = choose(None, &nodes, &[]) {
                prop_assert!(nodes.iter().all(|node| !node.overlaps(chosen)));
                prop_assert!(POOL.overlaps(chosen));
            }
        }
    }
}
