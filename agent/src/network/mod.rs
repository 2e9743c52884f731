//! The node's network: a bridge and a subnet, and for each container a namespace, a pair of devices, an address and its
//! published ports.
//!
//! In: container ids. Out: [`Attachment`]s. What belongs to whom is kept in `DIR/agent/net.json`; the rest is read from the kernel,
//! so that a new agent goes on where a killed one stopped.
//!
//! Container to world: `eth0` → bridge → the node's routing, source rewritten to the node's. World to container: only
//! published ports. Container to the node: refused. Container to container: refused unless their apps share a network, on this
//! node or another ([`rules`], [`overlay`]).

pub mod addresses;
mod genl;
mod links;
mod names;
mod netns;
mod overlay;
mod reach;
pub mod resolver;
pub mod rules;
mod shape;
pub mod subnet;
mod tunnel;
mod wireguard;

pub use links::LinkError;
pub use overlay::Mode;

use crate::files;
use addresses::{Addresses, LeaseError};
use berth_model::container::{NetworkLimits, Protocol, PublishedPort};
use berth_model::network::{NetworkReport, NetworkTable};
use berth_model::{AppName, ContainerId};
use links::Links;
use overlay::{Overlay, Way};
use reach::Elements;
use resolver::Resolution;
use rules::{Facts, RulesError};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subnet::{Subnet, SubnetError};
use tokio_util::sync::CancellationToken;

/// How often Docker's chain is looked at: Docker may be installed or restarted at any time.
const DOCKER_INTERVAL: Duration = Duration::from_secs(30);

/// What the controller said last of other nodes and of networks, under Berth's data directory.
const TABLE: &str = "agent/network.json";

/// This node's private key of WireGuard, under Berth's data directory.
const KEY: &str = "agent/wireguard.key";

/// One container's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Path that its namespace is bound to.
    pub netns: PathBuf,
    /// Its address, the same until [`Network::detach`].
    pub address: Ipv4Addr,
    /// The node's address as the container sees it.
    pub gateway: Ipv4Addr,
    /// Its ports of the node, all chosen.
    pub published: Vec<PublishedPort>,
}

/// Why the network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// `--subnet` is wrong.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// Nothing is left of the pool.
    #[error("every /20 of 10.208.0.0/12 overlaps a network of this machine; choose one with --subnet")]
    NoSubnet,
    /// No address or port.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The kernel refused a link, an address or a route.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The packet rules are not in force.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A file or a system call.
    #[error("cannot {step}")]
    Io {
        /// What was tried.
        step: String,
        /// Why not.
        source: io::Error,
    },
}

fn io_failed(step: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let step = step.into();
    move |source| NetworkError::Io { step, source }
}

/// The network of one node.
#[derive(Debug)]
pub struct Network {
    instance: String,
    book_path: PathBuf,
    links: Links,
    bridge: u32,
    subnet: Subnet,
    resolution: Resolution,
    known: Arc<Known>,
    /// Whether the kernel's rules can tell if somebody listens (nft(8), `socket`).
    tells_listeners: AtomicBool,
    /// The rules in force; held while new ones are applied.
    applied: tokio::sync::Mutex<Option<Applied>>,
    /// `DIR/agent/network.json`.
    table_path: PathBuf,
    /// `DIR/agent/wireguard.key`, there as soon as there are other nodes.
    key_path: PathBuf,
    mode: Mode,
    way: std::sync::Mutex<Way>,
    /// Held while the way to other nodes is made.
    converging: tokio::sync::Mutex<()>,
    stop: CancellationToken,
}

/// Who has which address, here and elsewhere.
#[derive(Debug)]
struct Known {
    subnet: Subnet,
    book: std::sync::Mutex<Addresses>,
    /// What the controller says of other nodes and of networks.
    table: std::sync::Mutex<Arc<NetworkTable>>,
}

impl Known {
    fn book(&self) -> std::sync::MutexGuard<'_, Addresses> {
        // A panic in between two steps of the book leaves it as it was before or after: each step is one assignment.
        self.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn table(&self) -> Arc<NetworkTable> {
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl resolver::Names for Known {
    fn lookup(&self, caller: Ipv4Addr, name: &str) -> names::Lookup {
        let app = {
            let book = self.book();
            let mut leases = book.leases();
            leases
                .find(|(_, lease)| self.subnet.at(lease.offset) == caller)
                .map(|(_, lease)| lease.app.clone())
        };
        names::lookup(&self.table(), app.as_ref(), name)
    }
}

/// Rules in force.
#[derive(Debug)]
struct Applied {
    text: String,
    elements: Elements,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Whether nothing on this node listens on the port.
fn usable(protocol: Protocol, port: u16) -> bool {
    match protocol {
        Protocol::Tcp => std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(),
        Protocol::Udp => std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(),
    }
}

/// Waits for its turn among all instances of this machine.
fn choosing_lock() -> io::Result<nix::fcntl::Flock<std::fs::File>> {
    let file =
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).open("/run/berth.lock")?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

impl Network {
    /// Makes or takes over the bridge and the rules of `instance`. `data` is Berth's data directory.
    pub async fn open(
        instance: &str,
        data: &Path,
        wanted: Option<&str>,
        mode: Mode,
    ) -> Result<Self, NetworkError> {
        let wanted: Option<Subnet> = wanted.map(str::parse).transpose()?;
        let book_path = data.join("agent/net.json");
        let links = Links::here().map_err(io_failed("talk to the kernel about links"))?;
        let name = rules::bridge_name(instance);
        let book = load(&book_path)?;
        // Two instances that start at once must not choose the same subnet: held until the bridge has its address.
        let choosing = tokio::task::spawn_blocking(choosing_lock).await;
        let choosing = choosing.map_err(io::Error::other).and_then(|lock| lock);
        let choosing = choosing.map_err(io_failed("lock /run/berth.lock to choose a subnet"))?;
        let book = match (book, wanted) {
            (Some(book), None) => book,
            (Some(book), Some(wanted)) if book.subnet == wanted => book,
            (_, Some(wanted)) => {
                // Another subnet: the old bridge has the wrong address, and whoever is attached to it is cut off.
                links.remove(&name).await?;
                Addresses::new(wanted)
            }
            (None, None) => {
                links.remove(&name).await?;
                Addresses::new(subnet::choose(&links.networks().await?).ok_or(NetworkError::NoSubnet)?)
            }
        };
        let subnet = book.subnet;
        save(&book_path, &book)?;
        netns::prepare(instance).map_err(io_failed("prepare the place for network namespaces"))?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .map_err(io_failed("turn IPv4 forwarding on (/proc/sys/net/ipv4/ip_forward)"))?;
        let bridge = links.bridge(&name, subnet).await?;
        drop(choosing);
        let conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolved = std::fs::read_to_string("/run/systemd/resolve/resolv.conf").ok();
        let resolution = resolver::decide(&conf, resolved.as_deref(), &links.own_addresses().await?);
        let stop = CancellationToken::new();
        let known = Arc::new(Known {
            subnet,
            book: std::sync::Mutex::new(book),
            table: std::sync::Mutex::new(Arc::new(load_table(&data.join(TABLE)))),
        });
        let (upstream, names, until) = (resolution.upstream.clone(), known.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = resolver::serve(subnet.gateway(), upstream, names, until).await {
                tracing::error!(%error, "cannot answer DNS queries of containers: they resolve no names of others");
            }
        });
        let network = Self {
            instance: instance.to_owned(),
            book_path,
            links,
            bridge,
            subnet,
            resolution,
            known,
            tells_listeners: AtomicBool::new(true),
            applied: tokio::sync::Mutex::new(None),
            table_path: data.join(TABLE),
            key_path: data.join(KEY),
            mode,
            way: std::sync::Mutex::default(),
            converging: tokio::sync::Mutex::new(()),
            stop: stop.clone(),
        };
        network.converge().await?;
        let instance = network.instance.clone();
        tokio::spawn(async move {
            loop {
                rules::pass_docker(&instance, true).await;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(DOCKER_INTERVAL) => {}
                }
            }
        });
        Ok(network)
    }

    /// The containers' subnet.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.known.book()
    }

    /// Gives `id` its namespace, address and ports; when it has them already, the same again.
    pub async fn attach(
        &self,
        id: &ContainerId,
        app: &AppName,
        ports: &[PublishedPort],
    ) -> Result<Attachment, NetworkError> {
        let lease = {
            let mut book = self.book();
            let known = book.lease(id).is_some();
            let lease = book.take(id, app, ports, now_ms(), usable)?;
            if !known {
                save(&self.book_path, &book)?;
            }
            lease
        };
        let address = self.subnet.at(lease.offset);
        let path = netns::directory(&self.instance).join(id.as_str());
        let name = rules::port_name(&self.instance, lease.offset);
        let there = netns::open(&path).map_err(io_failed(format!("open the network namespace of {id}")))?;
        let whole = there.is_some() && nix::net::if_::if_nametoindex(name.as_str()).is_ok();
        if !whole {
            self.links.remove(&name).await?;
            let netns = netns::create(&path)
                .await
                .map_err(io_failed(format!("make the network namespace of {id}")))?;
            let inside =
                netns.try_clone().map_err(io_failed(format!("open the network namespace of {id}")))?;
            let inside =
                Links::inside(inside).await.map_err(io_failed(format!("enter the network of {id}")))?;
            let mtu = self.way().mtu;
            self.links.pair(&name, self.bridge, &netns, address, mtu).await?;
            inside.configure(address, self.subnet.gateway()).await?;
        }
        if !lease.published.is_empty() || self.table().apps.contains_key(app) {
            self.apply().await?;
        }
        let gateway = self.subnet.gateway();
        Ok(Attachment { netns: path, address, gateway, published: lease.published })
    }

    /// Limits how fast `id`, which is attached, may send and receive. What it sends is held back inside its own namespace, by its
    /// own device, which it has no right to change; what it receives, at the node's end of the pair.
    pub async fn limit(&self, id: &ContainerId, limits: NetworkLimits) -> Result<(), NetworkError> {
        let lease = self.book().lease(id).cloned();
        let path = netns::directory(&self.instance).join(id.as_str());
        let open = io_failed(format!("open the network namespace of {id}"));
        let (Some(lease), Some(netns)) = (lease, netns::open(&path).map_err(open)?) else {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(io_failed(format!("find the network of {id}"))(gone));
        };
        let inside = Links::inside(netns).await.map_err(io_failed(format!("enter the network of {id}")))?;
        inside.shape("eth0", limits.egress_kbit).await?;
        let port = rules::port_name(&self.instance, lease.offset);
        Ok(self.links.shape(&port, limits.ingress_kbit).await?)
    }

    /// Takes everything back that `id` has; its address rests for a while. Nothing there is fine.
    pub async fn detach(&self, id: &ContainerId) -> Result<(), NetworkError> {
        let lease = self.book().lease(id).cloned();
        if let Some(lease) = lease {
            self.links.remove(&rules::port_name(&self.instance, lease.offset)).await?;
            // Only now may the address begin to rest: a crash before leaves it with its owner.
            {
                let mut book = self.book();
                book.give_back(id, now_ms());
                save(&self.book_path, &book)?;
            }
            if !lease.published.is_empty() || self.table().apps.contains_key(&lease.app) {
                self.apply().await?;
            }
        }
        let path = netns::directory(&self.instance).join(id.as_str());
        netns::remove(&path).map_err(io_failed(format!("remove the network namespace of {id}")))
    }

    /// Removes whatever belongs to no container of `keep`: leases, devices and namespaces a crash left behind.
    pub async fn retain(&self, keep: &BTreeSet<ContainerId>) -> Result<(), NetworkError> {
        let gone: Vec<ContainerId> =
            self.book().leases().map(|(id, _)| id.clone()).filter(|id| !keep.contains(id)).collect();
        for id in gone {
            self.detach(&id).await?;
        }
        let ports: BTreeSet<String> =
            self.book().leases().map(|(_, lease)| rules::port_name(&self.instance, lease.offset)).collect();
        for name in self.links.names(&format!("v{}", self.instance)).await? {
            if !ports.contains(&name) {
                self.links.remove(&name).await?;
            }
        }
        let directory = netns::directory(&self.instance);
        for name in netns::list(&self.instance).map_err(io_failed("list the network namespaces"))? {
            if !keep.iter().any(|id| id.as_str() == name) {
                netns::remove(&directory.join(&name))
                    .map_err(io_failed(format!("remove the network namespace {name}")))?;
            }
        }
        Ok(())
    }

    /// The files that make names work in a container: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`.
    #[must_use]
    pub fn files(&self, hostname: &str, address: Ipv4Addr) -> Vec<(PathBuf, Vec<u8>)> {
        let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{address}\t{hostname}\n");
        vec![
            ("/etc/resolv.conf".into(), self.resolution.file(self.subnet.gateway()).into_bytes()),
            ("/etc/hosts".into(), hosts.into_bytes()),
            ("/etc/hostname".into(), format!("{hostname}\n").into_bytes()),
        ]
    }

    /// What the controller said last.
    fn table(&self) -> Arc<NetworkTable> {
        self.known.table()
    }

    fn way(&self) -> Way {
        self.way.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set_way(&self, way: Way) {
        let mut now = self.way.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(error) = way.error.as_ref().filter(|error| now.error.as_ref() != Some(error)) {
            tracing::error!(%error, "containers of other nodes are out of reach");
        }
        if way.ways.vxlan > 0
            && let Some(why) = way.unencrypted.as_ref().filter(|why| now.unencrypted.as_ref() != Some(why))
        {
            tracing::warn!(%why, "packets to other nodes are not encrypted");
        }
        *now = way;
    }

    /// The revision of what the controller said last; 0 before it said anything.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.table().revision
    }

    /// Takes over what the controller says of other nodes and of networks: first on disk, then in effect.
    pub async fn set_table(&self, table: NetworkTable) -> Result<(), NetworkError> {
        files::store(&self.table_path, &table, files::Durability::Rename)
            .map_err(io_failed(format!("write {}", self.table_path.display())))?;
        *self.known.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(table);
        self.converge().await
    }

    /// What the controller is told.
    #[must_use]
    pub fn report(&self) -> NetworkReport {
        let Way { port, wireguard, ways, unencrypted, error, .. } = self.way();
        let table = self.table();
        let book = self.book();
        let on_networks = book.leases().filter(|(_, lease)| table.apps.contains_key(&lease.app));
        let addresses = on_networks.map(|(_, lease)| (self.subnet.at(lease.offset), lease.app.clone()));
        let (subnet, addresses) = (self.subnet.to_string(), addresses.collect());
        NetworkReport { subnet, port, wireguard, ways, unencrypted, error, addresses }
    }

    /// Makes the way to other nodes and the rules what they are to be. A way that cannot be made is reported, and holds back
    /// nothing else.
    pub async fn converge(&self) -> Result<(), NetworkError> {
        let _turn = self.converging.lock().await;
        let table = self.table();
        let (mut peers, bad) = overlay::peers(&table, self.subnet, self.mode);
        // What runs on this machine too is behind a bridge of it already.
        let own = self.links.own_addresses().await?;
        peers.retain(|peer| !peer.address.is_loopback() && !own.contains(&IpAddr::V4(peer.address)));
        let said = (!bad.is_empty()).then(|| bad.join("; "));
        if peers.is_empty() {
            self.set_way(Way { error: said, ..Way::default() });
            Overlay::remove(&self.links, &self.instance).await?;
            return self.apply().await;
        }
        let (links, instance) = (&self.links, self.instance.as_str());
        let overlay = Overlay { links, instance, own: self.subnet, mode: self.mode, key: &self.key_path };
        let mut way = overlay.prepare(&peers, &table, &self.way()).await;
        way.error = way.error.or(said);
        self.set_way(way.clone());
        // The devices take nothing from anybody before the rules say from whom.
        self.apply().await?;
        let ports = way.ports();
        overlay.converge(&peers, table.address, &mut way).await;
        let closed = way.ports() != ports;
        self.set_way(way);
        if closed { self.apply().await } else { Ok(()) }
    }

    /// Puts the rules in force if they are not. Callers that wait for each other find their ports applied with those
    /// of the first one.
    async fn apply(&self) -> Result<(), NetworkError> {
        let mut applied = self.applied.lock().await;
        let table = self.table();
        let (peers, _) = overlay::peers(&table, self.subnet, self.mode);
        let (published, elements) = {
            let book = self.book();
            let to = |(offset, port)| (self.subnet.at(offset), port);
            let published: BTreeMap<(Protocol, u16), (Ipv4Addr, u16)> =
                book.published().into_iter().map(|(from, target)| (from, to(target))).collect();
            let own = book.leases().map(|(_, lease)| (lease.app.clone(), self.subnet.at(lease.offset)));
            (published, reach::elements(&table, &peers, self.subnet, own))
        };
        let (vxlan, wireguard) = self.way().ports();
        let text = |stand_in| {
            rules::text(&Facts {
                instance: &self.instance,
                subnet: self.subnet,
                stand_in,
                published: &published,
                vxlan,
                wireguard,
            })
        };
        let tells = self.tells_listeners.load(Ordering::Relaxed);
        let stand_in = self.resolution.direct.first().copied().filter(|_| tells);
        let wanted = text(stand_in);
        if let Some(now) = applied.as_mut().filter(|now| now.text == wanted) {
            let change = elements.after(&now.elements, &self.instance);
            if change.is_empty() {
                return Ok(());
            }
            match rules::apply(&change).await {
                Ok(()) => {
                    now.elements = elements;
                    return Ok(());
                }
                // Somebody else changed them: written anew.
                Err(error) => tracing::warn!(%error, "the packet rules are not as they were left"),
            }
        }
        *applied = None;
        let filled = elements.text(&self.instance);
        let mut done = (rules::apply(&format!("{wanted}{filled}")).await, wanted);
        if let (Err(RulesError::Refused(why)), Some(_)) = (&done.0, stand_in) {
            let without = text(None);
            if rules::apply(&format!("{without}{filled}")).await.is_ok() {
                tracing::warn!(%why, "containers resolve no names while the agent is away: is the kernel module nft_socket there?");
                self.tells_listeners.store(false, Ordering::Relaxed);
                done = (Ok(()), without);
            }
        }
        done.0?;
        *applied = Some(Applied { text: done.1, elements });
        Ok(())
    }
}

/// Removes everything the instance has in the kernel. The book stays: addresses go on resting.
pub async fn remove_all(instance: &str) -> Result<(), NetworkError> {
    let links = Links::here().map_err(io_failed("talk to the kernel about links"))?;
    for name in links.names(&format!("v{instance}")).await? {
        links.remove(&name).await?;
    }
    netns::remove_all(instance).map_err(io_failed("remove the network namespaces"))?;
    Overlay::remove(&links, instance).await?;
    links.remove(&rules::bridge_name(instance)).await?;
    rules::pass_docker(instance, false).await;
    rules::apply(&rules::removal(instance)).await?;
    Ok(())
}

/// The subnet that the containers of this data directory have, if it was used before.
pub fn remembered_subnet(data: &Path) -> Result<Option<String>, NetworkError> {
    Ok(load(&data.join("agent/net.json"))?.map(|book| book.subnet.to_string()))
}

/// The IPv4 networks that this machine knows, but those of `data` itself.
pub async fn known_networks(data: &Path) -> Result<Vec<String>, NetworkError> {
    let own = load(&data.join("agent/net.json"))?.map(|book| book.subnet);
    let links = Links::here().map_err(io_failed("talk to the kernel about links"))?;
    let networks = links.networks().await?.into_iter();
    let others: BTreeSet<String> =
        networks.filter(|net| Some(*net) != own).map(|net| net.to_string()).collect();
    Ok(others.into_iter().collect())
}

fn load(path: &Path) -> Result<Option<Addresses>, NetworkError> {
    match files::load(path) {
        Ok(book) => Ok(book),
        // The kernel knows the devices; what is lost is who rests. A new round starts with another subnet's worth.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "the book of addresses is unreadable and begun anew");
            Ok(None)
        }
        Err(error) => Err(io_failed(format!("read {}", path.display()))(error)),
    }
}

/// The table on disk. One that is lost is the controller's to send again.
fn load_table(path: &Path) -> NetworkTable {
    let loaded = files::load(path).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "cannot read what is known of other nodes");
        None
    });
    loaded.unwrap_or_default()
}

fn save(path: &Path, book: &Addresses) -> Result<(), NetworkError> {
    files::store(path, book, files::Durability::Rename)
        .map_err(io_failed(format!("write {}", path.display())))
}
