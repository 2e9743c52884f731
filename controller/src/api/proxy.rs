//! The proxy's settings, of apps and of the platform. A change is answered once the proxies go by it.

use super::answer::Refusal;
use super::extract::{Json, Path};
use crate::deploy;
use crate::platform::Platform;
use axum::Json as Answer;
use axum::extract::State;
use berth_model::AppName;
use berth_model::proxy_api::{PatchProxy, ProxyInfo};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(global, patch_global)).routes(routes!(info, patch))
}

/// What holds for all apps.
#[utoipa::path(get, path = "/v1/proxy", tag = "proxy", responses((status = 200, body = ProxyInfo)))]
async fn global(State(platform): State<Platform>) -> Result<Answer<ProxyInfo>, Refusal> {
    Ok(Answer(platform.global_proxy_info().await?))
}

/// Changes what holds for all apps.
#[utoipa::path(patch, path = "/v1/proxy", tag = "proxy", request_body = PatchProxy,
    responses((status = 200, body = ProxyInfo), (status = 400, description = "A value is not one")))]
async fn patch_global(
    State(platform): State<Platform>,
    Json(patch): Json<PatchProxy>,
) -> Result<Answer<ProxyInfo>, Refusal> {
    platform.patch_global_proxy(&patch).await?;
    deploy::serve_routes(&platform).await?;
    Ok(Answer(platform.global_proxy_info().await?))
}

/// How an app's requests are treated.
#[utoipa::path(get, path = "/v1/apps/{app}/proxy", tag = "proxy", params(("app" = AppName, Path)),
    responses((status = 200, body = ProxyInfo), (status = 404, description = "There is no such app")))]
async fn info(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<ProxyInfo>, Refusal> {
    let app = platform.existing_app(&name).await?;
    Ok(Answer(platform.proxy_info(&app).await?))
}

/// Changes how an app's requests are treated; nothing is restarted, and no request in flight is touched.
#[utoipa::path(patch, path = "/v1/apps/{app}/proxy", tag = "proxy", params(("app" = AppName, Path)),
    request_body = PatchProxy,
    responses((status = 200, body = ProxyInfo), (status = 400, description = "A value is not one"),
        (status = 409, description = "The path leads to another app")))]
async fn patch(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchProxy>,
) -> Result<Answer<ProxyInfo>, Refusal> {
    let app = platform.patch_proxy(&name, &patch).await?;
    deploy::serve_routes(&platform).await?;
    Ok(Answer(platform.proxy_info(&app).await?))
}
