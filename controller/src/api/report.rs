//! What the API shows of apps, their releases and processes.
//!
//! In: state of the store and what nodes report. Out: the API's types. `status` and `command` are pure.

use super::answer::Refusal;
use crate::deploy::{AppPlan, Planned, Role};
use crate::platform::Platform;
use crate::release_diff::command;
use berth_model::apart::{ApartSettings, Aparts, AppApart, shown_neighbours};
use berth_model::api::{AppInfo, PsContainer, PsReport, ReleaseInfo};
use berth_model::container::{ContainerState, ContainerStatus, Stop, signal_name};
use berth_model::deploy::canary_remark;
use berth_model::placing::{PlacingSettings, shown_labels};
use berth_model::processes::{AppLife, AppProcesses, ContainerInspect, ProcessSettings};
use berth_model::release::{App, Outcome, Release};
use berth_model::{ContainerId, EnvName, NodeName, ProcessType};
use std::collections::BTreeMap;

/// `running`, `deploying`, `asleep`, `stopped`, `crashed`, `degraded` or `not deployed`, from the states of the containers that serve
/// or should.
fn status(app: &App, plan: &AppPlan, states: &[Option<ContainerStatus>]) -> &'static str {
    if plan.operation.is_some() {
        return "deploying";
    }
    if app.current.is_none() {
        return "not deployed";
    }
    if app.proxy.asleep && !plan.serving().any(|(_, planned)| planned.spec.process.is_web()) {
        return "asleep";
    }
    if app.stopped || states.is_empty() {
        return "stopped";
    }
    let runs = |status: &Option<ContainerStatus>| {
        status.as_ref().is_some_and(|status| matches!(status.state, ContainerState::Running { .. }))
    };
    match states.iter().filter(|status| runs(status)).count() {
        count if count == states.len() => "running",
        0 => "crashed",
        _ => "degraded",
    }
}

pub(crate) fn app_status(platform: &Platform, app: &App) -> &'static str {
    let plan = platform.deploys().plan(&app.name);
    let fleet = platform.deploys().fleet();
    // What a lost node said last is not how it is.
    let state = |(id, planned): (&ContainerId, &Planned)| {
        if fleet.is_lost(&planned.node) { None } else { fleet.status(id) }
    };
    let states: Vec<_> = plan.serving().map(state).collect();
    status(app, &plan, &states)
}

pub(super) async fn app_info(platform: &Platform, app: App) -> Result<AppInfo, Refusal> {
    let release = platform.current_release(&app).await?;
    let AppProcesses { lock, destroy_at_ms, cloned_from, .. } = app.processes.clone();
    let life = AppLife { lock, destroy_at_ms, cloned_from };
    let life = Some(life).filter(|life| *life != AppLife::default());
    Ok(AppInfo {
        urls: platform.urls(&app).await?,
        status: app_status(platform, &app).to_owned(),
        git_rev: release.as_ref().and_then(|release| release.git_rev.clone()),
        builder: release.map(|release| release.image.builder),
        name: app.name,
        created_ms: app.created_ms,
        deploy_branch: app.deploy_branch,
        dockerfile_path: app.dockerfile_path,
        dockerfile_target: app.dockerfile_target,
        builder_selected: app.builder,
        build_dir: app.build_dir,
        procfile_path: app.procfile_path,
        app_json_path: app.app_json_path,
        build_timeout_secs: app.build_timeout_secs,
        buildpacks: app.buildpacks,
        stack: app.stack,
        release: app.current,
        formation: app.formation,
        stopped: app.stopped,
        mounts: app.mounts,
        ports: app.ports,
        limits: app.limits,
        life,
    })
}

pub(super) fn release_info(platform: &Platform, app: &App, release: Release) -> ReleaseInfo {
    let plan = platform.deploys().plan(&app.name);
    let on_trial = plan.canary.as_ref().filter(|canary| canary.release == release.version);
    let (outcome, reason) = match release.outcome {
        Outcome::Pending if on_trial.is_some() => ("canary", None),
        Outcome::Pending => ("pending", None),
        Outcome::Live => ("live", None),
        Outcome::Failed { reason } => ("failed", Some(reason)),
        Outcome::Withdrawn { reason } => ("rolled back", Some(reason)),
    };
    ReleaseInfo {
        current: app.current == Some(release.version),
        version: release.version,
        description: release.description,
        by: release.by,
        created_ms: release.created_ms,
        outcome: outcome.to_owned(),
        reason,
        git_rev: release.git_rev,
        image: format!("{}@{}", release.image.reference.repository, release.image.reference.digest),
        config_names: release.config.into_keys().collect(),
        processes: release.image.processes.iter().map(|(name, run)| (name.clone(), command(run))).collect(),
    }
}

fn settings(app: &App, apart: &AppApart) -> ProcessSettings {
    let mut by_process: BTreeMap<ProcessType, BTreeMap<String, String>> = BTreeMap::new();
    let mut put = |process: &ProcessType, key: &str, value: String| {
        by_process.entry(process.clone()).or_default().insert(key.to_owned(), value);
    };
    let AppProcesses { restart, stop_signal, stop_timeout_secs, stopped, scaled_by_code, .. } =
        &app.processes;
    restart.iter().for_each(|(process, policy)| put(process, "restart-policy", policy.to_string()));
    stop_signal.iter().for_each(|(process, signal)| put(process, "stop-signal", signal_name(*signal)));
    stop_timeout_secs
        .iter()
        .for_each(|(process, secs)| put(process, "stop-timeout-seconds", secs.to_string()));
    for (process, PlacingSettings { pool, labels, spread }) in &app.placing.types {
        pool.iter().for_each(|pool| put(process, "pool", pool.clone()));
        labels.iter().for_each(|labels| put(process, "node-labels", shown_labels(labels)));
        spread.iter().for_each(|spread| put(process, "spread", spread.to_string()));
    }
    for (process, ApartSettings { never, rather_not }) in &apart.types {
        never.iter().for_each(|all| put(process, "apart-from", shown_neighbours(all)));
        rather_not.iter().for_each(|all| put(process, "rather-apart-from", shown_neighbours(all)));
    }
    let placing = &app.placing.own;
    ProcessSettings {
        pool: placing.pool.clone(),
        node_labels: placing.labels.as_ref().map(shown_labels),
        spread: placing.spread.map(|spread| spread.to_string()),
        apart_from: apart.own.never.as_ref().map(shown_neighbours),
        rather_apart_from: apart.own.rather_not.as_ref().map(shown_neighbours),
        stop_signal: (app.stop.signal != Stop::default().signal).then(|| signal_name(app.stop.signal)),
        stop_timeout_secs: app.stop.grace_secs,
        by_process,
        can_scale: !scaled_by_code,
        stopped: stopped.iter().cloned().collect(),
    }
}

/// Every container, without secrets.
pub(super) fn inspect(platform: &Platform, app: &App) -> Vec<ContainerInspect> {
    let plan = platform.deploys().plan(&app.name);
    let one = |(id, planned): (&ContainerId, &Planned)| {
        let spec = &planned.spec;
        let own = |name: &str| matches!(name, "PORT" | "DYNO" | "GIT_REV");
        let shown = |(name, value): (&EnvName, &String)| {
            let value = if own(name.as_str()) { value.as_str() } else { "<redacted>" };
            (name.clone(), value.to_owned())
        };
        ContainerInspect {
            id: id.clone(),
            app: spec.app.clone(),
            process: spec.process.clone(),
            ordinal: spec.ordinal,
            release: spec.release,
            node: planned.node.clone(),
            role: match planned.role {
                Role::New => "new",
                Role::Serving => "serving",
                Role::Canary => "canary",
                Role::Warm { .. } => "warm",
                Role::Retiring { .. } => "retiring",
            }
            .to_owned(),
            status: platform.deploys().fleet().status(id),
            waiting: waiting(platform, &plan, id, planned),
            image: format!("{}@{}", spec.image.repository, spec.image.digest),
            command: command(&spec.run),
            port: spec.port,
            published: spec.published.clone(),
            limits: spec.limits.clone(),
            mounts: spec.mounts.clone(),
            env: spec.env.iter().map(shown).collect(),
            restart_policy: spec.restart.to_string(),
            stop_signal: signal_name(spec.stop.signal),
            stop_timeout_secs: spec.stop.grace_secs,
        }
    };
    let mut all: Vec<_> = plan.containers.iter().map(one).collect();
    all.sort_by(|a, b| (&a.process, a.ordinal, a.release).cmp(&(&b.process, b.ordinal, b.release)));
    all
}

/// What Berth did by itself, and what is on trial.
pub(super) async fn remarks(platform: &Platform, app: &App) -> Result<Vec<String>, Refusal> {
    let mut remarks = Vec::new();
    if let Some(release) = platform.current_release(app).await?
        && release.by == crate::deploy::BERTH
    {
        remarks.push(format!("{}: {}", release.version, release.description));
    }
    if let Some(canary) = &platform.deploys().plan(&app.name).canary {
        remarks.push(canary_remark(canary.release, canary.percent));
    }
    if platform.nodes().await?.len() > 1 {
        remarks.extend(crate::placing::about_volumes(platform, app).await?);
    }
    remarks.extend(crate::placing::about_neighbours(platform, app).await?);
    Ok(remarks)
}

/// Why a container waits, or what it is there for if it does not serve like all others.
fn waiting(platform: &Platform, plan: &AppPlan, id: &ContainerId, planned: &Planned) -> Option<String> {
    let status = platform.deploys().fleet().status(id);
    match (&status, planned.role) {
        _ if platform.deploys().fleet().is_lost(&planned.node) => Some(lost(platform, id, &planned.node)),
        (None, _) if let Some(volume) = platform.kept().holds(&planned.node, &planned.spec) => {
            Some(format!("its volume {volume} is put back on {} from the backup first", planned.node))
        }
        (None, _) => Some(format!("node {} has not reported it yet", planned.node)),
        (_, Role::Retiring { .. }) => Some("its last requests end".to_owned()),
        (_, Role::Warm { .. }) => Some("kept for a rollback".to_owned()),
        (_, Role::Canary) => {
            let percent = plan.canary.as_ref().map_or(0, |canary| canary.percent);
            Some(format!("canary, {percent} % of the requests"))
        }
        _ => None,
    }
}

/// What is to be known of a container whose node is lost.
fn lost(platform: &Platform, id: &ContainerId, node: &NodeName) -> String {
    match platform.deploys().waits(id) {
        Some(why) => format!("node {node} is lost: {why}"),
        None => format!("node {node} is lost"),
    }
}

pub(super) fn ps(platform: &Platform, app: App, aparts: &Aparts) -> PsReport {
    let plan = platform.deploys().plan(&app.name);
    let mut containers: Vec<_> = plan
        .containers
        .iter()
        .map(|(id, planned)| PsContainer {
            id: id.clone(),
            process: planned.spec.process.clone(),
            ordinal: planned.spec.ordinal,
            release: planned.release(),
            node: Some(planned.node.clone()),
            status: platform.deploys().fleet().status(id),
            command: command(&planned.spec.run),
            waiting: waiting(platform, &plan, id, planned),
        })
        .collect();
    containers.sort_by(|a, b| {
        let key = |one: &PsContainer| (one.process.clone(), one.ordinal, one.release);
        key(a).cmp(&key(b))
    });
    let settings = settings(&app, aparts.get(&app.name).unwrap_or(&AppApart::default()));
    PsReport {
        status: app_status(platform, &app).to_owned(),
        app: app.name,
        formation: app.formation,
        restart_policy: app.restart.to_string(),
        settings: Some(settings),
        containers,
        remarks: Vec::new(),
    }
}
