//! Logins of other registries. Passwords go in and never come out.

use super::answer::Refusal;
use super::extract::{Json, Query};
use crate::errors::from_agent;
use crate::platform::Platform;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use berth_model::api::{PutRegistry, RegistryInfo};
use berth_model::{AppName, RegistryLogin, RegistryServer};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(list, login, logout))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only the logins that this app uses.
    app: Option<AppName>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct LogoutQuery {
    /// The app's own login; else the one for all.
    app: Option<AppName>,
    /// Which registry.
    server: RegistryServer,
}

/// Every login, or those that one app uses.
#[utoipa::path(get, path = "/v1/registries", tag = "registries", params(ListQuery),
    responses((status = 200, body = Vec<RegistryInfo>)))]
async fn list(
    State(platform): State<Platform>,
    Query(ListQuery { app }): Query<ListQuery>,
) -> Result<Answer<Vec<RegistryInfo>>, Refusal> {
    let apps = match app {
        Some(app) => vec![platform.existing_app(&app).await?.name],
        None => platform.apps().await?.into_iter().map(|app| app.name).collect(),
    };
    let mut found = Vec::new();
    for scope in std::iter::once(None).chain(apps.into_iter().map(Some)) {
        let logins = platform.registry_logins_of(scope.as_ref()).await?.into_iter();
        found.extend(logins.map(|login| RegistryInfo {
            app: scope.clone(),
            server: login.server,
            user: login.user,
            plain_http: login.plain_http,
        }));
    }
    Ok(Answer(found))
}

/// Keeps a login, once its registry has said that it is good. It is used when images are pulled.
#[utoipa::path(post, path = "/v1/registries", tag = "registries", request_body = PutRegistry,
    responses((status = 204, description = "It is kept, encrypted")))]
async fn login(
    State(platform): State<Platform>,
    Json(PutRegistry { app, server, user, password, plain_http }): Json<PutRegistry>,
) -> Result<StatusCode, Refusal> {
    if let Some(app) = &app {
        platform.existing_app(app).await?;
    }
    let login = RegistryLogin { server, user, password, plain_http };
    if !login.user.is_empty() {
        let asked = platform.any_agent().call(Method::POST, "/v1/registries/check", Some(&login)).await;
        asked.map_err(from_agent)?;
    }
    platform.put_registry_login(app.as_ref(), &login).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a login.
#[utoipa::path(delete, path = "/v1/registries", tag = "registries", params(LogoutQuery),
    responses((status = 204, description = "It is forgotten")))]
async fn logout(
    State(platform): State<Platform>,
    Query(LogoutQuery { app, server }): Query<LogoutQuery>,
) -> Result<StatusCode, Refusal> {
    platform.remove_registry_login(app.as_ref(), &server).await?;
    Ok(StatusCode::NO_CONTENT)
}
