//! An app's life beside its deploys: how its processes are restarted and stopped, its lock, its end; what `ps:inspect` tells.
//!
//! In: words of the API. Out: the same, checked. No I/O.

use crate::container::{ContainerStatus, Limits, Mount, PublishedPort, RestartPolicy, Stop};
use crate::release::{App, Formation};
use crate::{AppName, ContainerId, EnvName, NodeName, ProcessType, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// What an app keeps of this; part of [`App`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppProcesses {
    /// Restart policies of single process types, instead of the app's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub restart: BTreeMap<ProcessType, RestartPolicy>,
    /// Stop signals of single process types, instead of the app's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stop_signal: BTreeMap<ProcessType, i32>,
    /// Grace times of single process types in seconds, instead of the app's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stop_timeout_secs: BTreeMap<ProcessType, u32>,
    /// Process types that were stopped and stay so until they are started, or something new is deployed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub stopped: BTreeSet<ProcessType>,
    /// `app.json` of the last deployed code says how many run, so `ps:scale` has no say.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scaled_by_code: bool,
    /// Deploys are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// When it is destroyed by itself; milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroy_at_ms: Option<i64>,
    /// The app it is a clone of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloned_from: Option<AppName>,
}

impl AppProcesses {
    /// Whether nothing was ever set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl App {
    /// What happens when a container of `process` exits.
    #[must_use]
    pub fn restart_of(&self, process: &ProcessType) -> RestartPolicy {
        self.processes.restart.get(process).copied().unwrap_or(self.restart)
    }

    /// How a container of `process` is stopped.
    #[must_use]
    pub fn stop_of(&self, process: &ProcessType) -> Stop {
        Stop {
            signal: self.processes.stop_signal.get(process).copied().unwrap_or(self.stop.signal),
            grace_secs: self
                .processes
                .stop_timeout_secs
                .get(process)
                .copied()
                .unwrap_or(self.stop.grace_secs),
        }
    }

    /// `formation` without the process types that were stopped by themselves.
    #[must_use]
    pub fn running(&self, formation: &Formation) -> Formation {
        let mut running = formation.clone();
        for process in &self.processes.stopped {
            running.0.insert(process.clone(), 0);
        }
        running
    }
}

/// Why an app takes no deploys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lock {
    /// Who locked it: the name of an SSH key or token, or `local`.
    pub by: String,
    /// What for, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// `PUT /v1/apps/{app}/lock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LockApp {
    /// What for; one line of at most 200 bytes.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `PATCH /v1/apps/{app}/processes`: what is absent stays, what is empty is reset. Containers that start from then on
/// have it. Answers `Progress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchProcesses {
    /// For this process type only; else for all without a setting of their own.
    #[serde(default)]
    pub process: Option<ProcessType>,
    /// `on-failure:N`, `always`, `unless-stopped` or `no`.
    #[serde(default)]
    pub restart_policy: Option<String>,
    /// `SIGINT`, `INT`, `2`.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Seconds from the signal to SIGKILL: 0 to 3600.
    #[serde(default)]
    pub stop_timeout_secs: Option<String>,
    /// Only nodes of this pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// Only nodes with these labels: `disk=ssd,zone=eu|us`.
    #[serde(default)]
    pub node_labels: Option<String>,
    /// How far apart: `even`, `distinct-nodes`, `distinct-zones` or `none`.
    #[serde(default)]
    pub spread: Option<String>,
    /// Whose containers it is never to run beside, and they not beside its own: `cache,shop:worker,replica@zone`.
    #[serde(default)]
    pub apart_from: Option<String>,
    /// The same where there is another place.
    #[serde(default)]
    pub rather_apart_from: Option<String>,
}

impl PatchProcesses {
    /// Whether nothing is to be set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { process: self.process.clone(), ..Self::default() }
    }
}

/// How processes are restarted and stopped, in a `PsReport`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessSettings {
    /// The app's; `None` leaves it to the image (`STOPSIGNAL`, else SIGTERM).
    pub stop_signal: Option<String>,
    /// Seconds from the signal to SIGKILL.
    pub stop_timeout_secs: u32,
    /// The pool of nodes it runs on, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The labels its nodes must have, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_labels: Option<String>,
    /// How far apart its containers run, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// Whose containers it never runs beside, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart_from: Option<String>,
    /// Whose it runs beside only where there is no other place, if that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rather_apart_from: Option<String>,
    /// Where single process types differ: names and values as `ps:set` takes them.
    pub by_process: BTreeMap<ProcessType, BTreeMap<String, String>>,
    /// Whether `ps:scale` has a say.
    pub can_scale: bool,
    /// Process types that were stopped by themselves.
    pub stopped: Vec<ProcessType>,
}

/// In an `AppInfo`: what may end or hold it up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppLife {
    /// Deploys are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// When it is destroyed by itself; milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroy_at_ms: Option<i64>,
    /// The app it is a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned_from: Option<AppName>,
}

/// `POST /v1/apps/{app}/clone`: a new app with this one's config, limits, formation and settings, without its domains and
/// published ports, and a first release of the same image. Answers `Progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneApp {
    /// The new app's name.
    pub to: AppName,
    /// Make the release, but start nothing before `ps:start`.
    #[serde(default)]
    pub skip_deploy: bool,
    /// It is no error that the new app is there already; then nothing is done.
    #[serde(default)]
    pub ignore_existing: bool,
    /// Destroy the new app after this many seconds: 10 to 31536000.
    #[serde(default)]
    pub ttl_secs: Option<u64>,
}

/// `PUT /v1/apps/{app}/ttl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTtl {
    /// Destroy the app in this many seconds, 10 to 31536000; `None` keeps it.
    pub seconds: Option<u64>,
}

/// `GET` and `PUT /v1/autocreation`: whether a push to an app that is not there makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Autocreation {
    /// It does; so it is at first.
    pub enabled: bool,
}

/// `GET /v1/apps/{app}/inspect` (a list): all there is to know of one container, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerInspect {
    /// Its id.
    pub id: ContainerId,
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// Which release.
    pub release: ReleaseVersion,
    /// Where it is placed.
    pub node: NodeName,
    /// `new`, `serving` or `retiring`.
    pub role: String,
    /// What the node last said of it: state, address, process id, published ports, restarts.
    pub status: Option<ContainerStatus>,
    /// Why it waits, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// `repository@digest`.
    pub image: String,
    /// `argv` or `static`.
    pub command: String,
    /// The port that requests go to.
    pub port: Option<u16>,
    /// Ports of the node that lead into it, as asked for.
    pub published: Vec<PublishedPort>,
    /// What it may use.
    pub limits: Limits,
    /// Directories of the node inside it.
    pub mounts: Vec<Mount>,
    /// Its variables; values are left out but for those that Berth sets itself (`PORT`, `DYNO`, `GIT_REV`).
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<EnvName, String>,
    /// As `ps:set` takes it.
    pub restart_policy: String,
    /// Such as `SIGTERM`; the image's own `STOPSIGNAL` stands above the default.
    pub stop_signal: String,
    /// Seconds from the signal to SIGKILL.
    pub stop_timeout_secs: u32,
}
