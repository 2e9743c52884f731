//! Nodes and proxies: what they report, and what they are told.
//!
//! In: [`Observed`] and [`ProxyStatus`] as they come. Out: the newest of each, a wake-up at every change, and the orders:
//! an [`Assignment`] a node, one [`RouteTable`] and one [`CertificateTable`] for all proxies. All of it is memory: the wanted state is in the store, and
//! what is observed is reported again within seconds of a restart.

pub(crate) mod access_log;
mod agents;
pub(crate) mod kept;
pub mod liveness;
pub(crate) mod logs;
mod serve;

pub use serve::router;

use crate::routing::Health;
use berth_model::container::ContainerStatus;
use berth_model::network::{NetworkReport, NetworkTable};
use berth_model::node::{Capacity, Observed, Pressure, Stalls};
use berth_model::route::{ProxyStatus, RouteTable, Target};
use berth_model::tls::CertificateTable;
use berth_model::{AppName, ContainerId, NodeName};
use liveness::{Awake, Life, Liveness};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A proxy that has said nothing for this long counts as gone: three missed reports.
pub const SILENCE: Duration = Duration::from_secs(15);
/// Between two looks at who is silent.
const LOOK: Duration = Duration::from_millis(500);

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
    /// Where each container that is wanted is to be: nobody else's word counts for it.
    planned: HashMap<ContainerId, NodeName>,
    /// Which node reported each container; the newest report wins.
    located: HashMap<ContainerId, NodeName>,
    awake: Awake,
    /// Since when most nodes have reported, in the time of `awake`.
    most_came: Option<u64>,
    since: Instant,
    /// The time in a simulation, in milliseconds.
    #[cfg(test)]
    simulated: Option<u64>,
    generations: BTreeMap<NodeName, u64>,
    routes: Option<Arc<RouteTable>>,
    certificates: Option<Arc<CertificateTable>>,
    networks: BTreeMap<NodeName, Option<Arc<NetworkTable>>>,
    /// The last number given out; grows over restarts too.
    counter: u64,
}

#[derive(Debug)]
struct Member {
    /// `None` before its first report.
    observed: Option<Observed>,
    liveness: Liveness,
    at_ms: i64,
}

impl Member {
    fn status(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        self.observed.as_ref()?.containers.get(id)
    }
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
    /// How it is.
    pub life: Life,
    /// Whether it may get new containers, as far as its reports tell.
    pub takes_work: bool,
    /// Milliseconds since the Unix epoch; 0 if it never reported to this controller.
    pub last_seen_ms: i64,
    /// What it has.
    pub capacity: Capacity,
    /// What it is short of.
    pub pressure: Pressure,
    /// What work on it waited for.
    pub stalls: Stalls,
}

impl Default for Fleet {
    fn default() -> Self {
        let state = State {
            nodes: BTreeMap::new(),
            proxies: BTreeMap::new(),
            planned: HashMap::new(),
            located: HashMap::new(),
            awake: Awake::default(),
            most_came: None,
            since: Instant::now(),
            #[cfg(test)]
            simulated: None,
            generations: BTreeMap::new(),
            routes: None,
            certificates: None,
            networks: BTreeMap::new(),
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

    /// Goes by a simulation's time from now on.
    #[cfg(test)]
    pub(crate) fn simulate(&self, now_ms: u64) {
        self.state().simulated = Some(now_ms);
    }

    /// Waits for reports of these nodes: each is lost if none comes.
    pub fn expect(&self, nodes: impl IntoIterator<Item = NodeName>) {
        let mut state = self.state();
        let now = state.now();
        for node in nodes {
            let expected = || Member { observed: None, liveness: Liveness::expected(now), at_ms: 0 };
            state.nodes.entry(node).or_insert_with(expected);
        }
    }

    /// Forgets a node that is no part of the platform any more. Nothing is lost with it: empty it first.
    pub fn forget(&self, node: &NodeName) {
        let mut state = self.state();
        state.nodes.remove(node);
        state.located.retain(|_, owner| owner != node);
        let of_node = |proxy: &String| proxy.split(['~', '/']).next() == Some(node.as_str());
        state.proxies.retain(|proxy, _| !of_node(proxy));
        drop(state);
        self.tick();
    }

    /// Those of the containers in a report that its node has not reported before.
    pub(crate) fn claims(&self, observed: &Observed) -> Vec<ContainerId> {
        let state = self.state();
        let new = |id: &&ContainerId| state.located.get(*id) != Some(&observed.node);
        observed.containers.keys().filter(new).cloned().collect()
    }

    /// Takes a node's report.
    pub fn observe(&self, observed: Observed, now_ms: i64) {
        let mut state = self.state();
        let (now, node) = (state.now(), observed.node.clone());
        let known = state.nodes.remove(&node);
        let mut liveness =
            known.as_ref().map_or_else(|| Liveness::expected(now), |known| known.liveness.clone());
        let mut changed = liveness.report(now);
        let same = known.and_then(|known| known.observed).is_some_and(|mut known| {
            // Free space changes all the time: only another GiB is news.
            if known.capacity.disk_free_mib >> 10 == observed.capacity.disk_free_mib >> 10 {
                known.capacity.disk_free_mib = observed.capacity.disk_free_mib;
            }
            // Nobody acts on this.
            known.stalls = observed.stalls;
            known == observed
        });
        if !same {
            changed = true;
            state.located.retain(|id, owner| *owner != node || observed.containers.contains_key(id));
            for id in observed.containers.keys() {
                state.located.insert(id.clone(), node.clone());
            }
        }
        state.nodes.insert(node, Member { observed: Some(observed), liveness, at_ms: now_ms });
        drop(state);
        if changed {
            self.tick();
        }
    }

    /// Looks who has been silent for too long; wakes everybody if that is news.
    pub fn look(&self) {
        let mut state = self.state();
        let now = state.now();
        let State { nodes, most_came, .. } = &mut *state;
        if most_came.is_none() {
            let came = nodes.values().filter(|member| member.observed.is_some()).count();
            *most_came = (came * 2 > nodes.len()).then_some(now);
        }
        let mut changed = false;
        for (name, member) in nodes {
            if member.liveness.look(now, *most_came) {
                changed = true;
                tracing::info!(node = %name, life = member.liveness.life().as_str(), "a node's life changed");
            }
        }
        drop(state);
        if changed {
            self.tick();
        }
    }

    /// Says where wanted containers are to be (`None`: they are wanted no more).
    pub fn plan<'a>(&self, changes: impl Iterator<Item = (&'a ContainerId, Option<&'a NodeName>)>) {
        let mut state = self.state();
        for (id, node) in changes {
            match node {
                Some(node) => state.planned.insert(id.clone(), node.clone()),
                None => state.planned.remove(id),
            };
        }
    }

    /// Nodes that report.
    #[must_use]
    pub fn alive(&self) -> Vec<NodeName> {
        self.nodes().into_iter().filter(|node| node.alive).map(|node| node.name).collect()
    }

    /// How a node is; `None` if it is not known.
    #[must_use]
    pub fn life(&self, node: &NodeName) -> Option<Life> {
        self.state().nodes.get(node).map(|member| member.liveness.life())
    }

    /// Nodes whose containers are to be started elsewhere. None as long as no node reports at all: then it is the controller
    /// that is cut off, or all agents are being replaced, and what runs is best left alone.
    #[must_use]
    pub fn lost(&self) -> BTreeSet<NodeName> {
        self.state().lost()
    }

    /// Whether this node is one of them.
    #[must_use]
    pub fn is_lost(&self, node: &NodeName) -> bool {
        let state = self.state();
        state.is_lost(node) && state.any_reports()
    }

    /// For how long a lost node has not reported; `None` if it is not lost.
    #[must_use]
    pub fn lost_for(&self, node: &NodeName) -> Option<Duration> {
        let mut state = self.state();
        let now = state.now();
        if !state.is_lost(node) || !state.any_reports() {
            return None;
        }
        let silence = state.nodes.get(node).map_or(u64::MAX, |member| member.liveness.silence_ms(now));
        Some(Duration::from_millis(silence))
    }

    /// Waits until this node is lost.
    pub async fn until_lost(&self, node: &NodeName) {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if self.is_lost(node) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Wakes everybody who waits for changes.
    pub fn nudge(&self) {
        self.tick();
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

    /// Every node that has reported, or is expected to.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        let state = self.state();
        // Where every node was lost, those that come back are all there is.
        let any = state.nodes.values().any(|member| member.liveness.life().takes_work());
        let takes_work = |life: Life| life.takes_work() || (life == Life::Returning && !any);
        let view = |(name, member): (&NodeName, &Member)| NodeView {
            name: name.clone(),
            takes_work: takes_work(member.liveness.life()),
            alive: member.liveness.life().reports(),
            life: member.liveness.life(),
            last_seen_ms: member.at_ms,
            capacity: member.observed.as_ref().map(|seen| seen.capacity.clone()).unwrap_or_default(),
            pressure: member.observed.as_ref().map(|seen| seen.pressure).unwrap_or_default(),
            stalls: member.observed.as_ref().map(|seen| seen.stalls).unwrap_or_default(),
        };
        state.nodes.iter().map(view).collect()
    }

    /// What its node last said of this container. Of one that is wanted no more, what any node says.
    #[must_use]
    pub fn status(&self, id: &ContainerId) -> Option<ContainerStatus> {
        self.state().status(id).cloned()
    }

    /// Whether every node that is alive and has a proxy that is alive has this container ready: the files of a static site.
    #[must_use]
    pub fn is_ready_everywhere(&self, id: &ContainerId) -> bool {
        let state = self.state();
        let ready = |status: &ContainerStatus| crate::routing::is_ready(status);
        let serves = |node: &NodeName| {
            state.proxies.get(node.as_str()).is_some_and(|proxy| proxy.at.elapsed() <= SILENCE)
        };
        let mut nodes = state.nodes.iter();
        nodes.all(|(node, member)| {
            let counts = member.liveness.life().reports() && serves(node);
            !counts || member.status(id).is_some_and(ready)
        })
    }

    /// What this node last said of a container.
    #[must_use]
    pub fn status_on(&self, node: &NodeName, id: &ContainerId) -> Option<ContainerStatus> {
        self.state().nodes.get(node)?.status(id).cloned()
    }

    /// Whether no node has this container any more. A lost node is not waited for.
    #[must_use]
    pub fn is_gone(&self, id: &ContainerId) -> bool {
        let state = self.state();
        let Some((node, _)) = state.located(id) else { return true };
        state.is_lost(node) && state.any_reports()
    }

    /// Whether each of these nodes has reported since the controller started, or is lost: before that, nothing is known of
    /// its containers, and no route may be taken away for it.
    #[must_use]
    pub fn all_reported<'a>(&self, mut nodes: impl Iterator<Item = &'a NodeName>) -> bool {
        let state = self.state();
        let any = state.any_reports();
        nodes.all(|node| {
            let reported = state.nodes.get(node).is_some_and(|member| member.observed.is_some());
            reported || (any && state.is_lost(node))
        })
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

    /// What each node last said of its network.
    #[must_use]
    pub fn network_reports(&self) -> BTreeMap<NodeName, NetworkReport> {
        let state = self.state();
        let reports = state.nodes.iter();
        reports
            .filter_map(|(name, node)| Some((name.clone(), node.observed.as_ref()?.network.clone()?)))
            .collect()
    }

    /// Makes `table` what `node` is to know of the network, unless it is the same but for its revision. Gives the revision that
    /// holds it.
    pub fn publish_network(&self, node: &NodeName, table: NetworkTable) -> u64 {
        self.publish(table, |state| state.networks.entry(node.clone()).or_default())
    }

    /// What `node` is to know of the network; `None` until it is known.
    #[must_use]
    pub fn network(&self, node: &NodeName) -> Option<Arc<NetworkTable>> {
        self.state().networks.get(node).cloned().flatten()
    }

    /// Makes `table` the one that proxies are to serve, unless it is the same but for its revision. Gives the revision
    /// that holds it.
    pub fn publish_routes(&self, table: RouteTable) -> u64 {
        self.publish(table, |state| &mut state.routes)
    }

    /// The table that proxies are to serve; `None` until it is known.
    #[must_use]
    pub fn routes(&self) -> Option<Arc<RouteTable>> {
        self.state().routes.clone()
    }

    /// Makes `table` the one that proxies are to present certificates from, unless it is the same but for its revision.
    /// Gives the revision that holds it.
    pub fn publish_certificates(&self, table: CertificateTable) -> u64 {
        self.publish(table, |state| &mut state.certificates)
    }

    fn publish<T: Revised>(&self, mut table: T, place: impl Fn(&mut State) -> &mut Option<Arc<T>>) -> u64 {
        let mut state = self.state();
        if let Some(old) = place(&mut state) {
            table.set_revision(old.revision());
            if **old == table {
                return old.revision();
            }
        }
        state.counter += 1;
        let revision = state.counter;
        table.set_revision(revision);
        *place(&mut state) = Some(Arc::new(table));
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

/// A table that proxies follow by its revision.
trait Revised: PartialEq {
    fn revision(&self) -> u64;
    fn set_revision(&mut self, revision: u64);
}

impl Revised for RouteTable {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }
}

impl Revised for NetworkTable {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }
}

impl Revised for CertificateTable {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
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
        self.0.status(id)
    }

    fn is_doubtful(&self, id: &ContainerId) -> bool {
        let node = self.0.planned.get(id).or_else(|| self.0.located.get(id));
        node.is_some_and(|node| self.0.is_lost(node))
    }

    fn everywhere(&self, id: &ContainerId) -> Vec<(&NodeName, &ContainerStatus)> {
        let nodes = self.0.nodes.iter();
        nodes.filter_map(|(node, member)| Some((node, member.status(id)?))).collect()
    }
}

impl State {
    /// Milliseconds in which the controller ran.
    fn now(&mut self) -> u64 {
        let clock = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        #[cfg(test)]
        let clock = self.simulated.unwrap_or(clock);
        self.awake.at(clock)
    }

    fn any_reports(&self) -> bool {
        self.nodes.values().any(|member| member.liveness.life().reports())
    }

    fn lost(&self) -> BTreeSet<NodeName> {
        if !self.any_reports() {
            return BTreeSet::new();
        }
        let lost = self.nodes.iter().filter(|(_, member)| member.liveness.life() == Life::Lost);
        lost.map(|(name, _)| name.clone()).collect()
    }

    /// Whether it is lost, or no node of the platform any more.
    fn is_lost(&self, node: &NodeName) -> bool {
        let life = self.nodes.get(node).map(|member| member.liveness.life());
        matches!(life, None | Some(Life::Lost))
    }

    fn located(&self, id: &ContainerId) -> Option<(&NodeName, &ContainerStatus)> {
        let node = self.planned.get(id).or_else(|| self.located.get(id))?;
        Some((node, self.nodes.get(node)?.status(id)?))
    }

    fn status(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        self.located(id).map(|(_, status)| status)
    }
}

/// Looks who is silent, until `stop`.
pub(crate) async fn keep_looking(platform: crate::Platform, stop: CancellationToken) {
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => platform.deploys().fleet().look(),
        }
    }
}
