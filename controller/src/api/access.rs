//! SSH keys and tokens.

use super::answer::Refusal;
use super::extract::{Json, Path};
use crate::platform::{Platform, SshKey};
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_model::api::{AddSshKey, CreateToken, CreatedToken, SshKeyInfo, TokenInfo};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(ssh_keys, add_ssh_key))
        .routes(routes!(remove_ssh_key))
        .routes(routes!(tokens, create_token))
        .routes(routes!(remove_token))
}

/// Every key that may push and give commands over SSH.
#[utoipa::path(get, path = "/v1/ssh-keys", tag = "access", responses((status = 200, body = Vec<SshKeyInfo>)))]
async fn ssh_keys(State(platform): State<Platform>) -> Result<Answer<Vec<SshKeyInfo>>, Refusal> {
    Ok(Answer(platform.ssh_keys().await?.iter().map(SshKey::info).collect()))
}

/// Lets a public key in.
#[utoipa::path(post, path = "/v1/ssh-keys", tag = "access", request_body = AddSshKey,
    responses((status = 201, body = SshKeyInfo), (status = 409, description = "The name or the key is there already")))]
async fn add_ssh_key(
    State(platform): State<Platform>,
    Json(AddSshKey { name, public_key }): Json<AddSshKey>,
) -> Result<Response, Refusal> {
    let info = platform.add_ssh_key(&name, &public_key).await?;
    Ok((StatusCode::CREATED, Answer(info)).into_response())
}

/// Shuts a key out.
#[utoipa::path(delete, path = "/v1/ssh-keys/{name}", tag = "access", params(("name" = String, Path)),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There is no such key")))]
async fn remove_ssh_key(
    State(platform): State<Platform>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    platform.remove_ssh_key(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Every token's name and last use; never the token itself.
#[utoipa::path(get, path = "/v1/tokens", tag = "access", responses((status = 200, body = Vec<TokenInfo>)))]
async fn tokens(State(platform): State<Platform>) -> Result<Answer<Vec<TokenInfo>>, Refusal> {
    Ok(Answer(platform.tokens().await?))
}

/// Makes a token. The answer is the only time it is shown.
#[utoipa::path(post, path = "/v1/tokens", tag = "access", request_body = CreateToken,
    responses((status = 201, body = CreatedToken), (status = 409, description = "The name is taken")))]
async fn create_token(
    State(platform): State<Platform>,
    Json(CreateToken { name }): Json<CreateToken>,
) -> Result<Response, Refusal> {
    let created = platform.create_token(&name).await?;
    Ok((StatusCode::CREATED, Answer(created)).into_response())
}

/// Ends a token at once.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "access", params(("name" = String, Path)),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There is no such token")))]
async fn remove_token(
    State(platform): State<Platform>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    platform.remove_token(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
