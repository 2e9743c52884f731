//! Config vars and domains, of apps and of the platform.

use super::answer::{Refusal, done, progress};
use super::caller::Caller;
use super::extract::{Json, Path};
use crate::deploy::{self, Change};
use crate::platform::{Platform, ProgressSender, say};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use berth_model::api::{ApiError, Config, Domains, PatchConfig, PatchDomains, Progress};
use berth_model::{AppName, EnvName};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(global_config, patch_global_config))
        .routes(routes!(config, patch_config))
        .routes(routes!(global_domains, patch_global_domains))
        .routes(routes!(domains, patch_domains))
}

/// Config vars that every app gets.
#[utoipa::path(get, path = "/v1/config", tag = "config", responses((status = 200, body = Config)))]
async fn global_config(State(platform): State<Platform>) -> Result<Answer<Config>, Refusal> {
    Ok(Answer(Config(platform.global_config().await?)))
}

/// An app's own config vars.
#[utoipa::path(get, path = "/v1/apps/{app}/config", tag = "config", params(("app" = AppName, Path)),
    responses((status = 200, body = Config), (status = 404, description = "There is no such app")))]
async fn config(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<Config>, Refusal> {
    platform.existing_app(&name).await?;
    Ok(Answer(Config(platform.app_config(&name).await?)))
}

/// Changes config vars of an app. If that changes what it would run with, it gets a new release, unless `no_restart`.
#[utoipa::path(patch, path = "/v1/apps/{app}/config", tag = "config", params(("app" = AppName, Path)),
    request_body = PatchConfig, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn patch_config(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchConfig>,
) -> Result<Response, Refusal> {
    let change = platform.patch_config(Some(&name), &patch).await?;
    if !change.changed || patch.no_restart {
        return Ok(done());
    }
    let text = description(&patch);
    Ok(progress(move |lines| async move { release(&platform, &name, &text, &by, &lines).await }))
}

/// Changes config vars that every app gets; each running app gets a new release, unless `no_restart`.
#[utoipa::path(patch, path = "/v1/config", tag = "config", request_body = PatchConfig,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn patch_global_config(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Json(patch): Json<PatchConfig>,
) -> Result<Response, Refusal> {
    let change = platform.patch_config(None, &patch).await?;
    if !change.changed || patch.no_restart {
        return Ok(done());
    }
    let text = format!("{} (global)", description(&patch));
    Ok(progress(move |lines| async move {
        let mut failed = Vec::new();
        for app in platform.apps().await? {
            if let Err(error) = release(&platform, &app.name, &text, &by, &lines).await {
                say(&lines, Progress::Warning { text: format!("{}: {}", app.name, error.message) }).await;
                failed.push(app.name.to_string());
            }
        }
        match failed.as_slice() {
            [] => Ok(()),
            failed => Err(crate::errors::failed(format!(
                "the values are set, but these apps still run with the old ones: {}; see above why, then: berth \
                 ps:restart APP",
                failed.join(", ")
            ))),
        }
    }))
}

/// Gives an app that runs a release with the config of now.
async fn release(
    platform: &Platform,
    name: &AppName,
    description: &str,
    by: &str,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    // Destroyed meanwhile, or never deployed: the next release takes the config.
    let Some(app) = platform.app(name).await? else { return Ok(()) };
    let Some(current) = platform.current_release(&app).await? else { return Ok(()) };
    if platform.config_of(name).await? == current.config {
        return Ok(());
    }
    let change = Change::Config { description: description.to_owned() };
    deploy::deploy(platform, name, change, by, lines, &CancellationToken::new()).await.map(drop)
}

/// `Set A, B config vars; unset C`.
fn description(patch: &PatchConfig) -> String {
    fn list<'a>(verb: &str, names: impl Iterator<Item = &'a EnvName>) -> Option<String> {
        let names: Vec<_> = names.map(EnvName::as_str).collect();
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| format!("{verb} {} config var{plural}", names.join(", ")))
    }
    let parts = [
        patch.replace.then(|| "Replace all config vars".to_owned()),
        list("Set", patch.set.keys()),
        list("Unset", patch.unset.iter()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The domains under which every app has a name.
#[utoipa::path(get, path = "/v1/domains", tag = "domains", responses((status = 200, body = Domains)))]
async fn global_domains(State(platform): State<Platform>) -> Result<Answer<Domains>, Refusal> {
    let domains = platform.global_domains().await?;
    Ok(Answer(Domains { default_enabled: true, effective: domains.clone(), domains }))
}

/// Changes the domains under which every app has a name.
#[utoipa::path(patch, path = "/v1/domains", tag = "domains", request_body = PatchDomains,
    responses((status = 200, body = Domains), (status = 409, description = "Two apps would have one name")))]
async fn patch_global_domains(
    State(platform): State<Platform>,
    Json(patch): Json<PatchDomains>,
) -> Result<Answer<Domains>, Refusal> {
    let domains = platform.patch_global_domains(&patch).await?;
    Ok(Answer(Domains { default_enabled: true, effective: domains.clone(), domains }))
}

/// Where an app answers.
#[utoipa::path(get, path = "/v1/apps/{app}/domains", tag = "domains", params(("app" = AppName, Path)),
    responses((status = 200, body = Domains), (status = 404, description = "There is no such app")))]
async fn domains(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<Domains>, Refusal> {
    let app = platform.existing_app(&name).await?;
    let effective = platform.effective_domains(&app).await?;
    Ok(Answer(Domains { default_enabled: app.default_domain, domains: app.domains, effective }))
}

/// Changes where an app answers; the proxy follows at once, without a restart.
#[utoipa::path(patch, path = "/v1/apps/{app}/domains", tag = "domains", params(("app" = AppName, Path)),
    request_body = PatchDomains,
    responses((status = 200, body = Domains), (status = 409, description = "The domain leads to another app")))]
async fn patch_domains(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchDomains>,
) -> Result<Answer<Domains>, Refusal> {
    let app = platform.patch_domains(&name, &patch).await?;
    let effective = platform.effective_domains(&app).await?;
    Ok(Answer(Domains { default_enabled: app.default_domain, domains: app.domains, effective }))
}
