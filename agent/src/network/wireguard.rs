//! The device that leads to containers of other nodes encrypted: WireGuard, one for all peers.
//!
//! In: the node's private key, a port, peers. Out: kernel state, and what of it is there. The private key is made on the node,
//! stays in `DIR/agent/wireguard.key` and in the kernel, and the kernel tells the public one. Attributes and commands are those of
//! the kernel's `include/uapi/linux/wireguard.h`.

use super::genl::{Attributes, Family, attributes, u16_at};
use super::links::{LinkError, Links, failed};
use super::subnet::Subnet;
use super::tunnel::Entry;
use crate::files;
use berth_model::network::TunnelKey;
use rtnetlink::{LinkUnspec, LinkWireguard};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

/// What WireGuard adds to a packet over IPv4: outer IP (20), UDP (8), its header (16) and tag (16).
pub(super) const OVERHEAD: u32 = 60;
/// How often a node behind a translation of addresses says something, in seconds, so that the way back stays open.
const KEEPALIVE: u16 = 25;

const GET: u8 = 0;
const SET: u8 = 1;
/// `WGDEVICE_A_*`
mod device {
    pub(super) const IFNAME: u16 = 2;
    pub(super) const PRIVATE_KEY: u16 = 3;
    pub(super) const PUBLIC_KEY: u16 = 4;
    pub(super) const LISTEN_PORT: u16 = 6;
    pub(super) const PEERS: u16 = 8;
}
/// `WGPEER_A_*`, and flags of a peer.
mod peer {
    pub(super) const PUBLIC_KEY: u16 = 1;
    pub(super) const FLAGS: u16 = 3;
    pub(super) const ENDPOINT: u16 = 4;
    pub(super) const KEEPALIVE: u16 = 5;
    pub(super) const ALLOWED_IPS: u16 = 9;
    pub(super) const REMOVE_ME: u32 = 1;
    pub(super) const REPLACE_ALLOWED_IPS: u32 = 2;
}
/// `WGALLOWEDIP_A_*`
mod allowed {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const PREFIX: u16 = 3;
}
/// `AF_INET`, in the machine's order where it is written.
const INET: u16 = 2;

/// Why there is no WireGuard.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireguardError {
    /// Not a failure: there is none to be had.
    #[error("the kernel has no WireGuard (CONFIG_WIREGUARD)")]
    None,
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused something, or the key's file did.
    #[error("cannot {step}")]
    Io {
        /// What was tried.
        step: String,
        /// Why not.
        source: io::Error,
    },
}

fn io_failed(step: String) -> impl FnOnce(io::Error) -> WireguardError {
    move |source| WireguardError::Io { step, source }
}

/// What the kernel says of a device.
#[derive(Default)]
pub(super) struct State {
    private: Option<[u8; 32]>,
    /// Its public key, while it has a private one.
    pub(super) key: Option<TunnelKey>,
    /// Where it receives; 0 before it was told.
    pub(super) port: u16,
    /// Its peers.
    pub(super) peers: Vec<Entry>,
}

/// One device.
pub(super) struct Device<'a> {
    name: &'a str,
    family: Family,
}

impl<'a> Device<'a> {
    /// The device as it is; `None` if there is none.
    pub(super) async fn find(links: &Links, name: &'a str) -> Result<Option<Self>, WireguardError> {
        if links.index(name).await.map_err(failed(format!("look up the link {name}")))?.is_none() {
            return Ok(None);
        }
        let family = match Family::open("wireguard") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(WireguardError::None),
            other => other.map_err(io_failed("talk to the kernel about WireGuard".into()))?,
        };
        Ok(Some(Self { name, family }))
    }

    /// Makes the device if there is none, with the key of `key`; it takes nothing from anybody before it has peers and is up.
    /// Gives what it is.
    pub(super) async fn make(
        links: &Links,
        name: &'a str,
        key: &Path,
    ) -> Result<(Self, State), WireguardError> {
        let mut found = Self::find(links, name).await?;
        // A device of that name that is another kind of one is not ours to keep.
        if found.as_mut().is_some_and(|device| device.state().is_err()) {
            links.remove(name).await?;
            found = None;
        }
        let mut device = match found {
            Some(device) => device,
            None => {
                let add = links.handle.link().add(LinkWireguard::new(name).build()).execute().await;
                match add {
                    Err(rtnetlink::Error::NetlinkError(message))
                        if message.raw_code().abs() == libc::EOPNOTSUPP =>
                    {
                        return Err(WireguardError::None);
                    }
                    other => other.map_err(failed(format!("create the WireGuard device {name}")))?,
                }
                links.without_ipv6(name);
                let made = Self::find(links, name).await?;
                made.ok_or_else(|| {
                    io_failed(format!("find the device {name}"))(io::ErrorKind::NotFound.into())
                })?
            }
        };
        let mut private = files::key(key).map_err(io_failed(format!("read or make {}", key.display())))?;
        // As the kernel keeps it (RFC 7748 §5): so it is compared, and set once.
        private[0] &= 248;
        private[31] = private[31] & 127 | 64;
        let mut state = device.state()?;
        if state.private != Some(private) {
            device.set(Attributes::default().with(device::PRIVATE_KEY, &private), "give its key to")?;
            state = device.state()?;
        }
        Ok((device, state))
    }

    fn set(&mut self, attributes: Attributes, what: &str) -> Result<(), WireguardError> {
        let attributes = attributes.with(device::IFNAME, &[self.name.as_bytes(), &[0]].concat());
        let done = self.family.act(SET, &attributes);
        done.map_err(io_failed(format!("{what} the WireGuard device {}", self.name)))
    }

    /// What the kernel says of it.
    pub(super) fn state(&mut self) -> Result<State, WireguardError> {
        let question = Attributes::default().with(device::IFNAME, &[self.name.as_bytes(), &[0]].concat());
        let answers = self.family.dump(GET, &question);
        let answers = answers.map_err(io_failed(format!("look at the WireGuard device {}", self.name)))?;
        Ok(parse(&answers))
    }

    /// Has it receive at `port`, and brings it up. One that cannot is removed: another port is chosen next time.
    pub(super) async fn up(
        &mut self,
        links: &Links,
        state: &State,
        port: u16,
        mtu: u32,
    ) -> Result<u32, WireguardError> {
        let index = links.need_index(self.name).await?;
        let set = match state.port == port {
            true => Ok(()),
            false => self
                .set(Attributes::default().with(device::LISTEN_PORT, &port.to_ne_bytes()), "set the port of"),
        };
        let up = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        let up = match set {
            Ok(()) => {
                let up = links.handle.link().change(up).execute().await;
                up.map_err(failed(format!("bring up the WireGuard device {} on UDP port {port}", self.name)))
                    .map_err(WireguardError::from)
            }
            refused => refused,
        };
        if let Err(error) = up {
            links.remove(self.name).await?;
            return Err(error);
        }
        Ok(index)
    }

    /// Enters a peer, or changes it: what comes from it must come from its subnet. What is no peer is none of its business.
    pub(super) fn add(&mut self, entry: Entry) -> Result<(), WireguardError> {
        let Entry::Peer { key, to, subnet, keepalive } = entry else { return Ok(()) };
        let interval = if keepalive { KEEPALIVE } else { 0 };
        let addresses = Attributes::default()
            .with(allowed::FAMILY, &INET.to_ne_bytes())
            .with(allowed::ADDRESS, &subnet.at(0).octets())
            .with(allowed::PREFIX, &[subnet.prefix()]);
        let peer = Attributes::default()
            .with(peer::PUBLIC_KEY, key.bytes())
            .with(peer::FLAGS, &peer::REPLACE_ALLOWED_IPS.to_ne_bytes())
            .with(peer::ENDPOINT, &socket_address(to))
            .with(peer::KEEPALIVE, &interval.to_ne_bytes())
            .nest(peer::ALLOWED_IPS, &Attributes::default().nest(0, &addresses));
        self.set(peers(&peer), &format!("tell of {} to", to.ip()))
    }

    /// Forgets a peer.
    pub(super) fn remove(&mut self, key: TunnelKey) -> Result<(), WireguardError> {
        let peer = Attributes::default()
            .with(peer::PUBLIC_KEY, key.bytes())
            .with(peer::FLAGS, &peer::REMOVE_ME.to_ne_bytes());
        self.set(peers(&peer), "remove a peer from")
    }
}

fn peers(peer: &Attributes) -> Attributes {
    Attributes::default().nest(device::PEERS, &Attributes::default().nest(0, peer))
}

/// `struct sockaddr_in` (ip(7)).
fn socket_address(address: SocketAddrV4) -> [u8; 16] {
    let mut out = [0; 16];
    out[..2].copy_from_slice(&INET.to_ne_bytes());
    out[2..4].copy_from_slice(&address.port().to_be_bytes());
    out[4..8].copy_from_slice(&address.ip().octets());
    out
}

fn parse(answers: &[Vec<u8>]) -> State {
    let mut state = State::default();
    for (kind, value) in answers.iter().flat_map(|answer| attributes(answer)) {
        let key = || <[u8; 32]>::try_from(value).ok();
        match kind {
            device::PRIVATE_KEY => state.private = key(),
            device::PUBLIC_KEY => state.key = key().and_then(TunnelKey::new),
            device::LISTEN_PORT => state.port = u16_at(value, 0).unwrap_or_default(),
            device::PEERS => state.peers.extend(attributes(value).filter_map(|(_, value)| parse_peer(value))),
            _ => {}
        }
    }
    state
}

/// A peer; one that is not as Berth enters them has no endpoint, so that it is entered again or removed.
fn parse_peer(value: &[u8]) -> Option<Entry> {
    let (mut key, mut to, mut keepalive, mut subnets) = (None, None, 0, Vec::new());
    for (kind, value) in attributes(value) {
        match kind {
            peer::PUBLIC_KEY => key = <[u8; 32]>::try_from(value).ok().and_then(TunnelKey::new),
            peer::ENDPOINT => to = parse_address(value),
            peer::KEEPALIVE => keepalive = u16_at(value, 0).unwrap_or_default(),
            peer::ALLOWED_IPS => subnets.extend(attributes(value).map(|(_, value)| parse_allowed(value))),
            _ => {}
        }
    }
    let none = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let (to, subnet) = match (to, subnets.as_slice()) {
        (Some(to), [Some(subnet)]) if keepalive == 0 || keepalive == KEEPALIVE => (to, *subnet),
        _ => (none, Subnet::around(Ipv4Addr::UNSPECIFIED, 32)),
    };
    Some(Entry::Peer { key: key?, to, subnet, keepalive: keepalive != 0 })
}

fn parse_address(value: &[u8]) -> Option<SocketAddrV4> {
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    let address = <[u8; 4]>::try_from(value.get(4..8)?).ok()?;
    (u16_at(value, 0) == Some(INET)).then(|| SocketAddrV4::new(address.into(), port))
}

fn parse_allowed(value: &[u8]) -> Option<Subnet> {
    let find = |wanted| attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let address = <[u8; 4]>::try_from(find(allowed::ADDRESS)?).ok()?;
    Some(Subnet::around(address.into(), *find(allowed::PREFIX)?.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_peer_is_read_as_it_was_written() {
        let key = TunnelKey::new([7; 32]).expect("a key");
        let (to, subnet) =
            ("192.0.2.1:51821".parse().expect("an address"), Subnet::around([10, 1, 0, 0].into(), 20));
        let allowed = |address: [u8; 4]| {
            let one = Attributes::default().with(allowed::ADDRESS, &address).with(allowed::PREFIX, &[20]);
            Attributes::default().nest(0, &one)
        };
        let written = |allowed: &Attributes| {
            let peer = Attributes::default()
                .with(peer::PUBLIC_KEY, key.bytes())
                .with(peer::ENDPOINT, &socket_address(to))
                .with(peer::KEEPALIVE, &KEEPALIVE.to_ne_bytes())
                .nest(peer::ALLOWED_IPS, allowed);
            let device = peers(&peer).with(device::LISTEN_PORT, &51820_u16.to_ne_bytes());
            parse(&[device.bytes().to_vec()])
        };
        let state = written(&allowed([10, 1, 0, 0]));
        assert_eq!(
            (state.port, state.peers),
            (51820, vec![Entry::Peer { key, to, subnet, keepalive: true }])
        );
        // With another subnet beside its own it is not the same.
        let two = allowed([10, 1, 0, 0]).nest(0, &allowed([10, 2, 0, 0]));
        assert!(!written(&two).peers.contains(&Entry::Peer { key, to, subnet, keepalive: true }));
    }

    #[test]
    fn a_key_is_made_once_and_for_root_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent/wireguard.key");
        let key = files::key(&path).expect("made");
        assert_eq!(files::key(&path).expect("read"), key);
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "short").expect("written");
        assert_ne!(files::key(&path).expect("replaced"), key);
    }
}
