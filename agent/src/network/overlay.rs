//! The way to containers of other nodes.
//!
//! In: the controller's list of nodes. Out: which of them can be reached and how ([`peers`]) and what the kernel must know for that
//! ([`entries`]), both pure; and the kernel brought there ([`Overlay::prepare`], then [`Overlay::converge`]).
//!
//! Two nodes of which the controller's list has a key each speak WireGuard; else VXLAN. Both are told the same, so both come to the
//! same; a node that loses WireGuard for a moment does not fall back by itself.

use super::links::{LinkError, Links, failed};
use super::subnet::Subnet;
use super::tunnel::{self, Devices, Entry, Step, Tunnel, mac, steps, within};
use super::wireguard::{self, Device, State, WireguardError};
use crate::life::chain;
use berth_model::network::{NetworkTable, OVERLAY_PORT, Peer, TunnelKey, WIREGUARD_PORT, Ways, WireGuard};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::str::FromStr;

/// How many ports are tried before a node gives up: one an instance of the machine.
const PORTS: u16 = 64;

/// `--overlay`: how a node speaks with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Encrypted with those that can; with others in the clear.
    #[default]
    Auto,
    /// Encrypted, or not at all.
    WireGuard,
    /// In the clear.
    Vxlan,
}

impl Mode {
    /// What `--overlay` may be.
    pub const NAMES: [&'static str; 3] = ["auto", "wireguard", "vxlan"];
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "wireguard" => Ok(Self::WireGuard),
            "vxlan" => Ok(Self::Vxlan),
            _ => Err("write auto, wireguard or vxlan".to_owned()),
        }
    }
}

/// How a node is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Encrypted.
    WireGuard { key: TunnelKey, port: u16 },
    /// In the clear.
    Vxlan,
    /// Not at all.
    Refused,
}

impl By {
    /// The decision for a pair of nodes. `own` is this node's key as the other is told.
    fn decide(mode: Mode, own: Option<TunnelKey>, other: Option<WireGuard>) -> Self {
        match (mode, own, other) {
            (Mode::Vxlan, ..) => Self::Vxlan,
            (_, Some(own), Some(WireGuard { key, port })) if own != key => Self::WireGuard { key, port },
            (Mode::WireGuard, ..) => Self::Refused,
            (Mode::Auto, ..) => Self::Vxlan,
        }
    }
}

/// A node that is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) address: Ipv4Addr,
    pub(super) subnet: Subnet,
    /// Of VXLAN.
    pub(super) port: u16,
    pub(super) by: By,
}

/// The name of the device of VXLAN.
#[must_use]
pub(super) fn vxlan_name(instance: &str) -> String {
    format!("btx{instance}")
}

/// The name of the device of WireGuard.
#[must_use]
pub(super) fn wireguard_name(instance: &str) -> String {
    format!("btw{instance}")
}

/// The peers that make sense, and a sentence about each that does not: no two nodes may have the same addresses.
pub(super) fn peers(table: &NetworkTable, own: Subnet, mode: Mode) -> (Vec<Neighbour>, Vec<String>) {
    let mut good: Vec<Neighbour> = Vec::new();
    let mut bad = Vec::new();
    for Peer { node, address, subnet, port, wireguard } in &table.peers {
        let IpAddr::V4(address) = *address else {
            bad.push(format!("{node} has the address {address}, and containers reach others over IPv4 only"));
            continue;
        };
        let subnet = match subnet.parse::<Subnet>() {
            Ok(subnet) => subnet,
            Err(error) => {
                bad.push(format!("{node}: {error}"));
                continue;
            }
        };
        if subnet.overlaps(own) || good.iter().any(|other| other.subnet.overlaps(subnet)) {
            bad.push(format!("the subnet {subnet} of {node} is another node's already"));
            continue;
        }
        let by = By::decide(mode, table.key, *wireguard);
        good.push(Neighbour { address, subnet, port: *port, by });
    }
    (good, bad)
}

/// What the kernel must know of these peers. A peer that is refused has a route to where nobody takes its packets.
pub(super) fn entries(peers: &[Neighbour], keepalive: bool) -> BTreeSet<Entry> {
    let of = |peer: &Neighbour| {
        let (gateway, mac) = (peer.subnet.gateway(), mac(peer.subnet.gateway()));
        let route = |via| Entry::Route { subnet: peer.subnet, via };
        match peer.by {
            By::Vxlan => vec![
                Entry::Forward { mac, to: peer.address, port: peer.port },
                Entry::Neighbour { gateway, mac },
                route(Some(gateway)),
            ],
            By::WireGuard { key, port } => {
                let to = SocketAddrV4::new(peer.address, port);
                vec![Entry::Peer { key, to, subnet: peer.subnet, keepalive }, route(None)]
            }
            By::Refused => vec![route(None)],
        }
    };
    peers.iter().flat_map(of).collect()
}

/// To how many in which way.
pub(super) fn ways(peers: &[Neighbour]) -> Ways {
    peers.iter().fold(Ways::default(), |mut ways, peer| {
        let count = match peer.by {
            By::WireGuard { .. } => &mut ways.wireguard,
            By::Vxlan => &mut ways.vxlan,
            By::Refused => &mut ways.refused,
        };
        *count = count.saturating_add(1);
        ways
    })
}

/// The way to other nodes, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Where packets of other nodes arrive in the clear.
    pub(super) port: Option<u16>,
    /// Where they arrive encrypted, and this node's key.
    pub(super) wireguard: Option<WireGuard>,
    /// To how many it leads.
    pub(super) ways: Ways,
    /// How large packets may be.
    pub(super) mtu: Option<u32>,
    /// Why this node speaks no WireGuard.
    pub(super) unencrypted: Option<String>,
    /// What is wrong with it.
    pub(super) error: Option<String>,
}

impl Way {
    fn wrong(&mut self, text: String) {
        self.error = Some(match self.error.take() {
            Some(error) => format!("{error}; {text}"),
            None => text,
        });
    }

    /// Where packets of other nodes arrive, in the clear and encrypted.
    pub(super) fn ports(&self) -> (Option<u16>, Option<u16>) {
        (self.port, self.wireguard.map(|wireguard| wireguard.port))
    }
}

/// A port from `first` on: the device's own if it has one, or else the first that nobody has.
fn port(own: Option<u16>, first: u16) -> Result<u16, String> {
    let free = |port: &u16| {
        let four = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).map(drop).is_ok();
        // WireGuard opens both; a machine may have no IPv6.
        let six = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port)).map(drop);
        four && !six.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    let last = first + PORTS - 1;
    own.or_else(|| (first..=last).find(free))
        .ok_or_else(|| format!("every UDP port from {first} to {last} is taken"))
}

/// The two devices of an instance.
pub(super) struct Overlay<'a> {
    pub(super) links: &'a Links,
    pub(super) instance: &'a str,
    pub(super) own: Subnet,
    pub(super) mode: Mode,
    /// Where the private key is.
    pub(super) key: &'a Path,
}

impl Overlay<'_> {
    /// Removes both devices.
    pub(super) async fn remove(links: &Links, instance: &str) -> Result<(), LinkError> {
        links.remove(&vxlan_name(instance)).await?;
        links.remove(&wireguard_name(instance)).await
    }

    /// Chooses ports, and makes this node's key known to the kernel and to itself. Nobody's packets are taken yet.
    pub(super) async fn prepare(&self, peers: &[Neighbour], table: &NetworkTable, before: &Way) -> Way {
        let mut way = Way { mtu: before.mtu, ways: ways(peers), ..Way::default() };
        let there = self.links.tunnel_now(&vxlan_name(self.instance)).await;
        let there = there.map_err(|error| chain(&error)).map(|there| there.map(|(_, port)| port));
        // A device that is there stays shut to strangers until it is gone.
        match there.and_then(|there| match way.ways.vxlan {
            0 => Ok(there),
            _ => port(there, OVERLAY_PORT).map(Some),
        }) {
            Ok(port) => way.port = port,
            Err(error) => way.wrong(error),
        }
        if self.mode == Mode::Vxlan {
            way.unencrypted = Some("it was told so: --overlay vxlan".to_owned());
            return way;
        }
        let name = wireguard_name(self.instance);
        match Device::make(self.links, &name, self.key).await {
            Ok((_, State { key: Some(key), port: own, .. })) => {
                match port(Some(own).filter(|port| *port != 0), WIREGUARD_PORT) {
                    Ok(port) => way.wireguard = Some(WireGuard { key, port }),
                    Err(error) => way.unencrypted = Some(error),
                }
            }
            Ok(_) => way.unencrypted = Some("the kernel tells no public key of this node".to_owned()),
            Err(error @ WireguardError::None) => way.unencrypted = Some(error.to_string()),
            Err(error) => {
                // Others still send to it: that it has no key would be another thing to say.
                way.wireguard = before.wireguard;
                way.wrong(chain(&error));
            }
        }
        let told = table.key.is_some() && table.key == way.wireguard.map(|wireguard| wireguard.key);
        if way.ways.wireguard + way.ways.refused > 0 && !told {
            way.wrong(match &way.unencrypted {
                Some(why) => format!("no WireGuard here: {why}"),
                None => format!(
                    "the controller has not taken over this node's key; if another node has the same, remove {} and \
                     start the agent anew",
                    self.key.display()
                ),
            });
        } else if way.ways.refused > 0 {
            let refused = way.ways.refused;
            way.wrong(format!("{refused} nodes speak no WireGuard, and are refused (--overlay wireguard)"));
        }
        way
    }

    /// Makes the devices and their entries what they are to be for these peers, with the rules for `way` in force.
    pub(super) async fn converge(&self, peers: &[Neighbour], local: Option<IpAddr>, way: &mut Way) {
        if let Err(error) = self.try_converge(peers, local, way).await {
            way.wrong(chain(&error));
        }
    }

    async fn try_converge(
        &self,
        peers: &[Neighbour],
        local: Option<IpAddr>,
        way: &mut Way,
    ) -> Result<(), WireguardError> {
        let local = match local {
            Some(IpAddr::V4(local)) if self.links.own_addresses().await?.contains(&IpAddr::V4(local)) => {
                Some(local)
            }
            // Behind a translation of addresses: the routes know better.
            _ => None,
        };
        let wire = self.links.mtu_to(&peers.iter().map(|peer| peer.address).collect()).await?;
        let (plain, encrypted) = (within(wire, tunnel::OVERHEAD), within(wire, wireguard::OVERHEAD));
        // The devices that are there, and of them those that are wanted: from the others routes are still to be moved.
        let (mut devices, mut wanted, mut wrong) = (Devices::default(), Devices::default(), None);
        let (secure, clear) = (wireguard_name(self.instance), vxlan_name(self.instance));
        // One way that cannot be made holds back no other, nor one peer that cannot be reached.
        let mut device = None;
        let mut there = BTreeSet::new();
        if let Some(WireGuard { port, .. }) = way.wireguard {
            match self.encrypted(&secure, port, encrypted).await {
                Ok((made, index, peers)) => {
                    wanted.wireguard = Some(index);
                    device = Some(made);
                    there.extend(peers);
                }
                Err(error) => wrong = Some(error),
            }
        }
        let gateway = self.own.gateway();
        if let Some(port) = way.port.filter(|_| way.ways.vxlan > 0) {
            let tunnel = Tunnel { name: clear.clone(), local, port, gateway, mtu: plain };
            match self.links.tunnel(&tunnel).await {
                Ok(index) => wanted.vxlan = Some(index),
                Err(error) => wrong = wrong.or(Some(error.into())),
            }
        }
        for (name, index) in [(&secure, &mut devices.wireguard), (&clear, &mut devices.vxlan)] {
            *index = self.links.index(name).await.map_err(failed(format!("look up the link {name}")))?;
        }
        there.extend(self.links.entries(devices, way.port.unwrap_or(OVERLAY_PORT)).await?);
        let entries = entries(peers, local.is_none());
        let entries = entries.into_iter().filter(|entry| wanted.of(entry).is_some()).collect();
        for step in steps(&there, &entries) {
            let done = match (step, device.as_mut()) {
                (Step::Add(entry @ Entry::Peer { .. }), Some(device)) => device.add(entry),
                (Step::Remove(Entry::Peer { key, .. }), Some(device)) => device.remove(key),
                (Step::Add(entry), _) => {
                    self.links.add_entry(devices, entry, gateway, false).await.map_err(Into::into)
                }
                (Step::Move(entry), _) => {
                    self.links.add_entry(devices, entry, gateway, true).await.map_err(Into::into)
                }
                (Step::Remove(entry), _) => self.links.remove_entry(devices, entry).await.map_err(Into::into),
            };
            wrong = wrong.or(done.err());
        }
        if way.ways.vxlan == 0 {
            self.links.remove(&clear).await?;
            way.port = None;
        }
        if way.wireguard.is_none() {
            self.links.remove(&secure).await?;
        }
        way.mtu = Some(if wanted.wireguard.is_some() { encrypted } else { plain });
        wrong.map_or(Ok(()), Err)
    }

    async fn encrypted<'a>(
        &self,
        name: &'a str,
        port: u16,
        mtu: u32,
    ) -> Result<(Device<'a>, u32, Vec<Entry>), WireguardError> {
        let (mut device, state) = Device::make(self.links, name, self.key).await?;
        let index = device.up(self.links, &state, port, mtu).await?;
        Ok((device, index, state.peers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::NodeName;

    fn peer(node: &str, address: &str, subnet: &str) -> Peer {
        let (node, address) = (NodeName::parse(node).expect("a name"), address.parse().expect("an address"));
        Peer { node, address, subnet: subnet.to_owned(), port: 4789, wireguard: None }
    }

    fn key(byte: u8) -> TunnelKey {
        TunnelKey::new([byte; 32]).expect("a key")
    }

    #[test]
    fn a_peer_with_addresses_of_another_is_left_out() {
        let table = NetworkTable {
            peers: vec![
                peer("b", "192.0.2.2", "10.208.16.0/20"),
                peer("own", "192.0.2.3", "10.208.0.0/20"),
                peer("same", "192.0.2.4", "10.208.16.0/24"),
                peer("six", "2001:db8::1", "10.208.32.0/20"),
                peer("broken", "192.0.2.5", "10.208.48.0"),
            ],
            ..NetworkTable::default()
        };
        let (good, bad) = peers(&table, "10.208.0.0/20".parse().expect("a subnet"), Mode::Auto);
        assert_eq!(good.iter().map(|peer| peer.address.to_string()).collect::<Vec<_>>(), ["192.0.2.2"]);
        insta::assert_snapshot!(bad.join("\n"));
        assert_eq!(entries(&good, false).len(), 3);
    }

    #[test]
    fn both_of_a_pair_come_to_the_same() {
        let keys = [None, Some(key(1)), Some(key(2))];
        let wireguard = |key| WireGuard { key, port: 51821 };
        for (one, other) in keys.iter().flat_map(|one| keys.iter().map(move |other| (*one, *other))) {
            let here = By::decide(Mode::Auto, one, other.map(wireguard));
            let there = By::decide(Mode::Auto, other, one.map(wireguard));
            let encrypted = |by| matches!(by, By::WireGuard { .. });
            assert_eq!(encrypted(here), encrypted(there));
            let both = one.is_some() && other.is_some() && one != other;
            assert_eq!(encrypted(here), both, "two that claim one key speak in the clear");
            let strict = By::decide(Mode::WireGuard, one, other.map(wireguard));
            assert_eq!(strict, if both { here } else { By::Refused });
            assert_eq!(By::decide(Mode::Vxlan, one, other.map(wireguard)), By::Vxlan);
        }
    }

    #[test]
    fn who_is_refused_has_no_way_in_the_clear() {
        let table = NetworkTable {
            key: Some(key(9)),
            peers: vec![
                Peer {
                    wireguard: Some(WireGuard { key: key(1), port: 51821 }),
                    ..peer("b", "192.0.2.2", "10.208.16.0/20")
                },
                peer("c", "192.0.2.3", "10.208.32.0/20"),
            ],
            ..NetworkTable::default()
        };
        let own = "10.208.0.0/20".parse().expect("a subnet");
        let shown = |mode| {
            let (peers, _) = peers(&table, own, mode);
            let lines: Vec<_> = entries(&peers, true).iter().map(|entry| format!("{entry:?}")).collect();
            format!("{mode:?} {:?}\n{}\n", ways(&peers), lines.join("\n"))
        };
        insta::assert_snapshot!([Mode::Auto, Mode::WireGuard, Mode::Vxlan].map(shown).join("\n"));
    }

    #[test]
    fn the_port_is_the_own_one_or_one_that_nobody_has() {
        assert_eq!(port(Some(9), 40_000), Ok(9));
        let taken = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let first = taken.local_addr().expect("bound").port().min(65_000);
        let found = port(None, first).expect("one is free");
        assert!(found > first || taken.local_addr().expect("bound").port() != first);
    }
}
