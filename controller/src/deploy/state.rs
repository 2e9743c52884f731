//! The plans of all apps: written to the store step by step, and given to nodes from memory.
//!
//! In: the store at start, steps afterwards. Out: each app's [`AppPlan`], each node's [`Assignment`], and whose turn it is
//! to change an app.

use super::plan::{AppPlan, Planned, Role};
use crate::Platform;
use crate::errors::{internal, unavailable};
use crate::nodes::Fleet;
use crate::store::{Compare, Write};
use berth_model::api::{ApiError, ErrorCode};
use berth_model::image::{ImageRef, Process};
use berth_model::node::Assignment;
use berth_model::release::Outcome;
use berth_model::{AppName, ContainerId, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PLANS: &str = "deploys/";
const FLOOR: &str = "fleet/floor";
/// How many releases of an app can be brought back without fetching their image.
const KEPT_RELEASES: usize = 10;
/// Numbers (generations, revisions) one life of the controller may give out per second it lives. Seconds since the epoch
/// shifted by this stay below 2^53, so that every JSON reader keeps them whole.
const NUMBERS_BITS: u32 = 20;

fn plan_key(app: &AppName) -> String {
    format!("{PLANS}{app}")
}

/// The deploys of all apps. One for the whole controller, held by the platform.
#[derive(Debug, Default)]
pub struct Deploys {
    fleet: Fleet,
    cells: Mutex<BTreeMap<AppName, Arc<Cell>>>,
    loaded: std::sync::atomic::AtomicBool,
    pub(super) waking: super::sleep::Waking,
    pub(super) drains: super::drain::Drains,
    /// Containers of lost nodes, or of nodes that are being emptied, that have nowhere to go, and why.
    waiting: Mutex<BTreeMap<ContainerId, String>>,
    /// Held while routes are computed and published, so that an older view never overwrites a newer one.
    pub(super) routing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Cell {
    /// Held while the next plan is made and written.
    writing: tokio::sync::Mutex<()>,
    plan: Mutex<Arc<AppPlan>>,
    kept: Mutex<Vec<ImageRef>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deploys {
    /// Loads every plan. Nothing is told to any node before this is done.
    ///
    /// Errors: the store, or a plan that does not open (then no node may be told anything: its containers would go).
    pub(super) async fn load(&self, platform: &Platform, now_ms: i64) -> Result<(), ApiError> {
        let before: u64 = platform.load(FLOOR).await?.map_or(0, |(floor, _)| floor);
        let now = u64::try_from(now_ms / 1000).unwrap_or(0) << NUMBERS_BITS;
        let floor = now.max(before.saturating_add(1 << NUMBERS_BITS));
        platform.save(FLOOR, &floor).await?;
        self.fleet.raise(floor);
        let apps: BTreeSet<_> = platform.apps().await?.into_iter().map(|app| app.name).collect();
        for entry in platform.store().list(PLANS).await? {
            let name = entry.key.strip_prefix(PLANS).unwrap_or_default();
            let app =
                AppName::parse(name).map_err(|error| internal("the store has a plan of no app", &error))?;
            if !apps.contains(&app) {
                platform.remove(&entry.key).await?;
                continue;
            }
            let plain = platform.keyring().open_sealed(&entry.key, &entry.value);
            let plain = plain.map_err(|error| internal("a plan does not open", &error))?;
            let plan: AppPlan = serde_json::from_slice(&plain)
                .map_err(|error| internal(&format!("the plan of {app} cannot be read"), &error))?;
            self.fleet.plan(plan.containers.iter().map(|(id, planned)| (id, Some(&planned.node))));
            self.fleet.expect(plan.containers.values().map(|planned| planned.node.clone()));
            let cell = Cell { plan: Mutex::new(Arc::new(plan)), ..Cell::default() };
            lock(&self.cells).insert(app, Arc::new(cell));
        }
        for app in &apps {
            self.refresh_kept(platform, app).await?;
        }
        self.loaded.store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// Whether the plans are there; before that nobody may be told anything.
    pub(crate) fn check_loaded(&self) -> Result<(), ApiError> {
        match self.loaded.load(std::sync::atomic::Ordering::Acquire) {
            true => Ok(()),
            false => Err(unavailable("the controller is still loading its state; try again in a moment")),
        }
    }

    /// Nodes and proxies.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn cell(&self, app: &AppName) -> Arc<Cell> {
        lock(&self.cells).entry(app.clone()).or_default().clone()
    }

    /// One app's plan.
    #[must_use]
    pub fn plan(&self, app: &AppName) -> Arc<AppPlan> {
        let cell = lock(&self.cells).get(app).cloned();
        cell.map(|cell| lock(&cell.plan).clone()).unwrap_or_default()
    }

    /// Where this container is to be; `None` if it is in no plan.
    #[must_use]
    pub fn node_of(&self, container: &ContainerId) -> Option<NodeName> {
        self.plans().into_iter().find_map(|(_, plan)| Some(plan.containers.get(container)?.node.clone()))
    }

    /// Every app's plan.
    #[must_use]
    pub fn plans(&self) -> Vec<(AppName, Arc<AppPlan>)> {
        let cells = lock(&self.cells);
        cells.iter().map(|(app, cell)| (app.clone(), lock(&cell.plan).clone())).collect()
    }

    /// Takes one step: the plan that `step` makes of the current one is written to the store, then acted on. A step that
    /// changes nothing writes nothing.
    pub async fn step(
        &self,
        platform: &Platform,
        app: &AppName,
        step: impl FnOnce(&AppPlan) -> AppPlan,
    ) -> Result<Arc<AppPlan>, ApiError> {
        self.check_loaded()?;
        let cell = self.cell(app);
        let _writing = cell.writing.lock().await;
        let old = lock(&cell.plan).clone();
        let new = Arc::new(step(&old));
        if old == new {
            return Ok(new);
        }
        let key = plan_key(app);
        let write = if new.is_empty() {
            Write::Delete(key)
        } else {
            let plain =
                serde_json::to_vec(&*new).map_err(|error| internal("a plan cannot be written", &error))?;
            let sealed = platform
                .keyring()
                .seal(&key, &plain)
                .map_err(|error| internal("a plan cannot be sealed", &error))?;
            Write::Put(key, sealed)
        };
        // An app that was destroyed meanwhile must not leave a plan behind.
        let compare = match write {
            Write::Put(..) => vec![Compare::Present(format!("apps/{app}"))],
            _ => Vec::new(),
        };
        if platform.store().txn(compare, vec![write]).await?.is_none() {
            return Err(crate::platform::PlatformError::NoSuchApp(app.clone()).into());
        }
        self.fleet.plan(relocated(&old, &new));
        *lock(&cell.plan) = new.clone();
        let changed = changed(&old, &new);
        if changed.iter().any(|planned| is_static(planned)) {
            let nodes: BTreeSet<_> = self.fleet.nodes().into_iter().map(|node| node.name).collect();
            self.fleet.reassign(nodes.iter().chain(changed.iter().map(|planned| &planned.node)));
        } else {
            let nodes: BTreeSet<_> = changed.iter().map(|planned| &planned.node).collect();
            self.fleet.reassign(nodes.into_iter());
        }
        Ok(new)
    }

    /// Why a container whose node is lost is not started elsewhere, if so.
    #[must_use]
    pub fn waits(&self, id: &ContainerId) -> Option<String> {
        lock(&self.waiting).get(id).cloned()
    }

    /// Notes what has nowhere to go. Gives whether that is news.
    pub(super) fn note_waiting(&self, waiting: BTreeMap<ContainerId, String>) -> bool {
        let mut known = lock(&self.waiting);
        let news = *known != waiting;
        *known = waiting;
        news
    }

    /// All that `node` is to run, under its current generation.
    #[must_use]
    pub fn assignment(&self, node: &NodeName) -> Assignment {
        // The generation first: if a plan changes in between, the newer content goes out under the older number and once
        // more under its own.
        let generation = self.fleet.generation(node);
        let cells: Vec<_> = lock(&self.cells).values().cloned().collect();
        let mut containers = BTreeMap::new();
        let mut keep = BTreeSet::new();
        for cell in cells {
            let plan = lock(&cell.plan).clone();
            // Every node has the files of static sites: its own proxy serves them.
            let mine =
                plan.containers.iter().filter(|(_, planned)| planned.node == *node || is_static(planned));
            containers.extend(mine.map(|(id, planned)| (id.clone(), planned.spec.clone())));
            keep.extend(lock(&cell.kept).iter().cloned());
        }
        Assignment { generation, containers, keep_images: keep.into_iter().collect(), apps: None }
    }

    /// Reads afresh which images of an app may come back: those of its newest releases that went live, and of the one
    /// that is on its way.
    pub(super) async fn refresh_kept(&self, platform: &Platform, app: &AppName) -> Result<(), ApiError> {
        let releases = platform.releases(app).await?;
        let may_return =
            releases.iter().rev().filter(|release| !matches!(release.outcome, Outcome::Failed { .. }));
        let images: Vec<_> =
            may_return.map(|release| release.image.reference.clone()).take(KEPT_RELEASES).collect();
        let cell = self.cell(app);
        let changed = std::mem::replace(&mut *lock(&cell.kept), images.clone()) != images;
        if changed {
            let nodes: Vec<_> = self.fleet.nodes().into_iter().map(|node| node.name).collect();
            self.fleet.reassign(nodes.iter());
        }
        Ok(())
    }

    /// Forgets apps that are gone: their containers are stopped.
    pub(super) async fn retain(&self, platform: &Platform, apps: &BTreeSet<AppName>) -> Result<(), ApiError> {
        let gone: Vec<_> = lock(&self.cells).keys().filter(|app| !apps.contains(*app)).cloned().collect();
        for app in gone {
            // Asked again one by one: `apps` is older than an app that was made a moment ago.
            if platform.app(&app).await?.is_some() {
                continue;
            }
            self.step(platform, &app, |_| AppPlan::default()).await?;
            lock(&self.cells).remove(&app);
        }
        Ok(())
    }

    /// Apps that have containers on their way out.
    pub(super) fn retiring(&self) -> Vec<(AppName, Arc<AppPlan>)> {
        let goes = |role| matches!(role, Role::Retiring { .. } | Role::Warm { .. });
        let retires = |plan: &AppPlan| plan.with(goes).next().is_some();
        self.plans().into_iter().filter(|(_, plan)| retires(plan)).collect()
    }
}

/// Where containers are to be that were not there before; `None` for those that are wanted no more.
fn relocated<'a>(
    old: &'a AppPlan,
    new: &'a AppPlan,
) -> impl Iterator<Item = (&'a ContainerId, Option<&'a NodeName>)> {
    let gone = old.containers.keys().filter(|id| !new.containers.contains_key(*id)).map(|id| (id, None));
    gone.chain(new.containers.iter().map(|(id, planned)| (id, Some(&planned.node))))
}

fn is_static(planned: &Planned) -> bool {
    matches!(planned.spec.run, Process::Static(_))
}

/// What is in one of two plans only.
fn changed<'a>(old: &'a AppPlan, new: &'a AppPlan) -> Vec<&'a Planned> {
    let gone = old.containers.iter().filter(|(id, _)| !new.containers.contains_key(*id));
    let come = new.containers.iter().filter(|(id, _)| !old.containers.contains_key(*id));
    gone.chain(come).map(|(_, planned)| planned).collect()
}

/// What an operation that was told to stop answers.
pub(super) fn cancelled() -> ApiError {
    ApiError { code: ErrorCode::Failed, message: "cancelled; what ran before still runs".to_owned() }
}
