//! The node: all its containers, and how plans are executed.
//!
//! In: the assignment. Out: lives of containers (one task each, so that no slow one holds back others) and what is observed
//! of them.

use crate::build;
use crate::cluster::Link;
use crate::identity::Identities;
use crate::images::Images;
use crate::life::{self, Begin, Life};
use crate::network::Network;
use crate::options::{self, Options, Paths};
use crate::pressure::{self, Facts};
use crate::reconcile::{self, Action};
use crate::record::Record;
use crate::runtime::{Attached, Handle, Runtime};
use berth_model::container::{ContainerSpec, ContainerState, ContainerStatus};
use berth_model::image::ImageRef;
use berth_model::logs::{DrainStatus, NodeLogs};
use berth_model::node::{Assignment, Capacity, Observed, Pressure};
use berth_model::{AppName, ContainerId, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Starts under way at one time.
const PARALLEL_STARTS: usize = 8;
/// Repairs what no event told us about.
const RESYNC: Duration = Duration::from_secs(5);

/// One container as the rest of the agent sees it.
pub(crate) struct Entry {
    pub(crate) spec: Arc<ContainerSpec>,
    pub(crate) status: ContainerStatus,
    pub(crate) handle: Option<Handle>,
    /// Fires when it is to be removed.
    pub(crate) stop: CancellationToken,
    /// Begins its next life.
    pub(crate) wake: Arc<Notify>,
    /// Ends a container that runs once, without removing it.
    pub(crate) ending: Arc<Ending>,
}

/// The wish that a container which runs once ends.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    token: CancellationToken,
    reason: OnceLock<String>,
}

impl Ending {
    /// Wishes it; the first reason counts.
    pub(crate) fn wish(&self, reason: String) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Why, if it is wished.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.get().cloned()
    }

    /// Waits for the wish. Cancel-safe.
    pub(crate) async fn wished(&self) -> String {
        self.token.cancelled().await;
        self.reason().unwrap_or_default()
    }
}

/// Everything one agent works with.
pub struct Node {
    pub(crate) name: NodeName,
    pub(crate) paths: Paths,
    pub(crate) boot: String,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) images: Images,
    pub(crate) network: Arc<Network>,
    pub(crate) builds: build::Context,
    pub(crate) identities: Identities,
    pub(crate) starts: Semaphore,
    table: Mutex<BTreeMap<ContainerId, Entry>>,
    lives: Mutex<tokio::task::JoinSet<()>>,
    /// One-off containers that run, and what from.
    pub(crate) one_offs: Mutex<BTreeMap<ContainerId, ImageRef>>,
    /// Counts changes of the table.
    changes: watch::Sender<u64>,
    /// The last assignment taken over.
    pub(crate) assignment: watch::Sender<Option<Arc<Assignment>>>,
    /// What apps and drains want of logs.
    pub(crate) logging: watch::Sender<Arc<NodeLogs>>,
    /// How drains do, by id.
    pub(crate) drains: Mutex<BTreeMap<String, DrainStatus>>,
    /// The way to the controllers, on a machine that joined.
    pub(crate) link: Option<Arc<Link>>,
    /// What the machine was short of when it was last looked.
    pressure: Mutex<Pressure>,
    keep_free_mib: Option<u64>,
    /// Containers that ended for want of memory, by app.
    pub(crate) out_of_memory: Mutex<BTreeMap<AppName, u64>>,
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Node {
    /// Opens everything; containers that run are not touched yet (see [`Node::adopt`]).
    pub async fn open(options: &Options, link: Option<Arc<Link>>) -> anyhow::Result<Arc<Self>> {
        use anyhow::Context;
        let paths = Paths::new(&options.data);
        let instance = options::instance(&options.data)?;
        let registry = berth_wire::Client::new(berth_wire::Endpoint::Unix(paths.controller()));
        let runtime =
            Runtime::open(&instance, &options.data).context("the container runtime cannot start")?;
        let images = Images::open(&options.data, registry).context("the layer store cannot be opened")?;
        let network = Network::open(&instance, &options.data, options.subnet.as_deref(), options.overlay)
            .await
            .context("the node's network cannot be set up")?;
        let (runtime, network) = (Arc::new(runtime), Arc::new(network));
        let builds = build::Context::open(&options.data, images.clone(), runtime.clone(), network.clone())
            .await
            .context("cannot clean up after builds of an earlier agent")?;
        let identities = Identities::open(paths.ids()).context("cannot read the book of user ids")?;
        let assignment = crate::control::load(&paths.assignment(), runtime.seal())?;
        let logging = crate::metrics::load_settings(&paths, runtime.seal());
        Ok(Arc::new(Self {
            name: options.node.clone(),
            boot: options::boot_id(),
            runtime,
            images,
            network,
            builds,
            identities,
            starts: Semaphore::new(PARALLEL_STARTS),
            table: Mutex::new(BTreeMap::new()),
            lives: Mutex::new(tokio::task::JoinSet::new()),
            one_offs: Mutex::default(),
            changes: watch::Sender::new(0),
            assignment: watch::Sender::new(assignment.map(Arc::new)),
            logging: watch::Sender::new(Arc::new(logging)),
            drains: Mutex::default(),
            pressure: Mutex::default(),
            keep_free_mib: options.keep_free_mib,
            out_of_memory: Mutex::default(),
            link,
            paths,
        }))
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        // Every change of the table is one assignment, so a panic elsewhere leaves it whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something observable changed.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A container of `app` was killed for want of memory.
    pub(crate) fn note_out_of_memory(&self, app: &AppName) {
        let mut all = self.out_of_memory.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(app.clone()).or_default() += 1;
    }

    /// Wakes at every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All that this node has.
    #[must_use]
    pub fn observed(&self) -> Observed {
        let containers = self.table().iter().map(|(id, e)| (id.clone(), e.status.clone())).collect();
        let facts = pressure::facts(&self.paths.data);
        let pressure = {
            let mut known = self.pressure.lock().unwrap_or_else(PoisonError::into_inner);
            *known = pressure::judge(*known, facts, self.keep_free_mib);
            *known
        };
        Observed {
            node: self.name.clone(),
            generation: self.assignment.borrow().as_ref().map_or(0, |a| a.generation),
            containers,
            capacity: self.capacity(facts),
            pressure,
            stalls: pressure::stalls(),
            network: Some(self.network.report()),
        }
    }

    fn capacity(&self, facts: Facts) -> Capacity {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Capacity {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_mib: facts.memory_total,
            disk_free_mib: facts.disk_free,
            disk_mib: facts.disk_total,
            cgroup: self.runtime.cgroup_kind().to_owned(),
            kernel,
        }
    }

    /// Whether this machine has started since an agent last ran on it, with orders to run something.
    pub(crate) fn is_cold(&self) -> bool {
        let before = std::fs::read_to_string(self.paths.boot()).unwrap_or_default();
        let has_orders =
            self.assignment.borrow().as_ref().is_some_and(|orders| !orders.containers.is_empty());
        has_orders && before.trim() != self.boot
    }

    /// Remembers that an agent ran in this boot.
    pub(crate) fn remember_boot(&self) -> std::io::Result<()> {
        std::fs::write(self.paths.boot(), &self.boot)
    }

    /// Takes over what an earlier agent left: containers that run are attached, whatever is nobody's is removed.
    pub async fn adopt(self: &Arc<Self>) -> anyhow::Result<()> {
        let records = Record::load_all(&self.paths.records(), self.runtime.seal())?;
        let known: BTreeSet<ContainerId> = records.iter().map(|record| record.spec.id.clone()).collect();
        for entry in std::fs::read_dir(self.paths.containers())? {
            let entry = entry?;
            let name = entry.file_name();
            if known.iter().any(|id| name.to_str() == Some(id.as_str())) {
                continue;
            }
            // A one-off command or a build step whose client is gone with the old agent. Removing it kills it.
            if let Err(error) = life::remove_runtime(self, entry.path()).await {
                tracing::warn!(dir = %entry.path().display(), error, "cannot remove what is nobody's");
            }
        }
        self.network.retain(&known).await?;
        for record in records {
            let begin = self.resume(&record).await;
            self.begin(record, begin);
        }
        Ok(())
    }

    /// How the life of a remembered container goes on.
    async fn resume(self: &Arc<Self>, record: &Record) -> Begin {
        let id = &record.spec.id;
        let dir = self.paths.containers().join(id.as_str());
        let unwanted =
            self.assignment.borrow().as_ref().is_some_and(|orders| !orders.containers.contains_key(id));
        if record.boot != self.boot && unwanted {
            // While this machine was away it was started elsewhere, most likely: it must not serve for a moment. It is removed next.
            self.clear(id, dir).await;
            return Begin::Settled(ContainerState::Failed {
                reason: "it is not wanted here any more".into(),
            });
        }
        if record.settled.is_none()
            && record.static_root.as_ref().is_some_and(|root| std::path::Path::new(root).is_dir())
        {
            return Begin::Serving;
        }
        if record.boot != self.boot {
            if record.spec.once.is_some() && record.settled.is_none() && record.incarnation > 0 {
                self.clear(id, dir).await;
                return Begin::Lost;
            }
            // Another boot: nothing of it runs, and its time of backing off is long over.
            self.clear(id, dir).await;
            return match &record.settled {
                Some(state @ (ContainerState::Exited { .. } | ContainerState::Failed { .. })) => {
                    Begin::Settled(state.clone())
                }
                _ => Begin::Fresh,
            };
        }
        if let Some(state) = &record.settled {
            return Begin::Settled(state.clone());
        }
        if record.incarnation == 0 {
            // It may have been made, but it never ran.
            self.clear(id, dir).await;
            return Begin::Fresh;
        }
        match self.runtime.attach(&dir).await {
            Ok(Attached::Alive(handle)) => Begin::Alive(handle),
            Ok(Attached::Exited(exit)) => Begin::Exited(exit),
            Ok(Attached::Lost) => {
                self.clear(id, dir).await;
                Begin::Lost
            }
            Err(error) => {
                let error = life::chain(&error);
                tracing::warn!(container = %id, error, "cannot attach to a container; it is started afresh");
                self.clear(id, dir).await;
                Begin::Lost
            }
        }
    }

    /// Removes what is left of an earlier life.
    async fn clear(self: &Arc<Self>, id: &ContainerId, dir: std::path::PathBuf) {
        if let Err(error) = life::remove_runtime(self, dir).await {
            tracing::warn!(container = %id, error, "cannot remove what is left of an earlier life");
        }
    }

    /// Puts a container into the table and begins its life in a task of its own.
    fn begin(self: &Arc<Self>, record: Record, begin: Begin) {
        let spec = Arc::new(record.spec.clone());
        let (stop, wake) = (CancellationToken::new(), Arc::new(Notify::new()));
        let ending = Arc::new(Ending::default());
        let entry = Entry {
            spec: spec.clone(),
            status: life::first_status(&record, &begin),
            handle: None,
            stop: stop.clone(),
            wake: wake.clone(),
            ending: ending.clone(),
        };
        self.table().insert(spec.id.clone(), entry);
        let life = Life { node: self.clone(), spec, record, stop, wake, ending };
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended lives are of no further interest.
        while lives.try_join_next().is_some() {}
        lives.spawn(life.run(begin));
        drop(lives);
        self.changed();
    }

    /// Lets go of all containers: they go on running, and the next agent adopts them.
    pub(crate) async fn close(&self) {
        let mut lives = std::mem::take(&mut *self.lives.lock().unwrap_or_else(PoisonError::into_inner));
        lives.shutdown().await;
    }

    /// Keeps this node as assigned until `stop` fires. Without an assignment nothing is started or removed.
    pub async fn reconcile(self: Arc<Self>, stop: CancellationToken) {
        let mut assignment = self.assignment.subscribe();
        let mut changes = self.subscribe();
        while !stop.is_cancelled() {
            let wanted = assignment.borrow_and_update().clone();
            changes.mark_unchanged();
            let mut due = RESYNC;
            if let Some(wanted) = wanted {
                let observed: BTreeMap<ContainerId, ContainerState> =
                    self.table().iter().map(|(id, entry)| (id.clone(), entry.status.state.clone())).collect();
                let now = now_ms();
                for action in reconcile::plan(&wanted.containers, &observed, now) {
                    self.execute(action, &wanted);
                }
                let next = reconcile::next_due_ms(&observed).map(|at| at.saturating_sub(now).max(1));
                due = due
                    .min(Duration::from_millis(next.and_then(|ms| ms.try_into().ok()).unwrap_or(u64::MAX)));
            }
            // Every arm is cancel-safe and only wakes us: a pass reads everything afresh.
            tokio::select! {
                () = stop.cancelled() => {}
                changed = assignment.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    fn execute(self: &Arc<Self>, action: Action, wanted: &Assignment) {
        match action {
            Action::Start(id) => {
                // A plan starts only what is desired.
                if let Some(spec) = wanted.containers.get(&id) {
                    tracing::info!(app = %spec.app, release = %spec.release, container = %id, "starting");
                    self.begin(Record::new(spec.clone()), Begin::Fresh);
                }
            }
            Action::Restart(id) => {
                if let Some(entry) = self.table().get_mut(&id) {
                    entry.status.state = ContainerState::Preparing;
                    entry.wake.notify_one();
                }
            }
            Action::Remove(id) => {
                if let Some(entry) = self.table().get_mut(&id) {
                    tracing::info!(app = %entry.spec.app, container = %id, "removing");
                    entry.status.state = ContainerState::Stopping;
                    entry.stop.cancel();
                }
                self.changed();
            }
        }
    }
}
