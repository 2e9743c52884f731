//! What leads to containers of other nodes: routes, and the device of VXLAN (RFC 7348), one for all peers, that learns nothing. That of
//! WireGuard is in [`wireguard`](super::wireguard).
//!
//! In: the device wanted, and entries to add or remove. Out: kernel state, and what of it is there. By VXLAN a packet to a peer's subnet
//! takes three entries: a route (via the peer's gateway address), that address's neighbour entry (the peer's hardware address), and a
//! forwarding entry (the hardware address → the peer's address on the wire). By WireGuard it takes a route and the peer's key.

use super::links::{LinkError, Links, failed, is};
use super::subnet::Subnet;
use berth_model::network::TunnelKey;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{Error, LinkUnspec, LinkVxlan, RouteMessageBuilder};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// The number of Berth's network on the wire. One for all: an instance has its UDP port to itself.
const VNI: u32 = 0xbe_27;
/// What VXLAN adds to a packet over IPv4: outer IP, UDP, VXLAN and the inner Ethernet header.
pub(super) const OVERHEAD: u32 = 50;
/// What an Ethernet device takes.
const ETHERNET: u32 = 1500;
/// IPv4 needs 576 (RFC 791); TCP over less than this is not worth having.
const LEAST: u32 = 576;

/// What is left of a packet of the wire.
pub(super) fn within(mtu: u32, overhead: u32) -> u32 {
    mtu.saturating_sub(overhead).max(LEAST)
}

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// The device of a node whose gateway address is this has this hardware address.
pub(super) fn mac(gateway: Ipv4Addr) -> Mac {
    let [a, b, c, d] = gateway.octets();
    [0x02, 0xbd, a, b, c, d]
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    /// Its name.
    pub(super) name: String,
    /// The address that its packets come from; `None` lets the routes decide.
    pub(super) local: Option<Ipv4Addr>,
    /// The UDP port that it receives at.
    pub(super) port: u16,
    /// This node's gateway address.
    pub(super) gateway: Ipv4Addr,
    /// Bytes of the largest packet that fits.
    pub(super) mtu: u32,
}

/// What leads a packet to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    /// bridge(8) `fdb`: this hardware address is behind that node.
    Forward { mac: Mac, to: Ipv4Addr, port: u16 },
    /// ip-neighbour(8): this gateway has that hardware address.
    Neighbour { gateway: Ipv4Addr, mac: Mac },
    /// wg(8): who has this key is at that address, and has that subnet.
    Peer { key: TunnelKey, to: SocketAddrV4, subnet: Subnet, keepalive: bool },
    /// ip-route(8): this subnet is behind that gateway, or at the WireGuard device if there is none.
    Route { subnet: Subnet, via: Option<Ipv4Addr> },
}

/// The numbers of the devices that entries are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) vxlan: Option<u32>,
    pub(super) wireguard: Option<u32>,
}

impl Devices {
    pub(super) fn of(self, entry: &Entry) -> Option<u32> {
        match entry {
            Entry::Forward { .. } | Entry::Neighbour { .. } | Entry::Route { via: Some(_), .. } => self.vxlan,
            Entry::Peer { .. } | Entry::Route { via: None, .. } => self.wireguard,
        }
    }
}

/// What is done about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is entered.
    Add(Entry),
    /// A route of the other device becomes this one, without a moment in between.
    Move(Entry),
    /// It is removed.
    Remove(Entry),
}

/// What turns the entries that are there into those wanted, ordered: routes that go, then forwarding, neighbours and peers before the
/// routes that need them, then what no route needs any more. So no packet finds half a way. Pure.
pub(super) fn steps(there: &BTreeSet<Entry>, wanted: &BTreeSet<Entry>) -> Vec<Step> {
    let subnet_of = |entry: &Entry| match entry {
        Entry::Route { subnet, .. } => Some(*subnet),
        _ => None,
    };
    let routed = |set: &BTreeSet<Entry>| set.iter().filter_map(subnet_of).collect::<BTreeSet<Subnet>>();
    let (before, after) = (routed(there), routed(wanted));
    let keys: BTreeSet<TunnelKey> = wanted
        .iter()
        .filter_map(|entry| match entry {
            Entry::Peer { key, .. } => Some(*key),
            _ => None,
        })
        .collect();
    let gone = || there.difference(wanted).copied();
    let routes = gone().filter(|entry| subnet_of(entry).is_some_and(|subnet| !after.contains(&subnet)));
    let new = wanted.difference(there).map(|entry| match subnet_of(entry) {
        Some(subnet) if before.contains(&subnet) => Step::Move(*entry),
        _ => Step::Add(*entry),
    });
    // A peer that stays has been written over.
    let rest = gone().filter(|entry| match entry {
        Entry::Peer { key, .. } => !keys.contains(key),
        other => subnet_of(other).is_none(),
    });
    routes.map(Step::Remove).chain(new).chain(rest.map(Step::Remove)).collect()
}

impl Links {
    /// Bytes that the wire takes in one packet to each of these nodes.
    pub(super) async fn mtu_to(&self, peers: &BTreeSet<Ipv4Addr>) -> Result<u32, LinkError> {
        let mut least = ETHERNET;
        for device in self.devices_to(peers).await? {
            let mut found = self.handle.link().get().match_index(device).execute();
            let link =
                found.try_next().await.map_err(failed("look up the device that leads to other nodes"))?;
            let mtu = link.and_then(|link| {
                link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::Mtu(mtu) => Some(*mtu),
                    _ => None,
                })
            });
            least = least.min(mtu.unwrap_or(ETHERNET));
        }
        Ok(least)
    }

    async fn devices_to(&self, peers: &BTreeSet<Ipv4Addr>) -> Result<BTreeSet<u32>, LinkError> {
        let mut devices = BTreeSet::new();
        for peer in peers {
            let wanted = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(*peer, 32).build();
            let mut routes = self.handle.route().get(wanted).execute();
            // A node that cannot be reached just now says nothing about sizes.
            if let Ok(Some(route)) = routes.try_next().await {
                devices.extend(route.attributes.iter().find_map(output_device));
            }
        }
        Ok(devices)
    }

    /// Makes the device, or keeps it as it is if it is the same; gives its index.
    pub(super) async fn tunnel(&self, wanted: &Tunnel) -> Result<u32, LinkError> {
        let name = &wanted.name;
        if self.tunnel_now(name).await? != Some((wanted.local, wanted.port)) {
            self.remove(name).await?;
            let device = LinkVxlan::new(name, VNI)
                .port(wanted.port)
                .learning(false)
                .append_info_data(InfoVxlan::UDPCsum(true))
                .address(mac(wanted.gateway).to_vec());
            let device = match wanted.local {
                Some(local) => device.local(local),
                None => device,
            };
            let add = self.handle.link().add(device.build()).execute().await;
            add.map_err(failed(format!(
                "create the VXLAN device {name} on UDP port {} (is the kernel module vxlan there?)",
                wanted.port
            )))?;
            self.without_ipv6(name);
        }
        let index = self.need_index(name).await?;
        let up = LinkUnspec::new_with_index(index).mtu(wanted.mtu).up().build();
        let up = self.handle.link().change(up).execute().await;
        up.map_err(failed(format!("bring up the VXLAN device {name}")))?;
        Ok(index)
    }

    /// Local address and port of the device as it is.
    pub(super) async fn tunnel_now(&self, name: &str) -> Result<Option<(Option<Ipv4Addr>, u16)>, LinkError> {
        if self.index(name).await.map_err(failed(format!("look up the link {name}")))?.is_none() {
            return Ok(None);
        }
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(failed(format!("look up the link {name}")))?;
        let infos =
            link.into_iter().flat_map(|link| link.attributes).filter_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(infos) => Some(infos),
                _ => None,
            });
        let data = infos.flatten().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
            _ => None,
        });
        let Some(data) = data else { return Ok(None) };
        let port = data.iter().find_map(|one| match one {
            InfoVxlan::Port(port) => Some(*port),
            _ => None,
        });
        let local = data.iter().find_map(|one| match one {
            InfoVxlan::Local(local) if !local.is_unspecified() => Some(*local),
            _ => None,
        });
        Ok(port.map(|port| (local, port)))
    }

    /// What leads through the devices now, but for WireGuard's peers. `port` is that of VXLAN.
    pub(super) async fn entries(&self, devices: Devices, port: u16) -> Result<BTreeSet<Entry>, LinkError> {
        let mut entries = BTreeSet::new();
        for family in [AddressFamily::Bridge, AddressFamily::Inet] {
            let mut found = self.handle.neighbours().get().set_address_family(family).execute();
            while let Some(entry) = found.try_next().await.map_err(failed("list the node's neighbours"))? {
                if Some(entry.header.ifindex) == devices.vxlan {
                    entries.extend(neighbour(&entry, port));
                }
            }
        }
        let mut routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        while let Some(route) = routes.try_next().await.map_err(failed("list the node's routes"))? {
            if let Some(device) = route.attributes.iter().find_map(output_device) {
                entries.extend(through(&route).filter(|entry| devices.of(entry) == Some(device)));
            }
        }
        Ok(entries)
    }

    /// Adds an entry, but for WireGuard's peers; with `moves` in place of the other device's route. `gateway` is this node's address,
    /// which its own packets then come from.
    pub(super) async fn add_entry(
        &self,
        devices: Devices,
        entry: Entry,
        gateway: Ipv4Addr,
        moves: bool,
    ) -> Result<(), LinkError> {
        let Some(index) = devices.of(&entry) else { return Ok(()) };
        match entry {
            Entry::Peer { .. } => Ok(()),
            Entry::Forward { mac, to, port } => {
                let mut add = self.handle.neighbours().add_bridge(index, &mac).destination(IpAddr::V4(to));
                let message = add.message_mut();
                message.header.flags = NeighbourFlags::Own;
                message.header.state = NeighbourState::Permanent;
                message.attributes.push(NeighbourAttribute::Port(port));
                let add = add.replace().execute().await;
                add.map_err(failed(format!("forward packets of containers to {to}")))
            }
            Entry::Neighbour { gateway: peer, mac } => {
                let add = self.handle.neighbours().add(index, IpAddr::V4(peer)).link_layer_address(&mac);
                let add = add.replace().execute().await;
                add.map_err(failed(format!("enter the hardware address of {peer}")))
            }
            Entry::Route { subnet, via } => {
                let mut add = self.handle.route().add(route(index, subnet, via, Some(gateway)));
                if moves {
                    add = add.replace();
                }
                // Else never in place of a route of somebody else.
                add.execute().await.map_err(failed(format!("route {subnet} to another node")))
            }
        }
    }

    /// Removes an entry; nothing there is fine.
    pub(super) async fn remove_entry(&self, devices: Devices, entry: Entry) -> Result<(), LinkError> {
        let Some(index) = devices.of(&entry) else { return Ok(()) };
        let (removed, step) = match entry {
            Entry::Peer { .. } => return Ok(()),
            Entry::Forward { mac, to, port } => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Bridge;
                message.header.ifindex = index;
                message.header.flags = NeighbourFlags::Own;
                message.attributes = vec![
                    NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(to)),
                    NeighbourAttribute::Port(port),
                ];
                let removed = self.handle.neighbours().del(message).execute().await;
                (removed, format!("stop forwarding packets of containers to {to}"))
            }
            Entry::Neighbour { gateway, mac } => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Inet;
                message.header.ifindex = index;
                message.attributes = vec![
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(gateway)),
                    NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
                ];
                let removed = self.handle.neighbours().del(message).execute().await;
                (removed, format!("forget the hardware address of {gateway}"))
            }
            Entry::Route { subnet, via } => {
                let route = route(index, subnet, via, None);
                (self.handle.route().del(route).execute().await, format!("remove the route to {subnet}"))
            }
        };
        match removed {
            Err(error) if is(&error, io::ErrorKind::NotFound) || gone(&error) => Ok(()),
            other => other.map_err(failed(step)),
        }
    }
}

/// ESRCH is what a route that is not there answers.
fn gone(error: &Error) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code().abs() == libc::ESRCH)
}

fn output_device(attribute: &RouteAttribute) -> Option<u32> {
    match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    }
}

fn route(index: u32, subnet: Subnet, via: Option<Ipv4Addr>, from: Option<Ipv4Addr>) -> RouteMessage {
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(subnet.at(0), subnet.prefix())
        .output_interface(index);
    route = match via {
        Some(via) => route.gateway(via).onlink(),
        None => route.scope(RouteScope::Link),
    };
    match from {
        Some(from) => route.pref_source(from).build(),
        None => route.build(),
    }
}

fn through(route: &RouteMessage) -> Option<Entry> {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(*to),
        _ => None,
    })?;
    let via = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(via)) => Some(*via),
        _ => None,
    });
    Some(Entry::Route { subnet: Subnet::around(to, route.header.destination_prefix_length), via })
}

fn neighbour(message: &NeighbourMessage, own_port: u16) -> Option<Entry> {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => Some(*to),
        // In the family of bridges the kernel does not say which kind of address it is.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    })?;
    if message.header.family == AddressFamily::Bridge {
        let port = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Port(port) => Some(*port),
            _ => None,
        });
        Some(Entry::Forward { mac, to, port: port.unwrap_or(own_port) })
    } else {
        Some(Entry::Neighbour { gateway: to, mac })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> TunnelKey {
        TunnelKey::new([byte; 32]).expect("a key")
    }

    fn subnet() -> Subnet {
        "10.208.16.0/20".parse().expect("a subnet")
    }

    fn plain(to: u8) -> BTreeSet<Entry> {
        let (gateway, to) = (subnet().gateway(), Ipv4Addr::new(192, 0, 2, to));
        let mac = mac(gateway);
        [
            Entry::Forward { mac, to, port: 4789 },
            Entry::Neighbour { gateway, mac },
            Entry::Route { subnet: subnet(), via: Some(gateway) },
        ]
        .into()
    }

    fn encrypted(byte: u8, port: u16) -> BTreeSet<Entry> {
        let to = SocketAddrV4::new([192, 0, 2, 2].into(), port);
        let peer = Entry::Peer { key: key(byte), to, subnet: subnet(), keepalive: false };
        [peer, Entry::Route { subnet: subnet(), via: None }].into()
    }

    #[test]
    fn no_packet_finds_half_a_way() {
        let none = BTreeSet::new();
        let shown = |there: &BTreeSet<Entry>, wanted: &BTreeSet<Entry>| {
            let steps = steps(there, wanted);
            steps.iter().map(|step| format!("{step:?}")).collect::<Vec<_>>().join("\n")
        };
        let all = [
            ("there", shown(&none, &encrypted(1, 51820))),
            ("to encrypted", shown(&plain(2), &encrypted(1, 51820))),
            ("and back", shown(&encrypted(1, 51820), &plain(2))),
            ("another port", shown(&encrypted(1, 51820), &encrypted(1, 51821))),
            ("another key", shown(&encrypted(1, 51820), &encrypted(2, 51820))),
            ("another address", shown(&plain(2), &plain(3))),
            ("gone", shown(&encrypted(1, 51820), &none)),
            ("the same", shown(&plain(2), &plain(2))),
        ];
        insta::assert_snapshot!(all.map(|(what, steps)| format!("{what}:\n{steps}\n")).join("\n"));
    }
}
