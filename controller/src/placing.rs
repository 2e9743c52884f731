//! Placing for whoever starts containers: gathers what [`schedule`] decides by, and keeps where volumes are.
//!
//! In: specs without a node. Out: a [`Placement`]; volumes that it puts on a node are in the store when it is given, so that
//! nobody ever places them elsewhere.

use crate::Platform;
use crate::deploy::{Operation, Role};
use crate::errors::internal;
use crate::nodes::NodeView;
use crate::nodes::liveness::Life;
use crate::release;
use crate::schedule::{
    self, Move, Node, NodeState, Nodes, Pins, Placed, Placement, Standing, Volume, Wanted,
};
use berth_model::apart::{Aparts, aparts_of};
use berth_model::api::ApiError;
use berth_model::container::ContainerSpec;
use berth_model::image::Process;
use berth_model::node::NodeRecord;
use berth_model::placing::Rules;
use berth_model::release::App;
use berth_model::{AppName, ContainerId, NodeName, ProcessType};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// There once the volumes of a store from before there were several nodes have been given their node.
const ADOPTED: &str = "placing/volumes-adopted";

/// How long a place is kept for a container that is in no plan yet.
const KEPT: Duration = Duration::from_secs(30);

/// Places that were given and are in no plan yet. Held while places are given, so that none is given twice.
#[derive(Debug, Default)]
pub(crate) struct Given(tokio::sync::Mutex<BTreeMap<ContainerId, (NodeName, Placed, Instant)>>);

/// All that placing decides by.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Every node that has a record or reports.
    pub(crate) nodes: Nodes,
    /// Where volumes are.
    pub(crate) pins: Pins,
}

/// What placing sees of this moment: the nodes' records, what they report, what the plans and runs put on them, and what is
/// about to be in one.
pub(crate) async fn view(platform: &Platform) -> Result<View, ApiError> {
    let mut given = platform.places_given().0.lock().await;
    look(platform, &mut given).await
}

async fn look(
    platform: &Platform,
    given: &mut BTreeMap<ContainerId, (NodeName, Placed, Instant)>,
) -> Result<View, ApiError> {
    let records = platform.nodes().await?;
    let pins = platform.pins().await?;
    let mut seen: BTreeMap<NodeName, NodeView> =
        platform.deploys().fleet().nodes().into_iter().map(|node| (node.name.clone(), node)).collect();
    let mut nodes: Nodes = records
        .iter()
        .map(|record| (record.name.clone(), node(Some(record), seen.remove(&record.name).as_ref())))
        .collect();
    nodes.extend(seen.into_iter().map(|(name, view)| (name, node(None, Some(&view)))));
    if nodes.len() == 1 {
        // An only machine that is short of something is still all there is: it says so, and refuses nothing.
        for node in nodes.values_mut() {
            if matches!(node.state, NodeState::ShortOfDisk | NodeState::ShortOfMemory) {
                node.state = NodeState::Open;
            }
        }
    }
    let lost = platform.deploys().fleet().lost();
    for (_, plan) in platform.deploys().plans() {
        let batches = plan.operation.as_ref().map(Operation::pending).unwrap_or_default();
        let going: BTreeSet<&ContainerId> = batches.iter().flat_map(|batch| &batch.retire).collect();
        for (id, planned) in &plan.containers {
            given.remove(id);
            let Some(node) = nodes.get_mut(&planned.node) else { continue };
            // What goes makes room for what replaces it: for a moment both are there. So does what was lost.
            let goes = matches!(planned.role, Role::Retiring { .. } | Role::Warm { .. })
                || going.contains(id)
                || lost.contains(&planned.node);
            node.placed.push(Placed { goes, ..Placed::of(&planned.spec) });
        }
    }
    for (_, run) in platform.runs().all() {
        let Some((name, spec)) = run.placed() else { continue };
        given.remove(&spec.id);
        if let Some(node) = nodes.get_mut(name) {
            node.placed.push(Placed::of(spec));
        }
    }
    given.retain(|_, (_, _, since)| since.elapsed() < KEPT);
    for (name, placed, _) in given.values() {
        if let Some(node) = nodes.get_mut(name) {
            node.placed.push(placed.clone());
        }
    }
    Ok(View { nodes, pins })
}

/// One node, from what is wanted of it and what it says.
pub(crate) fn node(record: Option<&NodeRecord>, view: Option<&NodeView>) -> Node {
    let capacity = view.map(|view| view.capacity.clone()).unwrap_or_default();
    let offered = record.map(|record| record.offered).unwrap_or_default();
    Node {
        state: state(record, view),
        labels: record.map(|record| record.labels.clone()).unwrap_or_default(),
        memory_mib: offered.memory_mib.unwrap_or(capacity.memory_mib),
        cpu_millis: offered.cpu_millis.unwrap_or(u64::from(capacity.cpus) * 1000),
        disk_free_mib: capacity.disk_free_mib,
        placed: Vec::new(),
    }
}

/// The first thing that keeps new containers away.
fn state(record: Option<&NodeRecord>, view: Option<&NodeView>) -> NodeState {
    let Some(view) = view.filter(|view| view.alive && view.life != Life::Silent) else {
        return NodeState::Silent;
    };
    if !view.takes_work {
        return NodeState::Returning;
    }
    match record {
        Some(record) if record.draining => NodeState::Draining,
        Some(record) if record.cordoned => NodeState::Cordoned,
        _ if view.pressure.disk => NodeState::ShortOfDisk,
        _ if view.pressure.memory => NodeState::ShortOfMemory,
        _ => NodeState::Open,
    }
}

/// What placing goes by for containers of `process`.
fn rules_of(app: &App, process: &ProcessType, aparts: &Aparts) -> Arc<Rules> {
    Arc::new(Rules { apart: aparts_of(aparts, &app.name, process), ..app.placing_of(process) })
}

/// What these containers ask of a node, as their apps' settings are now.
pub(crate) async fn wanted(platform: &Platform, specs: &[ContainerSpec]) -> Result<Vec<Wanted>, ApiError> {
    let aparts = platform.aparts().await?;
    let mut rules: BTreeMap<(AppName, ProcessType), Arc<Rules>> = BTreeMap::new();
    for spec in specs {
        let of = (spec.app.clone(), spec.process.clone());
        if let Entry::Vacant(vacant) = rules.entry(of) {
            let app = platform.existing_app(&spec.app).await?;
            vacant.insert(rules_of(&app, &spec.process, &aparts));
        }
    }
    let of = |spec: &ContainerSpec| rules[&(spec.app.clone(), spec.process.clone())].clone();
    Ok(specs.iter().map(|spec| Wanted::of(spec, of(spec))).collect())
}

/// Finds a node for each of these containers. `towards` names the node that one was planned for.
pub(crate) async fn place(
    platform: &Platform,
    specs: &[ContainerSpec],
    towards: &BTreeMap<ContainerId, NodeName>,
) -> Result<Placement, ApiError> {
    let mut wanted = wanted(platform, specs).await?;
    for one in &mut wanted {
        one.towards = towards.get(&one.id).cloned();
    }
    let mut given = platform.places_given().0.lock().await;
    specs.iter().for_each(|spec| drop(given.remove(&spec.id)));
    loop {
        let View { nodes, pins } = look(platform, &mut given).await?;
        let placement = schedule::place(&wanted, &nodes, &pins);
        // Somebody else may have put one of them elsewhere meanwhile.
        if !platform.pin(&placement.pinned).await? {
            continue;
        }
        let now = Instant::now();
        for spec in specs {
            if let Some(node) = placement.placed.get(&spec.id) {
                given.insert(spec.id.clone(), (node.clone(), Placed::of(spec), now));
            }
        }
        return Ok(placement);
    }
}

/// Gives places back that are not taken after all.
pub(crate) async fn give_back(platform: &Platform, specs: &[ContainerSpec]) {
    let mut given = platform.places_given().0.lock().await;
    specs.iter().for_each(|spec| drop(given.remove(&spec.id)));
}

/// Gives the volumes of a store from before there were several nodes their node: the one where their app runs, or else the
/// controller's own machine, for there was no other. Done once.
pub(crate) async fn adopt_volumes(platform: &Platform) -> Result<(), ApiError> {
    if platform.load::<bool>(ADOPTED).await?.is_some() {
        return Ok(());
    }
    let own = std::fs::read_to_string(platform.options().data.join("node")).ok();
    let own = own.and_then(|text| NodeName::parse(text.trim()).ok());
    let mut pinned: BTreeMap<Volume, NodeName> = BTreeMap::new();
    for app in platform.apps().await? {
        let plan = platform.deploys().plan(&app.name);
        for planned in plan.containers.values() {
            for volume in schedule::volumes(&planned.spec) {
                pinned.insert(volume, planned.node.clone());
            }
        }
        if app.current.is_some()
            && let Some(own) = &own
        {
            for mount in &app.mounts {
                let volume = Volume::of(&app.name, &mount.source);
                pinned.entry(volume).or_insert_with(|| own.clone());
            }
        }
    }
    let known = platform.pins().await?;
    pinned.retain(|volume, _| !known.contains_key(volume));
    if !platform.pin(&pinned).await? {
        let error = std::io::Error::other("another controller writes to the store");
        return Err(internal("cannot record where volumes are", &error));
    }
    platform.save(ADOPTED, &true).await?;
    Ok(())
}

/// What somebody with several machines should know of the directories and volumes of an app.
pub(crate) async fn about_volumes(platform: &Platform, app: &App) -> Result<Vec<String>, ApiError> {
    if app.mounts.is_empty() {
        return Ok(Vec::new());
    }
    let pins = platform.pins().await?;
    let volumes = app.mounts.iter().map(|mount| Volume::of(&app.name, &mount.source));
    let bound = volumes.filter_map(|volume| {
        let node = pins.get(&volume)?.as_ref()?;
        Some(format!("its {volume} is on {node}: what mounts it runs there, and is never moved by itself"))
    });
    Ok(bound.collect())
}

/// Which other apps keep apart from an app, for which nothing is set in it.
pub(crate) async fn about_neighbours(platform: &Platform, app: &App) -> Result<Vec<String>, ApiError> {
    let aparts = platform.aparts().await?;
    let others =
        aparts.iter().filter(|(other, own)| **other != app.name && own.names().any(|one| *one == app.name));
    let text =
        |(other, _): (&AppName, _)| format!("{other} keeps apart from it, so it keeps apart from {other}");
    Ok(others.map(text).collect())
}

/// Containers that may be moved, of one app or all: they serve, nothing else is being done to their app, and their successors
/// can run beside them.
async fn standing(platform: &Platform, only: Option<&AppName>) -> Result<Vec<Standing>, ApiError> {
    let aparts = platform.aparts().await?;
    let mut all = Vec::new();
    for (name, plan) in platform.deploys().plans() {
        if only.is_some_and(|only| *only != name) || plan.operation.is_some() {
            continue;
        }
        let Some(app) = platform.app(&name).await? else { continue };
        let Some(release) = platform.current_release(&app).await? else { continue };
        let mut rules: BTreeMap<ProcessType, Arc<Rules>> = BTreeMap::new();
        for (_, planned) in plan.serving() {
            let process = &planned.spec.process;
            let is_static = matches!(planned.spec.run, Process::Static(_));
            if is_static || release::stops_first(&app, &release.config, process) {
                continue;
            }
            let rules = rules.entry(process.clone()).or_insert_with(|| rules_of(&app, process, &aparts));
            let wanted = Wanted::of(&planned.spec, rules.clone());
            all.push(Standing { wanted, node: planned.node.clone() });
        }
    }
    Ok(all)
}

/// Which few containers would better run elsewhere now.
pub(crate) async fn moves(
    platform: &Platform,
    only: Option<&AppName>,
    most: usize,
) -> Result<Vec<Move>, ApiError> {
    let standing = standing(platform, only).await?;
    let View { nodes, pins } = view(platform).await?;
    let planned = tokio::task::spawn_blocking(move || schedule::rebalance(&standing, &nodes, &pins, most));
    planned.await.map_err(|error| internal("planning the moves broke off", &error))
}
