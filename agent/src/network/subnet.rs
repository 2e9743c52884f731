//! Which addresses a node's containers have.
//!
//! In: the networks the machine already knows. Out: a subnet that overlaps none of them. Pure.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network in CIDR notation; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// Why a text is no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("subnet {text:?} is not valid: {rule}")]
pub struct SubnetError {
    text: String,
    rule: &'static str,
}

/// All of Berth's subnets lie in here unless an admin chooses another.
const POOL: Subnet = Subnet { base: 0x0ad0_0000, prefix: 12 };

/// Size of the subnets taken from the pool.
const PREFIX: u8 = 20;

impl Subnet {
    /// The network of `prefix` bits that holds `address`.
    #[must_use]
    pub fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: u32::from(address) & mask(prefix), prefix }
    }

    /// Bits of its mask.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The address at `offset` from its beginning.
    #[must_use]
    pub fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base.wrapping_add(offset))
    }

    /// The node's own address in it: the first.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.at(1)
    }

    /// Offsets that containers may have: without network, gateway and broadcast, and at most those of a /20, since
    /// each of them costs a rule.
    #[must_use]
    pub fn offsets(self) -> std::ops::Range<u32> {
        let size = 1_u64 << (32 - self.prefix);
        let end = u32::try_from(size.min(1 << (32 - PREFIX))).unwrap_or(u32::MAX);
        2..end - 1
    }

    /// The last address of it.
    #[must_use]
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base | !mask(self.prefix))
    }

    /// Whether it holds `address`.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        self.base & common == other.base & common
    }
}

fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

/// The first /20 of 10.208.0.0/12 that overlaps nothing in `taken`; `None` when all 256 do. Networks wider than the
/// pool (a default route, `10.0.0.0/8` of a VPN) do not count: they say where everything else goes.
#[must_use]
pub fn choose(taken: &[Subnet]) -> Option<Subnet> {
    let relevant = |candidate: Subnet| {
        taken.iter().any(|other| other.prefix >= POOL.prefix && other.overlaps(candidate))
    };
    (0_u32..1 << (PREFIX - POOL.prefix))
        .map(|index| Subnet { base: POOL.base + (index << (32 - PREFIX)), prefix: PREFIX })
        .find(|candidate| !relevant(*candidate))
}

impl FromStr for Subnet {
    type Err = SubnetError;
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let refuse = |rule| SubnetError { text: text.chars().take(40).collect(), rule };
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse("write it as 10.208.0.0/20"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse("the address is not IPv4"))?;
        let prefix: u8 = prefix.parse().map_err(|_| refuse("the prefix is not a number"))?;
        if !(8..=29).contains(&prefix) {
            return Err(refuse("the prefix must be 8 to 29"));
        }
        let subnet = Self::around(address, prefix);
        if subnet.base != u32::from(address) {
            return Err(refuse("the address has bits beyond the prefix"));
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;
    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().expect("a subnet")
    }

    #[test]
    fn the_first_free_subnet_is_chosen() {
        assert_eq!(choose(&[]).expect("free"), net("10.208.0.0/20"));
        let taken = [net("10.208.0.0/20"), Subnet::around(Ipv4Addr::new(10, 208, 17, 3), 32)];
        assert_eq!(choose(&taken).expect("free"), net("10.208.32.0/20"));
        let everything = [Subnet::around(Ipv4Addr::UNSPECIFIED, 0), net("10.0.0.0/8")];
        assert_eq!(choose(&everything).expect("wide routes do not count"), net("10.208.0.0/20"));
        assert_eq!(choose(&[net("10.208.0.0/12")]), None);
    }

    #[test]
    fn bad_subnets_are_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "10.0.0.0/4", "fd00::/64", "x/20"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn offsets_leave_out_network_gateway_and_broadcast() {
        assert_eq!(net("10.0.0.0/29").offsets(), 2..7);
        assert_eq!(net("10.0.0.0/16").offsets(), 2..4095);
    }
}
