//! SSH keys and tokens.

use super::answer::Refusal;
use super::caller::{Caller, Origin};
use super::extract::{Json, Path};
use crate::errors::{invalid, not_found};
use crate::platform::{Credential, Platform, SshKey};
use axum::Extension;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_model::api::{
    AddSshKey, CreateToken, CreatedSession, CreatedToken, SessionInfo, SignInCode, SshKeyInfo, TokenInfo,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(ssh_keys, add_ssh_key))
        .routes(routes!(remove_ssh_key))
        .routes(routes!(tokens, create_token))
        .routes(routes!(remove_token))
        .routes(routes!(create_sign_in_code))
        .routes(routes!(sessions, create_session, remove_sessions))
        .routes(routes!(session, remove_session))
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

/// Makes a code that signs a browser in as the caller: once, within ten minutes.
#[utoipa::path(post, path = "/v1/sign-in-codes", tag = "access", responses((status = 201, body = SignInCode)))]
async fn create_sign_in_code(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
) -> Result<Response, Refusal> {
    Ok((StatusCode::CREATED, Answer(platform.create_sign_in_code(&by).await?)).into_response())
}

/// Every session that is not over, the newest first; never their secrets.
#[utoipa::path(get, path = "/v1/sessions", tag = "access", responses((status = 200, body = Vec<SessionInfo>)))]
async fn sessions(
    State(platform): State<Platform>,
    shown: Option<Extension<Credential>>,
) -> Result<Answer<Vec<SessionInfo>>, Refusal> {
    Ok(Answer(platform.sessions(own(shown.as_ref())).await?))
}

/// The session that asks, if one does.
fn own(shown: Option<&Extension<Credential>>) -> Option<&str> {
    match shown {
        Some(Extension(Credential::Session(id))) => Some(id),
        _ => None,
    }
}

/// Ends every session at once but the one that asks.
#[utoipa::path(delete, path = "/v1/sessions", tag = "access", responses((status = 204, description = "They are over")))]
async fn remove_sessions(
    State(platform): State<Platform>,
    shown: Option<Extension<Credential>>,
) -> Result<StatusCode, Refusal> {
    platform.remove_sessions(own(shown.as_ref())).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins a session in the name of the token or the code that is shown. The answer is the only time its secret is shown.
#[utoipa::path(post, path = "/v1/sessions", tag = "access",
    responses((status = 201, body = CreatedSession), (status = 409, description = "The code was used already")))]
async fn create_session(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Extension(Origin(from)): Extension<Origin>,
    shown: Option<Extension<Credential>>,
) -> Result<Response, Refusal> {
    let Some(Extension(shown)) = shown else {
        return Err(invalid(
            "a session is for a browser over TCP; make a code for one with POST /v1/sign-in-codes",
        )
        .into());
    };
    Ok((StatusCode::CREATED, Answer(platform.create_session(&by, &shown, &from).await?)).into_response())
}

/// The session that asks (`current`).
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "access", params(("id" = String, Path, description = "`current`")),
    responses((status = 200, body = SessionInfo), (status = 404, description = "It is over, or the caller shows no session")))]
async fn session(
    State(platform): State<Platform>,
    Path(id): Path<String>,
    shown: Option<Extension<Credential>>,
) -> Result<Answer<SessionInfo>, Refusal> {
    let found = match own(shown.as_ref()) {
        Some(own) if id == "current" => platform.session(own).await?,
        _ => platform.sessions(None).await?.into_iter().find(|session| session.id == id),
    };
    found.map(Answer).ok_or_else(|| not_found("there is no such session; it may be over").into())
}

/// Ends a session at once; `current` is the one that asks.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "access", params(("id" = String, Path)),
    responses((status = 204, description = "It is over"), (status = 404, description = "There is no such session")))]
async fn remove_session(
    State(platform): State<Platform>,
    Path(id): Path<String>,
    shown: Option<Extension<Credential>>,
) -> Result<StatusCode, Refusal> {
    let id = own(shown.as_ref()).filter(|_| id == "current").unwrap_or(&id);
    platform.remove_session(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
