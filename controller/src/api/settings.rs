//! Domains, of apps and of the platform.

use super::answer::Refusal;
use super::extract::{Json, Path};
use crate::deploy;
use crate::platform::Platform;
use axum::Json as Answer;
use axum::extract::State;
use berth_model::AppName;
use berth_model::api::{Domains, PatchDomains};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(global_domains, patch_global_domains))
        .routes(routes!(domains, patch_domains))
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
    deploy::serve_routes(&platform).await?;
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

/// Changes where an app answers; without a restart: when this answers, the proxies that are alive serve it.
#[utoipa::path(patch, path = "/v1/apps/{app}/domains", tag = "domains", params(("app" = AppName, Path)),
    request_body = PatchDomains,
    responses((status = 200, body = Domains), (status = 409, description = "The domain leads to another app")))]
async fn patch_domains(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchDomains>,
) -> Result<Answer<Domains>, Refusal> {
    let app = platform.patch_domains(&name, &patch).await?;
    deploy::serve_routes(&platform).await?;
    let effective = platform.effective_domains(&app).await?;
    Ok(Answer(Domains { default_enabled: app.default_domain, domains: app.domains, effective }))
}
