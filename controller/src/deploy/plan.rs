//! What is persisted of an app's deploys: every container that is to exist, and the operation that is under way.
//!
//! In: steps of an operation. Out: the next [`AppPlan`]. The steps are pure; `state` writes each one to the store before
//! anyone acts on it.

use crate::routing::Serving;
use berth_model::container::ContainerSpec;
use berth_model::release::{App, Formation};
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
}

/// What a container is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// Made by the operation under way: it starts and gets no traffic yet.
    New,
    /// It serves.
    Serving,
    /// It gets no new traffic and goes when it has nothing in flight.
    Retiring {
        /// When it goes at the latest; milliseconds since the Unix epoch.
        until_ms: i64,
    },
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
    /// What retires when the new ones are ready.
    pub retire: BTreeSet<ContainerId>,
    /// The formation that goes with it.
    pub formation: Option<Formation>,
    /// For people: `deploy of v3`, `restart` …
    pub title: String,
    /// How long old containers may go on with what they have in flight, in seconds.
    pub wait_to_retire_secs: u32,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The `release` process runs; no new container exists.
    Releasing,
    /// The new containers start.
    Starting,
    /// New ones serve and old ones retire; routes and records follow. There is no way back from here.
    Swapped,
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

    /// Those that the operation under way has made.
    pub fn new_ones(&self) -> impl Iterator<Item = (&ContainerId, &Planned)> {
        self.with(|role| role == Role::New)
    }

    /// Begins an operation.
    #[must_use]
    pub fn begin(&self, operation: Operation) -> Self {
        Self { containers: self.containers.clone(), operation: Some(operation) }
    }

    /// Wants these containers too, and is at [`Phase::Starting`].
    #[must_use]
    pub fn start(&self, new: impl IntoIterator<Item = (NodeName, ContainerSpec)>) -> Self {
        let mut next = self.clone();
        for (node, spec) in new {
            next.containers.insert(spec.id.clone(), Planned { node, spec, role: Role::New });
        }
        if let Some(operation) = &mut next.operation {
            operation.phase = Phase::Starting;
        }
        next
    }

    /// Makes the new ones serve and the old ones retire, and is at [`Phase::Swapped`]. What never has requests in flight
    /// through the proxy (no `web`, static sites) goes at once.
    #[must_use]
    pub fn swap(&self, now_ms: i64) -> Self {
        let mut next = self.clone();
        let Some(operation) = &mut next.operation else { return next };
        operation.phase = Phase::Swapped;
        let wait_ms = i64::from(operation.wait_to_retire_secs) * 1000;
        let retire = std::mem::take(&mut operation.retire);
        for (id, planned) in &mut next.containers {
            if planned.role == Role::New {
                planned.role = Role::Serving;
            } else if retire.contains(id) && planned.role == Role::Serving {
                let wait = if planned.spec.process.is_web() { wait_ms } else { 0 };
                planned.role = Role::Retiring { until_ms: now_ms.saturating_add(wait) };
            }
        }
        next
    }

    /// Takes the operation back: its containers are wanted no more, the others are as they were.
    #[must_use]
    pub fn undo(&self) -> Self {
        let mut next = self.clone();
        next.containers.retain(|_, planned| planned.role != Role::New);
        next.operation = None;
        next
    }

    /// The operation is over.
    #[must_use]
    pub fn finish(&self) -> Self {
        Self { containers: self.containers.clone(), operation: None }
    }

    /// Without these.
    #[must_use]
    pub fn without(&self, gone: &BTreeSet<ContainerId>) -> Self {
        let mut next = self.clone();
        next.containers.retain(|id, _| !gone.contains(id));
        next
    }

    /// The app as routing sees it. The release is that of the containers that serve: it changes with them.
    #[must_use]
    pub fn routed<'a>(&'a self, app: &'a App, hosts: Vec<HostPattern>) -> Serving<'a> {
        let web: Vec<_> =
            self.serving().map(|(_, planned)| &planned.spec).filter(|spec| spec.process.is_web()).collect();
        let release = web.iter().map(|spec| spec.release).max().or(app.current);
        Serving { app, hosts, release, web }
    }
}
