//! The platform itself: health, version, nodes, stacks.

use super::answer::Refusal;
use super::extract::Query;
use crate::errors::{from_agent, invalid};
use crate::platform::Platform;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body};
use berth_model::ImageName;
use berth_model::api::{Cleaned, ControllerInfo, VersionInfo};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(version))
        .routes(routes!(controllers))
        .routes(routes!(import_stack))
        .routes(routes!(import_image))
        .routes(routes!(cleanup))
}

/// Which parts are missing.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok` or `unavailable`.
    status: String,
    /// What does not work, each in a sentence.
    missing: Vec<String>,
}

/// Whether Berth can take pushes and serve: the store can be written, stacks are not just being imported, an agent reported
/// and a proxy serves its routes.
#[utoipa::path(get, path = "/healthz", tag = "system", security(()), responses(
    (status = 200, description = "Everything works", body = String, content_type = "text/plain"),
    (status = 503, description = "Something is missing", body = Health)))]
async fn healthz(State(platform): State<Platform>) -> Response {
    let mut missing = Vec::new();
    if let Some(problem) = platform.write_problem().await {
        missing.push(format!("store: {problem}"));
    }
    if platform.options().data.join(crate::options::IMPORTING).exists() {
        missing.push("stacks: they are being taken over".to_owned());
    }
    let fleet = platform.deploys().fleet();
    if fleet.alive().is_empty() {
        missing.push("agent: none has reported within 15 s; is `berth agent` running?".to_owned());
    }
    let served = fleet.routes().and_then(|table| fleet.is_served(table.revision));
    match served {
        Some(true) => {}
        Some(false) => missing.push("proxy: it does not serve the newest routes yet".to_owned()),
        None => missing.push("proxy: none has reported within 15 s; is `berth proxy` running?".to_owned()),
    }
    if missing.is_empty() {
        return "ok".into_response();
    }
    let health = Health { status: "unavailable".to_owned(), missing };
    (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
}

/// Berth's version.
#[utoipa::path(get, path = "/v1/version", tag = "system", responses((status = 200, body = VersionInfo)))]
async fn version(State(platform): State<Platform>) -> Json<VersionInfo> {
    Json(VersionInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
        ssh_port: platform.options().ssh.port(),
    })
}

/// Every controller that is there, and which of them leads. One that is alone is not listed.
#[utoipa::path(get, path = "/v1/controllers", tag = "system",
    responses((status = 200, body = Vec<ControllerInfo>)))]
async fn controllers(State(platform): State<Platform>) -> Result<Json<Vec<ControllerInfo>>, Refusal> {
    match platform.etcd() {
        None => Ok(Json(Vec::new())),
        Some(etcd) => Ok(Json(crate::controllers::infos(etcd).await?)),
    }
}

/// Removes now what would be removed within the hour: images that are neither deployed nor kept for a rollback, and were
/// not touched for an hour. Packs repositories.
#[utoipa::path(post, path = "/v1/cleanup", tag = "system", responses((status = 200, body = Cleaned)))]
async fn cleanup(State(platform): State<Platform>) -> Result<Json<Cleaned>, Refusal> {
    let collected = crate::housekeeping::clean(&platform).await?;
    Ok(Json(Cleaned { images: collected.manifests, blobs: collected.blobs, bytes: collected.bytes }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct StackQuery {
    /// `debian-12-run` or `debian-12-build`, or another name of this form.
    name: String,
}

/// Imports a root file system (a tar archive) as the image `stacks/<name>`.
#[utoipa::path(post, path = "/v1/stacks", tag = "system", params(StackQuery),
    request_body(content = String, content_type = "application/x-tar"),
    responses((status = 200, description = "`repository` and `digest` of the image", body = Object)))]
async fn import_stack(
    State(platform): State<Platform>,
    Query(StackQuery { name }): Query<StackQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.is_empty()
        || name.len() > 63
        || !name.bytes().all(label)
        || name.starts_with(['-', '.'])
        || name.contains("..")
    {
        let shown: String = name.chars().take(80).collect();
        return Err(invalid(format!("stack name {shown:?} is not valid: use a-z, 0-9, '-' and '.'")).into());
    }
    root_file_system(&platform, &format!("stacks/{name}"), "latest", request).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ImageQuery {
    /// As Dockerfiles name it: `debian:bookworm`, `ghcr.io/owner/image:1`.
    name: String,
}

/// Imports a root file system (a tar archive) as a base image for Dockerfiles: a build looks here before it asks the
/// image's own registry.
#[utoipa::path(post, path = "/v1/images", tag = "system", params(ImageQuery),
    request_body(content = String, content_type = "application/x-tar"),
    responses((status = 200, description = "`repository` and `digest` of the image", body = Object)))]
async fn import_image(
    State(platform): State<Platform>,
    Query(ImageQuery { name }): Query<ImageQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    let name = ImageName::parse(&name).map_err(invalid)?;
    if name.digest.is_some() {
        return Err(
            invalid("a root file system cannot be imported under a digest; give a tag".to_owned()).into()
        );
    }
    root_file_system(&platform, &name.place("images"), &name.tag, request).await
}

/// Sends the body to an agent, which makes it the image `repository:tag`.
async fn root_file_system(
    platform: &Platform,
    repository: &str,
    tag: &str,
    request: Request,
) -> Result<Response, Refusal> {
    let bytes = request.into_body().into_data_stream().map_err(std::io::Error::other);
    let (mut writer, reader) = tokio::io::duplex(256 * 1024);
    // The caller's body is not `Sync`, which the client asks for: it goes through a pipe. If it breaks off, the agent must
    // not take the part for the whole: the call is dropped before the pipe's end.
    let pump = async move {
        let mut bytes = std::pin::pin!(tokio_util::io::StreamReader::new(bytes));
        match tokio::io::copy(&mut bytes, &mut writer).await {
            // The agent stopped reading; its answer says why.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => return invalid(format!("the archive broke off: {error}")),
            Ok(_) => drop(writer),
        }
        std::future::pending().await
    };
    let path = format!("/v1/stacks?repository={repository}&tag={tag}");
    let client = platform.agent_importing(repository);
    let call = client.upload(Method::POST, &path, "application/x-tar", reader);
    let answer = tokio::select! {
        answer = call => answer.map_err(from_agent)?,
        broken = pump => return Err(broken.into()),
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::new(answer.into_body())).into_response())
}
