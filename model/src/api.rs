//! The public API's own types: what `/v1` takes and gives. The CLI, the dashboard and the SSH commands use nothing else.
//!
//! Operations that take a while answer 200 with `application/x-ndjson`: one [`Progress`] a line, the last one `done` or
//! `failed`. Everything else answers JSON; errors are [`ApiError`].

use crate::container::{ContainerStatus, Limits, Mount};
use crate::processes::{AppLife, ProcessSettings};
use crate::registry::RegistryServer;
use crate::release::Formation;
use crate::{AppName, BuildId, ContainerId, EnvName, HostPattern, NodeName, ProcessType, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

/// Body of every answer with a 4xx or 5xx status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened, to what, and what to do next.
    pub message: String,
}

/// Kinds of errors; each has one HTTP status and one exit code of the CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the input is wrong.
    Invalid,
    /// 401: no or a wrong token.
    Unauthorized,
    /// 403: known, but not allowed.
    Forbidden,
    /// 404: there is no such app (exit code 20).
    AppNotFound,
    /// 404: there is no such thing in the app or platform.
    NotFound,
    /// 409: it exists already, or another operation is under way.
    Conflict,
    /// 422: the operation was tried and did not work (a failed build or check).
    Failed,
    /// 500: Berth's own fault; the log has more.
    Internal,
    /// 503: a part that is needed does not answer.
    Unavailable,
    /// 507: the disk is full.
    StorageFull,
}

/// One line of an operation's progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// Shown as `-----> text`.
    Step {
        /// What.
        text: String,
    },
    /// Shown as `=====> text`.
    Section {
        /// What.
        text: String,
    },
    /// Shown after seven spaces.
    Detail {
        /// What.
        text: String,
    },
    /// Shown on stderr as ` !     text`.
    Warning {
        /// What.
        text: String,
    },
    /// It worked.
    Done,
    /// It did not, and what was before still is.
    Failed {
        /// Why.
        error: ApiError,
    },
}

impl Progress {
    /// What stands before a step.
    pub const STEP: &str = "-----> ";
    /// What stands before a section.
    pub const SECTION: &str = "=====> ";
    /// What stands before a detail, and before further lines of any text.
    pub const DETAIL: &str = "       ";
    /// What stands before a warning and an error.
    pub const WARNING: &str = " !     ";
}

/// As `git push` shows it, without colours.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { text } => write!(f, "{}{text}", Self::STEP),
            Self::Section { text } => write!(f, "{}{text}", Self::SECTION),
            Self::Detail { text } => write!(f, "{}{text}", Self::DETAIL),
            Self::Warning { text } => write!(f, "{}{text}", Self::WARNING),
            Self::Done => Ok(()),
            Self::Failed { error } => write!(f, "{}{}", Self::WARNING, error.message),
        }
    }
}

/// One of `GET /v1/controllers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControllerInfo {
    /// Its name: host and port of its API.
    pub name: String,
    /// Where users and the other controllers reach it.
    pub host: String,
    /// The port of its API.
    pub api_port: u16,
    /// The port of its SSH server.
    pub ssh_port: u16,
    /// Whether it is the one that decides; the others pass connections on to it.
    pub leads: bool,
    /// Its version.
    pub version: String,
    /// Since when it is there, in milliseconds of the Unix epoch.
    pub since_ms: i64,
}

/// `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionInfo {
    /// Berth's version.
    pub version: String,
    /// Version of the API: `v1`.
    pub api: String,
    /// Port where git and commands over SSH are taken.
    #[serde(default = "default_ssh_port")]
    pub ssh_port: u16,
}

fn default_ssh_port() -> u16 {
    2222
}

/// `POST /v1/cleanup`: what was removed of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cleaned {
    /// Images that were neither deployed nor kept for a rollback.
    pub images: u64,
    /// Their blobs that no other image has.
    pub blobs: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// `POST /v1/apps/{app}/image`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSource {
    /// As `docker pull` takes it: `nginx:1.27`, `ghcr.io/owner/image@sha256:…`. `apps/other` is what another app runs,
    /// `apps/other:v3` its third release, `berth.internal/REPOSITORY:TAG` any image of Berth's own registry.
    pub image: String,
    /// Whose name the commit gets.
    #[serde(default)]
    pub name: Option<String>,
    /// Whose address the commit gets.
    #[serde(default)]
    pub email: Option<String>,
}

/// `GET /v1/images`: an image of Berth's own registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageInfo {
    /// Such as `apps/hello`.
    pub repository: String,
    /// Of its manifest.
    pub digest: String,
    /// What it is called besides.
    pub tags: Vec<String>,
    /// The releases that are made of it, such as `hello v3`.
    pub releases: Vec<String>,
    /// Bytes of its manifest, config and layers. Images share layers, so a sum says too much.
    pub bytes: u64,
    /// When it was made or pushed; milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// `GET /v1/images/{digest}`: an image of Berth's own registry, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDetail {
    /// Of its manifest.
    pub digest: String,
    /// Where it is, such as `apps/hello`.
    pub repositories: Vec<String>,
    /// When it was made, as it says itself; milliseconds since the Unix epoch. Builds that can be repeated do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<i64>,
    /// The lowest first.
    pub layers: Vec<ImageLayer>,
    /// Of an index: the images it is of, one for each platform.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}

/// A layer of an [`ImageDetail`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageLayer {
    /// Of its bytes, compressed.
    pub digest: String,
    /// Bytes, compressed.
    pub bytes: u64,
    /// How many other images of the registry have it.
    pub shared_with: usize,
    /// The step that made it, as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

/// `POST /v1/registries`: a login of another registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutRegistry {
    /// For this app only; else for all.
    #[serde(default)]
    pub app: Option<AppName>,
    /// Host and perhaps port: `ghcr.io`, `docker.io`.
    pub server: RegistryServer,
    /// Who; empty if nobody needs to log in there.
    #[serde(default)]
    pub user: String,
    /// A password or token.
    #[serde(default)]
    pub password: String,
    /// It speaks plain HTTP, and may be on this machine.
    #[serde(default)]
    pub plain_http: bool,
}

/// `GET /v1/registries`: a login, without its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistryInfo {
    /// Whose; `None` is for all apps.
    #[serde(default)]
    pub app: Option<AppName>,
    /// Which registry.
    pub server: RegistryServer,
    /// Who logs in.
    pub user: String,
    /// It speaks plain HTTP.
    #[serde(default)]
    pub plain_http: bool,
}

/// `GET /v1/apps/{app}/sbom`: what is known of what is in the running image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sbom {
    /// The image's own first.
    pub documents: Vec<SbomDocument>,
}

/// One bill of materials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SbomDocument {
    /// `cyclonedx`, `spdx` or `syft`.
    pub format: String,
    /// The buildpack that wrote it; absent for what Berth found in the image itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buildpack: Option<String>,
    /// The layer that it is of; absent for all of the buildpack's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The document.
    #[schema(value_type = Object)]
    pub document: serde_json::Value,
}

/// `POST /v1/apps/{app}/sync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncSource {
    /// Where the repository is: `https://…`, `ssh://…`.
    pub url: String,
    /// Branch, tag or commit; else what the repository's HEAD is.
    #[serde(default)]
    pub reference: Option<String>,
    /// Whether it is deployed.
    #[serde(default)]
    pub deploy: SyncDeploys,
}

/// When what was fetched is deployed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SyncDeploys {
    /// It is only fetched.
    #[default]
    Never,
    /// If it is another commit than the one that was deployed last.
    IfChanged,
    /// In any case.
    Always,
}

/// `GET /v1/apps/{app}/builds` (a list, newest first) and `GET /v1/apps/{app}/builds/{build}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildInfo {
    /// Its id; ids of later builds sort behind those of earlier ones.
    pub id: BuildId,
    /// How it goes, or went.
    pub status: BuildStatus,
    /// What was built: `1a2b3c4`, the begin of its commit.
    pub source: String,
    /// Its commit.
    pub git_rev: Option<String>,
    /// Who asked for it: the name of an SSH key or token, or `local`.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Milliseconds since the Unix epoch; absent while it runs.
    pub finished_ms: Option<i64>,
    /// What built it.
    pub builder: Option<String>,
    /// The image that came of it.
    pub image: Option<String>,
    /// The release that came of it.
    pub release: Option<ReleaseVersion>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// How a build goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    /// The image is being made, or waits for its turn.
    Building,
    /// The image is there and is being deployed.
    Deploying,
    /// What it made serves, or is kept if nothing was to be deployed.
    Succeeded,
    /// It made no image, or the image did not come to serve.
    Failed,
    /// Somebody stopped it.
    Canceled,
}

impl BuildStatus {
    /// As it is written everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Deploying => "deploying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Whether it is still under way.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Building | Self::Deploying)
    }
}

/// `POST /v1/apps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApp {
    /// The new app's name.
    pub name: AppName,
}

/// `POST /v1/apps/{app}/rename`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameApp {
    /// The new name.
    pub to: AppName,
}

/// `GET /v1/apps` (a list of them) and `GET /v1/apps/{app}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppInfo {
    /// Its name.
    pub name: AppName,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// The branch whose pushes deploy.
    pub deploy_branch: Option<String>,
    /// Path of the Dockerfile in the tree, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_path: Option<String>,
    /// Stage of the Dockerfile to build, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_target: Option<String>,
    /// Builder that was chosen, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder_selected: Option<String>,
    /// Directory of the tree that is built, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_dir: Option<String>,
    /// Path of the Procfile, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procfile_path: Option<String>,
    /// Path of `app.json`, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_json_path: Option<String>,
    /// Longest build, in seconds, if it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_timeout_secs: Option<u32>,
    /// Buildpacks that were chosen for it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buildpacks: Vec<String>,
    /// Stack that was chosen for buildpacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The release that serves.
    pub release: Option<ReleaseVersion>,
    /// Its commit.
    pub git_rev: Option<String>,
    /// What built it.
    pub builder: Option<String>,
    /// Every address it answers at, `http://…`.
    pub urls: Vec<String>,
    /// `running`, `deploying`, `stopped`, `crashed`, `degraded` or `not deployed`.
    pub status: String,
    /// Wanted containers.
    pub formation: Formation,
    /// Whether `ps:stop` was said.
    pub stopped: bool,
    /// Directories of the node inside every container.
    pub mounts: Vec<Mount>,
    /// Ports of the proxy that lead to the app.
    pub ports: Vec<crate::ports::PortMapping>,
    /// Limits by process type, where they differ from the defaults.
    pub limits: BTreeMap<ProcessType, Limits>,
    /// Its lock, and its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<AppLife>,
}

/// `PATCH /v1/apps/{app}`: what is absent stays. Answers [`Progress`], for it restarts what it must.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchApp {
    /// New deploy branch; empty to forget it.
    pub deploy_branch: Option<String>,
    /// New path of the Dockerfile, for the next build; empty to forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_path: Option<String>,
    /// New stage of the Dockerfile, for the next build; empty to forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_target: Option<String>,
    /// Builder for the next build; empty to detect again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// Directory of the tree to build; empty for its top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_dir: Option<String>,
    /// New path of the Procfile; empty to forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procfile_path: Option<String>,
    /// New path of `app.json`; empty to forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_json_path: Option<String>,
    /// Longest build, in seconds, 10 to 86400; 0 for the default of 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_timeout_secs: Option<u32>,
    /// New list of buildpacks, for the next build; empty to look in the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buildpacks: Option<Vec<String>>,
    /// New stack for buildpacks, for the next build: `debian-12`, `heroku-24`, an image, or two (`RUN,BUILD`); empty to
    /// forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// New list of mounts.
    pub mounts: Option<Vec<Mount>>,
    /// New list of ports of the proxy that lead to the app.
    pub ports: Option<Vec<crate::ports::PortMapping>>,
    /// New limits of these process types; `_default_` is every type without limits of its own.
    pub limits: Option<BTreeMap<ProcessType, Limits>>,
    /// These process types have no limits of their own any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clear_limits: Vec<ProcessType>,
}

/// `GET /v1/apps/{app}/config`, `GET /v1/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Config(pub BTreeMap<EnvName, String>);

/// `PATCH /v1/apps/{app}/config`, `PATCH /v1/config`. Answers [`Progress`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchConfig {
    /// Set these.
    #[serde(default)]
    pub set: BTreeMap<EnvName, String>,
    /// Remove these.
    #[serde(default)]
    pub unset: Vec<EnvName>,
    /// Remove all others first.
    #[serde(default)]
    pub replace: bool,
    /// Only store; do not restart.
    #[serde(default)]
    pub no_restart: bool,
    /// What is set is never shown again, only used. What is so already stays so until it is unset.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// Set these as files below `/run/secrets`; the bytes as base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub files: crate::secrets::SecretFiles,
}

/// `POST /v1/apps/{app}/scale`. Answers [`Progress`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// New counts; types that are absent stay as they are. 0 to 1000 each.
    pub formation: Formation,
    /// Only store; start nothing before the next deploy.
    #[serde(default)]
    pub skip_deploy: bool,
}

/// `POST /v1/apps/{app}/restart`, `…/stop`, `…/start`. Answers [`Progress`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessSelection {
    /// Only this type.
    #[serde(default)]
    pub process: Option<ProcessType>,
    /// With a type, and only for a restart: only this one of it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u32>,
}

/// `GET /v1/apps/{app}/ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PsReport {
    /// Whose.
    pub app: AppName,
    /// `running`, `deploying`, `stopped`, `crashed`, `degraded` or `not deployed`.
    pub status: String,
    /// Wanted containers.
    pub formation: Formation,
    /// Such as `on-failure:10`.
    pub restart_policy: String,
    /// How processes are stopped, and who says how many run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ProcessSettings>,
    /// Every container it has or should have.
    pub containers: Vec<PsContainer>,
    /// What Berth did by itself, and what is on trial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// One container in a [`PsReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PsContainer {
    /// Its id.
    pub id: ContainerId,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// Which release.
    pub release: ReleaseVersion,
    /// Where it is placed.
    pub node: Option<NodeName>,
    /// What the node last said of it.
    pub status: Option<ContainerStatus>,
    /// `argv` or `static`.
    pub command: String,
    /// Why it waits, if it does.
    pub waiting: Option<String>,
}

/// `GET /v1/apps/{app}/releases` (a list, newest first) and `GET /v1/apps/{app}/releases/{version}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseInfo {
    /// Its number.
    pub version: ReleaseVersion,
    /// One line.
    pub description: String,
    /// Who.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// `pending`, `live`, `failed`.
    pub outcome: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// Whether it serves now.
    pub current: bool,
    /// Its commit.
    pub git_rev: Option<String>,
    /// Its image.
    pub image: String,
    /// Names of its config vars (values only by `config`).
    pub config_names: Vec<EnvName>,
    /// Its process types and what they run.
    pub processes: BTreeMap<ProcessType, String>,
}

/// `POST /v1/apps/{app}/rollback`. Answers [`Progress`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// To which; absent means the live release before the current one.
    #[serde(default)]
    pub to: Option<ReleaseVersion>,
    /// Keep today's config and bring back only the image.
    #[serde(default)]
    pub keep_config: bool,
}

/// `GET /v1/apps/{app}/domains`, `GET /v1/domains`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Domains {
    /// For an app: whether `<app>.<global domain>` leads to it. For the platform: always true.
    pub default_enabled: bool,
    /// An app's own domains, or the platform's global ones.
    pub domains: Vec<HostPattern>,
    /// Everything the app answers at, computed.
    pub effective: Vec<HostPattern>,
}

/// `PATCH /v1/apps/{app}/domains`, `PATCH /v1/domains`. In order: `set` (replace all), `remove`, `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchDomains {
    /// Replace all by these.
    pub set: Option<Vec<HostPattern>>,
    /// Take these away.
    #[serde(default)]
    pub remove: Vec<HostPattern>,
    /// Add these.
    #[serde(default)]
    pub add: Vec<HostPattern>,
    /// Turn the default domain on or off (apps only).
    pub default_enabled: Option<bool>,
}

/// `GET /v1/ssh-keys` (a list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SshKeyInfo {
    /// Who: `[A-Za-z0-9._@-]+`, up to 64 bytes.
    pub name: String,
    /// `SHA256:…` as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// `ssh-ed25519` …
    pub algorithm: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// `POST /v1/ssh-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddSshKey {
    /// Who.
    pub name: String,
    /// One line of the OpenSSH public key format.
    pub public_key: String,
}

/// `GET /v1/tokens` (a list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Who: `[A-Za-z0-9._@-]+`, up to 64 bytes.
    pub name: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it was last accepted.
    pub last_used_ms: Option<i64>,
}

/// `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Who.
    pub name: String,
}

/// Answer of `POST /v1/tokens`: the only time the token is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// Who.
    pub name: String,
    /// `berth_` and 43 characters.
    pub token: String,
}

/// Answer of `POST /v1/sign-in-codes`: signs in once, as whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignInCode {
    /// `berthc_` and 43 characters: a bearer token for one `POST /v1/sessions`.
    pub code: String,
    /// The dashboard's page that takes it. It names `localhost` where the API listens to its own machine only.
    pub url: String,
    /// Until when; milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

/// Answer of `POST /v1/sessions`: the only time the session's secret is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedSession {
    /// `berths_` and 43 characters: a bearer token until the session ends.
    pub session: String,
    /// In whose name it acts.
    pub by: String,
    /// When it ends at the latest; milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

/// `GET /v1/sessions` (a list) and `GET /v1/sessions/current`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    /// What it is ended by; not its secret.
    pub id: String,
    /// In whose name it acts: a token, an SSH key, or `local`.
    pub by: String,
    /// Where it was begun: `https ADDRESS`, `http ADDRESS`.
    pub from: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it was last used, to within five minutes.
    pub last_used_ms: i64,
    /// When it ends at the latest; earlier if it is not used for a week.
    pub expires_ms: i64,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// `GET /v1/nodes` (a list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Whether it reported within the last 15 s.
    pub alive: bool,
    /// Milliseconds since the Unix epoch.
    pub last_seen_ms: i64,
    /// What it has.
    pub capacity: crate::node::Capacity,
    /// Containers placed on it.
    pub containers: usize,
    /// What it is short of.
    #[serde(default)]
    pub pressure: crate::node::Pressure,
    /// What work on it waited for.
    #[serde(default)]
    pub stalls: crate::node::Stalls,
    /// What is promised to containers placed on it.
    #[serde(default)]
    pub reserved: crate::node::Reserved,
    /// It joined over the network; else it is the controller's own machine.
    #[serde(default)]
    pub joined: bool,
    /// When it became a node; milliseconds since the Unix epoch.
    #[serde(default)]
    pub joined_ms: i64,
    /// Where other nodes reach it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub address: Option<std::net::IpAddr>,
    /// The addresses of its containers.
    #[serde(default)]
    pub subnet: Option<String>,
    /// To how many other nodes its containers' packets go in which way.
    #[serde(default)]
    pub overlay: crate::network::Ways,
    /// What is wrong with the way to other nodes, or why it is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_note: Option<String>,
    /// What apps choose nodes by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// It gets no new containers.
    #[serde(default)]
    pub cordoned: bool,
    /// It is being emptied.
    #[serde(default)]
    pub draining: bool,
    /// What apps may reserve of it, where that is not all it has.
    #[serde(default)]
    pub offered: crate::node::Offered,
    /// Its volumes of a restored backup that it has not got back yet, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes_waiting: Option<String>,
}

/// `PATCH /v1/nodes/{node}`: what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetNode {
    /// Labels by name; `null` takes one away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Whether it gets no new containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// Thousandths of a CPU that apps may reserve; 0 for all that the machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// MiB of memory that apps may reserve; 0 for all that the machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}

/// `POST /v1/node-tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNodeToken {
    /// The only name it is good for; that of a node that is there is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// For how long it is good, 15 min unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// The answer. The token is not shown again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeToken {
    /// Lets one machine join.
    pub token: String,
    /// Where it is to knock (`host:port`).
    pub address: String,
    /// Until when; milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

/// `POST /v1/nodes/{node}/drain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainNode {
    /// It takes containers again.
    #[serde(default)]
    pub undo: bool,
    /// How long it is waited for until it is empty, in seconds, 1 to 86400; `None` is without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u64>,
}

/// First frame of `GET /v1/apps/{app}/run` after the upgrade: a one-off container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// `argv`; if the first is the name of a process type, that type's command.
    pub argv: Vec<String>,
    /// Give it a terminal of this size: (rows, columns).
    pub tty: Option<(u16, u16)>,
    /// Environment only for this run.
    #[serde(default)]
    pub env: BTreeMap<EnvName, String>,
    /// Whose limits it has; `None` is `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_type: Option<ProcessType>,
    /// The longest it may run, in seconds; 1 to 2,592,000. Default 86,400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u32>,
}

/// First frame of `GET /v1/apps/{app}/enter`: a command in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnterRequest {
    /// Which process type.
    pub process: ProcessType,
    /// Which one; from 1.
    pub ordinal: u32,
    /// The id of a container, in place of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `argv`; empty for the best shell it has.
    pub argv: Vec<String>,
    /// Give it a terminal of this size: (rows, columns).
    pub tty: Option<(u16, u16)>,
}
