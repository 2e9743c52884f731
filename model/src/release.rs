//! Apps and their releases.

use crate::check::Check;
use crate::container::{Limits, Mount, PublishedPort, RestartPolicy, Stop};
use crate::cron::{CronSettings, CronTask};
use crate::deploy::DeploySettings;
use crate::image::Image;
use crate::placing::AppPlacing;
use crate::processes::AppProcesses;
use crate::proxy_settings::AppProxy;
use crate::secrets::Secrets;
use crate::{AppName, EnvName, HostPattern, ProcessType, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a user pushes to. The settings here are no part of a release: they apply to whatever release is current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// The branch whose pushes deploy; adopted from the first push.
    pub deploy_branch: Option<String>,
    /// Path of the Dockerfile in the tree; `None` is `Dockerfile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_path: Option<String>,
    /// Stage of the Dockerfile to build; `None` is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_target: Option<String>,
    /// Builder to use; `None` detects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// Directory of the tree that is built; `None` is its top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_dir: Option<String>,
    /// Path of the Procfile in the built directory; `None` is `Procfile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procfile_path: Option<String>,
    /// Path of `app.json` in the built directory; `None` is `app.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_json_path: Option<String>,
    /// Longest build, in seconds; `None` is 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_timeout_secs: Option<u32>,
    /// Buildpacks that build it, in order; empty to look in the tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buildpacks: Vec<String>,
    /// Stack that buildpacks run on; `None` is what suits them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// Domains beside the default one.
    pub domains: Vec<HostPattern>,
    /// Whether `<app>.<domain>` leads to it.
    pub default_domain: bool,
    /// How many of each process type.
    pub formation: Formation,
    /// `ps:stop` was said: nothing runs until `ps:start`.
    pub stopped: bool,
    /// Limits by process type.
    pub limits: BTreeMap<ProcessType, Limits>,
    /// What happens when a container exits.
    pub restart: RestartPolicy,
    /// How containers are stopped.
    pub stop: Stop,
    /// Directories of the node inside every container.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Ports of the proxy that lead to `web`.
    #[serde(default, alias = "tcp_ports")]
    pub ports: Vec<crate::ports::PortMapping>,
    /// Ports of the node published into `web.1` directly.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// How the proxy treats its requests.
    #[serde(default, skip_serializing_if = "AppProxy::is_default")]
    pub proxy: AppProxy,
    /// How its processes live, its lock, its end.
    #[serde(default, skip_serializing_if = "AppProcesses::is_default")]
    pub processes: AppProcesses,
    /// Where its containers may run.
    #[serde(default, skip_serializing_if = "AppPlacing::is_default")]
    pub placing: AppPlacing,
    /// What is set about its cron.
    #[serde(default, skip_serializing_if = "CronSettings::is_default")]
    pub cron: CronSettings,
    /// How much of its log is kept.
    #[serde(default, skip_serializing_if = "crate::logs::AppLogs::is_default")]
    pub logs: crate::logs::AppLogs,
    /// How it is deployed.
    #[serde(default, skip_serializing_if = "DeploySettings::is_default")]
    pub deploy: DeploySettings,
    /// Networks that it is on.
    #[serde(default, skip_serializing_if = "crate::network::AppNetworks::is_empty")]
    pub networks: crate::network::AppNetworks,
    /// The release that serves, once there is one.
    pub current: Option<ReleaseVersion>,
    /// The number that the next release gets.
    pub next_version: u64,
}

/// How many containers of each process type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Formation(pub BTreeMap<ProcessType, u32>);

impl Formation {
    /// Nothing is said of any type.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Image + config + process types, numbered, never changed once made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Whose.
    pub app: AppName,
    /// From 1.
    pub version: ReleaseVersion,
    /// What runs.
    pub image: Image,
    /// The config it runs with; global values already under the app's.
    pub config: BTreeMap<EnvName, String>,
    /// Which of it is never shown, and files.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
    /// Checks by process type; a type that is absent has the default check.
    #[serde(default)]
    pub checks: BTreeMap<ProcessType, Vec<Check>>,
    /// Commands run by the clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cron: Vec<CronTask>,
    /// How many of each process type were to run when it was made. A record: what runs is the app's own.
    #[serde(default, skip_serializing_if = "Formation::is_empty")]
    pub formation: Formation,
    /// How many containers of a type a deploy starts at once, from `app.json`; a type that is absent has no limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub max_parallel: BTreeMap<ProcessType, u32>,
    /// Commit that was pushed, 40 hexadecimal digits.
    pub git_rev: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Who made it: the name of an SSH key or token, or `local`.
    pub by: String,
    /// One line: `Deploy 1a2b3c4`, `Set GREETING config var`, `Rollback to v3`.
    pub description: String,
    /// How it went.
    pub outcome: Outcome,
}

/// How a release went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Not live yet.
    Pending,
    /// Was live, or is.
    Live,
    /// Never went live.
    Failed {
        /// Why, in one or two sentences.
        reason: String,
    },
    /// Was live, went bad, and was taken back by Berth.
    Withdrawn {
        /// What went bad.
        reason: String,
    },
}
