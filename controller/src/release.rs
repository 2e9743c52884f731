//! Releases and what they want to run.
//!
//! In: an app, a built image, its config and checks. Out: a [`Release`], and from a release and a formation the specs of
//! the containers that are to exist. Nothing here reads a clock, makes randomness or touches anything: both are arguments.

use berth_model::check::{Check, CheckKind, Probe};
use berth_model::container::{ContainerSpec, EVERY_TYPE, Limits, RestartPolicy, Stop};
use berth_model::cron::CronTask;
use berth_model::deploy::{DEFAULT_WAIT_TO_RETIRE_SECS, Volumes};
use berth_model::image::{Image, Process};
use berth_model::release::{App, Formation, Outcome, Release};
use berth_model::secrets::Secrets;
use berth_model::{AppName, ContainerId, EnvName, NameError, ProcessType, ReleaseVersion};
use std::collections::BTreeMap;

/// The port that `PORT` names unless the image says which one it listens on.
pub const DEFAULT_PORT: u16 = 5000;
/// How long a container must have run by default before it counts as well, in seconds.
pub const DEFAULT_UPTIME: u32 = 10;
/// How many containers one process type may have.
pub const MAX_QUANTITY: u32 = 1000;

/// What a release is made of, besides its app.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What runs.
    pub image: Image,
    /// Global values already under the app's.
    pub config: BTreeMap<EnvName, String>,
    /// Which of it is never shown, and files.
    pub secrets: Secrets,
    /// From `app.json` or `CHECKS`.
    pub checks: BTreeMap<ProcessType, Vec<Check>>,
    /// From `app.json`.
    pub cron: Vec<CronTask>,
    /// How many of each type are to run.
    pub formation: Formation,
    /// From `app.json`.
    pub max_parallel: BTreeMap<ProcessType, u32>,
    /// Commit that was pushed.
    pub git_rev: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Who asked.
    pub by: String,
    /// One line.
    pub description: String,
}

/// The app's next release, pending.
#[must_use]
pub fn release(app: &App, parts: Parts) -> Release {
    Release {
        app: app.name.clone(),
        version: ReleaseVersion(app.next_version.max(1)),
        image: parts.image,
        config: parts.config,
        secrets: parts.secrets,
        checks: parts.checks,
        cron: parts.cron,
        formation: parts.formation,
        max_parallel: parts.max_parallel,
        git_rev: parts.git_rev,
        created_ms: parts.now_ms,
        by: parts.by,
        description: parts.description,
        outcome: Outcome::Pending,
    }
}

/// How many of each process type of `image` are to run: what `from_code` (`app.json` `formation`, applied at every deploy
/// as Dokku does) says, else what was scaled before, else one `web` and none of any other type. Types that the image does
/// not have keep what was scaled, for they may come back.
#[must_use]
pub fn formation(scaled: &Formation, image: &Image, from_code: &Formation) -> Formation {
    let mut result = scaled.clone();
    for process in image.processes.keys().filter(|process| !process.is_release()) {
        let quantity = match from_code.0.get(process) {
            Some(quantity) => *quantity,
            None => scaled.0.get(process).copied().unwrap_or(u32::from(process.is_web())),
        };
        result.0.insert(process.clone(), quantity.min(MAX_QUANTITY));
    }
    result
}

/// A container that is to exist, before it has an id: the `ordinal`th `process`.
pub type Slot = (ProcessType, u32);

/// Every slot that `release` has to fill under `formation`; `web` first, so that it starts first. A static site has one
/// at most: no process runs, and one directory serves any number of requests.
#[must_use]
pub fn slots(image: &Image, formation: &Formation) -> Vec<Slot> {
    let mut types: Vec<_> = image.processes.iter().filter(|(process, _)| !process.is_release()).collect();
    types.sort_by_key(|(process, _)| (!process.is_web(), (*process).clone()));
    let quantity = |process: &ProcessType, run: &Process| {
        let most = if matches!(run, Process::Static(_)) { 1 } else { MAX_QUANTITY };
        formation.0.get(process).copied().unwrap_or(u32::from(process.is_web())).min(most)
    };
    let filled = types
        .into_iter()
        .flat_map(|(process, run)| (1..=quantity(process, run)).map(|ordinal| (process.clone(), ordinal)));
    filled.collect()
}

/// The specs of the containers of `release` for `slots`. `unique` gives a fresh text of lower-case letters and digits at
/// each call, so that no id is ever used twice.
///
/// Errors: a slot names a process type that the release does not have, or an id would be too long.
pub fn desire(
    app: &App,
    release: &Release,
    slots: &[Slot],
    mut unique: impl FnMut() -> String,
) -> Result<Vec<ContainerSpec>, DesireError> {
    slots.iter().map(|(process, ordinal)| spec(app, release, process, *ordinal, &unique())).collect()
}

/// Why a spec could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DesireError {
    /// The image has no such process.
    #[error("{app} {version} has no process type {process}; it has: {known}")]
    NoSuchProcess {
        /// Whose.
        app: AppName,
        /// Which release.
        version: ReleaseVersion,
        /// What was asked for.
        process: ProcessType,
        /// What there is.
        known: String,
    },
    /// The app's and the process type's names together are too long.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The port that routes, default checks and `PORT` mean: the first one the image exposes, else 5000.
#[must_use]
pub fn main_port(image: &Image) -> u16 {
    image.exposed_ports.first().copied().unwrap_or(DEFAULT_PORT)
}

fn spec(
    app: &App,
    release: &Release,
    process: &ProcessType,
    ordinal: u32,
    unique: &str,
) -> Result<ContainerSpec, DesireError> {
    let Some(run) = release.image.processes.get(process) else {
        let known: Vec<_> = release.image.processes.keys().map(ProcessType::as_str).collect();
        return Err(DesireError::NoSuchProcess {
            app: app.name.clone(),
            version: release.version,
            process: process.clone(),
            known: known.join(", "),
        });
    };
    let first_web = process.is_web() && ordinal == 1;
    Ok(ContainerSpec {
        id: ContainerId::of(&app.name, process, ordinal, unique)?,
        app: app.name.clone(),
        release: release.version,
        process: process.clone(),
        ordinal,
        image: release.image.reference.clone(),
        run: run.clone(),
        env: environment(release, process, &format!("{process}.{ordinal}"))?,
        limits: limits(app, process),
        port: (process.is_web() && matches!(run, Process::Command { .. })).then(|| main_port(&release.image)),
        published: if first_web { app.published.clone() } else { Vec::new() },
        checks: checks(app, release, process, run),
        restart: app.restart_of(process),
        stop: stop(app, process, &release.config),
        mounts: app.mounts.clone(),
        once: None,
        secrets: release.secrets.files.clone(),
    })
}

/// The command as an image's own environment wants it: in images of buildpacks the launcher comes first, which knows
/// what variables and profiles their layers bring.
#[must_use]
pub fn launched(image: &Image, argv: Vec<String>) -> Vec<String> {
    let by_launcher = |process: &Process| {
        let Process::Command { argv } = process else { return false };
        argv.first().is_some_and(|program| program.starts_with("/cnb/process/"))
    };
    if !image.processes.values().any(by_launcher) {
        return argv;
    }
    let launcher = ["/cnb/lifecycle/launcher", "--profile", "--"].map(str::to_owned);
    launcher.into_iter().chain(argv).collect()
}

/// A container that runs `run` once with the environment of `release`: the `release` process of a deploy, `berth run`.
pub fn one_off(
    app: &App,
    release: &Release,
    process: &ProcessType,
    run: Process,
    unique: &str,
) -> Result<ContainerSpec, NameError> {
    let id = ContainerId::of(&app.name, process, 1, unique)?;
    Ok(ContainerSpec {
        app: app.name.clone(),
        release: release.version,
        process: process.clone(),
        ordinal: 1,
        image: release.image.reference.clone(),
        run,
        env: environment(release, process, &format!("{process}.{unique}"))?,
        limits: limits(app, process),
        port: None,
        published: Vec::new(),
        checks: Vec::new(),
        restart: RestartPolicy::Never,
        stop: stop(app, process, &release.config),
        mounts: app.mounts.clone(),
        once: None,
        secrets: release.secrets.files.clone(),
        id,
    })
}

/// The type's own limits, else those for all types ([`berth_model::container::EVERY_TYPE`]), else the defaults.
pub(crate) fn limits(app: &App, process: &ProcessType) -> Limits {
    let every = app.limits.iter().find(|(name, _)| name.as_str() == EVERY_TYPE).map(|(_, limits)| limits);
    let limits = app.limits.get(process).or(every).cloned().unwrap_or_default();
    Limits { log_mib: app.logs.max_mib.unwrap_or(limits.log_mib), ..limits }
}

fn environment(
    release: &Release,
    process: &ProcessType,
    dyno: &str,
) -> Result<BTreeMap<EnvName, String>, NameError> {
    let mut env = release.config.clone();
    if process.is_web() {
        // Berth routes to this port: a config var of this name must not lead the app elsewhere.
        env.insert(EnvName::parse("PORT")?, main_port(&release.image).to_string());
    }
    env.insert(EnvName::parse("DYNO")?, dyno.to_owned());
    if let Some(rev) = &release.git_rev {
        env.insert(EnvName::parse("GIT_REV")?, rev.clone());
    }
    Ok(env)
}

/// A Dokku variable that users still set.
fn legacy<'a>(config: &'a BTreeMap<EnvName, String>, name: &str) -> Option<&'a str> {
    EnvName::parse(name).ok().and_then(|name| config.get(&name)).map(|value| value.trim())
}

fn legacy_secs(config: &BTreeMap<EnvName, String>, name: &str) -> Option<u32> {
    legacy(config, name)?.parse().ok()
}

/// How long old containers may go on with what they have in flight after a swap, in seconds: what the app's settings say,
/// else `DOKKU_WAIT_TO_RETIRE`, else 60.
#[must_use]
pub fn wait_to_retire(app: &App, config: &BTreeMap<EnvName, String>) -> u32 {
    let said = app.deploy.wait_to_retire_secs.or_else(|| legacy_secs(config, "DOKKU_WAIT_TO_RETIRE"));
    said.unwrap_or(DEFAULT_WAIT_TO_RETIRE_SECS).min(3600)
}

/// Whether the old containers of this type are to be gone before the new ones start: `checks:disable` said so, or the app
/// writes to a directory of the node and asked for it.
#[must_use]
pub fn stops_first(app: &App, config: &BTreeMap<EnvName, String>, process: &ProcessType) -> bool {
    let disabled = app.deploy.checks_disabled.has(process) || named(config, "DOKKU_CHECKS_DISABLED", process);
    disabled || (app.deploy.volumes == Volumes::StopFirst && writes_to_the_node(app))
}

/// Whether the app has a directory of the node that it may write to.
#[must_use]
pub fn writes_to_the_node(app: &App) -> bool {
    app.mounts.iter().any(|mount| !mount.read_only)
}

/// What `ps:set` said of the type comes first, then `DOKKU_DOCKER_STOP_TIMEOUT`, then what it said of the app.
fn stop(app: &App, process: &ProcessType, config: &BTreeMap<EnvName, String>) -> Stop {
    let stop = app.stop_of(process);
    let is_set = app.processes.stop_timeout_secs.contains_key(process);
    let legacy = legacy_secs(config, "DOKKU_DOCKER_STOP_TIMEOUT").map(|secs| secs.min(3600));
    Stop { grace_secs: legacy.filter(|_| !is_set).unwrap_or(stop.grace_secs), ..stop }
}

/// Whether a variable such as `DOKKU_CHECKS_SKIPPED` names this process type, or everything.
fn named(config: &BTreeMap<EnvName, String>, name: &str, process: &ProcessType) -> bool {
    legacy(config, name).is_some_and(|value| {
        value.split(',').map(str::trim).any(|item| {
            item == process.as_str()
                || matches!(item.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "_all_")
        })
    })
}

/// Whether the app's settings or its config take the checks of this process type away.
fn checks_off(app: &App, config: &BTreeMap<EnvName, String>, process: &ProcessType) -> bool {
    app.deploy.checks_disabled.has(process)
        || app.deploy.checks_skipped.has(process)
        || ["DOKKU_CHECKS_DISABLED", "DOKKU_CHECKS_SKIPPED"].iter().any(|name| named(config, name, process))
}

/// The checks of one process type: its own, or the default; a type whose own checks only watch it once it runs gets the
/// default for its start too, and so does `web` if they only run commands in it: a program that is well may not listen yet,
/// and requests are about to come.
#[must_use]
pub fn checks(app: &App, release: &Release, process: &ProcessType, run: &Process) -> Vec<Check> {
    if matches!(run, Process::Static(_)) || checks_off(app, &release.config, process) {
        return Vec::new();
    }
    let mut checks = release.checks.get(process).cloned().unwrap_or_default();
    let judges_start = |check: &Check| matches!(check.kind, CheckKind::Startup | CheckKind::Readiness);
    let asks_outside = |check: &Check| !matches!(check.probe, Probe::Command { .. });
    let is_enough = |check: &Check| judges_start(check) && (!process.is_web() || asks_outside(check));
    if !checks.iter().any(is_enough) {
        checks.insert(0, default_check(&release.config, process));
    }
    checks
}

fn default_check(config: &BTreeMap<EnvName, String>, process: &ProcessType) -> Check {
    let seconds = legacy_secs(config, "DOKKU_DEFAULT_CHECKS_WAIT").unwrap_or(DEFAULT_UPTIME).min(3600);
    let probe =
        if process.is_web() { Probe::ListeningOrUptime { seconds } } else { Probe::Uptime { seconds } };
    Check {
        name: "default".to_owned(),
        kind: CheckKind::Startup,
        probe,
        attempts: 1,
        timeout_secs: seconds.saturating_add(5),
        wait_secs: 1,
        initial_delay_secs: 0,
        warn_only: false,
    }
}

#[cfg(test)]
#[path = "release_tests.rs"]
pub(crate) mod tests;
