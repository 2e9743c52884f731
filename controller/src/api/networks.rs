//! Networks, and the apps on them.

use super::answer::Refusal;
use super::extract::{Json, Path};
use crate::platform::Platform;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_model::AppName;
use berth_model::names::NetworkName;
use berth_model::network::{AppNetworksInfo, CreateNetwork, NetworkInfo, PatchNetworks};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(one, destroy))
        .routes(routes!(of_app, patch))
}

/// Every network, and who is on it.
#[utoipa::path(get, path = "/v1/networks", tag = "networks", responses((status = 200, body = Vec<NetworkInfo>)))]
async fn list(State(platform): State<Platform>) -> Result<Answer<Vec<NetworkInfo>>, Refusal> {
    Ok(Answer(platform.networks().await?))
}

/// Makes a network. Apps on it reach each other.
#[utoipa::path(post, path = "/v1/networks", tag = "networks", request_body = CreateNetwork,
    responses((status = 201, body = NetworkInfo), (status = 409, description = "There is one already")))]
async fn create(
    State(platform): State<Platform>,
    Json(CreateNetwork { name }): Json<CreateNetwork>,
) -> Result<Response, Refusal> {
    Ok((StatusCode::CREATED, Answer(platform.create_network(&name).await?)).into_response())
}

/// One network.
#[utoipa::path(get, path = "/v1/networks/{network}", tag = "networks", params(("network" = NetworkName, Path)),
    responses((status = 200, body = NetworkInfo), (status = 404, description = "There is no such network")))]
async fn one(
    State(platform): State<Platform>,
    Path(name): Path<NetworkName>,
) -> Result<Answer<NetworkInfo>, Refusal> {
    Ok(Answer(platform.network(&name).await?))
}

/// Removes a network that no app is on.
#[utoipa::path(delete, path = "/v1/networks/{network}", tag = "networks", params(("network" = NetworkName, Path)),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There is no such network"),
        (status = 409, description = "Apps are on it")))]
async fn destroy(
    State(platform): State<Platform>,
    Path(name): Path<NetworkName>,
) -> Result<StatusCode, Refusal> {
    platform.destroy_network(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which networks an app is on, its names there, and whom it reaches.
#[utoipa::path(get, path = "/v1/apps/{app}/networks", tag = "networks", params(("app" = AppName, Path)),
    responses((status = 200, body = AppNetworksInfo), (status = 404, description = "There is no such app")))]
async fn of_app(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
) -> Result<Answer<AppNetworksInfo>, Refusal> {
    Ok(Answer(platform.networks_of(&app).await?))
}

/// Changes which networks an app is on; without a restart.
#[utoipa::path(patch, path = "/v1/apps/{app}/networks", tag = "networks", params(("app" = AppName, Path)),
    request_body = PatchNetworks,
    responses((status = 200, body = AppNetworksInfo),
        (status = 404, description = "There is no such app or network, or the app is not on it")))]
async fn patch(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    Json(patch): Json<PatchNetworks>,
) -> Result<Answer<AppNetworksInfo>, Refusal> {
    platform.patch_networks(&app, &patch).await?;
    Ok(Answer(platform.networks_of(&app).await?))
}
