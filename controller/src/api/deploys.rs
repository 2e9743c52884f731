//! How an app is deployed: its settings, canaries, checks, differences between releases, promotion to another app.

use super::answer::{Refusal, progress};
use super::caller::Caller;
use super::extract::{Json, OptionalJson, Path, Query};
use crate::deploy::{self, Change, NewImage, Role, Trialling};
use crate::errors::{conflict, failed, from_agent, internal, invalid};
use crate::platform::{Platform, lives, now_ms, say};
use crate::{release, release_diff};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use berth_model::api::{ApiError, Progress};
use berth_model::container::ContainerState;
use berth_model::deploy::{
    CanaryInfo, CheckResult, ChecksMode, ChecksReport, DEFAULT_CANARY_PERCENT, DeployReport, PatchChecks,
    PatchDeploy, PromoteTo, ReleaseDiff, RunChecks, SetCanary, canary_percent,
};
use berth_model::image::ImageRef;
use berth_model::release::{App, Formation};
use berth_model::{AppName, ContainerId, ReleaseVersion};
use serde::Deserialize;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What keeps an image that came from another app, until the release that runs it does.
const PROMOTED: &str = "promoted";

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(report, patch))
        .routes(routes!(canary))
        .routes(routes!(promote_canary))
        .routes(routes!(abort_canary))
        .routes(routes!(promote))
        .routes(routes!(diff))
        .routes(routes!(checks, patch_checks))
        .routes(routes!(run_checks))
}

async fn described(platform: &Platform, app: &App) -> Result<DeployReport, Refusal> {
    let plan = platform.deploys().plan(&app.name);
    let config = match platform.current_release(app).await? {
        Some(release) => release.config,
        None => platform.config_of(&app.name).await?,
    };
    let canary = plan.canary.as_ref().map(|canary| {
        let containers = plan.on_trial().count();
        let answers = platform.traffic().answers(plan.on_trial().map(|(id, _)| id), now_ms() / 1000);
        CanaryInfo {
            release: canary.release,
            percent: canary.percent,
            containers: u32::try_from(containers).unwrap_or(u32::MAX),
            since_ms: canary.since_ms,
            requests: answers.requests,
            errors: answers.errors,
        }
    });
    let kept: Vec<i64> = plan
        .containers
        .values()
        .filter_map(|planned| match planned.role {
            Role::Warm { until_ms } => Some(until_ms),
            _ => None,
        })
        .collect();
    let settings = &app.deploy;
    Ok(DeployReport {
        app: app.name.clone(),
        strategy: settings.strategy,
        canary_percent: settings.canary_percent.unwrap_or(DEFAULT_CANARY_PERCENT),
        next_canary: settings.next_canary,
        auto_rollback: settings.rolls_back(),
        rollback_window_secs: settings.window_secs(),
        rollback_error_percent: settings.error_percent(),
        volumes: settings.volumes,
        wait_to_retire_secs: release::wait_to_retire(app, &config),
        parallel_schedule_count: settings.parallel_types.unwrap_or(1),
        under_way: plan.operation.as_ref().map(|operation| operation.title.clone()),
        release: app.current,
        canary,
        watched_until_ms: plan.watch.as_ref().map(|watch| watch.until_ms),
        back_to: plan.watch.as_ref().map(|watch| watch.back_to),
        kept: u32::try_from(kept.len()).unwrap_or(u32::MAX),
        kept_until_ms: kept.into_iter().max(),
    })
}

/// How an app is deployed, and what is under way.
#[utoipa::path(get, path = "/v1/apps/{app}/deploy", tag = "deploys", params(("app" = AppName, Path)),
    responses((status = 200, body = DeployReport), (status = 404, description = "There is no such app")))]
async fn report(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<DeployReport>, Refusal> {
    let app = platform.existing_app(&name).await?;
    Ok(Answer(described(&platform, &app).await?))
}

/// Changes how an app is deployed, from its next deploy on.
#[utoipa::path(patch, path = "/v1/apps/{app}/deploy", tag = "deploys", params(("app" = AppName, Path)),
    request_body = PatchDeploy,
    responses((status = 200, body = DeployReport), (status = 400, description = "No such property or value")))]
async fn patch(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchDeploy>,
) -> Result<Answer<DeployReport>, Refusal> {
    let change = |app: &mut App| {
        let mut each = patch.values.iter();
        each.try_for_each(|(key, value)| app.deploy.set(key, value)).map_err(invalid)
    };
    let app = platform.try_update_app::<ApiError>(&name, change).await?;
    Ok(Answer(described(&platform, &app).await?))
}

/// Gives the release on trial another share; without one, the next deploy is a canary with this share.
#[utoipa::path(post, path = "/v1/apps/{app}/deploy/canary", tag = "deploys", params(("app" = AppName, Path)),
    request_body = SetCanary, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn canary(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    Json(SetCanary { percent }): Json<SetCanary>,
) -> Result<Response, Refusal> {
    if let Some(percent) = percent {
        canary_percent(&percent.to_string()).map_err(invalid)?;
    }
    trial(platform, by, name, Trialling::Share(percent)).await
}

/// Makes the release on trial the one that serves.
#[utoipa::path(post, path = "/v1/apps/{app}/deploy/promote", tag = "deploys", params(("app" = AppName, Path)),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn promote_canary(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
) -> Result<Response, Refusal> {
    lives::check_unlocked(&platform.existing_app(&name).await?)?;
    trial(platform, by, name, Trialling::Promote).await
}

/// Ends the release on trial.
#[utoipa::path(post, path = "/v1/apps/{app}/deploy/abort", tag = "deploys", params(("app" = AppName, Path)),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn abort_canary(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
) -> Result<Response, Refusal> {
    trial(platform, by, name, Trialling::Abort).await
}

async fn trial(platform: Platform, by: String, name: AppName, what: Trialling) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    Ok(progress(move |lines| async move { deploy::trial(&platform, &name, what, &by, &lines).await }))
}

/// Deploys this app's release on another app: the same image, with that app's own config.
#[utoipa::path(post, path = "/v1/apps/{app}/promote", tag = "deploys", params(("app" = AppName, Path)),
    request_body = PromoteTo, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn promote(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(from): Path<AppName>,
    Json(PromoteTo { to }): Json<PromoteTo>,
) -> Result<Response, Refusal> {
    if from == to {
        return Err(invalid(format!("{from} cannot be promoted to itself; name another app")).into());
    }
    let source = platform.existing_app(&from).await?;
    lives::check_unlocked(&platform.existing_app(&to).await?)?;
    let Some(found) = platform.current_release(&source).await? else {
        return Err(invalid(format!("App {from} has not been deployed: there is nothing to promote")).into());
    };
    Ok(progress(move |lines| async move {
        let (registry, reference) = (platform.registry().clone(), found.image.reference.clone());
        let into = format!("apps/{to}");
        let repository = into.clone();
        let given = tokio::task::spawn_blocking(move || {
            registry.give(&reference.repository, &reference.digest.to_string(), &into, PROMOTED)
        });
        let given = given.await.map_err(|error| internal("giving an image over broke off", &error))?;
        let digest = given.map_err(|error| failed(format!("the image of {from} cannot be had: {error}")))?;
        let rev = found.git_rev.as_deref().and_then(|rev| rev.get(..7));
        let rev = rev.map_or_else(String::new, |rev| format!(" ({rev})"));
        let text = format!("Promoting {from} {}{rev} to {to}", found.version);
        say(&lines, Progress::Step { text }).await;
        let new = NewImage {
            image: berth_model::image::Image { reference: ImageRef { repository, digest }, ..found.image },
            git_rev: found.git_rev,
            checks: found.checks,
            formation: Formation::default(),
            max_parallel: found.max_parallel,
            cron: found.cron,
            description: format!("Promote {from} {}{rev}", found.version),
        };
        let change = Change::Image(Box::new(new));
        deploy::deploy(&platform, &to, change, &by, &lines, &CancellationToken::new()).await.map(drop)
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DiffQuery {
    /// The older: `v12` or `12`; the live one before the newer unless said.
    from: Option<String>,
    /// The newer; the current one unless said.
    to: Option<String>,
    /// Show config values.
    #[serde(default)]
    reveal: bool,
}

/// What differs between two releases.
#[utoipa::path(get, path = "/v1/apps/{app}/release-diff", tag = "releases", params(("app" = AppName, Path), DiffQuery),
    responses((status = 200, body = ReleaseDiff), (status = 404, description = "There is no such app or release")))]
async fn diff(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Query(query): Query<DiffQuery>,
) -> Result<Answer<ReleaseDiff>, Refusal> {
    let app = platform.existing_app(&name).await?;
    let parse = |text: &String| {
        text.parse::<ReleaseVersion>().map_err(|error: berth_model::NameError| invalid(error.to_string()))
    };
    let to = match &query.to {
        Some(to) => parse(to)?,
        None => app.current.ok_or_else(|| invalid(format!("App {name} has not been deployed")))?,
    };
    let to = platform.existing_release(&name, to).await?;
    let from = match &query.from {
        Some(from) => platform.existing_release(&name, parse(from)?).await?,
        None => {
            let earlier = platform.releases(&name).await?.into_iter().rev();
            let mut earlier = earlier.filter(|one| {
                let failed = matches!(one.outcome, berth_model::release::Outcome::Failed { .. });
                one.version < to.version && !failed
            });
            let none = || invalid(format!("{name} has no release before {} to compare it with", to.version));
            earlier.next().ok_or_else(none)?
        }
    };
    let now = match query.reveal {
        true => Some(platform.config_and_secrets_of(&name).await?.1),
        false => None,
    };
    let changes = release_diff::diff(&from, &to, now.as_ref());
    Ok(Answer(ReleaseDiff { app: name, from: from.version, to: to.version, changes }))
}

async fn checks_of(platform: &Platform, app: &App) -> Result<ChecksReport, Refusal> {
    let current = platform.current_release(app).await?;
    let config = match &current {
        Some(release) => release.config.clone(),
        None => platform.config_of(&app.name).await?,
    };
    let mut checks = BTreeMap::new();
    if let Some(release) = &current {
        for (process, run) in release.image.processes.iter().filter(|(process, _)| !process.is_release()) {
            checks.insert(process.clone(), release::checks(app, release, process, run));
        }
    }
    Ok(ChecksReport {
        app: app.name.clone(),
        disabled: app.deploy.checks_disabled.to_string(),
        skipped: app.deploy.checks_skipped.to_string(),
        wait_to_retire_secs: release::wait_to_retire(app, &config),
        checks,
    })
}

/// What an app's containers are checked with.
#[utoipa::path(get, path = "/v1/apps/{app}/checks", tag = "deploys", params(("app" = AppName, Path)),
    responses((status = 200, body = ChecksReport), (status = 404, description = "There is no such app")))]
async fn checks(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<ChecksReport>, Refusal> {
    let app = platform.existing_app(&name).await?;
    Ok(Answer(checks_of(&platform, &app).await?))
}

/// Makes, skips or disables the checks of process types, from the next deploy on.
#[utoipa::path(patch, path = "/v1/apps/{app}/checks", tag = "deploys", params(("app" = AppName, Path)),
    request_body = PatchChecks, responses((status = 200, body = ChecksReport)))]
async fn patch_checks(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(PatchChecks { mode, types }): Json<PatchChecks>,
) -> Result<Answer<ChecksReport>, Refusal> {
    if types.len() > 100 {
        return Err(invalid("more than 100 process types are too many").into());
    }
    let change = |app: &mut App| {
        let settings = &mut app.deploy;
        match mode {
            ChecksMode::Enable => {
                settings.checks_disabled.remove(&types).map_err(invalid)?;
                settings.checks_skipped.remove(&types).map_err(invalid)?;
            }
            ChecksMode::Disable => {
                settings.checks_disabled.add(&types);
                if !settings.checks_skipped.all || types.is_empty() {
                    settings.checks_skipped.remove(&types).map_err(invalid)?;
                }
            }
            ChecksMode::Skip => {
                settings.checks_skipped.add(&types);
                if !settings.checks_disabled.all || types.is_empty() {
                    settings.checks_disabled.remove(&types).map_err(invalid)?;
                }
            }
        }
        Ok(())
    };
    let app = platform.try_update_app::<ApiError>(&name, change).await?;
    Ok(Answer(checks_of(&platform, &app).await?))
}

/// Makes every check of running containers once, now. Nothing is done about what fails.
#[utoipa::path(post, path = "/v1/apps/{app}/checks/run", tag = "deploys", params(("app" = AppName, Path)),
    request_body = RunChecks, responses((status = 200, body = Vec<CheckResult>)))]
async fn run_checks(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    OptionalJson(RunChecks { process, ordinal }): OptionalJson<RunChecks>,
) -> Result<Answer<Vec<CheckResult>>, Refusal> {
    platform.existing_app(&name).await?;
    let plan = platform.deploys().plan(&name);
    let fits = |planned: &deploy::Planned| {
        let spec = &planned.spec;
        process.as_ref().is_none_or(|process| *process == spec.process)
            && ordinal.is_none_or(|ordinal| ordinal == spec.ordinal)
    };
    let runs = |id: &ContainerId| {
        let state = platform.deploys().fleet().status(id).map(|status| status.state);
        matches!(state, Some(ContainerState::Running { .. } | ContainerState::Starting { .. }))
    };
    let chosen: Vec<_> = plan.in_service().filter(|(id, planned)| fits(planned) && runs(id)).collect();
    if chosen.is_empty() {
        let what = match (&process, ordinal) {
            (Some(process), Some(ordinal)) => format!("{process}.{ordinal}"),
            (Some(process), None) => process.to_string(),
            _ => "container".to_owned(),
        };
        return Err(conflict(format!("no {what} of {name} runs; see: berth ps:report {name}")).into());
    }
    let mut results = Vec::new();
    for (id, planned) in chosen {
        let path = format!("/v1/checks?container={id}");
        let some: Vec<CheckResult> = platform
            .agent_of(&planned.node)
            .json(http::Method::POST, &path, None::<&()>)
            .await
            .map_err(from_agent)?;
        results.extend(some);
    }
    Ok(Answer(results))
}
