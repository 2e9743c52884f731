//! Links, addresses and routes through rtnetlink: the bridge of the node, and a pair of devices for each container.
//!
//! In: names and addresses. Out: kernel state. Everything can be done again: what is there already is kept.

use super::netns;
use super::shape;
use super::subnet::Subnet;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope};
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use tokio::task::JoinHandle;

/// A step that failed, in words, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct LinkError {
    step: String,
    source: rtnetlink::Error,
}

pub(super) fn failed(step: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    let step = step.into();
    move |source| LinkError { step, source }
}

pub(super) fn is(error: &rtnetlink::Error, kind: io::ErrorKind) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.to_io().kind() == kind)
}

fn unless_exists(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is(&error, io::ErrorKind::AlreadyExists) => Ok(()),
        other => other,
    }
}

/// A conversation with the kernel about one network namespace; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links {
    /// About this process's own namespace.
    pub(super) fn here() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// About the namespace of `netns`.
    pub(super) async fn inside(netns: File) -> io::Result<Self> {
        let (connection, handle, _) = netns::within(Some(netns), rtnetlink::new_connection).await?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    pub(super) async fn index(&self, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is(&error, io::ErrorKind::NotFound) => Ok(None),
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code().abs() == libc::ENODEV => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn need_index(&self, name: &str) -> Result<u32, LinkError> {
        let found = self.index(name).await.map_err(failed(format!("look up the link {name}")))?;
        found.ok_or_else(|| LinkError {
            step: format!("find the link {name} that was just made"),
            source: rtnetlink::Error::RequestFailed,
        })
    }

    /// All networks this namespace has an address in or a route to.
    pub(super) async fn networks(&self) -> Result<Vec<Subnet>, LinkError> {
        let mut networks = Vec::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(address) = addresses.try_next().await.map_err(failed("list the node's addresses"))? {
            for attribute in &address.attributes {
                if let AddressAttribute::Address(IpAddr::V4(ip)) = attribute {
                    networks.push(Subnet::around(*ip, address.header.prefix_len));
                }
            }
        }
        let wanted = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(wanted).execute();
        while let Some(route) = routes.try_next().await.map_err(failed("list the node's routes"))? {
            for attribute in &route.attributes {
                if let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute {
                    networks.push(Subnet::around(*ip, route.header.destination_prefix_length));
                }
            }
        }
        Ok(networks)
    }

    /// All IPv4 and IPv6 addresses of this namespace.
    pub(super) async fn own_addresses(&self) -> Result<Vec<IpAddr>, LinkError> {
        let mut own = Vec::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(address) = addresses.try_next().await.map_err(failed("list the node's addresses"))? {
            for attribute in address.attributes {
                if let AddressAttribute::Address(ip) | AddressAttribute::Local(ip) = attribute {
                    own.push(ip);
                }
            }
        }
        Ok(own)
    }

    /// The bridge `name` with the gateway's address; gives its index.
    pub(super) async fn bridge(&self, name: &str, subnet: Subnet) -> Result<u32, LinkError> {
        let found = self.index(name).await.map_err(failed(format!("look up the bridge {name}")))?;
        if found.is_none() {
            // An address of its own: otherwise it changes with every port, and containers would send to an old one.
            let mut hash: u32 = 0x811c_9dc5;
            for byte in name.bytes() {
                hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
            let [a, b, c, d] = hash.to_be_bytes();
            let bridge = LinkBridge::new(name).address(vec![0x02, 0xbf, a, b, c, d]).build();
            let add = self.handle.link().add(bridge).execute().await;
            unless_exists(add).map_err(failed(format!("create the bridge {name}")))?;
        }
        let index = self.need_index(name).await?;
        for (setting, value) in [
            (format!("net/ipv6/conf/{name}/disable_ipv6"), "1"),
            (format!("net/ipv4/conf/{name}/send_redirects"), "0"),
            // Packets of this node to its own published ports come from 127.0.0.1; the rules let nobody abuse it.
            (format!("net/ipv4/conf/{name}/route_localnet"), "1"),
        ] {
            if let Err(error) = std::fs::write(format!("/proc/sys/{setting}"), value) {
                tracing::debug!(%error, %setting, "cannot set");
            }
        }
        let address = self.handle.address().add(index, IpAddr::V4(subnet.gateway()), subnet.prefix());
        unless_exists(address.execute().await)
            .map_err(failed(format!("give {} to the bridge {name}", subnet.gateway())))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        let up = self.handle.link().change(up).execute().await;
        up.map_err(failed(format!("bring up the bridge {name}")))?;
        Ok(index)
    }

    /// Turns IPv6 off on the link `name`, where the kernel has it.
    pub(super) fn without_ipv6(&self, name: &str) {
        if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
            tracing::debug!(%error, %name, "cannot turn IPv6 off");
        }
    }

    /// A pair of devices: `name` as an isolated port of `bridge`, its peer as `eth0` in `netns`.
    pub(super) async fn pair(
        &self,
        name: &str,
        bridge: u32,
        netns: &File,
        address: Ipv4Addr,
        mtu: Option<u32>,
    ) -> Result<(), LinkError> {
        // The same hardware address for the same IP address: a neighbour entry left over from a predecessor is right.
        let [a, b, c, d] = address.octets();
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name("eth0")
            .address(vec![0x02, 0xbe, a, b, c, d])
            .append_extra_attribute(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        let peer = match mtu {
            Some(mtu) => peer.mtu(mtu),
            None => peer,
        };
        let veth = LinkVeth::new(name, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let add = self.handle.link().add(veth.controller(bridge).build()).execute().await;
        add.map_err(failed(format!("create the devices {name} and eth0")))?;
        let index = self.need_index(name).await?;
        self.without_ipv6(name);
        // The kernel takes over the port's settings before the flags, so the port is never up and not isolated.
        let port = LinkBridgePort::new(index).isolated(true).up().build();
        let change = self.handle.link().change(port).execute().await;
        change.map_err(failed(format!("isolate and bring up {name}")))
    }

    /// Inside a container's namespace: loopback and `eth0` up, a host address, and all else through the gateway. With a
    /// host address even a neighbour of the same subnet is reached through the node, where the rules decide.
    pub(super) async fn configure(&self, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), LinkError> {
        let lo = self.handle.link().change(LinkUnspec::new_with_index(1).up().build()).execute().await;
        lo.map_err(failed("bring up the container's loopback"))?;
        let index = self.need_index("eth0").await?;
        let own = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build();
        let mut add = self.handle.address().add(index, IpAddr::V4(address), 32);
        *add.message_mut() = own;
        unless_exists(add.execute().await).map_err(failed(format!("give {address} to the container")))?;
        let up = self.handle.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await;
        up.map_err(failed("bring up the container's eth0"))?;
        let near = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        let near = self.handle.route().add(near).replace().execute().await;
        near.map_err(failed(format!("route {gateway} to the container's eth0")))?;
        let far = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
        let far = self.handle.route().add(far).replace().execute().await;
        far.map_err(failed(format!("route everything through {gateway}")))
    }

    /// Lets at most `kbit` kbit/s leave through the link `name` of this namespace; `None` takes a limit away.
    pub(super) async fn shape(&self, name: &str, kbit: Option<u64>) -> Result<(), LinkError> {
        let index = self.need_index(name).await?;
        let index = i32::try_from(index).unwrap_or_default(); // the kernel's own type
        shape::set(&self.handle, index, kbit).await.map_err(failed(match kbit {
            Some(kbit) => format!("limit {name} to {kbit} kbit/s (is the module sch_tbf there?)"),
            None => format!("take the rate limit of {name} away"),
        }))
    }

    /// Removes the link `name`; nothing there is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), LinkError> {
        let Some(index) = self.index(name).await.map_err(failed(format!("look up the link {name}")))? else {
            return Ok(());
        };
        match self.handle.link().del(index).execute().await {
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code().abs() == libc::ENODEV => {
                Ok(())
            }
            other => other.map_err(failed(format!("remove the link {name}"))),
        }
    }

    /// Names of all links that begin with `prefix`.
    pub(super) async fn names(&self, prefix: &str) -> Result<Vec<String>, LinkError> {
        let mut names = Vec::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed("list the node's links"))? {
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) if name.starts_with(prefix) => names.push(name),
                    _ => {}
                }
            }
        }
        Ok(names)
    }
}
