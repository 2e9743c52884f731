//! Nodes and proxies: what they report, and what they are told.
//!
//! In: [`Observed`] and [`ProxyStatus`] as they come. Out: the newest of each, a wake-up at every change, and the orders:
//! an [`Assignment`] a node, one [`RouteTable`] and one [`CertificateTable`] for all proxies. All of it is memory: the wanted state is in the store, and
//! what is observed is reported again within seconds of a restart.

mod serve;

pub use serve::router;

use crate::routing::Health;
use berth_model::container::ContainerStatus;
use berth_model::node::{Capacity, Observed};
use berth_model::route::{ProxyStatus, RouteTable, Target};
use berth_model::tls::CertificateTable;
use berth_model::{AppName, ContainerId, NodeName};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A node or proxy that has said nothing for this long counts as gone: three missed reports.
pub const SILENCE: Duration = Duration::from_secs(15);

/// Everything reported by nodes and proxies, and what they are to be told.
#[derive(Debug)]
pub struct Fleet {
    state: Mutex<State>,
    /// Counts every change of what is reported or ordered.
    ticks: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<NodeName, Member>,
    proxies: BTreeMap<String, Proxy>,
    /// Which node reported each container; the newest report wins.
    located: HashMap<ContainerId, NodeName>,
    generations: BTreeMap<NodeName, u64>,
    routes: Option<Arc<RouteTable>>,
    certificates: Option<Arc<CertificateTable>>,
    /// The last number given out; grows over restarts too.
    counter: u64,
}

#[derive(Debug)]
struct Member {
    observed: Observed,
    at: Instant,
    at_ms: i64,
}

#[derive(Debug)]
struct Proxy {
    status: ProxyStatus,
    at: Instant,
}

/// A node as reports show it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Whether it reported lately.
    pub alive: bool,
    /// Milliseconds since the Unix epoch.
    pub last_seen_ms: i64,
    /// What it has.
    pub capacity: Capacity,
}

impl Default for Fleet {
    fn default() -> Self {
        let state = State {
            nodes: BTreeMap::new(),
            proxies: BTreeMap::new(),
            located: HashMap::new(),
            generations: BTreeMap::new(),
            routes: None,
            certificates: None,
            counter: 0,
        };
        Self { state: Mutex::new(state), ticks: watch::Sender::new(0) }
    }
}

impl Fleet {
    /// Gives out only generations and revisions above `floor`, which must be above all that an earlier life of the
    /// controller gave out.
    pub fn raise(&self, floor: u64) {
        let mut state = self.state();
        state.counter = state.counter.max(floor);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-changed.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tick(&self) {
        self.ticks.send_modify(|count| *count += 1);
    }

    /// Wakes at every change of what is reported or ordered. Subscribe first, then look.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// Takes a node's report.
    pub fn observe(&self, observed: Observed, now_ms: i64) {
        let mut state = self.state();
        let changed = state
            .nodes
            .get(&observed.node)
            .is_none_or(|known| known.observed != observed || known.at.elapsed() > SILENCE);
        if changed {
            let node = observed.node.clone();
            state.located.retain(|id, owner| *owner != node || observed.containers.contains_key(id));
            for id in observed.containers.keys() {
                state.located.insert(id.clone(), node.clone());
            }
        }
        state.nodes.insert(observed.node.clone(), Member { observed, at: Instant::now(), at_ms: now_ms });
        drop(state);
        if changed {
            self.tick();
        }
    }

    /// Takes a proxy's report.
    pub fn proxy_reports(&self, status: ProxyStatus) {
        let mut state = self.state();
        let name = status.proxy.clone();
        let changed = state.proxies.get(&name).is_none_or(|known| {
            // How long nobody asked grows all the time; nobody waits for that.
            let same = ProxyStatus { idle_ms: known.status.idle_ms.clone(), ..status.clone() };
            known.status != same || known.at.elapsed() > SILENCE
        });
        if status.leaving {
            state.proxies.remove(&name);
        } else {
            state.proxies.insert(name, Proxy { status, at: Instant::now() });
        }
        drop(state);
        if changed {
            self.tick();
        }
    }

    /// Every node that has ever reported.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        let state = self.state();
        let view = |(name, member): (&NodeName, &Member)| NodeView {
            name: name.clone(),
            alive: member.at.elapsed() <= SILENCE,
            last_seen_ms: member.at_ms,
            capacity: member.observed.capacity.clone(),
        };
        state.nodes.iter().map(view).collect()
    }

    /// What the node that has this container last said of it.
    #[must_use]
    pub fn status(&self, id: &ContainerId) -> Option<ContainerStatus> {
        let state = self.state();
        let node = state.located.get(id)?;
        state.nodes.get(node)?.observed.containers.get(id).cloned()
    }

    /// Whether each of these nodes has reported since the controller started: before that, nothing is known of its
    /// containers, and no route may be taken away for it.
    #[must_use]
    pub fn all_reported<'a>(&self, mut nodes: impl Iterator<Item = &'a NodeName>) -> bool {
        let state = self.state();
        nodes.all(|node| state.nodes.contains_key(node))
    }

    /// Every status there is, for routing.
    #[must_use]
    pub fn health(&self) -> HealthView<'_> {
        HealthView(self.state())
    }

    /// Gives each of these nodes a new generation: what it is to run has changed.
    pub fn reassign<'a>(&self, nodes: impl Iterator<Item = &'a NodeName>) {
        let mut state = self.state();
        for node in nodes {
            state.counter += 1;
            let generation = state.counter;
            state.generations.insert(node.clone(), generation);
        }
        drop(state);
        self.tick();
    }

    /// The generation of what a node is to run now.
    #[must_use]
    pub fn generation(&self, node: &NodeName) -> u64 {
        let mut state = self.state();
        if let Some(generation) = state.generations.get(node) {
            return *generation;
        }
        state.counter += 1;
        let generation = state.counter;
        state.generations.insert(node.clone(), generation);
        generation
    }

    /// Makes `table` the one that proxies are to serve, unless it is the same but for its revision. Gives the revision
    /// that holds it.
    pub fn publish_routes(&self, mut table: RouteTable) -> u64 {
        let mut state = self.state();
        if let Some(old) = &state.routes {
            table.revision = old.revision;
            if **old == table {
                return old.revision;
            }
        }
        state.counter += 1;
        table.revision = state.counter;
        let revision = table.revision;
        state.routes = Some(Arc::new(table));
        drop(state);
        self.tick();
        revision
    }

    /// The table that proxies are to serve; `None` until it is known.
    #[must_use]
    pub fn routes(&self) -> Option<Arc<RouteTable>> {
        self.state().routes.clone()
    }

    /// Makes `table` the one that proxies are to present certificates from, unless it is the same but for its revision.
    /// Gives the revision that holds it.
    pub fn publish_certificates(&self, mut table: CertificateTable) -> u64 {
        let mut state = self.state();
        if let Some(old) = &state.certificates {
            table.revision = old.revision;
            if **old == table {
                return old.revision;
            }
        }
        state.counter += 1;
        table.revision = state.counter;
        let revision = table.revision;
        state.certificates = Some(Arc::new(table));
        drop(state);
        self.tick();
        revision
    }

    /// The table that proxies are to present certificates from; `None` until it is known.
    #[must_use]
    pub fn certificates(&self) -> Option<Arc<CertificateTable>> {
        self.state().certificates.clone()
    }

    /// Whether every proxy that is alive serves this revision or a newer one. `None` if none is alive.
    #[must_use]
    pub fn is_served(&self, revision: u64) -> Option<bool> {
        self.all_alive(|proxy| proxy.revision >= revision)
    }

    /// Whether every proxy that is alive presents the certificates of this revision or a newer one. `None` if none is
    /// alive.
    #[must_use]
    pub fn certificates_served(&self, revision: u64) -> Option<bool> {
        self.all_alive(|proxy| proxy.certificates_revision >= revision)
    }

    fn all_alive(&self, holds: impl Fn(&ProxyStatus) -> bool) -> Option<bool> {
        let state = self.state();
        let mut alive = state.proxies.values().filter(|proxy| proxy.at.elapsed() <= SILENCE).peekable();
        alive.peek()?;
        Some(alive.all(|proxy| holds(&proxy.status)))
    }

    /// Whether no proxy that is alive sends anything to this container any more: the newest table does not name it, each
    /// serves that one and has nothing in flight there. A silent proxy is not waited for. With none alive nothing is known: false.
    #[must_use]
    pub fn is_drained(&self, id: &ContainerId) -> bool {
        let state = self.state();
        let Some(table) = state.routes.as_ref() else { return false };
        if names(table, id) {
            return false;
        }
        let newest = table.revision;
        let mut alive = state.proxies.values().filter(|proxy| proxy.at.elapsed() <= SILENCE).peekable();
        alive.peek().is_some()
            && alive.all(|proxy| {
                proxy.status.revision >= newest
                    && proxy.status.draining.get(id).is_none_or(|count| *count == 0)
            })
    }

    /// Apps that sleep when nobody asks for them, and for how many milliseconds nobody did, at any proxy.
    #[must_use]
    pub fn idle(&self) -> BTreeMap<AppName, u64> {
        let state = self.state();
        let alive = || state.proxies.values().filter(|proxy| proxy.at.elapsed() <= SILENCE);
        let Some(first) = alive().next() else { return BTreeMap::new() };
        let least = |app: &AppName| {
            let all: Option<Vec<u64>> = alive().map(|proxy| proxy.status.idle_ms.get(app).copied()).collect();
            all?.into_iter().min() // a proxy that does not watch it yet may be serving it
        };
        first.status.idle_ms.keys().filter_map(|app| Some((app.clone(), least(app)?))).collect()
    }

    /// Ports that proxies could not listen on, and why.
    #[must_use]
    pub fn tcp_errors(&self) -> BTreeMap<u16, String> {
        let state = self.state();
        let errors = state.proxies.values().flat_map(|proxy| proxy.status.tcp_errors.clone());
        errors.collect()
    }
}

/// Whether a table leads anything to this container.
fn names(table: &RouteTable, id: &ContainerId) -> bool {
    let further = table.ports.http.iter().flat_map(|port| &port.routes);
    let whole = table.http.iter().chain(further).map(|route| &route.target);
    let below = table.rules.paths.iter().map(|route| &route.target);
    let http = whole.chain(below).filter_map(|target| match target {
        Target::Backends { backends } => Some(backends),
        Target::Static { .. } | Target::NoWeb => None,
    });
    let tcp = table.tcp.iter().map(|route| &route.backends);
    let tls = table.ports.tls.iter().map(|route| &route.backends);
    let udp = table.ports.udp.iter().map(|route| &route.backends);
    http.chain(tcp).chain(tls).chain(udp).flatten().any(|backend| backend.container == *id)
}

/// What the nodes say of every container, as of one moment. Holds the fleet's lock: look, then let go.
#[derive(Debug)]
pub struct HealthView<'a>(MutexGuard<'a, State>);

impl Health for HealthView<'_> {
    fn status(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        let node = self.0.located.get(id)?;
        self.0.nodes.get(node)?.observed.containers.get(id)
    }
}
