//! Lost nodes: what ran there is started elsewhere.
//!
//! In: plans, and which nodes are lost. Out: plans in which each container that can run elsewhere has another one, with a name of
//! its own, in its place and role. That is one step of a plan, so it needs no turn and no operation: one under way goes on
//! with the new ones. What has nowhere to go stays where it was, and is tried again when nodes change.

use super::carry::unique;
use super::plan::{AppPlan, Planned, Role};
use crate::Platform;
use crate::errors::internal;
use crate::events::Event;
use crate::placing;
use crate::schedule::Placement;
use berth_model::api::ApiError;
use berth_model::container::{ContainerSpec, ContainerState};
use berth_model::image::Process;
use berth_model::{AppName, ContainerId, NameError, NodeName};
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Repairs what no event told about.
const RESYNC: Duration = Duration::from_secs(10);
/// Between two passes while a node is lost: every report wakes.
const PAUSE: Duration = Duration::from_millis(200);
/// Apps whose plans are written at one time.
const AT_ONCE: usize = 8;

/// What is to become of an app's containers of lost nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Each gets another one in its place, if there is a node for it.
    pub(super) moves: Vec<ContainerId>,
    /// These were on their way out anyway.
    pub(super) gone: BTreeSet<ContainerId>,
}

/// Decides about the containers of nodes that are lost. One that had ended for good has nothing to be started for.
pub(super) fn orders(
    plan: &AppPlan,
    is_lost: impl Fn(&NodeName) -> bool,
    has_ended: impl Fn(&ContainerId) -> bool,
) -> Orders {
    let mut orders = Orders::default();
    for (id, planned) in plan.containers.iter().filter(|(_, planned)| is_lost(&planned.node)) {
        match planned.role {
            Role::Warm { .. } | Role::Retiring { .. } => {
                orders.gone.insert(id.clone());
            }
            Role::New | Role::Serving | Role::Canary if has_ended(id) => {}
            Role::New | Role::Serving | Role::Canary => orders.moves.push(id.clone()),
        }
    }
    orders
}

/// Starts what lost nodes had elsewhere, until `stop`.
pub(super) async fn keep_replacing(platform: Platform, stop: CancellationToken) {
    let mut changes = platform.deploys().fleet().changes();
    let mut told = BTreeSet::new();
    while !stop.is_cancelled() {
        changes.mark_unchanged();
        tell(&platform, &mut told);
        if let Err(error) = pass(&platform).await {
            tracing::error!(error = %error.message, "cannot start what a lost node had elsewhere yet");
        }
        tokio::select! { // every arm is cancel-safe and only wakes us: a pass reads everything afresh
            () = stop.cancelled() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
        if !told.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Nodes that come and go are events.
fn tell(platform: &Platform, told: &mut BTreeSet<NodeName>) {
    let lost = platform.deploys().fleet().lost();
    for node in lost.difference(told) {
        let text = format!("node {node} is lost: it does not report");
        platform.events().record(Event::by_itself(None, "node.lost", text));
    }
    for node in told.difference(&lost) {
        let text = format!("node {node} reports again");
        platform.events().record(Event::by_itself(None, "node.back", text));
    }
    *told = lost;
}

/// One that takes the place of another: the same, but for its name. The files of a static site are on every node under one
/// name.
fn again(old: &ContainerSpec, unique: &str) -> Result<ContainerSpec, NameError> {
    if matches!(old.run, Process::Static(_)) {
        return Ok(old.clone());
    }
    let id = ContainerId::of(&old.app, &old.process, old.ordinal, unique)?;
    Ok(ContainerSpec { id, ..old.clone() })
}

/// What is to be done about lost nodes, over all apps.
#[derive(Debug, Default)]
pub(super) struct Todo {
    pub(super) orders: BTreeMap<AppName, Orders>,
    /// By the name of the new one: the old one, and what is to be started.
    pub(super) wanted: BTreeMap<ContainerId, (ContainerId, ContainerSpec)>,
}

/// Decides over all apps.
pub(super) fn todo(
    plans: &[(AppName, Arc<AppPlan>)],
    is_lost: impl Fn(&NodeName) -> bool,
    has_ended: impl Fn(&ContainerId) -> bool,
    mut unique: impl FnMut() -> String,
) -> Result<Todo, NameError> {
    let mut todo = Todo::default();
    for (app, plan) in plans {
        let orders = orders(plan, &is_lost, &has_ended);
        for old in &orders.moves {
            if let Some(Planned { spec, .. }) = plan.containers.get(old) {
                let new = again(spec, &unique())?;
                todo.wanted.insert(new.id.clone(), (old.clone(), new));
            }
        }
        if orders != Orders::default() {
            todo.orders.insert(app.clone(), orders);
        }
    }
    Ok(todo)
}

/// The old one, where the new one goes, and the new one.
pub(super) type Replacement = (ContainerId, NodeName, ContainerSpec);

/// What was placed, by app; and which old ones wait, and why.
pub(super) fn placed(
    wanted: BTreeMap<ContainerId, (ContainerId, ContainerSpec)>,
    mut placement: Placement,
) -> (BTreeMap<AppName, Vec<Replacement>>, BTreeMap<ContainerId, String>) {
    let (mut moves, mut waiting) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
    for (new, (old, spec)) in wanted {
        if let Some(node) = placement.placed.remove(&new) {
            moves.entry(spec.app.clone()).or_default().push((old, node, spec));
        } else if let Some(refusal) = placement.refused.remove(&new) {
            waiting.insert(old, refusal.to_string());
        }
    }
    (moves, waiting)
}

/// One pass over all apps.
async fn pass(platform: &Platform) -> Result<(), ApiError> {
    let deploys = platform.deploys();
    let fleet = deploys.fleet();
    let has_ended = |id: &ContainerId| {
        matches!(fleet.status(id).map(|status| status.state), Some(ContainerState::Exited { .. }))
    };
    let Todo { orders, wanted } = todo(&deploys.plans(), |node| fleet.is_lost(node), has_ended, unique)
        .map_err(|error| internal("cannot name a container", &error))?;
    if orders.is_empty() {
        deploys.note_waiting(BTreeMap::new());
        return Ok(());
    }
    let specs: Vec<_> = wanted.values().map(|(_, spec)| spec.clone()).collect();
    let placement = placing::place(platform, &specs, &BTreeMap::new()).await?;
    let (mut moves, waiting) = placed(wanted, placement);
    if deploys.note_waiting(waiting) {
        fleet.nudge();
    }
    let steps = orders.into_iter().map(|(app, orders)| {
        let moves = moves.remove(&app).unwrap_or_default();
        async move {
            if let Err(error) = replace(platform, &app, moves, orders.gone).await {
                tracing::error!(%app, error = %error.message, "cannot start it elsewhere yet");
            }
        }
    });
    futures_util::stream::iter(steps).buffer_unordered(AT_ONCE).collect::<()>().await;
    Ok(())
}

async fn replace(
    platform: &Platform,
    app: &AppName,
    moves: Vec<Replacement>,
    gone: BTreeSet<ContainerId>,
) -> Result<(), ApiError> {
    if moves.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let fleet = platform.deploys().fleet();
    let said: Vec<_> =
        moves.iter().map(|(_, node, spec)| format!("{}.{} on {node}", spec.process, spec.ordinal)).collect();
    let step = |plan: &AppPlan| {
        // Its node may be back, or the container be gone, since it was looked.
        let is_lost =
            |id: &ContainerId| plan.containers.get(id).is_some_and(|planned| fleet.is_lost(&planned.node));
        let moves = moves.into_iter().filter(|(old, _, _)| is_lost(old));
        let gone = gone.into_iter().filter(|id| is_lost(id)).collect();
        plan.relocate(moves, &gone)
    };
    platform.deploys().step(platform, app, step).await?;
    if !said.is_empty() {
        let text = format!("started elsewhere, for their node is lost: {}", said.join(", "));
        tracing::info!(%app, text, "replaced");
        platform.events().record(Event::by_itself(Some(app), "app.replaced", text));
    }
    Ok(())
}

#[cfg(test)]
#[path = "replace_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "simulation_tests.rs"]
mod simulation;
