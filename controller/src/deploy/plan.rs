//! What is persisted of an app's deploys: every container that is to exist, and the operation that is under way.
//!
//! In: steps of an operation. Out: the next [`AppPlan`]. The steps are pure; `state` writes each one to the store before
//! anyone acts on it. `docs/deploys.md` draws the states.

pub use super::batches::Batch;
use crate::release::Slot;
use crate::routing::{Serving, Trial};
use berth_model::container::ContainerSpec;
use berth_model::release::{App, Formation, Outcome};
use berth_model::{ContainerId, HostPattern, NodeName, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One app's containers and what is being done to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPlan {
    /// Every container that its node is to have.
    pub containers: BTreeMap<ContainerId, Planned>,
    /// What is under way.
    pub operation: Option<Operation>,
    /// A release on trial beside the one that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The release that serves is watched: if it goes bad, it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
}

/// One container that is to exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Where.
    pub node: NodeName,
    /// What.
    pub spec: ContainerSpec,
    /// What it is there for.
    pub role: Role,
    /// The release it serves, where that is another than the one it was started for: a rollback that took it up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<ReleaseVersion>,
}

impl Planned {
    /// The release it runs for.
    #[must_use]
    pub fn release(&self) -> ReleaseVersion {
        self.stands_for.unwrap_or(self.spec.release)
    }
}

/// What a container is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// Made by the operation under way: it starts and gets no traffic yet.
    New,
    /// It serves.
    Serving,
    /// It serves the share of the release on trial.
    Canary,
    /// It gets no traffic and is kept running, so that a rollback takes no time.
    Warm {
        /// When it goes; milliseconds since the Unix epoch.
        until_ms: i64,
    },
    /// It gets no new traffic and goes when it has nothing in flight.
    Retiring {
        /// When it goes at the latest; milliseconds since the Unix epoch.
        until_ms: i64,
    },
}

/// A release on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Which.
    pub release: ReleaseVersion,
    /// Its share of the requests, in percent, 1 to 99.
    pub percent: u8,
    /// The formation that goes with it when it is promoted.
    pub formation: Option<Formation>,
    /// Milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// A release that is watched after its switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Which.
    pub release: ReleaseVersion,
    /// Where it goes back to.
    pub back_to: ReleaseVersion,
    /// Where it goes from there if that goes bad too: the last release whose time was up, where `back_to` was watched itself.
    #[serde(default)]
    pub proven: Option<ReleaseVersion>,
    /// Until when; milliseconds since the Unix epoch.
    pub until_ms: i64,
    /// Share of 5xx in the minute before the switch, in percent: no worse than that is not its fault.
    pub before_percent: u32,
}

/// An operation between its first and its last step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Which release the new containers run.
    pub release: ReleaseVersion,
    /// Whether the operation made that release, so that its outcome depends on it.
    pub makes_release: bool,
    /// Whether a controller that starts again carries it on. A push is taken back instead: its pusher saw it fail.
    pub resumes: bool,
    /// How far it is.
    pub phase: Phase,
    /// What retires when the new ones are ready, where there are no batches.
    #[serde(default)]
    pub retire: BTreeSet<ContainerId>,
    /// What is still to be done; the first is under way.
    #[serde(default)]
    pub batches: Vec<Batch>,
    /// The formation that goes with it.
    pub formation: Option<Formation>,
    /// For people: `deploy of v3`, `restart` …
    pub title: String,
    /// How long old containers may go on with what they have in flight, in seconds.
    pub wait_to_retire_secs: u32,
    /// Whether `web` of before is kept running for a while after the switch.
    #[serde(default)]
    pub keeps_warm: bool,
    /// What becomes of the release on trial with the last switch.
    #[serde(default)]
    pub trial: TrialEnd,
    /// Who is watched from the last switch on, and for how long, in seconds.
    #[serde(default)]
    pub watch: Option<(Watch, u32)>,
    /// Whether the app's config becomes that of the release.
    #[serde(default)]
    pub restores_config: bool,
    /// Whether containers that are kept running are taken up again.
    #[serde(default)]
    pub takes_up: bool,
    /// Other releases that it ends, and how they went.
    #[serde(default)]
    pub ends: Vec<(ReleaseVersion, Outcome)>,
    /// Nodes that slots were planned for: they go there if they may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub towards: Vec<(Slot, NodeName)>,
    /// What it has started.
    #[serde(default)]
    pub started: BTreeSet<ContainerId>,
    /// What earlier batches have put out of service, as it was: it comes back if a later one fails.
    #[serde(default)]
    pub replaced: Vec<Planned>,
}

/// What becomes of a release on trial when an operation succeeds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialEnd {
    /// It goes on.
    #[default]
    Keep,
    /// It is over, and its containers go.
    Over,
    /// This one is on trial from then on.
    Begin(Canary),
    /// Its containers serve like all others: it is the release.
    Promote,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The `release` process runs; no new container exists.
    Releasing,
    /// New containers start, batch by batch.
    Starting,
    /// A batch failed: what earlier batches replaced comes back.
    Restoring,
    /// New ones serve and old ones retire; routes and records follow. There is no way back from here.
    Swapped,
}

impl Operation {
    /// What is still to be done.
    #[must_use]
    pub fn pending(&self) -> Vec<Batch> {
        if self.batches.is_empty() && matches!(self.phase, Phase::Releasing | Phase::Starting) {
            return vec![Batch { retire: self.retire.clone(), swap: true, ..Batch::default() }];
        }
        self.batches.clone()
    }
}

impl AppPlan {
    /// The containers with this role test.
    pub fn with(&self, test: impl Fn(Role) -> bool) -> impl Iterator<Item = (&ContainerId, &Planned)> {
        self.containers.iter().filter(move |(_, planned)| test(planned.role))
    }

    /// Those that serve.
    pub fn serving(&self) -> impl Iterator<Item = (&ContainerId, &Planned)> {
        self.with(|role| role == Role::Serving)
    }

    /// Those that serve the share of the release on trial.
    pub fn on_trial(&self) -> impl Iterator<Item = (&ContainerId, &Planned)> {
        self.with(|role| role == Role::Canary)
    }

    /// Those that serve in any way.
    pub fn in_service(&self) -> impl Iterator<Item = (&ContainerId, &Planned)> {
        self.with(|role| matches!(role, Role::Serving | Role::Canary))
    }

    /// Those that the operation under way has made.
    pub fn new_ones(&self) -> impl Iterator<Item = (&ContainerId, &Planned)> {
        self.with(|role| role == Role::New)
    }

    /// Nothing exists and nothing is to be known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
            && self.operation.is_none()
            && self.canary.is_none()
            && self.watch.is_none()
    }

    /// Begins an operation. One that makes a release ends the watch over the one before.
    #[must_use]
    pub fn begin(&self, operation: Operation) -> Self {
        let mut next = self.clone();
        if operation.makes_release {
            next.watch = None;
        }
        next.operation = Some(operation);
        next
    }

    /// Puts what the first batch is to replace out of service before anything starts, and is at [`Phase::Starting`].
    #[must_use]
    pub fn stop_first(&self, now_ms: i64) -> Self {
        let mut next = self.clone();
        let Some(operation) = &mut next.operation else { return next };
        operation.phase = Phase::Starting;
        let Some(batch) = operation.batches.first() else { return next };
        let wait_ms = i64::from(operation.wait_to_retire_secs) * 1000;
        for id in batch.retire.clone() {
            let Some(planned) = next.containers.get_mut(&id) else { continue };
            if matches!(planned.role, Role::Serving | Role::Canary) {
                operation.replaced.push(planned.clone());
                let wait = if planned.spec.process.is_web() { wait_ms } else { 0 };
                planned.role = Role::Retiring { until_ms: now_ms.saturating_add(wait) };
            }
        }
        next
    }

    /// Wants these containers too, and is at [`Phase::Starting`].
    #[must_use]
    pub fn start(&self, new: impl IntoIterator<Item = (NodeName, ContainerSpec)>) -> Self {
        let mut next = self.clone();
        let Some(operation) = &mut next.operation else { return next };
        operation.phase = Phase::Starting;
        for (node, spec) in new {
            operation.started.insert(spec.id.clone());
            let planned = Planned { node, spec, role: Role::New, stands_for: None };
            next.containers.insert(planned.spec.id.clone(), planned);
        }
        next
    }

    /// Takes up containers that were kept running, for `release`, and is at [`Phase::Starting`].
    #[must_use]
    pub fn take_up(&self, kept: &BTreeSet<ContainerId>, release: ReleaseVersion) -> Self {
        let mut next = self.start([]);
        let Some(operation) = &mut next.operation else { return next };
        for (id, planned) in &mut next.containers {
            if kept.contains(id) && matches!(planned.role, Role::Warm { .. }) {
                planned.role = Role::New;
                planned.stands_for = Some(release);
                operation.started.insert(id.clone());
            }
        }
        next
    }

    /// The slots of `wanted` that no new container fills yet.
    #[must_use]
    pub fn unfilled(&self, wanted: &[Slot]) -> Vec<Slot> {
        let filled: BTreeSet<Slot> = self
            .new_ones()
            .map(|(_, planned)| (planned.spec.process.clone(), planned.spec.ordinal))
            .collect();
        wanted.iter().filter(|slot| !filled.contains(slot)).cloned().collect()
    }

    /// The first batch is done: if it swaps, the new ones serve and its old ones retire. After the last one the operation is
    /// at [`Phase::Swapped`]. What never has requests in flight through the proxy (no `web`) goes at once.
    #[must_use]
    pub fn advance(&self, now_ms: i64) -> Self {
        let mut next = self.clone();
        let Some(mut operation) = next.operation.take() else { return next };
        let mut pending = operation.pending();
        if pending.is_empty() {
            next.operation = Some(operation);
            return next;
        }
        let batch = pending.remove(0);
        operation.batches = pending;
        operation.retire.clear();
        let last = operation.batches.is_empty();
        let wait_ms = i64::from(operation.wait_to_retire_secs) * 1000;
        let begins = matches!(operation.trial, TrialEnd::Begin(_));
        for (id, planned) in &mut next.containers {
            if planned.role == Role::New && batch.swap {
                planned.role = if begins { Role::Canary } else { Role::Serving };
            } else if batch.retire.contains(id) && matches!(planned.role, Role::Serving | Role::Canary) {
                if !last {
                    operation.replaced.push(planned.clone());
                }
                let web = planned.spec.process.is_web();
                let until_ms = now_ms.saturating_add(if web { wait_ms } else { 0 });
                planned.role = match operation.keeps_warm && web && planned.role == Role::Serving {
                    true => Role::Warm { until_ms },
                    false => Role::Retiring { until_ms },
                };
            }
        }
        if last {
            operation.phase = Phase::Swapped;
            operation.replaced.clear();
            if let Some((watch, secs)) = operation.watch.take() {
                let until_ms = now_ms.saturating_add(i64::from(secs) * 1000);
                next.watch = Some(Watch { until_ms, ..watch });
            }
            match std::mem::take(&mut operation.trial) {
                TrialEnd::Keep => {}
                TrialEnd::Over => next.canary = None,
                TrialEnd::Begin(canary) => next.canary = Some(canary),
                TrialEnd::Promote => {
                    next.canary = None;
                    for planned in next.containers.values_mut().filter(|one| one.role == Role::Canary) {
                        planned.role = Role::Serving;
                    }
                }
            }
        }
        next.operation = Some(operation);
        next
    }

    /// Takes the operation back: its new containers are wanted no more. What earlier batches have put out of service serves
    /// again if it is still there; for the rest the operation goes on, at [`Phase::Restoring`].
    #[must_use]
    pub fn undo(&self, now_ms: i64) -> Self {
        let mut next = self.clone();
        let over = |operation: &Operation| matches!(operation.phase, Phase::Restoring | Phase::Swapped);
        if next.operation.as_ref().is_some_and(over) {
            return next; // it is being taken back, or cannot be
        }
        next.containers.retain(|_, planned| planned.role != Role::New);
        let Some(operation) = &mut next.operation else { return next };
        operation.phase = Phase::Restoring;
        operation.batches.clear();
        operation.replaced.retain(|old| match next.containers.get_mut(&old.spec.id) {
            Some(planned) => {
                planned.role = old.role;
                false
            }
            None => true,
        });
        let swapped = operation.started.iter().any(|id| next.containers.contains_key(id));
        match operation.replaced.is_empty() {
            true if swapped => next.restored(now_ms),
            true => Self { operation: None, ..next },
            false => next,
        }
    }

    /// Wants containers like those that were replaced and are gone.
    #[must_use]
    pub fn restart_replaced(&self, new: impl IntoIterator<Item = (NodeName, ContainerSpec)>) -> Self {
        let mut next = self.clone();
        let Some(operation) = &mut next.operation else { return next };
        operation.replaced.clear();
        for (node, spec) in new {
            let planned = Planned { node, spec, role: Role::New, stands_for: None };
            next.containers.insert(planned.spec.id.clone(), planned);
        }
        next
    }

    /// What was replaced is back: it serves, and what the operation had started goes. The operation is over.
    #[must_use]
    pub fn restored(&self, now_ms: i64) -> Self {
        let mut next = self.clone();
        let Some(operation) = next.operation.take() else { return next };
        let wait_ms = i64::from(operation.wait_to_retire_secs) * 1000;
        for (id, planned) in &mut next.containers {
            if planned.role == Role::New {
                planned.role = Role::Serving;
            } else if operation.started.contains(id) {
                let wait = if planned.spec.process.is_web() { wait_ms } else { 0 };
                planned.role = Role::Retiring { until_ms: now_ms.saturating_add(wait) };
            }
        }
        next
    }

    /// The operation is over.
    #[must_use]
    pub fn finish(&self) -> Self {
        Self { operation: None, ..self.clone() }
    }

    /// Containers of lost nodes are started elsewhere: each of `moves` is the one that goes, and where which one takes its
    /// place, in the same role. `gone` go without anything in their place. An operation under way goes on with the new ones.
    #[must_use]
    pub fn relocate(
        &self,
        moves: impl IntoIterator<Item = (ContainerId, NodeName, ContainerSpec)>,
        gone: &BTreeSet<ContainerId>,
    ) -> Self {
        let mut next = self.without(gone);
        for (old, node, spec) in moves {
            let Some(planned) = next.containers.remove(&old) else { continue };
            let id = spec.id.clone();
            if let Some(operation) = &mut next.operation {
                let batches = operation.batches.iter_mut().map(|batch| &mut batch.retire);
                for ids in batches.chain([&mut operation.retire, &mut operation.started]) {
                    if ids.remove(&old) {
                        ids.insert(id.clone());
                    }
                }
            }
            next.containers.insert(id, Planned { node, spec, ..planned });
        }
        next
    }

    /// Without these.
    #[must_use]
    pub fn without(&self, gone: &BTreeSet<ContainerId>) -> Self {
        let mut next = self.clone();
        next.containers.retain(|id, _| !gone.contains(id));
        next
    }

    /// The release on trial is to have these counts when it is promoted.
    #[must_use]
    pub fn rescale_trial(&self, counts: &Formation) -> Self {
        let mut next = self.clone();
        if let Some(formation) = next.canary.as_mut().and_then(|canary| canary.formation.as_mut()) {
            formation.0.extend(counts.0.clone());
        }
        next
    }

    /// How `release` is watched after it took the place of `before`. What is watched itself says nothing of what is usual, and is
    /// no end of the way back.
    #[must_use]
    pub fn watch_after(
        &self,
        release: ReleaseVersion,
        before: ReleaseVersion,
        before_percent: u32,
        now_ms: i64,
    ) -> Watch {
        let watch = Watch { release, back_to: before, proven: None, until_ms: 0, before_percent };
        match self.watch.as_ref().filter(|one| one.release == before && one.until_ms > now_ms) {
            None => watch,
            Some(Watch { back_to, proven, before_percent, .. }) => {
                Watch { proven: Some(proven.unwrap_or(*back_to)), before_percent: *before_percent, ..watch }
            }
        }
    }

    /// Nobody is watched any more.
    #[must_use]
    pub fn unwatched(&self) -> Self {
        Self { watch: None, ..self.clone() }
    }

    /// This one is watched no more.
    #[must_use]
    pub fn unwatched_of(&self, release: ReleaseVersion) -> Self {
        let mut next = self.clone();
        next.watch.take_if(|watch| watch.release == release);
        next
    }

    /// The app as routing sees it. The release is that of the containers that serve: it changes with them.
    #[must_use]
    pub fn routed<'a>(&'a self, app: &'a App, hosts: Vec<HostPattern>) -> Serving<'a> {
        let is_web = |planned: &&Planned| planned.spec.process.is_web();
        let web: Vec<_> = self.serving().map(|(_, planned)| planned).filter(is_web).collect();
        let release = web.iter().map(|planned| planned.release()).max().or(app.current);
        let web: Vec<_> = web.into_iter().map(|planned| &planned.spec).collect();
        let trial = self.canary.as_ref().map(|canary| Trial {
            percent: canary.percent,
            web: self.on_trial().map(|(_, planned)| &planned.spec).collect(),
        });
        // An operation that stops the old ones first has taken them out: requests wait for the new ones.
        let changing = self.operation.as_ref().is_some_and(|operation| {
            operation.replaced.iter().any(|old| old.spec.process.is_web())
                || operation.phase == Phase::Restoring
        });
        let waits = web.is_empty() && changing;
        let counted = self.canary.is_some() || self.watch.is_some();
        Serving { app, hosts, release, web, trial, waits, counted }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
