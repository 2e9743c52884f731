//! Emptying a node: everything that can run elsewhere is started there, and goes here when it serves there.
//!
//! In: nodes whose record says so. Out: restarts of single containers, one of each process type at a time and several apps
//! side by side, until nothing is left but what is bound to the node. That a node is emptied is in the store: it goes on when
//! the controller starts again, or when nobody watches, until it is taken back.

use super::plan::{AppPlan, TrialEnd};
use super::rollout::{Goal, Work, ids};
use crate::Platform;
use crate::errors::{conflict, failed, not_found};
use crate::platform::{PlatformError, ProgressSender, now_ms, say};
use crate::release::Slot;
use crate::schedule::{self, Pins};
use berth_model::api::{ApiError, Progress};
use berth_model::container::ContainerSpec;
use berth_model::node::NodeRecord;
use berth_model::{AppName, ContainerId, NodeName, ProcessType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);
/// Apps that are moved at one time.
const AT_ONCE: usize = 8;
/// First and longest pause after a move that failed.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// What goes on with the apps of nodes that are being emptied.
#[derive(Debug, Default)]
pub(crate) struct Drains(Mutex<BTreeMap<AppName, Move>>);

#[derive(Clone, Debug, Default)]
struct Move {
    under_way: bool,
    /// Why the last one failed, how often in a row, and until when nothing is tried.
    failed: Option<(String, u32, Instant)>,
}

impl Drains {
    /// Takes the app's turn, unless it is moved already or rests.
    fn begin(&self, app: &AppName) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = all.entry(app.clone()).or_default();
        let rests = one.failed.as_ref().is_some_and(|(_, _, until)| *until > Instant::now());
        if one.under_way || rests {
            return false;
        }
        one.under_way = true;
        true
    }

    fn end(&self, app: &AppName, result: Result<(), ApiError>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = all.entry(app.clone()).or_default();
        one.under_way = false;
        match result {
            Ok(()) => drop(all.remove(app)),
            Err(error) => {
                let times = one.failed.as_ref().map_or(0, |(_, times, _)| *times);
                let pause = (PAUSE.0 * 2_u32.pow(times.min(6))).min(PAUSE.1);
                one.failed = Some((error.message, times.saturating_add(1), Instant::now() + pause));
            }
        }
    }

    fn why(&self, app: &AppName) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(all.get(app)?.failed.as_ref()?.0.clone())
    }
}

/// Why a container cannot run on another node, if so.
fn bound(spec: &ContainerSpec, pins: &Pins) -> Option<String> {
    let here = |volume: &schedule::Volume| !matches!(pins.get(volume), Some(None));
    let volume = schedule::volumes(spec).into_iter().find(here)?;
    Some(format!("{volume} is on this node's disk"))
}

/// What is to be moved next: of each process type the first that is on one of `nodes` and may go.
pub(super) fn next(plan: &AppPlan, nodes: &BTreeSet<NodeName>, pins: &Pins) -> BTreeSet<ContainerId> {
    let mut first: BTreeMap<&ProcessType, (u32, &ContainerId)> = BTreeMap::new();
    for (id, planned) in plan.in_service().filter(|(_, planned)| nodes.contains(&planned.node)) {
        if bound(&planned.spec, pins).is_some() {
            continue;
        }
        let this = (planned.spec.ordinal, id);
        let known = first.entry(&planned.spec.process).or_insert(this);
        *known = (*known).min(this);
    }
    first.into_values().map(|(_, id)| id.clone()).collect()
}

impl Work {
    /// Starts others in place of these containers and lets them go when those serve, as a restart does. Where to is what
    /// placing says.
    pub(super) async fn shift(&self, chosen: &BTreeSet<ContainerId>) -> Result<(), ApiError> {
        let app = self.app().await?;
        let plan = self.platform.deploys().plan(&self.app);
        let slots = |ids: &BTreeSet<ContainerId>| -> Vec<Slot> {
            let planned = ids.iter().filter_map(|id| plan.containers.get(id));
            planned.map(|planned| (planned.spec.process.clone(), planned.spec.ordinal)).collect()
        };
        let of = |serving: BTreeSet<ContainerId>| -> BTreeSet<ContainerId> {
            serving.intersection(chosen).cloned().collect()
        };
        let on_trial = of(ids(plan.on_trial()));
        if let Some(canary) = plan.canary.as_ref().filter(|_| !on_trial.is_empty()) {
            let release = self.platform.existing_release(&self.app, canary.release).await?;
            let mut goal = Goal::new("a move to another node", release);
            goal.start = slots(&on_trial);
            goal.retire = on_trial;
            goal.trial = TrialEnd::Begin(canary.clone());
            self.carry_out(&app, goal).await?;
        }
        let serving = of(ids(plan.serving()));
        let Some(release) = self.current(&app).await?.filter(|_| !serving.is_empty()) else { return Ok(()) };
        let mut goal = Goal::new("a move to another node", release);
        goal.start = slots(&serving);
        goal.retire = serving;
        self.carry_out(&app, goal).await
    }
}

/// Moves what is on nodes that are being emptied, until `stop`.
pub(super) async fn keep_draining(platform: Platform, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut nodes = platform.store().watch("nodes/");
    while !stop.is_cancelled() {
        let rests = pass(&platform, &slots).await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot go on with emptying a node yet");
            false
        });
        tokio::select! {
            () = stop.cancelled() => {}
            news = nodes.changed() => {
                if news.is_none() {
                    return; // the store is closed
                }
            }
            () = tokio::time::sleep(LOOK), if !rests => {}
        }
    }
}

/// Moves what can be moved now. True if no node is being emptied.
async fn pass(platform: &Platform, slots: &Arc<Semaphore>) -> Result<bool, PlatformError> {
    let nodes: BTreeSet<NodeName> =
        platform.nodes().await?.into_iter().filter(|node| node.draining).map(|node| node.name).collect();
    if nodes.is_empty() {
        return Ok(true);
    }
    let pins = platform.pins().await?;
    for (app, plan) in platform.deploys().plans() {
        if next(&plan, &nodes, &pins).is_empty() || platform.under_way(&app).is_some() {
            continue;
        }
        let Ok(permit) = slots.clone().try_acquire_owned() else { break };
        if !platform.deploys().drains.begin(&app) {
            continue;
        }
        let (platform, nodes, pins) = (platform.clone(), nodes.clone(), pins.clone());
        tokio::spawn(async move {
            let result = shift(&platform, &app, &nodes, &pins).await;
            if let Err(error) = &result {
                tracing::warn!(%app, error = %error.message, "cannot be moved to another node yet");
            }
            platform.deploys().drains.end(&app, result);
            drop(permit);
        });
    }
    Ok(false)
}

async fn shift(
    platform: &Platform,
    app: &AppName,
    nodes: &BTreeSet<NodeName>,
    pins: &Pins,
) -> Result<(), ApiError> {
    // Whatever else is done to it comes first.
    let Ok(turn) = platform.try_operation(app, "a move to another node") else { return Ok(()) };
    let (progress, _) = tokio::sync::mpsc::channel(1); // nobody listens
    let (by, cancel) = (super::BERTH.to_owned(), CancellationToken::new());
    let work = Work { platform: platform.clone(), app: app.clone(), by, progress, cancel };
    let result = work.shift(&next(&platform.deploys().plan(app), nodes, pins)).await;
    drop(turn);
    result
}

/// What is still on a node.
#[derive(Debug, Default)]
struct Left {
    /// Going, or about to.
    goes: BTreeMap<ContainerId, (AppName, String)>,
    /// What cannot go, and why.
    stays: Vec<String>,
}

async fn left(platform: &Platform, node: &NodeName) -> Result<Left, ApiError> {
    let pins = platform.pins().await?;
    let mut left = Left::default();
    for (app, plan) in platform.deploys().plans() {
        for (id, planned) in plan.containers.iter().filter(|(_, planned)| planned.node == *node) {
            let name = format!("{app} {}.{}", planned.spec.process, planned.spec.ordinal);
            match bound(&planned.spec, &pins) {
                Some(why) => left.stays.push(format!("{name}: {why}")),
                None => drop(left.goes.insert(id.clone(), (app.clone(), name))),
            }
        }
    }
    for (_, run) in platform.runs().all() {
        if run.info.node.as_ref() == Some(node) {
            left.stays.push(format!("{}: it runs to its end", run.info.name));
        }
    }
    Ok(left)
}

async fn mark(platform: &Platform, node: &NodeName, draining: bool) -> Result<(), ApiError> {
    if !platform.deploys().fleet().nodes().iter().any(|view| view.name == *node)
        && platform.node(node).await?.is_none()
    {
        return Err(not_found(format!("there is no node {node}; see them with: berth node:list")));
    }
    let change = |record: Option<NodeRecord>| {
        let record = record.unwrap_or_else(|| NodeRecord::new(node.clone(), now_ms()));
        Ok::<_, PlatformError>(NodeRecord { draining, ..record })
    };
    platform.change_node(node, change).await?;
    Ok(())
}

/// The node takes new containers again; what was moved away stays where it is.
pub async fn undo(platform: &Platform, node: &NodeName) -> Result<(), ApiError> {
    mark(platform, node, false).await
}

/// Has a node emptied, and says how it goes until nothing is left that can go. Who stops watching stops nothing.
///
/// Errors: there is no such node, or no other one; something cannot go; it took longer than `limit`. The node stays as it is
/// then, and gets no new containers.
pub async fn drain(
    platform: &Platform,
    node: &NodeName,
    limit: Option<Duration>,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let fleet = platform.deploys().fleet();
    if !fleet.nodes().iter().any(|view| view.name != *node && view.alive) {
        return Err(conflict(format!("there is no other node that could take what {node} has")));
    }
    mark(platform, node, true).await?;
    let undo = format!("berth node:drain {node} --undo");
    say(progress, Progress::Step { text: format!("Emptying {node}; to take it back: {undo}") }).await;
    let began = Instant::now();
    let mut known: BTreeMap<ContainerId, (AppName, String)> = BTreeMap::new();
    let mut told: BTreeSet<String> = BTreeSet::new();
    loop {
        let Left { goes, stays } = left(platform, node).await?;
        known.extend(goes.clone());
        let gone: Vec<ContainerId> =
            known.keys().filter(|id| !goes.contains_key(*id) && fleet.is_gone(id)).cloned().collect();
        for id in gone {
            if let Some((_, name)) = known.remove(&id) {
                say(progress, Progress::Detail { text: format!("{name} has gone") }).await;
            }
        }
        for (app, name) in goes.values() {
            if let Some(why) = platform.deploys().drains.why(app)
                && told.insert(format!("{app}: {why}"))
            {
                let text = format!("{name} could not be moved yet, and is tried again: {why}");
                say(progress, Progress::Warning { text }).await;
            }
        }
        for text in &stays {
            if told.insert(text.clone()) {
                say(progress, Progress::Warning { text: format!("stays: {text}") }).await;
            }
        }
        if known.is_empty() {
            return over(node, &stays, &undo, progress).await;
        }
        if progress.is_closed() {
            return Ok(());
        }
        if let Some(limit) = limit.filter(|limit| began.elapsed() >= *limit) {
            let names: Vec<_> = known.into_values().map(|(_, name)| name).take(10).collect();
            return Err(failed(format!(
                "after {} s {node} still has {}; it goes on without you, or take it back with: {undo}",
                limit.as_secs(),
                names.join(", ")
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn over(
    node: &NodeName,
    stays: &[String],
    undo: &str,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    if stays.is_empty() {
        let text = format!("{node} is empty, and gets nothing new until: {undo}");
        say(progress, Progress::Section { text }).await;
        return Ok(());
    }
    let shown: Vec<_> = stays.iter().take(10).map(String::as_str).collect();
    Err(failed(format!(
        "all that can go has gone, but {node} is not empty: {}. What is there stops with the machine; it gets nothing new \
         until: {undo}",
        shown.join("; ")
    )))
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
