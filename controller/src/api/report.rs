//! What the API shows of apps, their releases and processes.
//!
//! In: state of the store and what nodes report. Out: the API's types. `status` and `command` are pure.

use super::answer::Refusal;
use crate::deploy::{AppPlan, Role};
use crate::platform::Platform;
use berth_model::api::{AppInfo, PsContainer, PsReport, ReleaseInfo};
use berth_model::container::{ContainerState, ContainerStatus, RestartPolicy};
use berth_model::image::Process;
use berth_model::release::{App, Outcome, Release};

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

fn app_status(platform: &Platform, app: &App) -> &'static str {
    let plan = platform.deploys().plan(&app.name);
    let states: Vec<_> = plan.serving().map(|(id, _)| platform.deploys().fleet().status(id)).collect();
    status(app, &plan, &states)
}

/// What a process runs, as its Procfile has it.
fn command(process: &Process) -> String {
    match process {
        Process::Static(_) => "static".to_owned(),
        Process::Command { argv } => match argv.as_slice() {
            [shell, flag, line] if shell == "/bin/bash" && flag == "-c" => line.clone(),
            argv => argv.join(" "),
        },
    }
}

pub(super) async fn app_info(platform: &Platform, app: App) -> Result<AppInfo, Refusal> {
    let release = platform.current_release(&app).await?;
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
    })
}

pub(super) fn release_info(app: &App, release: Release) -> ReleaseInfo {
    let (outcome, reason) = match release.outcome {
        Outcome::Pending => ("pending", None),
        Outcome::Live => ("live", None),
        Outcome::Failed { reason } => ("failed", Some(reason)),
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

pub(super) fn ps(platform: &Platform, app: App) -> PsReport {
    let plan = platform.deploys().plan(&app.name);
    let mut containers: Vec<_> = plan
        .containers
        .iter()
        .map(|(id, planned)| {
            let status = platform.deploys().fleet().status(id);
            let waiting = match (&status, planned.role) {
                (None, _) => Some(format!("node {} has not reported it yet", planned.node)),
                (_, Role::Retiring { .. }) => Some("its last requests end".to_owned()),
                _ => None,
            };
            PsContainer {
                id: id.clone(),
                process: planned.spec.process.clone(),
                ordinal: planned.spec.ordinal,
                release: planned.spec.release,
                node: Some(planned.node.clone()),
                status,
                command: command(&planned.spec.run),
                waiting,
            }
        })
        .collect();
    containers.sort_by(|a, b| {
        let key = |one: &PsContainer| (one.process.clone(), one.ordinal, one.release);
        key(a).cmp(&key(b))
    });
    let restart_policy = match app.restart {
        RestartPolicy::Never => "no".to_owned(),
        RestartPolicy::Always => "always".to_owned(),
        RestartPolicy::OnFailure { max_retries } => format!("on-failure:{max_retries}"),
    };
    PsReport {
        status: app_status(platform, &app).to_owned(),
        app: app.name,
        formation: app.formation,
        restart_policy,
        containers,
    }
}
