//! Images of Berth's own registry: the list, archives in and out.

use super::answer::{Refusal, progress};
use super::caller::Caller;
use super::extract::{Path, Query};
use super::sources::author;
use crate::errors::{failed, internal, invalid, not_found};
use crate::git::from_image;
use crate::git::import::{self, Order};
use crate::platform::Platform;
use crate::registry::{Kept, LayersError, archive};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use berth_model::api::{ImageDetail, ImageInfo, Progress};
use berth_model::image::ImageRef;
use berth_model::{AppName, ReleaseVersion};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio_util::io::{ReaderStream, SyncIoBridge};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Between the thread that reads layers and the connection.
const PIPE: usize = 256 << 10;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(detail)).routes(routes!(load, export))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only the images of this app's repository and releases.
    app: Option<AppName>,
}

/// Every image of Berth's own registry: what apps run, what they stand on, and what clients pushed.
#[utoipa::path(get, path = "/v1/images", tag = "images", params(ListQuery),
    responses((status = 200, body = Vec<ImageInfo>)))]
async fn list(
    State(platform): State<Platform>,
    Query(ListQuery { app }): Query<ListQuery>,
) -> Result<Json<Vec<ImageInfo>>, Refusal> {
    if let Some(app) = &app {
        platform.existing_app(app).await?;
    }
    let mut users: BTreeMap<(String, String), Vec<(AppName, String)>> = BTreeMap::new();
    for one in platform.apps().await? {
        for release in platform.releases(&one.name).await? {
            let ImageRef { repository, digest } = release.image.reference;
            let user = (one.name.clone(), format!("{} {}", one.name, release.version));
            users.entry((repository, digest.to_string())).or_default().push(user);
        }
    }
    let registry = platform.registry().clone();
    let own = app.as_ref().map(|app| format!("apps/{app}"));
    let used: Vec<String> = match &app {
        None => Vec::new(),
        Some(app) => {
            let of_app = users.iter().filter(|(_, users)| users.iter().any(|(user, _)| user == app));
            of_app.map(|((repository, _), _)| repository.clone()).collect()
        }
    };
    let wanted = move |repository: &str| match &own {
        None => true,
        Some(own) => own == repository || used.iter().any(|used| used == repository),
    };
    let kept = tokio::task::spawn_blocking(move || registry.overview(wanted)).await;
    let kept = kept.map_err(|error| internal("listing images broke off", &error))?;
    let kept = kept.map_err(|error| internal("cannot list the images", &error))?;
    let described = kept.into_iter().map(|Kept { repository, digest, tags, bytes, pushed }| {
        let releases = users.remove(&(repository.clone(), digest.clone())).unwrap_or_default();
        ImageInfo {
            releases: releases.into_iter().map(|(_, release)| release).collect(),
            created_ms: pushed.map_or(0, milliseconds),
            repository,
            digest,
            tags,
            bytes,
        }
    });
    Ok(Json(described.collect()))
}

/// One image: where it is, when it was made, its layers and with how many others it shares each.
#[utoipa::path(get, path = "/v1/images/{digest}", tag = "images",
    params(("digest" = String, Path, description = "Of its manifest, or its beginning: 12 hexadecimal digits at least")),
    responses((status = 200, body = ImageDetail), (status = 404, description = "There is no such image")))]
async fn detail(
    State(platform): State<Platform>,
    Path(digest): Path<String>,
) -> Result<Json<ImageDetail>, Refusal> {
    let registry = platform.registry().clone();
    let found = tokio::task::spawn_blocking(move || registry.layers(&digest)).await;
    let found = found.map_err(|error| internal("looking at an image broke off", &error))?;
    let detail = found.map_err(|error| match &error {
        LayersError::Unknown(_) => not_found(error.to_string()),
        LayersError::Malformed(_) | LayersError::Ambiguous(_) => invalid(error.to_string()),
        LayersError::Registry(cause) => internal("cannot look at the image", cause),
    })?;
    Ok(Json(detail))
}

fn milliseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct LoadQuery {
    /// Which image of the archive; it may be left out if there is only one.
    image: Option<String>,
    /// Whose name the commit gets.
    name: Option<String>,
    /// Whose address the commit gets.
    email: Option<String>,
}

/// Deploys an image of an archive that `docker save`, `podman save` or `skopeo` wrote; gzip and zstd are found out.
#[utoipa::path(post, path = "/v1/apps/{app}/image/archive", tag = "images", params(("app" = AppName, Path), LoadQuery),
    request_body(content = String, content_type = "application/x-tar"),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn load(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(app): Path<AppName>,
    Query(LoadQuery { image, name, email }): Query<LoadQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    let author = author(name, email)?;
    let bytes = request.into_body().into_data_stream();
    let file = import::spool(&platform, bytes, archive::MAX_ARCHIVE).await?;
    let order = Order { app, by };
    Ok(progress(move |lines| async move {
        from_image::load(&platform, platform.pushes(), &order, file, image, author, &lines).await
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ExportQuery {
    /// Which release, such as `v3`; else the current one.
    release: Option<String>,
}

/// A release's image as an archive that `docker load`, `podman load` and `skopeo` take.
#[utoipa::path(get, path = "/v1/apps/{app}/image/archive", tag = "images", params(("app" = AppName, Path), ExportQuery),
    responses((status = 200, body = String, content_type = "application/x-tar")))]
async fn export(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    Query(ExportQuery { release }): Query<ExportQuery>,
) -> Result<Response, Refusal> {
    let found = platform.existing_app(&app).await?;
    let asked = release.map(|text| text.parse::<ReleaseVersion>()).transpose();
    let version = asked.map_err(|error| invalid(error.to_string()))?.or(found.current);
    let version = version.ok_or_else(|| failed(format!("App {app} has nothing deployed")))?;
    let release = platform.release(&app, version).await?;
    let release = release.ok_or_else(|| {
        not_found(format!("App {app} has no release {version}; see them with: berth releases {app}"))
    })?;
    let image = release.image.reference;
    if !crate::build::has_image(&platform, &image).await? {
        let text =
            format!("the image of release {version} of {app} is not kept any more; see: berth images {app}");
        return Err(not_found(text).into());
    }
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let registry = platform.registry().clone();
    let (failures, broken) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut to = BufWriter::with_capacity(128 << 10, SyncIoBridge::new(ours));
        let name = format!("localhost/{app}:{version}");
        let written = archive::export(&registry, &image, &name, &mut to);
        let flushed = to.flush();
        let result = match written {
            Err(archive::ArchiveError::Write(_)) => Err(None),
            Err(error) => Err(Some(error.to_string())),
            Ok(()) => flushed.map_err(|_| None),
        };
        if let Err(Some(text)) = &result {
            tracing::warn!(%app, error = %text, "cannot export an image");
        }
        // The receiver may be gone with the connection.
        let _ = failures.send(result);
    });
    let bytes = ReaderStream::with_capacity(theirs, PIPE);
    // An archive that breaks off must not look whole: the connection breaks too.
    let end = futures_util::stream::once(async move {
        match broken.await {
            Ok(Ok(())) => Ok(bytes::Bytes::new()),
            Ok(Err(text)) => Err(io::Error::other(text.unwrap_or_else(|| "the reader went away".to_owned()))),
            Err(_) => Err(io::Error::other("the export broke off")),
        }
    });
    let body = Body::from_stream(futures_util::StreamExt::chain(bytes, end));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}
